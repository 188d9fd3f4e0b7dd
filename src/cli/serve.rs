//! The balancer in the foreground: starts it, logs what it serves, forwards signals, waits for the end.

use super::crash;
use super::signals::{self, Signal, Signals};
use crate::access_log::Reopener;
use crate::app::{self, Loader, Remote, Succession, Upgrades};
use crate::base::text::counted;
use crate::base::{Endpoint, duration};
use crate::config::advice;
use crate::config::discovered::is_discovered;
use crate::config::model::{self, Global, HealthKind, Model, Origin, Sandbox, Upgrade};
use crate::confine::Confinement;
use crate::control;
use crate::handover::{Link, Post, Refusal, Upgrader, pull};
use crate::kernel::helper::{self, Helper, Options};
use crate::launcher::Launcher;
use crate::logger;
use crate::preflight;
use crate::systemd;
use std::fmt::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;

/// Runs until a signal stops it. `file` has the path of the model's file and its loader, if there is one. `launched` leads to the process
/// whose launcher has started this one, `take_over` is where another one may listen. Fails with what could not be started and why.
pub fn run(
    model: Model,
    file: Option<(PathBuf, Loader)>,
    launched: Option<Link>,
    take_over: Option<&Path>,
) -> Result<(), String> {
    crash::end_process_on_panic();
    let confinement = Confinement::new(&model, file.as_ref().map(|(path, _)| path.as_path()))?;
    // This changes the environment, so it runs before any other thread.
    let stored = systemd::take_sockets()?;
    let launcher = match model.global.upgrade {
        Upgrade::On => Launcher::start().map_err(|error| format!("there is no launcher: {error}")).inspect_err(|why| {
            log::info!("`tcplb upgrade` will be refused: {why}");
        }),
        Upgrade::Off => Err("upgrade is off".to_owned()),
    };
    let kernel = kernel_helper(&model)?;
    let predecessor = match (launched, take_over) {
        // A launched process has the arguments of its predecessor.
        (Some(link), _) => Some(link),
        (None, Some(at)) => pull::connect(at)?.map(|channel| Link { post: Post::new(channel), pulled: true }),
        (None, None) => None,
    };
    // A predecessor takes its rules away.
    let leftover = kernel.is_none() && predecessor.is_none() && helper::has_table();
    // The manager takes messages of a process that the launcher has started only once the predecessor has announced it.
    let is_main = predecessor.as_ref().is_none_or(|link| link.pulled);
    let succession = Succession { launcher, predecessor, stored, kernel };
    let mut signals = None;
    // Signals are handled before the first line is logged: a script that waits for the line may send one at once.
    let listen = || {
        let arriving = signals::receiver()?;
        let stops = arriving.stops();
        signals = Some(arriving);
        Ok(stops)
    };
    let started = app::start_confined(model, file.map(|(_, loader)| loader), confinement, succession, listen);
    let (Some(mut running), Some(signals)) = (started.map_err(|error| error.to_string())?, signals) else {
        return Ok(());
    };
    for endpoint in crate::net::listen::unclaimed() {
        log::warn!("the service manager opened {endpoint}, but nothing is configured to listen there");
    }
    for listener in running.listeners() {
        log::info!(target: logger::ALWAYS, "listening on {}", listener.endpoint);
    }
    let published = running.published();
    let model = published.model();
    for line in introduction(&model) {
        log::info!(target: logger::ALWAYS, "{line}");
    }
    if leftover {
        log::warn!(
            "a tcplb before has left the nftables table `inet tcplb` in force, and no listener has engine = \"kernel\": `tcplb kernel \
             flush` removes it and ends its connections"
        );
    }
    let drift = control::drift(&published).0.into_iter();
    for change in drift.filter(|change| !matches!(change.origin, Origin::Source(_))) {
        log::info!("from the state file: {change}");
    }
    for warning in advice::of(&model).into_iter().chain(preflight::of_this_machine(&model)) {
        log::warn!("{warning}");
    }
    for endpoint in running.admin() {
        log::info!(target: logger::ALWAYS, "admin on {}", Reached(endpoint));
    }
    let (remote, log, upgrades) = (running.remote(), running.log_file(), running.upgrades());
    running.take_kept();
    let spawned = thread::Builder::new()
        .name("commands".to_owned())
        .spawn(move || forward_signals(signals, &remote, log.as_ref(), &upgrades));
    spawned.map_err(|error| format!("can't start a thread: {error}"))?;
    let taken_over = running.take_over();
    if taken_over.is_ok() {
        systemd::ready("running");
        running.check_keeping(is_main);
    }
    running.wait().and(taken_over)
}

/// What changes the kernel's rules, if a listener needs it.
fn kernel_helper(model: &Model) -> Result<Option<Helper>, String> {
    let Some(listener) = model.kernel_listeners().next() else { return Ok(None) };
    let Global { user, group, sandbox, .. } = &model.global;
    let options = Options { user: user.as_deref(), group: group.as_deref(), sandbox: *sandbox == Sandbox::Auto };
    let started = Helper::start(&options).map(Some);
    started.map_err(|failure| format!("listener {}: engine = \"kernel\": {failure}", listener.name))
}

