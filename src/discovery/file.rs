//! `kind = "file"`: a file that lists backends, read again whenever it has changed.
//!
//! - inotify(7) watches the directory, not the file: a file that is replaced by `rename` is another one. It also watches
//!   the directory behind symbolic links that the file really lies in. So the links of a Kubernetes ConfigMap are seen.
//! - A file that is written in place is read once its writer has closed it ([`Writer`]).
//! - Every [`PERIOD`] the file is read in any case: events can be lost, and some file systems have none.

use super::entry::{self, shown};
use super::{BACKENDS_MAX, Feed, Found, Item, Key, Kind, Settings, Takes};
use crate::small_file;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use serde_json::Value;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

const PERIOD: Duration = Duration::from_secs(10);
/// The period after the first error. It doubles while errors follow each other.
const AFTER_ERROR: Duration = Duration::from_secs(1);
/// The longest wait for the end of a change. A file that never comes to rest is read as it is.
const CHANGE_MAX: Duration = Duration::from_secs(20);
/// How long a file that may have a writer must be unchanged.
const REST: Duration = Duration::from_millis(500);
/// Events that follow each other this closely are one.
const TOGETHER: Duration = Duration::from_millis(100);
/// The largest file: fifty thousand backends have room.
const BYTES_MAX: u64 = 16 << 20;
/// The events of a directory.
const WATCHED: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::ATTRIB);

/// The kind.
pub static FILE: Kind = Kind {
    name: "file",
    doc: "Backends that a TOML or JSON file lists as `backend = [{ address = \"10.0.0.7:80\" }]`; read again as soon as it has changed.",
    keys: &[Key {
        name: "path",
        takes: Takes::File,
        doc: "The file; it may be a symbolic link, as the files of a ConfigMap are.",
        absent: "required",
        example: "\"/etc/tcplb/backends.toml\"",
    }],
    watches: &["path"],
    reads: |_| Vec::new(),
    check: |_| Ok(()),
    run,
};

fn run(settings: &Settings, feed: &mut Feed) -> Result<(), String> {
    let path = settings.file("path").ok_or("has no path")?;
    let named = |why: String| format!("{}: {why}", path.display());
    let (mut watch, mut again) = (Watch::new(path), AFTER_ERROR);
    while !feed.is_stopped() {
        watch.follow_links();
        watch.wait_for_rest();
        watch.mark = mark(path);
        let period = match read(path).and_then(|items| feed.replace(items)) {
            Ok(()) => {
                again = AFTER_ERROR;
                PERIOD
            }
            // A correction is seen at once, so the watch goes on.
            Err(why) => {
                feed.failed(&named(why));
                let period = again;
                again = (2 * period).min(PERIOD);
                period
            }
        };
        watch.wait_for_change(feed, period);
    }
    Ok(())
}

/// The entries of the file.
fn read(path: &Path) -> Result<Vec<Item>, String> {
    // Each read of a pipe would take something else.
    if fs::metadata(path).is_ok_and(|file| file.file_type().is_fifo()) {
        return Err("expected a file, but it is a pipe".to_owned());
    }
    parse(&small_file::read(path, BYTES_MAX).map_err(|error| error.to_string())?)
}

/// The entries that a file lists. Only a file that can't be understood as a whole is an error. An entry that is not understood
/// stands for itself, and one whose name is in doubt for any backend.
pub fn parse(bytes: &[u8]) -> Result<Vec<Item>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("expected UTF-8: {error}"))?;
    let value = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| format!("expected JSON, since it begins with {{: {error}"))?
    } else {
        toml::from_str(text).map_err(|error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            format!("line {}: {}", before.matches('\n').count() + 1, shown(error.message()))
        })?
    };
    let Value::Object(mut file) = value else { return Err("expected a table".to_owned()) };
    // A file that was cut to nothing is not a list without backends.
    let list = file.remove("backend").ok_or("expected `backend = […]`, but there is no `backend`")?;
    if let Some(other) = file.keys().next() {
        return Err(format!("expected `backend` alone, but there is `{}` too", shown(other)));
    }
    let Value::Array(list) = list else { return Err("expected `backend` to be a list".to_owned()) };
    if list.len() > BACKENDS_MAX {
        return Err(format!("has {} entries; at most {BACKENDS_MAX} are taken", list.len()));
    }
    let mut keys = HashSet::new();
    let items = list.into_iter().zip(1..).map(|(value, number)| match entry(value) {
        Ok((key, found)) if keys.insert(key.clone()) => Item::new(key, found),
        Ok((key, _)) => unnamed(number, format!("an entry before it is called `{key}` too")),
        Err(why) => unnamed(number, why),
    });
    Ok(items.collect())
}

