//! What a connection that ends without a byte from the backend says of that backend's speed and load.

use super::make_pool;
use std::sync::Arc;
use std::time::Duration;
use tcplb::base::{Endpoint, Tick};
use tcplb::policy::balance::LoadBlock;
use tcplb::pool::{Backend, BackendId, Lease};
use tcplb::session::{CloseReason, Direction, Effect, Fact, Failed, Input, Ledger, Moved, Preamble, Session, Side};
use tcplb::worker::ledger::count;

const BEGUN: Tick = Tick(10_000_000);
const ASKS: (Direction, u64, bool) = (Direction::Up, 5, false);
const LEAVES: (Direction, u64, bool) = (Direction::Up, 0, true);
const CLOSES: (Direction, u64, bool) = (Direction::Down, 0, true);
const ANSWERS: (Direction, u64, bool) = (Direction::Down, 5, false);

/// Counts, and reports nothing.
struct Counting;

impl Ledger for Counting {
    fn record(&mut self, fact: Fact<'_>, now: Tick) {
        count(&fact, now);
    }
}

/// What the session asks for when it gets this, and what is reported at its end.
fn give(session: &mut Session, input: Input<'_>, now: Tick) -> Next {
    let (mut ledger, mut next) = (Counting, Next::Nothing);
    match session.on(input, now, &mut ledger) {
        Effect::ReadOut(side) => next = Next::ReadOut(side),
        Effect::Measure(_) => next = Next::Measure,
        Effect::End { record, .. } => {
            ledger.record(Fact::Closed(record), now);
            next = Next::Over;
        }
        _ => {}
    }
    next
}

#[derive(PartialEq)]
enum Next {
    Nothing,
    ReadOut(Side),
    Measure,
    Over,
}

/// A connection on which these bytes and FINs move at once, and which is over so much later by `end`, if it is not
/// already: the average in milliseconds, and the failures that count as load.
fn after(moves: &[(Direction, u64, bool)], later: Duration, end: Option<Input<'static>>) -> (Option<u32>, u32) {
    let (block, at) = (Arc::new(LoadBlock::default()), vec![Endpoint::Inet(([10, 0, 0, 1], 80).into())]);
    let listener = make_pool(&[(at.clone(), None)], 1).0.listeners[0].clone();
    let backend = Arc::new(Backend::new(BackendId(77), "measured".into(), at, block.clone(), 5));
    let mut session = Session::new(None, Preamble::None, listener, 0, BEGUN);
    let lease = Lease::take(&backend, 0, u32::MAX).expect("room");
    for input in [Input::Begin, Input::Admitted(Ok(())), Input::Picked(Ok(lease)), Input::Dialed(Ok(()))] {
        give(&mut session, input, BEGUN);
    }
    let (mut now, mut next) = (BEGUN, Next::Nothing);
    for (direction, bytes, fin) in moves {
        if *fin {
            now = BEGUN + later;
        }
        let moved = Moved { read: *bytes, written: *bytes, held: false, fin: *fin, failed: None };
        next = give(&mut session, Input::Moved(*direction, moved), now);
    }
    now = BEGUN + later;
    if let Some(input) = end {
        next = give(&mut session, input, now);
        // What a side sent before it failed is read first, and there is nothing of it.
        while next != Next::Over {
            let source_failed = Moved { failed: Some(Failed::Source), ..Moved::default() };
            let input = match next {
                Next::ReadOut(side) => Input::Moved(Direction::from(side), source_failed),
                Next::Measure => Input::Unsent(0),
                _ => Input::Deadline,
            };
            next = give(&mut session, input, now);
        }
    }
    assert!(next == Next::Over, "it is over");
    drop(session);
    (backend.latency_us(now).map(|micros| micros.div_ceil(1_000)), block.load(5, now))
}

#[test]
fn an_end_without_a_byte_is_a_bad_sample_if_the_client_had_asked_or_the_backend_ended_it() {
    let (soon, late) = (Duration::from_millis(20), Duration::from_secs(3));
    let reset = |side| Some(Input::Reset(side));
    let stop = |reason| Some(Input::Stop(reason));
    for (moves, later, end, expected) in [
        // The backend closes or resets first.
        (&[CLOSES, LEAVES][..], soon, None, (Some(1_000), 1)),
        (&[ASKS, CLOSES, LEAVES], soon, None, (Some(1_000), 1)),
        (&[CLOSES], soon, reset(Side::Client), (Some(1_000), 1)),
        (&[], soon, reset(Side::Backend), (Some(1_000), 1)),
        (&[ASKS], late, reset(Side::Backend), (Some(3_000), 0)),
        // The client leaves: all that is known is how long it had waited.
        (&[ASKS, LEAVES, CLOSES], late, None, (Some(3_000), 0)),
        (&[ASKS], soon, reset(Side::Client), (Some(20), 0)),
        (&[LEAVES, CLOSES], soon, None, (None, 0)),
        (&[], soon, reset(Side::Client), (None, 0)),
        // An operator's doing, and an answer.
        (&[ASKS], soon, stop(CloseReason::Forced), (None, 0)),
        (&[ASKS], soon, stop(CloseReason::Shutdown), (None, 0)),
        (&[ASKS, ANSWERS], soon, reset(Side::Backend), (Some(1), 0)),
    ] {
        let shown = format!("{moves:?}, {later:?}, {end:?}");
        assert_eq!(after(moves, later, end), expected, "{shown}");
    }
}

#[test]
fn silence_after_a_question_is_a_bad_sample_and_silence_without_one_is_none() {
    assert_eq!(after(&[ASKS], super::IDLE, Some(Input::Deadline)), (Some(60_000), 0));
    assert_eq!(after(&[], super::IDLE, Some(Input::Deadline)), (None, 0));
}
