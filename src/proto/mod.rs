//! Converts between bytes and values of the protocols that tcplb speaks itself: incremental, pure, without a socket.
//!
//! A parser gets all bytes so far and returns "more", a value, or an error. So it does not depend on how the network
//! cuts the bytes, and a test can cut them anywhere.

pub mod conntrack;
pub mod proxy;
pub mod sniff;
