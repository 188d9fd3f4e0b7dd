//! The phases of a start. Each is a type whose method takes it and returns the next one.
//!
//! | phase | what holds | ends with |
//! |---|---|---|
//! | [`Bound`] | every address is bound, and no thread runs | `confine`: the privileges are given up |
//! | [`Confined`] | threads may start; no listener accepts | `resolve`: the backends have their addresses |
//! | [`Ready`] | the first snapshot exists | `run`: all threads run |
//! | [`Running`] | clients are served | |
//!
//! A thread inherits the privileges of the one that starts it. So no thread can start from [`Bound`]. A phase that is
//! dropped removes its socket files: `BoundState`, `BoundAdmin`, [`Pulls`] and [`Ready`] each hold a
//! [`BoundFiles`](crate::net::listen::BoundFiles).

use super::kept::Kept;
use super::pulls::Pulls;
use super::takeover::{Inheritance, Predecessor};
use super::upgrade::{self, Upgrades};
use super::workers::{self, WorkerThreads};
use super::{ListenerAddress, Running, StartError};
use crate::access_log::{AccessLog, LineFormat, Links, Target};
use crate::admin::{self, Admin, BoundAdmin};
use crate::admission::ConnectionLimit;
use crate::base::{Endpoint, Size};
use crate::clock;
use crate::config::descriptors::{self, AdminShare};
use crate::config::model::{LogTo, Model, Names};
use crate::config::runtime::RuntimeChanges;
use crate::confine::Confinement;
use crate::control::{self, BoundState, ConfigState, Control, DataPlane, FirstState, Loader, Lookups, Parts};
use crate::events::{By, Event, Kind};
use crate::handover::{Life, Link};
use crate::kernel::engine::{self, Engine};
use crate::kernel::helper::Helper;
use crate::launcher::Launcher;
use crate::logger;
use crate::net::listen;
use crate::net::{self, TcpTuning};
use crate::pool::{Published, Snapshot};
use crate::prober::{self, HealthEffect};
use crate::state_file::{self, StateFile};
use crate::systemd;
use crate::warm;
use crate::watchdog::{self, Watchdog};
use crate::worker::WorkerContext;
use crossbeam_channel::Receiver;
use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

/// How long the start waits for all names together, if it can go on without them.
const NAMES_PATIENCE: Duration = Duration::from_secs(2);

/// Every address is bound. No thread runs, and the process has all its privileges.
pub struct Bound {
    state: BoundState,
    admin: Option<BoundAdmin>,
    /// The socket of `take_over`.
    pulls: Option<Pulls>,
    /// The limit on open file descriptors.
    descriptors: u64,
    /// What the predecessor has given, if there is one.
    inheritance: Option<Inheritance>,
    /// What changes the kernel's rules.
    kernel: Option<Helper>,
}

/// The process has given up its privileges. Threads may start: they inherit what is left.
pub struct Confined {
    bound: Bound,
    log: Option<OpenedLog>,
    stops: Receiver<()>,
}

/// The access log before the sandbox: what its thread writes to, and how.
struct OpenedLog {
    target: Target,
    format: LineFormat,
}

/// Everything is known that the threads start with.
pub struct Ready {
    first: FirstState,
    admin: Option<BoundAdmin>,
    pulls: Option<Pulls>,
    descriptors: u64,
    inheritance: Option<Inheritance>,
    kernel: Option<Helper>,
    log: Option<OpenedLog>,
    lookups: Lookups,
}

