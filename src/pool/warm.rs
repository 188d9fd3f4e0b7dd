//! The warm connections of one backend, between the thread that keeps them and the workers that use them.
//!
//! [`crate::warm`] adds and checks them; a worker takes one out for a client. Whichever takes a connection out owns it, so
//! each is used at most once. The table is behind a lock that both hold for a few operations. A backend whose pool has no
//! warm connections costs its clients one relaxed load.
//!
//! # The limit
//!
//! Warm connections and leases together never exceed the `max_connections` of the backend, and leases come first. A client
//! takes its lease as if there were no warm connections, and then takes one, so that the sum stays the same. If none fits
//! the client, one is closed in its place. Connections are added under the lock, as far as leases leave room: a lease that
//! they missed finds them there.

use super::{Backend, BackendAddress, SourcePort};
use crate::base::Tick;
use parking_lot::{Mutex, MutexGuard};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// See the module.
#[derive(Debug)]
pub struct WarmConnections {
    /// In the order in which they were dialled.
    table: Mutex<Vec<WarmConnection>>,
    /// There may be some.
    kept: AtomicBool,
    /// The backend's `max_connections`; `u32::MAX`: none.
    limit: AtomicU32,
    /// How many the table has, and how many of them are established: for readers without the lock.
    open: AtomicU32,
    ready: AtomicU32,
}

/// One of them.
#[derive(Debug)]
pub struct WarmConnection {
    /// Unique among all that the thread has dialled of late.
    pub id: u32,
    /// The number of the backend's address.
    pub address: usize,
    /// Its socket, which the keeper's poll watches.
    pub socket: OwnedFd,
    /// The port of a source address that it uses.
    pub source: Option<SourcePort>,
    /// How far it has come.
    pub phase: WarmPhase,
    /// When it was dialled or established.
    pub since: Tick,
    /// When the phase ends at the latest.
    pub until: Tick,
}

/// How far a warm connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarmPhase {
    /// It is being established.
    Connecting,
    /// It may be handed out.
    Ready,
    /// The backend has sent bytes on it: either a farewell, which a FIN follows, or a greeting.
    Spoke,
}

impl Default for WarmConnections {
    fn default() -> Self {
        WarmConnections {
            table: Mutex::default(),
            kept: AtomicBool::new(false),
            limit: AtomicU32::new(u32::MAX),
            open: AtomicU32::new(0),
            ready: AtomicU32::new(0),
        }
    }
}

impl WarmConnections {
    /// The keeper's: from now on there may be some, beside the leases up to `limit`.
    pub fn keep(&self, limit: u32) {
        self.limit.store(limit, Ordering::Relaxed);
        self.kept.store(true, Ordering::Relaxed);
    }

    /// The keeper's: closes them all, and there are none from now on.
    pub fn end(&self) {
        self.change(Vec::clear);
        self.kept.store(false, Ordering::Relaxed);
    }

    /// The keeper's: looks at the table and changes it.
    pub fn change<T>(&self, change: impl FnOnce(&mut Vec<WarmConnection>) -> T) -> T {
        let mut table = self.table.lock();
        let result = change(&mut table);
        self.count(&table);
        result
    }

    /// How many are established.
    pub fn ready(&self) -> u32 {
        self.ready.load(Ordering::Relaxed)
    }

    /// How many there are, with those that are being established.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    fn count(&self, table: &[WarmConnection]) {
        let ready = table.iter().filter(|connection| connection.phase == WarmPhase::Ready).count();
        self.ready.store(ready as u32, Ordering::Relaxed);
        self.open.store(table.len() as u32, Ordering::Relaxed);
    }
}

impl Backend {
    /// A warm connection to the address of this number, for a client that has a lease already. The youngest one: the backend
    /// keeps it open for longest. The keeper's poll still watches it. `None` for the trial of an address in back-off.
    pub fn take_warm(&self, address: usize) -> Option<WarmConnection> {
        let WarmConnections { kept, limit, .. } = &self.warm;
        if !kept.load(Ordering::Relaxed) {
            return None;
        }
        let limit = limit.load(Ordering::Relaxed);
        let mut table = self.lock_warm(limit)?;
        let serves = self.addresses.get(address).is_some_and(BackendAddress::takes_warm);
        let fits = |connection: &WarmConnection| {
            serves && connection.phase == WarmPhase::Ready && connection.address == address
        };
        let taken = table.iter().rposition(fits).map(|at| table.remove(at));
        if taken.is_none() && self.room_for_warm(limit, &table).is_none() {
            table.pop();
        }
        self.warm.count(&table);
        drop(table);
        taken
    }

