//! The start of a process that goes on with connections of the one before ([`super::keep`]): the service manager has passed what
//! its store has.
//!
//! | in a queue | what follows |
//! |---|---|
//! | a batch | its connections go on once all threads run, as those of an upgrade do. Their time-outs count the time in between |
//! | a connection whose peer has left meanwhile | it ends as if the peer left now |
//! | a connection whose backend, pool or listener is not configured any more | it goes on, see [`transit`](crate::worker::driver::transit) |
//! | a record that can't be read, or another version of it | a warning; its descriptors close |
//! | a connection without all of its descriptors | a warning; those that are there close |
//!
//! Queues are read once nothing can fail any more but the start of a thread. What fails before leaves them to the next start.

use super::keep::{Batch, NAME, VERSION};
use super::takeover;
use super::workers::Workers;
use crate::base::text::counted;
use crate::handover::{Channel, Parcel};
use crate::systemd;
use crate::systemd::store::Store;
use crate::worker::transit::Incoming;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// The longest record of a batch: its connections hold up to two full buffers each.
const LENGTH_MAX: u64 = 16 << 20;

/// How long the manager's queue of messages may be full.
const FORGET: Duration = Duration::from_secs(1);

/// What the service manager has passed.
#[derive(Debug, Default)]
pub struct Kept {
    is_passed: bool,
    connections: Vec<Incoming>,
    /// Where the numbers of new connections begin.
    pub next_sequence: u64,
}

impl Kept {
    /// Reads the queues. The log reports what can't go on.
    pub fn read(queues: Vec<OwnedFd>) -> Kept {
        let mut kept = Kept { is_passed: !queues.is_empty(), ..Kept::default() };
        for queue in queues {
            if let Err(why) = kept.empty(queue) {
                log::warn!("connections of the process before can't go on: {why}");
            }
        }
        kept
    }

    fn empty(&mut self, queue: OwnedFd) -> Result<(), String> {
        let queue = Channel::of(queue).map_err(|error| error.to_string())?;
        let mut wrong = None;
        loop {
            let added = match queue.receive(Instant::now()) {
                Ok(Some(batch)) => self.add(batch),
                Ok(None) => break,
                // The process before has not ended.
                Err(error) if error.kind() == io::ErrorKind::TimedOut => break,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => Err("descriptors are missing".to_owned()),
                Err(error) => return Err(error.to_string()),
            };
            wrong = wrong.or(added.err());
        }
        wrong.map_or(Ok(()), Err)
    }

    /// Adds a batch. Fails with the first thing that is wrong in it; the rest is added.
    fn add(&mut self, batch: Parcel) -> Result<(), String> {
        let mut descriptors = batch.descriptors.into_iter();
        let file = File::from(descriptors.next().ok_or("there is no record of them")?);
        let Batch { version, at, next_sequence, mut connections } =
            read(&file).map_err(|error| format!("their record can't be read: {error}"))?;
        if version != VERSION {
            return Err(format!("their record is of version {version}, expected {VERSION}"));
        }
        let away = systemd::monotonic().map_err(|error| error.to_string())?.saturating_sub(at);
        connections.iter_mut().for_each(|record| record.away = away);
        self.next_sequence = self.next_sequence.max(next_sequence);
        let (ready, refused) = takeover::assemble(connections, descriptors);
        self.connections.extend(ready);
        refused.into_iter().next().map_or(Ok(()), |(_, why)| Err(why))
    }

    /// Has the workers go on with the connections.
    pub fn put_in(self, workers: &Workers) {
        if !self.connections.is_empty() {
            log::info!("{} of the process before go on", counted(self.connections.len(), "connection"));
            workers.put_in(self.connections);
        }
        // The queues are empty. Where this fails, the next start gets them once more.
        if self.is_passed
            && let Ok(store) = Store::connect()
        {
            let _ = store.remove(NAME, Instant::now() + FORGET);
        }
    }
}

fn read(file: &File) -> io::Result<Batch> {
    let length = file.metadata()?.len();
    if length > LENGTH_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has {length} bytes")));
    }
    let mut bytes = vec![0; length as usize];
    // The process before has left its place at the end.
    file.read_exact_at(&mut bytes, 0)?;
    Ok(serde_json::from_slice(&bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_is_no_record_is_an_error() {
        let batch = |text: &str| {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(text.as_bytes(), 0).unwrap();
            let mut kept = Kept::default();
            let descriptors = vec![file.into(), io::pipe().unwrap().0.into()];
            let outcome = kept.add(Parcel { bytes: Vec::new(), descriptors });
            (outcome, kept.connections.len(), kept.next_sequence)
        };
        let empty = r#"{"version":1,"at":{"secs":1,"nanos":0},"next_sequence":7,"connections":[],"later":1}"#;
        assert_eq!(batch(empty), (Ok(()), 0, 7));
        let (outcome, ..) = batch(&empty.replace(r#""version":1"#, r#""version":2"#));
        assert_eq!(outcome, Err("their record is of version 2, expected 1".to_owned()));
        for wrong in ["", "nonsense"] {
            assert!(batch(wrong).0.unwrap_err().starts_with("their record can't be read: "));
        }
        assert_eq!(Kept::default().add(Parcel::default()), Err("there is no record of them".to_owned()));
    }
}
