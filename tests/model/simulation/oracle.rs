//! Checks every ending as it comes, against the table in `session`.

use crate::simulation::preamble::Preamble;
use crate::simulation::routes::{SNIFF, Said, YES};
use crate::simulation::world::{Shared, World};
use crate::simulation::{HALF_CLOSE, IDLE, LIFETIME};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use tcplb::base::{Endpoint, Tick};
use tcplb::session::{CloseReason, Fact, Ledger, PREAMBLE_TIMEOUT, QUIET, RESET_PATIENCE, Record, Side};
use tcplb::worker::ledger;

/// Checks each ending as it comes.
#[derive(Clone)]
pub struct Oracle {
    pub world: Shared,
    pub failures: Rc<RefCell<u64>>,
    pub ended: Rc<RefCell<Vec<Ended>>>,
    pub stopped: Rc<RefCell<bool>>,
    /// Connections of a backend are being reset.
    pub dropping: Rc<RefCell<bool>>,
    /// An operator closes a connection.
    pub closing: Rc<RefCell<bool>>,
    /// How long a client waits for a backend.
    pub wait: Duration,
    /// Does it leave the queue at its FIN?
    pub drops: bool,
}

pub struct Ended {
    pub close: CloseReason,
    pub conn: usize,
    pub held: bool,
    /// Its backend was dropped, or an operator closed it.
    pub dropped: bool,
    /// Its client sent a FIN while it waited for a backend.
    pub abandoned: bool,
    pub after_reset: Option<AfterReset>,
    /// Its lifetime was over, and bytes moved all the time.
    pub busy: bool,
    pub to_backend: u64,
    pub to_client: u64,
}

/// The fate of the bytes that a side had sent before it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AfterReset {
    /// No backend was connected.
    NotRelayed,
    /// The other side had failed too, or took nothing for too long.
    GivenUp,
    /// They have all arrived: some, or none, and a FIN behind them, or none.
    Delivered { some: bool, fin: bool },
}

impl AfterReset {
    fn of(world: &World, failed: Option<usize>, other: Option<usize>) -> AfterReset {
        let (Some(failed), Some(other)) = (failed, other) else { return AfterReset::NotRelayed };
        let (from, to) = (&world.socks[failed], &world.socks[other]);
        let facts = &world.conns[from.conn];
        let all = world.stream_read(failed) == world.stream_sent(failed)
            && world.stream_written(other) == world.stream_sent(failed);
        let last = to.last_write.max(to.last_take);
        let stalled = world.now - last.max(facts.failed_at) >= RESET_PATIENCE;
        if stalled || to.reset {
            return AfterReset::GivenUp;
        }
        assert!(all, "bytes that were sent before a reset are lost");
        assert_eq!(to.taken, to.written, "the reset overtakes bytes in the kernel's queue");
        let fin_hidden = from.fin && from.fin_hidden;
        assert!(from.fin == to.finished || fin_hidden, "a FIN before the reset, or none");
        AfterReset::Delivered { some: world.stream_sent(failed) > 0, fin: to.finished }
    }
}

/// The number of a connection is its client's port, by whatever address that goes.
fn number(client: Option<&Endpoint>) -> usize {
    let Some(Endpoint::Inet(at)) = client else { panic!("the client's address is lost") };
    usize::from(at.port())
}

impl Ledger for Oracle {
    fn record(&mut self, fact: Fact<'_>, now: Tick) {
        ledger::count(&fact, now);
        match fact {
            Fact::AttemptFailed { is_last: true, .. } => *self.failures.borrow_mut() += 1,
            Fact::Closed(record) => self.closed(record),
            _ => {}
        }
    }
}

