//! The composition root: spawns the threads and connects those that must not know each other.
//!
//! It binds everything before it spawns a thread, so a taken port ends the start with nothing half-done.

use crate::access_log::{AccessLog, Links, Reopener, Target};
use crate::admin::{self, Admin};
use crate::admission::ConnectionLimit;
use crate::base::{Endpoint, Size};
use crate::clock;
use crate::config::descriptors::{self, AdminShare};
use crate::config::model::{LogTo, Model, Names};
use crate::confine::Confinement;
use crate::control::{self, ConfigState, Control, DataPlane, Lookups, NewSockets, Outcome, Parts};
use crate::logger;
use crate::net::listen::{self, Listening};
use crate::net::{self, TcpTuning};
use crate::pool::{BackendId, Published, Snapshot};
use crate::prober::{self, Prober};
use crate::session::CloseReason;
use crate::systemd;
use crate::telemetry::EndCounts;
use crate::watchdog::{self, Watchdog, Watched};
use crate::worker::orders::{Adopt, Orders};
use crate::worker::{self, ListenSocket, Peer, WorkerContext};
use crossbeam_channel::{Receiver, bounded, never, unbounded};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub use crate::control::{Changes, Loader, Refused, ReloadError, Remote};

/// How long the start waits for all names together, if it can go on without them.
const NAMES_PATIENCE: Duration = Duration::from_secs(2);

/// A running balancer.
pub struct Running {
    listeners: Vec<ListenerAddress>,
    published: Arc<Published>,
    admin: Option<Admin>,
    control: Control,
    prober: Prober,
    workers: Vec<JoinHandle<()>>,
    log: Option<AccessLog>,
    watchdog: Watchdog,
}

/// A listener's bound address.
#[derive(Clone, Debug)]
pub struct ListenerAddress {
    /// The listener's name.
    pub name: String,
    /// The address that it listens on, with the real port.
    pub endpoint: Endpoint,
}

/// Why the start failed: the step, the address, the cause.
#[derive(Debug)]
pub struct StartError(String);

impl fmt::Display for StartError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

/// Starts a balancer whose configuration is not from a file. It serves when this returns.
pub fn start(model: Model) -> Result<Running, StartError> {
    start_with(model, None)
}

/// Starts a balancer. `loader` reads the file of `model` again. It serves when this returns.
pub fn start_with(model: Model, loader: Option<Loader>) -> Result<Running, StartError> {
    let running = begin(model, loader, None, || Ok(never()))?;
    running.ok_or_else(|| StartError("stopped before it served".to_owned()))
}

/// As [`start_with`]. Once everything is bound, the process gives up the privileges that `confinement` names, for this
/// thread and all later ones. Then `listen` returns the channel of stops. `None`: a stop came while names were looked
/// up.
pub fn start_confined(
    model: Model,
    loader: Option<Loader>,
    confinement: Confinement,
    listen: impl FnOnce() -> io::Result<Receiver<()>>,
) -> Result<Option<Running>, StartError> {
    begin(model, loader, Some(confinement), listen)
}

