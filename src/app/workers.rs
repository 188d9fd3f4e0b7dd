//! The workers' threads, control's orders to them, and callers' questions.

use super::keep::{Keep, QUIET};
use crate::base::Tick;
use crate::clock;
use crate::config::descriptors;
use crate::control::{DataPlane, Ended, NewSockets};
use crate::inspect::{Forwards, Inspect, Inspection};
use crate::kernel::engine;
use crate::mailbox::Slot;
use crate::net::listen::Listening;
use crate::pool::{BoundAddressId, ResetOrder, Snapshot};
use crate::session::{CloseReason, ConnectionIds};
use crate::warm;
use crate::watchdog::Watched;
use crate::worker::orders::{Adopt, Lend, Lent, Orders};
use crate::worker::transit::{self, Incoming};
use crate::worker::{self, ListenSocket, Peer, Prepared, WorkerContext};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Hands orders and questions to the workers. No call waits for a worker.
#[derive(Clone)]
pub struct Workers {
    peers: Arc<[Peer]>,
    /// The keeper of warm connections gets the same snapshots.
    keeper: Arc<Slot<warm::Orders>>,
    /// And so does the thread that keeps the kernel's rules, if there is one.
    kernel: Option<engine::Access>,
    /// The successor that is about to take over does not keep the kernel's rules.
    closes_kernel: Arc<AtomicBool>,
    /// Stores connections at the end.
    pub keep: Arc<Keep>,
    /// How many listening sockets are copied at once.
    pub lends: usize,
}

/// The workers' threads, and where each sends its result when it ends.
pub struct WorkerThreads {
    pub threads: Vec<JoinHandle<()>>,
    pub ended: Receiver<Ended>,
}

/// Prepares the workers. The threads start with [`spawn`]. `limit` is that on open files.
pub fn prepare(
    count: usize,
    keeper: Arc<Slot<warm::Orders>>,
    limit: u64,
    kernel: Option<engine::Access>,
) -> io::Result<(Vec<Prepared>, Workers)> {
    let both: io::Result<Vec<(Prepared, Peer)>> = (0..count).map(|_| worker::prepare()).collect();
    let (prepared, peers): (Vec<Prepared>, Vec<Peer>) = both?.into_iter().unzip();
    let lends = descriptors::lent_at_once(limit) as usize;
    Ok((
        prepared,
        Workers { peers: peers.into(), keeper, kernel, closes_kernel: Arc::default(), keep: Arc::default(), lends },
    ))
}

/// Starts a thread for each prepared worker.
pub fn spawn(prepared: Vec<Prepared>, opened: Vec<NewSockets>, shared: &WorkerContext) -> io::Result<WorkerThreads> {
    // Bounded by the number of workers: each sends one message.
    let (sender, ended) = unbounded();
    let mut threads = Vec::new();
    let sockets = by_worker(opened, prepared.len());
    for (me, (prepared, sockets)) in prepared.into_iter().zip(sockets).enumerate() {
        let (shared, ended) = (shared.clone(), sender.clone());
        let work = move || {
            let outcome = worker::run(prepared, me, sockets, shared);
            let _ = ended.send((me, outcome));
        };
        threads.push(thread::Builder::new().name(format!("worker-{me}")).spawn(work)?);
    }
    Ok(WorkerThreads { threads, ended })
}

/// Distributes the sockets of each address over the workers. A unix socket is a single one, for the first worker.
fn by_worker(opened: Vec<NewSockets>, workers: usize) -> Vec<Vec<ListenSocket>> {
    let mut shares: Vec<Vec<ListenSocket>> = (0..workers).map(|_| Vec::new()).collect();
    for NewSockets { address, listener, sockets } in opened {
        let own = |socket: Listening| ListenSocket::new(address, listener.clone(), socket);
        // A predecessor with more workers has left more sockets than there are workers.
        for (number, socket) in sockets.into_iter().enumerate() {
            shares[number % workers].push(own(socket));
        }
    }
    shares
}

impl Workers {
    /// The workers as their peers see them.
    pub fn peers(&self) -> Arc<[Peer]> {
        self.peers.clone()
    }

    /// Where the connections' numbers of the next process begin.
    pub fn next_sequence(&self) -> u64 {
        ConnectionIds::begin_next(self.peers.iter().map(|peer| peer.given.load(Ordering::Relaxed)))
    }

