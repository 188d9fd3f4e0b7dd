//! The thread `kernel-entries`: counts what the kernel forwards, and deletes entries of its table of connections.
//!
//! It owns the helper's channel for entries, and waits for its answers. So no change of the rules waits for a dump of the table.
//!
//! | when | what |
//! |---|---|
//! | after a [`pause`], each second where counts must be fresh | the figures: counters and loads of backends, pools and listeners |
//! | a backend is not usable any more, a second after the rules | its entries without an answer are deleted: the next SYN chooses anew |
//! | an order resets connections | their entries are deleted: the next packet gets a reset |
//! | a question | connections are listed, or their entries deleted |
//!
//! # What bounds it
//!
//! Tasks are merged: at most two deletions for each mark wait, and [`QUESTIONS_MAX`] questions.

use super::directory::{Directory, Marked};
use super::engine;
use super::helper::{Count, Entries, Failure, Figures, Filter, Listed, States};
use super::lacks;
use super::marks::Mark;
use super::table::Bind;
use crate::base::Endpoint;
use crate::config::model::ListenerEngine;
use crate::events::{By, Event, Kind};
use crate::inspect::{self, Action, Inspection, LIMIT_MAX, QUESTIONS_MAX, Row};
use crate::mailbox::Slot;
use crate::pool::{Forwarded, Published};
use crate::proto::conntrack::{Entry, TcpState};
use crate::session::ConnectionId;
use crate::telemetry::{ListenerTotals, Tracked};
use parking_lot::{Condvar, Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The shortest pause between two looks at the table.
const LOOK: Duration = Duration::from_secs(1);

/// The longest one, as far as [`BUSY`] allows.
const LOOK_MAX: Duration = Duration::from_secs(10);

/// Looks take a hundredth of a core: each goes through all buckets of the table, 20 ms of CPU for 262,144 of them.
const IDLE: u32 = 100;

/// They never take more than a twentieth of a core.
const BUSY: u32 = 20;

/// How long an answer to a SYN may take once its backend is not usable any more.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// The most entries that the helper lists at once.
const LISTED: usize = 10_000;

/// The percentage of the table at which its fill is reported, and below which it is no more.
const NEAR: u64 = 80;
const FAR: u64 = 70;

/// Where the thread gets its tasks.
#[derive(Debug, Default)]
pub(super) struct Desk {
    directory: RwLock<Arc<Directory>>,
    tasks: Mutex<Tasks>,
    arrived: Condvar,
}

/// Which entries of a mark are deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Which {
    /// Those without an answer.
    Unanswered,
    /// All.
    All,
    /// All, if its backend is still not wanted then.
    Left,
}

#[derive(Debug, Default)]
struct Tasks {
    directory: Option<Arc<Directory>>,
    /// When to delete the entries of a mark.
    deletions: BTreeMap<(Mark, Which), Instant>,
    questions: Vec<Inspection>,
    /// Another helper is to be asked.
    entries: Option<Entries>,
    /// This process counts from now on.
    begin: bool,
    /// Another process counts from now on.
    leave: bool,
    end: bool,
}

impl Desk {
    /// The connections lead to these backends.
    pub(super) fn know(&self, directory: Arc<Directory>) {
        *self.directory.write() = directory.clone();
        self.put(|tasks| tasks.directory = Some(directory));
    }

    /// What the numbers stand for now.
    pub(super) fn directory(&self) -> Arc<Directory> {
        self.directory.read().clone()
    }

    /// Deletes entries of these marks, then.
    pub(super) fn delete(&self, marks: impl IntoIterator<Item = Mark>, which: Which, at: Instant) {
        self.put(|tasks| tasks.deletions.extend(marks.into_iter().map(|mark| ((mark, which), at))));
    }

    /// Answers a question, unless too many wait.
    pub(super) fn ask(&self, inspection: Inspection) {
        self.put(|tasks| {
            tasks.questions.retain(Inspection::is_awaited);
            if tasks.questions.len() < QUESTIONS_MAX {
                tasks.questions.push(inspection);
            }
        });
    }

