//! The validated model: durations typed, names resolved, no `Option` that "must be there".

mod discover;
pub mod health;
mod route;
mod source;

pub use discover::{Discover, OnEmpty, Origin};
pub use health::{Health, HealthKind, InitialHealth, Pattern, Probe, Step};
pub use route::{NO_ROUTE, Route, SILENT};
pub use source::SourceAddress;

use super::words::{self, Words};
use crate::base::{Address, Listen, Size};
use crate::policy::balance::{self, Algorithm};
use crate::policy::limit::Enforcement;
use ipnet::IpNet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The whole configuration of a tcplb.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// The settings of the process.
    pub global: Global,
    /// The listeners; at least one.
    pub listeners: Vec<Listener>,
    /// The pools; those of every listener and its routes are among them.
    pub pools: Vec<Pool>,
}

/// The settings of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Global {
    /// Event-loop threads, at least one.
    pub workers: usize,
    /// The most clients at once; `None`: derived from the descriptor limit.
    pub max_connections: Option<usize>,
    /// How long listeners stay open after a stop, while `/readyz` answers 503.
    pub shutdown_delay: Duration,
    /// How long a drain may take before the remaining connections are reset.
    pub shutdown_timeout: Duration,
    /// How soon a vanished peer is found; from 2 s to 10 h.
    pub dead_peer_timeout: Duration,
    /// The size of each buffer of a client's or backend's TCP socket; `None`: the kernel decides.
    pub socket_buffer: Option<Size>,
    /// How bytes are relayed.
    pub relay: Engine,
    /// The policy for a backend whose name does not resolve.
    pub names: Names,
    /// Where the admin API listens.
    pub admin: Option<Listen>,
    /// The file with the bearer token that admin calls need.
    pub admin_token_file: Option<PathBuf>,
    /// Where the changes at run time are kept over a restart.
    pub state_file: Option<PathBuf>,
    /// The file with the token that permits reading; only beside `admin_token_file`.
    pub admin_read_token_file: Option<PathBuf>,
    /// The user that the process changes to once everything is bound, by name or number; `None`: no change.
    pub user: Option<String>,
    /// The group that goes with the user; `None`: the user's own. Never without a user.
    pub group: Option<String>,
    /// Whether the process gives up file access that it does not need.
    pub sandbox: Sandbox,
    /// Whether the launcher can start a successor.
    pub upgrade: Upgrade,
    /// The socket file at which a successor that others start takes over.
    pub take_over: Option<PathBuf>,
    /// Whether connections outlast the process.
    pub keep_connections: KeepConnections,
    /// The destination of the access log; `None`: no access log.
    pub access_log: Option<LogTo>,
    /// The format of the access log.
    pub log_format: LogFormat,
    /// Which events of a connection leave a line.
    pub log_events: LogEvents,
    /// Whether metrics have series per backend; otherwise sums per pool.
    pub metrics_per_backend: bool,
}

impl Default for Global {
    /// One worker, which is all that a test wants; the program takes one per core.
    fn default() -> Self {
        Global {
            workers: 1,
            max_connections: None,
            shutdown_delay: Duration::ZERO,
            shutdown_timeout: Duration::from_secs(30),
            dead_peer_timeout: defaults::DEAD_PEER_TIMEOUT,
            socket_buffer: None,
            relay: Engine::default(),
            names: Names::default(),
            admin: None,
            admin_token_file: None,
            admin_read_token_file: None,
            user: None,
            group: None,
            sandbox: Sandbox::default(),
            upgrade: Upgrade::default(),
            take_over: None,
            keep_connections: KeepConnections::default(),
            state_file: None,
            access_log: None,
            log_format: LogFormat::default(),
            log_events: LogEvents::default(),
            metrics_per_backend: true,
        }
    }
}

impl Global {
    /// The address of `take_over`.
    pub fn take_over_address(&self) -> Option<Listen> {
        self.take_over.clone().map(|path| Listen(Address::Unix(path)))
    }
}

/// The destination of the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTo {
    /// Standard output, written `-` or `/dev/stdout`. The inherited descriptor is used: opening it again fails for a
    /// socket, and in the sandbox.
    Stdout,
    /// A file.
    File(PathBuf),
}

