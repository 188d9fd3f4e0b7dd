//! A session whose client was answered for the backend: a client of Postgres that wants TLS. Its SSLRequest was taken, so the backend
//! gets one of ours before the ClientHello.
//!
//! To the rest of the session this is the end of the dial: the attempt counts as connected once the backend has agreed. No byte of
//! the request and its answer counts. No warm connection is taken: a dead one looks like a backend that refuses.
//!
//! | state | what happens | held? | effect | reason |
//! |---|---|---|---|---|
//! | Requesting | the backend answers `S`, and nothing behind it | kept | Relaying | |
//! | Requesting | the backend answers `N`, an ErrorResponse, or anything else | – | reset both: its client expects TLS, and nothing is sent in clear text | `sniff_failed` |
//! | Requesting | the request can't be written, FIN or reset from the backend, or `connect_timeout` has passed since the dial | kept | as a failed dial: next address, else another backend | `connect_failed` |
//! | Requesting | anything else | kept | as in Dialing | |

use super::{CloseReason, Effect, Ending, Ledger, Next, Session, State};
use crate::base::Tick;
use crate::proto::sniff::{Failure, postgres::Reply};

impl Session {
    /// Does a backend get an SSLRequest first?
    pub(super) fn needs_request(&self) -> bool {
        self.first.as_ref().and_then(|first| first.sniffed.as_ref()).is_some_and(|sniffed| sniffed.needs_ssl_request())
    }

    pub(super) fn begin_request(&mut self) -> Next {
        let State::Dialing(dial) = &mut self.state else { return Next::Wait };
        dial.is_requesting = true;
        Next::Enter
    }

    /// The backend is connected, and gets the request behind its preamble.
    pub(super) fn request(&self) -> Effect<'_> {
        let State::Dialing(dial) = &self.state else { return Effect::Wait };
        Effect::Request { preamble: dial.preamble.map(|version| self.backend_preamble(version)) }
    }

    pub(super) fn replied(&mut self, reply: Reply, now: Tick, ledger: &mut dyn Ledger) -> Next {
        match &mut self.state {
            State::Dialing(dial) if dial.is_requesting => match reply {
                Reply::More => Next::Wait,
                Reply::Tls => {
                    // It left before the request.
                    dial.preamble = None;
                    self.dialed(now, ledger)
                }
                Reply::NoTls | Reply::Error | Reply::Invalid => {
                    self.first.get_or_insert_default().failure = Some(Failure::Backend(reply));
                    self.end(Ending::Reset, CloseReason::SniffFailed, now)
                }
            },
            _ => Next::Wait,
        }
    }
}
