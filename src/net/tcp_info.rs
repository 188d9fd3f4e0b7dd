//! Socket options that neither rustix nor socket2 offers: TCP_INFO, TCP_RTO_MAX_MS (tcp(7)).
//!
//! `nix` makes the calls ([`nix::sockopt_impl`]); this file has the types, made of plain integers only.

use super::Socket;
use crate::policy::liveness::Acknowledgements;
use crate::telemetry::PathInfo;
use nix::sys::socket::{getsockopt, setsockopt};
use nix::{getsockopt_impl, libc, setsockopt_impl, sockopt_impl};
use std::mem::offset_of;
use std::time::Duration;

/// TCP_RTO_MAX_MS (linux/tcp.h), since Linux 6.15; libc lacks it.
const RTO_MAX_MS: libc::c_int = 44;

/// The index of tcpi_notsent_bytes in [`TcpInfo::words`].
const NOT_SENT: usize = (offset_of!(libc::tcp_info, tcpi_notsent_bytes) - 8) / size_of::<u32>();

/// The indices of tcpi_rtt and tcpi_total_retrans in [`TcpInfo::words`].
const RTT: usize = (offset_of!(libc::tcp_info, tcpi_rtt) - 8) / size_of::<u32>();
const TOTAL_RETRANS: usize = (offset_of!(libc::tcp_info, tcpi_total_retrans) - 8) / size_of::<u32>();

/// The beginning of `struct tcp_info` (linux/tcp.h), up to `tcpi_notsent_bytes`, which exists since Linux 4.6. The
/// kernel fills as much as the caller requests.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TcpInfo {
    /// state, ca_state, retransmits, probes, backoff, options, and two bytes of bit fields.
    bytes: [u8; 8],
    /// rto, ato, snd_mss, rcv_mss (microseconds, bytes); unacked, sacked, lost, retrans, fackets (packets);
    /// last_data_sent, last_ack_sent, last_data_recv, last_ack_recv (milliseconds). Then words of which [`RTT`]
    /// (microseconds), [`TOTAL_RETRANS`] (packets) and [`NOT_SENT`] (bytes) are used.
    words: [u32; NOT_SENT + 1],
}

sockopt_impl!(
    /// The kernel's state of a connection (TCP_INFO).
    GetTcpInfo,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    TcpInfo
);

sockopt_impl!(
    /// The longest time between two retransmissions, or between two probes of a closed window, in milliseconds.
    RtoMax,
    Both,
    libc::IPPROTO_TCP,
    RTO_MAX_MS,
    libc::c_int
);

impl Socket {
    /// The state of the peer's acknowledgements; `None` on a unix socket, whose peer can't vanish.
    pub fn acknowledgements(&self) -> Option<Acknowledgements> {
        let TcpInfo { bytes, words } = getsockopt(self, GetTcpInfo).ok()?;
        let [_, _, _, probes, backoff, ..] = bytes;
        let [rto, _, _, _, unacked, _, _, _, _, _, _, _, last_ack_recv, ..] = words;
        let in_flight = unacked > 0;
        Some(Acknowledgements {
            in_flight,
            probes,
            // With nothing in flight, only probes of a closed window back off.
            window_closed: backoff > 0 && !in_flight,
            last: Duration::from_millis(last_ack_recv.into()),
            rto: Duration::from_micros(rto.into()),
        })
    }

    /// About how many bytes the peer's kernel has not acknowledged: exact for bytes not sent yet, whole segments for
    /// sent ones; a FIN counts as one. 0 only if there are none, and always on a unix socket.
    pub fn unsent(&self) -> u64 {
        let Ok(TcpInfo { words, .. }) = getsockopt(self, GetTcpInfo) else { return 0 };
        let [_, _, mss, _, unacked, ..] = words;
        u64::from(words[NOT_SENT]) + u64::from(unacked) * u64::from(mss).max(1)
    }

    /// What the kernel knows of the path to the peer; `None` on a unix socket.
    pub fn path_info(&self) -> Option<PathInfo> {
        let TcpInfo { words, .. } = getsockopt(self, GetTcpInfo).ok()?;
        let rtt = Some(Duration::from_micros(words[RTT].into())).filter(|rtt| !rtt.is_zero());
        Some(PathInfo { rtt, retransmits: words[TOTAL_RETRANS] })
    }

    /// Limits the time between probes of a closed window. Returns the former limit, to be restored later; `None` where
    /// the kernel can't set it or has a lower one.
    pub fn limit_probe_interval(&self, most: Duration) -> Option<Duration> {
        let before = Duration::from_millis(getsockopt(self, RtoMax).ok()?.try_into().ok()?);
        (most < before && self.set_probe_interval(most)).then_some(before)
    }

    /// Sets the longest time between two probes; false where the kernel can't.
    pub fn set_probe_interval(&self, most: Duration) -> bool {
        let millis = i32::try_from(most.as_millis()).unwrap_or(i32::MAX);
        setsockopt(self, RtoMax, &millis).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Endpoint;
    use std::io::Read;
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    #[test]
    fn acknowledgements_are_known_for_tcp_sockets_only() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (socket, _) = Socket::dial(&Endpoint::Inet(listener.local_addr().unwrap())).unwrap();
        let seen = socket.acknowledgements().unwrap();
        assert!(!seen.in_flight && !seen.window_closed && seen.probes == 0, "{seen:?}");
        let path = socket.path_info().unwrap();
        assert!(path.retransmits == 0 && path.rtt.is_some_and(|rtt| rtt < Duration::from_secs(60)), "{path:?}");
        assert!(seen.rto >= Duration::from_millis(100) && seen.last < Duration::from_secs(60), "{seen:?}");

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _listener = UnixListener::bind(&path).unwrap();
        let (socket, _) = Socket::dial(&Endpoint::Unix(path.into())).unwrap();
        assert_eq!((socket.acknowledgements(), socket.path_info()), (None, None));
        assert_eq!(socket.limit_probe_interval(Duration::from_secs(1)), None);
    }

    #[test]
    fn a_probe_interval_is_limited_once_and_restored() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (socket, _) = Socket::dial(&Endpoint::Inet(listener.local_addr().unwrap())).unwrap();
        // Before Linux 6.15 there is nothing to test.
        let Some(before) = socket.limit_probe_interval(Duration::from_secs(3)) else { return };
        assert!(before > Duration::from_secs(3));
        assert_eq!(socket.limit_probe_interval(Duration::from_secs(3)), None);
        assert!(socket.set_probe_interval(before));
        assert_eq!(socket.limit_probe_interval(Duration::from_secs(4)), Some(before));
    }

    #[test]
    fn bytes_beyond_the_peer_s_window_are_unsent_until_it_reads() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (socket, _) = Socket::dial(&Endpoint::Inet(listener.local_addr().unwrap())).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        assert_eq!(socket.unsent(), 0);
        let mut sent = 0;
        while let Ok(more) = socket.send(&[7; 65536], false) {
            sent += more;
        }
        let before = socket.unsent();
        assert!(before > 0 && before <= 2 * sent as u64, "{before} of {sent}");
        socket.finish();
        let mut all = Vec::new();
        peer.read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), sent);
        // The FIN's acknowledgement may take a moment.
        while socket.unsent() > 0 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_unix_socket_has_nothing_unsent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _listener = UnixListener::bind(&path).unwrap();
        let (socket, _) = Socket::dial(&Endpoint::Unix(path.into())).unwrap();
        socket.send(b"waits for accept", false).unwrap();
        assert_eq!(socket.unsent(), 0);
    }
}
