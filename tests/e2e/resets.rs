//! What a peer said before its reset arrives, for each way to move the bytes; the reset comes after it, in kind.

use crossbeam_channel::{Receiver, Sender, unbounded};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;
use testkit::{Conn, Ending, PATIENCE, Running, Server, Tcplb, eventually, let_pass};

/// Few enough to be on their way before the reset: no peer's own queue is part of the test.
const ANSWER: usize = 20_000;

const RELAYS: [&str; 3] = ["copy", "splice", "adaptive"];

/// What a peer got: how many bytes, and how they ended.
type Got = (usize, Ending);

fn tcplb(server: &Server, relay: &str) -> Running {
    let args = ["--relay", relay, "--log-level", "debug"];
    Tcplb::new().backend(server.at()).unprobed().args(args).start()
}

/// Everything up to the end, whichever way it ends.
fn got(conn: &Conn) -> io::Result<Got> {
    let (mut stream, mut bytes, mut length) = (conn, vec![0; 64 * 1024], 0);
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return Ok((length, Ending::Fin)),
            Ok(count) => length += count,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok((length, Ending::Reset)),
            Err(error) => return Err(error),
        }
    }
}

/// Sends all of it.
fn send(conn: &Conn, length: usize) {
    conn.say(vec![b'q'; length]);
}

/// A backend that reads a little, answers, and leaves with the rest unread, so that its kernel sends a reset.
fn answers_and_leaves(conn: Conn) -> io::Result<()> {
    let mut stream = &conn;
    stream.read_exact(&mut [0; 10])?;
    stream.write_all(&[b'a'; ANSWER])
}

/// A backend that reports what it got.
fn reports() -> (Server, Receiver<Got>) {
    let (report, reported): (Sender<Got>, _) = unbounded();
    (Server::start(move |conn| report.send(got(&conn)?).map_err(io::Error::other)), reported)
}

fn next<T>(reported: &Receiver<T>) -> T {
    reported.recv_timeout(PATIENCE).expect("the backend reports")
}

#[test]
fn an_answer_before_a_reset_arrives_whole() {
    let server = Server::start(answers_and_leaves);
    for relay in RELAYS {
        let tcplb = tcplb(&server, relay);
        for _ in 0..100 {
            let client = tcplb.connect();
            send(&client, 1_000);
            assert_eq!(got(&client).unwrap(), (ANSWER, Ending::Reset), "{relay}");
        }
    }
}

#[test]
fn an_early_answer_to_an_upload_arrives_whole() {
    let server = Server::start(answers_and_leaves);
    for relay in RELAYS {
        let tcplb = tcplb(&server, relay);
        for _ in 0..20 {
            let client = tcplb.connect();
            // The reset may come while it sends. The kernel reports a reset once, and an end after that.
            let sent = (&client).write_all(&vec![b'q'; 3_000_000]);
            let (length, ending) = got(&client).unwrap();
            assert_eq!(length, ANSWER, "{relay}: {sent:?}, {ending:?}");
            assert!(sent.is_err() || ending == Ending::Reset, "{relay}");
        }
    }
}

#[test]
fn what_a_client_sends_before_its_reset_arrives_whole() {
    let (server, reported) = reports();
    for relay in RELAYS {
        let tcplb = tcplb(&server, relay);
        for _ in 0..100 {
            let client = tcplb.connect();
            send(&client, ANSWER);
            client.reset();
            assert_eq!(next(&reported), (ANSWER, Ending::Reset), "{relay}");
        }
    }
}

