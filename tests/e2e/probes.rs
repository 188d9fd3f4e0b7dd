//! Where probes go and what they say, seen from the servers.

use parking_lot::Mutex;
use std::io::{self, Read, Write};
use std::sync::Arc;
use testkit::{
    Admin, At, ConfigFile, Conn, Ending, Running, Server, Started, eventually, fresh_loopback, peers, refusing,
};

/// tcplb with one pool of these settings, and `web1` at `address`.
fn over(address: &At, pool: &str, health: &str) -> Started {
    let file = ConfigFile::empty().global("admin = '127.0.0.1:0'").pool(pool).health(health);
    file.backend(address, "name = 'web1'").start()
}

/// Answers any request with 200 and keeps what it was sent first.
fn keeping(heard: &Arc<Mutex<Vec<u8>>>) -> impl Fn(Conn) -> io::Result<()> + Send + Sync + 'static {
    let heard = heard.clone();
    move |conn| {
        let (mut bytes, mut buffer) = (Vec::new(), [0; 512]);
        while !bytes.ends_with(b"\r\n\r\n") {
            let got = (&conn).read(&mut buffer)?;
            bytes.extend_from_slice(&buffer[..got]);
        }
        *heard.lock() = bytes;
        (&conn).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    }
}

#[test]
fn a_health_port_is_where_all_probes_go() {
    for (pool, header) in [("", 0), ("send_proxy = 'v2'", 28)] {
        let (ip, heard) = (fresh_loopback(), Arc::default());
        let (served, probed) = (Server::start_on(ip, peers::echo), Server::start_on(ip, keeping(&heard)));
        let health = format!("kind = 'http'\nport = {}\ninterval = '100ms'\ntimeout = '100ms'", probed.at().port());
        let tcplb = over(served.at(), pool, &health);
        eventually("some probes are over", || probed.accepted() > 5);
        let request = String::from_utf8(heard.lock().clone()).unwrap();
        assert!(request.starts_with("GET / HTTP/1.1\r\n"), "no header goes to another port: {request:?}");
        assert!(request.contains(&format!("\r\nHost: {}\r\n", probed.at())), "{request}");
        assert_eq!(served.accepted(), 0, "the served port sees no probe");
        let client = tcplb.connect();
        client.say("up");
        client.hear(header + 2);
        assert_eq!((served.accepted(), tcplb.count_lines("web1 is down")), (1, 0));
    }
}

#[test]
fn a_health_port_that_refuses_takes_the_backend_down() {
    let served = Server::start(peers::echo);
    // Nothing listens on port 1 of a fresh address.
    let tcplb = over(served.at(), "", "port = 1\ninterval = '100ms'\ntimeout = '100ms'");
    tcplb.wait_for_line("tcp health on port 1 every 100ms");
    assert!(tcplb.wait_for_line("web1 is down").contains("connection refused"));
}

