//! The messages, and how they become packets.
//!
//! A message is a [`Message`] as JSON, and descriptors. On the channel it is one or more packets:
//!
//! ```text
//! packet:   more(1)  part
//! message:  part part …  =  length of the JSON (4, little endian)  JSON {descriptors, message}
//! ```
//!
//! `more` is 1 in all packets of a message but the last, where it is 0. The descriptors come with the first packet.

use super::channel::{Channel, DESCRIPTORS_MAX, MESSAGE_MAX};
use crate::base::Endpoint;
use crate::net::listen::{self, Claimant, FileId, Giver};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

/// The version of the messages. Processes of different versions do not hand over to each other.
pub const MAJOR: u32 = 1;

/// What a process that speaks another protocol would not send.
const MAGIC: &str = "tcplb";

/// The longest message: the sets of 100 000 backends, with what is known of each.
const LENGTH_MAX: usize = 128 << 20;

/// The successor's first message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Always `tcplb`.
    pub magic: String,
    /// Its [`MAJOR`].
    pub major: u32,
    /// Its release, for the log.
    pub version: String,
    /// Its limit on open descriptors.
    pub descriptors: u64,
    /// Whether it keeps the kernel's rules. An older release does not say.
    #[serde(default)]
    pub keeps_kernel: Option<bool>,
}

/// A listening socket that is handed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketOf {
    /// Where it is bound.
    pub at: At,
    /// Whether the service manager opened it.
    pub of_manager: bool,
    /// What has it in the configuration, if that asks for port 0: any port.
    #[serde(default)]
    pub claimant: Option<Claimant>,
    /// The file of a unix socket that tcplb bound.
    #[serde(default)]
    pub file: Option<FileId>,
}

/// An [`Endpoint`] in a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum At {
    /// An address and a port.
    Inet(SocketAddr),
    /// A socket file, or an abstract name behind `@`.
    Unix(PathBuf),
}

impl From<&Endpoint> for At {
    fn from(endpoint: &Endpoint) -> At {
        match endpoint {
            Endpoint::Inet(at) => At::Inet(*at),
            Endpoint::Unix(path) => At::Unix(path.to_path_buf()),
        }
    }
}

impl From<&At> for Endpoint {
    fn from(at: &At) -> Endpoint {
        match at {
            At::Inet(at) => Endpoint::Inet(*at),
            At::Unix(path) => Endpoint::Unix(path.as_path().into()),
        }
    }
}

/// What the two processes say. The module above has the order. `C` is a connection's record, `M` what was counted and learnt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message<C, M> {
    /// Step 1.
    Hello(Hello),
    /// Instead of any step: the sender gives up. After step 4 the predecessor sends it before it goes on.
    Refused {
        /// Why.
        why: String,
        /// The predecessor was asked to stop: then the successor ends, too.
        #[serde(default)]
        stopping: bool,
    },
    /// Step 2. The descriptor is a [`Life`](super::Life).
    Welcome {
        /// The version of the predecessor, for the log.
        version: String,
        /// What was changed at run time, as the state file has it.
        changes: String,
        /// How many listening sockets follow.
        sockets: usize,
        /// What was counted and learnt so far.
        memory: Box<M>,
    },
    /// Step 3. The descriptors are in the same order.
    Sockets(Vec<SocketOf>),
    /// Step 4.
    Running,
    /// Step 5: connections. Their descriptors are in the same order.
    Prepare(Vec<C>),
    /// Step 6.
    Ready {
        /// The connections that it can't take, by their place in the last Prepare, each with the reason.
        refused: Vec<(usize, String)>,
    },
    /// Step 7.
    Commit,
    /// Step 8.
    Resumed,
    /// Step 9: what was counted and learnt by now.
    Farewell(Box<M>),
    /// Step 10.
    Done,
    /// Step 11.
    Released {
        /// Whether the file is to be read again: the predecessor was asked to, once the successor had read it.
        reload: bool,
    },
}

/// A message that came, with its descriptors.
#[derive(Debug)]
pub struct Letter<T> {
    /// The message.
    pub message: T,
    /// The descriptors, in the order of the sender.
    pub descriptors: Vec<OwnedFd>,
    /// How many more were sent. The kernel has dropped them: the limit on open files is reached.
    pub missing: usize,
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    descriptors: usize,
    message: T,
}

/// Sends and receives messages.
#[derive(Debug)]
pub struct Post(Channel);

