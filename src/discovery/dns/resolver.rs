//! Names into addresses and services: hosts file, search domains, both families of addresses.

use super::message::{Answer, Service, Wanted};
use super::servers::Servers;
use super::system;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// How long a name server of a source may take, and how often it is asked.
const OWN: (Duration, u32) = (Duration::from_secs(2), 2);
/// How long an answer of the hosts file holds.
const HOSTS: Duration = Duration::from_secs(30);

/// Looks names up, for one look of its caller.
pub struct Resolver {
    servers: Servers,
    /// `None`: the name servers are given, and names are complete.
    system: Option<system::Settings>,
}

/// The addresses of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// In the order in which they should be tried; empty: the name has none.
    pub list: Vec<IpAddr>,
    /// How long the answer holds, if the servers say so.
    pub ttl: Option<Duration>,
    /// Why one family of addresses is not known, while the other one is.
    pub incomplete: Option<String>,
}

impl Resolver {
    /// Asks as the system does. It is done at `until`.
    pub fn of_system(until: Instant) -> Resolver {
        Resolver::by(system::settings(), until)
    }

    /// For another look, done at `until`. Unless the system's settings have changed, the server that answered last is asked first.
    #[must_use]
    pub fn renewed(mut self, until: Instant) -> Resolver {
        if self.system.is_some() {
            let settings = system::settings();
            if self.system.as_ref() != Some(&settings) {
                return Resolver::by(settings, until);
            }
        }
        self.servers.until = until;
        self
    }

    fn by(settings: system::Settings, until: Instant) -> Resolver {
        let servers =
            Servers { at: settings.servers.clone(), timeout: settings.timeout, attempts: settings.attempts, until };
        Resolver { servers, system: Some(settings) }
    }

    /// Asks these name servers. It is done at `until`.
    pub fn of_servers(at: Vec<SocketAddr>, until: Instant) -> Resolver {
        let (timeout, attempts) = OWN;
        Resolver { servers: Servers { at, timeout, attempts, until }, system: None }
    }

    /// The addresses of a name. A name that does not exist has none. An error: it is not known which ones it has.
    pub fn addresses(&mut self, name: &str) -> Result<Addresses, String> {
        let found = self.all_addresses(name)?;
        Ok(Addresses { list: of_servers(found.list, |ip| *ip)?, ..found })
    }

    fn all_addresses(&mut self, name: &str) -> Result<Addresses, String> {
        if self.system.is_some() {
            let list = system::hosts(name);
            if !list.is_empty() {
                return Ok(Addresses { list: in_order(list), ttl: Some(HOSTS), incomplete: None });
            }
        }
        self.search(name, Servers::addresses, |addresses| !addresses.list.is_empty(), |addresses| addresses.ttl)
    }

    /// The services of a name. A name that does not exist has none.
    pub fn services(&mut self, name: &str) -> Result<(Vec<Service>, Option<Duration>), String> {
        let ask = |servers: &mut Servers, name: &str| servers.ask(name, Wanted::Srv);
        let answer = self.search(name, ask, |answer: &Answer| !answer.services.is_empty(), |answer| answer.ttl)?;
        Ok((answer.services, answer.ttl))
    }

    /// The first answer with records, under the search domains; else one without, whose time is the shortest of all. An error ends
    /// the search: the next name might be another host's.
    fn search<T>(
        &mut self,
        name: &str,
        ask: impl Fn(&mut Servers, &str) -> Result<T, String>,
        has_records: impl Fn(&T) -> bool,
        ttl: impl Fn(&T) -> Option<Duration>,
    ) -> Result<T, String> {
        let candidates = match &self.system {
            Some(settings) => settings.candidates(name),
            None => vec![name.to_owned()],
        };
        let mut shortest: Option<T> = None;
        for candidate in candidates {
            let answer = ask(&mut self.servers, &candidate)?;
            if has_records(&answer) {
                return Ok(answer);
            }
            // Without a time, an answer holds the shortest time.
            if shortest.as_ref().is_none_or(|other| ttl(&answer) < ttl(other)) {
                shortest = Some(answer);
            }
        }
        shortest.ok_or_else(|| format!("{name} is not a name"))
    }
}