fn unnamed(number: usize, why: String) -> Item {
    Item::unnamed(format!("entry {number}"), why)
}

/// What an entry is called, by its name or else by its address, and its backend. Fails if it may be called something else: without
/// a name, a wrong address or an unknown key may be a mistyped one.
fn entry(value: Value) -> Result<(String, Result<Found, String>), String> {
    let Value::Object(mut object) = value else {
        return Err(format!("expected a table with an address, got `{}`", shown(&value.to_string())));
    };
    match object.remove("name") {
        Some(Value::String(name)) if !name.is_empty() => Ok((shown(&name), entry::found(&name, &object))),
        Some(other) => Err(format!("name: expected a text, got `{}`", shown(&other.to_string()))),
        None => {
            let name = object.get("address").and_then(Value::as_str).unwrap_or_default();
            match entry::found(name, &object) {
                Err(why) if !entry::is_at_its_address(&object) => Err(why),
                found => Ok((shown(name), found)),
            }
        }
    }
}

/// What is known of the file's writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    /// There may be one: the file was changed before it was watched, or was just created.
    Unknown,
    /// It has written, and has not closed the file.
    Open,
    /// It has closed the file, or has moved it here.
    Done,
}

/// What changes when a file changes, or when a link leads to another file.
type Mark = (u64, u64, u64, i64, i64);

/// Waits for changes of a file.
struct Watch<'a> {
    path: &'a Path,
    /// `None`: the system has no room for another one. The file is read all the same.
    inotify: Option<OwnedFd>,
    /// The file as the watched directories have it: the number of the watch, and the name.
    names: Vec<(i32, OsString)>,
    /// Where it lies, behind links.
    real: PathBuf,
    writer: Writer,
    /// The file has an event of its own.
    changed: bool,
    /// The file as it was read.
    mark: Option<Mark>,
}

impl<'a> Watch<'a> {
    fn new(path: &'a Path) -> Watch<'a> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        if let Err(error) = &inotify {
            log::debug!("{}: no inotify: {error}; the file is read every {PERIOD:?}", path.display());
        }
        let (inotify, real) = (inotify.ok(), path.to_owned());
        Watch { path, inotify, names: Vec::new(), real, writer: Writer::Unknown, changed: false, mark: None }
    }

    /// Watches the directory of the path, and that of the file behind its links.
    fn follow_links(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        let real = fs::canonicalize(self.path).unwrap_or_else(|_| self.path.to_owned());
        if real != self.real {
            (self.real, self.writer) = (real, Writer::Unknown);
        }
        let mut names = Vec::new();
        for file in [self.path, &self.real] {
            let directory = file.parent().filter(|directory| !directory.as_os_str().is_empty());
            // A directory that is watched already keeps its number.
            match inotify::add_watch(inotify, directory.unwrap_or(Path::new(".")), WATCHED | WatchFlags::ONLYDIR) {
                Ok(number) => names.push((number, file.file_name().unwrap_or_default().to_owned())),
                Err(error) => log::debug!("{}: not watched: {error}", file.display()),
            }
        }
        for (number, _) in &self.names {
            if names.iter().all(|(still, _)| still != number) {
                // A directory that is gone has taken its watch with it.
                let _ = inotify::remove_watch(inotify, *number);
            }
        }
        self.names = names;
    }

