//! `tcplb demo`: three backends, the balancer and a client in one process. In about ten seconds all serve, one
//! backend stops, the balancer notices, and the backend returns.
//!
//! Nothing is simulated: all parts use real sockets, and the balancer is the one that `tcplb --listen … --backend …`
//! runs. Only the moment of the stop is chosen, between two requests. With any balancer, a request that a server has
//! begun to answer is lost with the server.
//!
//! The admin API listens on loopback at a free port. The demo prints the address of its page and opens no browser: many
//! servers have none. After the tour the client goes on, so that the page and `tcplb top` have something to show.

mod client;
mod spread;

use super::backend::{Options, Server};
use super::crash;
use super::signals::{self, Signals};
use super::terminal;
use crate::app::{self, Running};
use crate::base::address::abstract_name;
use crate::base::{Address, Endpoint, Listen};
use crate::config::model::{self, Health, HealthKind, Model};
use client::{Client, Counts};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

const NAMES: [&str; 3] = ["web1", "web2", "web3"];
/// The index of the backend that stops.
const VICTIM: usize = 1;
const HEALTH_INTERVAL: Duration = Duration::from_millis(300);
const REQUESTS_PER_SECOND: u32 = 150;
/// How often the spread is printed.
const LINE: Duration = Duration::from_millis(500);
/// How often the demonstration checks for events.
const LOOK: Duration = Duration::from_millis(20);
/// How long each part lasts.
const CHAPTER: Duration = Duration::from_secs(3);
/// How long the balancer may take to notice.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the demonstration ended early.
#[derive(Debug)]
enum Ended {
    /// A signal came, or stdout has no reader any more.
    ByUser,
    /// An expected event did not happen, or a step failed.
    Failed(String),
}

/// Runs the demo. With `once` it ends after the tour, and a lost request is an error.
pub fn run(listen: &Listen, once: bool) -> Result<(), String> {
    crash::end_process_on_panic();
    let signals = signals::receiver().map_err(|error| format!("can't handle signals: {error}"))?;
    let mut backends = Vec::new();
    for name in NAMES {
        let started = start_backend(name, Listen(Address::Inet((Ipv4Addr::LOCALHOST, 0).into())));
        backends.push(Some(started.map_err(|error| format!("can't start {name}: {error}"))?));
    }
    let model = model(listen, &backends);
    let running = app::start(model).map_err(|error| error.to_string())?;
    let remote = running.remote();
    let outcome = show(&running, &mut backends, &signals, once);
    remote.stop();
    let ended = running.wait();
    match outcome {
        Ok(()) => ended,
        Err(Ended::ByUser) if once => Err("the demonstration was interrupted".to_owned()),
        Err(Ended::ByUser) => Ok(()),
        Err(Ended::Failed(why)) => Err(why),
    }
}

fn show(running: &Running, backends: &mut [Option<Server>], signals: &Signals, once: bool) -> Result<(), Ended> {
    let Some(front) = running.listeners().first().map(|bound| bound.endpoint.clone()) else {
        return Err(Ended::Failed("the balancer has no listener".to_owned()));
    };
    let Some(admin) = running.admin().first() else {
        return Err(Ended::Failed("the balancer has no admin API".to_owned()));
    };
    introduce(&front, admin, backends)?;
    let client = Client::start(reachable(&front), NAMES.to_vec(), REQUESTS_PER_SECOND)
        .map_err(|error| Ended::Failed(format!("can't start the client: {error}")))?;
    let now = Instant::now();
    let tour = Tour { running, client: &client, signals, begun: now, shown: now, last: client.counts() };
    tour.walk(backends)?;
    if once {
        let counts = client.stop();
        summarise(&counts)?;
        return match counts.failed {
            0 => Ok(()),
            failed => Err(Ended::Failed(format!(
                "{failed} requests failed, the last one: {}",
                counts.why.unwrap_or_default()
            ))),
        };
    }
    summarise(&client.counts())?;
    invite(&front, admin)?;
    signals.wait_for_stop();
    Ok(())
}

/// The demonstration: its steps and its output.
struct Tour<'a> {
    running: &'a Running,
    client: &'a Client,
    signals: &'a Signals,
    begun: Instant,
    /// When the last line was due.
    shown: Instant,
    /// The counts at that line.
    last: Counts,
}