    /// This process counts the connections from now on: those that are there have been counted.
    pub(super) fn begin(&self) {
        self.put(|tasks| tasks.begin = true);
    }

    /// Another process counts the connections from now on.
    pub(super) fn leave(&self) {
        self.put(|tasks| tasks.leave = true);
    }

    /// Asks this helper from now on.
    pub(super) fn renew(&self, entries: Entries) {
        self.put(|tasks| tasks.entries = Some(entries));
    }

    /// Ends the thread.
    pub(super) fn end(&self) {
        self.put(|tasks| tasks.end = true);
    }

    fn put(&self, change: impl FnOnce(&mut Tasks)) {
        change(&mut self.tasks.lock());
        self.arrived.notify_one();
    }

    /// Waits for a task, or for a deletion or the time of the next look. What is due is taken out.
    fn take(&self, look: Instant) -> Tasks {
        let mut tasks = self.tasks.lock();
        loop {
            let now = Instant::now();
            let next = tasks.deletions.values().min().copied().into_iter().chain([look]).min().unwrap_or(look);
            let has_message = tasks.directory.is_some() || !tasks.questions.is_empty() || tasks.entries.is_some();
            let has_any = has_message || tasks.begin || tasks.leave || tasks.end;
            if has_any || next <= now {
                let (due, later) = mem::take(&mut tasks.deletions).into_iter().partition(|(_, at)| *at <= now);
                tasks.deletions = later;
                let rest = Tasks { deletions: due, ..Tasks::default() };
                let deletions = mem::take(&mut tasks.deletions);
                let taken = mem::replace(&mut *tasks, Tasks { deletions, ..Tasks::default() });
                return Tasks { deletions: rest.deletions, ..taken };
            }
            self.arrived.wait_until(&mut tasks, next);
        }
    }
}

/// The pause after a look that took so much CPU time. `fresh`: counts are needed each second.
fn pause(cpu: Duration, fresh: bool) -> Duration {
    let pause = if fresh { LOOK } else { (cpu * IDLE).clamp(LOOK, LOOK_MAX) };
    pause.max(cpu * BUSY)
}

/// The state of the thread.
pub(super) struct Counter {
    pub(super) desk: Arc<Desk>,
    pub(super) entries: Entries,
    pub(super) published: Arc<Published>,
    /// The thread that keeps the rules.
    pub(super) orders: Arc<Slot<engine::Orders>>,
    directory: Arc<Directory>,
    backends: HashMap<Mark, Forwarded>,
    listeners: HashMap<SocketAddr, (Arc<ListenerTotals>, usize)>,
    /// When the last look at the table ended, and its CPU time.
    looked: (Instant, Duration),
    /// Entries were deleted since.
    is_outdated: bool,
    /// The marks of backends that have left, and without a connection at the last look.
    unused: HashSet<Mark>,
    /// The table is nearly full, as was reported.
    is_near: bool,
    /// The last failure of the helper.
    failure: Option<String>,
}

impl Counter {
    pub(super) fn new(
        desk: Arc<Desk>,
        entries: Entries,
        published: Arc<Published>,
        orders: Arc<Slot<engine::Orders>>,
    ) -> Counter {
        Counter {
            desk,
            entries,
            published,
            orders,
            directory: Arc::default(),
            backends: HashMap::new(),
            listeners: HashMap::new(),
            looked: (Instant::now(), Duration::ZERO),
            is_outdated: false,
            unused: HashSet::new(),
            is_near: false,
            failure: None,
        }
    }

    /// Runs until the end.
    pub(super) fn run(mut self) {
        let mut counts = false;
        loop {
            let far = Instant::now() + Duration::from_secs(3600);
            let tasks = self.desk.take(if counts { self.next_look() } else { far });
            if tasks.end {
                break;
            }
            let is_renewed = tasks.entries.map(|entries| self.entries = entries).is_some();
            if tasks.begin || is_renewed {
                self.begin();
            }
            if let Some(directory) = tasks.directory {
                self.directory = directory;
                counts = !self.directory.is_empty();
                if !counts {
                    self.note_unled();
                }
            }
            if tasks.leave {
                self.release();
                counts = false;
            }
            self.delete_all(&tasks.deletions.into_keys().collect());
            tasks.questions.into_iter().for_each(|question| self.answer(question));
            if counts && self.next_look() <= Instant::now() {
                self.count();
            }
        }
        self.release();
    }