/// Forwards signals to control and the access log. It waits only for signals, so a reload never delays a stop.
fn forward_signals(signals: Signals, remote: &Remote, log: Option<&Reopener>, upgrades: &Upgrades) {
    for signal in signals {
        match signal {
            // Control logs the outcome of these two.
            Signal::Stop => remote.stop(),
            Signal::Hangup => remote.reload_soon(),
            // The access log's thread logs the outcome.
            Signal::User1 => match log {
                Some(log) => log.reopen(),
                None => log::info!("SIGUSR1 ignored: there is no log file to reopen"),
            },
            Signal::User2 => {
                let upgrades = upgrades.clone();
                // The log has the outcome otherwise.
                let upgrade = move || match upgrades.upgrade() {
                    Err(Refusal::UnderWay) => log::info!("SIGUSR2 ignored: an upgrade is under way"),
                    Err(Refusal::Unavailable(why)) => log::info!("SIGUSR2 ignored: {why}"),
                    Err(Refusal::Failed(_)) | Ok(_) => {}
                };
                if let Err(error) = thread::Builder::new().name("upgrade".to_owned()).spawn(upgrade) {
                    log::error!("SIGUSR2: can't start a thread: {error}");
                }
            }
        }
    }
}

/// The lines logged after the addresses: one per listener with a limit, one per pool, and one per backend. Backends that sources
/// found before the start may be many thousands, so they have one line per pool.
fn introduction(model: &Model) -> Vec<String> {
    let limited = |listener: &model::Listener| {
        let (name, limit) = (&listener.name, listener.max_connections?);
        Some(format!("listener {name}: at most {}", counted(limit, "connection")))
    };
    let mut lines: Vec<String> = model.listeners.iter().filter_map(limited).collect();
    for pool in &model.pools {
        let backends = counted(pool.backends.len(), "backend");
        let (name, algorithm, health) = (&pool.name, pool.algorithm.name, Watched(&pool.health));
        lines.push(format!("pool {name}: {algorithm} over {backends}, {health}"));
        let (found, own): (Vec<_>, Vec<_>) = pool.backends.iter().partition(|backend| is_discovered(backend));
        lines.extend(own.into_iter().map(backend_line));
        if !found.is_empty() {
            lines.push(format!("pool {name}: {} found before this start", counted(found.len(), "backend")));
        }
    }
    lines
}

fn backend_line(backend: &model::Backend) -> String {
    let mut line = format!("backend {}", backend.name);
    let address = backend.address.to_string();
    if backend.name != address {
        push(&mut line, format_args!(" {address}"));
    }
    push(&mut line, format_args!(" weight {}", backend.weight));
    if let Some(limit) = backend.max_connections {
        push(&mut line, format_args!(" max-connections {limit}"));
    }
    if backend.backup {
        line.push_str(" backup");
    }
    line
}

fn push(line: &mut String, part: fmt::Arguments<'_>) {
    // Writing to a string can't fail.
    let _ = line.write_fmt(part);
}

/// An address in the form that a browser or `--admin` takes.
struct Reached<'a>(&'a Endpoint);

impl fmt::Display for Reached<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Endpoint::Inet(at) => write!(out, "http://{at}"),
            unix @ Endpoint::Unix(_) => unix.fmt(out),
        }
    }
}

struct Watched<'a>(&'a model::Health);

impl fmt::Display for Watched<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.kind {
            HealthKind::Off => return out.write_str("health off"),
            HealthKind::Tcp => out.write_str("tcp health")?,
            HealthKind::Http { path, .. } => write!(out, "http health of {path}")?,
            HealthKind::Agent => out.write_str("health by an agent")?,
            HealthKind::Script { .. } => out.write_str("health by a script")?,
        }
        if let Some(port) = self.0.port {
            write!(out, " on port {port}")?;
        }
        write!(out, " every {}", duration::written(self.0.interval))
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::Arguments;
    use super::super::flags;
    use super::*;
    use clap::Parser;

    fn lines(line: &str) -> Vec<String> {
        let arguments = Arguments::try_parse_from(line.split_whitespace()).unwrap();
        introduction(&flags::read(&arguments.balance, 1).unwrap().model)
    }

    #[test]
    fn the_start_logs_no_line_for_each_backend_of_a_source() {
        let arguments = Arguments::try_parse_from(["tcplb", "-l", ":80", "-b", "127.0.0.1:8081,name=web1"]).unwrap();
        let mut model = flags::read(&arguments.balance, 1).unwrap().model;
        let of_source = model::Backend { origin: Origin::Source("etcd".into()), ..model.pools[0].backends[0].clone() };
        model.pools[0].backends.extend(vec![of_source; 20_000]);
        let lines = introduction(&model);
        assert!(lines[0].starts_with("pool default: weighted-round-robin over 20001 backends, "), "{}", lines[0]);
        let own = "backend web1 127.0.0.1:8081 weight 1";
        assert_eq!(lines[1..], [own, "pool default: 20000 backends found before this start"]);
    }

    #[test]
    fn the_start_logs_the_pool_and_each_backend() {
        assert_eq!(
            lines("tcplb -l :80 -b 127.0.0.1:8081,name=web1 -b 127.0.0.1:8082,weight=5,max-connections=9,backup"),
            [
                "pool default: weighted-round-robin over 2 backends, tcp health every 2s",
                "backend web1 127.0.0.1:8081 weight 1",
                "backend 127.0.0.1:8082 weight 5 max-connections 9 backup",
            ]
        );
        assert_eq!(
            lines("tcplb -l :80 -b a:1 --health-path /up -t 500ms")[0],
            "pool default: weighted-round-robin over 1 backend, http health of /up every 500ms"
        );
        assert!(lines("tcplb -l :80 -b a:1 --health off")[0].ends_with("health off"));
    }
}
