//! Turns pacing off on loopback.
//!
//! BBR paces: it spreads packets over time, each with a high-resolution timer, to keep the queues of a network short.
//! Loopback has no such queues, but the timers took a third of the proxy's CPU per GiB, measured here. So where the
//! default congestion control (tcp(7), tcp_congestion_control) paces, sockets with a peer on this host use Reno. Every
//! Linux kernel has it, and every process may choose it. Other connections keep the operator's choice.

use rustix::net::sockopt;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::OnceLock;

/// Turns pacing off for a socket whose peer is on this host. Does nothing otherwise, or where the default does not
/// pace. A failure only costs speed.
pub(super) fn none_on_loopback(socket: impl AsFd, ip: IpAddr) {
    if ip.to_canonical().is_loopback() && default_paces() {
        let _ = sockopt::set_tcp_congestion(socket, "reno");
    }
}

fn default_paces() -> bool {
    static PACES: OnceLock<bool> = OnceLock::new();
    *PACES.get_or_init(|| {
        let default = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
        default.is_ok_and(|name| name.trim().starts_with("bbr"))
    })
}