impl SocketOf {
    /// One that tcplb bound.
    pub fn own(endpoint: &Endpoint, claimant: Option<Claimant>) -> SocketOf {
        SocketOf { at: At::from(endpoint), of_manager: false, claimant, file: listen::file_of(endpoint) }
    }

    /// One of the service manager.
    pub fn of_manager(endpoint: &Endpoint) -> SocketOf {
        SocketOf { at: At::from(endpoint), of_manager: true, claimant: None, file: None }
    }

    /// Where the successor has it from.
    pub fn giver(&self) -> Giver {
        match self.of_manager {
            true => Giver::Manager { lent: true },
            false => Giver::Predecessor { claimant: self.claimant.clone(), file: self.file },
        }
    }
}

impl Hello {
    /// That of this process.
    pub fn of(descriptors: u64, keeps_kernel: bool) -> Hello {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Hello { magic: MAGIC.to_owned(), major: MAJOR, version, descriptors, keeps_kernel: Some(keeps_kernel) }
    }

    /// Why this process can't hand over to it; `None`: it can.
    pub fn mistake(&self) -> Option<String> {
        if self.magic != MAGIC {
            return Some("the other process is not tcplb".to_owned());
        }
        (self.major != MAJOR).then(|| {
            format!(
                "tcplb {} speaks version {} of the hand-over, and this process version {MAJOR}: restart tcplb instead",
                self.version, self.major
            )
        })
    }
}

impl Post {
    /// Over this channel.
    pub fn new(channel: Channel) -> Post {
        Post(channel)
    }

