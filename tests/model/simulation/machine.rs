//! The session machine on its own, against the rows of its table. It gets every mixture of FINs, held bytes, failures
//! and time that a relay engine could report. That includes what today's engines never report. At any step the session
//! may be written down and rebuilt, and must then answer as if nothing had happened.

mod reference;
mod requesting;
mod sniffing;
mod waiting;
mod warm;

use super::{CONNECT, make_pool, make_pool_with};
use crate::corpora::session::machine::{Asked, Facts, Machine};
use reference::{Answer, Expected, Expiry, Reference, index_of};
use std::sync::Arc;
use std::time::Duration;
use tcplb::base::{Endpoint, Tick};
use tcplb::config::model::{self, Model, ProxyVersion};
use tcplb::policy::health::ConnectFailure;
use tcplb::policy::limit::Reason;
use tcplb::pool::{self, Lease, Listener, PickError, ResetOrder, ResetScope, Resolved, Snapshot, SnapshotPlan};
use tcplb::proto::proxy::{Announced, Header};
use tcplb::session::saved::Saved;
use tcplb::session::{
    CloseReason, ConnectionId, DialFailure, Direction, Ending, Failed, HalfState, Input, Left, Moved, NoAnswer,
    NoHeader, PREAMBLE_TIMEOUT, Preamble, Route, Session, Side, Stage,
};

/// A backend's addresses, and the header that it expects.
type Backend = (Vec<Endpoint>, Option<ProxyVersion>);

const REFUSED: DialFailure = DialFailure::Failed(ConnectFailure::Os(111));

fn endpoints(send_proxy: Option<ProxyVersion>) -> Vec<Backend> {
    (1..4).map(|host| (vec![Endpoint::Inet(([10, 0, 0, host], 80).into())], send_proxy)).collect()
}

/// With a pool where three backends are tried.
fn snapshot_of(backends: &[Backend]) -> Snapshot {
    make_pool(backends, 3).0
}

fn listener_of(backends: &[Backend]) -> Arc<Listener> {
    snapshot_of(backends).listeners[0].clone()
}

/// With a pool where a client waits that long if there is no backend.
fn waiting_listener(backends: &[Backend], wait: Duration) -> Arc<Listener> {
    let no_backend = model::NoBackend::Wait(wait);
    let settings = model::Pool { connect_attempts: 3, no_backend, ..model::Pool::default() };
    make_pool_with(backends, settings, (None, None)).0.listeners[0].clone()
}

/// A snapshot without any listener or pool.
fn nothing() -> Snapshot {
    let model = Model { global: model::Global::default(), listeners: Vec::new(), pools: Vec::new() };
    pool::build(&model, &Resolved::new())
}

fn machine(client: Option<Endpoint>, preamble: Preamble, listener: &Arc<Listener>, now: Tick) -> Machine {
    Machine::new(Session::new(ConnectionId(1), client, preamble, listener.clone(), 0, now))
}

/// What its pool answers to what it asked.
fn pick(listener: &Listener, session: &Machine, random: &mut fastrand::Rng) -> Input<'static> {
    Input::Picked(listener.pool.pick(session.client, &session.tried, Tick(0), random))
}

/// Through bytes and back, with another clock.
fn rebuild(session: &Machine, listener: &Arc<Listener>, now: Tick, offset: u64) -> (Machine, Tick) {
    let text = serde_json::to_string(&session.save(now).expect("it lives")).expect("it can be written");
    let saved: Saved = serde_json::from_str(&text).expect("it can be read");
    assert_eq!(saved.listener, listener.name);
    let (now, pool) = (Tick(now.0 + offset), &listener.pool);
    let lease = saved.relay.as_ref().map(|relay| {
        let at = pool.members.iter().position(|member| member.backend.name == relay.backend).expect("the same pool");
        Lease::take(&pool.members[at].backend, at, u32::MAX).expect("room")
    });
    let chosen = saved.pool.is_some();
    let route = if chosen { Route::Pool(pool.clone()) } else { Route::Listener(listener.clone()) };
    let rebuilt = Session::restore(&saved, ConnectionId(2), listener.totals.clone(), route, lease, now)
        .expect("it can be rebuilt");
    (Machine { facts: session.facts, ..Machine::new(rebuilt) }, now)
}

