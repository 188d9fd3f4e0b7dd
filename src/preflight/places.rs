//! Checks whether an address can be bound. A port is bound for a moment without a listen; the file of a unix socket is
//! not touched.

use super::names::Names;
use crate::base::address::abstract_name;
use crate::base::{Address, Listen};
use crate::confine;
use crate::net::listen;
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Returns why a start could not listen on the address.
pub fn try_bind(listen: &Listen, names: &Names) -> Result<(), String> {
    let explain = |error: &io::Error| explain(listen, error);
    match &listen.0 {
        Address::Inet(at) => bind(*at).map_err(|error| explain(&error)),
        Address::Any(port) => listen::bind_any(*port, bind).map_err(|error| explain(&error)),
        Address::Name(host, port) => names.addresses(host)?.iter().try_for_each(|at| {
            let mut at = *at;
            at.set_port(*port);
            bind(at).map_err(|error| explain(&error))
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

/// With SO_REUSEADDR, bind fails if another socket listens there, but not because of old connections (socket(7)).
fn bind(at: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM.cloexec(), None)?;
    socket.set_reuse_address(true)?;
    if at.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&at.into())
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
