//! Non-blocking stream sockets, TCP or unix, behind one type.
//!
//! All Linux-only code is in this module: `accept4`, `SOCK_NONBLOCK`, `TCP_INFO`, load-balancing `SO_REUSEPORT`,
//! splice(2).

pub mod conntrack;
mod inherited;
pub mod listen;
pub mod local_ports;
pub mod nftables;
mod pacing;
mod pipe;
pub mod probe_socket;
mod socket;
mod socket_file;
pub mod source;
mod spares;
mod tcp_info;
mod tuning;

pub use pipe::{PIPE_SIZE, Pipe};
pub use socket::{Connecting, DialOptions, Dialing, Idle, Keepalive, Socket};
pub use spares::Spares;
pub use tuning::{Granted, TcpTuning, granted};
