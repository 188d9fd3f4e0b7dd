//! Warm connections, and their end before the first byte.

use super::*;

const NOW: Tick = Tick(7);

/// One that has taken a warm connection.
fn warm(send_proxy: Option<ProxyVersion>) -> (Machine, Arc<Listener>) {
    let listener = listener_of(&endpoints(send_proxy));
    let mut session = dialing(&listener, NOW);
    assert!(session.may_be_warm);
    let asked = if send_proxy.is_some() { Asked::Announce } else { Asked::Relay };
    assert_eq!(session.handle(Input::TookWarm, NOW), asked);
    assert_eq!(session.facts, Facts { connected: 1, ..Facts::default() });
    (session, listener)
}

fn down(moved: Moved) -> Input<'static> {
    Input::Moved(Direction::Down, moved)
}

fn up(moved: Moved) -> Input<'static> {
    Input::Moved(Direction::Up, moved)
}

const FIN: Moved = Moved { read: 0, written: 0, held: false, piped: false, fin: true, failed: None };
const FAILED: Moved = Moved { fin: false, failed: Some(Failed::Source), ..FIN };
/// What the client has sent could not be written.
const UNDELIVERABLE: Moved = Moved { read: 5, held: true, fin: false, failed: Some(Failed::Sink), ..FIN };
const ONE_BYTE: Moved = Moved { read: 1, written: 1, fin: false, ..FIN };

#[test]
fn an_end_before_the_first_byte_is_answered_by_a_dial_of_the_same_address() {
    for end in [down(FIN), down(FAILED), up(UNDELIVERABLE), Input::Reset(Side::Backend)] {
        let shown = format!("{end:?}");
        let (mut session, _) = warm(None);
        let address = session.address.clone();
        assert_eq!(session.handle(end, NOW), Asked::Dial, "{shown}");
        assert_eq!((&session.address, session.may_be_warm), (&address, false), "{shown}");
        assert_eq!(session.handle(Input::Dialed(Ok(())), NOW), Asked::Relay);
        assert_eq!(session.facts, Facts { connected: 1, ..Facts::default() }, "it is one connection");
        // The dial that follows is a connection like any other.
        assert_eq!(session.handle(down(FIN), NOW), Asked::Finish(Side::Client));
    }
}

#[test]
fn a_dial_in_place_of_a_warm_connection_may_fail_as_any_other() {
    let (mut session, listener) = warm(None);
    let before = session.backend().map(|backend| backend.id);
    assert_eq!(session.handle(down(FIN), NOW), Asked::Dial);
    assert_eq!(session.handle(Input::Dialed(Err(REFUSED)), NOW), Asked::Pick);
    assert_eq!(session.tried.len(), 1);
    let picked = pick(&listener, &session, &mut fastrand::Rng::with_seed(1));
    assert_eq!(session.handle(picked, NOW), Asked::Dial);
    assert!(session.may_be_warm && session.backend().map(|backend| backend.id) != before);
    assert_eq!(session.facts, Facts { connected: 1, failed: 1, retried: 1, answered: 0 });
}

#[test]
fn after_the_first_byte_or_a_fin_an_end_is_passed_on() {
    for moved in [down(ONE_BYTE), up(ONE_BYTE), up(FIN)] {
        let (mut session, _) = warm(None);
        session.handle(moved, NOW);
        assert_eq!(session.handle(Input::Reset(Side::Backend), NOW), Asked::ReadOut(Side::Backend));
    }
    for moved in [
        down(Moved { read: 3, written: 3, ..FIN }),
        up(Moved { fin: true, ..UNDELIVERABLE }),
        up(Moved { piped: true, ..UNDELIVERABLE }),
        up(Moved { written: 1, ..UNDELIVERABLE }),
    ] {
        let shown = format!("{moved:?}");
        let (mut session, _) = warm(None);
        assert_ne!(session.handle(moved, NOW), Asked::Dial, "{shown}");
    }
}

#[test]
fn a_warm_connection_with_a_preamble_has_no_moment_without_a_byte() {
    let (mut session, _) = warm(Some(ProxyVersion::V2));
    assert_eq!(session.handle(Input::Announced(28), NOW), Asked::Relay);
    assert_eq!(session.handle(Input::Reset(Side::Backend), NOW), Asked::ReadOut(Side::Backend));
}
