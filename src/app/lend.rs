//! The listening sockets for a successor.
//!
//! They are counted first, and then copied and sent in parts ([`Workers::lend`]). Thousands of ports take a large part of the limit
//! on open files. A second descriptor of each would not fit beside the connections.

use super::upgrade::Shared;
use super::workers::Workers;
use crate::base::Listen;
use crate::handover::channel::DESCRIPTORS_MAX;
use crate::handover::message::SocketOf;
use crate::net::listen::{self, Claimant};
use crate::pool::{BoundAddress, BoundAddressId, Listener, Snapshot};
use std::collections::HashMap;
use std::fmt::Display;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// The listening sockets of this process.
pub struct Lending<'a> {
    workers: &'a Workers,
    known: HashMap<BoundAddressId, SocketOf>,
    /// The addresses of each worker's sockets.
    of_workers: Vec<Vec<BoundAddressId>>,
    /// Copies of all others, which are few.
    others: Vec<(SocketOf, OwnedFd)>,
    time: Duration,
}

impl<'a> Lending<'a> {
    /// Those that the listeners of this snapshot have. `time` is the most that a worker may take to answer.
    pub fn new(shared: &'a Shared, snapshot: &Snapshot, time: Duration) -> io::Result<Lending<'a>> {
        let of_listener = |listener: &Arc<Listener>| -> Vec<(BoundAddressId, SocketOf)> {
            let own =
                |(address, claimant): (&BoundAddress, _)| (address.id, SocketOf::own(&address.endpoint, claimant));
            listener.addresses.iter().zip(claimants(listener)).map(own).collect()
        };
        let known: HashMap<BoundAddressId, SocketOf> = snapshot.listeners.iter().flat_map(of_listener).collect();
        let mut of_workers = shared.workers.addresses(time)?;
        // Others are about to be closed.
        of_workers.iter_mut().for_each(|addresses| addresses.retain(|address| known.contains_key(address)));
        let of_manager = listen::of_service_manager()?;
        let mut others: Vec<_> =
            of_manager.into_iter().map(|(endpoint, socket)| (SocketOf::of_manager(&endpoint), socket)).collect();
        for (of, socket) in &*shared.lent.lock() {
            others.push((of.clone(), socket.try_clone()?));
        }
        Ok(Lending { workers: &shared.workers, known, of_workers, others, time })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.of_workers.iter().map(Vec::len).sum::<usize>() + self.others.len()
    }

    /// Sends all of them. A few go in one message.
    pub fn give(self, mut send: impl FnMut(&[(SocketOf, OwnedFd)]) -> Result<(), String>) -> Result<(), String> {
        let cannot = |why: &dyn Display| format!("can't copy the listening sockets: {why}");
        let (mut copies, most, known) = (self.others, self.workers.lends, &self.known);
        let mut flush = |copies: &mut Vec<_>| {
            let sent = copies.chunks(DESCRIPTORS_MAX).try_for_each(&mut send);
            copies.clear();
            sent
        };
        for (worker, addresses) in self.of_workers.into_iter().enumerate() {
            let mut left = addresses.len();
            let mut parts = self.workers.lend(worker, addresses, self.time);
            loop {
                if copies.len() + left.min(most) > most {
                    flush(&mut copies)?;
                }
                let Some(part) = parts.next() else { break };
                let part = part.map_err(|error| cannot(&error))?;
                left = left.checked_sub(part.len()).ok_or_else(|| cannot(&"there are more than before"))?;
                copies.extend(part.into_iter().filter_map(|(at, socket)| Some((known.get(&at)?.clone(), socket))));
            }
            if left > 0 {
                return Err(cannot(&"there are fewer than before"));
            }
        }
        flush(&mut copies)
    }
}

/// What has each address of a listener in the configuration, if that asks for any port. The addresses of a group were bound together.
fn claimants(listener: &Listener) -> Vec<Option<Claimant>> {
    let mut asked: Vec<Option<&Listen>> = listener.settings.bind.iter().map(Some).collect();
    let mut places: HashMap<BoundAddressId, Option<usize>> = HashMap::new();
    let claimant = |address: &BoundAddress| {
        let place = *places.entry(address.group).or_insert_with(|| {
            let place = asked.iter().position(|asked| *asked == Some(&address.asked))?;
            asked[place] = None;
            Some(place)
        });
        let place = place.filter(|_| address.asked.asks_for_any_port())?;
        Some(Claimant::Listener { name: listener.name.clone(), place })
    };
    listener.addresses.iter().map(claimant).collect()
}