impl Tour<'_> {
    fn walk(mut self, backends: &mut [Option<Server>]) -> Result<(), Ended> {
        let name = NAMES[VICTIM];
        let address = backends[VICTIM].as_ref().and_then(|server| server.addr().cloned());
        self.watch(CHAPTER, |_| false)?;

        say(format_args!("- stopping {name}"))?;
        {
            let _quiet = self.client.between_requests();
            backends[VICTIM] = None;
        }
        let after = self.notice(|tour| !tour.is_up(), "that it is gone")?;
        say(format_args!(
            "- tcplb noticed after {:.1} s: {name} is down, the others share its clients",
            after.as_secs_f64()
        ))?;
        self.watch(CHAPTER, |_| false)?;

        say(format_args!("- starting {name} again"))?;
        backends[VICTIM] = Some(self.restart(name, address)?);
        let before = self.client.counts().answered[VICTIM];
        let returned = |tour: &Self| tour.is_up() && tour.client.counts().answered[VICTIM] > before;
        let after = self.notice(returned, "that it is back")?;
        say(format_args!("- tcplb noticed after {:.1} s: {name} is up and serves again", after.as_secs_f64()))?;
        self.watch(CHAPTER, |_| false)?;
        Ok(())
    }

    fn is_up(&self) -> bool {
        self.running.snapshot().pools.first().is_some_and(|pool| pool.up.get(VICTIM))
    }

    /// Waits until `noticed` holds, and returns how long that took.
    fn notice(&mut self, noticed: impl Fn(&Self) -> bool, what: &str) -> Result<Duration, Ended> {
        let begun = Instant::now();
        if self.watch(PATIENCE, noticed)? {
            return Ok(begun.elapsed());
        }
        let (name, patience) = (NAMES[VICTIM], PATIENCE.as_secs());
        Err(Ended::Failed(format!("tcplb did not notice about {name} {what} within {patience} s")))
    }

    /// Prints the spread for this long, or until `so` holds; returns whether it does.
    fn watch(&mut self, time: Duration, so: impl Fn(&Self) -> bool) -> Result<bool, Ended> {
        let end = Instant::now() + time;
        loop {
            if so(self) {
                return Ok(true);
            }
            let now = Instant::now();
            if now >= end {
                return Ok(false);
            }
            if now >= self.shown + LINE {
                let counts = self.client.counts();
                let line = spread::line(now - self.begun, &NAMES, &self.last, &counts, terminal::colours());
                say(line)?;
                (self.shown, self.last) = (self.shown + LINE, counts);
            }
            pause(self.signals, LOOK)?;
        }
    }

    /// Starts the backend on its former port. The port may be busy for a moment: a connect to it while it was closed
    /// may have connected to itself (a TCP simultaneous open).
    fn restart(&self, name: &str, address: Option<Endpoint>) -> Result<Server, Ended> {
        let Some(Endpoint::Inet(at)) = address else {
            return Err(Ended::Failed(format!("{name} had no address")));
        };
        let end = Instant::now() + PATIENCE;
        loop {
            match start_backend(name, Listen(Address::Inet(at))) {
                Ok(server) => return Ok(server),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                    pause(self.signals, LOOK)?;
                }
                Err(error) => return Err(Ended::Failed(format!("can't start {name} again on {at}: {error}"))),
            }
        }
    }
}

fn pause(signals: &Signals, time: Duration) -> Result<(), Ended> {
    if signals.stops_within(time) { Err(Ended::ByUser) } else { Ok(()) }
}

fn say(line: impl std::fmt::Display) -> Result<(), Ended> {
    terminal::show(line).map_err(|_| Ended::ByUser)
}

fn introduce(front: &Endpoint, admin: &Endpoint, backends: &[Option<Server>]) -> Result<(), Ended> {
    say("Three backends:")?;
    for server in backends.iter().flatten() {
        let address = server.addr().map(Endpoint::to_string).unwrap_or_default();
        say(format_args!("  {} on {address}", server.name()))?;
    }
    say(format_args!("tcplb listens on {front} and gives each connection to the next backend in turn."))?;
    say(format_args!("The status page: http://{admin}/"))?;
    say(format_args!(
        "A client sends {REQUESTS_PER_SECOND} requests a second, each on a new connection. Share of answers:"
    ))?;
    say("")
}

