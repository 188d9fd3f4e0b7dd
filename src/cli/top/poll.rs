//! The thread that asks the admin API once a second, and at once when a screen wants something else.
//!
//! Each call has its own time limit. A tcplb that does not answer costs this thread time, never the main one.

use super::state::{Answer, Input, Query, Want};
use crate::admin::api::{Events, Status};
use crate::admin::target;
use crate::cli::remote::client::Client;
use crate::cli::remote::{Trouble, get, read};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde::de::DeserializeOwned;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// The time limit of a call. The API itself waits three seconds for a worker that does not respond.
pub const CALL: Duration = Duration::from_secs(10);

/// From one round of calls to the next.
const EVERY: Duration = Duration::from_secs(1);
/// The least time between two rounds, where a round takes long.
const REST: Duration = Duration::from_millis(250);

/// The most connections that a screen asks for.
pub const CONNECTIONS: usize = 500;

/// The running thread, as the main thread sees it. The thread ends when this is dropped.
pub struct Poll {
    wants: Sender<Want>,
    unread: Receiver<Want>,
    last: Want,
}

impl Poll {
    /// Starts the thread; its answers are inputs.
    pub fn start(client: Client, inputs: Sender<Input>) -> io::Result<Poll> {
        let (wants, arriving) = bounded(1);
        let unread = arriving.clone();
        thread::Builder::new().name("poll".to_owned()).spawn(move || {
            Asking { client, inputs, arriving, want: Want::default(), since: 0, started: String::new() }.run();
        })?;
        Ok(Poll { wants, unread, last: Want::default() })
    }

    /// Notes what the screen wants. A wish that the thread has not read is replaced.
    pub fn want(&mut self, want: Want) {
        if want == self.last {
            return;
        }
        self.last = want.clone();
        let _ = self.unread.try_recv();
        // Only this thread sends, so there is room now; without a receiver there is nothing to do.
        let _ = self.wants.try_send(want);
    }
}

/// The status, from a call of the caller's own.
pub fn first(client: &Client) -> Result<Status, Trouble> {
    read(&get(client, "GET", "/v1/status", None)?)
}

struct Asking {
    client: Client,
    inputs: Sender<Input>,
    arriving: Receiver<Want>,
    want: Want,
    /// The number of the last event.
    since: u64,
    /// When the process started that has this event.
    started: String,
}

impl Asking {
    fn run(mut self) {
        loop {
            let begun = Instant::now();
            if !self.want.paused && self.round().is_none() {
                return;
            }
            let rest = EVERY.saturating_sub(begun.elapsed()).max(REST);
            match self.arriving.recv_timeout(rest) {
                Ok(want) => self.want = want,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// One round of calls; `None` once the main thread is gone.
    fn round(&mut self) -> Option<()> {
        // What the user waits for comes first.
        if let Some(query) = self.want.query.clone() {
            let path = path(&query);
            self.send(match query {
                Query::Connections { .. } => Answer::Connections(query, self.ask(&path)),
                Query::Explain { .. } => Answer::Explained(query, self.ask(&path)),
            })?;
        }
        match first(&self.client) {
            Ok(status) => self.send(Answer::Status(Box::new(status)))?,
            // There is no use in asking for events.
            Err(why) => return self.send(Answer::Trouble(why.why())),
        }
        let mut events = self.events();
        if let Ok(Events { started, .. }) = &events
            && self.started != *started
        {
            // Another process answers; its events have numbers of their own.
            self.started.clone_from(started);
            if std::mem::take(&mut self.since) > 0 {
                events = self.events();
            }
        }
        if let Ok(events) = &events {
            self.since = events.next;
        }
        self.send(Answer::Events(events))
    }

    fn events(&self) -> Result<Events, String> {
        self.ask(&format!("/v1/events?since={}", self.since))
    }

    fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<T, String> {
        get(&self.client, "GET", path, None).and_then(|body| read(&body)).map_err(Trouble::why)
    }

    fn send(&self, answer: Answer) -> Option<()> {
        self.inputs.send(Input::Answer(answer)).ok()
    }
}

fn path(query: &Query) -> String {
    let (of, client, sort) = match query {
        Query::Connections { of, client, sort } => (of, client, sort),
        Query::Explain { client, listener, protocol, sni } => {
            let of_first_bytes = [("protocol", protocol.as_deref()), ("sni", sni.as_deref())];
            let parameters =
                [("client", Some(&**client)), ("listener", Some(&**listener))].into_iter().chain(of_first_bytes);
            return target::query("/v1/explain", parameters);
        }
    };
    let limit = CONNECTIONS.to_string();
    let (pool, backend) = of.as_ref().map(|(pool, backend)| (pool.as_str(), backend.as_str())).unzip();
    let chosen = [("pool", pool), ("backend", backend), ("client", client.as_deref())];
    let parameters = [("sort", Some(*sort)), ("limit", Some(&*limit))].into_iter().chain(chosen);
    target::query("/v1/connections", parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_in_a_path() {
        let of = Some(("a&b".to_owned(), "web 1".to_owned()));
        let path = path(&Query::Connections { of, client: Some("10.0.0.0/8".to_owned()), sort: "idle" });
        assert_eq!(path, "/v1/connections?sort=idle&limit=500&pool=a%26b&backend=web%201&client=10.0.0.0%2F8");
        let sni = Some("db.example.com".to_owned());
        let (client, listener, protocol) = ("[::1]:7".to_owned(), "a b".to_owned(), Some("postgres".to_owned()));
        let explain = super::path(&Query::Explain { client, listener, protocol, sni });
        assert_eq!(explain, "/v1/explain?client=%5B::1%5D:7&listener=a%20b&protocol=postgres&sni=db.example.com");
    }
}
