//! The names of backends, looked up again while tcplb runs, by one thread for all of them.
//!
//! Control says which names lead to backends, and to which addresses ([`Renewals::want`]). The thread looks up one name after the
//! other, each once its last answer is over. It hands over an answer with other addresses; control makes that a change like any
//! other. A name without an address is not here: control retries it. An answer may have a part of the addresses only: [`super::known`]
//! decides which ones are in use.
//!
//! # The states of a name
//!
//! | state | asked | answer | what follows | next state |
//! |---|---|---|---|---|
//! | new | DNS, [`LEAST`] after it came | the present addresses | nothing | of DNS |
//! | new | DNS, then the system | DNS has none, the system has the present ones | nothing | of the system |
//! | new | DNS, then the system | DNS has none, the system has other ones | the system's addresses are handed over | of the system |
//! | new | DNS, then the system | DNS has other addresses, the system has the present ones | nothing | new; the [`DISAGREEMENTS`]th time in a row: of the system |
//! | new | DNS, then the system | DNS has other addresses, the system has not the present ones | those of DNS are handed over | of DNS |
//! | new, and DNS disagreed | DNS, then the system | DNS has other addresses, the system has an error | as after an error | the same |
//! | of DNS | DNS, once the time to live is over | other addresses | they are handed over | of DNS |
//! | of the system | the system, after [`SYSTEM`] | other addresses | they are handed over | of the system |
//! | any | any | addresses that control has refused | the present addresses stay and the others are forgotten, as after an error | the same |
//! | of DNS | the system, by a reload | other addresses | they join the present ones | of DNS |
//! | of the system, new | the system, by a reload | other addresses | they are handed over | the same |
//! | any | any | an error, or no address | the addresses stay; a pause of [`LEAST`], doubled up to [`PAUSE_MOST`] while errors follow each other | the same |
//!
//! The start and a reload ask the system, which may have other sources of names than DNS (nsswitch.conf(5)). The first look-ups find
//! that out, so that such a name does not change its addresses. One of them does not suffice: of a name whose answers rotate, the system
//! may have the present addresses by chance. Names that DNS must not be asked for are of the system at once.
//!
//! *Other addresses* are those in use by the answers so far that are not the present ones. Another order makes no other addresses.
//! If one family of addresses fails, the present ones of that family stay, and the answer counts as an error too. It is none if
//! there are no such addresses.
//!
//! # Bounds
//!
//! A time to live counts as at least [`LEAST`] and at most [`MOST`]. Asking DNS for a name takes at most [`PATIENCE`]. A name that
//! failed last time waits behind those that did not, so each of the others waits for at most one that fails. Addresses that control
//! has not taken are replaced by newer ones of the same name. Only the first [`LOGGED`] names that fail have a line each in the log.

use super::dns::{Addresses, Resolver, is_for_dns, of_servers, of_system};
use super::known::Known;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// The shortest time between two look-ups of a name, and the first pause after an error.
const LEAST: Duration = Duration::from_secs(5);
/// The longest time between two look-ups of a name.
const MOST: Duration = Duration::from_secs(300);
/// The time between two look-ups of a name that the system knows: it does not say how long an answer holds.
const SYSTEM: Duration = Duration::from_secs(30);
/// The longest pause after an error.
const PAUSE_MOST: Duration = Duration::from_secs(10);
/// So many times in a row DNS has other addresses than the system, which has the present ones. Then the name is of the system.
const DISAGREEMENTS: u8 = 3;
/// How long asking DNS for one name may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Names that fail at the same time and have a line in the log each. Beyond that each doubling of their number has one.
const LOGGED: usize = 5;

/// Addresses without ports, in ascending order.
pub type AddressSet = BTreeSet<SocketAddr>;

/// The names that lead to backends, and where they lead. Backends with the same name may have been added at different times, so
/// a name may have several sets.
pub type Wanted = HashMap<String, BTreeSet<AddressSet>>;

/// The names of backends, for the thread that makes changes.
pub struct Renewals {
    table: Arc<NameTable>,
    /// Wakes the thread. Dropped: the thread ends.
    thread: Option<Sender<()>>,
}

/// The names of backends, as their thread and readers share them.
pub struct NameTable {
    names: Mutex<Names>,
    wake: Sender<()>,
    wakes: Receiver<()>,
}

/// What the status shows of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameStanding {
    /// When it was last looked up with success; `None`: not since it came into use.
    pub last_success: Option<SystemTime>,
    /// How often a look-up failed.
    pub errors: u64,
    /// The last error.
    pub last_error: Option<String>,
    /// When the look-ups began to fail; `None`: the last one did not.
    pub failing_since: Option<SystemTime>,
}