    /// Counts only what comes from now on.
    pub(super) fn begin(&mut self) {
        if let Err(failure) = self.entries.figures() {
            log::warn!("the kernel's connections can't be counted: {failure}");
        }
    }

    /// Counts nothing any more.
    fn release(&mut self) {
        self.backends.clear();
        self.unused.clear();
        self.listeners.drain().for_each(|(_, (totals, active))| totals.forward(0, active, 0));
        self.published.kernel().set_tracked(None);
    }

    /// Each kind of deletion is one look at the table, however many backends it is for.
    fn delete_all(&mut self, deletions: &BTreeSet<(Mark, Which)>) {
        for (unanswered, states) in [(true, States::SynSent), (false, States::Any)] {
            let its = deletions.iter().filter(|(mark, which)| match which {
                Which::Unanswered => unanswered,
                Which::All => !unanswered,
                Which::Left => !unanswered && self.directory.leaving().contains(mark),
            });
            let marks: BTreeSet<Mark> = its.map(|(mark, _)| *mark).collect();
            if marks.is_empty() {
                continue;
            }
            let backends = marks.len();
            match self.entries.delete(&Filter { marks: Some(marks), states, ..Filter::default() }) {
                Ok(0) | Err(_) if unanswered => {}
                Ok(deleted) => {
                    self.is_outdated |= deleted > 0;
                    log::debug!("{deleted} entries of connections with {backends} marks are deleted");
                }
                Err(failure) => log::warn!("entries of the kernel's connections can't be deleted: {failure}"),
            }
        }
    }

    fn next_look(&self) -> Instant {
        let (ended, cpu) = self.looked;
        ended + pause(cpu, self.needs_fresh())
    }

    /// Whether counts are needed each second: weights follow them, a drain waits for its end, or what was shown last is known to be
    /// wrong.
    fn needs_fresh(&self) -> bool {
        let directory = &self.directory;
        self.is_outdated || directory.follows_load() || directory.unled().iter().any(|backend| backend.awaits_count())
    }

    fn count(&mut self) {
        let figures = match self.entries.figures() {
            Ok(figures) => figures,
            Err(failure) => {
                self.looked = (Instant::now(), Duration::ZERO);
                if let Failure::Gone(_) = failure {
                    self.orders.put(engine::Orders { renew: Some(self.entries.number()), ..engine::Orders::default() });
                }
                let why = failure.to_string();
                if self.failure.as_ref() != Some(&why) {
                    log::warn!("the kernel's connections can't be counted: {why}");
                    self.failure = Some(why);
                }
                return;
            }
        };
        if self.failure.take().is_some() {
            log::info!("the kernel's connections are counted again");
        }
        (self.looked, self.is_outdated) = ((Instant::now(), figures.cpu), false);
        self.add(&figures);
        if self.directory.follows_load() {
            self.orders.put(engine::Orders { counted: true, ..engine::Orders::default() });
        }
        self.note_unled();
        self.note_table(&figures);
    }

    /// What the backends have to which the rules of this directory lead no client is counted now.
    fn note_unled(&self) {
        let tasks = self.desk.tasks.lock();
        // The rules of a later directory may lead clients there.
        if tasks.directory.is_none() {
            self.directory.unled().iter().for_each(|backend| backend.all_counted());
        }
    }

