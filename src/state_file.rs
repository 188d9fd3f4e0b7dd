//! The state file: what was changed at run time, for the next start (`[global] state_file`).
//!
//! A thread of its own writes it, since a disk may be slow. Control wakes the thread after each change and waits for
//! nothing. The thread takes the newest state, so of many changes the last one wins.
//!
//! The file is replaced as a whole: a temporary file beside it is written, synced and renamed, and the directory is
//! synced. After a crash at any point, the file has the state before or after a change. The last change before a crash may
//! be missing: the API does not wait for the disk. A stop does, for [`FAREWELL`].
//!
//! Only one process writes. A successor begins when it has taken over ([`Saver::own`]), and its predecessor has stopped then
//! ([`Saver::disown`]). Another reason is the temporary file, which has one name.
//!
//! A write that fails is logged and tried again every [`RETRY`]; meanwhile tcplb serves as before.

use crate::base::AdminState;
use crate::config::runtime::{RuntimeChanges, States};
use crate::confine;
use crate::pool::Published;
use crate::small_file::{self, ReadError};
use crossbeam_channel::{Receiver, Sender, after, at, bounded, never, select};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The largest file: a change of each of 100 000 backends.
const SIZE_MAX: u64 = 64 << 20;

/// The pause before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The shortest time from one write to the next that only sources cause: their changes may follow each other closely.
const BETWEEN: Duration = Duration::from_secs(1);

/// How long a stop waits for the last write.
const FAREWELL: Duration = Duration::from_secs(5);

/// The thread that writes the file.
#[derive(Debug)]
pub struct StateFile {
    saver: Saver,
    path: PathBuf,
    over: Receiver<()>,
}

/// Wakes the thread after a change.
#[derive(Clone, Debug)]
pub struct Saver {
    soon: Sender<()>,
    later: Sender<()>,
    ownership: Arc<Ownership>,
}

#[derive(Debug)]
struct Ownership {
    /// This process writes the file.
    owns: AtomicBool,
    /// Another process may have written it.
    anew: AtomicBool,
}

/// What a [`Saver`] sends.
struct Wakes {
    soon: Receiver<()>,
    later: Receiver<()>,
}

/// Reads the file. One that is not there holds no changes.
pub fn read(path: &Path) -> Result<RuntimeChanges, String> {
    let shown = path.display();
    let text = match small_file::read(path, SIZE_MAX) {
        Ok(bytes) => String::from_utf8(bytes).map_err(|_| format!("state_file: {shown}: expected a text in UTF-8"))?,
        Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            let directory = confine::directory(path);
            return match directory.is_dir() {
                true => Ok(RuntimeChanges::default()),
                false => Err(format!("state_file: {shown}: there is no directory {}", directory.display())),
            };
        }
        Err(error) => return Err(format!("state_file: can't read {shown}: {error}")),
    };
    RuntimeChanges::parse(&text, &shown.to_string()).map_err(|mistakes| {
        let lines = mistakes.0.iter().map(|line| format!("state_file: {line}"));
        lines.collect::<Vec<_>>().join("\n")
    })
}

/// What was changed at run time, as the file has it.
pub fn text(published: &Published) -> String {
    let (snapshot, running, file) = published.current();
    let members = snapshot.pools.iter().flat_map(|pool| {
        let named = |name| (pool.settings.name.as_str(), name);
        pool.members.iter().map(move |member| (named(member.backend.name.as_str()), member.state))
    });
    let states: States<'_> = members.filter(|(_, state)| *state != AdminState::Enabled).collect();
    RuntimeChanges::of(&file, &running, &states).with(published.discovered()).print()
}

impl StateFile {
    /// Starts the thread, which writes the file at once if this process owns it.
    pub fn start(path: PathBuf, published: Arc<Published>, owns: bool) -> io::Result<StateFile> {
        // One wake is enough, however many changes come: the thread takes the newest state.
        let ((soon, of_soon), (later, of_later), (end, over)) = (bounded(1), bounded(1), bounded(0));
        let wakes = Wakes { soon: of_soon, later: of_later };
        let ownership = Arc::new(Ownership { owns: AtomicBool::new(owns), anew: AtomicBool::new(false) });
        let (of_thread, written) = (ownership.clone(), None);
        let mut writer = Writer { path: path.clone(), published, written, ownership: of_thread, failing: false };
        let work = move || {
            writer.run(&wakes);
            drop(end);
        };
        thread::Builder::new().name("state-file".to_owned()).spawn(work)?;
        Ok(StateFile { saver: Saver { soon, later, ownership }, path, over })
    }

