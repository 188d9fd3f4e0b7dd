//! Clients of a listener with routes: every row of the table of their first bytes, and which pool they get.

use super::*;
use tcplb::base::Address;
use tcplb::policy::routes::Conditions;
use tcplb::proto::sniff::{Failure, Hello, Protocol, Sniffed};

pub(super) const TIME: Duration = Duration::from_secs(2);
pub(super) const NOW: Tick = Tick(1 << 40);

/// Names go to the pool `named`, SSH and 10.9.0.0/16 to `other`.
fn routes() -> Vec<model::Route> {
    let named = Conditions { sni: vec!["a.example".parse().expect("a name")], ..Conditions::default() };
    let ssh = Conditions { protocol: Some(Protocol::Ssh), ..Conditions::default() };
    let source = Conditions { source: vec!["10.9.0.0/16".parse().expect("a prefix")], ..Conditions::default() };
    let to = |pool: &str, name: Option<&str>, conditions| model::Route {
        name: name.map(Into::into),
        conditions,
        pool: pool.into(),
    };
    vec![to("named", Some("a"), named), to("other", None, ssh), to("other", None, source)]
}

fn with_routes(routes: Vec<model::Route>) -> model::Listener {
    model::Listener { pool: "own".into(), routes, sniff_timeout: TIME, ..model::Listener::default() }
}

/// Pools of these names, with a backend each, and perhaps the listener.
fn snapshot(pools: &[&str], listener: Option<model::Listener>) -> Snapshot {
    let pool = |name: &&str| model::Pool {
        name: (*name).into(),
        no_backend: model::NoBackend::Wait(Duration::from_secs(9)),
        backends: vec![model::Backend::at(Address::Inet(([10, 0, 0, 1], 80).into()))],
        ..model::Pool::default()
    };
    let pools = pools.iter().map(pool).collect();
    let model = Model { global: model::Global::default(), listeners: listener.into_iter().collect(), pools };
    pool::build(&model, &Resolved::new())
}

const ALL: [&str; 4] = ["own", "named", "other", "silent"];

pub(super) fn routed(silent_pool: bool) -> Arc<Listener> {
    let silent_pool = silent_pool.then(|| "silent".into());
    let listener = model::Listener { silent_pool, ..with_routes(routes()) };
    snapshot(&ALL, Some(listener)).listeners[0].clone()
}

/// A client of this listener that is admitted, and looked at since `NOW`.
pub(super) fn sniffing(listener: &Arc<Listener>) -> Machine {
    let client = Some(Endpoint::Inet(([127, 0, 0, 1], 9).into()));
    let mut session = machine(client, Preamble::None, listener, NOW);
    assert_eq!(session.handle(Input::Begin, NOW), Asked::Admit);
    assert_eq!(session.handle(Input::Admitted(Ok(())), NOW), Asked::Sniff);
    assert_eq!((session.stage(), session.deadline()), (Stage::Sniffing, Some(NOW + TIME)));
    session
}

fn tls(name: &str) -> Option<Box<Sniffed>> {
    let hello = Hello { server_name: Some(name.into()), alpn: vec![(*b"h2").into()], ..Hello::default() };
    Some(Box::new(Sniffed { protocol: Protocol::Tls, hello: Some(hello) }))
}

/// The pool that it asks for, and the label of its route.
fn choice(session: &Machine) -> (String, Option<String>) {
    let live = session.live().expect("it is open");
    assert_eq!(session.pool.as_ref().expect("a choice").settings.name, live.pool.settings.name);
    (live.pool.settings.name.clone(), live.first.and_then(|first| first.route.as_deref().map(Into::into)))
}

