//! tcplb: a Layer-4 TCP connection balancer.
#![forbid(unsafe_code)]
pub mod base;
pub mod config;
pub mod mailbox;
pub mod net;
pub mod policy;
pub mod pool;
/// placeholder
pub mod worker {
    /** */
    pub mod token {
        /** */
        pub struct Token;
    }
}