impl Servers {
    /// The addresses of one complete name, of both families.
    fn addresses(&mut self, name: &str) -> Result<Addresses, String> {
        let ipv4 = self.ask(name, Wanted::A);
        let ipv6 = self.ask(name, Wanted::Aaaa);
        let (mut found, incomplete) = match (ipv4, ipv6) {
            (Ok(mut ipv4), Ok(ipv6)) => {
                ipv4.ttl = match (ipv4.addresses.is_empty(), ipv6.addresses.is_empty()) {
                    (true, false) => ipv6.ttl,
                    (false, true) => ipv4.ttl,
                    _ => ipv4.ttl.into_iter().chain(ipv6.ttl).min(),
                };
                ipv4.addresses.extend(ipv6.addresses);
                (ipv4, None)
            }
            (Ok(found), Err(why)) | (Err(why), Ok(found)) if !found.addresses.is_empty() => (found, Some(why)),
            (Err(why), _) | (_, Err(why)) => return Err(why),
        };
        let mut list: Vec<IpAddr> = Vec::new();
        found.addresses.retain(|ip| {
            let is_new = !list.contains(ip);
            list.push(*ip);
            is_new
        });
        Ok(Addresses { list: in_order(found.addresses), ttl: found.ttl, incomplete })
    }
}

/// Those of a name's addresses that a server can have. Name servers that block a name answer 0.0.0.0, for example, so a name that has
/// no others is an error.
pub fn of_servers<A>(mut list: Vec<A>, ip: impl Fn(&A) -> IpAddr) -> Result<Vec<A>, String> {
    let first = list.first().map(&ip);
    list.retain(|at| {
        let ip = ip(at).to_canonical();
        !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::V4(Ipv4Addr::BROADCAST)
    });
    match first.filter(|_| list.is_empty()) {
        Some(ip) => Err(format!("the name has the address {ip}, which no server can have")),
        None => Ok(list),
    }
}

/// Addresses that can be reached first, then those of higher precedence (RFC 6724, sections 2.1 and 6, rules 1 and 6); else as they
/// were.
pub fn in_order(mut list: Vec<IpAddr>) -> Vec<IpAddr> {
    if list.len() > 1 {
        list.sort_by_cached_key(|ip| (!is_reachable(*ip), std::cmp::Reverse(precedence(*ip))));
    }
    list
}

/// Whether the system has a route. Connecting a UDP socket sends nothing.
fn is_reachable(ip: IpAddr) -> bool {
    let local = if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    UdpSocket::bind(local).and_then(|socket| socket.connect((ip, 9))).is_ok()
}

/// The table of RFC 6724, section 2.1.
fn precedence(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 35,
        IpAddr::V6(ip) if ip.is_loopback() => 50,
        IpAddr::V6(ip) => match ip.segments() {
            [0, 0, 0, 0, 0, 0xffff, ..] => 35,
            [0, 0, 0, 0, 0, 0, ..] => 1,
            [0x2002, ..] => 30,
            [0x2001, 0, ..] => 5,
            [0xfc00..=0xfdff, ..] => 3,
            [0xfec0..=0xfeff, ..] | [0x3ffe, ..] => 1,
            _ => 40,
        },
    }
}

/// Whether DNS may be asked for this name: not for addresses in any form, and not for `localhost` (RFC 6761, section 6.3).
pub fn is_for_dns(name: &str) -> bool {
    let name = super::message::normal(name);
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_number = last.starts_with(|letter: char| letter.is_ascii_digit())
        && last.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'x');
    let is_address = name.contains(':') || is_number;
    !is_address && last != "localhost"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_is_not_asked_for_addresses_and_localhost() {
        for name in ["web", "web.lan", "web7", "7.web", "9front.org", "localhost.lan"] {
            assert!(is_for_dns(name), "{name}");
        }
        for name in ["fe80::1%eth0", "127.1", "0x7f000001", "10.0.0.0x1", "localhost", "web.localhost.", "LOCALHOST"] {
            assert!(!is_for_dns(name), "{name}");
        }
    }

    #[test]
    fn addresses_that_no_server_can_have_are_left_out() {
        let of = |list: &[&str]| of_servers(list.iter().map(|ip| ip.parse().unwrap()).collect(), |ip: &IpAddr| *ip);
        let none = ["0.0.0.0", "::", "::ffff:0.0.0.0", "224.0.0.1", "239.255.255.250", "255.255.255.255", "ff02::1"];
        for ip in none {
            assert_eq!(of(&[ip]), Err(format!("the name has the address {ip}, which no server can have")));
            assert_eq!(of(&["10.0.0.1", ip, "fd00::1"]), of(&["10.0.0.1", "fd00::1"]));
        }
        assert_eq!(of(&none).map_err(|why| why.contains("0.0.0.0")), Err(true));
        assert_eq!(of(&[]), Ok(Vec::new()), "no address is no error here");
    }

    #[test]
    fn addresses_without_a_route_come_last_and_equal_ones_keep_their_order() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let list = ["127.0.0.2", "127.0.0.1", "127.0.0.3"].map(ip).to_vec();
        assert_eq!(in_order(list.clone()), list);
        assert!(precedence(ip("::1")) > precedence(ip("2001:db8::1")));
        assert!(precedence(ip("2001:db8::1")) > precedence(ip("10.0.0.1")));
        assert!(precedence(ip("10.0.0.1")) > precedence(ip("fd00::1")));
    }
}
