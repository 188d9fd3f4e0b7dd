//! What a connection that ends without a byte from the backend says of that backend's speed and load.

use super::make_pool;
use std::sync::Arc;
use std::time::Duration;
use tcplb::base::{Endpoint, Tick};
use tcplb::policy::balance::LoadBlock;
use tcplb::pool::{Backend, BackendId, Lease};
use tcplb::session::{
    CloseReason, ConnectionId, Direction, Effect, Fact, Failed, Input, Ledger, Moved, Preamble, Session, Side,
};
use tcplb::worker::ledger::count;

const BEGUN: Tick = Tick(10_000_000);
const ASKS: Step = Step { direction: Direction::Up, bytes: 5, fin: false };
const LEAVES: Step = Step { direction: Direction::Up, bytes: 0, fin: true };
const CLOSES: Step = Step { direction: Direction::Down, bytes: 0, fin: true };
const ANSWERS: Step = Step { direction: Direction::Down, bytes: 5, fin: false };

/// What moves in one direction at once.
#[derive(Debug)]
struct Step {
    direction: Direction,
    bytes: u64,
    fin: bool,
}

/// What is known of the backend after the connection.
#[derive(Debug, PartialEq)]
struct Measured {
    /// The average in milliseconds, if there is a sample.
    latency_ms: Option<u32>,
    /// Failures that count as load.
    failures: u32,
}

const fn measured(latency_ms: u32, failures: u32) -> Measured {
    Measured { latency_ms: Some(latency_ms), failures }
}

const UNMEASURED: Measured = Measured { latency_ms: None, failures: 0 };

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
    match session.handle(input, now, &mut ledger) {
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

/// What a connection leaves on which these steps happen at once, FINs `later`. `end` ends it then, if no step did.
fn after(steps: &[Step], later: Duration, end: Option<Input<'static>>) -> Measured {
    let (block, at) = (Arc::new(LoadBlock::default()), vec![Endpoint::Inet(([10, 0, 0, 1], 80).into())]);
    let listener = make_pool(&[(at.clone(), None)], 1).0.listeners[0].clone();
    let backend = Arc::new(Backend::new(BackendId(77), "measured".into(), at, block.clone(), 5));
    let mut session = Session::new(ConnectionId(1), None, Preamble::None, listener, 0, BEGUN);
    let lease = Lease::take(&backend, 0, u32::MAX).expect("room");
    for input in [Input::Begin, Input::Admitted(Ok(())), Input::Picked(Ok(lease)), Input::Dialed(Ok(()))] {
        give(&mut session, input, BEGUN);
    }
    let (mut now, mut next) = (BEGUN, Next::Nothing);
    for step in steps {
        if step.fin {
            now = BEGUN + later;
        }
        let moved = Moved { read: step.bytes, written: step.bytes, fin: step.fin, ..Moved::default() };
        next = give(&mut session, Input::Moved(step.direction, moved), now);
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
    let latency_ms = backend.latency_us(now).map(|micros| micros.div_ceil(1_000));
    Measured { latency_ms, failures: block.load(5, now) }
}

#[test]
fn an_end_without_a_byte_is_a_bad_sample_if_the_client_had_asked_or_the_backend_ended_it() {
    let (soon, late) = (Duration::from_millis(20), Duration::from_secs(3));
    let reset = |side| Some(Input::Reset(side));
    let stop = |reason| Some(Input::Stop(reason));
    for (steps, later, end, expected) in [
        // The backend closes or resets first.
        (&[CLOSES, LEAVES][..], soon, None, measured(1_000, 1)),
        (&[ASKS, CLOSES, LEAVES], soon, None, measured(1_000, 1)),
        (&[CLOSES], soon, reset(Side::Client), measured(1_000, 1)),
        (&[], soon, reset(Side::Backend), measured(1_000, 1)),
        (&[ASKS], late, reset(Side::Backend), measured(3_000, 0)),
        // The client leaves: all that is known is how long it had waited.
        (&[ASKS, LEAVES, CLOSES], late, None, measured(3_000, 0)),
        (&[ASKS], soon, reset(Side::Client), measured(20, 0)),
        (&[LEAVES, CLOSES], soon, None, UNMEASURED),
        (&[], soon, reset(Side::Client), UNMEASURED),
        // An operator's doing, and an answer.
        (&[ASKS], soon, stop(CloseReason::Forced), UNMEASURED),
        (&[ASKS], soon, stop(CloseReason::Shutdown), UNMEASURED),
        (&[ASKS, ANSWERS], soon, reset(Side::Backend), measured(1, 0)),
    ] {
        let shown = format!("{steps:?}, {later:?}, {end:?}");
        assert_eq!(after(steps, later, end), expected, "{shown}");
    }
}

#[test]
fn silence_after_a_question_is_a_bad_sample_and_silence_without_one_is_none() {
    assert_eq!(after(&[ASKS], super::IDLE, Some(Input::Deadline)), measured(60_000, 0));
    assert_eq!(after(&[], super::IDLE, Some(Input::Deadline)), UNMEASURED);
}
