//! The proven model: durations typed, names resolved, no `Option` that "must be there".

use super::words::Words;
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
    /// What concerns the process.
    pub global: Global,
    /// Where clients connect; at least one.
    pub listeners: Vec<Listener>,
    /// What they are balanced over; every listener's pool is among them.
    pub pools: Vec<Pool>,
}

/// What concerns the whole process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Global {
    /// Event-loop threads, at least one.
    pub workers: usize,
    /// Clients at once; `None`: derived from the descriptor limit.
    pub max_connections: Option<usize>,
    /// How long listeners stay open after a stop, while `/readyz` says 503 already.
    pub shutdown_delay: Duration,
    /// How long a drain may take before what is left is reset.
    pub shutdown_timeout: Duration,
    /// How soon a peer that has vanished is noticed; from 2 s to 10 h.
    pub dead_peer_timeout: Duration,
    /// The most that each buffer of a client's or backend's TCP socket holds; `None`: the kernel decides.
    pub socket_buffer: Option<Size>,
    /// How bytes are moved.
    pub relay: Engine,
    /// What becomes of a backend whose name can't be resolved.
    pub names: Names,
    /// Where the admin API listens.
    pub admin: Option<Listen>,
    /// The file with the bearer token that admin calls must carry.
    pub admin_token_file: Option<PathBuf>,
    /// The user that the process changes to once everything is bound, by name or number; `None`: no change.
    pub user: Option<String>,
    /// The group that goes with the user; `None`: the user's own. Never without a user.
    pub group: Option<String>,
    /// Does the process give up what it will not need of the file system?
    pub sandbox: Sandbox,
    /// Where a line per connection goes; `None`: nowhere.
    pub access_log: Option<LogTo>,
    /// What such a line looks like.
    pub log_format: LogFormat,
    /// Do metrics have series for each backend? Otherwise their sums per pool.
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
            user: None,
            group: None,
            sandbox: Sandbox::default(),
            access_log: None,
            log_format: LogFormat::default(),
            metrics_per_backend: true,
        }
    }
}

/// Where the access log goes.
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

/// How a line of the access log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Fields and spaces.
    #[default]
    Text,
    /// An object.
    Json,
}

impl Words for LogFormat {
    const NAMES: &'static [(&'static str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];
}

/// Does the process lock itself in?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// As far as the kernel can.
    #[default]
    Auto,
    /// No.
    Off,
}

impl Words for Sandbox {
    const NAMES: &'static [(&'static str, Sandbox)] = &[("auto", Sandbox::Auto), ("off", Sandbox::Off)];
}

/// What becomes of a backend whose name can't be resolved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Names {
    /// It is down until its name can be resolved. The start waits at most two seconds for all names together.
    #[default]
    Later,
    /// The start, or the reload, is refused.
    Required,
}

impl Words for Names {
    const NAMES: &'static [(&'static str, Names)] = &[("later", Names::Later), ("required", Names::Required)];
}

/// How bytes are moved from one socket to the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// Through a buffer of the worker's.
    Copy,
    /// Through a pipe in the kernel, by splice(2).
    Splice,
    /// Each way as suits what it carries.
    #[default]
    Adaptive,
}

impl Words for Engine {
    const NAMES: &'static [(&'static str, Engine)] =
        &[("copy", Engine::Copy), ("splice", Engine::Splice), ("adaptive", Engine::Adaptive)];
}

/// A place where clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its name in logs, metrics and API.
    pub name: String,
    /// Addresses to bind; at least one.
    pub bind: Vec<Listen>,
    /// The name of its pool.
    pub pool: String,
    /// Does every client begin with a PROXY header?
    pub accept_proxy: bool,
    /// The addresses that may send a header, by the socket's peer; empty: all.
    pub trusted_proxies: Vec<IpNet>,
    /// The addresses that may connect; empty: all that are not denied. The most specific prefix of `allow` and `deny`
    /// wins; on equal ones, `deny`.
    pub allow: Vec<IpNet>,
    /// The addresses that may not connect.
    pub deny: Vec<IpNet>,
    /// More of `allow`, from a file of their own.
    pub allow_file: Option<PrefixFile>,
    /// More of `deny`.
    pub deny_file: Option<PrefixFile>,
    /// Clients at once; more wait in the kernel's backlog.
    pub max_connections: Option<u32>,
    /// Clients at once from one source.
    pub max_connections_per_source: Option<u32>,
    /// New connections from one source.
    pub connection_rate_per_source: Option<Rate>,
    /// The permissions of its socket files.
    pub socket_file: SocketFile,
    /// What becomes of clients beyond access lists and source limits.
    pub limits: Enforcement,
}

