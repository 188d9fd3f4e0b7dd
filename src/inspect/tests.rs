use super::*;
use crate::base::slots::Key;
use crate::config::model::{Global, Model, Pool as Settings};
use crate::pool::Resolved;
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Workers that are written down here: what each does with a question.
struct Script<F> {
    workers: usize,
    act: F,
    ended: Vec<usize>,
    /// Runs when the caller looks whether a worker has ended.
    last_moment: Option<Box<dyn Fn(usize)>>,
    kept: RefCell<Inspections>,
}

fn script<F: Fn(usize, Inspection) -> Option<Inspection>>(workers: usize, act: F) -> Script<F> {
    Script { workers, act, ended: Vec::new(), last_moment: None, kept: RefCell::default() }
}

impl<F: Fn(usize, Inspection) -> Option<Inspection>> Inspect for Script<F> {
    fn workers(&self) -> usize {
        self.workers
    }

    fn put(&self, worker: usize, inspection: Inspection) {
        if let Some(kept) = (self.act)(worker, inspection) {
            self.kept.borrow_mut().add(Inspections::one(kept));
        }
    }

    fn has_ended(&self, worker: usize) -> bool {
        if let Some(last) = &self.last_moment {
            last(worker);
        }
        self.ended.contains(&worker)
    }
}

/// A connection of a table.
#[derive(Clone, Debug)]
struct Entry {
    id: u64,
    client: Option<Endpoint>,
    since: Tick,
    last_byte: Tick,
    bytes: (u64, u64),
}

struct Table {
    listener: Arc<ListenerTotals>,
    pool: Arc<Pool>,
    entries: Vec<Entry>,
}

impl Table {
    fn new(entries: Vec<Entry>) -> Table {
        let settings = Settings { name: "web".to_owned(), ..Settings::default() };
        let model = Model { global: Global::default(), listeners: Vec::new(), pools: vec![settings] };
        let pool = crate::pool::build(&model, &Resolved::new()).pools[0].clone();
        Table { listener: ListenerTotals::new("front".to_owned()), pool, entries }
    }

    fn live(&self, slot: u32) -> Live<'_> {
        let entry = &self.entries[slot as usize];
        Live {
            id: ConnectionId(entry.id),
            listener: &self.listener,
            pool: &self.pool,
            backend: None,
            backend_port: None,
            client: entry.client.as_ref(),
            since: entry.since,
            last_byte: entry.last_byte,
            attempts: 1,
            connect: None,
            first: None,
            history: None,
            bytes_to_backend: entry.bytes.0,
            bytes_to_client: entry.bytes.1,
            state: "relaying",
        }
    }

    /// Takes so many steps; true once the question is answered as far as this table goes.
    fn slice(&self, inspection: &mut Inspection, steps: usize) -> bool {
        inspection.begin_slice(self.entries.len() as u32);
        for _ in 0..steps {
            if let Some(slot) = inspection.next_slot() {
                inspection.visit(Key { slot, generation: 0 }, &self.live(slot));
            } else if let Some(key) = inspection.next_kept() {
                inspection.describe(&self.live(key.slot), None);
            } else {
                return true;
            }
        }
        false
    }

    /// Answers at once.
    fn answer(&self, mut inspection: Inspection) {
        while !self.slice(&mut inspection, 1) {}
        inspection.answer();
    }
}

fn entry(id: u64) -> Entry {
    let client = Some(Endpoint::Inet(([192, 0, 2, id as u8], 1000).into()));
    Entry { id, client, since: Tick(id), last_byte: Tick(2_000 - id), bytes: (id * 7 % 5, id) }
}

fn list(sort: Sort, limit: usize) -> Question {
    Question { filter: Filter::default(), action: Action::List { sort, limit } }
}

fn ids(joined: &Joined) -> Vec<u64> {
    joined.rows.iter().map(|row| row.id.0).collect()
}

/// A clock that is one second further at each look.
fn seconds() -> impl Fn() -> Tick {
    let now = Cell::new(1_000_000);
    move || Tick(now.replace(now.get() + 1_000_000))
}

#[test]
fn an_answer_counts_though_the_worker_ends_right_after_it() {
    let asked = Rc::new(RefCell::new(None));
    let of_script = asked.clone();
    let mut workers = script(1, move |_, inspection| {
        *of_script.borrow_mut() = Some(inspection);
        None
    });
    workers.ended = vec![0];
    workers.last_moment = Some(Box::new(move |_| {
        if let Some(inspection) = asked.borrow_mut().take() {
            Table::new(vec![entry(1024)]).answer(inspection);
        }
    }));
    let joined = ask(&workers, list(Sort::Age, 10), seconds());
    assert_eq!((ids(&joined), joined.silent), (vec![1024], vec![]));
}

#[test]
fn a_silent_worker_is_named_and_the_others_answers_are_kept() {
    let table = Table::new(vec![entry(1024)]);
    let mut workers = script(3, |worker, inspection| match worker {
        0 => {
            table.answer(inspection);
            None
        }
        _ => Some(inspection),
    });
    workers.ended = vec![2];
    let joined = ask(&workers, list(Sort::Age, 10), seconds());
    assert_eq!((ids(&joined), joined.silent), (vec![1024], vec![1]));
    // What the worker has of it is dropped once it goes on.
    workers.kept.borrow_mut().add(Inspections::default());
    assert!(workers.kept.borrow().is_empty());
}