impl Bound {
    /// Binds the model's listeners and its admin API, or takes their sockets over from `predecessor`.
    pub fn bind(model: Model, predecessor: Option<Link>, kernel: Option<Helper>) -> Result<Bound, StartError> {
        let descriptors = raise_descriptor_limit();
        refuse_activation(&model)?;
        // What another start could not read must not be lost.
        let inheritance = predecessor.map(|link| Predecessor::new(link).ask(descriptors, kernel.is_some()));
        let inheritance = inheritance.transpose().map_err(StartError)?;
        refuse_activation(&model)?;
        let restored = match (&inheritance, &model.global.state_file) {
            // The predecessor knows more than the file.
            (Some(inheritance), _) => inheritance.changes.clone(),
            (None, Some(path)) => state_file::read(path).map_err(StartError)?,
            (None, None) => RuntimeChanges::default(),
        };
        restored.dropped(&model).iter().for_each(|line| log::warn!("state_file: {line}"));
        let state = ConfigState::bind_first(model, &restored, descriptors).map_err(StartError)?;
        let admin = bind_admin(state.running())?;
        let pulls = state.running().global.take_over.as_deref().map(Pulls::bind).transpose().map_err(StartError)?;
        let mut bound = Bound { state, admin, pulls, descriptors, inheritance, kernel };
        if bound.kernel.is_some() {
            bound.state.allow_kernel();
        } else if let Some(listener) = bound.state.running().kernel_listeners().next() {
            let name = &listener.name;
            return Err(StartError(format!("listener {name}: engine = \"kernel\" needs a process that tcplb starts")));
        }
        bound.state.serve_admin_at(bound.admin.as_ref().map_or(&[], |admin| admin.endpoints()));
        Ok(bound)
    }

    /// Opens the access log and gives up the privileges that `confinement` names. Then the log's thread starts, and
    /// `listen` returns the channel of stops.
    pub fn confine(
        self,
        confinement: Option<Confinement>,
        listen: impl FnOnce() -> io::Result<Receiver<()>>,
    ) -> Result<Confined, StartError> {
        // A user that may create names in the log's directory could make root follow a link. So links are followed only
        // if the process keeps its user.
        let changes_user = confinement.as_ref().and_then(Confinement::user).is_some();
        let links = if changes_user { Links::Refuse } else { Links::Follow };
        let global = &self.state.running().global;
        let open =
            |to: &LogTo| Ok(OpenedLog { target: Target::open(to, links)?, format: LineFormat::of(global.log_format) });
        let log = global.access_log.as_ref().map(open).transpose().map_err(StartError)?;
        if let Some(confinement) = confinement {
            let of_admin = self.admin.iter().flat_map(|admin| admin.endpoints());
            let of_pulls = self.pulls.iter().map(Pulls::endpoint);
            let sockets = self.state.endpoints().chain(of_admin).chain(of_pulls);
            let sockets = sockets.filter(|socket| !listen::is_inherited(socket)).cloned();
            let (own, lent): (Vec<Endpoint>, Vec<Endpoint>) = sockets.partition(listen::is_own_file);
            confinement.carry_out(&own, &lent, log.as_ref().and_then(|log| log.target.file())).map_err(StartError)?;
        }
        logger::start().map_err(StartError::thread)?;
        let stops = listen().map_err(|error| StartError(format!("can't handle signals: {error}")))?;
        Ok(Confined { bound: self, log, stops })
    }
}

impl Confined {
    /// Looks up the names of backends and builds the first snapshot. `None`: a stop came first.
    pub fn resolve(self) -> Result<Option<Ready>, StartError> {
        let Confined { bound, log, stops } = self;
        let Bound { state, admin, pulls, descriptors, inheritance, kernel } = bound;
        let model = state.running();
        model.global.socket_buffer.into_iter().for_each(warn_of_less);
        // Resolver threads may outlast the start.
        let mut lookups = Lookups::default();
        let end = (model.global.names == Names::Later).then(|| Instant::now() + NAMES_PATIENCE);
        let Some(mut found) = lookups.wait_for(control::names_at_start(model), end, &stops) else {
            log::info!("stopped before it served: names were still looked up");
            return Ok(None);
        };
        inheritance.iter().for_each(|inheritance| inheritance.memory.complete(&mut found));
        let first = state.build(&found).map_err(StartError)?;
        Ok(Some(Ready { first, admin, pulls, descriptors, inheritance, kernel, log, lookups }))
    }
}