impl From<PathBuf> for LogTo {
    fn from(path: PathBuf) -> LogTo {
        let is_stdout =
            ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].iter().any(|name| path.as_os_str() == *name);
        if is_stdout { LogTo::Stdout } else { LogTo::File(path) }
    }
}

impl fmt::Display for LogTo {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogTo::Stdout => out.write_str("-"),
            LogTo::File(path) => path.display().fmt(out),
        }
    }
}

/// The format of the access log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Fields and spaces.
    #[default]
    Text,
    /// An object.
    Json,
    /// HAProxy's `option tcplog`.
    Haproxy,
}

impl Words for LogFormat {
    const NAMES: &'static [(&'static str, LogFormat)] =
        &[("text", LogFormat::Text), ("json", LogFormat::Json), ("haproxy", LogFormat::Haproxy)];
}

/// The events of a connection that leave a line in the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEvents {
    /// A backend is connected.
    pub open: bool,
    /// This time has passed since the last line.
    pub interval: Option<Duration>,
    /// The connection has ended.
    pub close: bool,
}

impl Default for LogEvents {
    fn default() -> LogEvents {
        LogEvents { open: false, interval: None, close: true }
    }
}

/// Whether the process uses the sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// As far as the kernel supports it.
    #[default]
    Auto,
    /// No.
    Off,
}

impl Words for Sandbox {
    const NAMES: &'static [(&'static str, Sandbox)] = &[("auto", Sandbox::Auto), ("off", Sandbox::Off)];
}

/// Whether a process is kept that starts a successor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Upgrade {
    /// Yes.
    #[default]
    On,
    /// No: an upgrade is refused.
    Off,
}

impl Words for Upgrade {
    const NAMES: &'static [(&'static str, Upgrade)] = &[("on", Upgrade::On), ("off", Upgrade::Off)];
}

/// Whether connections outlast the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeepConnections {
    /// No.
    #[default]
    Off,
    /// Over a restart by the service manager.
    Restart,
}

impl Words for KeepConnections {
    const NAMES: &'static [(&'static str, KeepConnections)] =
        &[("off", KeepConnections::Off), ("restart", KeepConnections::Restart)];
}

/// The policy for a backend whose name does not resolve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Names {
    /// The backend is down until its name resolves. The start waits at most two seconds for all names together.
    #[default]
    Later,
    /// The start or the reload fails.
    Required,
}

impl Words for Names {
    const NAMES: &'static [(&'static str, Names)] = &[("later", Names::Later), ("required", Names::Required)];
}

/// How bytes are relayed from one socket to the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// Through a buffer of the worker.
    Copy,
    /// Through a pipe in the kernel, by splice(2).
    Splice,
    /// Each direction as suits its traffic.
    #[default]
    Adaptive,
}

impl Words for Engine {
    const NAMES: &'static [(&'static str, Engine)] =
        &[("copy", Engine::Copy), ("splice", Engine::Splice), ("adaptive", Engine::Adaptive)];
}

/// What carries the connections of a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ListenerEngine {
    /// The workers of this process.
    #[default]
    Proxy,
    /// The kernel, by rules that this process keeps.
    Kernel,
}

impl Words for ListenerEngine {
    const NAMES: &'static [(&'static str, ListenerEngine)] =
        &[("proxy", ListenerEngine::Proxy), ("kernel", ListenerEngine::Kernel)];
}

impl ListenerEngine {
    /// Its word in the configuration, the API and metrics.
    pub fn word(self) -> &'static str {
        words::of(&self, ListenerEngine::NAMES)
    }
}

