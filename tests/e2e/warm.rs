//! Warm connections: established before there is a client, checked, replaced, used at most once.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use testkit::{Admin, At, ConfigFile, Conn, Ending, ManualServer, Server, Started, eventually, let_pass, peers};

/// Long enough that an event of the same moment has been seen.
const A_WHILE: Duration = Duration::from_millis(200);

/// So long the backend must have had a warm connection for its next one to come at once.
const OLD: Duration = Duration::from_millis(1_200);

/// A pool over these backends that keeps so many.
fn keeping<'a>(warm: u32, backends: impl IntoIterator<Item = &'a At>) -> ConfigFile {
    let file = ConfigFile::over(backends).pool(&format!("warm_connections = {warm}"));
    file.global("admin = \"127.0.0.1:0\"\nworkers = 2")
}

fn ready(tcplb: &Started) -> u64 {
    Admin::of(tcplb).metric("tcplb_warm_connections", &[])
}

#[track_caller]
fn wait_for(tcplb: &Started, warm: u64) {
    eventually(&format!("{warm} warm connections"), || ready(tcplb) == warm);
}

/// Answers each line with the number of lines that this connection has brought so far.
fn counts(conn: Conn) -> io::Result<()> {
    for number in 1.. {
        conn.line()?;
        (&conn).write_all(format!("{number}\n").as_bytes())?;
    }
    Ok(())
}

/// Says a line, and hears the answer.
fn asks(client: &Conn) -> io::Result<String> {
    (&mut &*client).write_all(b"a line\n")?;
    client.line()
}

#[test]
fn warm_connections_are_there_before_a_client_and_each_serves_one_client() {
    let mut server = Server::start(counts);
    let tcplb = keeping(3, [server.at()]).start();
    wait_for(&tcplb, 3);
    let of_backend = Admin::of(&tcplb).metric("tcplb_warm_connections", &["pool=\"default\"", "backend=\"b1\""]);
    assert_eq!(of_backend, 3);
    eventually("the server has all of them", || server.accepted() == 3);
    // No client can be connected any more, unless it already is.
    server.stop_listening();
    for left in [2, 1, 0] {
        let client = tcplb.connect();
        assert_eq!(asks(&client).unwrap(), "1", "it has the connection for itself");
        wait_for(&tcplb, left);
    }
    assert_eq!(tcplb.ending_of_next(), Ending::Reset, "there is none left");
    server.start_again();
    wait_for(&tcplb, 3);
    assert_eq!(asks(&tcplb.connect()).unwrap(), "1");
}

#[test]
fn warm_connections_to_a_unix_socket_are_used_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start_unix(&folder.path().join("backend.sock"), counts);
    let tcplb = keeping(2, [server.at()]).start();
    wait_for(&tcplb, 2);
    server.stop_listening();
    assert_eq!(asks(&tcplb.connect()).unwrap(), "1");
}

#[test]
fn a_warm_connection_that_the_backend_closes_is_replaced() {
    let server = ManualServer::start();
    let tcplb = keeping(2, [server.at()]).start();
    let (first, second) = (server.accept(), server.accept());
    wait_for(&tcplb, 2);
    let_pass(OLD);
    drop(first);
    let third = server.accept();
    second.reset();
    let fourth = server.accept();
    wait_for(&tcplb, 2);
    // With a word of farewell, as HTTP servers have one.
    third.say("HTTP/1.1 408 Request Timeout\r\n\r\n");
    drop(third);
    let fifth = server.accept();
    wait_for(&tcplb, 2);
    let client = tcplb.connect();
    client.say("hello");
    assert_eq!(fifth.hear(5), b"hello", "the youngest one");
    drop(fourth);
    assert_eq!(tcplb.count_lines("keeps no warm connections"), 0);
}

#[test]
fn a_backend_that_ends_each_warm_connection_at_once_is_left_alone_for_a_while() {
    let server = Server::start(|_| Ok(()));
    let _tcplb = keeping(4, [server.at()]).start();
    eventually("it has been tried", || server.accepted() >= 4);
    let_pass(Duration::from_secs(3));
    // 4 at once, and 4 more after each pause of 1 s, 2 s and 4 s.
    assert!(server.accepted() <= 16, "{} in 3 s", server.accepted());
}

