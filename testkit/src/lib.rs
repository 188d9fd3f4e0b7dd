//! What the suites share: the built tcplb as a process, scripted peers for both sides of it, other servers, and waiting without
//! sleeping.
//!
//! [`Tcplb`] starts the built program with flags, [`ConfigFile`] with a file, given as a text or line by line. Where a test must
//! look inside, tests/features/balancer.rs starts the library in its process from the same [`ConfigFile`].
//!
//! Nothing here asserts how fast something is. [`PATIENCE`] only says when a test gives up. A panic is how a test fails.

mod admin;
mod browser;
mod bulk;
mod config;
mod conn;
mod flood;
pub mod foreign;
mod http;
mod knot;
pub mod monitoring;
pub mod peers;
mod port;
mod postgres;
mod process;
pub mod promql;
mod pty;
mod redis;
mod server;
mod sources;
mod tcplb;
mod tools;
mod wait;

pub use admin::Admin;
pub use browser::{Page, Screen};
pub use bulk::{MIB, receive, send};
pub use config::{ConfigFile, Started};
pub use conn::{At, Conn, Ending};
pub use flood::Flood;
pub use http::{Answer, answer, ask, talk};
pub use knot::Knot;
pub use port::Port;
pub use postgres::Postgres;
pub use process::Process;
pub use pty::Pty;
pub use redis::Redis;
pub use server::{BlackHole, ManualServer, Server, free_address, free_address_on, fresh_loopback, refusing};
pub use sources::sources;
pub use tcplb::{QUICK_PROBES, Running, Tcplb, tcplb};
pub use tools::{account, need, need_root, run, wait_until_it_listens};
pub use wait::{PATIENCE, eventually, eventually_some, let_pass};

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;

/// Held by the tests that keep both cores or much memory busy. So only one of them runs at a time, and the
/// light ones beside it do not run out of patience.
pub fn heavy() -> MutexGuard<'static, ()> {
    static HEAVY: Mutex<()> = Mutex::new(());
    HEAVY.lock()
}

/// Lets this process, and the tcplb that inherits it, have as many descriptors as the system grants.
pub fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("raise the soft descriptor limit to the hard one");
}

/// Counts how often each of `names` occurs.
pub fn tally(names: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    counts
}
