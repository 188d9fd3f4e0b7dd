//! Any life of a connection, as bytes. Each byte chooses what the driver reports next, out of all that a driver could report
//! then and of what none would. The session answers with what the table in `tcplb::session` allows. It holds a lease exactly
//! while it has a backend, and a deadline whenever no other event would wake it. It ends once. It is the same session after
//! it is saved and restored at any moment.
//!
//! What makes it different from the simulation: nothing here is a socket, a queue or a relay, so no order is impossible.

#[path = "machine.rs"]
pub mod machine;
#[path = "setup.rs"]
mod setup;

use machine::{Asked, Machine};
use setup::{Choices, LIFETIME, build, hello, leases, settings};
use std::sync::Arc;
use std::time::Duration;
use tcplb::base::{Endpoint, Tick};
use tcplb::config::model;
use tcplb::policy::health::ConnectFailure;
use tcplb::policy::limit::Reason;
use tcplb::pool::{Lease, Listener, PickError, Pool};
use tcplb::proto::proxy::{Announced, Header};
use tcplb::proto::sniff::postgres::Reply;
use tcplb::proto::sniff::{self, Protocol};
use tcplb::session::saved::Saved;
use tcplb::session::{
    CloseReason, ConnectionId, DialFailure, Direction, Ending, Failed, HalfState, Input, Left, Moved, NoAnswer,
    NoHeader, Preamble, QUIET, RESET_PATIENCE, Route, Session, Side, Stage,
};

const REFUSED: DialFailure = DialFailure::Failed(ConnectFailure::Os(111));

/// Fails if a promise is broken.
pub fn check(bytes: &[u8]) {
    let mut choices = Choices(bytes.iter());
    let mut life = Life::begin(&mut choices);
    let pools = life.pools.clone();
    while !choices.is_over() {
        life.step(&mut choices);
    }
    life.session.handle(Input::Stop(CloseReason::Shutdown), life.now);
    assert!(life.session.over.is_some(), "it does not stop");
    drop(life);
    assert_eq!(leases(&pools), 0, "a lease is left");
}

/// What the driver owes the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owed {
    Header,
    Admission,
    FirstBytes,
    Choice,
    Place,
    Dial,
    Reply,
    Preamble,
    Measure,
    Nothing,
}

/// What has come and gone in one direction.
#[derive(Clone, Copy, Default)]
struct Stream {
    fin: bool,
    /// Its source has failed, and sent no FIN before.
    cut: bool,
    held: bool,
    finished: bool,
    /// Its sink has failed.
    dropped: bool,
    written: u64,
}

/// A side has failed while it relays.
#[derive(Clone, Copy)]
struct Failure {
    /// The one that did so first.
    side: Side,
    /// When the other side was last seen to take something.
    taken: Tick,
    /// What its kernel still had for it at the last look, and what was written since.
    filled: u64,
    /// The connection may end by this input.
    may_end: bool,
}

struct Life {
    session: Machine,
    listener: Arc<Listener>,
    /// That of the listener, and that of its route.
    pools: Vec<Arc<Pool>>,
    now: Tick,
    owed: Owed,
    /// Up and down, once it relays.
    streams: [Stream; 2],
    relays: bool,
    failed: Option<Failure>,
    /// When a byte, or a FIN, was last moved.
    last: Tick,
    /// Bytes of the preamble for the backend that are still held.
    preamble: u64,
    /// Backends tried since it last waited, or began.
    tried: Vec<u32>,
}

impl Life {
    fn begin(choices: &mut Choices<'_>) -> Life {
        let (mut settings, listener, resolved) = settings(choices);
        let preamble = [Preamble::None, Preamble::ProxyHeader, Preamble::NotTrusted][usize::from(choices.below(3))];
        let client = (choices.below(2) == 0).then(|| Endpoint::Inet(([127, 0, 0, 1], 9).into()));
        settings.max_lifetime = (choices.below(2) == 0).then_some(LIFETIME);
        let (snapshot, now) = (build(&settings, listener, &resolved), Tick(1 << 40));
        let listener = snapshot.listeners[0].clone();
        let session = Machine::new(Session::new(ConnectionId(1), client, preamble, listener.clone(), 0, now));
        let mut life = Life {
            session,
            listener,
            pools: snapshot.pools,
            now,
            owed: Owed::Nothing,
            streams: [Stream::default(); 2],
            relays: false,
            failed: None,
            last: now,
            preamble: 0,
            tried: Vec::new(),
        };
        life.give(Input::Begin);
        life
    }

