//! Clients of Postgres that were answered, and their backends, which are asked for TLS: every row of the table.

use super::sniffing::{NOW, TIME};
use super::*;
use tcplb::policy::routes::Conditions;
use tcplb::proto::sniff::postgres::Reply;
use tcplb::proto::sniff::{Hello, Protocol, Sniffed};

/// A listener with a route for Postgres, whose pool has two backends that expect this header.
fn postgres(send_proxy: Option<ProxyVersion>) -> Arc<Listener> {
    let settings = model::Pool { connect_attempts: 2, ..model::Pool::default() };
    let (_, mut model, resolved) = make_pool_with(&endpoints(send_proxy)[..2], settings, (None, None));
    let conditions = Conditions { protocol: Some(Protocol::Postgres), ..Conditions::default() };
    model.listeners[0].routes = vec![model::Route { conditions, pool: "sim".into(), ..model::Route::default() }];
    model.listeners[0].sniff_timeout = TIME;
    pool::build(&model, &resolved).listeners[0].clone()
}

fn hello() -> Input<'static> {
    Input::Sniffed(Ok(Some(Box::new(Sniffed { protocol: Protocol::Postgres, hello: Some(Hello::default()) }))))
}

/// One that has asked its first backend for TLS.
fn requesting(listener: &Arc<Listener>) -> Machine {
    let client = Some(Endpoint::Inet(([127, 0, 0, 1], 9).into()));
    let mut session = machine(client, Preamble::None, listener, NOW);
    session.local = Some(Endpoint::Inet(([127, 0, 0, 1], 80).into()));
    session.handle(Input::Begin, NOW);
    assert_eq!(session.handle(Input::Admitted(Ok(())), NOW), Asked::Sniff);
    assert_eq!(session.handle(Input::Heard, NOW), Asked::Sniff);
    assert_eq!(session.handle(hello(), NOW), Asked::Pick);
    asks(&mut session, listener);
    session
}

/// Its next backend is picked, dialled, and asked.
fn asks(session: &mut Machine, listener: &Listener) {
    let picked = pick(listener, session, &mut fastrand::Rng::with_seed(1));
    assert_eq!(session.handle(picked, NOW), Asked::Dial);
    assert!(!session.may_be_warm, "a warm connection that is dead looks like a refusal");
    assert_eq!(session.handle(Input::Dialed(Ok(())), NOW), Asked::Request);
    assert_eq!((session.stage(), session.deadline()), (Stage::Requesting, Some(NOW + CONNECT)));
}

#[test]
fn a_backend_that_agrees_is_relayed_to_and_counts_as_connected_from_then_on() {
    let listener = postgres(None);
    let mut session = requesting(&listener);
    assert!(session.preamble.is_empty());
    assert_eq!(session.facts, Facts::default());
    assert_eq!(session.handle(Input::Replied(Reply::More), NOW), Asked::Wait);
    assert_eq!(session.handle(Input::Dialed(Ok(())), NOW), Asked::Wait, "it was said before");
    assert_eq!(session.handle(Input::Replied(Reply::Tls), NOW), Asked::Relay);
    assert_eq!(session.facts, Facts { connected: 1, ..Facts::default() });
    assert_eq!(Direction::BOTH.map(|direction| session.bytes(direction)), [0, 0]);
    assert_eq!(session.handle(Input::Replied(Reply::NoTls), NOW), Asked::Wait);
}

#[test]
fn the_header_for_the_backend_leaves_with_the_request() {
    let listener = postgres(Some(ProxyVersion::V2));
    let mut session = requesting(&listener);
    let own = Announced::inet(([127, 0, 0, 1], 9).into(), ([127, 0, 0, 1], 80).into());
    assert_eq!(session.preamble, Header::new(own).v2());
    assert_eq!(session.handle(Input::Replied(Reply::Tls), NOW), Asked::Relay, "and not again");
}

#[test]
fn a_backend_that_refuses_ends_the_connection_and_no_other_one_is_tried() {
    for reply in [Reply::NoTls, Reply::Error, Reply::Invalid] {
        let listener = postgres(None);
        let mut session = requesting(&listener);
        assert_eq!(session.handle(Input::Replied(reply), NOW), Asked::End(Ending::Reset));
        assert_eq!(session.closed(), Some((CloseReason::SniffFailed, 1)));
        assert_eq!(session.facts, Facts::default(), "the dial has not failed");
        assert_eq!(listener.pool.members.iter().map(|member| member.backend.active()).sum::<u32>(), 0);
    }
}

#[test]
fn a_backend_that_fails_meanwhile_is_one_that_could_not_be_connected_to() {
    for late in [false, true] {
        let listener = postgres(None);
        let mut session = requesting(&listener);
        let fails = |session: &mut Machine| {
            if late {
                assert_eq!(session.handle(Input::Deadline, Tick(NOW.0 + 1)), Asked::Wait);
                session.handle(Input::Deadline, NOW + CONNECT)
            } else {
                session.handle(Input::Dialed(Err(REFUSED)), NOW)
            }
        };
        assert_eq!(fails(&mut session), Asked::Pick);
        assert_eq!(session.tried.len(), 1);
        asks(&mut session, &listener);
        assert_eq!(session.handle(Input::Dialed(Err(REFUSED)), NOW), Asked::End(Ending::Reset));
        assert_eq!(session.closed(), Some((CloseReason::ConnectFailed, 2)));
        assert_eq!(session.facts, Facts { failed: 2, retried: 1, ..Facts::default() });
    }
}

#[test]
fn what_concerns_the_client_or_an_operator_ends_it_as_during_a_dial() {
    for (input, close) in [
        (Input::Reset(Side::Client), CloseReason::ClientReset),
        (Input::Stop(CloseReason::Shutdown), CloseReason::Shutdown),
    ] {
        let mut session = requesting(&postgres(None));
        assert_eq!(session.handle(input, NOW), Asked::End(Ending::Reset));
        assert_eq!(session.closed(), Some((close, 1)));
    }
    let mut session = requesting(&postgres(None));
    let all = session.backend().map(|backend| (backend.id, ResetScope::All));
    let order = &all.into_iter().collect();
    let reason = CloseReason::Forced;
    assert_eq!(session.handle(Input::ResetBackends { order, reason }, NOW), Asked::Pick);
}

#[test]
fn the_next_process_asks_anew() {
    let listener = postgres(None);
    let session = requesting(&listener);
    let (mut session, now) = rebuild(&session, &listener, NOW, 0);
    assert_eq!(session.handle(Input::Begin, now), Asked::Pick);
    assert!(session.tried.is_empty(), "its backend has not failed");
    asks(&mut session, &listener);
    assert_eq!(session.handle(Input::Replied(Reply::Tls), now), Asked::Relay);
}