/// A listener: addresses for clients, and the pool behind them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its name in logs, metrics and API.
    pub name: String,
    /// Addresses to bind; at least one.
    pub bind: Vec<Listen>,
    /// What carries its connections.
    pub engine: ListenerEngine,
    /// The name of its pool.
    pub pool: String,
    /// Which clients go to other pools.
    pub routes: Vec<Route>,
    /// How long a client may take to say what the routes ask for.
    pub sniff_timeout: Duration,
    /// The name of the pool of clients that say nothing for that long; `None`: they are reset.
    pub silent_pool: Option<String>,
    /// Whether every client starts with a PROXY header.
    pub accept_proxy: bool,
    /// The addresses that may send a header, by the socket's peer; empty: all.
    pub trusted_proxies: Vec<IpNet>,
    /// The addresses that may connect; empty: all that are not denied. The most specific prefix of `allow` and `deny`
    /// wins; on equal ones, `deny`.
    pub allow: Vec<IpNet>,
    /// The addresses that may not connect.
    pub deny: Vec<IpNet>,
    /// More of `allow`, from a file.
    pub allow_file: Option<PrefixFile>,
    /// More of `deny`, from a file.
    pub deny_file: Option<PrefixFile>,
    /// The most clients at once; more wait in the kernel's backlog.
    pub max_connections: Option<u32>,
    /// The most clients at once from one source.
    pub max_connections_per_source: Option<u32>,
    /// The rate of new connections from one source.
    pub connection_rate_per_source: Option<Rate>,
    /// The permissions of its socket files.
    pub socket_file: SocketFile,
    /// What happens to clients beyond access lists and source limits.
    pub limits: Enforcement,
}

impl Words for Enforcement {
    const NAMES: &'static [(&'static str, Enforcement)] =
        &[("enforce", Enforcement::Enforced), ("count", Enforcement::DryRun)];
}

impl Listener {
    /// Whether all of `allow` and `deny` are equal. Files that were not read again compare fast.
    pub fn has_lists_of(&self, other: &Listener) -> bool {
        let prefixes = |file: &Option<PrefixFile>| file.as_ref().map(|file| file.prefixes.clone());
        self.allow == other.allow
            && self.deny == other.deny
            && prefixes(&self.allow_file) == prefixes(&other.allow_file)
            && prefixes(&self.deny_file) == prefixes(&other.deny_file)
    }

    /// All of `allow` and all of `deny`, from the settings and from files.
    pub fn lists(&self) -> (impl Iterator<Item = &IpNet>, impl Iterator<Item = &IpNet>) {
        fn of(file: &Option<PrefixFile>) -> impl Iterator<Item = &IpNet> {
            file.iter().flat_map(|file| file.prefixes.iter())
        }
        (self.allow.iter().chain(of(&self.allow_file)), self.deny.iter().chain(of(&self.deny_file)))
    }
}

/// The permissions of a listener's socket files; `None` keeps the system's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketFile {
    /// Permission bits, at most 0777. Connecting needs the write permission.
    pub mode: Option<u32>,
    /// The owner, by name or number.
    pub owner: Option<String>,
    /// The group, by name or number.
    pub group: Option<String>,
}

impl Model {
    /// The listeners whose connections the kernel carries.
    pub fn kernel_listeners(&self) -> impl Iterator<Item = &Listener> {
        self.listeners.iter().filter(|listener| listener.is_of_kernel())
    }
}

impl Listener {
    /// Whether the kernel carries its connections.
    pub fn is_of_kernel(&self) -> bool {
        self.engine == ListenerEngine::Kernel
    }

    /// The socket files that it binds.
    pub fn socket_files(&self) -> impl Iterator<Item = &PathBuf> {
        self.bind.iter().filter_map(|listen| match &listen.0 {
            Address::Unix(path) if !listen.0.is_abstract() => Some(path),
            _ => None,
        })
    }
}

/// Prefixes from a file, one a line: the configured path, and the content when the configuration was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixFile {
    /// The path of the file.
    pub path: PathBuf,
    /// The prefixes; shared, since the list may be long and every snapshot has it.
    pub prefixes: Arc<[IpNet]>,
}

/// A rate per second, written like `50/s`, with a burst of one second's worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// At least one.
    pub per_second: u32,
}

