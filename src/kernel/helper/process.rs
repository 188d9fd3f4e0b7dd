//! The helper process: confines itself, checks what the kernel engine needs, and answers typed requests until the balancer ends.
//!
//! | thread | channel | what it does |
//! |---|---|---|
//! | main | its standard input | listings and changes of the table `inet tcplb`, by nft |
//! | entries | the descriptor of the first message | figures, lists and deletions of tracked connections with a mark of ours |
//!
//! It changes no other table and deletes no other connection: a request can't name one.

use super::super::change::Change;
use super::super::nft::{self, LISTINGS, ReadError};
use super::entries::{self, Entries};
use super::hold::Hold;
use super::program::Nft;
use super::wire::{self, Failure, Filter, TableAnswer, TableRequest};
use super::{ANSWER, Flushed, PATIENCE};
use crate::confine::{NotConfined, check_net_admin, confine_to_net_admin};
use crate::handover::{self, Channel};
use crate::net::conntrack::Conntrack;
use crate::net::nftables::Nftables;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Instant;

/// How often the table is read, as long as rules change meanwhile.
const READINGS: usize = 5;

/// Runs the helper. Returns when the balancer has ended. What it lacks, the balancer reports.
pub fn run(user: Option<&str>, group: Option<&str>, sandbox: bool) -> Result<(), String> {
    let of_others = |error| format!("the helper is started by tcplb: {error}");
    let channel = handover::take_stdin().map_err(of_others)?;
    let parcel = channel.receive(Instant::now() + PATIENCE).map_err(of_others)?.unwrap_or_default();
    let Some(second) = parcel.descriptors.into_iter().next() else { return Ok(()) };
    let second = Channel::of(second).map_err(of_others)?;
    ignore_signals()?;
    let _ = rustix::thread::set_name(c"tcplb-kernel");
    let prepared = prepare(user, group, sandbox);
    let outcome = prepared.as_ref().map(|_| ()).map_err(Failure::clone);
    // A balancer that does not read is about to end.
    let sent = wire::answer(&channel, &outcome, Instant::now() + PATIENCE);
    let (Ok((mut tables, entries)), Ok(())) = (prepared, sent) else { return Ok(()) };
    thread::Builder::new()
        .name("entries".to_owned())
        .spawn(move || entries.serve(&second))
        .map_err(|error| format!("can't start a thread: {error}"))?;
    loop {
        match poll(&mut [PollFd::new(&channel, PollFlags::IN)], None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(format!("poll: {error}")),
        }
        // A balancer that stands still, as under a debugger, keeps its helper.
        let Ok(Some(request)) = wire::receive(&channel, Instant::now() + ANSWER) else { return Ok(()) };
        let answer = tables.answer(request);
        if wire::answer(&channel, &answer, Instant::now() + ANSWER).is_err() {
            return Ok(());
        }
    }
}

/// Ignores what a service manager, `killall` or a terminal sends to all: it is needed until the balancer ends.
pub(super) fn ignore_signals() -> Result<(), String> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
    let ignored = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2] {
        signal_hook::flag::register(signal, ignored.clone())
            .map_err(|error| format!("can't handle signals: {error}"))?;
    }
    Ok(())
}

fn prepare(user: Option<&str>, group: Option<&str>, sandbox: bool) -> Result<(Tables, Entries), Failure> {
    confine_to_net_admin(user, group, sandbox).map_err(|why| match why {
        NotConfined::Capability(account) => Failure::Privilege(account),
        NotConfined::Other(why) => Failure::Gone(why),
    })?;
    let nft = Nft::find()?;
    let entries = Entries::open()?;
    let nftables = Nftables::open().map_err(|error| Failure::Nft(format!("nftables: {error}")))?;
    let mut tables = Tables { nft, nftables, generation: None, is_ours: false, hold: None };
    tables.check()?;
    Ok((tables, entries))
}

/// What main has.
struct Tables {
    nft: Nft,
    nftables: Nftables,
    /// The rules' generation after the last reading, change or look. `None`: not known.
    generation: Option<u32>,
    /// There was a table, and tcplb made it.
    is_ours: bool,
    /// No other process changes the table.
    hold: Option<Hold>,
}

impl Tables {
    /// Fails if there is a table that is not ours, or if ours could not be made.
    fn check(&mut self) -> Result<(), Failure> {
        if state(&self.nft)?.map(|state| nft::read(&[state])).transpose().map_err(unreadable)?.is_some() {
            self.is_ours = true;
            return Ok(());
        }
        match self.nft.check(&nft::render(&[Change::Create])) {
            Err(Failure::Nft(message)) if message.contains("File exists") => Err(Failure::Foreign),
            // It can't track connections, or not forward them.
            Err(Failure::Nft(message)) => Err(Failure::NoConntrack(message)),
            other => other,
        }
    }

