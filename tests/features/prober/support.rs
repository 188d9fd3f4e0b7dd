//! What is observed, what is probed, and the prober on it.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tcplb::base::{Address, Endpoint};
use tcplb::config::model::{self, Global, Health, HealthKind, Model};
use tcplb::policy::health::{Class, ConnectFailure};
use tcplb::pool::{Backend, HealthReport, Note, Pool, Snapshot, build};
use tcplb::prober::{self, Prober};
pub use testkit::{BlackHole, Port, eventually, eventually_some};

pub const REFUSED: ConnectFailure = ConnectFailure::Os(111);
pub const HOUR: Duration = Duration::from_secs(3600);

// ── what is observed ──

struct Lines(Mutex<Vec<String>>);

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        // Debug lines (a first result of "up") are not promised.
        if record.target().starts_with("tcplb") && record.level() <= log::Level::Info {
            self.0.lock().push(format!("{} {}", record.level(), record.args()));
        }
    }

    fn flush(&self) {}
}

static LINES: Lines = Lines(Mutex::new(Vec::new()));

/// From now on [`lines`] has the lines of the log.
pub fn read_log() {
    let _ = log::set_logger(&LINES);
    log::set_max_level(log::LevelFilter::Debug);
}

/// The log lines that mention `name`; tests share one log, so each names its backends differently.
pub fn lines(name: &str) -> Vec<String> {
    LINES.0.lock().iter().filter(|line| line.contains(name)).cloned().collect()
}

// ── what is probed ──

/// Answers each request with what `answer` holds at that time; `None` keeps silent with the connection open.
pub fn http_server(answer: &Arc<Mutex<Option<&'static str>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let answer = answer.clone();
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let Some(text) = *answer.lock() else {
                silent.push(stream);
                continue;
            };
            read_request(&mut stream);
            let _ = stream.write_all(text.as_bytes());
        }
    });
    at
}

pub fn fixed(answer: Option<&'static str>) -> SocketAddr {
    http_server(&Arc::new(Mutex::new(answer)))
}

pub fn read_request(stream: &mut impl Read) -> String {
    let (mut text, mut buffer) = (Vec::new(), [0; 512]);
    while !text.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => text.extend_from_slice(&buffer[..count]),
        }
    }
    String::from_utf8(text).unwrap()
}

// ── the prober on it ──

pub fn tcp() -> Health {
    Health {
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(5),
        rise: 2,
        fall: 3,
        ..Health::default()
    }
}

pub fn http(path: &str) -> Health {
    Health { kind: HealthKind::Http { path: path.into(), host: None, expect: vec![(200, 299)] }, ..tcp() }
}

pub type Members<'a> = &'a [(&'a str, Vec<Endpoint>)];

pub fn at(address: SocketAddr) -> Vec<Endpoint> {
    vec![Endpoint::Inet(address)]
}

pub fn snapshot_of(pools: &[(&str, Health, Members<'_>)]) -> Snapshot {
    read_log();
    let mut resolved = HashMap::new();
    let pools = pools.iter().map(|(pool, health, members)| {
        let backends = members.iter().map(|(name, endpoints)| {
            resolved.insert((pool.to_string(), name.to_string()), endpoints.clone());
            let address = match endpoints.first() {
                Some(Endpoint::Inet(at)) => Address::Inet(*at),
                Some(Endpoint::Unix(path)) => Address::Unix(path.to_path_buf()),
                None => Address::Name("nowhere.invalid".into(), 80),
            };
            model::Backend { name: name.to_string(), ..model::Backend::at(address) }
        });
        model::Pool {
            name: pool.to_string(),
            health: health.clone(),
            backends: backends.collect(),
            ..model::Pool::default()
        }
    });
    let pools = pools.collect();
    let global = Global { shutdown_timeout: HOUR, ..Global::default() };
    build(&Model { global, listeners: Vec::new(), pools }, &resolved)
}

pub fn watch(health: Health, members: Members<'_>) -> (Arc<Pool>, Prober) {
    let snapshot = Arc::new(snapshot_of(&[("pool", health, members)]));
    (snapshot.pools[0].clone(), prober::spawn(snapshot, Arc::default(), Box::new(|_| {})).unwrap())
}

pub fn backend(pool: &Pool, index: usize) -> &Arc<Backend> {
    &pool.members[index].backend
}

pub fn report(pool: &Pool, index: usize) -> HealthReport {
    backend(pool, index).health.lock().clone()
}

pub fn probes_of(pool: &Pool, index: usize, class: Class) -> u64 {
    backend(pool, index).counters.probes[class as usize].load(Ordering::Relaxed)
}

pub fn probes(pool: &Pool, index: usize) -> u64 {
    Class::ALL.into_iter().map(|class| probes_of(pool, index, class)).sum()
}

#[track_caller]
pub fn decided(pool: &Pool) {
    eventually("all are probed", || (0..pool.members.len()).all(|index| probes(pool, index) > 0));
}

pub fn failed(pool: &Pool, index: usize) -> Note {
    Note::ConnectFailed { backend: backend(pool, index).id, failure: REFUSED }
}

/// The prober reads its messages in order: once it has answered this one, it has read those before.
pub fn all_read(prober: &Prober, snapshot: &Arc<Snapshot>) {
    assert!(prober.adopt(snapshot.clone()));
}
