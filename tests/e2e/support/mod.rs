//! What every test stands on: tcplb as a process, scripted peers for both sides of it, and waiting without sleeping.
//!
//! Nothing here asserts how fast something is. [`PATIENCE`] only says when a test gives up.

mod admin;
mod bulk;
mod conn;
#[path = "../../common/eventually.rs"]
mod eventually;
mod flood;
pub mod peers;
mod process;
mod server;
mod tcplb;
mod tools;

pub use admin::Admin;
pub use bulk::{MIB, receive, send};
pub use conn::{At, Conn, Ending};
pub use eventually::{PATIENCE, eventually};
pub use flood::Flood;
pub use process::Process;
pub use server::{BlackHole, Server, free_address, fresh_loopback, refusing};
pub use tcplb::{QUICK_PROBES, Running, Tcplb};
pub use tools::{account, need, need_root, run, wait_until_it_listens};

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

/// Lets `time` pass where the test is about nothing happening meanwhile.
pub fn let_pass(time: Duration) {
    let end = Instant::now() + time;
    // A park may end early.
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        thread::park_timeout(left);
    }
}

/// Held by the tests that keep both cores or much memory busy, so that only one of them runs at a time and the
/// light ones beside it are not slowed past their patience.
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
