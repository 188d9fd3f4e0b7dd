//! The session machine on its own, against the rows of its table: every mixture of FINs, held bytes, failures and time
//! that a relay engine could report, also those that today's engines never do. At any step the session may be written
//! down and rebuilt, and must then answer as if nothing had happened.

mod reference;

use super::{CONNECT, make_pool, make_pool_with};
use reference::{Expected, Reference, index_of};
use std::sync::Arc;
use std::time::Duration;
use tcplb::base::{Endpoint, Tick};
use tcplb::config::model::{self, ProxyVersion};
use tcplb::policy::limit::Reason;
use tcplb::pool::{Lease, PickError, Pool};
use tcplb::proto::proxy::{Announced, Header};
use tcplb::session::saved::Saved;
use tcplb::session::{
    CloseReason, DialFailure, Direction, Effect, Ending, Failed, Greeting, HEADER_TIMEOUT, HalfState, Input, Left,
    Moved, NoHeader, Session, Side,
};
use tcplb::telemetry::ListenerTotals;

/// A backend's addresses, and the header that it expects.
type Backend = (Vec<Endpoint>, Option<ProxyVersion>);

fn endpoints(send_proxy: Option<ProxyVersion>) -> Vec<Backend> {
    (1..4).map(|host| (vec![Endpoint::Inet(([10, 0, 0, host], 80).into())], send_proxy)).collect()
}

fn listener() -> Arc<ListenerTotals> {
    ListenerTotals::new("sim".into())
}

/// Where three backends are tried.
fn pool_of(backends: &[Backend]) -> Arc<Pool> {
    make_pool(backends, 3).0.pools[0].clone()
}

/// Where a client waits that long if there is no backend.
fn waiting_pool(backends: &[Backend], connect_attempts: u32, wait: Duration) -> Arc<Pool> {
    let no_backend = model::NoBackend::Wait(wait);
    let settings = model::Pool { connect_attempts, no_backend, ..model::Pool::default() };
    make_pool_with(backends, settings, (None, None)).0.pools[0].clone()
}

fn pick(pool: &Arc<Pool>, session: &Session, random: &mut fastrand::Rng) -> Input {
    Input::Picked(pool.pick(session.policy_client(), session.tried(), Tick(0), random))
}

/// Through bytes and back, with another clock.
fn rebuild(session: &Session, pool: &Arc<Pool>, now: Tick, offset: u64) -> (Session, Tick) {
    let text = serde_json::to_string(&session.save(now).expect("it lives")).expect("it can be written");
    let saved: Saved = serde_json::from_str(&text).expect("it can be read");
    let now = Tick(now.0 + offset);
    let lease = saved.relay.as_ref().map(|relay| {
        let at = pool.members.iter().position(|member| member.backend.name == relay.backend).expect("the same pool");
        Lease::take(&pool.members[at].backend, at, u32::MAX).expect("room")
    });
    (Session::restore(&saved, listener(), pool.clone(), lease, now).expect("it can be rebuilt"), now)
}

