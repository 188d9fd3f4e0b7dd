//! A question at one worker, and how far the worker has come with it: first through all connections, then through those that
//! it lists.
//!
//! The worker goes step by step and may stop after each ([`crate::worker::driver::Driver::inspect`]).

use super::{Action, LIMIT_MAX, Question, Row};
use crate::base::Tick;
use crate::base::slots::Key;
use crate::session::Live;
use crossbeam_channel::Sender;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The most questions that wait at a worker. Each call of the admin API asks one, and fewer calls run at once.
pub const QUESTIONS_MAX: usize = 64;

/// A question at a worker.
#[derive(Debug)]
pub struct Inspection {
    question: Arc<Question>,
    /// Connections accepted later are not meant.
    asked: Tick,
    worker: usize,
    /// Slices taken. The caller holds it too, for as long as it waits.
    slices: Arc<AtomicU64>,
    answers: Sender<Answer>,
    /// Slots to be visited; `None` before the first slice.
    slots: Option<Range<u32>>,
    /// The connections to list, of those visited: the last one by the order is on top.
    kept: BinaryHeap<Reverse<Candidate>>,
    /// The same once all slots are visited, without those that have a row. In no particular order: the caller sorts.
    to_describe: Vec<Reverse<Candidate>>,
    rows: Vec<Row>,
    closed: u64,
}

/// What one worker answers.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) worker: usize,
    pub(super) rows: Vec<Row>,
    pub(super) closed: u64,
}

/// A connection that may be listed. The greatest one stands in front: by its rank, then by the lower number.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u64,
    number: Reverse<u64>,
    key: Key,
}

impl Inspection {
    pub(super) fn new(
        question: Arc<Question>,
        worker: usize,
        slices: Arc<AtomicU64>,
        answers: Sender<Answer>,
        asked: Tick,
    ) -> Inspection {
        Inspection {
            question,
            asked,
            worker,
            slices,
            answers,
            slots: None,
            kept: BinaryHeap::new(),
            to_describe: Vec::new(),
            rows: Vec::new(),
            closed: 0,
        }
    }

    /// Does the caller still wait?
    pub fn is_awaited(&self) -> bool {
        Arc::strong_count(&self.slices) > 1
    }

    /// A slice begins, at a table of so many slots. The caller sees that the worker goes on.
    pub fn begin_slice(&mut self, slots: u32) {
        self.slices.fetch_add(1, Ordering::Relaxed);
        self.slots.get_or_insert(0..slots);
    }

    /// The next slot to visit; `None` once all are.
    pub fn next_slot(&mut self) -> Option<u32> {
        self.slots.as_mut()?.next()
    }

    /// Takes the connection of a slot. True: it is to be closed, and counts as closed.
    pub fn visit(&mut self, key: Key, live: &Live<'_>) -> bool {
        let Question { filter, action } = &*self.question;
        if live.since > self.asked || !filter.matches(live) {
            return false;
        }
        match *action {
            Action::Close => {
                self.closed += 1;
                true
            }
            Action::List { sort, limit } => {
                let rank = sort.rank(live.since, live.last_byte, live.bytes_to_backend, live.bytes_to_client);
                let limit = limit.min(LIMIT_MAX);
                keep(&mut self.kept, limit, Candidate { rank, number: Reverse(live.id.0), key });
                false
            }
        }
    }

    /// The next connection to describe, once all slots are visited; `None` once all are described.
    pub fn next_kept(&mut self) -> Option<Key> {
        if !self.kept.is_empty() {
            self.to_describe = std::mem::take(&mut self.kept).into_vec();
            self.rows.reserve_exact(self.to_describe.len());
        }
        self.to_describe.pop().map(|Reverse(candidate)| candidate.key)
    }

    /// Adds the row of a connection.
    pub fn describe(&mut self, live: &Live<'_>, round_trip: Option<Duration>) {
        self.rows.push(Row::new(live, round_trip));
    }

    /// What is asked.
    pub fn question(&self) -> &Question {
        &self.question
    }

    /// Answers the caller with these connections, or with how many were closed.
    pub fn answer_with(mut self, rows: Vec<Row>, closed: u64) {
        (self.rows, self.closed) = (rows, closed);
        self.answer();
    }

    /// Answers the caller.
    pub fn answer(self) {
        // A caller that has given up needs no answer. The channel has room for one of each worker.
        let _ = self.answers.try_send(Answer { worker: self.worker, rows: self.rows, closed: self.closed });
    }
}

fn keep(kept: &mut BinaryHeap<Reverse<Candidate>>, limit: usize, candidate: Candidate) {
    if kept.len() < limit {
        return kept.push(Reverse(candidate));
    }
    if let Some(mut last) = kept.peek_mut()
        && candidate > last.0
    {
        *last = Reverse(candidate);
    }
}

/// The questions that wait at a worker, in the order of their turns: at most [`QUESTIONS_MAX`].
#[derive(Debug, Default)]
pub struct Inspections(VecDeque<Inspection>);

impl Inspections {
    /// A single question.
    pub fn one(inspection: Inspection) -> Inspections {
        Inspections(VecDeque::from([inspection]))
    }

    /// Adds later ones. Drops those whose callers have given up, and those beyond the bound.
    pub fn add(&mut self, later: Inspections) {
        self.0.extend(later.0);
        self.0.retain(Inspection::is_awaited);
        self.0.truncate(QUESTIONS_MAX);
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Has `slice` go on with the question whose turn it is, if its caller still waits. True: it is complete.
    pub fn turn(&mut self, slice: impl FnOnce(&mut Inspection) -> bool) {
        let Some(mut inspection) = self.0.pop_front().filter(Inspection::is_awaited) else { return };
        if slice(&mut inspection) {
            inspection.answer();
        } else {
            self.0.push_back(inspection);
        }
    }
}