#[derive(Default)]
struct Names {
    by_name: HashMap<String, Name>,
    /// When each name is due: those whose last look-up worked, and the others.
    due: [BTreeSet<(Instant, String)>; 2],
    /// Names with other addresses, which were not taken yet.
    moved: BTreeMap<String, Vec<SocketAddr>>,
}

struct Name {
    /// Where its backends are.
    present: BTreeSet<AddressSet>,
    /// Where they should be.
    known: Known<SocketAddr>,
    /// Addresses that control has refused, and why.
    refused: Option<(AddressSet, String)>,
    known_by: KnownBy,
    due: Instant,
    /// The pause after the next error.
    pause: Duration,
    standing: NameStanding,
    /// Its failure has a line in the log.
    logged: bool,
}

/// What knows a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KnownBy {
    /// Not known yet. So many times in a row DNS and the system disagreed.
    Unsettled(u8),
    Dns,
    System,
}

/// The addresses of a name.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    list: Vec<SocketAddr>,
    /// How long they hold.
    hold: Duration,
    /// Why one family of addresses is not known.
    incomplete: Option<String>,
}

/// What the thread does next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Ask(String, KnownBy, BTreeSet<AddressSet>),
    Wait(Option<Instant>),
}

impl Renewals {
    /// No names. `table` shows those to come.
    pub fn new(table: Arc<NameTable>) -> Renewals {
        Renewals { table, thread: None }
    }

    /// From now on these names are looked up, and no others.
    pub fn want(&mut self, wanted: Wanted, now: Instant) {
        if self.thread.is_none() && !wanted.is_empty() {
            self.thread = start(&self.table);
        }
        self.table.names.lock().want(wanted, now);
        self.nudge();
    }

    fn nudge(&self) {
        if let Some(thread) = &self.thread {
            // Full: it is about to look.
            let _ = thread.try_send(());
        }
    }

    /// Receives a message once names have other addresses.
    pub fn wakes(&self) -> &Receiver<()> {
        &self.table.wakes
    }

    /// The addresses in use of a name, for which the system has just given these.
    pub fn heard(&self, name: &str, list: Vec<SocketAddr>, now: Instant) -> Vec<SocketAddr> {
        self.table.names.lock().heard(name, list, now)
    }

    /// Which of these names lead where no backend may be, and why. Those are errors until they lead elsewhere.
    pub fn refuse<'a>(&self, names: impl IntoIterator<Item = (&'a str, Option<String>)>, now: Instant) {
        let mut table = self.table.names.lock();
        names.into_iter().for_each(|(name, why)| table.refuse(name, why, now));
        drop(table);
        self.nudge();
    }

    /// The names that have other addresses since the last call.
    pub fn take(&self) -> BTreeMap<String, Vec<SocketAddr>> {
        std::mem::take(&mut self.table.names.lock().moved)
    }
}

/// `None`: the next call of [`Renewals::want`] tries again.
fn start(table: &Arc<NameTable>) -> Option<Sender<()>> {
    let (sender, nudges) = bounded(1);
    let table = table.clone();
    let work = move || look_up_all(&table, &nudges);
    match thread::Builder::new().name("names".to_owned()).spawn(work) {
        Ok(_) => Some(sender),
        Err(error) => {
            log::error!("names of backends are not looked up again: can't start the thread: {error}");
            None
        }
    }
}

impl Default for NameTable {
    fn default() -> NameTable {
        let (wake, wakes) = bounded(1);
        NameTable { names: Mutex::default(), wake, wakes }
    }
}

impl NameTable {
    /// What the status shows of this name, if it is looked up.
    pub fn standing(&self, name: &str) -> Option<NameStanding> {
        self.names.lock().by_name.get(name).map(|name| name.standing.clone())
    }

    /// The same of all names.
    pub fn standings(&self) -> BTreeMap<String, NameStanding> {
        self.names.lock().by_name.iter().map(|(text, name)| (text.clone(), name.standing.clone())).collect()
    }
}

impl fmt::Debug for NameTable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("NameTable").field("names", &self.names.lock().by_name.len()).finish_non_exhaustive()
    }
}

impl Names {
    fn want(&mut self, wanted: Wanted, now: Instant) {
        let gone = self.by_name.extract_if(|name, _| !wanted.contains_key(name));
        for (text, name) in gone {
            self.due[name.queue()].remove(&(name.due, text.clone()));
            self.moved.remove(&text);
        }
        for (text, present) in wanted {
            if let Some(name) = self.by_name.get_mut(&text) {
                name.present = present;
            } else {
                let (due, standing) = (now + LEAST, NameStanding::default());
                let known = Known::in_use_are(present.iter().flatten().copied(), now);
                let known_by = KnownBy::Unsettled(0);
                let name = Name { present, known, refused: None, known_by, due, pause: LEAST, standing, logged: false };
                self.due[name.queue()].insert((due, text.clone()));
                self.by_name.insert(text, name);
            }
        }
    }