fn relay_life(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let send_proxy = [None, Some(ProxyVersion::V1), Some(ProxyVersion::V2)][random.usize(..3)];
    let mut now = Tick(1 << 40);
    let lifetime = random.bool().then(|| Duration::from_secs(random.u64(1..120)));
    let settings = model::Pool { connect_attempts: 3, max_lifetime: lifetime, ..model::Pool::default() };
    let listener = make_pool_with(&endpoints(send_proxy), settings, (None, None)).0.listeners[0].clone();
    let client = Some(Endpoint::Inet(([127, 0, 0, 1], 9).into()));
    let mut session = machine(client, Preamble::None, &listener, now);
    let expires = lifetime.map(|lifetime| {
        let from = now + lifetime;
        Expiry { from, until: from + lifetime / 10, look: from }
    });
    assert_eq!(session.handle(Input::Begin, now), Asked::Admit);
    assert_eq!(session.handle(Input::Admitted(Ok(())), now), Asked::Pick);
    let picked = pick(&listener, &session, &mut random);
    assert_eq!(session.handle(picked, now), Asked::Dial);
    let mut directions = [Expected::default(); 2];
    let mut preamble = 0;
    if send_proxy.is_none() {
        assert_eq!(session.handle(Input::Dialed(Ok(())), now), Asked::Relay);
    } else {
        assert_eq!(session.handle(Input::Dialed(Ok(())), now), Asked::Announce);
        preamble = random.u64(1..5);
        assert_eq!(session.handle(Input::Announced(preamble), now), Asked::Relay);
        directions[0].held = true;
    }
    let mut reference = Reference { directions, first_fin: None, failed: None, last: now, expires, preamble, up: 0 };
    let mut measures = false;
    for _ in 0..random.u32(1..60) {
        if random.u8(..) < 40 && !measures {
            let offset = random.u64(..1 << 30);
            (session, now) = rebuild(&session, &listener, now, offset);
            reference.shift(offset, now);
        }
        if !measures {
            now = now + Duration::from_millis([0, 1, 40, 700, 9_000, 30_000][random.usize(..6)]);
        }
        assert_eq!(session.deadline(), Some(reference.deadline()));
        let (asked, expected) = match random.u8(..20) {
            _ if measures => {
                let bytes = random.u64(..4);
                (session.handle(Input::Unsent(bytes), now), reference.unsent(bytes, now))
            }
            0 => {
                let side = if random.bool() { Side::Client } else { Side::Backend };
                (session.handle(Input::Reset(side), now), reference.fails(side, now))
            }
            1 => {
                let asked = session.handle(Input::Stop(CloseReason::Forced), now);
                (asked, Answer::end(Ending::Reset, CloseReason::Forced))
            }
            2..8 => (session.handle(Input::Deadline, now), reference.on_deadline(now)),
            _ => {
                let direction = Direction::BOTH[random.usize(..2)];
                let this = reference.directions[index_of(direction)];
                if this.shut || this.dropped {
                    let saved = session.save(now).and_then(|saved| saved.relay).expect("it relays");
                    let half = if direction == Direction::Up { saved.up.half } else { saved.down.half };
                    assert_eq!(half, if this.shut { HalfState::Shut } else { HalfState::Dropped });
                    continue;
                }
                let open = !this.fin && !this.cut;
                let source_fails = open && random.u8(..) < 6;
                let moved = Moved {
                    read: if open { random.u64(..3) } else { 0 },
                    written: random.u64(..3),
                    held: random.bool(),
                    piped: random.bool(),
                    fin: open && !source_fails && random.u8(..) < 60,
                    failed: match random.u8(..) {
                        _ if source_fails => Some(Failed::Source),
                        dice => (dice < 6).then_some(Failed::Sink),
                    },
                };
                let expected = reference.moved(direction, &moved, now);
                (session.handle(Input::Moved(direction, moved), now), expected)
            }
        };
        measures = matches!(asked, Asked::Measure(_));
        let reason = session.over.as_ref().map(|over| over.close);
        assert_eq!(Answer { asked, reason }, expected);
        let up = session.over.as_ref().map_or_else(|| session.bytes(Direction::Up), |over| over.bytes[0]);
        assert_eq!(up, reference.up, "the preamble counted as the client's bytes");
        if reason.is_some() {
            break;
        }
    }
    let over = session.over.is_some();
    assert_eq!(listener.pool.members.iter().map(|member| member.backend.active()).sum::<u32>(), u32::from(!over));
    if over {
        assert_eq!(session.handle(Input::Deadline, now), Asked::Wait);
        assert_eq!(session.handle(Input::Stop(CloseReason::Forced), now), Asked::Wait);
        assert!(session.save(now).is_none());
    }
}

