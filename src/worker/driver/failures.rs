//! What a failed connect says, and of what: one address, or the whole backend.

use super::Observer;
use crate::base::Tick;
use crate::policy::health::ConnectFailure;
use crate::session::Session;

/// Notes that the address being dialled has failed. A backend whose name has several has failed when the last of them has.
pub(super) fn note_failure(observer: &mut impl Observer, session: &Session, failure: ConnectFailure, now: Tick) {
    let Some(backend) = session.lease().map(|lease| lease.backend()) else { return };
    // What this process lacks says nothing about any address.
    if let Some((address, _)) = session.address()
        && !failure.is_ours()
        && backend.addresses.len() > 1
    {
        backend.addresses.failed(address, now);
        observer.address_failed(backend, address, failure);
    }
    if session.is_at_last_address() {
        backend.connect_failed(failure, now);
        observer.connect_failed(backend, failure);
    }
}