    fn refuse(&mut self, text: &str, why: Option<String>, now: Instant) {
        let failing = self.due[1].len();
        // Newer addresses wait: control judges them next.
        let Some(name) = self.by_name.get_mut(text).filter(|_| !self.moved.contains_key(text)) else { return };
        name.refused = why.map(|why| (name.known.in_use(), why));
        let Some((_, why)) = &name.refused else { return };
        name.known.refuse(&name.present.iter().flatten().copied().collect(), now);
        if name.standing.failing_since.is_none() {
            self.due[0].remove(&(name.due, text.to_owned()));
            name.due = now + name.failed(text, why.clone(), failing);
            self.due[1].insert((name.due, text.to_owned()));
        }
    }

    fn heard(&mut self, text: &str, list: Vec<SocketAddr>, now: Instant) -> Vec<SocketAddr> {
        let Some(name) = self.by_name.get_mut(text) else { return list };
        // The caller refuses the others.
        let Ok(list) = of_servers(list.clone(), SocketAddr::ip) else { return list };
        let found = list.iter().copied().collect();
        match name.known_by {
            // The system may have an older answer than DNS.
            KnownBy::Dns => name.known.join(&found, now),
            KnownBy::Unsettled(_) | KnownBy::System => name.known.heard(&found, now),
        }
        let list = in_order(list, &name.known.in_use());
        if let Some(moved) = self.moved.get_mut(text) {
            moved.clone_from(&list);
        }
        list
    }

    fn next(&self, now: Instant) -> Next {
        let firsts = || self.due.iter().filter_map(BTreeSet::first);
        match firsts().find(|(at, _)| *at <= now).and_then(|(_, text)| self.by_name.get_key_value(text)) {
            Some((text, name)) => Next::Ask(text.clone(), name.known_by, name.present.clone()),
            None => Next::Wait(firsts().map(|(at, _)| *at).min()),
        }
    }

    /// Notes the end of a look-up. True if the name has other addresses.
    fn settle(&mut self, text: &str, known_by: KnownBy, outcome: Result<Answer, String>, now: Instant) -> bool {
        let failing = self.due[1].len();
        // It may have gone meanwhile.
        let Some(name) = self.by_name.get_mut(text) else { return false };
        self.due[name.queue()].remove(&(name.due, text.to_owned()));
        name.known_by = known_by;
        let (moved, hold, why) = match outcome {
            Ok(Answer { list, hold, incomplete }) => {
                name.known.answered(&list.iter().copied().collect(), now);
                let in_use = name.known.in_use();
                let moved = name.present.iter().any(|present| *present != in_use);
                match moved {
                    true => drop(self.moved.insert(text.to_owned(), in_order(list, &in_use))),
                    // It has its old addresses again.
                    false => drop(self.moved.remove(text)),
                }
                name.standing.last_success = Some(SystemTime::now());
                name.refused.take_if(|(addresses, _)| *addresses != in_use);
                (moved, hold, name.refused.as_ref().map(|(_, why)| why.clone()).or(incomplete))
            }
            Err(why) => (false, LEAST, Some(why)),
        };
        name.due = now
            + match why {
                Some(why) => name.failed(text, why, failing),
                None => {
                    name.worked(text);
                    hold
                }
            };
        self.due[name.queue()].insert((name.due, text.to_owned()));
        moved
    }
}

/// The addresses of the answer in their order, then the others.
fn in_order(mut list: Vec<SocketAddr>, in_use: &AddressSet) -> Vec<SocketAddr> {
    let others: Vec<SocketAddr> = in_use.iter().filter(|at| !list.contains(at)).copied().collect();
    list.extend(others);
    list
}

impl Name {
    /// The number of its queue.
    fn queue(&self) -> usize {
        usize::from(self.standing.failing_since.is_some())
    }

    /// The pause until the next look-up.
    fn failed(&mut self, text: &str, why: String, failing: usize) -> Duration {
        self.standing.errors += 1;
        if self.standing.failing_since.is_none() {
            self.standing.failing_since = Some(SystemTime::now());
            let count = failing + 1;
            self.logged = count <= LOGGED || count.is_power_of_two();
            if self.logged {
                let others = if count > LOGGED { format!(" ({count} names fail)") } else { String::new() };
                log::warn!("name {text}: {why}; its addresses stay, and it is looked up again{others}");
            }
        }
        self.standing.last_error = Some(why);
        let next = (self.pause * 2).min(PAUSE_MOST);
        std::mem::replace(&mut self.pause, next)
    }