fn begin(
    model: Model,
    loader: Option<Loader>,
    confinement: Option<Confinement>,
    listen: impl FnOnce() -> io::Result<Receiver<()>>,
) -> Result<Option<Running>, StartError> {
    let descriptors = raise_descriptor_limit();
    let workers = model.global.workers;
    let mut beginning = ConfigState::bind_first(model, descriptors).map_err(StartError)?;
    let admin = bind_admin(beginning.running())?;
    beginning.serve_admin_at(admin.as_ref().map_or(&[], |admin| admin.endpoints()));
    let model = beginning.running().clone();
    let bound =
        |(name, endpoint): (&str, &Endpoint)| ListenerAddress { name: name.to_owned(), endpoint: endpoint.clone() };
    let listeners: Vec<ListenerAddress> = beginning.bound().map(bound).collect();
    let of_admin = admin.iter().flat_map(|admin| admin.endpoints());
    let sockets: Vec<Endpoint> = listeners.iter().map(|bound| &bound.endpoint).chain(of_admin).cloned().collect();
    let give_up = |why| {
        listen::remove_files(&sockets);
        StartError(why)
    };
    let spawn_error = |error: io::Error| StartError(format!("can't start a thread: {error}"));
    // A user that may create names in the log's directory could make root follow a link. So links are followed only if
    // the process keeps its user.
    let changes_user = confinement.as_ref().is_some_and(Confinement::changes_user);
    let links = if changes_user { Links::Refuse } else { Links::Follow };
    let open = |to: &LogTo| Target::open(to, links);
    let log = model.global.access_log.as_ref().map(open).transpose().map_err(give_up)?;
    if let Some(confinement) = confinement {
        let own: Vec<Endpoint> = sockets.iter().filter(|socket| !listen::is_inherited(socket)).cloned().collect();
        // Threads inherit their privileges, so none may run yet.
        confinement.carry_out(&own, log.as_ref().and_then(Target::file)).map_err(give_up)?;
    }
    logger::start().map_err(spawn_error)?;
    let stops = listen().map_err(|error| give_up(format!("can't handle signals: {error}")))?;

    model.global.socket_buffer.into_iter().for_each(warn_of_less);
    // Resolver threads may outlast the start and keep the privileges that they start with, so they start after
    // confinement.
    let mut lookups = Lookups::default();
    let end = (model.global.names == Names::Later).then(|| Instant::now() + NAMES_PATIENCE);
    let Some(found) = lookups.wait_for(control::names(&model), end, &stops) else {
        log::info!("stopped before it served: names were still looked up");
        listen::remove_files(&sockets);
        return Ok(None);
    };
    let (config_state, opened) = beginning.build(&found).map_err(give_up)?;
    let snapshot = config_state.snapshot().clone();
    let share = config_state.share();
    let connection_limit = ConnectionLimit::new(share.connections);
    log::info!(
        "serves at most {} clients at once: of {descriptors} open files allowed, {} are reserved for other uses",
        share.connections,
        share.reserved
    );
    descriptors::listeners_beyond(share, &model).iter().for_each(|warning| log::warn!("{warning}"));
    let mut prepared = Vec::new();
    let mut peers = Vec::new();
    for _ in 0..workers {
        let (ready, peer) = worker::prepare().map_err(spawn_error)?;
        prepared.push(ready);
        peers.push(peer);
    }
    let data_plane = Workers(peers.into());
    let fallen = data_plane.clone();
    // Resets go straight to the workers, since control may be waiting for the prober.
    let on_down = Box::new(move |backend| fallen.reset(&[backend]));
    let prober = prober::spawn(snapshot.clone(), on_down).map_err(spawn_error)?;
    let published = Arc::new(Published::new(snapshot.clone(), model.clone(), connection_limit.clone(), clock::now()));
    let start = |target| AccessLog::start(target, model.global.log_format, published.log().clone());
    let (log, log_handle) = log.map(start).transpose().map_err(spawn_error)?.unzip();
    let shared = WorkerContext {
        snapshot,
        connection_limit,
        peers: data_plane.0.clone(),
        engine: model.global.relay,
        pipes: share.pipes,
        tuning: TcpTuning::of(&model.global),
        prober: prober.mailbox(),
        log: log_handle,
    };
    // Bounded by the number of workers: each sends one message.
    let (ended, endings) = unbounded();
    let control = Control::spawn(Parts {
        config_state,
        data_plane: data_plane.clone(),
        prober: prober.mailbox(),
        published: published.clone(),
        loader,
        lookups,
        ended: endings,
    })
    .map_err(spawn_error)?;
    let mut threads = Vec::new();
    for (me, (prepared, sockets)) in prepared.into_iter().zip(by_worker(opened, workers)).enumerate() {
        let (shared, ended) = (shared.clone(), ended.clone());
        let work = move || {
            let outcome = worker::run(prepared, me, sockets, shared);
            let _ = ended.send((me, outcome));
        };
        threads.push(thread::Builder::new().name(format!("worker-{me}")).spawn(work).map_err(spawn_error)?);
    }
    let serve =
        |admin: admin::BoundAdmin| admin.start(published.clone(), control.remote(), AdminShare::of(descriptors));
    let admin = admin.map(serve).transpose().map_err(spawn_error)?;
    let mut watched = vec![control.watched(), prober.watched()];
    watched.extend((0..workers).map(|number| data_plane.watched(number)));
    watched.extend(admin.as_ref().map(Admin::watched));
    let asked = systemd::watchdog();
    let alive = Box::new(move || {
        if asked.is_some() {
            systemd::alive();
        }
    });
    let watchdog = Watchdog::start(watched, asked.unwrap_or(watchdog::BOUND), published.clone(), alive);
    let watchdog = watchdog.map_err(spawn_error)?;
    Ok(Some(Running { listeners, published, admin, control, prober, workers: threads, log, watchdog }))
}

/// Warns where the kernel grants less than `socket_buffer` asks for, which it does not report. The message names the
/// remedy.
fn warn_of_less(asked: Size) {
    let Ok(net::Granted { receive, send }) = net::granted(asked) else { return };
    for (granted, what, limit) in [(receive, "receive", "net.core.rmem_max"), (send, "send", "net.core.wmem_max")] {
        if granted < asked {
            log::warn!(
                "socket_buffer: the kernel grants {what} buffers of {granted} instead of {asked}: raise {limit}"
            );
        }
    }
}

