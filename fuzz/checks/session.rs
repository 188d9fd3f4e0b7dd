//! Any life of a connection, as bytes: each byte chooses what the driver reports next, out of all that a driver could report
//! then and of what none would. The session answers with what the table in `tcplb::session` allows, holds a lease exactly
//! while it has a backend, wants to be woken whenever nobody else would wake it, ends once, and stays itself when it is
//! written down and rebuilt at any moment.
//!
//! What makes it different from the simulation: nothing here is a socket, a queue or a relay, so no order is impossible.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tcplb::base::{Address, Endpoint, Tick};
use tcplb::config::model::{self, Model, ProxyVersion};
use tcplb::policy::limit::Reason;
use tcplb::pool::{self, Lease, PickError, Pool};
use tcplb::proto::proxy::{Announced, Header};
use tcplb::session::saved::Saved;
use tcplb::session::{
    CloseReason, DialFailure, Direction, Effect, Ending, Failed, Greeting, HalfState, Input, Left, Moved, NoHeader,
    QUIET, RESET_PATIENCE, Session, Side,
};
use tcplb::telemetry::ListenerTotals;

const WAIT: Duration = Duration::from_secs(4);

/// Choices, a byte each; all zero once they are used up.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn next(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    fn below(&mut self, bound: u8) -> u8 {
        self.next() % bound
    }

    fn is_over(&self) -> bool {
        self.0.as_slice().is_empty()
    }
}

/// Fails if a promise is broken.
pub fn check(bytes: &[u8]) {
    let mut choices = Choices(bytes.iter());
    let pool = pool(&mut choices);
    let mut life = Life::begin(&mut choices, pool);
    while !choices.is_over() {
        life.step(&mut choices);
    }
    life.session.on(Input::Stop(CloseReason::Shutdown), life.now);
    assert!(life.session.record().is_some(), "it does not stop");
    drop(life.session);
    assert_eq!(leases(&life.pool), 0, "a lease is left");
}

/// Up to three backends, the first with two addresses.
fn pool(choices: &mut Choices<'_>) -> Arc<Pool> {
    let mut resolved = HashMap::new();
    let mut backends = Vec::new();
    for number in 0..=choices.below(3) {
        let at = ([10, 0, 0, number], 80).into();
        let name = format!("b{number}");
        let second = (number == 0).then(|| Endpoint::Inet(([10, 0, 1, 0], 80).into()));
        resolved.insert((String::from("p"), name.clone()), [Endpoint::Inet(at)].into_iter().chain(second).collect());
        backends.push(model::Backend { name, ..model::Backend::at(Address::Inet(at)) });
    }
    let (connect_attempts, waiting) = (1 + u32::from(choices.below(3)), choices.next());
    let settings = model::Pool {
        name: "p".into(),
        connect_attempts,
        no_backend: if waiting & 1 == 0 { model::NoBackend::Reset } else { model::NoBackend::Wait(WAIT) },
        abandoned: if waiting & 2 == 0 { model::Abandoned::Serve } else { model::Abandoned::Drop },
        send_proxy: [None, Some(ProxyVersion::V1), Some(ProxyVersion::V2)][usize::from(choices.below(3))],
        half_close_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(60),
        backends,
        ..model::Pool::default()
    };
    let listener = model::Listener { pool: "p".into(), ..model::Listener::default() };
    let model = Model { global: model::Global::default(), listeners: vec![listener], pools: vec![settings] };
    pool::build(&model, &resolved).pools[0].clone()
}

fn leases(pool: &Pool) -> u32 {
    pool.members.iter().map(|member| member.backend.active()).sum()
}

/// What the driver owes the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owed {
    Header,
    Admission,
    Choice,
    Place,
    Dial,
    Introduction,
    Measure,
    Nothing,
}

/// What has come and gone one way.
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
    session: Session,
    pool: Arc<Pool>,
    now: Tick,
    owed: Owed,
    /// Up and down, once it relays.
    streams: [Stream; 2],
    relays: bool,
    failed: Option<Failure>,
    /// When a byte, or a FIN, was last moved.
    last: Tick,
    /// Bytes of our own header for the backend that are still held.
    introduction: u64,
    /// Backends tried since it last waited, or began.
    tried: Vec<u32>,
}

