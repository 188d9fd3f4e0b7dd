//! What health checks cost: 1 000 backends probed every second, and the prober thread's share of a core.
//!
//! `cargo run --release --example bench-prober [tcp|http|dead] [BACKENDS] [SECONDS]`
//!
//! The backends are one listener on the loopback interface (none for `dead`). So the kernel does their half of the work
//! on the prober's time too, and real backends cost less.

use std::collections::HashMap;
use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tcplb::base::{Address, Endpoint};
use tcplb::config::model::{self, Global, Health, HealthKind, Model};
use tcplb::{pool, prober};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let kind = arguments.next().unwrap_or_else(|| "tcp".to_owned());
    let backends: usize = arguments.next().map_or(Ok(1_000), |text| text.parse())?;
    let seconds: u64 = arguments.next().map_or(Ok(20), |text| text.parse())?;

    let at = listen(&kind)?;
    let health = Health {
        kind: match kind.as_str() {
            "http" => HealthKind::Http { path: "/".to_owned(), host: None, expect: vec![(200, 200)] },
            _ => HealthKind::Tcp,
        },
        interval: Duration::from_secs(1),
        ..Health::default()
    };
    let snapshot = Arc::new(snapshot(health, backends, at)?);
    let prober = prober::spawn(snapshot.clone(), Arc::default(), Box::new(|_| {}))?;
    let stat = stat_of_prober()?;
    let probes = || -> u64 {
        let of = |member: &pool::Member| {
            member.backend.counters.probes.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>()
        };
        snapshot.pools[0].members.iter().map(of).sum()
    };

    // The first second is special: everything is new.
    std::thread::sleep(Duration::from_secs(3));
    let (begin, cpu, done) = (Instant::now(), cpu_of(&stat)?, probes());
    std::thread::sleep(Duration::from_secs(seconds));
    let (took, cpu, done) = (begin.elapsed().as_secs_f64(), cpu_of(&stat)? - cpu, probes() - done);
    println!(
        "{kind}: {backends} backends, {:.0} probes/s, {:.2} % of a core, {:.1} µs a probe, {} of them up",
        done as f64 / took,
        100.0 * cpu.as_secs_f64() / took,
        cpu.as_secs_f64() * 1e6 / done as f64,
        snapshot.pools[0].up.count(),
    );
    prober.stop();
    Ok(())
}

fn listen(kind: &str) -> Result<SocketAddr, Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let at = listener.local_addr()?;
    if kind == "dead" {
        return Ok(at);
    }
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    Ok(at)
}

fn snapshot(health: Health, count: usize, at: SocketAddr) -> Result<pool::Snapshot, Box<dyn Error>> {
    let backend = |index| model::Backend { name: format!("backend-{index}"), ..model::Backend::at(Address::Inet(at)) };
    let backends: Vec<model::Backend> = (0..count).map(backend).collect();
    let endpoints = |backend: &model::Backend| (("bench".to_owned(), backend.name.clone()), vec![Endpoint::Inet(at)]);
    let resolved: HashMap<_, _> = backends.iter().map(endpoints).collect();
    let pool = model::Pool { name: "bench".to_owned(), health, backends, ..model::Pool::default() };
    let global = Global::default();
    Ok(pool::build(&Model { global, listeners: Vec::new(), pools: vec![pool] }, &resolved))
}

/// The scheduler's account of the prober thread; its name is set by the time `spawn` returns, or soon after.
fn stat_of_prober() -> Result<std::path::PathBuf, Box<dyn Error>> {
    loop {
        for task in std::fs::read_dir("/proc/self/task")? {
            let path = task?.path();
            if std::fs::read_to_string(path.join("comm"))?.trim() == "prober" {
                return Ok(path.join("schedstat"));
            }
        }
    }
}

fn cpu_of(stat: &std::path::Path) -> Result<Duration, Box<dyn Error>> {
    let text = std::fs::read_to_string(stat)?;
    Ok(Duration::from_nanos(text.split(' ').next().ok_or("empty schedstat")?.parse()?))
}