#[test]
fn relaying_follows_the_table_and_survives_being_written_down() {
    for seed in 0..10_000 {
        let replay = std::panic::catch_unwind(|| relay_life(seed));
        assert!(replay.is_ok(), "failed with seed {seed}");
    }
}

/// A session that has been admitted.
fn admitted(listener: &Arc<Listener>, now: Tick) -> Machine {
    let mut session = machine(None, Preamble::None, listener, now);
    assert_eq!(session.handle(Input::Begin, now), Asked::Admit);
    assert_eq!(session.handle(Input::Admitted(Ok(())), now), Asked::Pick);
    session
}

/// One that dials the first backend that its pool chose.
fn dialing(listener: &Arc<Listener>, now: Tick) -> Machine {
    let mut session = admitted(listener, now);
    let picked = pick(listener, &session, &mut fastrand::Rng::with_seed(1));
    assert_eq!(session.handle(picked, now), Asked::Dial);
    session
}

#[test]
fn a_refused_client_is_reset_before_anything_is_chosen() {
    for (reason, close) in [
        (Reason::Denied, CloseReason::Denied),
        (Reason::SourceLimit, CloseReason::SourceLimit),
        (Reason::SourceRate, CloseReason::SourceRate),
    ] {
        let mut session = machine(None, Preamble::None, &listener_of(&endpoints(None)), Tick(0));
        assert_eq!(session.handle(Input::Admitted(Err(reason)), Tick(1)), Asked::End(Ending::Reset));
        assert_eq!(session.closed(), Some((close, 0)));
    }
}

#[test]
fn a_backend_whose_connections_are_reset_is_left_while_it_is_dialled_and_ends_a_relay() {
    let listener = listener_of(&endpoints(None));
    let reason = CloseReason::Forced;
    let all = |session: &Machine| session.backend().map(|backend| (backend.id, ResetScope::All)).into_iter().collect();
    let mut session = dialing(&listener, Tick(0));
    let order = &all(&session);
    assert_eq!(session.handle(Input::ResetBackends { order, reason }, Tick(1)), Asked::Pick);
    assert_eq!(session.tried.len(), 1);
    assert_eq!(session.facts, Facts::default(), "it has not failed");
    let picked = pick(&listener, &session, &mut fastrand::Rng::with_seed(1));
    assert_eq!(session.handle(picked, Tick(1)), Asked::Dial);
    assert_eq!(session.handle(Input::Dialed(Ok(())), Tick(1)), Asked::Relay);
    assert_eq!(session.handle(Input::ResetBackends { order, reason }, Tick(1)), Asked::Wait, "another one");
    let order = &all(&session);
    assert_eq!(session.handle(Input::ResetBackends { order, reason }, Tick(1)), Asked::End(Ending::Reset));
    assert_eq!(session.closed(), Some((CloseReason::Forced, 2)));
}

/// One that relays to the next address of its backend.
fn relaying(listener: &Arc<Listener>, now: Tick) -> Machine {
    let mut session = dialing(listener, now);
    assert_eq!(session.handle(Input::Dialed(Ok(())), now), Asked::Relay);
    session
}

/// The names of this snapshot lead to these endpoints now. The next one, and the connections of its backend that end by that.
fn replaced(before: &Snapshot, model: &Model, names: &mut Resolved, with: Vec<Endpoint>) -> (Snapshot, ResetOrder) {
    names.values_mut().for_each(|at| at.clone_from(&with));
    let plan = SnapshotPlan { model, resolved: names, addresses: &[], states: &[], now: Tick(1) };
    let next = pool::next(Some(before), &plan);
    let [old, new] = [before, &next].map(|snapshot| snapshot.pools[0].members[0].backend.clone());
    assert!(new.continues(&old));
    (next, old.reset_order_for(&new))
}