    /// Sends a message with descriptors.
    ///
    /// # Errors
    ///
    /// Those of [`Channel::send`].
    pub fn send<T: Serialize>(&self, message: &T, descriptors: &[BorrowedFd<'_>], until: Instant) -> io::Result<()> {
        let json = serde_json::to_vec(&Envelope { descriptors: descriptors.len(), message })?;
        let length = u32::try_from(json.len()).map_err(|_| too_long())?;
        let whole = [&length.to_le_bytes()[..], &json].concat();
        let mut parts = whole.chunks(MESSAGE_MAX - 1).peekable();
        let mut descriptors = Some(descriptors);
        while let Some(part) = parts.next() {
            let more = u8::from(parts.peek().is_some());
            let packet = [&[more][..], part].concat();
            self.0.send(&packet, descriptors.take().unwrap_or_default(), until)?;
        }
        Ok(())
    }

    /// Sends a short message at once, although the other process may have read nothing for long: the last one.
    ///
    /// # Errors
    ///
    /// Those of [`Channel::send`].
    pub fn send_last<T: Serialize>(&self, message: &T) -> io::Result<()> {
        match self.send(message, &[], Instant::now()) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                self.0.make_room()?;
                self.send(message, &[], Instant::now())
            }
            outcome => outcome,
        }
    }

    /// Lets the other process send nothing more. What it has sent can still be received.
    pub fn end_receiving(&self) -> io::Result<()> {
        self.0.end_receiving()
    }

    /// Receives a message; `None` once the other process has closed its end.
    ///
    /// # Errors
    ///
    /// `TimedOut` after `until`; `InvalidData` if it can't be read.
    pub fn receive<T: DeserializeOwned>(&self, until: Instant) -> io::Result<Option<Letter<T>>> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let (mut whole, mut descriptors) = (Vec::new(), Vec::new());
        loop {
            let Some(parcel) = self.0.receive(until)? else { return Ok(None) };
            let Some((more, part)) = parcel.bytes.split_first() else { return Err(wrong("an empty message")) };
            whole.extend_from_slice(part);
            descriptors.extend(parcel.descriptors);
            if whole.len() > LENGTH_MAX || descriptors.len() > DESCRIPTORS_MAX {
                return Err(too_long());
            }
            if *more == 0 {
                break;
            }
        }
        let (length, rest) = whole.split_first_chunk().ok_or_else(|| wrong("a message without a length"))?;
        let length = u32::from_le_bytes(*length) as usize;
        let (json, behind) = rest.split_at_checked(length).ok_or_else(|| wrong("a message that is cut off"))?;
        if !behind.is_empty() {
            return Err(wrong("a message with bytes behind it"));
        }
        let envelope: Envelope<T> = serde_json::from_slice(json)?;
        let missing = envelope.descriptors.checked_sub(descriptors.len());
        let missing = missing.ok_or_else(|| wrong("a message with more descriptors than it says"))?;
        Ok(Some(Letter { message: envelope.message, descriptors, missing }))
    }
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a message is too long")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::thread;
    use std::time::Duration;

    type Text = Message<String, String>;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn a_message_of_several_packets_arrives_whole() {
        let (one, other) = Channel::pair().unwrap();
        let (one, other) = (Post::new(one), Post::new(other));
        let changes = "x".repeat(3 * MESSAGE_MAX);
        let memory = Box::new(String::new());
        let welcome = Text::Welcome { version: "1".to_owned(), changes, sockets: 2, memory };
        let (reader, _writer) = io::pipe().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| one.send(&welcome, &[reader.as_fd(); 2], soon()).unwrap());
            let letter = other.receive::<Text>(soon()).unwrap().unwrap();
            assert!(letter.message == welcome && letter.descriptors.len() == 2);
        });
    }

    #[test]
    fn missing_descriptors_are_counted() {
        let (one, other) = Channel::pair().unwrap();
        let post = Post::new(other);
        let (reader, _writer) = io::pipe().unwrap();
        let send = |said: usize, sent: usize| {
            let json = format!(r#"{{"descriptors":{said},"message":"Done"}}"#);
            let length = u32::try_from(json.len()).unwrap().to_le_bytes();
            one.send(&[&[0][..], &length, json.as_bytes()].concat(), &vec![reader.as_fd(); sent], soon()).unwrap();
            post.receive::<Text>(soon())
        };
        for (said, sent) in [(0, 0), (1, 0), (3, 1), (2, 2)] {
            let letter = send(said, sent).unwrap().unwrap();
            assert_eq!((letter.descriptors.len(), letter.missing), (sent, said - sent));
        }
        assert!(send(1, 2).unwrap_err().to_string().contains("more descriptors than it says"));
    }

    #[test]
    fn cut_messages_are_errors() {
        let (one, other) = Channel::pair().unwrap();
        let post = Post::new(other);
        let receive = |packet: &[u8]| {
            one.send(packet, &[], soon()).unwrap();
            post.receive::<Text>(soon()).unwrap_err().to_string()
        };
        let json = br#"{"descriptors":1,"message":"Done"}"#;
        let length = u32::try_from(json.len()).unwrap().to_le_bytes();
        let whole = [&[0][..], &length, json].concat();
        assert!(receive(&whole[..whole.len() - 1]).contains("cut off"));
        assert!(receive(&[0, 1, 2]).contains("without a length"));
        assert!(receive(&[&whole[..], b"x"].concat()).contains("bytes behind it"));
        let other = br#"{"descriptors":0,"message":"Dune"}"#;
        assert!(receive(&[&[0][..], &length, other].concat()).contains("Dune"));
    }

    #[test]
    fn the_last_message_finds_room_behind_any_others() {
        for length in [0, 1_000, MESSAGE_MAX / 2, MESSAGE_MAX - 200] {
            let (one, other) = Channel::pair().unwrap();
            let (one, other) = (Post::new(one), Post::new(other));
            let other_one = Text::Prepare(vec!["x".repeat(length)]);
            let full = loop {
                if let Err(error) = one.send(&other_one, &[], Instant::now()) {
                    break error;
                }
            };
            assert_eq!(full.kind(), io::ErrorKind::TimedOut);
            let last = Text::Refused { why: "no".to_owned(), stopping: true };
            one.send_last(&last).unwrap();
            other.end_receiving().unwrap();
            assert_eq!(one.send_last(&last).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
            let messages = std::iter::from_fn(|| other.receive::<Text>(Instant::now()).unwrap());
            assert!(messages.last().unwrap().message == last, "{length}");
        }
    }

    #[test]
    fn a_refusal_of_a_release_that_does_not_say_why_it_ends_is_no_stop() {
        let refused: Text = serde_json::from_str(r#"{"Refused":{"why":"no"}}"#).unwrap();
        assert!(refused == Text::Refused { why: "no".to_owned(), stopping: false });
    }

    #[test]
    fn unknown_fields_are_ignored_and_another_version_is_refused() {
        let text = r#"{"magic":"tcplb","major":1,"version":"9","descriptors":10,"workers":2,"mood":"good"}"#;
        let hello: Hello = serde_json::from_str(text).unwrap();
        assert_eq!(hello.mistake(), None);
        let other = Hello { major: MAJOR + 1, ..hello.clone() };
        assert!(other.mistake().unwrap().contains("version 2"));
        let stranger = Hello { magic: "nginx".to_owned(), ..hello };
        assert!(stranger.mistake().unwrap().contains("not tcplb"));
    }
}