#[test]
fn a_fin_before_a_reset_is_passed_on_before_it() {
    let (report, reported) = unbounded();
    let server = Server::start(move |conn| {
        let first = got(&conn)?;
        // The answer meets a client that is gone.
        let error = loop {
            if let Err(error) = (&conn).write_all(&[0; 4096]) {
                break error;
            }
        };
        report.send((first, error.kind())).map_err(io::Error::other)
    });
    for relay in RELAYS {
        let tcplb = tcplb(&server, relay);
        for _ in 0..20 {
            let client = tcplb.connect();
            send(&client, ANSWER);
            client.finish();
            client.reset();
            let (first, error) = next(&reported);
            assert_eq!(first, (ANSWER, Ending::Fin), "{relay}");
            assert!(matches!(error, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{relay}: {error}");
        }
    }
}

/// A backend that reads nothing until it is resumed, once for each connection, and reports what it got.
fn reads_when_resumed() -> (Server, Sender<()>, Receiver<Got>) {
    let (resume, resumed) = unbounded::<()>();
    let (report, reported) = unbounded();
    let server = Server::start(move |conn| {
        let conn = conn.patient();
        let _ = resumed.recv();
        report.send(got(&conn)?).map_err(io::Error::other)
    });
    (server, resume, reported)
}

#[test]
fn a_slow_reader_gets_all_that_was_sent_before_a_reset() {
    let (server, resume, reported) = reads_when_resumed();
    for relay in RELAYS {
        let tcplb = tcplb(&server, relay);
        let client = tcplb.connect();
        // More than tcplb holds, less than the kernels between do.
        send(&client, 300_000);
        let kernel = tcplb::net::Socket::from_fd(client.as_fd().try_clone_to_owned().unwrap());
        eventually("all of it has left the client", || kernel.unsent() == 0);
        drop(kernel);
        client.reset();
        resume.send(()).unwrap();
        assert_eq!(next(&reported), (300_000, Ending::Reset), "{relay}");
        tcplb.wait_for_line(": client_reset after");
    }
}

/// A backend that fills every buffer on the way to its client, reports how much of that has left it, and resets.
fn fills_and_resets() -> (Server, Receiver<usize>) {
    let (report, reported) = unbounded();
    let server = Server::start(move |conn| {
        let sent = conn.fill();
        let kernel = tcplb::net::Socket::from_fd(conn.as_fd().try_clone_to_owned()?);
        let left = sent.saturating_sub(usize::try_from(kernel.unsent()).map_err(io::Error::other)?);
        drop(kernel);
        conn.reset();
        report.send(left).map_err(io::Error::other)
    });
    (server, reported)
}

#[test]
fn a_reader_that_takes_a_little_at_a_time_gets_all_that_was_sent_before_a_reset() {
    // The kernel's send buffer for the client accepts more only after a third of it is acknowledged. The reads
    // take less than that, for longer than a reader that takes nothing is given.
    const READS: usize = 32;
    const READ: usize = 16 * 1024;
    let one = |relay: &str| {
        let (server, reported) = fills_and_resets();
        let tcplb = tcplb(&server, relay);
        let client = tcplb.connect();
        let left = next(&reported);
        for _ in 0..READS {
            let_pass(Duration::from_millis(50));
            client.hear(READ);
        }
        let (rest, ending) = got(&client).unwrap();
        assert_eq!(ending, Ending::Reset, "{relay}");
        let arrived = READS * READ + rest;
        assert!(arrived >= left, "{relay}: {arrived} of {left} bytes arrive");
        tcplb.wait_for_line(": backend_reset after");
    };
    thread::scope(|scope| {
        for relay in RELAYS {
            scope.spawn(move || one(relay));
        }
    });
}

#[test]
fn a_reader_that_takes_nothing_is_reset_after_a_second() {
    let (server, resume, reported) = reads_when_resumed();
    for relay in RELAYS {
        let tcplb = tcplb(&server, relay);
        let client = tcplb.connect();
        client.flood();
        client.reset();
        // Only then does the backend read.
        tcplb.wait_for_line(": client_reset after");
        resume.send(()).unwrap();
        assert_eq!(next(&reported).1, Ending::Reset, "{relay}");
    }
}

#[test]
fn a_reset_that_waits_uses_no_processor_time() {
    let (resume, resumed) = unbounded::<()>();
    let server = Server::start(move |conn| {
        let _ = resumed.recv();
        drop(conn);
        Ok(())
    });
    let tcplb = tcplb(&server, "adaptive");
    let clients: Vec<Conn> = (0..5).map(|_| tcplb.connect()).collect();
    clients.iter().for_each(Conn::flood);
    let before = tcplb.cpu_ticks();
    clients.into_iter().for_each(Conn::reset);
    tcplb.wait_for_lines(": client_reset after", 5);
    // A second passes; a tick is a hundredth of one.
    let spent = tcplb.cpu_ticks() - before;
    assert!(spent < 40, "{spent} ticks for five resets that wait");
    drop(resume);
}