#[test]
fn a_pool_whose_backend_speaks_first_goes_without_and_no_byte_is_lost() {
    let server = Server::start(peers::named("mail.example.org ready"));
    let tcplb = keeping(2, [server.at()]).start();
    let early = tcplb.connect();
    assert_eq!(early.hear_line(), "mail.example.org ready");
    tcplb.wait_for_line("pool default: backend b1 sends bytes before the client does");
    wait_for(&tcplb, 0);
    early.assert_echoes("it goes on");
    let before = server.accepted();
    for _ in 0..3 {
        assert_eq!(tcplb.connect().hear_line(), "mail.example.org ready");
    }
    let_pass(A_WHILE);
    assert_eq!((server.accepted(), tcplb.count_lines("keeps no warm connections")), (before + 3, 1));
    let status = Admin::of(&tcplb).get("/v1/status").json(200);
    assert_eq!(status["pools"][0]["speaks_first"], true);
    assert!(status["verdict"]["text"].as_str().unwrap().contains("keeps no warm connections"), "{status}");
}

#[test]
fn warm_connections_count_for_the_limit_and_clients_come_first() {
    let server = ManualServer::start();
    let file = keeping(2, []).backend(server.at(), "max_connections = 2");
    let tcplb = file.start();
    let (old, young) = (server.accept(), server.accept());
    wait_for(&tcplb, 2);
    let status = Admin::of(&tcplb).get("/v1/status").json(200);
    let backend = &status["pools"][0]["backends"][0];
    assert_eq!((&backend["warm_connections"], &backend["active_connections"]), (&2.into(), &0.into()));
    let clients = [&young, &old].map(|conn| {
        let client = tcplb.connect();
        client.say("hello");
        assert_eq!(conn.hear(5), b"hello");
        client
    });
    assert_eq!((ready(&tcplb), tcplb.ending_of_next()), (0, Ending::Reset));
    let_pass(A_WHILE);
    assert!(server.is_alone(), "a third connection");
    drop(clients);
    drop((old, young));
    let next = [server.accept(), server.accept()];
    wait_for(&tcplb, 2);
    let_pass(A_WHILE);
    assert!(server.is_alone());
    drop(next);
}

#[test]
fn least_connections_does_not_count_warm_ones() {
    let servers = ["a", "b"].map(|name| Server::start(move |conn| conn.line().and_then(|_| peers::named(name)(conn))));
    let tcplb = keeping(8, servers.iter().map(Server::at)).pool("algorithm = \"least-connections\"").start();
    wait_for(&tcplb, 16);
    let clients: Vec<Conn> = (0..6).map(|_| tcplb.connect()).collect();
    let names: Vec<String> = clients.iter().map(|client| asks(client).unwrap()).collect();
    assert_eq!(names.iter().filter(|name| *name == "a").count(), 3, "{names:?}");
}

#[test]
fn a_backend_out_of_use_has_no_warm_connections() {
    let server = ManualServer::start();
    let tcplb = keeping(1, [server.at()]).start();
    let backend = "/v1/pools/default/backends/b1";
    for state in ["disabled", "draining"] {
        let warm = server.accept();
        wait_for(&tcplb, 1);
        Admin::of(&tcplb).call("PATCH", backend, &format!("{{\"state\":\"{state}\"}}")).json(200);
        assert_eq!(warm.ending(), Ending::Fin, "{state}");
        let_pass(A_WHILE);
        assert!(server.is_alone() && ready(&tcplb) == 0, "{state}");
        Admin::of(&tcplb).call("PATCH", backend, "{\"state\":\"enabled\"}").json(200);
    }
    let warm = server.accept();
    wait_for(&tcplb, 1);
    Admin::of(&tcplb).call("DELETE", backend, "").json(200);
    assert_eq!(warm.ending(), Ending::Fin);
    let_pass(A_WHILE);
    assert!(server.is_alone());
}

#[test]
fn a_reload_changes_how_many_there_are() {
    let server = Server::start(counts);
    let tcplb = keeping(2, [server.at()]).start();
    wait_for(&tcplb, 2);
    let text = tcplb.file().text();
    let with = |warm: u32| text.replace("warm_connections = 2", &format!("warm_connections = {warm}"));
    tcplb.reload(&with(5));
    wait_for(&tcplb, 5);
    eventually("those that were there stay", || server.accepted() == 5);
    tcplb.reload(&with(1));
    wait_for(&tcplb, 1);
    tcplb.reload(&with(0));
    eventually("there are none, and no metric", || {
        !Admin::of(&tcplb).get("/metrics").body.contains("tcplb_warm_connections{")
    });
    assert_eq!(asks(&tcplb.connect()).unwrap(), "1");
}