    /// Without a limit a client need not wait for the keeper, which may be dialling: a dial of its own takes no longer.
    fn lock_warm(&self, limit: u32) -> Option<MutexGuard<'_, Vec<WarmConnection>>> {
        if limit == u32::MAX { self.warm.table.try_lock() } else { Some(self.warm.table.lock()) }
    }

    /// How many more the leases leave room for; `None`: there is one too many.
    fn room_for_warm(&self, limit: u32, table: &[WarmConnection]) -> Option<u32> {
        limit.checked_sub(self.active())?.checked_sub(table.len() as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BackendId, Lease};
    use super::*;
    use crate::base::Endpoint;
    use crate::policy::balance::LoadBlock;
    use std::fs::File;
    use std::sync::Arc;

    fn backend(limit: u32, phases: &[(usize, WarmPhase)]) -> Arc<Backend> {
        let endpoints = vec![Endpoint::Inet(([10, 0, 0, 1], 80).into()), Endpoint::Inet(([10, 0, 0, 2], 80).into())];
        let backend = Backend::new(BackendId(1), "b".to_owned(), endpoints, Arc::new(LoadBlock::default()), 0);
        backend.warm.keep(limit);
        backend.warm.change(|table| {
            for (id, &(address, phase)) in phases.iter().enumerate() {
                let socket = OwnedFd::from(File::open("/dev/null").unwrap());
                let (since, until) = (Tick(id as u64), Tick(1_000));
                table.push(WarmConnection { id: id as u32, address, socket, source: None, phase, since, until });
            }
        });
        Arc::new(backend)
    }

    fn ids(backend: &Backend) -> Vec<u32> {
        backend.warm.change(|table| table.iter().map(|connection| connection.id).collect())
    }

    #[test]
    fn the_youngest_established_connection_to_the_address_is_handed_out() {
        use WarmPhase::{Connecting, Ready, Spoke};
        let backend = backend(u32::MAX, &[(0, Ready), (0, Ready), (1, Ready), (0, Spoke), (0, Connecting)]);
        assert_eq!((backend.warm.open(), backend.warm.ready()), (5, 3));
        assert!(backend.take_warm(0).is_some());
        assert_eq!(ids(&backend), [0, 2, 3, 4]);
        assert!(backend.take_warm(0).is_some() && backend.take_warm(0).is_none());
        assert_eq!((ids(&backend), backend.warm.open(), backend.warm.ready()), (vec![2, 3, 4], 3, 1));
        backend.warm.end();
        assert!(backend.take_warm(1).is_none() && backend.warm.open() == 0);
    }

    #[test]
    fn a_client_at_the_limit_takes_the_place_of_a_connection_that_does_not_fit_it() {
        use WarmPhase::{Connecting, Ready};
        let backend = backend(3, &[(1, Ready), (1, Ready), (0, Connecting)]);
        let mut leases = Vec::new();
        for left in [vec![0, 1], vec![0], vec![]] {
            leases.push(Lease::take(&backend, 0, 3).unwrap());
            assert!(backend.take_warm(0).is_none());
            assert_eq!(ids(&backend), left);
        }
        assert!(Lease::take(&backend, 0, 3).is_none());
    }

    #[test]
    fn the_trial_of_an_address_takes_no_warm_connection_but_keeps_the_limit() {
        let backend = backend(2, &[(0, WarmPhase::Ready), (0, WarmPhase::Ready)]);
        backend.addresses.failed(0, Tick(1));
        let _lease = Lease::take(&backend, 0, 2).unwrap();
        assert!(backend.take_warm(0).is_none());
        assert_eq!(ids(&backend), [0]);
        backend.addresses.reached(0);
        assert!(backend.take_warm(0).is_some());
    }

    #[test]
    fn a_client_that_takes_a_warm_connection_leaves_the_sum_as_it_was() {
        let backend = backend(2, &[(0, WarmPhase::Ready), (0, WarmPhase::Ready)]);
        let _lease = Lease::take(&backend, 0, 2).unwrap();
        assert!(backend.take_warm(0).is_some());
        assert_eq!((backend.active(), ids(&backend)), (1, vec![0]));
    }
}