    fn answer(&mut self, request: TableRequest) -> Result<TableAnswer, Failure> {
        match request {
            TableRequest::Read => self.read_as_one().map(TableAnswer::Listings),
            TableRequest::Apply(changes) => {
                // A transaction that creates the table fails if there is one.
                if !self.is_ours && changes.first() != Some(&Change::Create) {
                    return Err(Failure::Refused("there was no table when it looked".to_owned()));
                }
                let begun = Instant::now();
                // The transaction gives the next generation. After one of another program in between, that is not the last.
                let next = self.generation.take().map(|before| before.wrapping_add(1).max(1));
                self.nft.run(&nft::render(&changes))?;
                (self.is_ours, self.generation) = (true, next);
                Ok(TableAnswer::Applied(begun.elapsed()))
            }
            TableRequest::Hold => {
                if self.hold.is_none() {
                    self.hold = Some(Hold::take()?);
                }
                Ok(TableAnswer::Done)
            }
            TableRequest::Release => {
                self.hold = None;
                Ok(TableAnswer::Done)
            }
            TableRequest::Look => {
                let generation =
                    self.nftables.generation().map_err(|error| Failure::Nft(format!("nftables: {error}")))?;
                if self.generation == Some(generation) {
                    return Ok(TableAnswer::Untouched);
                }
                let state = state(&self.nft)?;
                self.generation = Some(generation);
                Ok(TableAnswer::Touched(state))
            }
        }
    }

    /// Reads again if rules change meanwhile: listings of two moments may contradict each other.
    fn read_as_one(&mut self) -> Result<Vec<String>, Failure> {
        for _ in 0..READINGS {
            let before = self.nftables.generation().ok();
            let outcome = self.read();
            // A change after this is found by the next look.
            self.generation = before;
            let fits = matches!(&outcome, Ok(listings) if nft::read(listings).is_ok());
            let is_one = before.is_some() && before == self.nftables.generation().ok();
            if is_one || fits {
                return outcome;
            }
        }
        Err(Failure::Nft("other programs change rules of nftables all the time".to_owned()))
    }

    fn read(&mut self) -> Result<Vec<String>, Failure> {
        self.is_ours = false;
        let mut listings = Vec::new();
        for (number, (kind, name)) in LISTINGS.iter().enumerate() {
            match self.nft.list(kind, name)? {
                Some(listing) => listings.push(listing),
                None if number == 0 => {
                    self.check()?;
                    return Ok(Vec::new());
                }
                None => return Err(Failure::Damaged(ReadError::Damaged(format!("it lacks {name}")).to_string())),
            }
        }
        self.is_ours = !matches!(nft::read(&listings), Err(ReadError::Foreign));
        Ok(listings)
    }
}

fn state(nft: &Nft) -> Result<Option<String>, Failure> {
    let (kind, name) = LISTINGS[0];
    nft.list(kind, name)
}

pub(super) fn unreadable(error: ReadError) -> Failure {
    match error {
        ReadError::Foreign => Failure::Foreign,
        damaged @ ReadError::Damaged(_) => Failure::Damaged(damaged.to_string()),
    }
}

/// Whether there is a table of tcplb, as far as this process may know. Its cost is two system calls.
pub fn has_table() -> bool {
    let (_, state) = LISTINGS[0];
    check_net_admin().is_ok() && Nftables::open().and_then(|mut it| it.has_set(super::TABLE, state)).unwrap_or(false)
}

/// Deletes the table and the tracked connections of our marks, without a helper: `tcplb kernel flush`.
pub fn flush() -> Result<Flushed, Failure> {
    check_net_admin().map_err(Failure::Privilege)?;
    let nft = Nft::find()?;
    let table = match state(&nft)?.map(|state| nft::read(&[state])) {
        Some(Err(ReadError::Foreign)) => return Err(Failure::Foreign),
        // One of another release is ours, too.
        Some(Ok(_) | Err(ReadError::Damaged(_))) => true,
        None => match nft.check(&nft::render(&[Change::Create])) {
            Err(Failure::Nft(message)) if message.contains("File exists") => return Err(Failure::Foreign),
            // Without connection tracking there is no table of ours.
            _ => false,
        },
    };
    if table {
        nft.run(nft::REMOVE)?;
    }
    // Without the table, no connection gets a mark any more.
    let mut conntrack = Conntrack::open().map_err(entries::no_conntrack)?;
    let (mut entries, mut more) = (0, true);
    while more {
        let (deleted, is_left) = entries::delete(&mut conntrack, &Filter::default())?;
        (entries, more) = (entries + deleted, is_left);
    }
    Ok(Flushed { table, entries })
}