#[test]
fn the_proxy_header_leaves_when_a_warm_connection_is_handed_out() {
    let server = ManualServer::start();
    let tcplb = keeping(1, [server.at()]).pool("send_proxy = \"v1\"").start();
    let warm = server.accept();
    wait_for(&tcplb, 1);
    assert!(!warm.has_something_within(A_WHILE), "there is no client yet");
    let client = tcplb.connect();
    let (from, to) = (client.local(), tcplb.at().tcp());
    let header = format!("PROXY TCP4 {} {} {} {}", from.ip(), to.ip(), from.port(), to.port());
    assert_eq!(warm.hear_line(), header);
    client.say("hello");
    assert_eq!(warm.hear(5), b"hello");
}

#[test]
fn a_warm_connection_that_ends_before_a_byte_is_dialled_again_and_the_client_notices_nothing() {
    for resets in [false, true] {
        let server = ManualServer::start();
        let tcplb = keeping(1, [server.at()]).start();
        let warm = server.accept();
        wait_for(&tcplb, 1);
        let client = tcplb.connect();
        // Its place is taken by another one, so the client has it.
        let other = server.accept();
        if resets {
            warm.reset()
        } else {
            warm.finish()
        }
        let again = server.accept();
        assert!(!client.has_something_within(A_WHILE), "no end either");
        client.say("hello");
        assert_eq!(again.hear(5), b"hello");
        again.say("and back");
        assert_eq!(client.hear(8), b"and back");
        assert!(!other.has_something_within(Duration::ZERO));
    }
}

#[test]
fn the_end_of_a_warm_connection_behind_the_client_s_first_bytes_costs_it_nothing() {
    let server = ManualServer::start();
    let tcplb = keeping(1, [server.at()]).start();
    let warm = server.accept();
    wait_for(&tcplb, 1);
    let client = tcplb.connect();
    // Its place is taken by another one, so the client has it.
    let _other = server.accept();
    // Both events come in one batch, that of the bytes first.
    tcplb.freeze();
    client.say("hello");
    warm.finish();
    tcplb.thaw();
    let again = server.accept();
    assert_eq!(again.hear(5), b"hello");
    again.say("and back");
    assert_eq!(client.hear(8), b"and back");
}

/// One request by a client of its own.
fn request(at: &At) -> io::Result<()> {
    let client = Conn::try_to(at)?;
    let answer = asks(&client)?;
    if answer == "1" { Ok(()) } else { Err(io::Error::other(format!("a connection that was used before: {answer}"))) }
}

#[test]
fn no_client_gets_a_dead_warm_connection_while_backends_are_killed_at_random() {
    let steady = Server::start(counts);
    let mut killed = Server::start(counts);
    let tcplb = keeping(4, [steady.at(), killed.at()]).start();
    wait_for(&tcplb, 8);
    let (begun, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (stop, failed) = (AtomicBool::new(false), parking_lot::Mutex::new(Vec::new()));
    let (served, in_between) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let clients = || {
        while !stop.load(Ordering::SeqCst) {
            // While a backend is killed, its own clients fail, whatever their connections were before.
            let before = done.load(Ordering::SeqCst);
            let outcome = request(tcplb.at());
            let lives = begun.load(Ordering::SeqCst) == before;
            match outcome {
                Ok(()) => served.fetch_add(1, Ordering::SeqCst),
                Err(error) if lives => {
                    failed.lock().push(error.to_string());
                    0
                }
                Err(_) => in_between.fetch_add(1, Ordering::SeqCst),
            };
        }
    };
    thread::scope(|scope| {
        (0..3).for_each(|_| drop(scope.spawn(clients)));
        for _ in 0..25 {
            let_pass(Duration::from_millis(fastrand::u64(..60)));
            begun.fetch_add(1, Ordering::SeqCst);
            killed.stop();
            done.fetch_add(1, Ordering::SeqCst);
            let_pass(Duration::from_millis(fastrand::u64(..30)));
            killed.start_again();
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!(*failed.lock(), [""; 0]);
    let (served, in_between) = (served.into_inner(), in_between.into_inner());
    assert!(served > 100 && in_between < served, "{served} served, {in_between} while a backend was killed");
}

#[test]
fn a_client_of_an_old_warm_connection_reads_all_that_its_backend_sends() {
    let server = Server::start(|conn| {
        conn.line()?;
        testkit::send(&conn, 7, 3 * testkit::MIB)?;
        conn.finish();
        conn.try_ending().map(drop)
    });
    let tcplb = keeping(1, [server.at()]).start();
    wait_for(&tcplb, 1);
    let client = tcplb.connect();
    client.say("all of it, please\n");
    let mut bytes = Vec::new();
    (&client).read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 3 * testkit::MIB);
}