    /// Gives the session an input, and notes what it asks for.
    fn give(&mut self, input: Input<'_>) -> Asked {
        let asked = self.session.handle(input, self.now);
        self.take(asked);
        asked
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        let ended = self.session.over.is_some();
        let chosen = choices.below(8);
        let input = match chosen {
            0 => return self.rebuild(choices),
            1 => return self.pass(choices),
            2 => match choices.below(3) {
                2 => Input::Stop(CloseReason::Forced),
                // The answer to this one comes at once.
                _ if self.owed == Owed::Preamble => return,
                side => {
                    let side = [Side::Client, Side::Backend][usize::from(side)];
                    self.fails(side);
                    Input::Reset(side)
                }
            },
            3 => return self.nonsense(choices),
            _ if self.owed == Owed::Nothing => self.moved(choices),
            _ => self.answer(choices),
        };
        let left = if let Input::Left(how) = &input { Some(*how) } else { None };
        let asked = self.give(input);
        if let Some(how) = left {
            self.check_left(how, asked);
        }
        assert!(!ended || asked == Asked::Wait, "it is over");
    }

    /// What the driver owes.
    fn answer(&mut self, choices: &mut Choices<'_>) -> Input<'static> {
        let choice = choices.next();
        match self.owed {
            Owed::Header => {
                let announced = match choice % 7 {
                    0 => Err(NoHeader::Bad),
                    1 => Err(NoHeader::CutShort),
                    2 => Err(NoHeader::Silence),
                    3 => Ok(Announced::Local),
                    4 => Ok(Announced::Unknown),
                    5 => Ok(Announced::inet(([203, 0, 113, 1], 7).into(), ([198, 51, 100, 1], 443).into())),
                    _ => Ok(Announced::Unix(vec![7; 216].try_into().expect("a pair of paths"))),
                };
                Input::Header(announced.map(|announced| Box::new(Header::new(announced))))
            }
            Owed::Admission => Input::Admitted(match choice % 6 {
                0 => Err(Reason::Denied),
                1 => Err(Reason::SourceLimit),
                2 => Err(Reason::SourceRate),
                _ => Ok(()),
            }),
            Owed::FirstBytes => match choice % 6 {
                0 => Input::Heard,
                1 => Input::Sniffed(Ok(None)),
                2 => Input::Sniffed(Err(NoAnswer::Fin)),
                3 => Input::Sniffed(Err(NoAnswer::Failed(sniff::Failure::HelloMalformed))),
                4 => Input::Sniffed(Ok(Some(hello(Protocol::Tls)))),
                _ => Input::Sniffed(Ok(Some(hello(Protocol::Postgres)))),
            },
            Owed::Reply => match choice % 6 {
                0 => Input::Replied(Reply::More),
                1 => Input::Replied(Reply::NoTls),
                2 => Input::Replied(Reply::Invalid),
                3 => Input::Dialed(Err(REFUSED)),
                _ => Input::Replied(Reply::Tls),
            },
            Owed::Choice if choice.is_multiple_of(4) => Input::Picked(Err(PickError::AllDown)),
            Owed::Choice => {
                let mut random = fastrand::Rng::with_seed(choice.into());
                let pool = self.session.pool.as_ref().expect("it has asked");
                let picked = pool.pick(self.session.client, &self.session.tried, Tick(1), &mut random);
                if let Ok(lease) = &picked {
                    assert!(!self.tried.contains(&lease.index()), "tried in vain, and again");
                    self.tried.push(lease.index());
                    let most = pool.settings.connect_attempts as usize;
                    assert!(self.tried.len() <= most, "tries on and on");
                }
                Input::Picked(picked)
            }
            Owed::Place => match choice % 8 {
                0 | 4 => Input::NoPlace,
                1 => Input::Left(Left::Finished),
                2 => Input::Left(Left::Gone),
                _ => Input::Turn,
            },
            Owed::Dial => Input::Dialed(match choice % 4 {
                0 => Err(REFUSED),
                1 => Err(DialFailure::Starved),
                _ => Ok(()),
            }),
            Owed::Preamble => {
                self.preamble = u64::from(choice);
                self.streams[0].held = choice > 0;
                Input::Announced(self.preamble)
            }
            Owed::Measure => {
                let unsent = u64::from(choice % 4);
                if let Some(failure) = &mut self.failed {
                    if unsent < failure.filled {
                        failure.taken = self.now;
                    }
                    failure.filled = unsent;
                    let stream = self.streams[usize::from(Direction::from(failure.side) == Direction::Down)];
                    let written_out = !stream.held && (stream.cut || stream.finished);
                    failure.may_end |= written_out && unsent == 0;
                }
                Input::Unsent(unsent)
            }
            Owed::Nothing => Input::Deadline,
        }
    }

    /// What a relay engine reports, or a look at the clock where nothing is relayed.
    fn moved(&mut self, choices: &mut Choices<'_>) -> Input<'static> {
        let direction = Direction::BOTH[usize::from(choices.below(2))];
        let stream = &mut self.streams[usize::from(direction == Direction::Down)];
        let over = stream.fin || stream.cut;
        if !self.relays || stream.finished || stream.dropped || (over && !stream.held) {
            return Input::Deadline;
        }
        let bits = choices.next();
        let fails = bits >> 6 == 3;
        let source_fails = fails && bits & 1 == 1 && !over;
        let moved = Moved {
            read: if over { 0 } else { u64::from(bits & 3) },
            written: u64::from(bits >> 2 & 3),
            held: bits >> 4 & 1 == 1,
            piped: false,
            fin: bits >> 5 & 1 == 1 && !over && !source_fails,
            failed: fails.then_some(if source_fails { Failed::Source } else { Failed::Sink }),
        };
        let of_preamble = if direction == Direction::Up { moved.written.min(self.preamble) } else { 0 };
        self.preamble -= of_preamble;
        stream.written += moved.written - of_preamble;
        stream.held = moved.held;
        stream.fin |= moved.fin;
        stream.cut |= moved.failed == Some(Failed::Source) && !stream.fin;
        match moved.failed {
            Some(Failed::Source) => self.fails(direction.source()),
            Some(Failed::Sink) => self.fails(direction.sink()),
            None => {}
        }
        if moved.read > 0 || moved.written > 0 || moved.fin {
            self.last = self.now;
        }
        if let Some(failure) = self.failed.as_mut().filter(|_| moved.written > 0) {
            failure.taken = self.now;
            failure.filled = failure.filled.saturating_add(moved.written);
        }
        Input::Moved(direction, moved)
    }

    /// A side fails. What the first one sent before is delivered; a second one ends the connection.
    fn fails(&mut self, side: Side) {
        if !self.relays || self.session.over.is_some() {
            return;
        }
        match &mut self.failed {
            Some(failure) => failure.may_end |= failure.side != side,
            None => {
                self.failed = Some(Failure { side, taken: self.now, filled: u64::MAX, may_end: false });
                let dropped = &mut self.streams[usize::from(Direction::to(side) == Direction::Down)];
                (dropped.held, dropped.dropped) = (false, true);
            }
        }
    }

    /// A client that leaves while it waits ends its connection, unless it sent a FIN and its pool serves such clients.
    fn check_left(&self, how: Left, asked: Asked) {
        let close = match (how, self.listener.pool.settings.abandoned) {
            (Left::Gone, _) => Some(CloseReason::ClientReset),
            (Left::Finished, model::Abandoned::Drop) => Some(CloseReason::ClientFin),
            (Left::Finished, model::Abandoned::Serve) => None,
        };
        assert_eq!(self.session.closed().map(|(close, _)| close), close, "its client has left: {how:?}");
        assert_eq!(asked, close.map_or(Asked::Wait, |_| Asked::End(Ending::Reset)));
    }

    /// Time passes, and the timer fires.
    fn pass(&mut self, choices: &mut Choices<'_>) {
        let time = [0, 1, 60, 900, 4_100, 11_000, 61_000][usize::from(choices.below(7))];
        self.now = self.now + Duration::from_millis(time);
        let before = self.session.deadline();
        let asked = self.give(Input::Deadline);
        if before.is_some_and(|deadline| deadline <= self.now) {
            assert!(asked != Asked::Wait || self.session.deadline() > Some(self.now), "a deadline without effect");
        } else {
            assert_eq!(asked, Asked::Wait, "before its time");
        }
    }

    /// What no driver reports at this moment must not move it.
    fn nonsense(&mut self, choices: &mut Choices<'_>) {
        let byte = choices.next();
        let input = match byte % 11 {
            10 if self.owed != Owed::Reply => Input::Replied(Reply::NoTls),
            9 if self.owed != Owed::FirstBytes => Input::Sniffed(Ok(Some(hello(Protocol::Tls)))),
            8 if self.owed != Owed::FirstBytes => Input::Heard,
            7 if self.failed.is_none() => Input::Unsent(0),
            0 if self.owed != Owed::Header => Input::Header(Err(NoHeader::Bad)),
            1 if self.owed != Owed::Admission => Input::Admitted(Err(Reason::Denied)),
            2 if self.owed != Owed::Choice => Input::Picked(Err(PickError::AllFull)),
            3 if self.owed != Owed::Place => match byte >> 3 & 3 {
                0 => Input::Left(Left::Finished),
                1 => Input::Left(Left::Gone),
                2 => Input::NoPlace,
                _ => Input::Turn,
            },
            4 if !matches!(self.owed, Owed::Dial | Owed::Reply) => Input::Dialed(Err(REFUSED)),
            5 if self.owed != Owed::Dial => Input::Dialed(Ok(())),
            6 if !self.relays && self.owed != Owed::Preamble => {
                Input::Moved(Direction::Up, Moved { fin: true, ..Moved::default() })
            }
            _ => return,
        };
        // One that waits for a descriptor has no dial under way, but is still about to.
        if matches!(input, Input::Dialed(_)) && self.session.stage() == Stage::Dialing {
            return;
        }
        let before = (self.session.deadline(), leases(&self.pools), self.session.stage(), self.session.facts);
        assert_eq!(self.session.handle(input, self.now), Asked::Wait, "it asked for nothing of the kind");
        let after = (self.session.deadline(), leases(&self.pools), self.session.stage(), self.session.facts);
        assert_eq!(before, after);
    }

    /// Written down and rebuilt with another clock: a dial or a place in a queue is lost, nothing else.
    fn rebuild(&mut self, choices: &mut Choices<'_>) {
        let Some(saved) = self.session.save(self.now) else { return assert!(self.session.over.is_some()) };
        let text = serde_json::to_string(&saved).expect("it can be written");
        let saved: Saved = serde_json::from_str(&text).expect("it can be read");
        assert_eq!(saved.listener, self.listener.name);
        let later = u64::from(choices.next()) << 20;
        let before = self.session.deadline();
        let named = |name: &str| self.pools.iter().find(|pool| pool.settings.name == name).expect("one of the pools");
        let pool = saved.pool.as_deref().map_or(&self.listener.pool, named);
        let lease = saved.relay.as_ref().map(|relay| {
            let at = pool.members.iter().position(|member| member.backend.name == relay.backend);
            let at = at.expect("the same pool");
            Lease::take(&pool.members[at].backend, at, u32::MAX).expect("room")
        });
        let now = Tick(self.now.0 + later);
        let route = match &saved.pool {
            Some(_) => Route::Pool(pool.clone()),
            None => Route::Listener(self.listener.clone()),
        };
        let rebuilt = Session::restore(&saved, ConnectionId(2), self.listener.totals.clone(), route, lease, now)
            .expect("it can be rebuilt");
        let facts = self.session.facts;
        self.session = Machine { facts, ..Machine::new(rebuilt) };
        if self.relays || self.owed == Owed::FirstBytes {
            let expected = before.map(|deadline| Tick(deadline.0 + later));
            let early = before.is_some_and(|deadline| deadline < self.now);
            assert!(early || self.session.deadline() == expected, "another deadline");
        }
        self.now = now;
        self.last = Tick(self.last.0 + later);
        if let Some(failure) = &mut self.failed {
            failure.taken = Tick(failure.taken.0 + later);
        }
        self.tried.clear();
        if self.relays || self.owed == Owed::Preamble {
            // Where a preamble was due, it is held before anything else is looked at.
            return self.look();
        }
        self.give(Input::Begin);
    }

    /// Notes what an effect asks for, and whether it may.
    fn take(&mut self, asked: Asked) {
        self.owed = match asked {
            Asked::Wait => match self.session.stage() {
                Stage::Dialing => Owed::Dial,
                Stage::Requesting => Owed::Reply,
                Stage::Waiting => Owed::Place,
                Stage::Preamble => Owed::Header,
                Stage::Sniffing => Owed::FirstBytes,
                Stage::Closed => Owed::Nothing,
                _ if matches!(self.owed, Owed::Dial | Owed::Measure) => Owed::Nothing,
                _ => self.owed,
            },
            Asked::ReadPreamble => Owed::Header,
            Asked::Admit => Owed::Admission,
            Asked::Sniff => Owed::FirstBytes,
            Asked::Pick => Owed::Choice,
            Asked::Queue => {
                assert_eq!(self.session.stage(), Stage::Waiting);
                self.tried.clear();
                Owed::Place
            }
            Asked::Dial => {
                assert!(self.session.address.is_some() && !self.relays);
                Owed::Dial
            }
            Asked::Request => Owed::Reply,
            Asked::Announce => Owed::Preamble,
            Asked::Relay => {
                self.last = self.now;
                assert!(!self.relays && self.halves() == [Some(HalfState::Open); 2]);
                self.relays = true;
                Owed::Nothing
            }
            Asked::Finish(side) => {
                let stream = &mut self.streams[usize::from(side == Side::Client)];
                assert!(stream.fin && !stream.held && !stream.finished, "a FIN that is not due");
                stream.finished = true;
                Owed::Nothing
            }
            Asked::ReadOut(side) => {
                assert!(self.failed.is_some_and(|failure| failure.side == side), "it has not failed first");
                Owed::Nothing
            }
            Asked::Measure(side) => {
                assert!(self.failed.is_some_and(|failure| failure.side == side.other()), "it has failed itself");
                Owed::Measure
            }
            Asked::End(ending) => {
                let held = self.streams.iter().any(|stream| stream.held);
                assert!(ending == Ending::Reset || !held, "a FIN behind half of the bytes");
                let over = self.session.over.as_ref().expect("it is over");
                let is_quiet = self.now - self.last >= QUIET;
                assert!(over.close != CloseReason::Forced || ending == Ending::Reset || is_quiet, "busy, and a FIN");
                let by_reset = matches!(over.close, CloseReason::ClientReset | CloseReason::BackendReset);
                if let Some(failure) = self.failed {
                    assert_eq!(ending, Ending::Reset, "a FIN for a reset");
                    let stalled = self.now - failure.taken >= RESET_PATIENCE;
                    assert!(failure.may_end || stalled || !by_reset, "a reset before its time");
                }
                let written = if self.relays { self.streams.map(|stream| stream.written) } else { [0; 2] };
                assert_eq!(over.bytes, written, "miscounted");
                assert_eq!(
                    u32::from(over.answered),
                    self.session.facts.answered,
                    "an answer and no fact, or the reverse"
                );
                Owed::Nothing
            }
        };
        self.look();
    }

    /// How far each direction has come, once it relays.
    fn halves(&self) -> [Option<HalfState>; 2] {
        let relay = self.session.save(self.now).and_then(|saved| saved.relay);
        [relay.as_ref().map(|relay| relay.up.half), relay.as_ref().map(|relay| relay.down.half)]
    }

    /// What holds after each step.
    fn look(&self) {
        let over = self.session.over.is_some();
        assert_eq!(over, self.session.stage() == Stage::Closed);
        let leases = leases(&self.pools);
        assert_eq!(leases, u32::from(self.session.backend().is_some()), "a lease without a backend");
        let asked = matches!(self.owed, Owed::Admission | Owed::Choice);
        assert!(over || asked || self.session.deadline().is_some(), "nothing will ever wake it");
        let connected = self.relays || self.owed == Owed::Preamble;
        assert!(over || self.session.facts.connected == u32::from(connected), "a connect and no fact, or the reverse");
        if self.relays && !over {
            let written = Direction::BOTH.map(|direction| self.session.bytes(direction));
            assert_eq!(written, self.streams.map(|stream| stream.written));
            let dropped = self.halves().map(|half| half == Some(HalfState::Dropped));
            assert_eq!(dropped, self.streams.map(|stream| stream.dropped));
        }
    }
}
