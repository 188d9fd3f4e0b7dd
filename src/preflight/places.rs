//! Checks whether an address can be bound. A port is bound for a moment without a listen; the file of a unix socket is
//! not touched.

use super::names::Names;
use crate::base::address::abstract_name;
use crate::base::{Address, Listen};
use crate::confine;
use crate::net::listen;
use rustix::io::Errno;
use std::fs;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Returns why a start could not listen on the address.
pub fn try_bind(listen: &Listen, names: &Names) -> Result<(), String> {
    let explain = |error: &io::Error| explain(listen, error);
    match &listen.0 {
        Address::Inet(at) => listen::try_bind(*at).map_err(|error| explain(&error)),
        Address::Any(port) => listen::bind_any(*port, listen::try_bind).map_err(|error| explain(&error)),
        Address::Name(host, port) => names.addresses(host)?.iter().try_for_each(|at| {
            let mut at = *at;
            at.set_port(*port);
            listen::try_bind(at).map_err(|error| explain(&error))
        }),
        Address::Mapped(..) => Err(explain(&io::ErrorKind::InvalidInput.into())),
        Address::Unix(path) => unix(path).map_err(|error| explain(&error)),
    }
}

fn explain(listen: &Listen, error: &io::Error) -> String {
    let hint = confine::hint_to_binding(listen, error);
    if error.kind() == io::ErrorKind::AddrInUse && hint.is_empty() {
        return format!("{error} (by the tcplb that runs with this file, if there is one)");
    }
    format!("{error}{hint}")
}

/// Why the rules of the kernel engine may not forward from the address: another socket listens there.
pub fn taken(listen: &Listen, names: &Names) -> Option<String> {
    let at = match &listen.0 {
        Address::Inet(at) => vec![*at],
        Address::Any(port) => vec![(Ipv6Addr::UNSPECIFIED, *port).into()],
        Address::Name(host, port) => {
            names.addresses(host).ok()?.iter().map(|at| SocketAddr::new(at.ip(), *port)).collect()
        }
        Address::Mapped(..) | Address::Unix(_) => Vec::new(),
    };
    at.into_iter().find_map(|at| listen::refuse_taken(at).err()).map(|error| explain(listen, &error))
}

/// The start replaces a socket file on which no process listens. Connecting to find out would disturb a process that
/// does.
fn unix(path: &Path) -> io::Result<()> {
    if abstract_name(path).is_some() {
        // /proc/net/unix shows abstract names with a leading `@`, as the configuration does.
        return if is_listened_on(path) { Err(Errno::ADDRINUSE.into()) } else { Ok(()) };
    }
    if !confine::directory(path).is_dir() {
        return Err(Errno::NOENT.into());
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() || is_listened_on(path) => Err(Errno::ADDRINUSE.into()),
        _ => Ok(()),
    }
}

/// Reads the kernel's list of unix sockets. Its fourth column has the flag __SO_ACCEPTCON for listening ones (proc(5)).
fn is_listened_on(path: &Path) -> bool {
    let all = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    all.lines().any(|line| {
        let mut fields = line.split_whitespace();
        fields.nth(3) == Some("00010000") && path.to_str().is_some_and(|path| line.ends_with(&format!(" {path}")))
    })
}
