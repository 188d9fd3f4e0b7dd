//! What work costs in memory allocations: nothing per relayed chunk, at most one per connection. Counted by an
//! instrumented allocator around a balancer in this very process, so the peers here must not allocate either.

use parking_lot::Mutex;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use tcplb::app::{self, Running};
use tcplb::base::{Address, Endpoint, Listen};
use tcplb::config::model::{Backend, Engine, Global, Health, HealthKind, Listener, Model, Pool};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// One measurement at a time: the counter is the process's.
static ALONE: Mutex<()> = Mutex::new(());

/// Accepts one connection after the other and echoes, without allocating.
fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("its address");
    thread::spawn(move || {
        let mut buffer = [0; 65_536];
        while let Ok((mut stream, _)) = listener.accept() {
            while let Ok(got) = stream.read(&mut buffer) {
                if got == 0 || stream.write_all(&buffer[..got]).is_err() {
                    break;
                }
            }
        }
    });
    at
}

fn balancer(backend: SocketAddr, relay: Engine) -> (Running, SocketAddr) {
    let health = Health { kind: HealthKind::Off, ..Health::default() };
    let pool = Pool { health, backends: vec![Backend::at(Address::Inet(backend))], ..Pool::default() };
    let bind = vec![Listen::parse("127.0.0.1:0").expect("an address")];
    let listeners = vec![Listener { bind, ..Listener::default() }];
    let global = Global { relay, ..Global::default() };
    let running = app::start(Model { global, listeners, pools: vec![pool] }).expect("it starts");
    let Endpoint::Inet(at) = running.listeners()[0].endpoint else { panic!("a TCP listener") };
    (running, at)
}

fn ping(stream: &mut TcpStream, size: usize, buffer: &mut [u8]) {
    let buffer = &mut buffer[..size];
    stream.write_all(buffer).expect("sent");
    stream.read_exact(buffer).expect("echoed");
}

fn allocations(mut work: impl FnMut()) -> usize {
    let region = Region::new(ALLOCATOR);
    work();
    let change = region.change();
    change.allocations + change.reallocations
}

#[test]
fn relaying_allocates_nothing_per_request() {
    let _alone = ALONE.lock();
    for engine in [Engine::Copy, Engine::Splice, Engine::Adaptive] {
        let (running, at) = balancer(echo_server(), engine);
        let mut stream = TcpStream::connect(at).expect("connected");
        let mut buffer = vec![7; 32_768];
        // The first round fills what is kept: spare buffers, pipes, the list of those whose counters moved.
        (0..100).for_each(|_| ping(&mut stream, 32_768, &mut buffer));
        let count = allocations(|| {
            (0..5_000).for_each(|_| ping(&mut stream, 64, &mut buffer));
            (0..500).for_each(|_| ping(&mut stream, 32_768, &mut buffer));
        });
        // A few for what the test harness does beside it.
        assert!(count < 20, "{engine:?}: {count} allocations in 5 500 requests");
        running.remote().stop();
        running.remote().stop();
        running.wait().expect("it ends");
    }
}

#[test]
fn a_short_connection_allocates_at_most_once() {
    let _alone = ALONE.lock();
    let (running, at) = balancer(echo_server(), Engine::Adaptive);
    let mut buffer = [7; 64];
    let mut connections = |count| {
        for _ in 0..count {
            let mut stream = TcpStream::connect(at).expect("connected");
            ping(&mut stream, 64, &mut buffer);
        }
    };
    connections(50);
    let count = allocations(|| connections(500));
    assert!(count <= 500, "{count} allocations for 500 connections");
    running.remote().stop();
    running.remote().stop();
    running.wait().expect("it ends");
}