fn bind_admin(model: &Model) -> Result<Option<admin::BoundAdmin>, StartError> {
    let Model { global, .. } = model;
    let Some(to) = &global.admin else { return Ok(None) };
    let bound = admin::bind(to, global.admin_token_file.as_deref());
    bound.map(Some).map_err(|why| StartError(format!("can't serve the admin API on {to}: {why}")))
}

/// Distributes the sockets. A unix socket is a single one, for the first worker.
fn by_worker(opened: Vec<NewSockets>, workers: usize) -> Vec<Vec<ListenSocket>> {
    let mut shares: Vec<Vec<ListenSocket>> = (0..workers).map(|_| Vec::new()).collect();
    for NewSockets { address, listener, sockets } in opened {
        let own = |socket: Listening| ListenSocket::new(address, listener.clone(), socket);
        shares.iter_mut().zip(sockets).for_each(|(share, socket)| share.push(own(socket)));
    }
    shares
}

/// Sends control's orders to the workers. No call waits for a worker.
#[derive(Clone)]
struct Workers(Arc<[Peer]>);

impl Workers {
    fn order(&self, order: impl Fn() -> Orders) {
        self.0.iter().for_each(|peer| peer.orders.put(order()));
    }

    /// The heartbeat of a worker, for the watchdog.
    fn watched(&self, number: usize) -> Watched {
        let (peers, heartbeat) = (self.0.clone(), self.0[number].heartbeat.clone());
        Watched { name: format!("worker-{number}"), heartbeat, wake: Box::new(move || peers[number].mailbox.wake()) }
    }
}

impl DataPlane for Workers {
    fn adopt(&self, snapshot: &Arc<Snapshot>, opened: Vec<NewSockets>) -> Receiver<()> {
        // Nothing is ever sent: the channel disconnects when the last worker drops its end.
        let (done, all_done) = bounded(0);
        for (peer, sockets) in self.0.iter().zip(by_worker(opened, self.0.len())) {
            let adopt = Adopt { snapshot: snapshot.clone(), sockets, done: done.clone() };
            peer.orders.put(Orders { adopt: Some(adopt), ..Orders::default() });
        }
        all_done
    }

    fn reset(&self, backends: &[BackendId]) {
        self.order(|| Orders::reset(backends));
    }

    fn drain(&self) {
        self.order(|| Orders { drain: true, ..Orders::default() });
    }

    fn stop(&self) {
        self.order(|| Orders { stop: Some(CloseReason::Shutdown), ..Orders::default() });
    }
}

impl Running {
    /// The addresses at the start, in the order of the configuration.
    pub fn listeners(&self) -> &[ListenerAddress] {
        &self.listeners
    }

    /// The addresses of the admin API, with the real ports; empty without an admin API.
    pub fn admin(&self) -> &[Endpoint] {
        self.admin.as_ref().map_or(&[], Admin::endpoints)
    }

    /// The current pools and backends.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.published.snapshot()
    }

    /// The state that any thread may read.
    pub fn published(&self) -> Arc<Published> {
        self.published.clone()
    }

    /// The current limit on connected clients.
    pub fn max_connections(&self) -> usize {
        self.published.connection_limit().limit()
    }

    /// The handle that changes and stops it.
    pub fn remote(&self) -> Remote {
        self.control.remote()
    }

    /// The handle that reopens the access log, if it is a file.
    pub fn log_file(&self) -> Option<Reopener> {
        self.log.as_ref().and_then(AccessLog::reopener)
    }

    /// Waits for the end. Fails with the error of the thread that failed.
    pub fn wait(self) -> Result<(), String> {
        let Outcome { counts, stuck } = self.control.wait();
        drop(self.watchdog);
        for (number, worker) in self.workers.into_iter().enumerate() {
            if !stuck.contains(&number) {
                let _ = worker.join();
            }
        }
        self.log.into_iter().for_each(AccessLog::finish);
        self.prober.stop();
        drop(self.admin);
        let snapshot = self.published.snapshot();
        let addresses = snapshot.listeners.iter().flat_map(|listener| &listener.addresses);
        listen::remove_files(addresses.map(|address| &address.endpoint));
        let EndCounts { finished, reset } = counts?;
        let plural = if finished == 1 { "" } else { "s" };
        log::info!("stopped: {finished} connection{plural} finished, {reset} reset");
        Ok(())
    }
}

/// Raises the soft limit on open files to the hard one, and returns the limit in force.
fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum && setrlimit(Resource::Nofile, wanted).is_ok() {
        return limit.maximum.unwrap_or(u64::MAX);
    }
    limit.current.unwrap_or(u64::MAX)
}
