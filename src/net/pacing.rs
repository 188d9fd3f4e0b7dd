//! No pacing on loopback.
//!
//! BBR paces: it spreads packets over time, with a high-resolution timer for each, so as not to fill the queues of a
//! network. On loopback there is no network and no queue, but the timers remain; measured here they were a third of the
//! proxy's CPU per GiB. So where the system's default congestion control (tcp(7), tcp_congestion_control) is one that paces,
//! sockets whose peer is on this host use Reno, which every Linux kernel has and which every process may choose. All
//! other connections keep the system's choice: between hosts it is the operator's decision.

use rustix::net::sockopt;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::OnceLock;

/// Turns pacing off for a socket that only this host is at the other end of. Does nothing elsewhere, or where the default
/// does not pace. A failure costs speed and nothing else.
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
