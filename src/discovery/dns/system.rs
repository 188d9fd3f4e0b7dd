//! The system's resolver, and its settings: `/etc/resolv.conf` (resolv.conf(5)) and `/etc/hosts` (hosts(5)). Both are read for each look-up, so a change counts
//! from the next one on.

use super::message::normal;
use crate::small_file;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

/// The largest of these files.
const BYTES_MAX: u64 = 16 << 20;
/// The port of name servers.
pub const PORT: u16 = 53;

/// How `/etc/resolv.conf` says that names are looked up.
#[derive(Debug, PartialEq, Eq)]
pub struct Settings {
    /// The name servers.
    pub servers: Vec<SocketAddr>,
    /// Domains that may be appended to a name.
    pub search: Vec<String>,
    /// A name with as many dots is first asked for as it is.
    pub ndots: usize,
    /// How long a server may take.
    pub timeout: Duration,
    /// How often each server is asked.
    pub attempts: u32,
}

/// Reads the settings. A file that is missing means a name server on this machine.
pub fn settings() -> Settings {
    let text = small_file::read(Path::new("/etc/resolv.conf"), BYTES_MAX).unwrap_or_default();
    parse(&text, &fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default())
}

/// The settings that a `resolv.conf` has. Lines that are not understood are skipped, as the C library does.
pub fn parse(text: &[u8], hostname: &str) -> Settings {
    let (mut config, _) = resolv_conf::Config::parse_with_errors(text);
    config.glibc_normalize();
    let servers = config.get_nameservers_or_local().into_iter().filter_map(|server| match server {
        resolv_conf::ScopedIp::V4(ip) => Some((ip, PORT).into()),
        resolv_conf::ScopedIp::V6(ip, None) => Some((ip, PORT).into()),
        // The name of an interface becomes its number. No name server is asked.
        resolv_conf::ScopedIp::V6(ip, Some(scope)) => {
            (format!("{ip}%{scope}").as_str(), PORT).to_socket_addrs().ok()?.next()
        }
    });
    let domain = hostname.trim().split_once('.').map(|(_, domain)| domain.to_owned());
    let mut search: Vec<String> = config.get_last_search_or_domain().cloned().collect();
    if search.is_empty() {
        search.extend(domain);
    }
    Settings {
        servers: servers.collect(),
        search: search.iter().map(|domain| normal(domain)).collect(),
        ndots: config.ndots.min(15) as usize,
        timeout: Duration::from_secs(config.timeout.clamp(1, 30).into()),
        attempts: config.attempts.clamp(1, 5),
    }
}

impl Settings {
    /// The names to ask for, in turn, until one has records.
    pub fn candidates(&self, name: &str) -> Vec<String> {
        let as_it_is = normal(name);
        if name.ends_with('.') {
            return vec![as_it_is];
        }
        let appended = self.search.iter().map(|domain| match domain.as_str() {
            "" => as_it_is.clone(),
            domain => format!("{as_it_is}.{domain}"),
        });
        let mut candidates: Vec<String> = appended.collect();
        let first = name.matches('.').count() >= self.ndots;
        if !candidates.contains(&as_it_is) {
            candidates.insert(if first { 0 } else { candidates.len() }, as_it_is);
        }
        candidates
    }
}

/// The addresses of a name by the system's resolver, with port 0. It can't be interrupted, and takes up to half a minute when no
/// server answers.
pub fn resolve(name: &str) -> io::Result<Vec<SocketAddr>> {
    let mut addresses: Vec<SocketAddr> = (name, 0).to_socket_addrs()?.collect();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses)
}

/// The addresses that `/etc/hosts` has for a name.
pub fn hosts(name: &str) -> Vec<IpAddr> {
    let text = small_file::read(Path::new("/etc/hosts"), BYTES_MAX).unwrap_or_default();
    listed(&String::from_utf8_lossy(&text), name)
}

/// The addresses of a name in the text of a hosts file.
pub fn listed(text: &str, name: &str) -> Vec<IpAddr> {
    let name = normal(name);
    let mut addresses = Vec::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let Some(Ok(ip)) = words.next().map(str::parse::<IpAddr>) else { continue };
        if words.any(|word| word.strip_suffix('.').unwrap_or(word).eq_ignore_ascii_case(&name))
            && !addresses.contains(&ip)
        {
            addresses.push(ip);
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Settings {
        parse(text.as_bytes(), "here.example.org\n")
    }

    #[test]
    fn resolv_conf_gives_servers_search_and_bounds() {
        let settings = of(
            "# local\nnameserver 10.0.0.1\nnameserver ::1\nnameserver junk\nnameserver 10.0.0.3\nnameserver 10.0.0.4\n\
                           search a.example b.example.\noptions ndots:2 timeout:90 attempts:9 edns0 odd:x\nodd line\n",
        );
        let servers: Vec<String> = settings.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.1:53", "[::1]:53", "10.0.0.3:53"]);
        assert_eq!(settings.search, ["a.example", "b.example"]);
        assert_eq!((settings.ndots, settings.timeout, settings.attempts), (2, Duration::from_secs(30), 5));
        let settings = of("\u{0}\n");
        assert_eq!(settings.servers.len(), 2, "a server on this machine");
        assert_eq!((settings.search, settings.ndots), (vec!["example.org".to_owned()], 1));
    }

    #[test]
    fn a_name_is_asked_for_with_and_without_the_search_domains() {
        let settings = of("search a.example b.example");
        assert_eq!(settings.candidates("db"), ["db.a.example", "db.b.example", "db"]);
        assert_eq!(settings.candidates("DB.lan"), ["db.lan", "db.lan.a.example", "db.lan.b.example"]);
        assert_eq!(settings.candidates("db."), ["db"]);
        assert_eq!(of("search .").candidates("db.lan"), ["db.lan"]);
    }

    #[test]
    fn a_hosts_file_may_have_several_addresses_for_a_name() {
        let text =
            "127.0.0.1 localhost\n10.0.0.1 web Web.lan # db\n::1 localhost\njunk web\n10.0.0.1 web\n10.0.0.2\tWEB\n";
        let shown = |name| listed(text, name).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown("web"), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(shown("web.LAN."), ["10.0.0.1"]);
        assert_eq!(shown("localhost"), ["127.0.0.1", "::1"]);
        assert_eq!(shown("db"), [""; 0]);
    }
}