    /// Gives connections of the process before to the workers of their numbers, and waits until they go on.
    pub fn put_in(&self, connections: Vec<Incoming>) {
        let mut of_workers: Vec<Vec<Incoming>> = self.peers.iter().map(|_| Vec::new()).collect();
        for incoming in connections {
            of_workers[incoming.record.id.worker(self.peers.len())].push(incoming);
        }
        let batches = self.peers.iter().zip(of_workers).filter(|(_, connections)| !connections.is_empty());
        let answers: Vec<_> = batches.map(|(peer, connections)| transit::put_in(peer, connections)).collect();
        // A worker that does not respond has its connections once it does.
        let until = Instant::now() + transit::PATIENCE;
        answers.iter().for_each(|answer| drop(answer.recv_deadline(until)));
    }

    /// The heartbeats, for the watchdog.
    pub fn watched(&self) -> impl Iterator<Item = Watched> {
        self.peers.iter().enumerate().map(|(number, peer)| {
            let peers = self.peers.clone();
            let wake = Box::new(move || peers[number].mailbox.wake());
            Watched { name: format!("worker-{number}"), heartbeat: peer.heartbeat.clone(), wake }
        })
    }

    /// The addresses of the listening sockets of each worker that a successor gets. A worker that does not respond in time is an
    /// error.
    pub fn addresses(&self, time: Duration) -> io::Result<Vec<Vec<BoundAddressId>>> {
        let asked: Vec<Receiver<_>> = self.peers.iter().map(|peer| ask(peer, Lend::Addresses)).collect();
        let until = Instant::now() + time;
        asked.iter().map(|addresses| addresses.recv_deadline(until).map_err(silent)).collect()
    }

    /// Copies of the listening sockets of a worker at these addresses, of which one may have several. Each part is copied once
    /// it is asked for, and has as many descriptors as [`descriptors::lent_at_once`] says, or those of one address.
    pub fn lend(
        &self,
        worker: usize,
        mut addresses: Vec<BoundAddressId>,
        time: Duration,
    ) -> impl Iterator<Item = Lent> {
        addresses.sort_unstable();
        parts(&addresses, self.lends).into_iter().map(move |part| {
            let lent = ask(&self.peers[worker], |to| Lend::Copies(part, to));
            lent.recv_timeout(time).map_err(silent)?
        })
    }

    /// The process before does not keep the kernel's rules any more: this one does.
    pub fn keep_kernel(&self) {
        self.kernel
            .iter()
            .for_each(|kernel| kernel.orders.put(engine::Orders { keep: true, ..engine::Orders::default() }));
    }

    /// Backends may be used that might not be before, or the reverse.
    pub fn usable(&self) {
        let order = || engine::Orders { usable: true, ..engine::Orders::default() };
        self.kernel.iter().for_each(|kernel| kernel.orders.put(order()));
    }

    /// Whether the successor that is about to take over keeps the kernel's rules.
    pub fn set_successor_keeps_kernel(&self, keeps: bool) {
        self.closes_kernel.store(!keeps, Ordering::SeqCst);
    }

    /// The kernel's rules are the successor's, or are closed if it does not keep them. Waits until this process changes them no
    /// more, for `time` at most. What the successor reads is then what stays.
    pub fn leave_kernel(&self, time: Duration) {
        let (ended, has_ended) = bounded(0);
        self.end_kernel(self.kernel_s_end(), Some(ended));
        // Nothing is ever sent. The successor waits too, for the name that the helper holds.
        let _ = has_ended.recv_timeout(time);
    }

    /// How this process ends to keep the kernel's rules once the successor serves. Rules that no process keeps would take clients
    /// from the successor's sockets.
    fn kernel_s_end(&self) -> engine::End {
        if self.closes_kernel.load(Ordering::SeqCst) { engine::End::Close } else { engine::End::Leave }
    }

    fn end_kernel(&self, end: engine::End, ended: Option<Sender<()>>) {
        let Some(kernel) = &self.kernel else { return };
        kernel.orders.put(engine::Orders { end: Some(end), ended, ..engine::Orders::default() });
    }

    fn order(&self, order: impl Fn() -> Orders) {
        self.peers.iter().for_each(|peer| peer.orders.put(order()));
    }
}

fn ask<T>(peer: &Peer, what: impl FnOnce(Sender<T>) -> Lend) -> Receiver<T> {
    let (to, answer) = bounded(1);
    peer.orders.put(Orders { lend: Some(what(to)), ..Orders::default() });
    answer
}

fn silent<E>(_: E) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "a worker does not respond")
}

