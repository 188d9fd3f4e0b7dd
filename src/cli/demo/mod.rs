//! `tcplb demo`: three backends, the balancer over them and a client, all in one process, and a tour of about ten
//! seconds: serve, lose a backend, notice, serve on, see it come back.
//!
//! Nothing is staged: backends, balancer and client talk over real sockets, and the balancer is the one that
//! `tcplb --listen … --backend …` runs. Only the moment of the "crash" is chosen, between two requests of the client: a
//! request that a server has already begun to answer dies with it, whoever balances.

mod client;
mod spread;

use super::backend::{Options, Server};
use super::crash;
use super::signals::{self, Signals};
use super::terminal;
use crate::app::{self, Running};
use crate::base::address::abstract_name;
use crate::base::{Address, Endpoint, Listen};
use crate::config::model::{self, Health, HealthKind, Model, defaults};
use crate::policy::balance;
use client::{Client, Counts};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

const NAMES: [&str; 3] = ["web1", "web2", "web3"];
/// Which of them dies.
const VICTIM: usize = 1;
const HEALTH_INTERVAL: Duration = Duration::from_millis(300);
const REQUESTS_PER_SECOND: u32 = 150;
/// How often the spread is shown.
const LINE: Duration = Duration::from_millis(500);
/// How often the tour looks whether something has happened.
const LOOK: Duration = Duration::from_millis(20);
/// How long each chapter lasts.
const CHAPTER: Duration = Duration::from_secs(3);
/// How long the balancer may take to notice.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a tour ended early.
#[derive(Debug)]
enum Ended {
    /// A signal, or nobody reads the output any more.
    ByUser,
    /// Something did not happen, or could not be done.
    Failed(String),
}

/// Runs the demo. With `once` it ends after the tour, and a lost request is an error.
pub fn run(listen: &Listen, once: bool) -> Result<(), String> {
    crash::end_process_on_panic();
    let signals = signals::receiver().map_err(|error| format!("can't listen to signals: {error}"))?;
    let mut backends = Vec::new();
    for name in NAMES {
        let started = start_backend(name, Listen(Address::Inet((Ipv4Addr::LOCALHOST, 0).into())));
        backends.push(Some(started.map_err(|error| format!("can't start {name}: {error}"))?));
    }
    let model = model(listen, &backends).ok_or("the default algorithm is missing from this build")?;
    let running = app::start(model).map_err(|error| error.to_string())?;
    let remote = running.remote();
    let outcome = show(&running, &mut backends, &signals, once);
    remote.stop();
    let ended = running.wait();
    match outcome {
        Ok(()) => ended,
        Err(Ended::ByUser) if once => Err("the tour was interrupted".to_owned()),
        Err(Ended::ByUser) => Ok(()),
        Err(Ended::Failed(why)) => Err(why),
    }
}

fn show(running: &Running, backends: &mut [Option<Server>], signals: &Signals, once: bool) -> Result<(), Ended> {
    let Some(front) = running.listeners().first().map(|bound| bound.endpoint.clone()) else {
        return Err(Ended::Failed("the balancer has no listener".to_owned()));
    };
    introduce(&front, backends)?;
    let client = Client::start(reachable(&front), NAMES.to_vec(), REQUESTS_PER_SECOND)
        .map_err(|error| Ended::Failed(format!("can't start the client: {error}")))?;
    let now = Instant::now();
    let tour = Tour { running, client: &client, signals, begun: now, shown: now, last: client.counts() };
    let result = tour.walk(backends);
    let counts = client.stop();
    result.and_then(|()| {
        summarise(&counts)?;
        if once {
            return match counts.failed {
                0 => Ok(()),
                failed => Err(Ended::Failed(format!(
                    "{failed} requests failed, the last one: {}",
                    counts.why.unwrap_or_default()
                ))),
            };
        }
        say(format_args!("\nTry it yourself: {}\nCtrl-C ends the demo.", how_to_ask(&front)))?;
        signals.wait_for_stop();
        Ok(())
    })
}