fn reset(session: &mut Machine, order: &ResetOrder) -> Asked {
    session.handle(Input::ResetBackends { order, reason: CloseReason::Forced }, Tick(1))
}

#[test]
fn a_rebuilt_relay_ends_with_its_backend_only_if_its_address_has_left() {
    let at = |host: u8| Endpoint::Inet(([10, 0, 0, host], 80).into());
    let (first, model, mut resolved) = make_pool(&[(vec![at(1), at(2)], None)], 3);
    let to = [(); 2].map(|()| relaying(&first.listeners[0], Tick(1)));
    let mut rebuilt = to.each_ref().map(|session| rebuild(session, &first.listeners[0], Tick(1), 0).0);
    let (second, order) = replaced(&first, &model, &mut resolved, vec![at(2), at(3)]);
    assert_eq!(rebuilt.each_mut().map(|session| reset(session, &order)), [Asked::End(Ending::Reset), Asked::Wait]);
    // Its address has left before. The backend can't say whether that is one that leaves now.
    let mut late = rebuild(&to[0], &second.listeners[0], Tick(1), 0).0;
    let (_third, order) = replaced(&second, &model, &mut resolved, vec![at(2)]);
    assert_eq!((reset(&mut late, &order), reset(&mut rebuilt[1], &order)), (Asked::End(Ending::Reset), Asked::Wait));
}

#[test]
fn a_relay_ends_with_its_backend_only_if_its_address_has_left() {
    let at = |host: u8| Endpoint::Inet(([10, 0, 0, host], 80).into());
    let backends = vec![(vec![at(1), at(2)], None)];
    let (first, model, mut resolved) = make_pool(&backends, 3);
    let now = Tick(1);
    let mut to = [(); 2].map(|()| relaying(&first.listeners[0], now));
    let mut replace = |before: &Snapshot, with: Vec<Endpoint>| replaced(before, &model, &mut resolved, with);
    let (second, order) = replace(&first, vec![at(2), at(3)]);
    let [gone, stays] = &mut to;
    assert_eq!((reset(gone, &order), reset(stays, &order)), (Asked::End(Ending::Reset), Asked::Wait));
    assert_eq!(second.pools[0].members[0].backend.active(), 1, "the next backend counts the relay that stays");
    let mut next = [(); 2].map(|()| relaying(&second.listeners[0], now));
    let mut dials = dialing(&second.listeners[0], now);
    next.iter_mut().for_each(|session| assert_eq!(reset(session, &order), Asked::Wait, "the next backend has them"));
    assert_eq!(reset(&mut dials, &order), Asked::Wait);
    let (third, order) = replace(&second, vec![at(3)]);
    assert_eq!(reset(stays, &order), Asked::End(Ending::Reset), "two backends later its address leaves");
    assert_eq!(next.each_mut().map(|session| reset(session, &order)), [Asked::End(Ending::Reset), Asked::Wait]);
    let (_fourth, order) = replace(&third, vec![at(2), at(3)]);
    assert_eq!(order, ResetOrder::default(), "an address that joins replaces no backend");
    let order = third.pools[0].members[0].backend.reset_order();
    assert_eq!(reset(&mut next[1], &order), Asked::End(Ending::Reset), "the whole backend leaves or is down");
}

#[test]
fn a_failed_dial_goes_to_each_backend_once_and_then_resets_the_client() {
    let mut random = fastrand::Rng::with_seed(1);
    let listener = listener_of(&endpoints(None));
    let now = Tick(0);
    let mut session = admitted(&listener, now);
    let mut dialed = Vec::new();
    for attempt in 0..3 {
        let picked = pick(&listener, &session, &mut random);
        assert_eq!(session.handle(picked, now), Asked::Dial);
        dialed.push(session.address.take().map(|address| address.to_string()));
        let expected = if attempt < 2 { Asked::Pick } else { Asked::End(Ending::Reset) };
        assert_eq!(session.handle(Input::Dialed(Err(REFUSED)), now), expected);
    }
    dialed.sort();
    dialed.dedup();
    assert_eq!(dialed.len(), 3, "three different backends");
    assert_eq!(session.closed(), Some((CloseReason::ConnectFailed, 3)));
    assert_eq!(session.facts, Facts { failed: 3, retried: 2, ..Facts::default() });
}

