//! Clients that wait for a backend, and snapshots that change under a session.

use super::*;

#[test]
fn a_waiting_client_has_turns_until_the_time_is_over_and_every_backend_again_at_each() {
    const WAIT: Duration = Duration::from_secs(3);
    let listener = waiting_listener(&endpoints(None)[..1], WAIT);
    let mut now = Tick(7);
    let mut session = admitted(&listener, now);
    assert_eq!(session.handle(Input::Picked(Err(PickError::AllDown)), now), Asked::Queue);
    assert!(session.stage() == Stage::Waiting && session.backend().is_none());
    for _ in 0..5 {
        now = now + WAIT / 10;
        assert_eq!(session.handle(Input::Deadline, now), Asked::Wait, "not yet");
        assert_eq!(session.handle(Input::Turn, now), Asked::Pick);
        assert!(session.tried.is_empty());
        let lease = Lease::take(&listener.pool.members[0].backend, 0, 1).expect("room");
        assert_eq!(session.handle(Input::Picked(Ok(lease)), now), Asked::Dial);
        assert_eq!(session.handle(Input::Turn, now), Asked::Wait, "it does not stand in the queue");
        assert_eq!(session.handle(Input::Dialed(Err(REFUSED)), now), Asked::Pick);
        assert_eq!(session.handle(Input::Picked(Err(PickError::AllDown)), now), Asked::Queue);
        assert_eq!(session.deadline(), Some(Tick(7) + WAIT));
    }
    now = Tick(7) + WAIT;
    assert_eq!(session.handle(Input::Deadline, now), Asked::End(Ending::Reset));
    assert_eq!(session.closed(), Some((CloseReason::ConnectFailed, 5)));
    assert_eq!(session.facts, Facts { failed: 5, ..Facts::default() });
}

#[test]
fn a_waiting_client_that_is_rebuilt_has_its_past_and_the_rest_of_its_time() {
    const WAIT: Duration = Duration::from_secs(3);
    let listener = waiting_listener(&endpoints(None), WAIT);
    let (mut session, begun) = (dialing(&listener, Tick(7)), Tick(7) + WAIT / 6);
    assert_eq!(session.handle(Input::Dialed(Err(REFUSED)), begun), Asked::Pick);
    assert_eq!(session.handle(Input::Picked(Err(PickError::AllDown)), begun), Asked::Queue);
    assert_eq!(session.handle(Input::Queued { ahead: 4, left: None }, begun), Asked::Wait);
    let saved = session.save(begun + WAIT / 2).expect("it lives");
    let (mut rebuilt, now) = rebuild(&session, &listener, begun + WAIT / 2, 77);
    let again = rebuilt.save(now).expect("it lives");
    assert_eq!((&again.history, again.spent, again.attempts), (&saved.history, WAIT / 6, 1));
    let history = saved.history.expect("a past");
    assert_eq!((history.failed.len(), history.failures, history.waited, history.ahead), (1, 1, WAIT / 2, Some(4)));
    assert_eq!(rebuilt.handle(Input::Begin, now), Asked::Pick);
    assert_eq!(rebuilt.handle(Input::Picked(Err(PickError::AllDown)), now), Asked::Queue);
    let until = Tick(begun.0 + 77) + WAIT;
    assert_eq!(rebuilt.deadline(), Some(until));
    assert_eq!(rebuilt.handle(Input::Deadline, until), Asked::End(Ending::Reset));
    assert_eq!(rebuilt.closed(), Some((CloseReason::ConnectFailed, 1)));
}

#[test]
fn a_full_queue_or_a_reset_ends_the_waiting() {
    let listener = waiting_listener(&endpoints(None), Duration::from_secs(3));
    for (input, close) in
        [(Input::NoPlace, CloseReason::NoBackend), (Input::Reset(Side::Client), CloseReason::ClientReset)]
    {
        let mut session = admitted(&listener, Tick(0));
        assert_eq!(session.handle(Input::Picked(Err(PickError::AllFull)), Tick(0)), Asked::Queue);
        assert_eq!(session.handle(input, Tick(1)), Asked::End(Ending::Reset));
        assert_eq!(session.closed(), Some((close, 0)));
    }
}