/// Divides sorted addresses so that no part has more than `most`. All of the same value are in one part, which has each once.
fn parts(addresses: &[BoundAddressId], most: usize) -> Vec<Vec<BoundAddressId>> {
    let (mut parts, mut count) = (Vec::<Vec<BoundAddressId>>::new(), most);
    for same in addresses.chunk_by(|one, next| one == next) {
        count += same.len();
        match parts.last_mut().filter(|_| count <= most) {
            Some(part) => part.push(same[0]),
            None => {
                parts.push(vec![same[0]]);
                count = same.len();
            }
        }
    }
    parts
}

impl DataPlane for Workers {
    fn adopt(&self, snapshot: &Arc<Snapshot>, opened: Vec<NewSockets>) -> Receiver<()> {
        // Nothing is ever sent: the channel disconnects when the last thread drops its end.
        let (done, all_done) = bounded(0);
        let adopt = warm::Adopt { snapshot: snapshot.clone(), done: Some(done.clone()) };
        self.keeper.put(warm::Orders { adopt: Some(adopt), ..warm::Orders::default() });
        if let Some(kernel) = &self.kernel {
            let adopt = engine::Adopt { snapshot: snapshot.clone(), done: Some(done.clone()) };
            kernel.orders.put(engine::Orders { adopt: Some(adopt), ..engine::Orders::default() });
        }
        for (peer, sockets) in self.peers.iter().zip(by_worker(opened, self.peers.len())) {
            let adopt = Adopt { snapshot: snapshot.clone(), sockets, done: done.clone() };
            peer.orders.put(Orders { adopt: Some(adopt), ..Orders::default() });
        }
        all_done
    }

    fn reset(&self, order: &ResetOrder) {
        let reset = || engine::Orders { reset: order.clone(), ..engine::Orders::default() };
        self.kernel.iter().for_each(|kernel| kernel.orders.put(reset()));
        self.order(|| Orders::reset(order.clone()));
    }

    fn drain(&self) {
        self.keeper.put(warm::Orders { drain: true, ..warm::Orders::default() });
        self.end_kernel(engine::End::Close, None);
        self.order(|| Orders { drain: true, ..Orders::default() });
    }

    fn accept(&self, accept: bool) {
        self.order(|| Orders { accept: Some(accept), ..Orders::default() });
    }

    fn leave(&self) {
        self.keeper.put(warm::Orders { drain: true, ..warm::Orders::default() });
        self.end_kernel(self.kernel_s_end(), None);
        self.order(|| Orders { leave: true, ..Orders::default() });
    }

    fn is_quiet(&self) -> bool {
        let now = clock::now();
        self.peers.iter().all(|peer| now - Tick(peer.moved.load(Ordering::Relaxed)) >= QUIET)
    }

    fn keep(&self) -> Receiver<()> {
        let (done, is_done) = bounded(0);
        let workers = self.clone();
        let store = move || {
            workers.keep.store_all(&workers);
            drop(done);
        };
        if let Err(error) = thread::Builder::new().name("keep".to_owned()).spawn(store) {
            log::error!("connections can't be kept for the next start: can't start a thread: {error}");
        }
        is_done
    }

    fn stop(&self) {
        self.keeper.put(warm::Orders { drain: true, ..warm::Orders::default() });
        self.end_kernel(engine::End::Close, None);
        self.order(|| Orders { stop: Some(CloseReason::Shutdown), ..Orders::default() });
    }
}

impl Inspect for Workers {
    fn workers(&self) -> usize {
        self.peers.len()
    }

    fn put(&self, worker: usize, inspection: Inspection) {
        self.peers[worker].orders.put(Orders::inspect(inspection));
    }

    fn put_to_kernel(&self, inspection: Inspection) -> bool {
        self.kernel.as_ref().is_some_and(|kernel| kernel.ask(inspection))
    }

    fn forwards(&self, listener: &str, client: IpAddr, port: Option<u16>) -> Option<Forwards> {
        self.kernel.as_ref()?.forwards(listener, client, port)
    }

    fn has_ended(&self, worker: usize) -> bool {
        self.peers[worker].heartbeat.has_ended()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_copied_in_parts_of_whole_addresses() {
        let ids = |list: &[u32]| list.iter().map(|id| BoundAddressId(*id)).collect::<Vec<_>>();
        for (addresses, most, want) in [
            (&[][..], 2, &[][..]),
            (&[1, 2, 3, 4, 5], 2, &[&[1, 2][..], &[3, 4], &[5]]),
            (&[1, 2, 2, 3], 2, &[&[1], &[2], &[3]]),
            (&[1, 1, 1, 2, 3], 2, &[&[1], &[2, 3]]),
        ] {
            assert_eq!(parts(&ids(addresses), most), want.iter().map(|part| ids(part)).collect::<Vec<_>>());
        }
    }
}
