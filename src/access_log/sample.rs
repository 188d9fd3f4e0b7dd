//! A connection for the tests of its lines.

use crate::base::{Address, Endpoint};
use crate::config::model::{Backend, Global, Model, Pool};
use crate::policy::balance::LoadBlock;
use crate::policy::health::ConnectFailure;
use crate::pool::{self, BackendId, Lease, Resolved};
use crate::session::{AttemptError, CloseReason, ConnectionId, FailedAttempt, History, Record, Side, Stage};
use crate::telemetry::ListenerTotals;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// When it ended: 2026-01-02T03:04:05.6789Z.
pub fn end() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(1_767_323_045_678_900)
}

/// From the listener `web` to this backend of the pool `app`.
pub fn record(backend_name: &str) -> Record {
    let address = Address::Unix(PathBuf::from("/run/a.sock"));
    let backends = vec![Backend { name: backend_name.to_owned(), ..Backend::at(address) }];
    let pools = vec![Pool { name: "app".to_owned(), backends, ..Pool::default() }];
    let model = Model { global: Global::default(), listeners: Vec::new(), pools };
    let pool = pool::build(&model, &Resolved::new()).pools[0].clone();
    let listener = ListenerTotals::new("web".to_owned());
    // As of a connection that has not left yet.
    listener.enter();
    Record {
        id: ConnectionId(4097),
        client: Some(Endpoint::Inet("[2001:db8::7]:4711".parse().unwrap())),
        listener,
        backend: Some(pool.members[0].backend.clone()),
        backend_port: None,
        pool,
        attempts: 2,
        connect: Some(Duration::from_micros(1_999)),
        duration: Duration::from_millis(61_003),
        answered: true,
        unanswered: None,
        bytes_to_backend: 78,
        bytes_to_client: 5_000_000_000,
        close: CloseReason::BackendFin,
        stage: Stage::Relaying,
        first_fin: Some(Side::Backend),
        first: None,
        history: None,
    }
}

/// Three attempts that failed: refused, without an address, timed out.
pub fn failures() -> Box<History> {
    let at = Endpoint::Inet("192.0.2.1:80".parse().unwrap());
    let backend = pool::Backend::new(BackendId(7), "db1".to_owned(), Vec::new(), Arc::new(LoadBlock::default()), 0);
    let lease = Lease::take(&Arc::new(backend), 0, u32::MAX).expect("no limit");
    let attempt = |address, error, after| FailedAttempt {
        tried: Some(lease.tried()),
        backend: "db1".to_owned(),
        address,
        error,
        after: Duration::from_millis(after),
    };
    let timed_out = ConnectFailure::TimedOut(Duration::from_secs(5));
    History::of([
        attempt(Some(at.clone()), AttemptError::Connect(ConnectFailure::Os(111)), 2),
        attempt(None, AttemptError::NoAddress, 0),
        attempt(Some(at), AttemptError::Connect(timed_out), 5_000),
    ])
}