impl Default for Listener {
    /// Bound to no address; allows every client.
    fn default() -> Self {
        Listener {
            name: defaults::NAME.to_owned(),
            bind: Vec::new(),
            engine: ListenerEngine::default(),
            pool: defaults::NAME.to_owned(),
            routes: Vec::new(),
            sniff_timeout: defaults::SNIFF_TIMEOUT,
            silent_pool: None,
            accept_proxy: false,
            trusted_proxies: Vec::new(),
            allow: Vec::new(),
            deny: Vec::new(),
            allow_file: None,
            deny_file: None,
            max_connections: None,
            max_connections_per_source: None,
            connection_rate_per_source: None,
            socket_file: SocketFile::default(),
            limits: Enforcement::Enforced,
        }
    }
}

/// A set of backends that serve the same thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name in logs, metrics and API.
    pub name: String,
    /// The balancing algorithm.
    pub algorithm: &'static Algorithm,
    /// Whether listeners of the kernel follow load by weights that change.
    pub approximate: bool,
    /// How long one connection attempt may take.
    pub connect_timeout: Duration,
    /// The most different backends that are tried before the client is reset; at least one.
    pub connect_attempts: u32,
    /// Silence in both directions after which a connection is closed.
    pub idle_timeout: Duration,
    /// The idle time-out once one side has finished.
    pub half_close_timeout: Duration,
    /// The lifetime after which a connection is closed, spread by a tenth; `None`: unlimited.
    pub max_lifetime: Option<Duration>,
    /// What happens to connections of a backend that goes down.
    pub on_down: OnDown,
    /// What happens to connections of a removed backend.
    pub on_remove: OnRemove,
    /// How long the share of a backend that came up grows; zero: its full share at once.
    pub slow_start: Duration,
    /// What happens to a client without a usable backend.
    pub no_backend: NoBackend,
    /// What happens to a client that has sent its FIN while it waits for a backend.
    pub abandoned: Abandoned,
    /// Most clients that wait for a backend at each worker.
    pub max_queue: u32,
    /// Connections to each backend that are kept established ahead of need.
    pub warm_connections: u32,
    /// The choice in a pool whose backends are all down.
    pub all_down: AllDown,
    /// The clients in a row that must fail before their backend is left out for a while; 0: never.
    pub outlier_failures: u32,
    /// The PROXY header that backends get, unless a backend has its own setting.
    pub send_proxy: Option<ProxyVersion>,
    /// The local address of connections to its backends.
    pub source: SourceAddress,
    /// How its backends are probed.
    pub health: Health,
    /// Its backends; names are unique within the pool.
    pub backends: Vec<Backend>,
    /// The sources that find further backends.
    pub discover: Vec<Discover>,
}

impl Pool {
    /// The same settings with other backends. Copying tens of thousands only to replace them would take long.
    #[must_use]
    pub fn with_backends(&self, backends: Vec<Backend>) -> Pool {
        Pool {
            name: self.name.clone(),
            algorithm: self.algorithm,
            approximate: self.approximate,
            connect_timeout: self.connect_timeout,
            connect_attempts: self.connect_attempts,
            idle_timeout: self.idle_timeout,
            half_close_timeout: self.half_close_timeout,
            max_lifetime: self.max_lifetime,
            on_down: self.on_down,
            on_remove: self.on_remove,
            slow_start: self.slow_start,
            no_backend: self.no_backend,
            abandoned: self.abandoned,
            max_queue: self.max_queue,
            warm_connections: self.warm_connections,
            all_down: self.all_down,
            outlier_failures: self.outlier_failures,
            send_proxy: self.send_proxy,
            source: self.source.clone(),
            health: self.health.clone(),
            backends,
            discover: self.discover.clone(),
        }
    }
}

impl Default for Pool {
    /// The contract's defaults, without a backend.
    fn default() -> Self {
        Pool {
            name: defaults::NAME.to_owned(),
            algorithm: &balance::DEFAULT,
            approximate: false,
            connect_timeout: Duration::from_secs(5),
            connect_attempts: 3,
            idle_timeout: Duration::from_secs(3600),
            half_close_timeout: Duration::from_secs(300),
            max_lifetime: None,
            on_down: OnDown::Keep,
            on_remove: OnRemove::Keep,
            slow_start: Duration::ZERO,
            no_backend: NoBackend::Reset,
            abandoned: Abandoned::Serve,
            max_queue: 1024,
            warm_connections: 0,
            all_down: AllDown::Reset,
            outlier_failures: 0,
            send_proxy: None,
            source: SourceAddress::System,
            health: Health::default(),
            backends: Vec::new(),
            discover: Vec::new(),
        }
    }
}

