//! Bytes ↔ values of what tcplb itself says and understands on a connection: incremental, pure, without a socket.
//!
//! A parser here is given whatever has come so far and answers "more", a value, or why it never will be one. So it makes
//! no difference how the network cuts the bytes, and a test can cut them anywhere.

pub mod proxy;