    /// Waits until no writer is at work, in bounded time.
    fn wait_for_rest(&mut self) {
        let until = Instant::now() + CHANGE_MAX;
        loop {
            self.read_events();
            let left = until.saturating_duration_since(Instant::now());
            let wait = match self.writer {
                Writer::Done => return,
                Writer::Open => left,
                Writer::Unknown => left.min(REST.saturating_sub(age(self.path))),
            };
            if wait.is_zero() {
                return;
            }
            self.wait_for_events(wait);
        }
    }

    /// Waits until the file has changed, for at most so long.
    fn wait_for_change(&mut self, feed: &Feed, period: Duration) {
        let until = Instant::now() + period;
        self.changed = false;
        while !self.changed && mark(self.path) == self.mark {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.wait_for_events(left) || !feed.wait(TOGETHER) {
                return;
            }
            self.read_events();
        }
    }

    /// Waits for an event; false if there is none.
    fn wait_for_events(&self, time: Duration) -> bool {
        let time = Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() };
        let mut polled: Vec<PollFd<'_>> = self.inotify.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        poll(&mut polled, Some(&time)).is_ok_and(|ready| ready > 0)
    }

    /// Takes the events that are there, at most a buffer of them.
    fn read_events(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(inotify, &mut buffer);
        while let Ok(event) = events.next() {
            let (kind, name) = (event.events(), event.file_name().map_or(&[][..], |name| name.to_bytes()));
            let lost = kind.contains(ReadFlags::QUEUE_OVERFLOW);
            if lost || self.names.iter().any(|(number, ours)| *number == event.wd() && ours.as_bytes() == name) {
                self.changed = true;
                if kind.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO) {
                    self.writer = Writer::Done;
                } else if kind.contains(ReadFlags::MODIFY) {
                    self.writer = Writer::Open;
                } else if !kind.contains(ReadFlags::ATTRIB) {
                    self.writer = Writer::Unknown;
                }
            }
            if events.is_buffer_empty() {
                return;
            }
        }
    }
}

fn mark(path: &Path) -> Option<Mark> {
    let file = fs::metadata(path).ok()?;
    Some((file.dev(), file.ino(), file.size(), file.ctime(), file.ctime_nsec()))
}