#[test]
fn first_bytes_and_the_address_decide_the_pool() {
    let ssh = || Some(Box::new(Sniffed { protocol: Protocol::Ssh, hello: None }));
    for (sniffed, ip, expected) in [
        (tls("a.example"), [10, 9, 0, 1], ("named", Some("a"))),
        (tls("b.example"), [127, 0, 0, 1], ("own", None)),
        (tls("b.example"), [10, 9, 0, 1], ("other", Some("3"))),
        (ssh(), [127, 0, 0, 1], ("other", Some("2"))),
        (None, [127, 0, 0, 1], ("own", None)),
        (None, [10, 9, 0, 1], ("other", Some("3"))),
    ] {
        let mut session = machine(Some(Endpoint::Inet((ip, 9).into())), Preamble::None, &routed(true), NOW);
        session.handle(Input::Begin, NOW);
        session.handle(Input::Admitted(Ok(())), NOW);
        assert_eq!(session.handle(Input::Heard, NOW), Asked::Sniff);
        assert_eq!(session.handle(Input::Sniffed(Ok(sniffed)), NOW), Asked::Pick);
        assert_eq!(choice(&session), (expected.0.into(), expected.1.map(Into::into)));
    }
}

#[test]
fn without_a_route_that_needs_first_bytes_none_is_waited_for() {
    let source = vec![routes().remove(2)];
    for (ip, pool) in [([10, 9, 0, 1], "other"), ([127, 0, 0, 1], "own")] {
        let listener = snapshot(&ALL, Some(with_routes(source.clone()))).listeners[0].clone();
        let mut session = machine(Some(Endpoint::Inet((ip, 9).into())), Preamble::None, &listener, NOW);
        session.handle(Input::Begin, NOW);
        assert_eq!(session.handle(Input::Admitted(Ok(())), NOW), Asked::Pick);
        assert_eq!(choice(&session).0, pool);
    }
}

