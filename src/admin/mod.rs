//! The admin API: HTTP for operators, scripts, Prometheus and browsers, on threads of its own. The balancer waits for
//! none of them.
//!
//! | file          | what                                                              |
//! |---------------|-------------------------------------------------------------------|
//! | [`mod@api`]   | the JSON, shared with the command line's clients                  |
//! | [`routes`]    | the one table of calls: dispatch, 405 and OpenAPI come from it    |
//! | `status`, `metrics`, `process`, `page` | what the API shows, read from the newest snapshot |
//! | `connections` | the open connections, and orders to close some: the workers answer |
//! | `events`      | the last events, and the wait for the next one                     |
//! | `page/`       | the page's markup, style and scripts, embedded in one answer |
//! | [`changes`], [`register`], `alive` | what the API changes: a command to control, and its answer |
//! | `explain` | where a client would go now |
//! | `probe` | one probe of a backend now, with what was sent and received |
//! | `findings` | what an operator should know, from the status |
//! | [`figures`] | the columns of the status, for the page and the command line |
//! | `openapi`     | the description of the API, generated                             |
//! | `access`      | token, `Host` and `Origin` checks                                                      |
//! | [`target`]    | decodes paths and queries                                        |
//! | [`incoming`], [`http`] | requests and answers as bytes                           |
//! | [`server`], [`calls`] | sockets and threads, all bounded                         |
//!
//! # Invariants
//!
//! * A change of the configuration is a command to the control thread, like one of any other source. Questions about
//!   connections, and orders to close them, go straight to the workers.
//! * Of the locks that a worker takes, two kinds of calls take one, for a moment. `explain` locks a shard of sources and one of
//!   sticky clients. Questions and orders lock the place of a worker's orders.
//! * At most [`calls::CALLS_MAX`] calls run at once and [`AdminShare::queued`] wait for a thread. At most
//!   [`AdminShare::waiting`] callers wait for news, and none of them holds a thread. A body has at most
//!   [`incoming::BODY_MAX`] bytes, and a request must be whole within [`http::PATIENCE`].
//! * `/healthz` and `/readyz` are answered whatever other callers do.
//! * Without a token, only local callers reach the API.

mod access;
mod alive;
pub mod api;
pub mod calls;
pub mod changes;
mod connections;
mod events;
mod explain;
pub mod figures;
mod findings;
pub mod http;
pub mod incoming;
pub mod metrics;
mod openapi;
mod page;
mod probe;
mod process;
pub mod register;
pub mod routes;
pub mod server;
mod status;
pub mod target;

use crate::base::{Endpoint, Listen};
use crate::config::descriptors::AdminShare;
use crate::config::model::Global;
use crate::config::model::defaults::DEAD_PEER_TIMEOUT;
use crate::confine;
use crate::control::Remote;
use crate::handover::Upgrader;
use crate::handover::message::SocketOf;
use crate::inspect::Inspect;
use crate::net::Keepalive;
use crate::net::listen::{self, BoundFiles, Claimant, Listening};
use crate::pool::Published;
use crate::watchdog::Watched;
use access::Access;
use http::Response;
use incoming::Request;
pub use process::descriptors;
pub use server::Door;
use server::{Handler, Peer, Server};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// What calls read and change.
pub struct State {
    /// The snapshot and the model in force.
    pub published: Arc<Published>,
    /// Sends commands to control.
    pub remote: Remote,
    /// Answer questions about connections.
    pub workers: Arc<dyn Inspect + Send + Sync>,
    /// Hands over to a successor.
    pub upgrader: Arc<dyn Upgrader>,
    /// The probes that calls have asked for.
    pub probes: probe::Running,
}

/// Listens, but does not serve yet. Everything that an operator can get wrong is checked by now.
pub struct BoundAdmin {
    files: BoundFiles,
    listening: Vec<Listening>,
    endpoints: Vec<Endpoint>,
    access: Access,
}

/// The running API; dropping it stops it.
#[derive(Debug)]
pub struct Admin {
    /// The first field, since a file is removed before its socket closes.
    _files: BoundFiles,
    server: Server,
    endpoints: Vec<Endpoint>,
}

/// Binds the API's sockets and reads the token files. Fails if an address is not local and there is no token.
pub fn bind(to: &Listen, global: &Global) -> Result<BoundAdmin, String> {
    let access = Access::new(global.admin_token_file.as_deref(), global.admin_read_token_file.as_deref())?;
    let why = |error: io::Error| format!("{error}{}", confine::hint_to_binding(to, &error));
    let bound = listen::bind_private(to, &Keepalive::within(DEAD_PEER_TIMEOUT).into()).map_err(why)?;
    let (mut files, mut listening, mut endpoints) = (BoundFiles::default(), Vec::new(), Vec::new());
    for listen::ListeningSockets { endpoint, sockets } in bound {
        files.add(&endpoint);
        // The configuration is checked already, but a name may resolve to any address.
        if !access.has_token() && !access::is_local(&endpoint) {
            return Err(format!("{endpoint} can be reached from elsewhere, so it needs a token file"));
        }
        listening.extend(sockets);
        endpoints.push(endpoint);
    }
    Ok(BoundAdmin { files, listening, endpoints, access })
}

impl BoundAdmin {
    /// The addresses that the API listens on, with the ports that the kernel picked.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Copies of its listening sockets, for a successor. `asked` is the configured address.
    pub fn lend(&self, asked: Option<&Listen>) -> io::Result<Vec<(SocketOf, OwnedFd)>> {
        let claimant = asked.filter(|asked| asked.asks_for_any_port()).map(|_| Claimant::Admin);
        let own = self.endpoints.iter().zip(&self.listening).filter(|(_, socket)| !socket.is_inherited());
        own.map(|(endpoint, socket)| {
            Ok((SocketOf::own(endpoint, claimant.clone()), socket.as_fd().try_clone_to_owned()?))
        })
        .collect()
    }

    /// Starts to serve as many callers as the share grants.
    pub fn start(
        self,
        published: Arc<Published>,
        remote: Remote,
        workers: Arc<dyn Inspect + Send + Sync>,
        upgrader: Arc<dyn Upgrader>,
        share: AdminShare,
    ) -> io::Result<Admin> {
        let BoundAdmin { files, listening, endpoints, access } = self;
        let probes = probe::Running::default();
        let api = Api { state: State { published, remote, workers, upgrader, probes }, access };
        Ok(Admin { _files: files, server: Server::start(listening, Arc::new(api), share)?, endpoints })
    }
}

/// Answers the server's requests.
struct Api {
    state: State,
    access: Access,
}

impl Handler for Api {
    fn is_immediate(&self, request: &Request) -> bool {
        routes::is_immediate(&self.state, request)
    }

    fn waits(&self, request: &Request, peer: Peer) -> Option<Duration> {
        routes::waits(&self.state, &self.access, request, peer)
    }

    fn set_waker(&self, wake: Box<dyn Fn() + Send>) {
        self.state.published.events().set_waker(wake);
    }

    fn answer(&self, request: &Request, peer: Peer) -> Response {
        routes::answer(&self.state, &self.access, request, peer)
    }
}

impl Admin {
    /// The addresses that the API listens on, with the ports that the kernel picked.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The handle that keeps new callers out.
    pub fn door(&self) -> Door {
        self.server.door()
    }

    /// The heartbeat that the watchdog checks.
    pub fn watched(&self) -> Watched {
        self.server.watched()
    }
}
