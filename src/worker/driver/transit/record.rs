//! The record of a connection in transit, as the next process reads it: JSON, with times as ages.
//!
//! A field that is not known is skipped, and a field that is missing has its default. So the processes of two releases
//! understand each other. `tests/data/records` has the records of each release.

use super::super::Connection;
use super::super::sockets::SavedSocket;
use crate::base::Tick;
use crate::proto::proxy::HEADER_MAX;
use crate::proto::sniff::Negotiated;
use crate::relay::{CHUNK, RelayBuffer};
use crate::session::saved::{Saved, SavedRelay};
use crate::session::{ConnectionId, Left, Stage};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What the next process needs to know of a connection, besides its descriptors. Fields that it does not know are skipped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its number, which stays.
    pub id: ConnectionId,
    /// Its session.
    pub session: Saved,
    /// The client's socket.
    pub client: SavedSocket,
    /// The backend's socket, if it relays.
    #[serde(default)]
    pub backend: Option<SavedSocket>,
    /// From the client to the backend.
    #[serde(default)]
    pub up: Held,
    /// From the backend to the client.
    #[serde(default)]
    pub down: Held,
    /// How the client left, as far as events said.
    #[serde(default)]
    pub left: Option<Left>,
    /// What a client of Postgres has been answered, while its first bytes are looked at.
    #[serde(default)]
    pub negotiated: Negotiated,
    /// How long until keepalive is turned on for the backend's socket, if it is not on.
    #[serde(default)]
    pub keep_alive: Option<Duration>,
    /// How long until the peers' acknowledgements are checked next, if something was sent to them.
    #[serde(default)]
    pub look: Option<Duration>,
    /// How long ago it was taken out. Not written: the reader knows.
    #[serde(skip)]
    pub away: Duration,
}

/// The held bytes of one direction: in a buffer, or in a pipe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Held {
    /// Those in a buffer, in base64 where it is written as text.
    #[serde(with = "base64_text", skip_serializing_if = "Vec::is_empty")]
    pub bytes: Vec<u8>,
    /// How many the pipe holds.
    pub in_pipe: usize,
}

impl Held {
    fn of<P>(buffer: &RelayBuffer<P>) -> Held {
        Held { bytes: buffer.held().to_vec(), in_pipe: buffer.pipe().map_or(0, |(_, bytes)| bytes) }
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.in_pipe == 0
    }
}

impl Record {
    pub(super) fn of<S, P>(connection: &Connection<S, P>, now: Tick) -> Option<Record> {
        let Connection { session, sockets, keep_alive_at, look_at, .. } = connection;
        let (id, session) = (session.live()?.id, session.save(now)?);
        let relayed = sockets.backend.as_ref().filter(|_| session.stage == Stage::Relaying);
        Some(Record {
            id,
            client: sockets.client.save(now),
            backend: relayed.map(|backend| backend.save(now)),
            session,
            up: Held::of(&sockets.up),
            down: Held::of(&sockets.down),
            left: sockets.left,
            negotiated: sockets.look.as_ref().map(|look| look.sniffer.negotiated()).unwrap_or_default(),
            keep_alive: keep_alive_at.get().map(|at| at - now),
            look: look_at.get().map(|at| at - now),
            away: Duration::ZERO,
        })
    }

    /// Whether its parts fit together. Fails with what is wrong.
    pub(super) fn check(&self) -> Result<(), String> {
        let Record { id, session, backend, up, down, .. } = self;
        let relays = session.stage == Stage::Relaying;
        let most = CHUNK + HEADER_MAX;
        let lacks = |relay: &SavedRelay| relay.up.held && up.is_empty() || relay.down.held && down.is_empty();
        let wrong = match &session.relay {
            _ if !id.is_exact() => "its number is not below 2^53",
            _ if session.stage == Stage::Closed => "it is closed",
            Some(_) if !relays => "it has a backend and does not relay",
            None if relays => "it relays without a backend",
            None if session.stage == Stage::Sniffing && session.sniffing.is_none() => "the time of its wait is missing",
            _ if backend.is_some() != relays => "the state of its backend's socket does not fit its stage",
            Some(relay) if lacks(relay) => "bytes that it holds are missing",
            None if !down.is_empty() || up.in_pipe > 0 => "it holds bytes from a backend that it does not have",
            _ if up.bytes.len() > most || down.bytes.len() > most => "it holds more bytes than a buffer",
            _ if [up, down].iter().any(|held| held.in_pipe > 0 && !held.bytes.is_empty()) => {
                "one direction holds bytes in a buffer and in a pipe"
            }
            _ => return Ok(()),
        };
        Err(wrong.to_owned())
    }
}

mod base64_text {
    //! Bytes as base64.

    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64_STANDARD.encode(bytes))
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<u8>, D::Error> {
        BASE64_STANDARD.decode(String::deserialize(from)?).map_err(D::Error::custom)
    }
}
