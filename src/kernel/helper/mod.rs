//! The helper of the kernel engine: a process of its own that keeps CAP_NET_ADMIN, and does only what typed requests name.
//!
//! The balancer gives its privileges up, and its sandbox starts no program. So a process that starts helpers is started before
//! (`starter`). The helper confines itself to CAP_NET_ADMIN as the balancer's user, and writes no file. `process` has what it does,
//! `wire` what is said. This file has the balancer's side.
//!
//! There are two channels and two threads, so that a change never waits for a dump of all tracked connections. Each call
//! blocks its caller for a bounded time.
//!
//! Once a helper has ended, every further call fails with [`Failure::Gone`], and the kernel goes on with the last table. Another
//! helper takes its place ([`Starter::helper`]), as long as the process that starts them runs.

mod entries;
mod hold;
mod process;
mod program;
mod starter;
mod wire;

pub use super::tally::Count;
pub use process::{flush, has_table, run};
pub use starter::{STARTER, Starter, run as run_starter};
pub use wire::{Failure, Figures, Filter, Listed, States};

use super::change::Change;
use super::nft;
use super::table::{Installed, TABLE};
use crate::handover::Channel;
use crate::watchdog::Heartbeat;
use rustix::net::{Shutdown, shutdown};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ffi::OsString;
use std::io;
use std::time::{Duration, Instant};
use wire::{EntryAnswer, EntryRequest, TableAnswer, TableRequestRef};

/// The subcommand that runs it. It is not for users.
pub const COMMAND: &str = "kernel-helper";

/// How long one message may take: the other end is a process of this machine that waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long an answer may take: a few runs of nft, or a few dumps.
pub const ANSWER: Duration = Duration::from_secs(120);

/// How often a deletion that takes long is asked for again.
const DELETIONS_MAX: usize = 8;

/// What the helper is started with: settings of the balancer.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The user that the balancer changes to.
    pub user: Option<&'a str>,
    /// The group.
    pub group: Option<&'a str>,
    /// Whether it is sandboxed.
    pub sandbox: bool,
}

/// A helper that runs. Its two sides may be used on two threads. It ends once both are dropped.
#[derive(Debug)]
pub struct Helper {
    /// Starts another one.
    pub starter: Starter,
    /// The nftables table.
    pub tables: Tables,
    /// The tracked connections.
    pub entries: Entries,
}

/// The side of the table.
#[derive(Debug)]
pub struct Tables {
    line: Line,
    pid: i32,
    number: u64,
}

/// The side of tracked connections.
#[derive(Debug)]
pub struct Entries {
    line: Line,
    number: u64,
}

/// What a flush has deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// There was a table.
    pub table: bool,
    /// How many tracked connections.
    pub entries: u64,
}

impl Helper {
    /// Starts a helper, and waits until it has checked what it needs: CAP_NET_ADMIN, nft, connection tracking. A table that is
    /// not ours is a failure, too. Nothing is changed. Called before the process gives up privileges, and before it has other threads.
    pub fn start(options: &Options<'_>) -> Result<Helper, Failure> {
        let mut starter = Starter::start(options)?;
        let (tables, entries) = starter.helper(ANSWER, &Heartbeat::default())?;
        Ok(Helper { starter, tables, entries })
    }
}

impl Options<'_> {
    fn arguments(&self) -> Vec<OsString> {
        let named = [("--user", self.user), ("--group", self.group)];
        let named = named.into_iter().filter_map(|(flag, value)| Some(format!("{flag}={}", value?).into()));
        named.chain((!self.sandbox).then(|| "--no-sandbox".into())).collect()
    }
}

impl Tables {
    /// Reads what is installed.
    pub fn read(&mut self) -> Result<Installed, Failure> {
        match self.line.ask(&TableRequestRef::Read)? {
            TableAnswer::Listings(listings) if listings.is_empty() => Ok(Installed::default()),
            TableAnswer::Listings(listings) => nft::read(&listings).map_err(process::unreadable),
            _ => Err(self.line.end("its answer is for another question")),
        }
    }

    /// Whether the table is still the installed one, as far as its `state` says. One netlink message, as long as no program changes
    /// any rule of nftables.
    pub fn look(&mut self, installed: &Installed) -> Result<bool, Failure> {
        match self.line.ask(&TableRequestRef::Look)? {
            TableAnswer::Untouched => Ok(true),
            TableAnswer::Touched(state) => {
                // What is not as tcplb writes it is read again, and reported then.
                Ok(state
                    .and_then(|state| nft::read(&[state]).ok())
                    .is_some_and(|state| state.has_same_state(installed)))
            }
            _ => Err(self.line.end("its answer is for another question")),
        }
    }

    /// Carries changes out, as one transaction, and says how long nft took. After a failure nothing has changed.
    pub fn apply(&mut self, changes: &[Change]) -> Result<Duration, Failure> {
        match self.line.ask(&TableRequestRef::Apply(changes))? {
            TableAnswer::Applied(time) => Ok(time),
            _ => Err(self.line.end("its answer is for another question")),
        }
    }

    /// This process is the only one that changes the table of this network namespace, from now on.
    pub fn hold(&mut self) -> Result<(), Failure> {
        self.done(&TableRequestRef::Hold)
    }