    fn worked(&mut self, text: &str) {
        self.pause = LEAST;
        self.standing.failing_since = None;
        if std::mem::take(&mut self.logged) {
            log::info!("name {text}: it is resolved again");
        }
    }
}

/// What names are asked of.
trait Ask {
    fn dns(&mut self, name: &str) -> Result<Addresses, String>;
    fn system(&mut self, name: &str) -> Result<Vec<SocketAddr>, String>;
}

/// Looks one name up; see the module.
fn look_up(
    name: &str,
    known_by: KnownBy,
    present: &BTreeSet<AddressSet>,
    ask: &mut impl Ask,
) -> (KnownBy, Result<Answer, String>) {
    let of_system = |list| Answer { list, hold: SYSTEM, incomplete: None };
    if known_by == KnownBy::System || !is_for_dns(name) {
        return (KnownBy::System, ask.system(name).map(of_system));
    }
    let answer = match ask.dns(name) {
        Ok(found) => of_dns(found, present),
        Err(why) => return (known_by, Err(why)),
    };
    let has = |list: &[SocketAddr]| present.contains(&list.iter().copied().collect::<AddressSet>());
    if known_by == KnownBy::Dns || has(&answer.list) {
        return match answer.list.is_empty() {
            true => (known_by, Err("the name has no address".to_owned())),
            false => (KnownBy::Dns, Ok(answer)),
        };
    }
    let disagreed = if let KnownBy::Unsettled(times) = known_by { times } else { 0 };
    match ask.system(name) {
        Ok(list) if answer.list.is_empty() => (KnownBy::System, Ok(of_system(list))),
        Ok(list) if has(&list) => match disagreed + 1 {
            DISAGREEMENTS.. => (KnownBy::System, Ok(of_system(list))),
            times => (KnownBy::Unsettled(times), Ok(Answer { hold: answer.hold.min(SYSTEM), ..of_system(list) })),
        },
        Err(why) if answer.list.is_empty() || disagreed > 0 => (known_by, Err(why)),
        _ => (KnownBy::Dns, Ok(answer)),
    }
}

fn of_dns(found: Addresses, present: &BTreeSet<AddressSet>) -> Answer {
    let Addresses { list, ttl, incomplete } = found;
    let mut list: Vec<SocketAddr> = list.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect();
    let is_unknown = |at: &SocketAddr| incomplete.is_some() && list.iter().all(|known| known.is_ipv4() != at.is_ipv4());
    let stay: AddressSet = present.iter().flatten().filter(|at| is_unknown(at)).copied().collect();
    // Some servers always refuse the question for a family in which they know nothing.
    let incomplete = incomplete.filter(|_| !stay.is_empty());
    list.extend(stay);
    Answer { list, hold: ttl.unwrap_or(LEAST).clamp(LEAST, MOST), incomplete }
}

/// The life of the thread.
fn look_up_all(table: &NameTable, nudges: &Receiver<()>) {
    let mut world = World::default();
    loop {
        let next = table.names.lock().next(Instant::now());
        match next {
            Next::Ask(name, known_by, present) => {
                let (known_by, outcome) = look_up(&name, known_by, &present, &mut world);
                if table.names.lock().settle(&name, known_by, outcome, Instant::now()) {
                    let _ = table.wake.try_send(());
                }
                if nudges.try_recv() == Err(TryRecvError::Disconnected) {
                    return;
                }
            }
            Next::Wait(until) => {
                let nudge = match until {
                    Some(until) => nudges.recv_deadline(until),
                    None => nudges.recv().map_err(|_| RecvTimeoutError::Disconnected),
                };
                if nudge == Err(RecvTimeoutError::Disconnected) {
                    return;
                }
            }
        }
    }
}

/// The real name servers, and the real system.
#[derive(Default)]
struct World {
    /// It asks first the server that answered last.
    resolver: Option<Resolver>,
}

impl Ask for World {
    fn dns(&mut self, name: &str) -> Result<Addresses, String> {
        let until = Instant::now() + PATIENCE;
        let resolver = match self.resolver.take() {
            Some(resolver) => resolver.renewed(until),
            None => Resolver::of_system(until),
        };
        self.resolver.insert(resolver).addresses(name)
    }

    fn system(&mut self, name: &str) -> Result<Vec<SocketAddr>, String> {
        of_servers(of_system(name).map_err(|error| error.to_string())?, SocketAddr::ip)
    }
}

#[cfg(test)]
mod tests;