/// The tour itself: what happens when, and what is shown of it.
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

    /// Waits until the balancer has noticed something; says how long it took.
    fn notice(&mut self, noticed: impl Fn(&Self) -> bool, what: &str) -> Result<Duration, Ended> {
        let begun = Instant::now();
        if self.watch(PATIENCE, noticed)? {
            return Ok(begun.elapsed());
        }
        let (name, patience) = (NAMES[VICTIM], PATIENCE.as_secs());
        Err(Ended::Failed(format!("tcplb did not notice about {name} {what} within {patience} s")))
    }

    /// Shows the spread for this long, or until something is so; says whether it is.
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

    /// Starts the backend on the port it had. Somebody else may hold the port for a moment: a connection made to it
    /// while nobody listened can, by a quirk of TCP, have met itself.
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

fn introduce(front: &Endpoint, backends: &[Option<Server>]) -> Result<(), Ended> {
    say("Three backends, started for the occasion:")?;
    for server in backends.iter().flatten() {
        let address = server.addr().map(Endpoint::to_string).unwrap_or_default();
        say(format_args!("  {} on {address}", server.name()))?;
    }
    say(format_args!("tcplb listens on {front} and gives each client to the next one in turn."))?;
    say(format_args!(
        "A client asks {REQUESTS_PER_SECOND} times a second, on a new connection each time. Who answers it:"
    ))?;
    say("")
}

fn summarise(counts: &Counts) -> Result<(), Ended> {
    let total = counts.answered.iter().sum::<u64>() + counts.failed;
    let each: Vec<String> = NAMES.iter().zip(&counts.answered).map(|(name, count)| format!("{name} {count}")).collect();
    say(format_args!("\n{total} requests, {} failed. Answered by {}.", counts.failed, each.join(", ")))
}

fn start_backend(name: &str, listen: Listen) -> io::Result<Server> {
    let name = Some(name.to_owned());
    let (latency, work) = (Duration::ZERO, Duration::ZERO);
    Server::start(Options { listen, name, latency, work, failing: false, echo: false })
}

fn model(listen: &Listen, backends: &[Option<Server>]) -> Option<Model> {
    let members = backends.iter().flatten().filter_map(|server| {
        let Some(Endpoint::Inet(at)) = server.addr() else { return None };
        Some(model::Backend { name: server.name().to_owned(), ..model::Backend::at(Address::Inet(*at)) })
    });
    let path = defaults::HEALTH_PATH.to_owned();
    let kind = HealthKind::Http { path, host: None, expect: vec![defaults::EXPECT_STATUS] };
    let pool = model::Pool {
        algorithm: balance::find(defaults::ALGORITHM)?,
        health: Health { kind, interval: HEALTH_INTERVAL, timeout: HEALTH_INTERVAL, ..Health::default() },
        backends: members.collect(),
        ..model::Pool::default()
    };
    // Two event loops, to be like the real thing on any machine; a drain that does not keep Ctrl-C waiting.
    let shutdown_timeout = Duration::from_millis(500);
    let global = model::Global { workers: 2, shutdown_timeout, ..model::Global::default() };
    let listeners = vec![model::Listener { bind: vec![listen.clone()], ..model::Listener::default() }];
    Some(Model { global, listeners, pools: vec![pool] })
}

/// The address to connect to in order to reach what listens on `front`, which may be every interface.
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

fn how_to_ask(front: &Endpoint) -> String {
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
    fn what_listens_everywhere_is_asked_on_loopback() {
        let ask = |at: &str| how_to_ask(&Endpoint::Inet(at.parse().unwrap()));
        assert_eq!(ask("[::]:80"), "curl http://127.0.0.1:80/");
        assert_eq!(ask("0.0.0.0:80"), "curl http://127.0.0.1:80/");
        assert_eq!(ask("[::1]:80"), "curl http://[::1]:80/");
        let unix = Endpoint::Unix(std::path::Path::new("/run/a.sock").into());
        assert_eq!(how_to_ask(&unix), "curl --unix-socket /run/a.sock http://localhost/");
    }

    #[test]
    fn the_demo_s_model_has_all_three() {
        let backends: Vec<_> = NAMES
            .iter()
            .map(|name| Some(start_backend(name, Listen::parse("127.0.0.1:0").unwrap()).unwrap()))
            .collect();
        let model = model(&Listen::parse("127.0.0.1:0").unwrap(), &backends).unwrap();
        let names: Vec<&str> = model.pools[0].backends.iter().map(|backend| backend.name.as_str()).collect();
        assert_eq!(names, NAMES);
    }
}