/// What happens to connections of a backend that goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDown {
    /// They go on.
    Keep,
    /// They are reset.
    Reset,
}

impl Words for OnDown {
    const NAMES: &'static [(&'static str, OnDown)] = &[("keep", OnDown::Keep), ("reset", OnDown::Reset)];
}

/// What happens to connections of a removed backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRemove {
    /// They go on.
    Keep,
    /// They are reset.
    Reset,
    /// They go on for this long, then they are reset.
    Drain(Duration),
}

/// What happens to a client without a usable backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoBackend {
    /// It is reset at once.
    Reset,
    /// It waits this long for one.
    Wait(Duration),
}

/// What happens to a client that has sent its FIN while it waits for a backend. It may wait for an answer, or have
/// given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abandoned {
    /// It keeps its place and is served.
    Serve,
    /// It is reset, and the clients behind it move up.
    Drop,
}

impl Words for Abandoned {
    const NAMES: &'static [(&'static str, Abandoned)] = &[("serve", Abandoned::Serve), ("drop", Abandoned::Drop)];
}

/// The choice in a pool whose backends are all down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllDown {
    /// Its clients have no backend.
    Reset,
    /// All of them are tried (`try-all`): probes may be wrong about all backends at once.
    TryAll,
}

impl Words for AllDown {
    const NAMES: &'static [(&'static str, AllDown)] = &[("reset", AllDown::Reset), ("try-all", AllDown::TryAll)];
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// The line of text.
    V1,
    /// The binary header.
    V2,
}

/// Whether a header is sent, and which version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendProxy {
    /// None.
    Off,
    /// One of this version.
    As(ProxyVersion),
}

impl Words for SendProxy {
    const NAMES: &'static [(&'static str, SendProxy)] =
        &[("off", SendProxy::Off), ("v1", SendProxy::As(ProxyVersion::V1)), ("v2", SendProxy::As(ProxyVersion::V2))];
}

impl SendProxy {
    /// The version, if one is sent.
    pub fn version(self) -> Option<ProxyVersion> {
        match self {
            SendProxy::Off => None,
            SendProxy::As(version) => Some(version),
        }
    }
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its name, unique in the pool; the default is its address.
    pub name: String,
    /// Its address.
    pub address: Address,
    /// Its share of new connections; 0 takes none.
    pub weight: u16,
    /// The most connections at once.
    pub max_connections: Option<u32>,
    /// Serves only when no primary can.
    pub backup: bool,
    /// Overrides the pool's PROXY header setting.
    pub send_proxy: Option<SendProxy>,
    /// What added it. No key of the file: the default is the file.
    pub origin: Origin,
}

impl Pool {
    /// The PROXY header that this backend of the pool expects.
    pub fn header_for(&self, backend: &Backend) -> Option<ProxyVersion> {
        backend.send_proxy.map_or(self.send_proxy, SendProxy::version)
    }
}

impl Backend {
    /// A backend with the defaults, named by its address.
    pub fn at(address: Address) -> Backend {
        let name = address.to_string();
        Backend {
            name,
            address,
            weight: defaults::WEIGHT,
            max_connections: None,
            backup: false,
            send_proxy: None,
            origin: Origin::File,
        }
    }
}

/// Defaults for code without a model.
pub mod defaults {
    use std::time::Duration;

    /// The name of the listener and the pool that flags create.
    pub const NAME: &str = "default";
    /// How soon a vanished peer is found. The kernel's own defaults take over two hours.
    pub const DEAD_PEER_TIMEOUT: Duration = Duration::from_secs(120);
    /// How long a client may take to say what routes ask for.
    pub const SNIFF_TIMEOUT: Duration = Duration::from_secs(3);
    /// The weight of a backend.
    pub const WEIGHT: u16 = 1;
}
