//! What questions about 100 000 connections cost a worker: the slices that its loop spends on a list and on an order to close.
//!
//! `cargo run --release --example bench-inspect [CONNECTIONS]`
//!
//! The connections are real sessions of a real driver over sockets that do nothing. So the system calls of a list (one for
//! each row) and of a close (four for each connection) are not in the figures; `bench/connections` has those.

use std::cell::RefCell;
use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tcplb::admission::ConnectionLimit;
use tcplb::base::{Address, Endpoint, Tick};
use tcplb::clock;
use tcplb::config::model::{self, Global, Model};
use tcplb::inspect::{self, Action, Filter, Inspect, Inspection, LIMIT_MAX, Question, Sort};
use tcplb::pool::{self, DialSource, Resolved};
use tcplb::relay::{AfterBytes, Engine, Io, RelayResources};
use tcplb::session::{ConnectionIds, Fact, Ledger, Preamble};
use tcplb::worker::driver::{Accepted, Dialed, Driver, FirstBytes, Net, Transport};
use tcplb::worker::token::Token;

/// As in the worker.
const SLICE: Duration = Duration::from_micros(50);

fn main() -> Result<(), Box<dyn Error>> {
    let count: usize = std::env::args().nth(1).map_or(Ok(100_000), |text| text.parse())?;
    let at: SocketAddr = "192.0.2.1:80".parse()?;
    let backend = model::Backend::at(Address::Inet(at));
    let resolved = Resolved::from([(("web".to_owned(), backend.name.clone()), vec![Endpoint::Inet(at)])]);
    let pools = vec![model::Pool { name: "web".into(), backends: vec![backend], ..model::Pool::default() }];
    let listeners = vec![model::Listener { pool: "web".into(), ..model::Listener::default() }];
    let snapshot = pool::build(&Model { global: Global::default(), listeners, pools }, &resolved);
    let relay = RelayResources::new(Engine::Copy, 1);
    let mut driver = Driver::new(Silent, Nothing, relay, ConnectionIds::new(0, 0), 1, clock::now());
    let limit = ConnectionLimit::new(count);
    for number in 0..count {
        let listener = snapshot.listeners[0].clone();
        let mut guard = listener.admission.reserve(&limit).map_err(|_| "no room")?;
        guard.accepted();
        let [_, high, middle, low] = (number as u32).to_be_bytes();
        let client = Some(Endpoint::Inet(SocketAddr::from(([10, high, middle, low], 1000))));
        driver.set_now(clock::now());
        driver.serve(Accepted {
            socket: (),
            client,
            port: 80,
            transport: Transport::Tcp,
            preamble: Preamble::None,
            listener,
            guard,
        });
    }
    println!("{} connections\n", driver.len());
    println!("| question | slices | p50 | p99 | longest | in all |\n|---|--:|--:|--:|--:|--:|");
    let worker = Worker { driver: RefCell::new(&mut driver), slices: RefCell::default() };
    let list = |sort, limit| Action::List { sort, limit };
    for (name, action) in [
        ("the 1 000 oldest", list(Sort::Age, 1_000)),
        ("the 1 000 with the most bytes", list(Sort::Bytes, 1_000)),
        ("all", list(Sort::Age, LIMIT_MAX)),
        ("an order to close all", Action::Close),
    ] {
        let answer = inspect::ask(&worker, Question { filter: Filter::default(), action }, clock::now);
        let mut slices = worker.slices.take();
        slices.sort();
        let at = |share: f64| slices[((slices.len() - 1) as f64 * share) as usize];
        println!(
            "| {name}: {} | {} | {:?} | {:?} | {:?} | {:?} |",
            answer.rows.len() + answer.closed as usize,
            slices.len(),
            at(0.5),
            at(0.99),
            at(1.0),
            slices.iter().sum::<Duration>()
        );
    }
    Ok(())
}

/// The one worker: answers at once, and notes how long each slice took.
struct Worker<'a> {
    driver: RefCell<&'a mut Driver<Silent, Nothing>>,
    slices: RefCell<Vec<Duration>>,
}

impl Inspect for Worker<'_> {
    fn workers(&self) -> usize {
        1
    }

    fn put(&self, _: usize, mut inspection: Inspection) {
        let mut driver = self.driver.borrow_mut();
        loop {
            let begun = Instant::now();
            let end = clock::now() + SLICE;
            let is_complete = driver.inspect(&mut inspection, || clock::now() >= end);
            self.slices.borrow_mut().push(begun.elapsed());
            if is_complete {
                break;
            }
        }
        inspection.answer();
    }

    fn has_ended(&self, _: usize) -> bool {
        false
    }
}

struct Nothing;

impl Ledger for Nothing {
    fn record(&mut self, _: Fact<'_>, _: Tick) {}
}

/// Sockets that are connected at once, and on which nothing happens.
struct Silent;

impl Io for Silent {
    type Socket = ();
    type Pipe = ();

    fn recv(&mut self, (): &(), _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn send(&mut self, (): &(), _: &[u8], _: AfterBytes) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn pipe(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn fill(&mut self, (): &(), (): &(), _: usize) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn empty(&mut self, (): &(), (): &(), _: usize) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }
}

impl Net for Silent {
    fn release(&mut self, _: &Self::Socket) {}

    fn adopt(&mut self, (): &(), _: Token) -> io::Result<()> {
        Ok(())
    }

    fn dial(&mut self, _: &Endpoint, _: DialSource<'_>, _: Token, _: FirstBytes) -> io::Result<Dialed<()>> {
        Ok(Dialed { socket: (), is_connected: true, source: None })
    }

    fn has_bytes(&mut self, (): &()) -> io::Result<bool> {
        Ok(false)
    }

    fn peek(&mut self, (): &(), _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn local(&mut self, (): &()) -> Option<Endpoint> {
        None
    }

    fn outcome(&mut self, (): &()) -> Option<io::Error> {
        None
    }

    fn keep_alive(&mut self, (): &()) {}

    fn finish(&mut self, (): &()) {}

    fn unsent(&mut self, (): &()) -> u64 {
        0
    }

    fn reset(&mut self, (): ()) {}

    fn has_urgent_gaps(&self, _: &Endpoint) -> bool {
        false
    }
}