impl Oracle {
    /// The sockets are still open here; [`check_sockets`] looks at them once they are not.
    fn closed(&mut self, record: &Record) {
        let world = self.world.borrow();
        let conn = number(record.client.as_ref());
        let facts = &world.conns[conn];
        let sock = |id: Option<usize>| id.map(|id| &world.socks[id]);
        let client = sock(facts.client).expect("a client");
        let connected = facts.backend.filter(|_| facts.connected);
        let backend = sock(connected);
        let header = facts.header.len() as u64;
        let preamble_read = client.read >= header;
        let looked = world.is_routed && preamble_read && !facts.is_denied();
        let delivered = |to: Option<usize>| to.map_or(0, |id| world.stream_written(id));
        let got = |from: Option<usize>| from.map_or(0, |id| world.stream_read(id));
        // An address announced in a header that did not arrive belongs to no connection.
        if facts.preamble == Preamble::Header && preamble_read && record.close != CloseReason::ClientReset {
            assert_eq!(record.client, facts.at);
        }
        let silent = world.now - facts.last_io;
        let (mut after_reset, mut quiet) = (None, true);
        match record.close {
            CloseReason::ClientReset => {
                assert_eq!(facts.first_error, Some(Side::Client));
                after_reset = Some(AfterReset::of(&world, facts.client, connected));
            }
            CloseReason::BackendReset => {
                assert_eq!(facts.first_error, Some(Side::Backend));
                after_reset = Some(AfterReset::of(&world, connected, facts.client));
            }
            CloseReason::ClientFin if looked && client.fin_read && !facts.connected => {
                assert!(!world.has_heard(facts) && facts.dials == 0);
            }
            CloseReason::ClientFin if client.read == 0 && header > 0 => assert!(client.fin_read && facts.dials == 0),
            CloseReason::ClientFin if !facts.connected => {
                assert!(
                    self.drops && !self.wait.is_zero() && client.fin && preamble_read,
                    "served no more, though it waited"
                );
            }
            CloseReason::ClientFin | CloseReason::BackendFin => {
                let backend = backend.expect("a backend");
                assert!(client.fin_read && backend.fin_read, "over before both have finished");
                assert_eq!((client.read, backend.read), (client.sent, backend.sent), "bytes left unread");
                assert_eq!(delivered(connected), got(facts.client), "bytes undelivered");
                assert_eq!(client.written, backend.read, "bytes undelivered");
                let first = if record.close == CloseReason::ClientFin { Side::Client } else { Side::Backend };
                assert_eq!(facts.first_fin, Some(first));
            }
            CloseReason::IdleTimeout => assert!(silent >= IDLE && facts.first_fin.is_none(), "{silent:?}"),
            CloseReason::HalfCloseTimeout => assert!(silent >= HALF_CLOSE && facts.first_fin.is_some(), "{silent:?}"),
            CloseReason::ConnectFailed => {
                assert!(facts.dials > 0 && !facts.connected);
                assert!(!client.error_given || world.stream_sent(facts.client.expect("a client")) > 0);
            }
            CloseReason::NoBackend => {
                assert!(facts.dials == 0 && (world.now - facts.accepted >= self.wait || self.wait.is_zero()));
            }
            CloseReason::BadProxyHeader => {
                let late = world.now - facts.accepted >= PREAMBLE_TIMEOUT && client.read < header;
                let cut = client.fin_read && client.read > 0 && client.read < header;
                let bad = match facts.preamble {
                    Preamble::None => false,
                    Preamble::Header => late || cut,
                    Preamble::Garbage => late || client.read > 0,
                    Preamble::NotTrusted => client.read == 0 && record.duration.is_zero(),
                };
                assert!(bad && facts.dials == 0, "a header that was good: {facts:?}");
            }
            CloseReason::SniffFailed => {
                assert!(looked);
                let refused = facts.backend.is_some_and(|backend| world.socks[backend].read > 0);
                let late = world.now - facts.accepted >= SNIFF;
                let heard = world.has_heard(facts);
                let cut = client.fin_read && heard;
                let silent = late && !heard && !world.has_silent_pool;
                let broken = facts.said == Said::Broken;
                let bad = silent || !world.has_decided(facts) && (late && heard || cut) || broken && heard;
                assert_eq!(refused, facts.dials > 0, "the backend has not answered");
                let bad = if refused { !facts.request.is_empty() && facts.reply != YES[0] } else { bad };
                assert!(bad, "first bytes that were good: {facts:?}");
            }
            CloseReason::Denied => assert!(preamble_read && facts.is_denied() && facts.dials == 0),
            CloseReason::SourceLimit => {
                let is_over = |other: usize| self.ended.borrow().iter().any(|ended| ended.conn == other);
                let mut others = world.conns.iter().enumerate().filter(|(at, _)| *at != conn && !is_over(*at));
                assert!(others.any(|(_, other)| other.source() == facts.source()), "no other client is there");
                assert!(preamble_read && !facts.is_denied() && facts.dials == 0);
            }
            CloseReason::SourceRate => panic!("there is no rate"),
            CloseReason::Shutdown => assert!(*self.stopped.borrow()),
            CloseReason::Forced if *self.dropping.borrow() => assert!(facts.connected),
            CloseReason::Forced if *self.closing.borrow() => {}
            CloseReason::Forced => {
                let age = world.now - facts.accepted;
                quiet = silent >= QUIET;
                assert!(age >= LIFETIME * 9 / 10 && facts.connected, "{age:?}");
            }
        }
        assert!(facts.dials == 0 || preamble_read && !facts.is_denied(), "let in against the list");
        let to_backend = delivered(connected);
        let to_client = if backend.is_some() { delivered(facts.client) } else { 0 };
        assert_eq!((record.bytes_to_backend, record.bytes_to_client), (to_backend, to_client), "miscounted");
        assert_eq!(record.connect.is_some(), facts.connected);
        let backend_preamble_sent =
            backend.is_none_or(|backend| backend.written >= facts.backend_preamble.len() as u64);
        let held = backend.is_some_and(|backend| {
            !backend_preamble_sent || to_backend < got(facts.client) || client.written < backend.read
        });
        let dropped = *self.dropping.borrow() || *self.closing.borrow();
        if record.close == CloseReason::Forced && !dropped && (held || !quiet) {
            assert!(world.now - facts.accepted >= LIFETIME, "no quiet moment was waited for");
        }
        let close = record.close;
        let in_queue = !looked || !client.fin_read;
        let abandoned = close == CloseReason::ClientFin && !facts.connected && preamble_read && in_queue;
        drop(world);
        self.world.borrow_mut().conns[conn].over = true;
        self.ended.borrow_mut().push(Ended {
            close,
            conn,
            held,
            dropped,
            abandoned,
            after_reset,
            busy: !quiet,
            to_backend,
            to_client,
        });
    }
}

/// How each reason closes the sockets, as the table says.
pub fn check_sockets(world: &World, ended: &Ended) {
    let in_order = match ended.close {
        CloseReason::ClientFin | CloseReason::BackendFin => !ended.abandoned,
        CloseReason::IdleTimeout | CloseReason::HalfCloseTimeout | CloseReason::Forced => {
            !ended.held && !ended.dropped && !ended.busy && world.conns[ended.conn].first_error.is_none()
        }
        _ => false,
    };
    let conn = &world.conns[ended.conn];
    for id in [conn.client, conn.backend].into_iter().flatten() {
        let sock = &world.socks[id];
        assert!(!sock.open, "{:?} is over, its {:?} socket open", ended.close, sock.side);
        // A backend that never connected is just closed when another attempt follows it.
        if sock.side == Side::Client || conn.connected {
            assert_eq!(sock.closed_by_reset, !in_order, "{:?}: {:?} socket", ended.close, sock.side);
        }
    }
}