    /// Adds the figures to the counters and loads.
    fn add(&mut self, figures: &Figures) {
        let mut active: HashMap<Mark, u32> = HashMap::new();
        let mut of_listeners: HashMap<SocketAddr, (u64, usize)> = HashMap::new();
        for Count { mark, to, active: open, opened, failed, from_clients, to_clients } in &figures.counts {
            let Some(marked) = self.directory.marked(*mark) else { continue };
            marked.backend.counters.forwarded(*opened, *failed, *from_clients, *to_clients);
            *active.entry(*mark).or_default() += u32::try_from(*open).unwrap_or(u32::MAX);
            let of_listener = of_listeners.entry(*to).or_default();
            *of_listener = (of_listener.0 + opened, of_listener.1 + usize::try_from(*open).unwrap_or(usize::MAX));
        }
        for (mark, open) in &active {
            let Some(Marked { backend, .. }) = self.directory.marked(*mark) else { continue };
            let forwarded = self.backends.entry(*mark).or_insert_with(|| Forwarded::new(backend.clone()));
            if forwarded.backend().id != backend.id {
                *forwarded = Forwarded::new(backend.clone());
            }
            forwarded.set(*open);
        }
        self.backends.retain(|mark, _| active.get(mark).is_some_and(|open| *open > 0));
        for (to, (opened, open)) in &of_listeners {
            if let Some(listener) = self.directory.listener(*to) {
                let (totals, before) = self.listeners.entry(*to).or_insert_with(|| (listener.totals.clone(), 0));
                if !Arc::ptr_eq(totals, &listener.totals) {
                    // The address is another listener's now, and so are its open connections.
                    totals.forward(0, mem::take(before), 0);
                    *totals = listener.totals.clone();
                }
            }
            if let Some((totals, before)) = self.listeners.get_mut(to) {
                totals.forward(*opened, mem::replace(before, *open), *open);
            }
        }
        self.listeners.retain(|to, (totals, before)| {
            let open = of_listeners.get(to).map_or(0, |(_, open)| *open);
            totals.forward(0, mem::replace(before, open), open);
            open > 0
        });
        self.release_unused(figures);
    }

    /// A mark may leave the rules once two looks in a row show no connection of it. One look may pass over an entry that moves.
    /// The rules that hold no new connection for it were in force before the looks.
    fn release_unused(&mut self, figures: &Figures) {
        // A backend that has left before this process began is unknown here, and its connections count all the same.
        let open = figures.counts.iter().filter(|count| count.active > 0);
        let in_use: HashSet<Mark> = open.map(|count| count.mark).collect();
        let leaving = self.directory.leaving().iter().copied();
        let before = mem::take(&mut self.unused);
        self.unused = leaving.filter(|mark| !in_use.contains(mark)).collect();
        let unused: Vec<Mark> = self.unused.intersection(&before).copied().collect();
        if !unused.is_empty() {
            self.orders.put(engine::Orders { unused, ..engine::Orders::default() });
        }
    }

    fn note_table(&mut self, figures: &Figures) {
        let Figures { entries, table_entries, table_max, accounting, .. } = *figures;
        let kernel = self.published.kernel();
        kernel.set_tracked(Some(Tracked { entries, table_entries, table_max, counts_bytes: accounting }));
        let lacks = lacks::of(&self.directory, accounting);
        if kernel.set_lacks(lacks.clone()) {
            lacks.iter().for_each(|line| log::warn!("{line}"));
        }
        let percent = table_entries.saturating_mul(100) / table_max.max(1);
        let limit = format!("{table_max} connections (net.netfilter.nf_conntrack_max)");
        let (kind, text) = match self.is_near {
            false if percent >= NEAR => {
                (Kind::LimitReached, format!("the kernel tracks {table_entries} connections: {percent} % of {limit}"))
            }
            true if percent < FAR => (
                Kind::LimitLeft,
                format!("the kernel tracks {table_entries} connections: less than {FAR} % of {limit}"),
            ),
            _ => return,
        };
        self.is_near = !self.is_near;
        log::warn!("{text}");
        self.published.events().record(Event::new(kind, By::Tcplb).because(text));
    }