    /// Another process may be.
    pub fn release(&mut self) -> Result<(), Failure> {
        self.done(&TableRequestRef::Release)
    }

    fn done(&mut self, request: &TableRequestRef<'_>) -> Result<(), Failure> {
        match self.line.ask(request)? {
            TableAnswer::Done => Ok(()),
            _ => Err(self.line.end("its answer is for another question")),
        }
    }

    /// An answer may take this long from now on. A heartbeat shows that the thread waits for it.
    pub fn await_with(&mut self, patience: Duration, heartbeat: &Heartbeat) {
        self.line.patience = patience;
        self.line.heartbeat = heartbeat.clone();
    }

    /// Does not use this helper any more. The failure of further calls.
    pub fn give_up(&mut self, why: &str) -> Failure {
        self.line.end(why)
    }

    /// Whether every further call fails.
    pub fn is_given_up(&self) -> bool {
        self.line.channel.is_err()
    }

    /// The number of the process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The number of the helper: each further one of a balancer has a higher one.
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        if let Ok(channel) = &self.line.channel {
            // It ends by this.
            let _ = shutdown(channel, Shutdown::Both);
        }
    }
}

impl Entries {
    /// Those of a helper that has ended.
    #[cfg(test)]
    pub fn gone() -> Entries {
        let (channel, _) = Channel::pair().unwrap();
        Entries { line: Line::new(channel), number: 0 }
    }

    /// The number of the helper, as [`Tables::number`].
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Counts what came since the last call.
    pub fn figures(&mut self) -> Result<Figures, Failure> {
        match self.line.ask(&EntryRequest::Figures)? {
            EntryAnswer::Figures(figures) => Ok(figures),
            EntryAnswer::Listed(_) | EntryAnswer::Deleted(..) => {
                Err(self.line.end("its answer is for another question"))
            }
        }
    }

    /// Lists entries, at most ten thousand.
    pub fn list(&mut self, filter: &Filter, limit: usize) -> Result<Listed, Failure> {
        match self.line.ask(&EntryRequest::List(filter.clone(), limit))? {
            EntryAnswer::Listed(listed) => Ok(listed),
            EntryAnswer::Figures(_) | EntryAnswer::Deleted(..) => {
                Err(self.line.end("its answer is for another question"))
            }
        }
    }

    /// Deletes entries, and says how many. Of millions some may be left.
    pub fn delete(&mut self, filter: &Filter) -> Result<u64, Failure> {
        let mut deleted = 0;
        for _ in 0..DELETIONS_MAX {
            match self.line.ask(&EntryRequest::Delete(filter.clone()))? {
                EntryAnswer::Deleted(number, more) => {
                    deleted += number;
                    if !more {
                        break;
                    }
                }
                EntryAnswer::Figures(_) | EntryAnswer::Listed(_) => {
                    return Err(self.line.end("its answer is for another question"));
                }
            }
        }
        Ok(deleted)
    }
}

/// A channel, until an error: what follows would be the answer to another question.
#[derive(Debug)]
struct Line {
    channel: Result<Channel, String>,
    patience: Duration,
    /// That of the thread which waits for answers.
    heartbeat: Heartbeat,
}

impl Line {
    fn new(channel: Channel) -> Line {
        Line { channel: Ok(channel), patience: ANSWER, heartbeat: Heartbeat::default() }
    }

    fn ask<T: DeserializeOwned>(&mut self, request: &impl Serialize) -> Result<T, Failure> {
        let channel = self.channel.as_ref().map_err(|why| Failure::Gone(why.clone()))?;
        // One that is too large leaves the line as it is: nothing of it has been sent.
        let bytes = wire::encode(request)?;
        let until = Instant::now() + self.patience;
        match wire::send_beating(channel, &bytes, until, &|| self.heartbeat.beat()) {
            Ok(()) => self.receive(),
            Err(error) => Err(self.ended(&error)),
        }
    }

    fn receive<T: DeserializeOwned>(&mut self) -> Result<T, Failure> {
        let channel = self.channel.as_ref().map_err(|why| Failure::Gone(why.clone()))?;
        let until = Instant::now() + self.patience;
        match wire::receive_beating::<Result<T, Failure>>(channel, until, &|| self.heartbeat.beat()) {
            Ok(Some(answer)) => answer,
            Ok(None) => Err(self.end("it has ended")),
            Err(error) => Err(self.ended(&error)),
        }
    }

    fn ended(&mut self, error: &io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => self.end("it has ended"),
            io::ErrorKind::TimedOut => self.end("it does not answer"),
            _ => self.end(&error.to_string()),
        }
    }

    fn end(&mut self, why: &str) -> Failure {
        self.channel = Err(why.to_owned());
        Failure::Gone(why.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::wire::WHOLE_MAX;
    use super::*;

    #[test]
    fn a_request_that_is_too_large_is_refused_and_the_next_one_is_answered() {
        let (ours, theirs) = Channel::pair().unwrap();
        let mut line = Line::new(ours);
        let refused: Result<u8, Failure> = line.ask(&"x".repeat(WHOLE_MAX));
        assert!(matches!(&refused, Err(Failure::Refused(_))), "{refused:?}");
        wire::answer(&theirs, &Ok(7_u8), Instant::now() + PATIENCE).unwrap();
        assert_eq!(line.ask(&"small"), Ok(7_u8));
    }
}
