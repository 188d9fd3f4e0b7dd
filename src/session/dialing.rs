//! What is known of a session while it dials: the backend, which of its addresses, and which of them failed.

use crate::base::{Endpoint, Tick};
use crate::config::model::{Pool as Settings, ProxyVersion};
use crate::pool::{Lease, Tried};
use std::time::Duration;

/// How much longer than a connect may take a trial of an address keeps other clients away from it.
const GRACE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Dial {
    pub(super) lease: Lease,
    /// The header that the backend expects. From the pool that the lease was taken in: it may be gone from the next one.
    pub(super) introduce: Option<ProxyVersion>,
    /// The number of the address that is tried; `None`: the backend has none.
    address: Option<usize>,
    /// Addresses that failed before this one.
    failed: Vec<usize>,
    /// When this attempt began.
    pub(super) since: Tick,
    /// Set while the process has no descriptor for the socket: when to try again.
    pub(super) again: Option<Tick>,
    /// Backends that failed before this one.
    pub(super) tried: Vec<Tried>,
}

impl Dial {
    /// To the address of this backend whose turn it is.
    pub(super) fn begin(
        lease: Lease,
        introduce: Option<ProxyVersion>,
        tried: Vec<Tried>,
        settings: &Settings,
        now: Tick,
    ) -> Dial {
        let address = lease.backend().addresses.choose(&[], now, settings.connect_timeout.saturating_add(GRACE));
        Dial { lease, introduce, address, failed: Vec::new(), since: now, again: None, tried }
    }

    /// The attempt failed: goes on to the backend's next address. False if there is none.
    pub(super) fn goes_on(&mut self, settings: &Settings, now: Tick) -> bool {
        self.failed.extend(self.address);
        let trial = settings.connect_timeout.saturating_add(GRACE);
        self.address = self.lease.backend().addresses.choose(&self.failed, now, trial);
        (self.since, self.again) = (now, None);
        self.address.is_some()
    }

    /// It is connected.
    pub(super) fn reached(&self) {
        self.address.into_iter().for_each(|address| self.lease.backend().addresses.reached(address));
    }

    /// The number of the address that is tried, and where that is.
    pub(super) fn target(&self) -> Option<(usize, &Endpoint)> {
        let number = self.address?;
        Some((number, &self.lease.backend().addresses.get(number)?.endpoint))
    }

    /// Is no address left after this one?
    pub(super) fn is_last(&self) -> bool {
        self.failed.len() + 1 >= self.lease.backend().addresses.len()
    }
}