impl Ready {
    /// Starts all threads. Fails if one can't start.
    pub fn run(
        self,
        loader: Option<Loader>,
        launcher: Result<Launcher, String>,
        kept: Kept,
    ) -> Result<Running, StartError> {
        let Ready { first, admin, mut pulls, descriptors, inheritance, kernel, log, lookups } = self;
        let FirstState { config_state, opened, files } = first;
        let (model, snapshot) = (config_state.running().clone(), config_state.snapshot().clone());
        let (share, has_file) = (config_state.share(), loader.is_some());
        let connection_limit = ConnectionLimit::new(share.connections);
        log::info!(
            "serves at most {} clients at once: of {descriptors} open files allowed, {} are reserved for other uses",
            share.connections,
            share.reserved
        );
        let capped = descriptors::capped(share, &model);
        descriptors::beyond(share, &model).iter().for_each(|warning| log::warn!("{warning}"));
        capped.iter().for_each(|warning| log::warn!("{warning}"));
        let keeper = warm::prepare()?;
        let kernel = kernel.map(engine::prepare).transpose()?;
        let of_kernel = kernel.as_ref().map(engine::Prepared::access);
        let (prepared, data_plane) =
            workers::prepare(model.global.workers, keeper.access().orders, descriptors, of_kernel)?;
        let (file, now) = (config_state.file().clone(), clock::now());
        let started = match &inheritance {
            Some(Inheritance { memory, .. }) => (now.before(memory.age), memory.started_at),
            None => (now, SystemTime::now()),
        };
        let published = Published::new(snapshot.clone(), model.clone(), file, connection_limit.clone(), started);
        let published = Arc::new(published);
        match &inheritance {
            Some(inheritance) => inheritance.memory.restore(&published),
            None => {
                let start = Event::new(Kind::Start, By::Tcplb);
                published.events().record(start.because(format_args!("tcplb {}", env!("CARGO_PKG_VERSION"))));
            }
        }
        // Resets go straight to the workers, since control may be waiting for the prober.
        let resets = data_plane.clone();
        // Control takes all weights that have changed at once, so one message is enough.
        let (reweighted, weights) = crossbeam_channel::bounded(1);
        let on_effect = Box::new(move |effect| match effect {
            HealthEffect::Reset(order) => resets.reset(&order),
            HealthEffect::Usable => resets.usable(),
            HealthEffect::Weights => drop(reweighted.try_send(())),
        });
        let prober = prober::spawn(snapshot.clone(), published.events().clone(), on_effect)?;
        // The process before keeps the rules until it has handed over.
        let kernel = kernel.map(|kernel| kernel.spawn(snapshot.clone(), &published, inheritance.is_none()));
        let kernel = kernel.transpose().map_err(|why| StartError(why.to_string()))?;
        let state_file = model.global.state_file.clone();
        let state_file =
            state_file.map(|path| StateFile::start(path, published.clone(), inheritance.is_none())).transpose()?;
        let start = |OpenedLog { target, format }| {
            AccessLog::start(target, format, model.global.log_events, published.log().clone())
        };
        let (log, log_handle) = log.map(start).transpose()?.unzip();
        let listeners = listener_addresses(&snapshot);
        let (tuning, registry) = (TcpTuning::of(&model.global), keeper.access().registry);
        let warm = keeper.spawn(snapshot.clone(), tuning, share.warm)?;
        let context = WorkerContext {
            snapshot,
            connection_limit,
            peers: data_plane.peers(),
            engine: model.global.relay,
            pipes: share.pipes,
            tuning,
            keeper: registry,
            prober: prober.mailbox(),
            totals: published.workers().clone(),
            first_sequence: (inheritance.as_ref())
                .map_or(0, |inheritance| inheritance.memory.first_sequence)
                .max(kept.next_sequence),
            log: log_handle,
        };
        let WorkerThreads { threads: workers, ended } = workers::spawn(prepared, opened, &context)?;
        let control = Control::spawn(Parts {
            config_state,
            data_plane: data_plane.clone(),
            prober: prober.mailbox(),
            weights,
            published: published.clone(),
            saver: state_file.as_ref().map(StateFile::saver),
            loader,
            lookups,
            ended,
        })?;
        let mut lent = Vec::new();
        if let Some(admin) = &admin {
            lent.extend(admin.lend(model.global.admin.as_ref())?);
        }
        if let Some(pulls) = &pulls {
            lent.extend(pulls.lend()?);
        }
        let upgrades = Upgrades::new(upgrade::Shared {
            launcher: Mutex::new(launcher),
            remote: control.remote(),
            workers: data_plane.clone(),
            published: published.clone(),
            lent: Mutex::new(lent),
            pulling: Mutex::new(None),
            life: Life::new()?,
            serves: AtomicBool::new(inheritance.is_none()),
            handed_over: AtomicBool::new(false),
            door: Mutex::new(None),
            survivor: Mutex::new(None),
        });
        let serve = |admin: BoundAdmin| {
            let (workers, share) = (Arc::new(data_plane.clone()), AdminShare::of(descriptors));
            admin.start(published.clone(), control.remote(), workers, Arc::new(upgrades.clone()), share)
        };
        let admin = admin.map(serve).transpose()?;
        if let Some(admin) = &admin {
            upgrades.set_door(admin.door());
            if inheritance.is_some() {
                // The predecessor answers until its counters are here: no metric goes back.
                admin.door().set(false);
            }
        }
        if let (Some(pulls), None) = (&mut pulls, &inheritance) {
            pulls.serve(upgrades.clone())?;
        }
        let mut watched = vec![control.watched(), prober.watched(), warm.watched()];
        watched.extend(data_plane.watched());
        watched.extend(kernel.as_ref().map(Engine::watched));
        watched.extend(admin.as_ref().map(Admin::watched));
        let asked = systemd::watchdog();
        let alive = Box::new(move || {
            if asked.is_some() {
                systemd::alive();
            }
        });
        let watchdog = Watchdog::start(watched, asked.unwrap_or(watchdog::BOUND), published.clone(), alive)?;
        files.keep();
        Ok(Running {
            listeners,
            published,
            admin,
            control,
            prober,
            warm,
            kernel,
            workers,
            log,
            state_file,
            watchdog,
            upgrades,
            pulls,
            data_plane,
            inheritance,
            kept,
            has_file,
        })
    }
}