/// How long the file is unchanged; without an end if there is none, or if its time lies ahead.
fn age(path: &Path) -> Duration {
    let changed = fs::metadata(path).and_then(|file| file.modified());
    changed.ok().and_then(|changed| SystemTime::now().duration_since(changed).ok()).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    fn names(text: &str) -> Vec<String> {
        parse(text.as_bytes()).unwrap().into_iter().map(|item| item.key).collect()
    }

    #[test]
    fn toml_and_json_say_the_same() {
        let json = r#" {"backend": [{"address": "10.0.0.7:80", "weight": 5}, {"name": "b", "address": "[::1]:80"}]}"#;
        let inline = "backend = [{ address = '10.0.0.7:80', weight = 5 }, { name = 'b', address = '[::1]:80' }]";
        let tables = "[[backend]]\naddress = '10.0.0.7:80'\nweight = 5\n[[backend]]\nname = 'b'\naddress = '[::1]:80'";
        let items = parse(json.as_bytes()).unwrap();
        assert_eq!(names(json), ["10.0.0.7:80", "b"]);
        assert_eq!(items[0].found.as_ref().map(|found| found.weight), Ok(Some(5)));
        assert_eq!(parse(inline.as_bytes()).unwrap(), items);
        assert_eq!(parse(tables.as_bytes()).unwrap(), items);
        assert_eq!(parse(b"backend = []"), Ok(Vec::new()));
        assert_eq!(parse(b"{\"backend\": []}"), Ok(Vec::new()));
    }

    #[test]
    fn an_entry_that_is_not_understood_stands_for_itself() {
        let text = "backend = [{ address = 'a:1' }, 5, { weight = 1 }, { name = 7 }, { address = 'a:1' }, { name = 'b', address = 'x' }]";
        let items = parse(text.as_bytes()).unwrap();
        let shown: Vec<String> =
            items.into_iter().map(|item| format!("{}: {:?}", item.key, item.found.err())).collect();
        for (line, want) in shown.iter().zip([
            "a:1: None",
            "entry 2: Some(\"expected a table with an address, got `5`",
            "entry 3: Some(\"the address is missing",
            "entry 4: Some(\"name: expected a text, got `7`",
            "entry 5: Some(\"an entry before it is called `a:1` too",
            "b: Some(\"expected 127.0.0.1:80",
        ]) {
            assert!(line.starts_with(want), "{line}");
        }
        assert_eq!(shown.len(), 6);
    }

    #[test]
    fn an_entry_whose_name_is_in_doubt_may_be_any_backend() {
        let is_unnamed = |entry: &str| {
            let text = format!("backend = [{{ name = 'a', address = 'a:1' }}, {entry}]");
            parse(text.as_bytes()).unwrap()[1].is_unnamed
        };
        for entry in [
            "'a:1'",
            "{ weight = 1 }",
            "{ name = 7, address = 'a:1' }",
            "{ name = '', address = 'a:1' }",
            "{ nmae = 'b', address = 'b:1' }",
            "{ address = 'b' }",
            "{ name = 'a', address = 'b:1' }",
        ] {
            assert!(is_unnamed(entry), "{entry}");
        }
        for entry in [
            "{ name = 'b', address = 'b' }",
            "{ name = 'b', adress = 'b:1' }",
            "{ address = 'b:1', weight = 'x' }",
            "{ address = 'b:1' }",
        ] {
            assert!(!is_unnamed(entry), "{entry}");
        }
    }

    #[test]
    fn more_entries_than_a_source_may_have_are_an_error_at_once() {
        let text = format!("{{\"backend\": [{}0]}}", "0,".repeat(BACKENDS_MAX));
        assert!(parse(text.as_bytes()).unwrap_err().contains("50001 entries; at most 50000"));
    }

    #[test]
    fn a_file_without_a_list_is_an_error_and_never_an_empty_list() {
        for (text, why) in [
            ("", "there is no `backend`"),
            ("  \n# nothing yet\n", "there is no `backend`"),
            ("{}", "there is no `backend`"),
            ("{", "expected JSON, since it begins with {: EOF"),
            ("{\"backend\": [{\"address\": \"10.", "EOF"),
            ("backends = []", "there is no `backend`"),
            ("backend = []\npool = 1", "expected `backend` alone, but there is `pool` too"),
            ("backend = 5", "expected `backend` to be a list"),
            ("# one\nbackend = [", "line 2: "),
            ("[1, 2]", "line 1: "),
        ] {
            let message = parse(text.as_bytes()).unwrap_err();
            assert!(message.contains(why), "{text:?}: {message}");
        }
        assert!(parse(&[b'#', 0xff, 0xfe]).unwrap_err().contains("expected UTF-8"));
    }

    #[test]
    fn what_is_no_file_of_a_bounded_size_is_an_error() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("backends");
        let why = || read(&path).unwrap_err();
        assert_eq!(why(), "No such file or directory (os error 2)");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(why(), "expected a file, but it is a pipe");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(why(), "expected a file or a pipe, but it is a directory");
        fs::remove_dir(&path).unwrap();
        let file = fs::File::create(&path).unwrap();
        file.set_len(BYTES_MAX + 1).unwrap();
        assert_eq!(why(), "expected at most 16 MiB, but it has more");
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_error_or_entries_with_keys_of_their_own(bytes in any::<Vec<u8>>(), text in "\\PC{0,60}") {
            let listed = format!("backend = [{{ address = 'a:1' }}, {text}]");
            for bytes in [&bytes[..], text.as_bytes(), listed.as_bytes()] {
                if let Ok(items) = parse(bytes) {
                    let keys: HashSet<&String> = items.iter().map(|item| &item.key).collect();
                    prop_assert_eq!(keys.len(), items.len());
                }
            }
        }
    }
}
