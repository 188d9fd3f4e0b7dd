//! What the relay costs with each engine: 64 B, 4 KiB and 4 MiB moved by `relay::pump` between two real TCP connections
//! over loopback.
//!
//! `cargo bench --bench relay`
//!
//! One thread plays client, relay and server in turn, and only the time inside `pump` counts. That includes the kernel's
//! half of the work: on loopback a send delivers to the receiver before it returns.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mio::Poll;
use std::hint::black_box;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tcplb::net::{Keepalive, PIPE_SIZE, Pipe, Socket};
use tcplb::relay::{End, Engine, PIPES, Ready, RelayBuffer, RelayResources, pump};
use tcplb::worker::kernel::Kernel;

const ENGINES: [(&str, Engine); 3] =
    [("copy", Engine::Copy), ("splice", Engine::Splice), ("adaptive", Engine::Adaptive)];

const SIZES: [(&str, usize); 3] = [("64 B", 64), ("4 KiB", 4 << 10), ("4 MiB", 4 << 20)];

/// What client and server move in one call.
const CHUNK: usize = 128 * 1024;

/// One direction of a connection: client, relay, server.
struct Direction {
    client: TcpStream,
    source: End<Socket>,
    sink: End<Socket>,
    server: TcpStream,
    relay_buffer: RelayBuffer<Pipe>,
    shared: RelayResources<Pipe>,
    /// Its poll is never asked: readiness is not learned but tried.
    kernel: Kernel,
    buffer: Vec<u8>,
}

impl Direction {
    fn new(engine: Engine) -> io::Result<Direction> {
        let (client, source) = connection()?;
        let (sink, server) = connection()?;
        let end = |stream| End { socket: Socket::from_fd(OwnedFd::from(stream)), ready: Ready::default() };
        Ok(Direction {
            client,
            source: end(source),
            sink: end(sink),
            server,
            relay_buffer: RelayBuffer::default(),
            shared: RelayResources::new(engine, PIPES),
            kernel: Kernel::new(
                Poll::new()?.registry().try_clone()?,
                Keepalive::within(Duration::from_secs(60)).into(),
                Arc::new(Poll::new()?.registry().try_clone()?),
            ),
            buffer: vec![7; CHUNK],
        })
    }

    /// Moves `bytes` from the client to the server; the time spent in the relay.
    fn carry(&mut self, bytes: usize) -> io::Result<Duration> {
        let (mut sent, mut arrived, mut spent) = (0, 0, Duration::ZERO);
        while arrived < bytes {
            let next = CHUNK.min(bytes - sent);
            sent += or_zero(self.client.write(&self.buffer[..next]))?;
            self.source.ready.readable = true;
            self.sink.ready.writable = true;
            let start = Instant::now();
            let report = pump(
                &mut self.relay_buffer,
                &mut self.kernel,
                &mut self.source,
                &mut self.sink,
                black_box(&mut self.shared),
                PIPE_SIZE,
            );
            spent += start.elapsed();
            if report.failed.is_some() || report.fin {
                return Err(ErrorKind::ConnectionAborted.into());
            }
            arrived += or_zero(self.server.read(&mut self.buffer))?;
        }
        Ok(spent)
    }
}

/// Two ends of a TCP connection over loopback, both non-blocking.
fn connection() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let dialed = TcpStream::connect(listener.local_addr()?)?;
    let (accepted, _) = listener.accept()?;
    for end in [&dialed, &accepted] {
        end.set_nonblocking(true)?;
        end.set_nodelay(true)?;
    }
    Ok((dialed, accepted))
}

fn or_zero(moved: io::Result<usize>) -> io::Result<usize> {
    match moved {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        moved => moved,
    }
}

fn relay(criterion: &mut Criterion) {
    for (size, bytes) in SIZES {
        let mut group = criterion.benchmark_group(format!("relay {size}"));
        group.throughput(Throughput::Bytes(bytes as u64));
        for (name, engine) in ENGINES {
            let mut direction = Direction::new(engine).expect("loopback connections");
            group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                bencher.iter_custom(|times| {
                    (0..times).map(|_| direction.carry(bytes).expect("an open connection")).sum::<Duration>()
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, relay);
criterion_main!(benches);