    /// A handle for the thread that makes changes.
    pub fn saver(&self) -> Saver {
        self.saver.clone()
    }

    /// Waits until the newest state is written. Call it once all savers are dropped.
    pub fn finish(self) {
        let StateFile { saver, path, over } = self;
        drop(saver);
        if let Err(crossbeam_channel::RecvTimeoutError::Timeout) = over.recv_timeout(FAREWELL) {
            log::error!(
                "state_file: writing {} takes more than {FAREWELL:?}: the last changes are lost",
                path.display()
            );
        }
    }
}

impl Saver {
    /// The published state has changed.
    pub fn save_soon(&self) {
        let _ = self.soon.try_send(());
    }

    /// This process writes the file from now on. The first time is now, since another process may have written it.
    pub fn own(&self) {
        self.ownership.anew.store(true, Ordering::Relaxed);
        self.ownership.owns.store(true, Ordering::Relaxed);
        self.save_soon();
    }

    /// Another process writes the file from now on.
    pub fn disown(&self) {
        self.ownership.owns.store(false, Ordering::Relaxed);
    }

    /// A source has changed the published state: it is saved within [`BETWEEN`].
    pub fn save_later(&self) {
        let _ = self.later.try_send(());
    }
}

struct Writer {
    path: PathBuf,
    published: Arc<Published>,
    /// What the file holds.
    written: Option<String>,
    ownership: Arc<Ownership>,
    failing: bool,
}

impl Writer {
    /// Writes after each wake, until all savers are dropped.
    fn run(&mut self, wakes: &Wakes) {
        let mut open = true;
        while open {
            let next = Instant::now() + BETWEEN;
            let retry = if self.write() { never() } else { after(RETRY) };
            let mut pause = never();
            loop {
                select! {
                    recv(wakes.soon) -> wake => open = wake.is_ok(),
                    recv(wakes.later) -> wake => {
                        if wake.is_ok() {
                            pause = at(next);
                            continue;
                        }
                        open = false;
                    }
                    recv(pause) -> _ => {}
                    recv(retry) -> _ => {}
                }
                break;
            }
        }
        self.write();
    }

    /// Writes the newest state, if the file has another one. False: it failed.
    fn write(&mut self) -> bool {
        if !self.ownership.owns.load(Ordering::Relaxed) {
            return true;
        }
        let text = text(&self.published);
        if !self.ownership.anew.swap(false, Ordering::Relaxed) && self.written.as_ref() == Some(&text) {
            return true;
        }
        let outcome = replace(&self.path, text.as_bytes());
        let shown = self.path.display();
        match &outcome {
            Ok(()) => {
                self.written = Some(text);
                if std::mem::take(&mut self.failing) {
                    log::info!("state_file: {shown} is written again");
                }
            }
            Err(error) => {
                // What the file holds is unknown: only the last step may have failed.
                self.written = None;
                if !std::mem::replace(&mut self.failing, true) {
                    log::error!(
                        "state_file: can't write {shown}: {error}; changes at run time do not survive a restart"
                    );
                }
            }
        }
        outcome.is_ok()
    }
}

/// Replaces a file as a whole.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    // A process that was killed may have left one.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = || {
        // A new file: a link in its place is not followed.
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    written().inspect_err(|_| drop(fs::remove_file(&temporary)))?;
    File::open(confine::directory(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_no_link_is_followed() {
        let place = tempfile::tempdir().unwrap();
        let (path, other) = (place.path().join("state.toml"), place.path().join("other"));
        fs::write(&other, "untouched").unwrap();
        std::os::unix::fs::symlink(&other, place.path().join("state.toml.tmp")).unwrap();
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(
            (fs::read_to_string(&path).unwrap(), fs::read_to_string(&other).unwrap()),
            ("two".into(), "untouched".into())
        );
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2, "no temporary file is left");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(replace(&path, b"three").is_err());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2, "nor after a failure");
    }

    #[test]
    fn a_missing_file_holds_nothing_and_a_missing_directory_is_a_mistake() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(read(&place.path().join("state.toml")), Ok(RuntimeChanges::default()));
        let message = read(&place.path().join("none/state.toml")).unwrap_err();
        assert!(message.contains("there is no directory") && message.ends_with("/none"), "{message}");
        assert!(read(place.path()).unwrap_err().contains("a directory"));
        fs::write(place.path().join("x"), "version = 1\nbackend = 5").unwrap();
        let message = read(&place.path().join("x")).unwrap_err();
        assert!(
            message.starts_with("state_file: /") && message.contains("/x:2: backend: expected a table"),
            "{message}"
        );
    }
}