#[test]
fn without_a_descriptor_the_same_backend_is_dialled_again_until_the_time_is_over() {
    let listener = listener_of(&endpoints(None)[..1]);
    let mut now = Tick(0);
    let mut session = dialing(&listener, now);
    let mut dials = 0;
    loop {
        assert_eq!(session.handle(Input::Dialed(Err(DialFailure::Starved)), now), Asked::Wait);
        now = session.deadline().expect("it tries again");
        match session.handle(Input::Deadline, now) {
            Asked::Dial => dials += 1,
            asked => {
                assert_eq!(asked, Asked::Pick, "its time is over: another backend");
                break;
            }
        }
    }
    assert!(dials > 10 && now >= Tick(0) + CONNECT);
    assert_eq!(session.facts, Facts::default(), "no backend has failed");
}

fn header() -> Header {
    Header::new(Announced::inet(([203, 0, 113, 1], 7).into(), ([198, 51, 100, 1], 443).into()))
}

/// A session that waits for a header since `now`, with a pool whose backends expect version 2.
fn reading(now: Tick) -> (Machine, Arc<Listener>) {
    let listener = listener_of(&endpoints(Some(ProxyVersion::V2)));
    let client = Some(Endpoint::Inet(([127, 0, 0, 1], 9).into()));
    let mut session = machine(client, Preamble::ProxyHeader, &listener, now);
    session.local = Some(Endpoint::Inet(([127, 0, 0, 1], 80).into()));
    assert_eq!(session.handle(Input::Begin, now), Asked::ReadPreamble);
    assert_eq!(session.deadline(), Some(now + PREAMBLE_TIMEOUT));
    (session, listener)
}

#[test]
fn without_a_whole_header_every_ending_is_the_table_s() {
    let now = Tick(1 << 40);
    let soon = now + Duration::from_millis(4_999);
    for (input, at, ending, close) in [
        (Input::Header(Err(NoHeader::Bad)), soon, Ending::Reset, CloseReason::BadProxyHeader),
        (Input::Header(Err(NoHeader::CutShort)), soon, Ending::Reset, CloseReason::BadProxyHeader),
        (Input::Header(Err(NoHeader::Silence)), soon, Ending::Fin, CloseReason::ClientFin),
        (Input::Reset(Side::Client), soon, Ending::Reset, CloseReason::ClientReset),
        (Input::Deadline, now + PREAMBLE_TIMEOUT, Ending::Reset, CloseReason::BadProxyHeader),
        (Input::Stop(CloseReason::Shutdown), soon, Ending::Reset, CloseReason::Shutdown),
    ] {
        for written_down in [false, true] {
            let (mut session, listener) = reading(now);
            let mut offset = 0;
            if written_down {
                offset = 77;
                session = rebuild(&session, &listener, now, offset).0;
                assert_eq!(session.handle(Input::Begin, Tick(now.0 + offset)), Asked::ReadPreamble);
            }
            assert_eq!(session.handle(Input::Deadline, Tick(soon.0 + offset)), Asked::Wait);
            let input = match &input {
                Input::Header(Err(why)) => Input::Header(Err(*why)),
                Input::Reset(side) => Input::Reset(*side),
                Input::Stop(reason) => Input::Stop(*reason),
                _ => Input::Deadline,
            };
            assert_eq!(session.handle(input, Tick(at.0 + offset)), Asked::End(ending));
            assert_eq!(session.closed(), Some((close, 0)));
        }
    }
    let mut session = machine(None, Preamble::NotTrusted, &reading(now).1, now);
    assert_eq!(session.handle(Input::Begin, now), Asked::End(Ending::Reset));
    assert_eq!(session.closed(), Some((CloseReason::BadProxyHeader, 0)));
}

