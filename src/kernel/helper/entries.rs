//! The helper's thread for tracked connections: counts them, lists them, deletes them. Only those with a mark of ours.

use super::super::marks::{Mark, PREFIX, PREFIX_MASK};
use super::super::tally::Tally;
use super::wire::{self, EntryAnswer, EntryRequest, Failure, Figures, Filter, Listed};
use crate::handover::Channel;
use crate::net::conntrack::{Conntrack, Drained, Ends};
use crate::proto::conntrack::Entry;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use std::fs;
use std::io;
use std::time::{Duration, Instant};

/// Where the system says how full the table is.
const SETTINGS: &str = "/proc/sys/net/netfilter/nf_conntrack_";

/// The most entries of a list.
pub(super) const LIST_MAX: usize = 10_000;

/// How many entries are deleted per dump.
const DELETED_AT_ONCE: usize = 16 * 1024;

/// How long a deletion may take: the balancer waits for it, and asks for the rest.
const DELETING: Duration = Duration::from_secs(20);

/// How long ends may wait in the kernel's buffer: one wake-up for all that come in this time.
const GATHERED: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// What is counted, and the sockets for it.
pub(super) struct Entries {
    conntrack: Conntrack,
    ends: Ends,
    tally: Tally,
    lost: u64,
}

impl Entries {
    /// Opens the sockets, and sees that the kernel answers.
    pub(super) fn open() -> Result<Entries, Failure> {
        let ends = Ends::open().map_err(no_conntrack)?;
        let mut conntrack = Conntrack::open().map_err(no_conntrack)?;
        // No entry has this mark.
        conntrack.dump(PREFIX, u32::MAX, |_| {}).map_err(no_conntrack)?;
        setting("max")?;
        Ok(Entries { conntrack, ends, tally: Tally::default(), lost: 0 })
    }

    /// Answers requests until the balancer ends.
    pub(super) fn serve(mut self, channel: &Channel) {
        let mut is_gathering = false;
        loop {
            let mut wanted = vec![PollFd::new(channel, PollFlags::IN)];
            if !is_gathering {
                wanted.push(PollFd::new(&self.ends, PollFlags::IN));
            }
            match poll(&mut wanted, is_gathering.then_some(&GATHERED)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            if wanted[0].revents().is_empty() {
                is_gathering = !is_gathering;
                // Overflow is counted with the figures; another error comes back there.
                let _ = self.read_ends();
                continue;
            }
            let Ok(Some(request)) = wire::receive(channel, Instant::now() + super::ANSWER) else { return };
            let answer = self.answer(request);
            if wire::answer(channel, &answer, Instant::now() + super::ANSWER).is_err() {
                return;
            }
        }
    }

    fn answer(&mut self, request: EntryRequest) -> Result<EntryAnswer, Failure> {
        match request {
            EntryRequest::Figures => self.figures().map(EntryAnswer::Figures),
            EntryRequest::List(filter, limit) => self.list(&filter, limit).map(EntryAnswer::Listed),
            EntryRequest::Delete(filter) => {
                delete(&mut self.conntrack, &filter).map(|(deleted, more)| EntryAnswer::Deleted(deleted, more))
            }
        }
    }

    fn figures(&mut self) -> Result<Figures, Failure> {
        let (table_entries, table_max, accounting) = (setting("count")?, setting("max")?, setting("acct")? != 0);
        let (before, mut entries) = (cpu_time(), 0);
        let tally = &mut self.tally;
        let dumped = self.conntrack.dump(PREFIX, PREFIX_MASK, |entry| {
            if let Some(mark) = Mark::of_value(entry.mark) {
                entries += 1;
                tally.seen(mark, entry);
            }
        });
        let cpu = cpu_time().saturating_sub(before);
        let drained = dumped.and_then(|()| self.read_ends()).map_err(|error| {
            self.tally.abandon();
            no_conntrack(error)
        })?;
        let counts = self.tally.finish(drained.all);
        Ok(Figures { counts, entries, table_entries, table_max, accounting, lost: std::mem::take(&mut self.lost), cpu })
    }

    fn read_ends(&mut self) -> io::Result<Drained> {
        let tally = &mut self.tally;
        let drained = self.ends.read(|entry| {
            if let Some(mark) = Mark::of_value(entry.mark) {
                tally.ended(mark, entry);
            }
        })?;
        self.lost += drained.lost;
        Ok(drained)
    }

    fn list(&mut self, filter: &Filter, limit: usize) -> Result<Listed, Failure> {
        selected(&mut self.conntrack, filter, limit.min(LIST_MAX))
    }
}

/// Deletes the entries that a filter selects. Says how many, and whether there may be more.
pub(super) fn delete(conntrack: &mut Conntrack, filter: &Filter) -> Result<(u64, bool), Failure> {
    let (begun, mut deleted) = (Instant::now(), 0);
    loop {
        let Listed { entries, more } = selected(conntrack, filter, DELETED_AT_ONCE)?;
        deleted += conntrack.delete(&entries).map_err(no_conntrack)?;
        if !more || begun.elapsed() > DELETING {
            return Ok((deleted, more));
        }
    }
}

fn selected(conntrack: &mut Conntrack, filter: &Filter, limit: usize) -> Result<Listed, Failure> {
    let mut listed = Listed::default();
    // The kernel selects by one mark, or by the bits that all have.
    let only = filter.marks.as_ref().filter(|marks| marks.len() == 1).and_then(|marks| marks.first());
    let (mark, mask) = only.map_or((PREFIX, PREFIX_MASK), |mark| (mark.value(), u32::MAX));
    let mut show = |entry: &Entry| {
        if filter.selects(entry) {
            match listed.entries.len() < limit {
                true => listed.entries.push(*entry),
                false => listed.more = true,
            }
        }
    };
    conntrack.dump(mark, mask, &mut show).map_err(no_conntrack)?;
    Ok(listed)
}

/// That of this thread so far. The kernel's work on a dump is part of it.
fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

fn setting(name: &str) -> Result<u64, Failure> {
    let path = format!("{SETTINGS}{name}");
    let text = fs::read_to_string(&path).map_err(|error| Failure::NoConntrack(format!("{path}: {error}")))?;
    text.trim().parse().map_err(|_| Failure::NoConntrack(format!("{path} holds `{}`", text.trim())))
}

/// Also used by `tcplb kernel flush`.
pub(super) fn no_conntrack(error: io::Error) -> Failure {
    Failure::NoConntrack(error.to_string())
}