/// Fails if `take_over` is set and the service manager has opened a socket, also for the predecessor. A puller is no process of
/// this service. So the manager would start the service again for the next client of that socket, and both would serve there.
fn refuse_activation(model: &Model) -> Result<(), StartError> {
    let (Some(_), Some(at)) = (&model.global.take_over, listen::unclaimed().into_iter().next()) else { return Ok(()) };
    Err(StartError(format!(
        "take_over and --take-over can't be used with sockets of the service manager, like {at}; it starts this service again for \
         their next client, whatever process has taken over; leave out one of the two"
    )))
}

fn bind_admin(model: &Model) -> Result<Option<BoundAdmin>, StartError> {
    let Model { global, .. } = model;
    let Some(to) = &global.admin else { return Ok(None) };
    let bound = admin::bind(to, global);
    bound.map(Some).map_err(|why| StartError(format!("can't serve the admin API on {to}: {why}")))
}

fn listener_addresses(snapshot: &Snapshot) -> Vec<ListenerAddress> {
    let addresses = snapshot.listeners.iter().flat_map(|listener| {
        let named = |endpoint: &Endpoint| ListenerAddress { name: listener.name.clone(), endpoint: endpoint.clone() };
        listener.addresses.iter().map(move |address| named(&address.endpoint))
    });
    addresses.collect()
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

/// Raises the soft limit on open files to the hard one, and returns the limit in force.
fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum && setrlimit(Resource::Nofile, wanted).is_ok() {
        return limit.maximum.unwrap_or(u64::MAX);
    }
    limit.current.unwrap_or(u64::MAX)
}
