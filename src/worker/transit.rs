//! Connections that leave a worker for the next process, and those that come from the process before.
//!
//! A thread of its own moves them ([`take_out`], [`put_in`]). A worker carries out its part between two events, as an order.
//! It takes out up to a given number and answers, takes them back, or puts in those that another process had. It waits for
//! no thread.
//!
//! # No connection is lost
//!
//! * [`Departed`] gives its connections back to their worker when it is dropped, unless [`Departed::commit`] states that the
//!   next process has them. So every failure on the way ends with the connections where they were.
//! * A worker does not end while connections of it are out: each batch is announced, as a client that a peer hands over.
//! * No worker ends during a take-over ([`stay`]): its connections may be on their way from the other process.
//! * Orders have room for any batch. There are few: at most one is out per call of [`take_out`], and [`put_in`] adds one per
//!   call, which the caller bounds.

use super::driver::transit;
use super::orders::Orders;
use super::{Peer, Worker};
use crate::base::Tick;
use crate::clock;
use crate::net::{Pipe, Socket};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::sync::Arc;
use std::time::Duration;

/// A connection that was taken out of a worker.
pub type Detached = transit::Detached<Socket, Pipe>;

/// A connection that the process before had.
pub type Incoming = transit::Incoming<Socket, Pipe>;

/// A connection that can't go on here.
pub type Refused = transit::Refused<Socket, Pipe>;

/// The answer of a worker.
pub type TakenOut = transit::TakenOut<Socket, Pipe>;

/// How long a worker may leave the order of [`take_out`] unread.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The pause before a worker is asked again whose connections dial.
pub const AGAIN: Duration = Duration::from_millis(20);

/// How often a caller looks whether the worker has ended.
const LOOK: Duration = Duration::from_millis(100);

/// The order to take out connections.
#[derive(Debug)]
pub struct Depart {
    /// Up to so many.
    pub most: usize,
    /// Takes the answer, for which it has room. A worker that finds no receiver keeps its connections.
    pub to: Sender<TakenOut>,
}

/// The order to put in connections that the process before had.
#[derive(Debug)]
pub struct Arrive {
    /// The connections.
    pub connections: Vec<Incoming>,
    /// Takes those that can't go on, for which it has room.
    pub refused: Sender<Vec<Refused>>,
}

/// Connections of one worker that are out.
#[derive(Debug)]
pub struct Departed {
    connections: Vec<Detached>,
    taken_at: Tick,
    left: usize,
    peers: Arc<[Peer]>,
    worker: usize,
}