impl Words for Enforcement {
    const NAMES: &'static [(&'static str, Enforcement)] =
        &[("enforce", Enforcement::Enforced), ("count", Enforcement::DryRun)];
}

impl Listener {
    /// Are all of `allow` and `deny` the same? Files that were not read again are compared at once.
    pub fn has_lists_of(&self, other: &Listener) -> bool {
        let prefixes = |file: &Option<PrefixFile>| file.as_ref().map(|file| file.prefixes.clone());
        self.allow == other.allow
            && self.deny == other.deny
            && prefixes(&self.allow_file) == prefixes(&other.allow_file)
            && prefixes(&self.deny_file) == prefixes(&other.deny_file)
    }

    /// All of `allow` and all of `deny`, wherever they stand.
    pub fn lists(&self) -> (impl Iterator<Item = &IpNet>, impl Iterator<Item = &IpNet>) {
        fn of(file: &Option<PrefixFile>) -> impl Iterator<Item = &IpNet> {
            file.iter().flat_map(|file| file.prefixes.iter())
        }
        (self.allow.iter().chain(of(&self.allow_file)), self.deny.iter().chain(of(&self.deny_file)))
    }
}

/// The permissions of a listener's socket files. What is `None` is as the system makes a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketFile {
    /// Permission bits, at most 0777. To connect takes the right to write.
    pub mode: Option<u32>,
    /// The owner, by name or number.
    pub owner: Option<String>,
    /// The group, by name or number.
    pub group: Option<String>,
}

impl Listener {
    /// The socket files that it binds.
    pub fn socket_files(&self) -> impl Iterator<Item = &PathBuf> {
        self.bind.iter().filter_map(|listen| match &listen.0 {
            Address::Unix(path) if !listen.0.is_abstract() => Some(path),
            _ => None,
        })
    }
}

/// Prefixes that stand in a file of their own, one a line. The path is what was asked for; the prefixes are what the file
/// held when the configuration was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it holds; shared, since it may be long and every snapshot has it.
    pub prefixes: Arc<[IpNet]>,
}

/// So many per second, as `50/s` is written; a burst of one second's worth is allowed.
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
            pool: defaults::NAME.to_owned(),
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
    /// How a backend is chosen.
    pub algorithm: &'static Algorithm,
    /// How long one connection attempt may take.
    pub connect_timeout: Duration,
    /// How many different backends are tried before the client is reset; at least one.
    pub connect_attempts: u32,
    /// Silence both ways after which a connection is closed.
    pub idle_timeout: Duration,
    /// The same, once one side has finished.
    pub half_close_timeout: Duration,
    /// Close a connection after this long, spread by a tenth; `None`: never.
    pub max_lifetime: Option<Duration>,
    /// What becomes of the connections of a backend that goes down.
    pub on_down: OnDown,
    /// What becomes of the connections of a backend that is taken out.
    pub on_remove: OnRemove,
    /// How long a backend that came up is given a growing share; zero: its whole share at once.
    pub slow_start: Duration,
    /// What happens to a client without a usable backend.
    pub no_backend: NoBackend,
    /// What becomes of a client that has sent its FIN while it waits for a backend.
    pub abandoned: Abandoned,
    /// What a pool does whose backends are all down.
    pub all_down: AllDown,
    /// How many clients in a row must fail for their backend to be left out for a while; 0: never.
    pub outlier_failures: u32,
    /// The PROXY header that backends get, unless a backend has its own setting.
    pub send_proxy: Option<ProxyVersion>,
    /// How its backends are watched.
    pub health: Health,
    /// Its backends; names are unique within the pool.
    pub backends: Vec<Backend>,
}

impl Default for Pool {
    /// The contract's defaults, without a backend.
    fn default() -> Self {
        Pool {
            name: defaults::NAME.to_owned(),
            algorithm: &balance::DEFAULT,
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
            all_down: AllDown::Reset,
            outlier_failures: 0,
            send_proxy: None,
            health: Health::default(),
            backends: Vec::new(),
        }
    }
}