fn summarise(counts: &Counts) -> Result<(), Ended> {
    let total = counts.answered.iter().sum::<u64>() + counts.failed;
    let each: Vec<String> = NAMES.iter().zip(&counts.answered).map(|(name, count)| format!("{name} {count}")).collect();
    say(format_args!("\n{total} requests, {} failed. Answered by {}.", counts.failed, each.join(", ")))
}

/// What to look at once the tour is over.
fn invite(front: &Endpoint, admin: &Endpoint) -> Result<(), Ended> {
    say("The client goes on until Ctrl-C. In another terminal, try:")?;
    say(format_args!("  {}", example_command(front)))?;
    say(format_args!("  tcplb status --admin {admin}"))?;
    if cfg!(feature = "top") {
        say(format_args!("  tcplb top --admin {admin}"))?;
    }
    Ok(())
}

fn start_backend(name: &str, listen: Listen) -> io::Result<Server> {
    let name = Some(name.to_owned());
    let (latency, work) = (Duration::ZERO, Duration::ZERO);
    Server::start(Options { listen, name, latency, work, failing: false, echo: false })
}

fn model(listen: &Listen, backends: &[Option<Server>]) -> Model {
    let members = backends.iter().flatten().filter_map(|server| {
        let Some(Endpoint::Inet(at)) = server.addr() else { return None };
        Some(model::Backend { name: server.name().to_owned(), ..model::Backend::at(Address::Inet(*at)) })
    });
    let kind = HealthKind::http();
    let pool = model::Pool {
        health: Health { kind, interval: HEALTH_INTERVAL, timeout: HEALTH_INTERVAL, ..Health::default() },
        backends: members.collect(),
        ..model::Pool::default()
    };
    // Two event loops, so that it runs alike on any machine; a short drain, so that Ctrl-C ends it soon.
    let shutdown_timeout = Duration::from_millis(500);
    let admin = Some(Listen(Address::Inet((Ipv4Addr::LOCALHOST, 0).into())));
    let global = model::Global { workers: 2, shutdown_timeout, admin, ..model::Global::default() };
    let listeners = vec![model::Listener { bind: vec![listen.clone()], ..model::Listener::default() }];
    Model { global, listeners, pools: vec![pool] }
}

/// The address that reaches a listener on `front`, which may be every interface.
fn reachable(front: &Endpoint) -> Endpoint {
    match front {
        Endpoint::Inet(at) if at.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            Endpoint::Inet(SocketAddr::from((Ipv4Addr::LOCALHOST, at.port())))
        }
        Endpoint::Inet(at) if at.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED) => {
            Endpoint::Inet(SocketAddr::from((Ipv4Addr::LOCALHOST, at.port())))
        }
        other => other.clone(),
    }
}

fn example_command(front: &Endpoint) -> String {
    match reachable(front) {
        Endpoint::Inet(at) => format!("curl http://{at}/"),
        Endpoint::Unix(path) => match abstract_name(&path) {
            Some(name) => format!("curl --abstract-unix-socket {} http://localhost/", String::from_utf8_lossy(name)),
            None => format!("curl --unix-socket {} http://localhost/", path.display()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_interface_is_reached_on_loopback() {
        let ask = |at: &str| example_command(&Endpoint::Inet(at.parse().unwrap()));
        assert_eq!(ask("[::]:80"), "curl http://127.0.0.1:80/");
        assert_eq!(ask("0.0.0.0:80"), "curl http://127.0.0.1:80/");
        assert_eq!(ask("[::1]:80"), "curl http://[::1]:80/");
        let unix = Endpoint::Unix(std::path::Path::new("/run/a.sock").into());
        assert_eq!(example_command(&unix), "curl --unix-socket /run/a.sock http://localhost/");
    }

    #[test]
    fn the_demo_s_model_has_all_three_backends() {
        let backends: Vec<_> = NAMES
            .iter()
            .map(|name| Some(start_backend(name, Listen::parse("127.0.0.1:0").unwrap()).unwrap()))
            .collect();
        let model = model(&Listen::parse("127.0.0.1:0").unwrap(), &backends);
        let names: Vec<&str> = model.pools[0].backends.iter().map(|backend| backend.name.as_str()).collect();
        assert_eq!(names, NAMES);
    }
}