#[test]
fn the_announced_client_is_the_client_and_its_header_goes_to_the_backend_that_is_connected() {
    let mut random = fastrand::Rng::with_seed(1);
    let now = Tick(1 << 40);
    let (mut session, listener) = reading(now);
    assert_eq!(session.handle(Input::Header(Ok(Box::new(header()))), now), Asked::Admit);
    assert_eq!(session.client.ip, Some([203, 0, 113, 1].into()));
    session = rebuild(&session, &listener, now, 0).0;
    assert_eq!(session.handle(Input::Begin, now), Asked::Admit);
    assert_eq!(session.client.ip, Some([203, 0, 113, 1].into()));
    assert_eq!(session.handle(Input::Admitted(Ok(())), now), Asked::Pick);
    for _ in 0..2 {
        let picked = pick(&listener, &session, &mut random);
        assert_eq!(session.handle(picked, now), Asked::Dial);
        assert_eq!(session.handle(Input::Dialed(Err(REFUSED)), now), Asked::Pick);
    }
    let picked = pick(&listener, &session, &mut random);
    assert_eq!(session.handle(picked, now), Asked::Dial);
    assert_eq!(session.handle(Input::Dialed(Ok(())), now), Asked::Announce);
    assert_eq!(session.preamble, header().v2());
    assert_eq!(session.handle(Input::Announced(28), now), Asked::Relay);
    assert_eq!(session.facts, Facts { failed: 2, retried: 2, connected: 1, answered: 0 });
}

#[test]
fn a_header_without_addresses_leaves_the_socket_s_and_a_unix_client_has_none() {
    let now = Tick(0);
    let connected = |mut session: Machine, listener: &Listener| {
        assert_eq!(session.handle(Input::Admitted(Ok(())), now), Asked::Pick);
        let picked = pick(listener, &session, &mut fastrand::Rng::with_seed(1));
        assert_eq!(session.handle(picked, now), Asked::Dial);
        assert_eq!(session.handle(Input::Dialed(Ok(())), now), Asked::Announce);
        session
    };
    for announced in [Announced::Local, Announced::Unknown] {
        let (mut session, listener) = reading(now);
        assert_eq!(session.handle(Input::Header(Ok(Box::new(Header::new(announced)))), now), Asked::Admit);
        assert_eq!(session.client.ip, Some([127, 0, 0, 1].into()));
        let own = Announced::inet(([127, 0, 0, 1], 9).into(), ([127, 0, 0, 1], 80).into());
        assert_eq!(connected(session, &listener).preamble, Header::new(own).v2());
    }
    let (mut session, listener) = reading(now);
    let unix = Header::new(Announced::Unix(vec![b'a'; 216].try_into().expect("216 bytes")));
    assert_eq!(session.handle(Input::Header(Ok(Box::new(unix.clone()))), now), Asked::Admit);
    assert_eq!(session.client.ip, None);
    assert_eq!(connected(session, &listener).preamble, unix.v2());
    let mut session = machine(None, Preamble::None, &listener, now);
    assert_eq!(session.handle(Input::Begin, now), Asked::Admit);
    assert_eq!(connected(session, &listener).preamble, Header::new(Announced::Local).v2());
}

#[test]
fn a_refused_client_is_logged_by_its_announced_address() {
    let now = Tick(0);
    let (mut session, _) = reading(now);
    assert_eq!(session.handle(Input::Header(Ok(Box::new(header()))), now), Asked::Admit);
    assert_eq!(session.handle(Input::Admitted(Err(Reason::Denied)), now), Asked::End(Ending::Reset));
    let over = session.over.expect("it is over");
    assert_eq!((over.close, over.client), (CloseReason::Denied, Some(Endpoint::Inet(([203, 0, 113, 1], 7).into()))));
}

#[test]
fn a_reload_during_the_dial_does_not_change_what_the_backend_expects() {
    let now = Tick(0);
    let (mut session, listener) = reading(now);
    session.handle(Input::Header(Ok(Box::new(header()))), now);
    session.handle(Input::Admitted(Ok(())), now);
    let picked = pick(&listener, &session, &mut fastrand::Rng::with_seed(1));
    assert_eq!(session.handle(picked, now), Asked::Dial);
    assert_eq!(session.handle(Input::Adopt(&snapshot_of(&endpoints(None)[..1])), now), Asked::Wait);
    assert_eq!(session.handle(Input::Dialed(Ok(())), now), Asked::Announce);
    assert_eq!(session.preamble, header().v2());
}
