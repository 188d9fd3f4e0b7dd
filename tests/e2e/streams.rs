//! Long streams: every byte, in order, both ways at once, at the reader's pace and in bounded memory.

use crossbeam_channel::{Receiver, unbounded};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use testkit::{Conn, MIB, PATIENCE, Process, Server, Tcplb, eventually, heavy, let_pass, peers, receive, send};

/// A server that hands its connections to the test, which then plays the backend itself.
fn handing_over() -> (Server, Receiver<Conn>) {
    let (give, given) = unbounded();
    (Server::start(move |conn| give.send(conn).map_err(std::io::Error::other)), given)
}

fn pair(tcplb: &testkit::Running, given: &Receiver<Conn>) -> (Conn, Conn) {
    let client = tcplb.connect();
    (client, given.recv_timeout(PATIENCE).expect("the client's connection reaches the backend"))
}

#[test]
fn sixty_four_mib_pass_both_ways_at_once_unchanged() {
    let _alone = heavy();
    let (server, given) = handing_over();
    let tcplb = Tcplb::new().backend(server.at()).unprobed().start();
    let (client, backend) = pair(&tcplb, &given);
    thread::scope(|scope| {
        let upload = |from: Conn, seed| {
            move || {
                let sent = send(&from, seed, 64 * MIB).unwrap();
                from.finish();
                sent
            }
        };
        let up = scope.spawn(upload(client.clone(), 1));
        let down = scope.spawn(upload(backend.clone(), 2));
        let got_up = scope.spawn(|| receive(&backend).unwrap());
        assert_eq!(receive(&client).unwrap(), (64 * MIB, down.join().unwrap()));
        assert_eq!(got_up.join().unwrap(), (64 * MIB, up.join().unwrap()));
    });
}

#[test]
fn writes_of_every_size_arrive_unchanged() {
    let server = Server::start(peers::echo);
    let tcplb = Tcplb::over([&server]);
    let client = tcplb.connect();
    let mut size = 1;
    while size < 300_000 {
        for size in [size - 1, size, size + 1] {
            let text: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            thread::scope(|scope| {
                scope.spawn(|| client.say(&text));
                assert!(client.hear(size) == text, "{size} bytes");
            });
        }
        size = size * 3 + 1;
    }
}

#[test]
fn the_server_may_speak_first() {
    let server = Server::start(peers::smtp);
    let tcplb = Tcplb::over([&server]);
    let client = tcplb.connect();
    assert_eq!(client.hear_line(), "220 mail.test ready");
    for (say, hear) in [
        ("HELO client.test\r\n", "250 mail.test"),
        ("MAIL FROM:<a@client.test>\r\n", "250 OK"),
        ("RCPT TO:<b@mail.test>\r\n", "250 OK"),
        ("DATA\r\n", "354 go ahead"),
        ("Subject: x\r\n\r\nhello\r\n.\r\n", "250 15 characters taken"),
        ("QUIT\r\n", "221 bye"),
    ] {
        client.say(say);
        assert_eq!(client.hear_line(), hear, "{say}");
    }
    assert_eq!(client.hear_all(), b"");
}

/// Sends 256 MiB from one side while the other does not read, sees that memory stays put, then reads it all.
fn stalls_in_bounded_memory(process: &Process, from: &Conn, to: &Conn) {
    const LENGTH: usize = 256 * MIB;
    let before = process.rss_kib();
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let sent = send(from, 3, LENGTH).unwrap();
            from.finish();
            sent
        });
        eventually("the writer is blocked", || !from.is_writable_within(Duration::from_millis(500)));
        let grown = process.rss_kib().saturating_sub(before);
        assert!(grown < 2048, "a stalled reader costs {grown} KiB");
        assert!(!sending.is_finished(), "256 MiB have vanished into buffers");
        assert_eq!(receive(to).unwrap(), (LENGTH, sending.join().unwrap()));
    });
}

#[test]
fn a_stalled_client_behind_256_mib_costs_no_memory_and_loses_no_byte() {
    let _alone = heavy();
    let (server, given) = handing_over();
    let tcplb = Tcplb::new().backend(server.at()).unprobed().start();
    let (client, backend) = pair(&tcplb, &given);
    warm_up(&client, &backend);
    stalls_in_bounded_memory(&tcplb, &backend, &client);
}

#[test]
fn a_stalled_backend_behind_256_mib_costs_no_memory_and_loses_no_byte() {
    let _alone = heavy();
    let (server, given) = handing_over();
    let tcplb = Tcplb::new().backend(server.at()).unprobed().start();
    let (client, backend) = pair(&tcplb, &given);
    warm_up(&client, &backend);
    stalls_in_bounded_memory(&tcplb, &client, &backend);
}

/// What a connection needs at all is there after its first bytes.
fn warm_up(client: &Conn, backend: &Conn) {
    client.say("up");
    assert_eq!(backend.hear(2), b"up");
    backend.say("down");
    assert_eq!(client.hear(4), b"down");
}

#[test]
fn a_stalled_connection_uses_no_processor_time() {
    let (server, given) = handing_over();
    let tcplb = Tcplb::new().backend(server.at()).unprobed().start();
    let (client, backend) = pair(&tcplb, &given);
    backend.flood();
    client.flood();
    let before = tcplb.cpu_ticks();
    let_pass(Duration::from_millis(1000));
    let spent = tcplb.cpu_ticks() - before;
    assert!(spent < 20, "{spent} hundredths of a second in one second of nothing to do");
}

#[test]
fn an_idle_half_closed_connection_uses_no_processor_time() {
    let (server, given) = handing_over();
    let tcplb = Tcplb::new().backend(server.at()).unprobed().start();
    let (one, its_backend) = pair(&tcplb, &given);
    let (other, other_backend) = pair(&tcplb, &given);
    one.finish();
    assert_eq!(its_backend.hear_all(), b"");
    other_backend.finish();
    assert_eq!(other.hear_all(), b"");
    let before = tcplb.cpu_ticks();
    let_pass(Duration::from_millis(1000));
    let spent = tcplb.cpu_ticks() - before;
    assert!(spent < 20, "{spent} hundredths of a second in one second of nothing to do");
}

#[test]
fn bulk_streams_do_not_starve_a_small_one() {
    let _alone = heavy();
    let (bulk, given) = handing_over();
    let echo = Server::start(peers::echo);
    // One worker, so that they all share it: two listeners would do with a file, two backends in turn do with flags.
    let tcplb = Tcplb::new().backend(bulk.at()).backend(echo.at()).unprobed().args(["--workers", "1"]).start();
    let over = AtomicBool::new(false);
    let moved = AtomicUsize::new(0);
    thread::scope(|scope| {
        let mut small = Vec::new();
        for _ in 0..4 {
            let (client, backend) = pair(&tcplb, &given);
            small.push(tcplb.connect());
            let (over, moved) = (&over, &moved);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    send(&backend, 4, MIB).unwrap();
                    moved.fetch_add(MIB, Ordering::Relaxed);
                }
                backend.finish();
            });
            scope.spawn(move || receive(&client).unwrap());
        }
        eventually("the bulk streams flow", || moved.load(Ordering::Relaxed) > 16 * MIB);
        for round in 0..200 {
            small[round % small.len()].assert_echoes("ping");
        }
        let so_far = moved.load(Ordering::Relaxed);
        eventually("they still flow", || moved.load(Ordering::Relaxed) > so_far);
        over.store(true, Ordering::Relaxed);
    });
}