#[test]
fn a_full_queue_means_nothing_to_a_session_that_does_not_wait() {
    let listener = waiting_listener(&endpoints(None), Duration::from_secs(3));
    let client = Some(Endpoint::Inet(([127, 0, 0, 1], 9).into()));
    let mut session = machine(client, Preamble::ProxyHeader, &listener, Tick(0));
    let mut random = fastrand::Rng::with_seed(1);
    let lease = Lease::take(&listener.pool.members[0].backend, 0, 1).expect("room");
    for (input, asked) in [
        (Input::Begin, Asked::ReadPreamble),
        (Input::Header(Ok(Box::new(header()))), Asked::Admit),
        (Input::Admitted(Ok(())), Asked::Pick),
        (Input::Picked(Ok(lease)), Asked::Dial),
        (Input::Dialed(Ok(())), Asked::Relay),
        (Input::Moved(Direction::Up, Moved { fin: true, ..Moved::default() }), Asked::Finish(Side::Backend)),
        (Input::Reset(Side::Backend), Asked::ReadOut(Side::Backend)),
        (Input::Stop(CloseReason::Forced), Asked::End(Ending::Reset)),
    ] {
        assert_eq!(session.handle(input, Tick(0)), asked);
        let before = (session.stage(), session.deadline(), session.backend().is_some());
        assert_eq!(session.handle(Input::NoPlace, Tick(0)), Asked::Wait, "{asked:?}");
        assert_eq!((session.stage(), session.deadline(), session.backend().is_some()), before, "{asked:?}");
    }
    let mut session = admitted(&listener, Tick(0));
    assert_eq!(session.handle(Input::Picked(Err(PickError::AllFull)), Tick(0)), Asked::Queue);
    assert_eq!(session.handle(Input::Turn, Tick(0)), Asked::Pick);
    assert_eq!(session.handle(Input::NoPlace, Tick(0)), Asked::Wait, "it has its turn");
    let picked = pick(&listener, &session, &mut random);
    assert_eq!(session.handle(picked, Tick(0)), Asked::Dial);
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
        let listener = make_pool_with(&endpoints(None), settings, (None, None)).0.listeners[0].clone();
        let mut session = admitted(&listener, Tick(0));
        assert_eq!(session.handle(Input::Left(left), Tick(0)), Asked::Wait, "it does not wait yet");
        assert_eq!(session.handle(Input::Picked(Err(PickError::AllFull)), Tick(0)), Asked::Queue);
        let expected = close.map_or(Asked::Wait, |_| Asked::End(Ending::Reset));
        assert_eq!(session.handle(Input::Left(left), Tick(1)), expected, "{abandoned:?}, {left:?}");
        assert_eq!(session.closed(), close.map(|close| (close, 0)));
    }
}

#[test]
fn a_waiting_client_looks_in_the_pool_s_successor_as_long_as_it_was_promised() {
    let old = waiting_listener(&endpoints(None), Duration::from_secs(3));
    let mut session = admitted(&old, Tick(0));
    assert_eq!(session.handle(Input::Picked(Err(PickError::AllFull)), Tick(0)), Asked::Queue);
    let new = snapshot_of(&endpoints(None));
    assert_eq!(session.handle(Input::Adopt(&new), Tick(0)), Asked::Queue, "its place is in another queue");
    assert_eq!(session.deadline(), Some(Tick(0) + Duration::from_secs(3)));
    assert_eq!(session.handle(Input::Turn, Tick(1)), Asked::Pick);
    assert_eq!(
        session.handle(Input::Picked(Err(PickError::AllFull)), Tick(1)),
        Asked::End(Ending::Reset),
        "no client waits there"
    );
}

#[test]
fn a_snapshot_before_the_pool_is_chosen_brings_its_route() {
    let old = listener_of(&endpoints(None));
    let settings = model::Pool { max_lifetime: Some(Duration::from_secs(9)), ..model::Pool::default() };
    let new = make_pool_with(&endpoints(None)[..1], settings, (None, None)).0;
    let expires = |session: &Machine| session.save(Tick(0)).and_then(|saved| saved.left).map(|left| left.from);
    let mut session = machine(None, Preamble::None, &old, Tick(0));
    assert_eq!(session.handle(Input::Begin, Tick(0)), Asked::Admit);
    assert_eq!(session.handle(Input::Adopt(&new), Tick(0)), Asked::Wait);
    assert_eq!(session.save(Tick(0)).map(|saved| saved.pool), Some(None), "not chosen yet");
    assert_eq!(session.handle(Input::Admitted(Ok(())), Tick(0)), Asked::Pick);
    assert_eq!(expires(&session), Some(Duration::from_secs(9)));

    let mut session = admitted(&old, Tick(0));
    assert_eq!(session.handle(Input::Adopt(&new), Tick(0)), Asked::Wait);
    assert_eq!(
        expires(&session),
        Some(Duration::from_secs(9)),
        "the client has no backend yet, so the new pool serves it"
    );
}

#[test]
fn without_its_pool_a_client_is_connected_nowhere_but_where_it_is_being_dialled() {
    let listener = waiting_listener(&endpoints(None), Duration::from_secs(3));
    let (end, nothing) = (Asked::End(Ending::Reset), nothing());
    let orphaned = || {
        let mut session = dialing(&listener, Tick(0));
        assert_eq!(session.handle(Input::Adopt(&nothing), Tick(1)), Asked::Wait);
        session
    };
    let mut session = admitted(&listener, Tick(0));
    assert_eq!(session.handle(Input::Picked(Err(PickError::AllDown)), Tick(0)), Asked::Queue);
    assert_eq!(session.handle(Input::Adopt(&nothing), Tick(1)), end);
    assert_eq!(session.closed(), Some((CloseReason::NoBackend, 0)));

    let mut session = orphaned();
    assert_eq!(session.handle(Input::Dialed(Ok(())), Tick(1)), Asked::Relay);

    let mut session = orphaned();
    assert_eq!(session.handle(Input::Dialed(Err(REFUSED)), Tick(1)), end);
    assert_eq!(session.closed(), Some((CloseReason::ConnectFailed, 1)));

    let mut session = orphaned();
    assert_eq!(session.handle(Input::Adopt(&snapshot_of(&endpoints(None))), Tick(1)), Asked::Wait);
    assert_eq!(session.handle(Input::Dialed(Err(REFUSED)), Tick(1)), Asked::Pick, "there is a pool again");

    let mut session = machine(None, Preamble::None, &listener, Tick(0));
    assert_eq!(session.handle(Input::Adopt(&nothing), Tick(0)), Asked::Wait);
    assert_eq!(session.handle(Input::Admitted(Ok(())), Tick(0)), end);
    assert_eq!(session.closed(), Some((CloseReason::NoBackend, 0)));
}