/// `POST` to the admin API: the whole answer.
fn post(tcplb: &Running, path: &str, body: &str) -> String {
    let conn = Admin::of(tcplb).connect();
    conn.say(format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    String::from_utf8(conn.hear_all()).unwrap()
}

#[test]
fn a_newcomer_is_probed_at_the_health_port_too() {
    let (ip, heard) = (fresh_loopback(), Arc::default());
    let probed = Server::start_on(ip, keeping(&heard));
    let health = format!("kind = 'http'\nport = {}\ninterval = '3600s'", probed.at().port());
    let tcplb = over(&At::Tcp((ip, 1).into()), "send_proxy = 'v1'", &health);
    eventually("the first probe is over", || probed.accepted() == 1);
    // Nothing listens on the served port, which is not asked.
    let answer = post(&tcplb, "/register", &format!("{{\"address\":\"{ip}:2\"}}"));
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(heard.lock().starts_with(b"GET / HTTP/1.1\r\n"));
    // A unix socket has no other port: the setting can't hold for it.
    let answer = post(&tcplb, "/v1/pools/default/backends", r#"{"address":"unix:/run/app.sock"}"#);
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("needs an IP address"), "{answer}");
}

/// A gate that holds back the answers to probes, and its key.
fn gate() -> (crossbeam_channel::Sender<()>, impl Fn(Conn) -> io::Result<()> + Send + Sync + 'static) {
    let (open, opened) = crossbeam_channel::unbounded();
    let script = move |conn: Conn| {
        let conn = conn.patient();
        while !conn.line()?.is_empty() {}
        // A probe is let through for each turn of the key.
        let _ = opened.recv();
        (&conn).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    };
    (open, script)
}

#[test]
fn with_initial_down_no_client_reaches_a_backend_before_its_first_probe_has_passed() {
    let (open, script) = gate();
    let probed = Server::start_on(std::net::Ipv4Addr::UNSPECIFIED, script);
    let servers = ["web1", "web2", "web3"].map(|name| Server::start(peers::named(name)));
    // After the first probe none comes for as long as the test may take, and the first one waits that long.
    let health =
        format!("initial = 'down'\npath = '/'\nport = {}\ninterval = '1h'\ntimeout = '1h'", probed.at().port());
    let tcplb = over(servers[0].at(), "all_down = 'try-all'", &health);
    let only = |tcplb: &Running, name: &str| {
        assert!((0..20).all(|_| tcplb.name_of_next() == name), "not {name} alone");
    };
    // At the start.
    eventually("the first probe is under way", || probed.accepted() == 1);
    assert_eq!(tcplb.ending_of_next(), Ending::Reset);
    assert_eq!(Admin::of(&tcplb).get("/readyz").status, 503);
    open.send(()).unwrap();
    tcplb.wait_for_line("web1 is up");
    only(&tcplb, "web1");

    // Enabled again after an operator has disabled it: what was known of it is old.
    for state in ["disabled", "enabled"] {
        let body = format!("{{\"state\":\"{state}\"}}");
        let answer = Admin::of(&tcplb).call("PATCH", "/v1/pools/default/backends/web1", &body);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    eventually("it is probed again", || probed.accepted() == 2);
    assert_eq!(tcplb.ending_of_next(), Ending::Reset);
    open.send(()).unwrap();
    tcplb.wait_for_lines("web1 is up", 2);
    only(&tcplb, "web1");

    // Added by the API.
    let body = format!("{{\"name\":\"web2\",\"address\":\"{}\"}}", servers[1].at());
    let answer = post(&tcplb, "/v1/pools/default/backends", &body);
    assert!(answer.contains("\"state\":\"down\""), "{answer}");
    eventually("its first probe is under way", || probed.accepted() == 3);
    only(&tcplb, "web1");
    open.send(()).unwrap();
    tcplb.wait_for_line("web2 is up");
    eventually("it serves", || tcplb.name_of_next() == "web2");

    // Added by a reload, which takes the other one out again.
    let text = tcplb.file().text();
    tcplb.reload(&format!("{text}[[pool.backend]]\nname = 'web3'\naddress = '{}'\n", servers[2].at()));
    eventually("its first probe is under way", || probed.accepted() == 4);
    assert!((0..20).all(|_| tcplb.name_of_next() != "web3"));
    open.send(()).unwrap();
    tcplb.wait_for_line("web3 is up");
    eventually("it serves", || tcplb.name_of_next() == "web3");
}

#[test]
fn with_initial_up_a_backend_serves_before_its_first_probe_is_over() {
    let (_open, script) = gate();
    let (probed, served) = (Server::start_on(std::net::Ipv4Addr::UNSPECIFIED, script), Server::start(peers::echo));
    let health = format!("path = '/'\nport = {}\ninterval = '1h'\ntimeout = '1h'", probed.at().port());
    let tcplb = over(served.at(), "", &health);
    tcplb.connect().assert_echoes("at once");
}

#[test]
fn a_first_probe_that_fails_is_reported_also_where_the_backend_began_as_down() {
    let tcplb = over(&refusing(), "", "initial = 'down'");
    assert!(tcplb.wait_for_line("web1 is down").contains("connection refused"));
}

#[test]
fn try_all_leaves_out_a_backend_that_began_as_down_and_has_passed_no_probe() {
    let server = Server::start(peers::echo);
    let probed = format!("port = {}", refusing().port());
    for (initial, served) in [("down", false), ("up", true)] {
        let health = format!("initial = '{initial}'\n{probed}");
        let tcplb = over(server.at(), "all_down = 'try-all'", &health);
        tcplb.wait_for_line("web1 is down");
        if served {
            tcplb.connect().assert_echoes("tried all the same");
        } else {
            assert_eq!(tcplb.ending_of_next(), Ending::Reset);
        }
    }
}
