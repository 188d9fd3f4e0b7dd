//! What a peer can't do: send too much, take too long, come in too many; and where the API won't listen.

use crate::admin::support::{Balancer, PATIENCE, answer, ask, backend, talk, tcplb};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use testkit::{ConfigFile, eventually};

fn connect(balancer: &Balancer) -> TcpStream {
    let stream = TcpStream::connect(&balancer.admin).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

#[test]
fn a_big_body_is_refused_before_and_after_it_is_sent() {
    let balancer = Balancer::idle();
    let mut announced = connect(&balancer);
    announced.write_all(b"POST /register HTTP/1.1\r\nContent-Length: 65537\r\n\r\n").unwrap();
    answer(announced).error(413);
    let big = "x".repeat(300_000);
    ask(&balancer.admin, "POST", "/register", &[], &big).error(413);
    ask(&balancer.admin, "POST", "/v1/pools/default/backends", &[], &big[..65_536]).error(400);
}

#[test]
fn malformed_requests_are_refused() {
    let balancer = Balancer::idle();
    for (bytes, status) in [
        (&b"hello\r\n\r\n"[..], 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"GET / HTTP/1.1\r\nExpect: something\r\n\r\n", 417),
        (b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
    ] {
        talk(connect(&balancer), bytes).error(status);
    }
    let head = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(20_000));
    talk(connect(&balancer), head.as_bytes()).error(431);
    let mut cut = connect(&balancer);
    cut.write_all(b"POST /register HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc").unwrap();
    cut.shutdown(std::net::Shutdown::Write).unwrap();
    answer(cut).error(400);
    assert_eq!(balancer.get("/healthz").status, 200);
}

#[test]
fn a_request_that_is_not_whole_after_ten_seconds_is_answered_with_408() {
    let balancer = Balancer::idle();
    let begun = Instant::now();
    let silent = connect(&balancer);
    let mut trickling = connect(&balancer);
    trickling.write_all(b"GET / HTTP/1.1\r\nX: ").unwrap();
    let mut writing = trickling.try_clone().unwrap();
    // A byte whenever the other end might think of giving up; ends when it did.
    let busy = std::thread::spawn(move || {
        let pause = std::sync::mpsc::channel::<()>();
        while writing.write_all(b"x").is_ok() && begun.elapsed() < PATIENCE {
            let _ = pause.1.recv_timeout(Duration::from_millis(300));
        }
    });
    answer(silent).error(408);
    let mut text = [0; 64];
    let count = trickling.read(&mut text).unwrap();
    assert!(text[..count].starts_with(b"HTTP/1.1 408 "), "{:?}", String::from_utf8_lossy(&text[..count]));
    let took = begun.elapsed();
    assert!((Duration::from_secs(9)..Duration::from_secs(20)).contains(&took), "{took:?}");
    assert_eq!(balancer.get("/healthz").status, 200);
    drop(trickling);
    busy.join().unwrap();
}

#[test]
fn a_caller_whose_request_is_not_whole_when_the_balancer_stops_is_answered() {
    let balancer = Balancer::idle();
    let mut late = connect(&balancer);
    late.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    // Callers are accepted in their order, so the first one is too.
    assert_eq!(balancer.get("/healthz").status, 200);
    balancer.process.signal(rustix::process::Signal::TERM);
    eventually("the listeners are closed", || TcpStream::connect(&balancer.listen).is_err());
    assert_eq!(talk(late, b"Host: tcplb\r\n\r\n").status, 200);
}

#[test]
fn only_the_owner_of_a_unix_socket_has_access_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let admin = format!("unix:{}", path.display());
    let process = crate::admin::support::Process::start(&[
        "-l",
        "127.0.0.1:0",
        "-b",
        "127.0.0.1:1",
        "--health",
        "off",
        "--admin",
        &admin,
    ]);
    assert_eq!(process.after("admin on "), admin);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: tcplb\r\n\r\n").unwrap();
    assert_eq!(answer(stream).body, "ok\n");
    let output = tcplb(&["status", "--admin", &admin]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn without_a_token_the_admin_api_listens_on_this_machine_only() {
    for (flags, wants) in [
        (&["--admin", ":0"][..], &["--admin: `:0`", "--admin-token-file", "127.0.0.1:9900"][..]),
        (&["--admin", "0.0.0.0:9900"], &["`0.0.0.0:9900` can be reached from elsewhere"]),
        (&["--admin", "web.example:9900"], &["`web.example:9900` can be reached from elsewhere"]),
        (&["--admin", "9900"], &["--admin: expected ", "`9900`"]),
        (&["--admin-token-file", "/x"], &["--admin-token-file: expected an --admin address"]),
        (&["--admin", "127.0.0.1:80", "-l", ":80"], &["--admin: `127.0.0.1:80` overlaps --listen `:80`"]),
    ] {
        let output = tcplb(&[&["-l", "127.0.0.1:0", "-b", "127.0.0.1:1"], flags].concat()).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {message}");
        assert!(wants.iter().all(|want| message.contains(want)), "{flags:?}: {message}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (flags, want) in [
        (&["--admin", &taken][..], taken.as_str()),
        (&["--admin", "127.0.0.1:0", "--admin-token-file", "/nowhere/token"], "/nowhere/token"),
    ] {
        let output = tcplb(&[&["-l", "127.0.0.1:0", "-b", "127.0.0.1:1"], flags].concat()).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{flags:?}: {message}");
        assert!(message.starts_with("error: can't serve the admin API on ") && message.contains(want), "{message}");
    }
}

#[test]
fn the_longest_durations_overflow_nothing() {
    let (_web1, at) = backend("web1", &[]);
    let text = format!(
        "[global]\nworkers = 1\nadmin = '127.0.0.1:0'\nshutdown_timeout = 'LONG'\n\
         [[listener]]\nbind = ['127.0.0.1:0']\n\
         [[pool]]\nname = 'p'\nconnect_timeout = 'LONG'\nidle_timeout = 'LONG'\nhalf_close_timeout = 'LONG'\n\
         max_lifetime = 'LONG'\non_remove = 'drain LONG'\nslow_start = 'LONG'\nno_backend = 'wait LONG'\n\
         [pool.health]\nkind = 'http'\ninterval = 'LONG'\ntimeout = 'LONG'\n\
         [[pool.backend]]\nname = 'web1'\naddress = '{at}'\n"
    );
    let beyond = ConfigFile::of(text.replace("LONG", "584542046090y"));
    let refused = tcplb(&["check"]).arg(beyond.write()).output().unwrap();
    let message = String::from_utf8(refused.stderr).unwrap();
    assert_eq!((refused.status.code(), message.matches("expected at most 1y").count()), (Some(2), 10), "{message}");

    let mut balancer = Balancer::from_text(text.replace("LONG", "1y"));
    assert_eq!(balancer.request().unwrap(), "web1");
    let open = TcpStream::connect(&balancer.listen).unwrap();
    balancer.wait("open", |status| status["pools"][0]["backends"][0]["active_connections"] == 1);
    balancer.call("POST", "/register", &format!(r#"{{"address":"{at}"}}"#)).json(200);
    balancer.call("DELETE", "/v1/pools/p/backends/web1", "").json(200);
    balancer.process.signal(rustix::process::Signal::TERM);
    balancer.wait("draining", |status| status["state"] == "draining");
    drop(open);
    let (status, lines) = balancer.process.end();
    assert_eq!(status.code(), Some(0), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("panicked")), "{lines:?}");
}