fn relay_life(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let send_proxy = [None, Some(ProxyVersion::V1), Some(ProxyVersion::V2)][random.usize(..3)];
    let pool = pool_of(&endpoints(send_proxy));
    let client = Some(Endpoint::Inet(([127, 0, 0, 1], 9).into()));
    let mut now = Tick(1 << 40);
    let mut session = Session::new(client, Greeting::None, listener(), pool.clone(), now);
    let lifetime = random.bool().then(|| Duration::from_secs(random.u64(1..120)));
    let expires = lifetime.map(|lifetime| (now + lifetime, now + lifetime + lifetime / 10, now + lifetime));
    expires.into_iter().for_each(|(from, until, _)| session.expire_between(from, until));
    assert_eq!(session.begin(now), Effect::Admit);
    assert_eq!(session.on(Input::Admitted(Ok(())), now), Effect::Pick);
    let picked = pick(&pool, &session, &mut random);
    assert_eq!(session.on(picked, now), Effect::Dial);
    let mut ways = [Expected::default(); 2];
    let mut ours = 0;
    match send_proxy {
        None => assert_eq!(session.on(Input::Dialed(Ok(())), now), Effect::Relay),
        Some(version) => {
            assert_eq!(session.on(Input::Dialed(Ok(())), now), Effect::Announce(version));
            ours = random.u64(1..5);
            assert_eq!(session.on(Input::Announced(ours), now), Effect::Relay);
            ways[0].held = true;
        }
    }
    let mut reference = Reference { ways, first_fin: None, failed: None, last: now, expires, ours, up: 0 };
    let mut asked = false;
    for _ in 0..random.u32(1..60) {
        if random.u8(..) < 40 && !asked {
            let offset = random.u64(..1 << 30);
            (session, now) = rebuild(&session, &pool, now, offset);
            reference.shift(offset, now);
        }
        if !asked {
            now = now + Duration::from_millis([0, 1, 40, 700, 9_000, 30_000][random.usize(..6)]);
        }
        assert_eq!(session.deadline(), Some(reference.deadline()));
        let (effect, (expected, reason)) = match random.u8(..20) {
            _ if asked => {
                let bytes = random.u64(..4);
                (session.on(Input::Unsent(bytes), now), reference.unsent(bytes, now))
            }
            0 => {
                let side = if random.bool() { Side::Client } else { Side::Backend };
                (session.on(Input::Reset(side), now), reference.fails(side, now))
            }
            1 => {
                let effect = session.on(Input::Stop(CloseReason::Forced), now);
                (effect, (Effect::End(Ending::Reset), Some(CloseReason::Forced)))
            }
            2..8 => (session.on(Input::Deadline, now), reference.on_deadline(now)),
            _ => {
                let way = Direction::BOTH[random.usize(..2)];
                let this = reference.ways[index_of(way)];
                if this.shut || this.dropped {
                    assert_eq!(session.half(way), Some(if this.shut { HalfState::Shut } else { HalfState::Dropped }));
                    continue;
                }
                let open = !this.fin && !this.cut;
                let source_fails = open && random.u8(..) < 6;
                let moved = Moved {
                    read: if open { random.u64(..3) } else { 0 },
                    written: random.u64(..3),
                    held: random.bool(),
                    fin: open && !source_fails && random.u8(..) < 60,
                    failed: match random.u8(..) {
                        _ if source_fails => Some(Failed::Source),
                        dice => (dice < 6).then_some(Failed::Sink),
                    },
                };
                let expected = reference.moved(way, &moved, now);
                (session.on(Input::Moved(way, moved), now), expected)
            }
        };
        asked = matches!(effect, Effect::Measure(_));
        assert_eq!(effect, expected);
        assert_eq!(session.record().map(|record| record.close), reason);
        let up = session.record().map_or_else(|| session.bytes(Direction::Up), |record| record.bytes_to_backend);
        assert_eq!(up, reference.up, "our header counted as the client's bytes");
        if reason.is_some() {
            break;
        }
    }
    let over = session.record().is_some();
    assert_eq!(pool.members.iter().map(|member| member.backend.active()).sum::<u32>(), u32::from(!over));
    if over {
        assert_eq!(session.on(Input::Deadline, now), Effect::Wait);
        assert_eq!(session.on(Input::Stop(CloseReason::Forced), now), Effect::Wait);
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

/// A session that has been let in.
fn admitted(pool: &Arc<Pool>, now: Tick) -> Session {
    let mut session = Session::new(None, Greeting::None, listener(), pool.clone(), now);
    assert_eq!(session.begin(now), Effect::Admit);
    assert_eq!(session.on(Input::Admitted(Ok(())), now), Effect::Pick);
    session
}

#[test]
fn a_client_that_is_not_let_in_is_reset_before_anything_is_chosen() {
    for (reason, close) in [
        (Reason::Denied, CloseReason::Denied),
        (Reason::SourceLimit, CloseReason::SourceLimit),
        (Reason::SourceRate, CloseReason::SourceRate),
    ] {
        let pool = pool_of(&endpoints(None));
        let mut session = Session::new(None, Greeting::None, listener(), pool, Tick(0));
        assert_eq!(session.on(Input::Admitted(Err(reason)), Tick(1)), Effect::End(Ending::Reset));
        assert_eq!(session.record().map(|record| (record.close, record.attempts)), Some((close, 0)));
    }
}

#[test]
fn who_waits_has_turns_until_the_time_is_over_and_every_backend_again_at_each() {
    const WAIT: Duration = Duration::from_secs(3);
    let pool = waiting_pool(&endpoints(None)[..1], 3, WAIT);
    let mut now = Tick(7);
    let mut session = admitted(&pool, now);
    assert_eq!(session.on(Input::Picked(Err(PickError::AllDown)), now), Effect::Queue);
    assert!(session.is_waiting() && session.lease().is_none());
    for _ in 0..5 {
        now = now + WAIT / 10;
        assert_eq!(session.on(Input::Deadline, now), Effect::Wait, "not yet");
        assert_eq!(session.on(Input::Turn, now), Effect::Pick);
        assert!(session.tried().is_empty());
        let lease = Lease::take(&pool.members[0].backend, 0, 1).expect("room");
        assert_eq!(session.on(Input::Picked(Ok(lease)), now), Effect::Dial);
        assert_eq!(session.on(Input::Turn, now), Effect::Wait, "it does not stand in the queue");
        assert_eq!(session.on(Input::Dialed(Err(DialFailure::Backend)), now), Effect::Pick);
        assert_eq!(session.on(Input::Picked(Err(PickError::AllDown)), now), Effect::Queue);
        assert_eq!(session.deadline(), Some(Tick(7) + WAIT));
    }
    now = Tick(7) + WAIT;
    assert_eq!(session.on(Input::Deadline, now), Effect::End(Ending::Reset));
    assert_eq!(session.record().map(|record| (record.close, record.attempts)), Some((CloseReason::ConnectFailed, 5)));
}

#[test]
fn a_full_queue_or_a_reset_ends_the_waiting() {
    let pool = waiting_pool(&endpoints(None), 3, Duration::from_secs(3));
    for (input, close) in
        [(Input::NoPlace, CloseReason::NoBackend), (Input::Reset(Side::Client), CloseReason::ClientReset)]
    {
        let mut session = admitted(&pool, Tick(0));
        assert_eq!(session.on(Input::Picked(Err(PickError::AllFull)), Tick(0)), Effect::Queue);
        assert_eq!(session.on(input, Tick(1)), Effect::End(Ending::Reset));
        assert_eq!(session.record().map(|record| record.close), Some(close));
    }
}

#[test]
fn a_client_that_leaves_while_it_waits_leaves_the_queue_as_the_pool_says() {
    use model::Abandoned::{Drop, Serve};
    for (abandoned, left, close) in [
        (Serve, Left::Finished, None),
        (Serve, Left::Gone, Some(CloseReason::ClientReset)),
        (Drop, Left::Finished, Some(CloseReason::ClientFin)),
        (Drop, Left::Gone, Some(CloseReason::ClientReset)),
    ] {
        let no_backend = model::NoBackend::Wait(Duration::from_secs(3));
        let settings = model::Pool { no_backend, abandoned, ..model::Pool::default() };
        let pool = make_pool_with(&endpoints(None), settings, (None, None)).0.pools[0].clone();
        let mut session = admitted(&pool, Tick(0));
        assert_eq!(session.on(Input::Left(left), Tick(0)), Effect::Wait, "it does not wait yet");
        assert_eq!(session.on(Input::Picked(Err(PickError::AllFull)), Tick(0)), Effect::Queue);
        let expected = close.map_or(Effect::Wait, |_| Effect::End(Ending::Reset));
        assert_eq!(session.on(Input::Left(left), Tick(1)), expected, "{abandoned:?}, {left:?}");
        assert_eq!(session.record().map(|record| record.close), close);
    }
}

#[test]
fn who_waits_looks_in_the_pool_s_successor_as_long_as_it_was_promised() {
    let old = waiting_pool(&endpoints(None), 3, Duration::from_secs(3));
    let mut session = admitted(&old, Tick(0));
    assert_eq!(session.on(Input::Picked(Err(PickError::AllFull)), Tick(0)), Effect::Queue);
    let new = pool_of(&endpoints(None));
    session.adopt(&new);
    assert!(Arc::ptr_eq(session.pool(), &new));
    assert_eq!(session.deadline(), Some(Tick(0) + Duration::from_secs(3)));
    assert_eq!(session.on(Input::Turn, Tick(1)), Effect::Pick);
    assert_eq!(
        session.on(Input::Picked(Err(PickError::AllFull)), Tick(1)),
        Effect::End(Ending::Reset),
        "nobody waits there"
    );
}

#[test]
fn without_its_pool_a_client_is_connected_nowhere_but_where_it_is_being_dialled() {
    let pool = waiting_pool(&endpoints(None), 3, Duration::from_secs(3));
    let end = Effect::End(Ending::Reset);
    let closed = |session: &Session| session.record().map(|record| record.close);
    let dialing = || {
        let mut session = admitted(&pool, Tick(0));
        let picked = pick(&pool, &session, &mut fastrand::Rng::with_seed(1));
        assert_eq!(session.on(picked, Tick(0)), Effect::Dial);
        assert_eq!(session.orphan(Tick(1)), Effect::Wait);
        session
    };
    let mut session = admitted(&pool, Tick(0));
    assert_eq!(session.on(Input::Picked(Err(PickError::AllDown)), Tick(0)), Effect::Queue);
    assert_eq!((session.orphan(Tick(1)), closed(&session)), (end, Some(CloseReason::NoBackend)));

    let mut session = dialing();
    assert_eq!(session.on(Input::Dialed(Ok(())), Tick(1)), Effect::Relay);

    let mut session = dialing();
    let failed = session.on(Input::Dialed(Err(DialFailure::Backend)), Tick(1));
    assert_eq!((failed, closed(&session)), (end, Some(CloseReason::ConnectFailed)));

    let mut session = dialing();
    session.adopt(&pool_of(&endpoints(None)));
    assert_eq!(session.on(Input::Dialed(Err(DialFailure::Backend)), Tick(1)), Effect::Pick, "there is a pool again");

    let mut session = Session::new(None, Greeting::None, listener(), pool.clone(), Tick(0));
    assert_eq!(session.orphan(Tick(0)), Effect::Wait);
    assert_eq!(session.on(Input::Admitted(Ok(())), Tick(0)), end);
    assert_eq!(closed(&session), Some(CloseReason::NoBackend));
}

#[test]
fn a_failed_dial_goes_to_each_backend_once_and_then_resets_the_client() {
    let mut random = fastrand::Rng::with_seed(1);
    let pool = pool_of(&endpoints(None));
    let now = Tick(0);
    let mut session = admitted(&pool, now);
    let mut dialed = Vec::new();
    for attempt in 0..3 {
        let picked = pick(&pool, &session, &mut random);
        assert_eq!(session.on(picked, now), Effect::Dial);
        dialed.push(session.lease().map(Lease::index));
        let expected = if attempt < 2 { Effect::Pick } else { Effect::End(Ending::Reset) };
        assert_eq!(session.on(Input::Dialed(Err(DialFailure::Backend)), now), expected);
    }
    dialed.sort();
    dialed.dedup();
    assert_eq!(dialed.len(), 3, "three different backends");
    assert_eq!(session.record().map(|record| (record.close, record.attempts)), Some((CloseReason::ConnectFailed, 3)));
}

#[test]
fn without_a_descriptor_the_same_backend_is_dialled_again_until_the_time_is_over() {
    let mut random = fastrand::Rng::with_seed(1);
    let pool = pool_of(&endpoints(None)[..1]);
    let mut now = Tick(0);
    let mut session = admitted(&pool, now);
    let picked = pick(&pool, &session, &mut random);
    assert_eq!(session.on(picked, now), Effect::Dial);
    let mut dials = 0;
    loop {
        assert_eq!(session.on(Input::Dialed(Err(DialFailure::Starved)), now), Effect::Wait);
        assert!(!session.is_dialing());
        now = session.deadline().expect("it tries again");
        match session.on(Input::Deadline, now) {
            Effect::Dial => dials += 1,
            effect => {
                assert_eq!(effect, Effect::Pick, "its time is over: another backend");
                break;
            }
        }
    }
    assert!(dials > 10 && now >= Tick(0) + CONNECT);
}

fn header() -> Header {
    Header::new(Announced::inet(([203, 0, 113, 1], 7).into(), ([198, 51, 100, 1], 443).into()))
}

/// A session that waits for a header since `now`, on a pool whose backends expect version 2.
fn waiting(now: Tick) -> (Session, Arc<Pool>) {
    let pool = pool_of(&endpoints(Some(ProxyVersion::V2)));
    let client = Some(Endpoint::Inet(([127, 0, 0, 1], 9).into()));
    let mut session = Session::new(client, Greeting::ProxyHeader, listener(), pool.clone(), now);
    assert_eq!(session.begin(now), Effect::ReadHeader);
    assert_eq!(session.deadline(), Some(now + HEADER_TIMEOUT));
    (session, pool)
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
        (Input::Deadline, now + HEADER_TIMEOUT, Ending::Reset, CloseReason::BadProxyHeader),
        (Input::Stop(CloseReason::Shutdown), soon, Ending::Reset, CloseReason::Shutdown),
    ] {
        for written_down in [false, true] {
            let (mut session, pool) = waiting(now);
            let mut offset = 0;
            if written_down {
                offset = 77;
                session = rebuild(&session, &pool, now, offset).0;
                assert_eq!(session.begin(Tick(now.0 + offset)), Effect::ReadHeader);
            }
            assert_eq!(session.on(Input::Deadline, Tick(soon.0 + offset)), Effect::Wait);
            let input = match &input {
                Input::Header(Err(why)) => Input::Header(Err(*why)),
                Input::Reset(side) => Input::Reset(*side),
                Input::Stop(reason) => Input::Stop(*reason),
                _ => Input::Deadline,
            };
            assert_eq!(session.on(input, Tick(at.0 + offset)), Effect::End(ending));
            assert_eq!(session.record().map(|record| (record.close, record.attempts)), Some((close, 0)));
        }
    }
    let mut session = Session::new(None, Greeting::NotTrusted, listener(), waiting(now).1, now);
    assert_eq!(session.begin(now), Effect::End(Ending::Reset));
    assert_eq!(session.record().map(|record| record.close), Some(CloseReason::BadProxyHeader));
}

#[test]
fn who_is_announced_is_the_client_and_every_backend_that_is_tried_is_told() {
    let mut random = fastrand::Rng::with_seed(1);
    let now = Tick(1 << 40);
    let (mut session, pool) = waiting(now);
    assert_eq!(session.on(Input::Header(Ok(header())), now), Effect::Admit);
    assert_eq!(session.client(), Some(&Endpoint::Inet(([203, 0, 113, 1], 7).into())));
    assert_eq!(session.policy_client().ip, Some([203, 0, 113, 1].into()));
    session = rebuild(&session, &pool, now, 0).0;
    assert_eq!(session.begin(now), Effect::Admit);
    assert_eq!(session.on(Input::Admitted(Ok(())), now), Effect::Pick);
    for _ in 0..2 {
        let picked = pick(&pool, &session, &mut random);
        assert_eq!(session.on(picked, now), Effect::Dial);
        assert_eq!(session.introduction(|| panic!("it was announced")), header());
        assert_eq!(session.on(Input::Dialed(Err(DialFailure::Backend)), now), Effect::Pick);
    }
    let picked = pick(&pool, &session, &mut random);
    assert_eq!(session.on(picked, now), Effect::Dial);
    assert_eq!(session.on(Input::Dialed(Ok(())), now), Effect::Announce(ProxyVersion::V2));
    assert_eq!(session.introduction(|| None), header());
    assert_eq!(session.on(Input::Announced(28), now), Effect::Relay);
}

#[test]
fn a_header_that_announces_nobody_leaves_the_socket_s_address_and_a_unix_client_has_none() {
    let now = Tick(0);
    let local = Some(Endpoint::Inet(([127, 0, 0, 1], 80).into()));
    for nobody in [Announced::Local, Announced::Unknown] {
        let (mut session, _) = waiting(now);
        assert_eq!(session.on(Input::Header(Ok(Header::new(nobody))), now), Effect::Admit);
        assert_eq!(session.client(), Some(&Endpoint::Inet(([127, 0, 0, 1], 9).into())));
        let own = Announced::inet(([127, 0, 0, 1], 9).into(), ([127, 0, 0, 1], 80).into());
        assert_eq!(session.introduction(|| local.clone()), Header::new(own));
    }
    let (mut session, _) = waiting(now);
    let unix = Header::new(Announced::Unix(vec![b'a'; 216].try_into().expect("216 bytes")));
    assert_eq!(session.on(Input::Header(Ok(unix.clone())), now), Effect::Admit);
    assert_eq!(session.client(), None);
    assert_eq!(session.introduction(|| local.clone()), unix);
    let session = Session::new(None, Greeting::None, listener(), waiting(now).1, now);
    assert_eq!(session.introduction(|| local), Header::new(Announced::Local));
}

#[test]
fn a_client_that_is_not_admitted_is_reset_for_the_listener_s_reason() {
    let now = Tick(0);
    let (mut session, _) = waiting(now);
    assert_eq!(session.on(Input::Header(Ok(header())), now), Effect::Admit);
    assert_eq!(session.on(Input::Admitted(Err(Reason::Denied)), now), Effect::End(Ending::Reset));
    let record = session.record().expect("it is over");
    assert_eq!(
        (record.close, record.client.clone()),
        (CloseReason::Denied, Some(Endpoint::Inet(([203, 0, 113, 1], 7).into())))
    );
}

#[test]
fn a_reload_during_the_dial_does_not_change_what_the_backend_expects() {
    let now = Tick(0);
    let (mut session, pool) = waiting(now);
    session.on(Input::Header(Ok(header())), now);
    session.on(Input::Admitted(Ok(())), now);
    let picked = pick(&pool, &session, &mut fastrand::Rng::with_seed(1));
    assert_eq!(session.on(picked, now), Effect::Dial);
    session.adopt(&pool_of(&endpoints(None)[..1]));
    assert_eq!(session.on(Input::Dialed(Ok(())), now), Effect::Announce(ProxyVersion::V2));
    assert_eq!(session.introduction(|| None), header());
}