impl Life {
    fn begin(choices: &mut Choices<'_>, pool: Arc<Pool>) -> Life {
        let greeting = [Greeting::None, Greeting::ProxyHeader, Greeting::NotTrusted][usize::from(choices.below(3))];
        let client = (choices.below(2) == 0).then(|| Endpoint::Inet(([127, 0, 0, 1], 9).into()));
        let now = Tick(1 << 40);
        let mut session = Session::new(client, greeting, ListenerTotals::new("l".into()), pool.clone(), now);
        if choices.below(2) == 0 {
            session.expire_between(now + Duration::from_secs(30), now + Duration::from_secs(33));
        }
        let streams = [Stream::default(); 2];
        let (relays, failed, last, introduction, tried) = (false, None, now, 0, Vec::new());
        let mut life =
            Life { session, pool, now, owed: Owed::Nothing, streams, relays, failed, last, introduction, tried };
        let effect = life.session.begin(now);
        life.take(effect);
        life
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        let ended = self.session.record().is_some();
        let chosen = choices.below(8);
        let input = match chosen {
            0 => return self.rebuild(choices),
            1 => return self.pass(choices),
            2 => match choices.below(3) {
                2 => Input::Stop(CloseReason::Forced),
                // The answer to this one comes at once.
                _ if self.owed == Owed::Introduction => return,
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
        let effect = self.session.on(input, self.now);
        if let Some(how) = left {
            self.check_left(how, effect);
        }
        if ended {
            assert_eq!(effect, Effect::Wait, "it is over");
        }
        self.take(effect);
    }

    /// What the driver owes.
    fn answer(&mut self, choices: &mut Choices<'_>) -> Input {
        let choice = choices.next();
        match self.owed {
            Owed::Header => Input::Header(match choice % 7 {
                0 => Err(NoHeader::Bad),
                1 => Err(NoHeader::CutShort),
                2 => Err(NoHeader::Silence),
                3 => Ok(Header::new(Announced::Local)),
                4 => Ok(Header::new(Announced::Unknown)),
                5 => Ok(Header::new(Announced::inet(([203, 0, 113, 1], 7).into(), ([198, 51, 100, 1], 443).into()))),
                _ => Ok(Header::new(Announced::Unix(vec![7; 216].try_into().expect("a pair of paths")))),
            }),
            Owed::Admission => Input::Admitted(match choice % 6 {
                0 => Err(Reason::Denied),
                1 => Err(Reason::SourceLimit),
                2 => Err(Reason::SourceRate),
                _ => Ok(()),
            }),
            Owed::Choice if choice.is_multiple_of(4) => Input::Picked(Err(PickError::AllDown)),
            Owed::Choice => {
                let (client, tried) = (self.session.policy_client(), self.session.tried());
                let mut random = fastrand::Rng::with_seed(choice.into());
                let picked = self.pool.pick(client, tried, Tick(1), &mut random);
                if let Ok(lease) = &picked {
                    assert!(!self.tried.contains(&lease.index()), "tried in vain, and again");
                    self.tried.push(lease.index());
                    let most = self.pool.settings.connect_attempts as usize;
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
                0 => Err(DialFailure::Backend),
                1 => Err(DialFailure::Starved),
                _ => Ok(()),
            }),
            Owed::Introduction => {
                self.introduction = u64::from(choice);
                self.streams[0].held = choice > 0;
                Input::Announced(self.introduction)
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
    fn moved(&mut self, choices: &mut Choices<'_>) -> Input {
        let way = Direction::BOTH[usize::from(choices.below(2))];
        let stream = &mut self.streams[usize::from(way == Direction::Down)];
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
            fin: bits >> 5 & 1 == 1 && !over && !source_fails,
            failed: fails.then_some(if source_fails { Failed::Source } else { Failed::Sink }),
        };
        let ours = if way == Direction::Up { moved.written.min(self.introduction) } else { 0 };
        self.introduction -= ours;
        stream.written += moved.written - ours;
        stream.held = moved.held;
        stream.fin |= moved.fin;
        stream.cut |= moved.failed == Some(Failed::Source) && !stream.fin;
        match moved.failed {
            Some(Failed::Source) => self.fails(way.source()),
            Some(Failed::Sink) => self.fails(way.sink()),
            None => {}
        }
        if moved.read > 0 || moved.written > 0 || moved.fin {
            self.last = self.now;
        }
        if let Some(failure) = self.failed.as_mut().filter(|_| moved.written > 0) {
            failure.taken = self.now;
            failure.filled = failure.filled.saturating_add(moved.written);
        }
        Input::Moved(way, moved)
    }

    /// A side fails. What the first one sent before is delivered; a second one ends the connection.
    fn fails(&mut self, side: Side) {
        if !self.relays || self.session.record().is_some() {
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
    fn check_left(&self, how: Left, effect: Effect) {
        let close = match (how, self.pool.settings.abandoned) {
            (Left::Gone, _) => Some(CloseReason::ClientReset),
            (Left::Finished, model::Abandoned::Drop) => Some(CloseReason::ClientFin),
            (Left::Finished, model::Abandoned::Serve) => None,
        };
        assert_eq!(self.session.record().map(|record| record.close), close, "its client has left: {how:?}");
        assert_eq!(effect, close.map_or(Effect::Wait, |_| Effect::End(Ending::Reset)));
    }

    /// Time passes, and the timer fires.
    fn pass(&mut self, choices: &mut Choices<'_>) {
        let time = [0, 1, 60, 900, 4_100, 11_000, 61_000][usize::from(choices.below(7))];
        self.now = self.now + Duration::from_millis(time);
        let before = self.session.deadline();
        let effect = self.session.on(Input::Deadline, self.now);
        if before.is_some_and(|deadline| deadline <= self.now) {
            assert!(effect != Effect::Wait || self.session.deadline() > Some(self.now), "a deadline without effect");
        } else {
            assert_eq!(effect, Effect::Wait, "before its time");
        }
        self.take(effect);
    }

    /// What no driver reports at this moment must not move it.
    fn nonsense(&mut self, choices: &mut Choices<'_>) {
        let byte = choices.next();
        let input = match byte % 8 {
            7 if self.failed.is_none() => Input::Unsent(0),
            0 if self.owed != Owed::Header => Input::Header(Err(NoHeader::Bad)),
            1 if self.owed != Owed::Admission => Input::Admitted(Err(Reason::Denied)),
            2 if self.owed != Owed::Choice => Input::Picked(Err(PickError::AllFull)),
            3 if self.owed != Owed::Place => match byte >> 3 & 3 {
                0 => Input::Left(Left::Finished),
                1 => Input::Left(Left::Gone),
                _ => Input::Turn,
            },
            4 if self.owed != Owed::Dial => Input::Dialed(Err(DialFailure::Backend)),
            5 if self.owed != Owed::Dial => Input::Dialed(Ok(())),
            6 if !self.relays && self.owed != Owed::Introduction => {
                Input::Moved(Direction::Up, Moved { fin: true, ..Moved::default() })
            }
            _ => return,
        };
        // One that waits for a descriptor has no dial under way, but is still about to.
        if matches!(input, Input::Dialed(_)) && self.session.endpoint().is_some() {
            return;
        }
        let before = (self.session.deadline(), leases(&self.pool), self.session.record().is_some());
        assert_eq!(self.session.on(input, self.now), Effect::Wait, "nobody asked");
        let after = (self.session.deadline(), leases(&self.pool), self.session.record().is_some());
        assert_eq!(before, after);
    }

    /// Written down and rebuilt with another clock: a dial or a place in a queue is lost, nothing else.
    fn rebuild(&mut self, choices: &mut Choices<'_>) {
        let Some(saved) = self.session.save(self.now) else { return assert!(self.session.record().is_some()) };
        let text = serde_json::to_string(&saved).expect("it can be written");
        let saved: Saved = serde_json::from_str(&text).expect("it can be read");
        let later = u64::from(choices.next()) << 20;
        let before = self.session.deadline();
        let lease = saved.relay.as_ref().map(|relay| {
            let at = self.pool.members.iter().position(|member| member.backend.name == relay.backend);
            let at = at.expect("the same pool");
            Lease::take(&self.pool.members[at].backend, at, u32::MAX).expect("room")
        });
        let now = Tick(self.now.0 + later);
        let listener = ListenerTotals::new("l".into());
        let rebuilt = Session::restore(&saved, listener, self.pool.clone(), lease, now).expect("it can be rebuilt");
        self.session = rebuilt;
        if self.relays {
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
        if self.relays || self.owed == Owed::Introduction {
            // Who had to announce itself has done so before anything else is looked at.
            return self.look();
        }
        let effect = self.session.begin(now);
        self.take(effect);
    }

    /// Notes what an effect asks for, and whether it may.
    fn take(&mut self, effect: Effect) {
        self.owed = match effect {
            Effect::Wait if self.session.is_dialing() => Owed::Dial,
            Effect::Wait if self.session.is_waiting() => Owed::Place,
            Effect::Wait if self.session.reads_header() => Owed::Header,
            Effect::Wait if matches!(self.owed, Owed::Dial | Owed::Measure) || self.session.record().is_some() => {
                Owed::Nothing
            }
            Effect::Wait => self.owed,
            Effect::ReadHeader => Owed::Header,
            Effect::Admit => Owed::Admission,
            Effect::Pick => Owed::Choice,
            Effect::Queue => {
                assert!(self.session.is_waiting());
                self.tried.clear();
                Owed::Place
            }
            Effect::Dial => {
                assert!(self.session.endpoint().is_some() && !self.relays);
                Owed::Dial
            }
            Effect::Announce(_) => Owed::Introduction,
            Effect::Relay => {
                self.last = self.now;
                assert!(
                    !self.relays && Direction::BOTH.iter().all(|way| self.session.half(*way) == Some(HalfState::Open))
                );
                self.relays = true;
                Owed::Nothing
            }
            Effect::Finish(side) => {
                let stream = &mut self.streams[usize::from(side == Side::Client)];
                assert!(stream.fin && !stream.held && !stream.finished, "a FIN that is not due");
                stream.finished = true;
                Owed::Nothing
            }
            Effect::ReadOut(side) => {
                assert!(self.failed.is_some_and(|failure| failure.side == side), "it has not failed first");
                Owed::Nothing
            }
            Effect::Measure(side) => {
                assert!(self.failed.is_some_and(|failure| failure.side == side.other()), "it has failed itself");
                Owed::Measure
            }
            Effect::End(ending) => {
                let held = self.streams.iter().any(|stream| stream.held);
                assert!(ending == Ending::Reset || !held, "a FIN behind half of the bytes");
                let record = self.session.record().expect("it is over");
                let is_quiet = self.now - self.last >= QUIET;
                assert!(record.close != CloseReason::Forced || ending == Ending::Reset || is_quiet, "busy, and a FIN");
                let by_reset = matches!(record.close, CloseReason::ClientReset | CloseReason::BackendReset);
                if let Some(failure) = self.failed {
                    assert_eq!(ending, Ending::Reset, "a FIN for a reset");
                    let stalled = self.now - failure.taken >= RESET_PATIENCE;
                    assert!(failure.may_end || stalled || !by_reset, "a reset before its time");
                }
                let written = if self.relays { self.streams.map(|stream| stream.written) } else { [0; 2] };
                assert_eq!([record.bytes_to_backend, record.bytes_to_client], written, "miscounted");
                Owed::Nothing
            }
        };
        self.look();
    }

    /// What holds after each step.
    fn look(&self) {
        let over = self.session.record().is_some();
        assert_eq!(leases(&self.pool), u32::from(self.session.lease().is_some()), "a lease without a backend");
        let asked = matches!(self.owed, Owed::Admission | Owed::Choice);
        assert!(over || asked || self.session.deadline().is_some(), "nobody will ever wake it");
        if self.relays && !over {
            assert_eq!(Direction::BOTH.map(|way| self.session.bytes(way)), self.streams.map(|stream| stream.written));
            let dropped = Direction::BOTH.map(|way| self.session.half(way) == Some(HalfState::Dropped));
            assert_eq!(dropped, self.streams.map(|stream| stream.dropped));
        }
    }
}
