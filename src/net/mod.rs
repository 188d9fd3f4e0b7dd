//! Sockets as tcplb uses them: non-blocking stream sockets, TCP or unix, behind one type.
//!
//! Everything that is Linux-only stands in this module: `accept4`, `SOCK_NONBLOCK`, `TCP_INFO`, `SO_REUSEPORT` that
//! spreads, splice(2).

mod inherited;
pub mod listen;
mod pacing;
mod pipe;
mod socket;
mod spares;
mod tcp_info;
mod tuning;

pub use pipe::{PIPE_SIZE, Pipe};
pub use socket::{Dialing, Keepalive, Socket};
pub use spares::Spares;
pub use tuning::{Granted, TcpTuning, granted};