    fn answer(&mut self, mut inspection: Inspection) {
        if !inspection.is_awaited() {
            return;
        }
        inspection.begin_slice(0);
        let answer = match inspection.question().action {
            Action::List { limit, .. } => self.find(&inspection).map(|found| {
                let rows = found.into_iter().map(|(_, row)| row);
                (rows.take(limit.min(LIMIT_MAX)).collect(), 0)
            }),
            Action::Close => self.close(&inspection).map(|closed| (Vec::new(), closed)),
        };
        // Without an answer the caller learns that connections may be missing.
        let (rows, closed) = match answer {
            Ok(answer) => answer,
            Err(failure) => return log::warn!("the kernel's connections can't be listed or closed: {failure}"),
        };
        inspection.answer_with(rows, closed);
    }

    /// Deletes the entries of the connections that are meant: how many.
    fn close(&mut self, inspection: &Inspection) -> Result<u64, Failure> {
        let filter = self.filter(&inspection.question().filter);
        let closed = self.entries.delete(&filter)?;
        self.is_outdated |= closed > 0;
        Ok(closed)
    }

    /// What selects the entries that are meant: one look at the table.
    fn filter(&self, wanted: &inspect::Filter) -> Filter {
        let is = |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
        let client = wanted.client.map(|net| (net.addr(), net.prefix_len()));
        let to = wanted.listener.as_deref().map(|name| {
            // Connections of a listener that has left are at the addresses that it had.
            let left = self.listeners.iter().filter(|(_, (totals, _))| totals.name == name);
            self.directory.binds_of(name).chain(left.map(|(to, _)| Bind::Address(*to))).collect()
        });
        let id = wanted.id.and_then(ConnectionId::entry);
        // A number that no connection of the kernel can have selects none.
        let none = (wanted.id.is_some() && id.is_none()).then(BTreeSet::new);
        let all = Filter { to, client, id, entries: none, states: States::Active, ..Filter::default() };
        if wanted.pool.is_none() && wanted.backend.is_none() {
            return all;
        }
        let marks = self.directory.marks().filter(|(_, marked)| {
            is(&wanted.pool, &marked.pool.settings.name) && is(&wanted.backend, &marked.backend.name)
        });
        Filter { marks: Some(marks.map(|(mark, _)| mark).collect()), ..all }
    }

    /// The connections that a question is about.
    fn find(&mut self, inspection: &Inspection) -> Result<Vec<(Entry, Row)>, Failure> {
        let wanted = inspection.question().filter.clone();
        let is = |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
        let filter = self.filter(&wanted);
        let Listed { entries, .. } = self.entries.list(&filter, LISTED)?;
        let rows = entries.into_iter().filter_map(|entry| {
            let row = self.row(&entry)?;
            let is_its = is(&wanted.listener, &row.listener.name) && wanted.id.is_none_or(|id| id == row.id);
            is_its.then_some((entry, row))
        });
        Ok(rows.collect())
    }

    fn row(&self, entry: &Entry) -> Option<Row> {
        let Marked { pool, backend, .. } = self.directory.marked(Mark::of_value(entry.mark)?)?;
        let known = || self.listeners.get(&entry.to).map(|(totals, _)| totals.clone());
        let listener = self.directory.listener(entry.to).map(|it| it.totals.clone()).or_else(known)?;
        let state = match entry.state {
            TcpState::None | TcpState::SynSent | TcpState::SynReceived | TcpState::SynSent2 => "dialing",
            TcpState::Established => "relaying",
            TcpState::FinWait | TcpState::CloseWait | TcpState::LastAck => "half_closed",
            TcpState::TimeWait | TcpState::Close => return None,
        };
        Some(Row {
            id: ConnectionId::of_entry(entry.id),
            listener,
            pool: pool.clone(),
            backend: Some(backend.clone()),
            backend_port: None,
            client: Some(Endpoint::Inet(entry.client)),
            engine: ListenerEngine::Kernel,
            since: None,
            last_byte: None,
            bytes_to_backend: entry.from_client,
            bytes_to_client: entry.to_client,
            protocol: None,
            server_name: None,
            route: None,
            state,
            round_trip: None,
        })
    }
}

#[cfg(test)]
mod tests;