/// Takes up to `most` connections out of a worker, and waits for it. `None`: it has ended, or has not answered within about
/// [`PATIENCE`]; then nothing is taken out. Only one thread may take out connections of a worker.
pub fn take_out(peers: &Arc<[Peer]>, worker: usize, most: usize) -> Option<Departed> {
    let peer = peers.get(worker)?;
    if !peer.arrivals.announce() {
        return None;
    }
    // Dropping it withdraws the announcement.
    let (connections, taken_at) = (Vec::new(), clock::now());
    let mut departed = Departed { connections, taken_at, left: 0, peers: peers.clone(), worker };
    let order = |most| {
        let (to, answer) = bounded(1);
        peer.orders.put(Orders { depart: Some(Depart { most, to }), ..Orders::default() });
        answer
    };
    let (answer, begun, mut is_withdrawn) = (order(most), clock::now(), false);
    loop {
        // Read before the channel: a worker may answer and end at any moment.
        let has_ended = peer.heartbeat.has_ended();
        match answer.recv_timeout(LOOK) {
            Ok(TakenOut { connections, at, left }) => {
                (departed.connections, departed.taken_at, departed.left) = (connections, at, left);
                return Some(departed);
            }
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) if has_ended => return None,
            // The order takes the place of the unread one, whose channel is disconnected then. A worker that has read it answers.
            Err(RecvTimeoutError::Timeout) if !is_withdrawn && clock::now() - begun >= PATIENCE => {
                drop(order(0));
                is_withdrawn = true;
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Gives a worker connections that the process before had; the channel gets those that can't go on. A connection belongs to the
/// worker of its number ([`crate::session::ConnectionId::worker`]).
pub fn put_in(peer: &Peer, connections: Vec<Incoming>) -> Receiver<Vec<Refused>> {
    let (refused, answer) = bounded(1);
    if peer.arrivals.announce() {
        peer.orders.put(Orders { arrive: vec![Arrive { connections, refused }], ..Orders::default() });
    } else {
        let why = "the worker has ended";
        let all = connections.into_iter().map(|incoming| Refused { incoming, why: why.to_owned() });
        let _ = refused.send(all.collect());
    }
    answer
}

/// Has all workers stay, also without a connection and in a drain, until this is dropped.
#[derive(Debug)]
pub struct Stay {
    peers: Arc<[Peer]>,
    announced: usize,
}

/// See [`Stay`]. `None`: a worker has ended.
pub fn stay(peers: &Arc<[Peer]>) -> Option<Stay> {
    let announced = peers.iter().take_while(|peer| peer.arrivals.announce()).count();
    // Dropping it withdraws the announcements.
    let stay = Stay { peers: peers.clone(), announced };
    (announced == peers.len()).then_some(stay)
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.peers.iter().take(self.announced).for_each(withdraw);
    }
}

/// Nothing comes after the announcement.
fn withdraw(peer: &Peer) {
    peer.arrivals.arrived();
    // The worker may have been about to end.
    peer.mailbox.wake();
}

impl Departed {
    /// The connections.
    pub fn connections(&self) -> &[Detached] {
        &self.connections
    }

    /// Since when they stand still.
    pub fn taken_at(&self) -> Tick {
        self.taken_at
    }

    /// How many the worker still has. Where none was taken out, these dial: the caller asks again a little later.
    pub fn left(&self) -> usize {
        self.left
    }

    /// The next process has them, except for those of these positions, which go back to their worker. The descriptors
    /// of all others close, without a FIN or a reset: the next process has them too.
    pub fn commit(mut self, refused: &[usize]) {
        let mut position = 0;
        self.connections.retain(|_| {
            position += 1;
            refused.contains(&(position - 1))
        });
    }
}

impl Drop for Departed {
    fn drop(&mut self) {
        let Some(peer) = self.peers.get(self.worker) else { return };
        if self.connections.is_empty() {
            return withdraw(peer);
        }
        let back = vec![std::mem::take(&mut self.connections)];
        peer.orders.put(Orders { back, ..Orders::default() });
    }
}

impl Worker {
    pub(super) fn depart(&mut self, Depart { most, to }: Depart) {
        if let Err(unsent) = to.try_send(self.driver.take_out(most)) {
            self.take_back(unsent.into_inner().connections);
        }
    }

    /// A batch that was out comes back.
    pub(super) fn come_back(&mut self, connections: Vec<Detached>) {
        self.take_back(connections);
        self.this().arrivals.arrived();
    }

    fn take_back(&mut self, connections: Vec<Detached>) {
        let snapshot = self.shared.snapshot.clone();
        connections.into_iter().for_each(|detached| self.driver.put_back(detached, &snapshot));
        self.end_if_stopped();
    }

    pub(super) fn arrive(&mut self, Arrive { connections, refused }: Arrive) {
        let (snapshot, process) = (self.shared.snapshot.clone(), self.shared.connection_limit.clone());
        let put_in = |incoming| self.driver.put_in(incoming, &snapshot, &process).err();
        let all: Vec<Refused> = connections.into_iter().filter_map(put_in).map(|refused| *refused).collect();
        for Refused { incoming, why } in &all {
            log::error!("connection {} can't go on in this process: {why}", incoming.record.id);
        }
        let _ = refused.try_send(all);
        self.end_if_stopped();
        self.this().arrivals.arrived();
    }

    fn end_if_stopped(&mut self) {
        if let Some(reason) = self.stopped {
            self.driver.stop_all(reason);
        }
    }
}

#[cfg(test)]
mod tests;