#[test]
fn a_worker_that_goes_on_is_waited_for_but_not_for_ever() {
    let workers = script(1, |_, inspection| Some(inspection));
    let (looks, clock) = (Cell::new(0), seconds());
    let joined = ask(&workers, list(Sort::Age, 10), || {
        looks.set(looks.get() + 1);
        workers.kept.borrow_mut().turn(|inspection| {
            inspection.begin_slice(1 << 20);
            false
        });
        clock()
    });
    assert_eq!(joined.silent, [0]);
    assert!(looks.get() as u64 > PATIENCE_IN_ALL.as_secs(), "{} looks", looks.get());
}

#[test]
fn a_question_about_one_connection_goes_to_its_worker_only() {
    let asked = RefCell::new(Vec::new());
    let workers = script(4, |worker, inspection| {
        asked.borrow_mut().push(worker);
        inspection.answer();
        None
    });
    // The process before may have had more workers.
    for (id, expected) in [(1024, vec![0]), (1026, vec![2]), (1024 + 9, vec![1]), (u64::MAX, vec![3])] {
        let filter = Filter { id: Some(ConnectionId(id)), ..Filter::default() };
        ask(&workers, Question { filter, action: Action::Close }, seconds());
        assert_eq!(asked.take(), expected, "{id}");
    }
}

#[test]
fn questions_take_turns_and_their_number_is_bounded() {
    let kept = RefCell::new(Inspections::default());
    let workers = script(2 * QUESTIONS_MAX, |worker, inspection| {
        kept.borrow_mut().add(Inspections::one(inspection));
        // Workers that are stuck for a while: the caller that asks last finds them going on.
        if worker + 1 == 2 * QUESTIONS_MAX {
            let (mut turns, table) = (Vec::new(), Table::new((0..3).map(entry).collect()));
            while !kept.borrow().is_empty() {
                kept.borrow_mut().turn(|inspection| {
                    let is_complete = table.slice(inspection, 1);
                    turns.push(is_complete);
                    is_complete
                });
            }
            // Three connections, three rows, the end: each question has its turn before any has its next one.
            let answered = turns.iter().position(|is_complete| *is_complete);
            assert_eq!((turns.len(), answered), (7 * QUESTIONS_MAX, Some(6 * QUESTIONS_MAX)));
        }
        None
    });
    let joined = ask(&workers, list(Sort::Age, LIMIT_MAX), seconds());
    assert_eq!((joined.rows.len(), joined.silent.len()), (3 * QUESTIONS_MAX, QUESTIONS_MAX));
}

#[test]
fn a_filter_means_what_all_its_parts_mean() {
    let table = Table::new(vec![
        entry(1),
        Entry { client: Some(Endpoint::Inet("[::ffff:192.0.2.9]:1".parse().unwrap())), ..entry(2) },
        Entry { client: Some(Endpoint::Inet("[2001:db8::1]:1".parse().unwrap())), ..entry(3) },
        Entry { client: None, ..entry(4) },
        Entry { since: Tick(u64::MAX), ..entry(5) },
    ]);
    let named = |name: &str| Some(name.to_owned());
    let within = |prefix: &str| Some(prefix.parse().unwrap());
    for (filter, expected) in [
        (Filter::default(), vec![1, 2, 3, 4]),
        (Filter { client: within("192.0.2.0/24"), ..Filter::default() }, vec![1, 2]),
        (Filter { client: within("2001:db8::1/128"), ..Filter::default() }, vec![3]),
        (Filter { client: within("::/0"), ..Filter::default() }, vec![3]),
        (Filter { listener: named("front"), pool: named("web"), ..Filter::default() }, vec![1, 2, 3, 4]),
        (Filter { listener: named("front"), pool: named("we"), ..Filter::default() }, vec![]),
        (Filter { backend: named(""), ..Filter::default() }, vec![]),
        (Filter { id: Some(ConnectionId(4)), pool: named("web"), ..Filter::default() }, vec![4]),
    ] {
        let workers = script(1024, |worker, inspection| {
            if worker == filter.id.map_or(0, |_| 4) {
                table.answer(inspection);
            } else {
                inspection.answer();
            }
            None
        });
        let action = Action::List { sort: Sort::Age, limit: 9 };
        let joined = ask(&workers, Question { filter: filter.clone(), action }, seconds());
        assert_eq!(ids(&joined), expected, "{filter:?}");
    }
}

proptest! {
    /// Whatever the limit and the slices, the workers' tables together give the first ones of all.
    #[test]
    fn the_first_of_all_workers_are_listed_in_order(
        tables in proptest::collection::vec(proptest::collection::vec((0u64..50, 0u64..50, 0u64..9, 0u64..9), 0..40), 1..4),
        limit in 1usize..30,
        steps in 1usize..20,
        sort in 0usize..3,
    ) {
        let (_, sort) = Sort::NAMES[sort];
        let mut id = 0;
        let mut all = Vec::new();
        let tables: Vec<Table> = tables.into_iter().map(|entries| {
            let entries: Vec<Entry> = entries.into_iter().map(|(since, last_byte, up, down)| {
                id += 1;
                Entry { id, client: None, since: Tick(since), last_byte: Tick(last_byte), bytes: (up, down) }
            }).collect();
            all.extend(entries.clone());
            Table::new(entries)
        }).collect();
        let workers = script(tables.len(), |worker, mut inspection| {
            while !tables[worker].slice(&mut inspection, steps) {}
            inspection.answer();
            None
        });
        all.sort_by_key(|entry| match sort {
            Sort::Age => (entry.since.0, entry.id),
            Sort::Idle => (entry.last_byte.0, entry.id),
            Sort::Bytes => (100 - entry.bytes.0 - entry.bytes.1, entry.id),
        });
        let expected: Vec<u64> = all.iter().map(|entry| entry.id).take(limit).collect();
        prop_assert_eq!(ids(&ask(&workers, list(sort, limit), seconds())), expected);
    }
}