/// What happens, whether bytes have come before, when, and how it ends.
type Row = (fn() -> Input<'static>, bool, Tick, Ending, CloseReason);

#[test]
fn first_bytes_that_decide_nothing_end_as_the_table_says() {
    let soon = NOW + TIME / 2;
    let failed = || Input::Sniffed(Err(NoAnswer::Failed(Failure::HelloMalformed)));
    let fin = || Input::Sniffed(Err(NoAnswer::Fin));
    let (reset, in_order) = (Ending::Reset, Ending::Fin);
    let rows: [Row; 9] = [
        (failed, false, soon, reset, CloseReason::SniffFailed),
        (failed, true, soon, reset, CloseReason::SniffFailed),
        (|| Input::Deadline, false, NOW + TIME, reset, CloseReason::SniffFailed),
        (|| Input::Deadline, true, NOW + TIME, reset, CloseReason::SniffFailed),
        (fin, false, soon, in_order, CloseReason::ClientFin),
        (fin, true, soon, reset, CloseReason::SniffFailed),
        (|| Input::Reset(Side::Client), false, soon, reset, CloseReason::ClientReset),
        (|| Input::Reset(Side::Client), true, soon, reset, CloseReason::ClientReset),
        (|| Input::Stop(CloseReason::Shutdown), true, soon, reset, CloseReason::Shutdown),
    ];
    for (row, (input, heard, at, ending, close)) in rows.into_iter().enumerate() {
        for written_down in [false, true] {
            let listener = routed(false);
            let mut session = sniffing(&listener);
            if heard {
                assert_eq!(session.handle(Input::Heard, NOW), Asked::Sniff);
            }
            let mut offset = 0;
            if written_down {
                offset = 77;
                let begun;
                (session, begun) = rebuild(&session, &listener, NOW + TIME / 4, offset);
                assert_eq!(session.handle(Input::Begin, begun), Asked::Sniff);
            }
            assert_eq!(session.handle(Input::Deadline, Tick(soon.0 + offset)), Asked::Wait);
            assert_eq!(session.handle(input(), Tick(at.0 + offset)), Asked::End(ending), "row {row}");
            assert_eq!(session.closed(), Some((close, 0)), "row {row}");
        }
    }
}

#[test]
fn a_silent_client_goes_to_its_pool_and_one_that_has_begun_does_not() {
    let listener = routed(true);
    let mut session = sniffing(&listener);
    assert_eq!(session.handle(Input::Deadline, NOW + TIME / 2), Asked::Wait);
    assert_eq!(session.handle(Input::Deadline, NOW + TIME), Asked::Pick);
    assert_eq!(choice(&session), ("silent".into(), Some("silent".into())));
    let mut session = sniffing(&listener);
    assert_eq!(session.handle(Input::Heard, NOW + TIME / 2), Asked::Sniff);
    assert_eq!(session.deadline(), Some(NOW + TIME), "bytes do not renew the time");
    assert_eq!(session.handle(Input::Deadline, NOW + TIME), Asked::End(Ending::Reset));
    assert_eq!(session.closed(), Some((CloseReason::SniffFailed, 0)));
}

#[test]
fn the_time_counts_from_behind_the_preamble() {
    let mut session = machine(None, Preamble::ProxyHeader, &routed(false), NOW);
    assert_eq!(session.handle(Input::Begin, NOW), Asked::ReadPreamble);
    let later = NOW + PREAMBLE_TIMEOUT / 2;
    assert_eq!(session.handle(Input::Header(Ok(Box::new(header()))), later), Asked::Admit);
    assert_eq!(session.handle(Input::Admitted(Ok(())), later), Asked::Sniff);
    assert_eq!(session.deadline(), Some(later + TIME));
}

#[test]
fn a_client_that_is_denied_is_not_looked_at() {
    let mut session = machine(None, Preamble::None, &routed(true), NOW);
    session.handle(Input::Begin, NOW);
    assert_eq!(session.handle(Input::Admitted(Err(Reason::Denied)), NOW), Asked::End(Ending::Reset));
    assert_eq!(session.handle(Input::Heard, NOW), Asked::Wait);
    assert_eq!(session.handle(Input::Sniffed(Ok(None)), NOW), Asked::Wait);
}

#[test]
fn a_new_snapshot_has_its_routes_choose() {
    let mut changed = routes();
    changed[0].pool = "other".into();
    let next = snapshot(&ALL, Some(with_routes(changed)));
    let mut session = sniffing(&routed(true));
    assert_eq!(session.handle(Input::Adopt(&next), NOW), Asked::Wait);
    assert_eq!(session.handle(Input::Sniffed(Ok(tls("a.example"))), NOW), Asked::Pick);
    assert_eq!(choice(&session).0, "other");
    // Without a backend it is routed again; once it relays it is not.
    let mut session = sniffing(&routed(true));
    session.handle(Input::Sniffed(Ok(tls("a.example"))), NOW);
    assert_eq!(session.handle(Input::Picked(Err(PickError::AllDown)), NOW), Asked::Queue);
    assert_eq!(session.live().map(|live| live.pool.settings.name.clone()), Some("named".into()));
    assert_eq!(session.handle(Input::Adopt(&next), NOW), Asked::Queue);
    assert_eq!(session.live().map(|live| live.pool.settings.name.clone()), Some("other".into()));
}

#[test]
fn a_new_snapshot_whose_routes_look_for_other_protocols_has_the_bytes_looked_at_again() {
    for kept in [&[0][..], &[1], &[2], &[]] {
        let routes: Vec<model::Route> = kept.iter().map(|index| routes().remove(*index)).collect();
        let mut session = sniffing(&routed(true));
        assert_eq!(session.handle(Input::Heard, NOW), Asked::Sniff);
        assert_eq!(session.handle(Input::Adopt(&snapshot(&ALL, Some(with_routes(routes)))), NOW), Asked::Sniff);
        assert_eq!((session.stage(), session.deadline()), (Stage::Sniffing, Some(NOW + TIME)));
        assert_eq!(session.handle(Input::Sniffed(Ok(None)), NOW), Asked::Pick);
        assert_eq!(choice(&session).0, "own");
    }
}

#[test]
fn a_waiting_client_that_was_silent_stays_silent_and_keeps_its_label() {
    let listener = routed(true);
    let mut session = sniffing(&listener);
    assert_eq!(session.handle(Input::Deadline, NOW + TIME), Asked::Pick);
    assert_eq!(session.handle(Input::Picked(Err(PickError::AllDown)), NOW + TIME), Asked::Queue);
    let (mut session, now) = rebuild(&session, &listener, NOW + TIME, 77);
    let settings = model::Listener { silent_pool: Some("silent".into()), ..with_routes(routes()) };
    session.handle(Input::Adopt(&snapshot(&ALL, Some(settings))), now);
    assert_eq!(session.handle(Input::Begin, now), Asked::Pick);
    assert_eq!(choice(&session), ("silent".into(), Some("silent".into())));
    assert_eq!(session.handle(Input::Adopt(&snapshot(&ALL, Some(with_routes(routes())))), now), Asked::Wait);
    assert_eq!(session.live().map(|live| live.pool.settings.name.clone()), Some("own".into()));
}

#[test]
fn the_routes_of_a_listener_that_is_gone_choose_among_the_pools_that_are_left() {
    for (name, left, expected) in [
        ("a.example", &ALL[..], Some("named")),
        ("b.example", &ALL[..], Some("own")),
        ("a.example", &["named"], Some("named")),
        ("a.example", &["own"], None),
        ("b.example", &["named"], None),
    ] {
        let mut session = sniffing(&routed(true));
        assert_eq!(session.handle(Input::Adopt(&snapshot(left, None)), NOW), Asked::Wait);
        assert_eq!(session.deadline(), Some(NOW + TIME));
        assert_eq!(session.handle(Input::Sniffed(Ok(tls(name))), NOW), Asked::Pick);
        let pool = session.pool.clone().expect("a choice");
        let picked = pool.pick(session.client, &session.tried, Tick(0), &mut fastrand::Rng::with_seed(1));
        match expected {
            Some(expected) => assert!(picked.is_ok() && pool.settings.name == expected),
            None => {
                assert_eq!(session.handle(Input::Picked(picked), NOW), Asked::End(Ending::Reset));
                assert_eq!(session.closed(), Some((CloseReason::NoBackend, 0)));
            }
        }
    }
}

#[test]
fn a_connected_client_keeps_its_name_and_its_route() {
    let listener = routed(true);
    let mut session = sniffing(&listener);
    session.handle(Input::Sniffed(Ok(tls("a.example"))), NOW);
    let picked = session.pool.as_ref().expect("a choice").pick(
        session.client,
        &session.tried,
        Tick(0),
        &mut fastrand::Rng::with_seed(1),
    );
    assert_eq!(session.handle(Input::Picked(picked), NOW), Asked::Dial);
    assert_eq!(session.handle(Input::Dialed(Ok(())), NOW), Asked::Relay);
    let first = |session: &Machine| session.live().and_then(|live| live.first.cloned()).expect("it is known");
    assert_eq!((first(&session).server_name(), first(&session).route.as_deref()), (Some("a.example"), Some("a")));
    let saved = session.save(NOW).and_then(|saved| saved.first).expect("it is known");
    assert_eq!(saved.route.as_deref(), Some("a"));
    assert!(saved.sniffed.and_then(|sniffed| sniffed.hello).expect("a hello").alpn.is_empty(), "needed no more");
}

#[test]
fn on_a_warm_connection_the_offers_are_kept_until_a_byte_moves() {
    let mut session = sniffing(&routed(true));
    session.handle(Input::Sniffed(Ok(tls("a.example"))), NOW);
    let pool = session.pool.clone().expect("a choice");
    let picked = pool.pick(session.client, &session.tried, Tick(0), &mut fastrand::Rng::with_seed(1));
    assert_eq!(session.handle(Input::Picked(picked), NOW), Asked::Dial);
    assert_eq!(session.handle(Input::TookWarm, NOW), Asked::Relay);
    let offers = |session: &Machine| {
        let first = session.live().and_then(|live| live.first.cloned()).expect("it is known");
        first.sniffed.and_then(|sniffed| sniffed.hello).expect("a hello").alpn.len()
    };
    assert_eq!(offers(&session), 1, "another backend may be chosen");
    session.handle(Input::Moved(Direction::Up, Moved { read: 9, written: 9, ..Moved::default() }), NOW);
    assert_eq!(offers(&session), 0);
}
