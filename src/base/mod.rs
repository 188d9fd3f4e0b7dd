//! The vocabulary of all layers: addresses, durations, sizes, ticks, bit sets, timers, slots.
//!
//! Nothing here opens a socket, reads a clock or starts a thread.

pub mod address;
pub mod admin_state;
pub mod bits;
pub mod bytes;
pub mod duration;
pub mod familiar;
pub mod log_throttle;
pub mod nearest;
pub mod size;
pub mod slots;
pub mod text;
pub mod tick;
pub mod wheel;

pub use address::{Address, Endpoint, Listen};
pub use admin_state::AdminState;
pub use bits::AtomicBits;
pub use log_throttle::{LogThrottle, SharedLogThrottle};
pub use size::Size;
pub use tick::{OptionalTick, Tick};
