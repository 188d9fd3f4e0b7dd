//! Orders to a worker: from control, from the prober (resets under `on_down`) and from the admin API (questions about
//! connections). Others come from the thread that moves connections between two processes. Unread orders are merged into one. So no thread waits for a stuck worker to take its order, and the worker
//! carries out everything once it goes on.

use super::ListenSocket;
use super::transit::{Arrive, Depart, Detached};
use crate::inspect::{Inspection, Inspections};
use crate::mailbox::Merge;
use crate::pool::{BoundAddressId, ResetOrder, Snapshot};
use crate::session::CloseReason;
use crossbeam_channel::Sender;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The most backends whose connections a stuck worker resets once it goes on.
pub const RESETS_MAX: usize = 65_536;

/// In the order in which they are carried out.
#[derive(Debug, Default)]
pub struct Orders {
    /// Take this snapshot.
    pub adopt: Option<Adopt>,
    /// Reset these connections, reason `forced`.
    pub reset: ResetOrder,
    /// Answer these questions about connections.
    pub inspect: Inspections,
    /// Answer a question for a successor.
    pub lend: Option<Lend>,
    /// A successor accepts the clients (false), or this process does again (true).
    pub accept: Option<bool>,
    /// A successor has the listening sockets: close them, and end when the last connection has.
    pub leave: bool,
    /// Take these back, each batch of which was announced.
    pub back: Vec<Vec<Detached>>,
    /// Put in these, each batch of which was announced.
    pub arrive: Vec<Arrive>,
    /// Accept what waits already, then close the listeners; end when the last connection has.
    pub drain: bool,
    /// End every connection now, for this reason.
    pub stop: Option<CloseReason>,
    /// Take out connections, once clients that peers handed over are served.
    pub depart: Option<Depart>,
}

/// A question about the listening sockets that serve. Those of the service manager are not among them.
#[derive(Clone, Debug)]
pub enum Lend {
    /// The address of each socket.
    Addresses(Sender<Vec<BoundAddressId>>),
    /// Copies of the sockets at these addresses, which are sorted.
    Copies(Vec<BoundAddressId>, Sender<Lent>),
}

/// Copies of a worker's listening sockets, or why there are none.
pub type Lent = io::Result<Vec<(BoundAddressId, OwnedFd)>>;

/// A snapshot, and further sockets to listen on. The worker applies it between two events, so that no connection sees a part
/// of it.
#[derive(Debug)]
pub struct Adopt {
    /// The next snapshot.
    pub snapshot: Arc<Snapshot>,
    /// Sockets that this worker does not have yet.
    pub sockets: Vec<ListenSocket>,
    /// Dropped once it is done, or once a newer snapshot takes its place.
    pub done: Sender<()>,
}

impl Orders {
    /// To reset these connections.
    pub fn reset(reset: ResetOrder) -> Orders {
        Orders { reset, ..Orders::default() }
    }

    /// To answer a question about connections.
    pub fn inspect(inspection: Inspection) -> Orders {
        Orders { inspect: Inspections::one(inspection), ..Orders::default() }
    }
}

impl Merge for Orders {
    fn merge(&mut self, later: Orders) {
        if let Some(mut adopt) = later.adopt {
            if let Some(earlier) = self.adopt.take() {
                let listens = |socket: &ListenSocket| adopt.snapshot.listener_of(socket.address()).is_some();
                // A socket whose listener is gone already would be closed at once.
                let mut sockets: Vec<ListenSocket> = earlier.sockets.into_iter().filter(listens).collect();
                sockets.append(&mut adopt.sockets);
                adopt.sockets = sockets;
            }
            self.adopt = Some(adopt);
        }
        self.reset.extend(later.reset);
        if self.reset.len() > RESETS_MAX {
            log::error!(
                "a worker does not respond: connections of backends that were removed or went down go on there"
            );
            self.reset.truncate(RESETS_MAX);
        }
        self.inspect.add(later.inspect);
        self.lend = later.lend.or(self.lend.take());
        self.accept = later.accept.or(self.accept);
        self.leave |= later.leave;
        self.back.extend(later.back);
        self.arrive.extend(later.arrive);
        // The earlier order was withdrawn: its channel disconnects.
        self.depart = later.depart.or(self.depart.take());
        self.drain |= later.drain;
        self.stop = self.stop.or(later.stop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Model;
    use crate::pool::{self, BackendId, ResetScope};
    use crossbeam_channel::{TryRecvError, bounded};

    fn adopt(done: Sender<()>) -> Orders {
        let model = Model { global: Default::default(), listeners: Vec::new(), pools: Vec::new() };
        let snapshot = Arc::new(pool::build(&model, &Default::default()));
        Orders { adopt: Some(Adopt { snapshot, sockets: Vec::new(), done }), ..Orders::default() }
    }

    fn all_of(ids: &[u64]) -> ResetOrder {
        ids.iter().map(|id| (BackendId(*id), ResetScope::All)).collect()
    }

    #[test]
    fn the_newest_snapshot_wins_and_nothing_else_is_lost() {
        let ((first, of_first), (second, of_second)) = (bounded(1), bounded(1));
        let mut orders = adopt(first);
        orders.merge(Orders::reset(all_of(&[1])));
        orders.merge(adopt(second));
        orders.merge(Orders::reset(all_of(&[2, 1])));
        orders.merge(Orders { drain: true, ..Orders::default() });
        orders.merge(Orders { stop: Some(CloseReason::Shutdown), ..Orders::default() });
        assert_eq!(of_first.try_recv(), Err(TryRecvError::Disconnected));
        assert_eq!(of_second.try_recv(), Err(TryRecvError::Empty));
        assert_eq!((orders.reset.len(), orders.drain, orders.stop), (2, true, Some(CloseReason::Shutdown)));
    }

    #[test]
    fn resets_are_bounded() {
        let mut orders = Orders::default();
        for id in 0..=RESETS_MAX as u64 {
            orders.merge(Orders::reset(all_of(&[id])));
        }
        assert_eq!(orders.reset.len(), RESETS_MAX);
    }
}