/// What becomes of the connections of a backend that goes down.
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

/// What becomes of the connections of a backend that is taken out.
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

/// What becomes of a client that has sent its FIN while it waits for a backend. It may wait for an answer, or have given up.
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

/// What a pool does whose backends are all down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllDown {
    /// Its clients have no backend.
    Reset,
    /// It tries them all the same (`try-all`): probes may be wrong about all of them at once.
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

/// Whether a header is sent, and which.
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

/// How a pool's backends are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What a probe does.
    pub kind: HealthKind,
    /// What a backend counts as before its first probe. Never `Down` where nothing is probed.
    pub initial: InitialHealth,
    /// The port to probe, if it is not the one that is served.
    pub port: Option<u16>,
    /// Time between two probes of one backend.
    pub interval: Duration,
    /// How long a probe may take; at most `interval`.
    pub timeout: Duration,
    /// Successes in a row that mark a backend up; at least one.
    pub rise: u32,
    /// Failures in a row that mark it down; at least one.
    pub fall: u32,
}

/// What a backend counts as before its first probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InitialHealth {
    /// It takes clients.
    #[default]
    Up,
    /// It takes no client until a probe has passed.
    Down,
}

impl Words for InitialHealth {
    const NAMES: &'static [(&'static str, InitialHealth)] = &[("up", InitialHealth::Up), ("down", InitialHealth::Down)];
}

/// What a probe does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthKind {
    /// Connects.
    Tcp,
    /// Connects and sends `GET path`; a status among `expect` is a success.
    Http {
        /// The path, beginning with `/`.
        path: String,
        /// The `Host` header; `None`: the backend's address.
        host: Option<String>,
        /// Accepted status codes, inclusive ranges.
        expect: Vec<(u16, u16)>,
    },
    /// Nothing marks a backend down; a failed connect keeps it out for a short back-off.
    Off,
}

impl HealthKind {
    /// An HTTP probe with the defaults.
    pub fn http() -> HealthKind {
        HealthKind::Http { path: "/".to_owned(), host: None, expect: vec![(200, 200)] }
    }

    /// What a probe does, without how.
    pub fn probe(&self) -> Probe {
        match self {
            HealthKind::Tcp => Probe::Tcp,
            HealthKind::Http { .. } => Probe::Http,
            HealthKind::Off => Probe::Off,
        }
    }
}

/// What users call the kinds of probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// [`HealthKind::Tcp`].
    Tcp,
    /// [`HealthKind::Http`].
    Http,
    /// [`HealthKind::Off`].
    Off,
}

impl Words for Probe {
    const NAMES: &'static [(&'static str, Probe)] = &[("tcp", Probe::Tcp), ("http", Probe::Http), ("off", Probe::Off)];
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its name, unique in the pool; its address unless it was given one.
    pub name: String,
    /// Where it is.
    pub address: Address,
    /// Its share; 0 takes no new connections.
    pub weight: u16,
    /// Most connections at once.
    pub max_connections: Option<u32>,
    /// Serves only when no primary can.
    pub backup: bool,
    /// Overrides the pool's setting.
    pub send_proxy: Option<SendProxy>,
}

impl Pool {
    /// The header that this backend of it expects.
    pub fn header_for(&self, backend: &Backend) -> Option<ProxyVersion> {
        backend.send_proxy.map_or(self.send_proxy, SendProxy::version)
    }
}

impl Backend {
    /// A backend with the defaults, named by its address.
    pub fn at(address: Address) -> Backend {
        let name = address.to_string();
        Backend { name, address, weight: defaults::WEIGHT, max_connections: None, backup: false, send_proxy: None }
    }
}

impl Default for Health {
    fn default() -> Self {
        Health {
            kind: HealthKind::Tcp,
            initial: InitialHealth::Up,
            port: None,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
        }
    }
}

/// Defaults that are wanted where there is no model.
pub mod defaults {
    use std::time::Duration;

    /// The name of the listener and the pool that flags make.
    pub const NAME: &str = "default";
    /// How soon a peer that has vanished is noticed. The kernel's own defaults take over two hours.
    pub const DEAD_PEER_TIMEOUT: Duration = Duration::from_secs(120);
    /// A backend's share.
    pub const WEIGHT: u16 = 1;
}
