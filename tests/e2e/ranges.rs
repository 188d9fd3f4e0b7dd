//! Ranges of ports, and backends whose port follows the client's.

use crossbeam_channel::unbounded;
use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use testkit::{Admin, At, ConfigFile, Conn, PATIENCE, Server, Tcplb, eventually, fresh_loopback, peers};

/// A server on each of these ports, which says the port.
fn servers(ip: IpAddr, ports: impl IntoIterator<Item = u16>) -> Vec<Server> {
    let server = |port: u16| Server::start_at_address((ip, port).into(), peers::named(&port.to_string()));
    ports.into_iter().map(server).collect()
}

#[test]
fn a_backend_has_the_port_of_the_client_and_a_reload_binds_the_difference_of_a_range() {
    let (front, back) = (fresh_loopback(), fresh_loopback());
    let _servers = servers(back, 5_000..=5_004);
    let file = ConfigFile::empty();
    let log = file.path("access.log");
    let tcplb = file
        .global("admin = \"127.0.0.1:0\"\nlog_format = \"json\"\nworkers = 2")
        .global(&format!("access_log = \"{}\"", log.display()))
        .listener(&format!("bind = [\"{front}:5000-5003\"]"))
        .health("kind = \"tcp\"\nport = 5000")
        .and(&format!("[[pool.backend]]\nname = \"b1\"\naddress = \"{back}:same\"\n"))
        .start();
    let admin = Admin::of(&tcplb);
    let at = |port: u16| At::Tcp((front, port).into());
    let client = |port: u16| {
        let conn = Conn::to(&at(port));
        assert_eq!(conn.hear_line(), port.to_string());
        conn
    };
    let open: Vec<Conn> = (5_000..=5_003).map(client).collect();
    let listed = || admin.get("/v1/connections").json(200);
    let ports: Vec<u64> =
        listed().as_array().expect("an array").iter().filter_map(|it| it["backend_port"].as_u64()).collect();
    assert_eq!(ports.len(), 4);
    assert!((5_000..=5_003).all(|port| ports.contains(&port)), "{ports:?}");
    let status = admin.get("/v1/status").json(200);
    assert_eq!(status["listeners"].as_array().expect("an array").len(), 1, "one listener: {status}");
    assert_eq!(status["pools"][0]["backends"][0]["address"], format!("{back}:same"));
    let config = admin.get("/v1/config").body;
    assert!(config.contains(&format!("bind = [\"{front}:5000-5003\"]")), "{config}");

    let text = tcplb.file().text().replace("5000-5003", "5001-5004");
    tcplb.reload(&text);
    tcplb.wait_for_line(&format!("listening on {front}:5004"));
    client(5_004).assert_echoes("on the new port");
    assert_eq!(tcplb.count_lines(&format!("listening on {front}:5001")), 1, "it stays bound");
    eventually("the port that left is closed", || Conn::try_to(&at(5_000)).is_err());
    open.iter().for_each(|conn| conn.assert_echoes("going on"));
    client(5_001).assert_echoes("a port that stays");

    drop(open);
    let logged = || fs::read_to_string(&log).unwrap_or_default();
    eventually("the log has the ports", || {
        (5_000..=5_004).all(|port| logged().contains(&format!("\"backend_port\":{port},")))
    });
}

#[test]
fn a_backend_s_port_may_be_so_much_higher_than_the_client_s() {
    let (front, back) = (fresh_loopback(), fresh_loopback());
    let _servers = servers(back, 6_000..=6_001);
    let tcplb =
        Tcplb::new().listen(&format!("{front}:5000-5001")).args(["-b", &format!("{back}:+1000")]).unprobed().start();
    assert_eq!(tcplb.listening().len(), 2);
    for port in [5_000, 5_001] {
        let conn = Conn::to(&At::Tcp((front, port).into()));
        assert_eq!(conn.hear_line(), (port + 1_000).to_string());
        conn.assert_echoes("both ways");
    }
}

#[test]
fn a_closed_port_of_a_range_says_nothing_about_the_others() {
    let (front, back) = (fresh_loopback(), fresh_loopback());
    let _servers = servers(back, [5_000]);
    let tcplb =
        Tcplb::new().listen(&format!("{front}:5000-5001")).args(["-b", &format!("{back}:same")]).unprobed().start();
    assert_eq!(tcplb.listening().len(), 2);
    for _ in 0..5 {
        // The reset may arrive while a connect waits for its handshake.
        Conn::attempt(&At::Tcp((front, 5_001).into())).assert_reset();
        assert_eq!(Conn::to(&At::Tcp((front, 5_000).into())).hear_line(), "5000");
    }
}

#[test]
fn a_probe_begins_with_the_header_that_clients_of_the_same_port_send() {
    for (port_of_backend, probed, first) in [
        ("same", 5_001, "PROXY UNKNOWN"),
        ("+1000", 6_000, "PROXY UNKNOWN"),
        // No client of the listener leads there: this is another service.
        ("same", 9_000, "GET / HTTP/1.1"),
        ("+1000", 5_000, "GET / HTTP/1.1"),
    ] {
        let (front, back) = (fresh_loopback(), fresh_loopback());
        let (sender, heard) = unbounded();
        let answers = move |conn: Conn| {
            sender.send(conn.line()?).map_err(io::Error::other)?;
            (&conn).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        };
        let _server = Server::start_at_address((back, probed).into(), answers);
        let tcplb = ConfigFile::empty()
            .global("admin = \"127.0.0.1:0\"")
            .listener(&format!("bind = [\"{front}:5000-5001\"]"))
            .pool("send_proxy = \"v1\"")
            .health(&format!("kind = \"http\"\nport = {probed}\ninterval = \"1h\""))
            .and(&format!("[[pool.backend]]\nname = \"b1\"\naddress = \"{back}:{port_of_backend}\"\n"))
            .start();
        let next = || heard.recv_timeout(PATIENCE).expect("a probe");
        assert_eq!(next(), first, "the prober's");
        let admin = Admin::of(&tcplb);
        let answer = admin.call("POST", "/v1/pools/default/backends/b1/probe", "").json(200);
        assert_eq!((next(), &answer["passed"]), (first.to_owned(), &true.into()), "by hand: {answer}");
        let body = format!("{{\"address\":\"{back}:{port_of_backend}\",\"weight\":5}}");
        assert_eq!((admin.call("POST", "/register", &body).status, next()), (200, first.to_owned()));
    }
}

#[test]
fn a_probe_without_a_port_says_what_it_lacks() {
    let back = fresh_loopback();
    let tcplb = ConfigFile::empty()
        .global("admin = \"127.0.0.1:0\"")
        .listener(&format!("bind = [\"{}:5000-5001\"]", fresh_loopback()))
        .health("kind = \"off\"")
        .and(&format!("[[pool.backend]]\nname = \"b1\"\naddress = \"{back}:same\"\n"))
        .start();
    let admin = Admin::of(&tcplb);
    let lacks = "its port is the client's: a probe needs health.port, and a health.kind other than \"off\"";
    let answer = admin.call("POST", "/v1/pools/default/backends/b1/probe", "").json(200);
    assert_eq!((&answer["passed"], answer["addresses"].as_array().map(Vec::len)), (&false.into(), Some(0)));
    assert_eq!(answer["meaning"], format!("b1 in pool default cannot be probed, since {lacks}"));
    let answer = admin.call("POST", "/register", &format!("{{\"address\":\"{back}:+1\"}}")).json(400);
    assert_eq!(answer["data"]["title"], format!("{back}:+1 can't be probed: {lacks}"));
}
