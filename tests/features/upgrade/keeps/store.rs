//! A service manager with a descriptor store, as sd_notify(3) and sd_listen_fds(3) describe it.

use parking_lot::Mutex;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tcplb::handover::Channel;
use tempfile::TempDir;
use testkit::{PATIENCE, Process, eventually, let_pass, need, tcplb};

/// Puts descriptors, which it receives, at 3 and following ones, and becomes the service.
const LAUNCH: &str = r#"
import fcntl, os, socket, sys
post = socket.socket(fileno=0)
post.setblocking(True)
names, high = [], []
while True:
    message, descriptors, _, _ = socket.recv_fds(post, 1 << 16, 200)
    if message == b"end":
        break
    names += message.decode().split(":")
    high += [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 1000) for descriptor in descriptors]
os.closerange(3, 1000)
os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
for place, descriptor in enumerate(high):
    os.dup2(descriptor, 3 + place)
os.closerange(3 + len(high), 3000)
if high:
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(high)), LISTEN_FDNAMES=":".join(names))
os.execvp(sys.argv[1], sys.argv[1:])
"#;

/// A manager. It reads its messages on a thread.
pub struct Manager {
    state: Arc<Mutex<State>>,
    reader: Option<JoinHandle<()>>,
    directory: TempDir,
}

/// How long after a barrier it closes what it does not keep, as systemd 254 and later do.
const LATER: Duration = Duration::from_millis(100);

struct State {
    /// The store: the newest first.
    stored: Vec<(String, OwnedFd)>,
    /// What it does not keep, until it closes it.
    refused: Vec<(Instant, OwnedFd)>,
    /// The most that it takes.
    limit: usize,
    /// All messages.
    messages: Vec<String>,
    reads: bool,
    over: bool,
}

impl Manager {
    /// A new one; `None`, after saying so, where a tool is missing.
    pub fn new() -> Option<Manager> {
        need("python3")?;
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let (stored, refused, messages) = (Vec::new(), Vec::new(), Vec::new());
        let state = State { stored, refused, limit: 10_000, messages, reads: true, over: false };
        let state = Arc::new(Mutex::new(state));
        let of_reader = state.clone();
        let reader = thread::spawn(move || read(&socket, &of_reader));
        Some(Manager { state, reader: Some(reader), directory })
    }

    /// Starts tcplb, and passes all that is in the store, in any order.
    #[track_caller]
    pub fn start(&self, arguments: &[&str]) -> Process {
        self.start_by(&[], arguments)
    }

    /// The same through another program, which ends in `exec` with its further arguments.
    #[track_caller]
    pub fn start_by(&self, wrapper: &[&str], arguments: &[&str]) -> Process {
        let copy = |(name, descriptor): &(String, OwnedFd)| (name.clone(), descriptor.try_clone().unwrap());
        let mut stored: Vec<(String, OwnedFd)> = self.state.lock().stored.iter().map(copy).collect();
        fastrand::shuffle(&mut stored);
        let service = tcplb(arguments);
        let mut command = Command::new("python3");
        command.args(["-c", LAUNCH]).args(wrapper).arg(service.get_program()).args(service.get_args());
        for (name, _) in service.get_envs().filter(|(_, value)| value.is_none()) {
            command.env_remove(name);
        }
        command.env("NOTIFY_SOCKET", self.directory.path().join("notify"));
        let (ours, theirs) = Channel::pair().unwrap();
        let process = Process::spawn_with_input(&mut command, theirs.into_fd());
        for some in stored.chunks(100) {
            let names: Vec<&str> = some.iter().map(|(name, _)| name.as_str()).collect();
            let descriptors: Vec<BorrowedFd<'_>> = some.iter().map(|(_, descriptor)| descriptor.as_fd()).collect();
            ours.send(names.join(":").as_bytes(), &descriptors, Instant::now() + PATIENCE).unwrap();
        }
        ours.send(b"end", &[], Instant::now() + PATIENCE).unwrap();
        process
    }

    /// How many descriptors it has.
    pub fn count(&self) -> usize {
        self.state.lock().stored.len()
    }

    /// Takes no more than this.
    pub fn limit(&self, limit: usize) {
        self.state.lock().limit = limit;
    }

    /// Reads no message.
    pub fn pause(&self) {
        self.state.lock().reads = false;
    }

    /// Reads again.
    pub fn resume(&self) {
        self.state.lock().reads = true;
    }

    /// Puts this in the place of each record in the queues of the store.
    pub fn replace_records(&self, other: &OwnedFd) {
        for (_, queue) in &mut self.state.lock().stored {
            let old = Channel::of(queue.try_clone().unwrap()).unwrap();
            let (ours, theirs) = Channel::pair().unwrap();
            while let Some(batch) = old.receive(Instant::now() + PATIENCE).unwrap() {
                let rest = batch.descriptors[1..].iter().map(|descriptor| descriptor.as_fd());
                let all: Vec<BorrowedFd<'_>> = [other.as_fd()].into_iter().chain(rest).collect();
                ours.send(&batch.bytes, &all, Instant::now() + PATIENCE).unwrap();
            }
            *queue = theirs.into_fd();
        }
    }

    /// Whether it has read a message with this in it.
    pub fn has_read(&self, text: &str) -> bool {
        self.state.lock().messages.iter().any(|message| message.contains(text))
    }

    /// Waits for a message with this in it.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        eventually(text, || self.has_read(text));
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.state.lock().over = true;
        self.reader.take().map(JoinHandle::join);
    }
}

fn read(socket: &UnixDatagram, state: &Mutex<State>) {
    loop {
        let (reads, over) = {
            let mut state = state.lock();
            state.refused.retain(|(since, _)| since.elapsed() < LATER);
            (state.reads, state.over)
        };
        if over {
            return;
        }
        if !reads {
            let_pass(Duration::from_millis(10));
            continue;
        }
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC);
        // The time is over.
        let Ok(received) = received else { continue };
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(came) = message {
                descriptors.extend(came);
            }
        }
        let message = String::from_utf8(bytes[..received.bytes].to_vec()).unwrap();
        let mut state = state.lock();
        state.take(&message, descriptors);
        state.messages.push(message);
    }
}

impl State {
    fn take(&mut self, message: &str, descriptors: Vec<OwnedFd>) {
        let value = |key: &str| message.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let name = value("FDNAME").unwrap_or("stored");
        if value("FDSTORE") == Some("1") {
            // Without this the manager drops a socket whose peer has left.
            assert_eq!(value("FDPOLL"), Some("0"), "{message}");
            for descriptor in descriptors {
                if self.stored.len() < self.limit {
                    self.stored.insert(0, (name.to_owned(), descriptor));
                } else {
                    self.refused.push((Instant::now(), descriptor));
                }
            }
        } else if value("FDSTOREREMOVE") == Some("1") {
            self.stored.retain(|(stored, _)| stored != name);
        } else if value("BARRIER") == Some("1") {
            assert_eq!(descriptors.len(), 1);
        }
    }
}
