//! The open connections: listed as they are, chosen by every filter, and closed without touching others.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use testkit::{Admin, At, ConfigFile, Conn, Ending, Server, Tcplb, eventually, fresh_loopback, peers, tally};

const FIELDS: [&str; 14] = [
    "id",
    "listener",
    "pool",
    "backend",
    "client",
    "engine",
    "age_seconds",
    "idle_seconds",
    "bytes_to_backend",
    "bytes_to_client",
    "state",
    "sni",
    "route",
    "rtt_ms",
];

#[track_caller]
fn list(admin: Admin, query: &str) -> Vec<Value> {
    let rows = admin.get(&format!("/v1/connections{query}")).json(200);
    rows.as_array().expect("an array").clone()
}

/// Waits until the one connection is in this state.
#[track_caller]
fn one_in(admin: Admin, state: &str) -> Value {
    let mut rows = Vec::new();
    eventually(state, || {
        rows = list(admin, "");
        rows.len() == 1 && rows[0]["state"] == state
    });
    rows.remove(0)
}

#[track_caller]
fn close(admin: Admin, rest: &str) -> u64 {
    admin.call("DELETE", &format!("/v1/connections{rest}"), "").json(200)["closed"].as_u64().expect("a number")
}

/// The value of a field in each row.
fn of<'a>(rows: &'a [Value], field: &str) -> Vec<&'a str> {
    rows.iter().map(|row| row[field].as_str().unwrap_or("null")).collect()
}

/// With an echo server called `web1`.
fn start(flags: &[&str]) -> (Server, testkit::Running, Admin) {
    let server = Server::start(peers::echo);
    let all = [&["--admin", "127.0.0.1:0"], flags].concat();
    let tcplb = Tcplb::new().backend_with(server.at(), "name=web1").unprobed().args(all).start();
    let admin = Admin::of(&tcplb);
    (server, tcplb, admin)
}

/// From an address of its own, and at work.
fn client_of(tcplb: &testkit::Running, ip: [u8; 4]) -> Conn {
    let conn = Conn::from_source(Ipv4Addr::from(ip).into(), tcplb.at()).expect("it listens");
    conn.assert_echoes("hello");
    conn
}

#[test]
fn a_connection_is_listed_with_every_field_as_it_is() {
    let (_server, tcplb, admin) = start(&["-w", "2"]);
    assert_eq!(list(admin, ""), [] as [Value; 0]);
    let local = SocketAddr::from(([127, 0, 3, 7], 0));
    let client = Conn::from_port(local, tcplb.at()).expect("it listens");
    client.assert_echoes("hello");
    let answer = admin.get("/v1/connections");
    let rows = answer.json(200);
    let row = &rows[0];
    let keys: Vec<&str> = FIELDS.into_iter().filter(|field| row.get(field).is_some()).collect();
    assert_eq!(
        (rows.as_array().map(Vec::len), keys.len(), row.as_object().map(|row| row.len())),
        (Some(1), 14, Some(14))
    );
    // As the contract orders them.
    assert!(FIELDS.map(|field| answer.body.find(&format!("\"{field}\":"))).is_sorted(), "{}", answer.body);
    for (field, value) in [
        ("listener", json!("default")),
        ("pool", json!("default")),
        ("backend", json!("web1")),
        ("bytes_to_backend", json!(5)),
        ("bytes_to_client", json!(5)),
        ("state", json!("relaying")),
        ("sni", Value::Null),
        ("route", Value::Null),
    ] {
        assert_eq!(row[field], value, "{field}");
    }
    assert!(row["client"].as_str().is_some_and(|at| at.starts_with("127.0.3.7:")), "{row}");
    assert!(row["id"].as_u64() >= Some(1024) && row["rtt_ms"].as_f64() > Some(0.0), "{row}");
    assert!(row["age_seconds"].as_u64() >= row["idle_seconds"].as_u64(), "{row}");
    // The same one by its number.
    let id = row["id"].to_string();
    let shown = admin.get(&format!("/v1/connections/{id}")).json(200);
    assert_eq!((&shown["client"], &shown["id"]), (&row["client"], &row["id"]));
    eventually("it grows older", || list(admin, "")[0]["idle_seconds"].as_u64() > Some(0));
    drop(client);
    eventually("it is gone", || list(admin, "").is_empty());
    admin.get(&format!("/v1/connections/{id}")).error(404);
}

#[test]
fn one_that_is_closed_is_reset_on_both_sides_and_its_neighbours_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("access.log");
    let (server, tcplb, admin) = start(&["-w", "2", "--access-log", log.to_str().unwrap(), "--log-format", "json"]);
    let clients: Vec<Conn> = (1..=4).map(|last| client_of(&tcplb, [127, 0, 3, last])).collect();
    let rows = list(admin, "");
    assert_eq!(rows.len(), 4);
    let row = rows.iter().find(|row| row["client"].as_str().unwrap().starts_with("127.0.3.2:")).unwrap();
    let id = row["id"].to_string();
    assert_eq!(close(admin, &format!("/{id}")), 1);
    assert_eq!(clients[1].ending(), Ending::Reset);
    assert!(admin.call("DELETE", &format!("/v1/connections/{id}"), "").error(404).contains(&id));
    for neighbour in [0, 2, 3] {
        clients[neighbour].assert_echoes("still here");
    }
    assert_eq!((list(admin, "").len(), server.accepted()), (3, 4));
    let mut line = String::new();
    eventually("its line is written", || {
        line = fs::read_to_string(&log).unwrap();
        line.ends_with('\n')
    });
    let line: Value = serde_json::from_str(&line).expect("one line");
    assert_eq!((&line["close"], &line["id"], &line["client"]), (&json!("forced"), &row["id"], &row["client"]));
}

#[test]
fn filters_choose_by_listener_pool_backend_and_client() {
    let servers = [Server::start(peers::echo), Server::start(peers::echo)];
    let file =
        ConfigFile::over([servers[0].at()]).global("admin = \"127.0.0.1:0\"\nworkers = 2").listener("name = \"one\"");
    let file = file.pool("name = \"a\"\non_remove = \"keep\"").and(&format!(
        "[[listener]]\nname = \"two\"\nbind = [\"127.0.0.1:0\"]\npool = \"b\"\n[[pool]]\nname = \"b\"\n\
         [pool.health]\nkind = \"off\"\n[[pool.backend]]\nname = \"other\"\naddress = \"{}\"\n",
        servers[1].at()
    ));
    let tcplb = Tcplb::from_file(&file.listener("pool = \"a\"").write()).start();
    let admin = Admin::of(&tcplb);
    let connect = |listener: usize, last: u8| {
        let from = Ipv4Addr::new(127, 0, 3, last).into();
        let conn = Conn::from_source(from, &tcplb.listening()[listener]).expect("it listens");
        conn.assert_echoes("hello");
        conn
    };
    let clients = [connect(0, 1), connect(0, 2), connect(1, 2), connect(1, 129)];
    for (query, expected) in [
        ("?listener=one", &[0, 1][..]),
        ("?pool=b", &[2, 3]),
        ("?backend=b1", &[0, 1]),
        ("?backend=other&client=127.0.3.2", &[2]),
        ("?client=127.0.3.2", &[1, 2]),
        ("?client=127.0.3.0/25", &[0, 1, 2]),
        ("?client=::ffff:127.0.3.129", &[3]),
        ("?client=::/0", &[]),
        ("?pool=a&listener=two", &[]),
        ("?pool=nowhere", &[]),
    ] {
        let of_clients: BTreeSet<String> = expected
            .iter()
            .map(|at: &usize| format!("{}:{}", ["127.0.3.1", "127.0.3.2", "127.0.3.2", "127.0.3.129"][*at], at / 2))
            .collect();
        let number = |row: &Value| usize::from(row["listener"] == "two");
        let listed = list(admin, query);
        let found: BTreeSet<String> = listed
            .iter()
            .map(|row| format!("{}:{}", row["client"].as_str().unwrap().split(':').next().unwrap(), number(row)))
            .collect();
        assert_eq!(found, of_clients, "{query}");
    }
    assert_eq!(close(admin, "?client=127.0.3.2&pool=b"), 1);
    assert_eq!(clients[2].ending(), Ending::Reset);
    tcplb.wait_for_line("1 connection closed by a call of the admin API: pool b, client 127.0.3.2/32");
    [0, 1, 3].into_iter().for_each(|at: usize| clients[at].assert_echoes("still here"));
    // A backend that is removed keeps its connections, and they are found by its name.
    admin.call("DELETE", "/v1/pools/a/backends/b1", "").json(200);
    assert_eq!(close(admin, "?backend=b1"), 2);
    assert_eq!((clients[0].ending(), clients[1].ending()), (Ending::Reset, Ending::Reset));
    clients[3].assert_echoes("still here");
}

#[test]
fn a_client_behind_a_proxy_is_found_by_its_announced_address() {
    let (_server, tcplb, admin) = start(&["--accept-proxy"]);
    let (one, other) = (tcplb.connect(), tcplb.connect());
    one.say("PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n");
    one.assert_echoes("hello");
    assert_eq!(of(&list(admin, "?client=192.0.2.7"), "client"), ["192.0.2.7:4711"]);
    // Before its header has come, it is at the address of its socket.
    let early = list(admin, "?client=127.0.0.1");
    assert_eq!((of(&early, "state"), of(&early, "backend")), (vec!["preamble"], vec!["null"]));
    assert_eq!(close(admin, "?client=192.0.2.0/24"), 1);
    assert_eq!(one.ending(), Ending::Reset);
    other.say("PROXY TCP6 2001:db8::1 2001:db8::2 4711 80\r\n");
    other.assert_echoes("hello");
    assert_eq!(close(admin, "?client=2001:db8::1"), 1);
    assert_eq!(other.ending(), Ending::Reset);
}

#[test]
fn a_unix_client_has_no_address_and_no_round_trip_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("clients.sock");
    let server = Server::start(peers::echo);
    let flags = ["--admin", "127.0.0.1:0", "-w", "2"];
    let tcplb = Tcplb::new().listen(&format!("unix:{}", path.display())).backend(server.at()).unprobed().args(flags);
    let tcplb = tcplb.start();
    let admin = Admin::of(&tcplb);
    let client = Conn::to(&At::Unix(path));
    client.assert_echoes("hello");
    let row = one_in(admin, "relaying");
    assert_eq!((&row["client"], &row["rtt_ms"], &row["bytes_to_client"]), (&Value::Null, &Value::Null, &json!(5)));
    assert_eq!(list(admin, "?client=0.0.0.0/0"), [] as [Value; 0]);
    assert_eq!(close(admin, "?listener=default"), 1);
    // A unix socket knows no reset: its peer reads an end, or an error for bytes that were lost.
    client.ending();
    eventually("it is gone", || list(admin, "").is_empty());
}

#[test]
fn states_tell_how_far_a_connection_has_come() {
    let (server, tcplb, admin) = start(&["-w", "1", "--accept-proxy"]);
    drop(server);
    let gone = tcplb.connect();
    one_in(admin, "preamble");
    drop(gone);
    let black_hole = testkit::BlackHole::start();
    let dialled = Tcplb::new().backend(black_hole.at()).unprobed().args(["--admin", "127.0.0.1:0"]).start();
    let admin = Admin::of(&dialled);
    let client = dialled.connect();
    let row = one_in(admin, "dialing");
    assert_eq!(row["backend"], black_hole.at().to_string());
    assert_eq!(close(admin, &format!("?backend={}", black_hole.at())), 1);
    assert_eq!(client.ending(), Ending::Reset);

    let file = ConfigFile::empty().global("admin = \"127.0.0.1:0\"").pool("no_backend = \"wait 1h\"");
    let refusing = At::Tcp((fresh_loopback(), 1).into());
    let waiting = file.backend(&refusing, "max_connections = 1\nweight = 0").start();
    let admin = Admin::of(&waiting);
    let clients = [waiting.connect(), waiting.connect()];
    eventually("both wait", || of(&list(admin, ""), "state") == ["waiting", "waiting"]);
    assert_eq!(close(admin, "?pool=default"), 2);
    clients.iter().for_each(|client| assert_eq!(client.ending(), Ending::Reset));

    // A server that finishes first, and waits for its client.
    let server = Server::start(peers::answers_then_closes("web1"));
    let half = Tcplb::new().backend(server.at()).unprobed().args(["--admin", "127.0.0.1:0"]).start();
    let admin = Admin::of(&half);
    let client = half.connect();
    assert_eq!(one_in(admin, "half_closed")["bytes_to_client"], 5);
    assert_eq!(close(admin, "?pool=default"), 1);
    assert_eq!(client.ending(), Ending::Fin, "its FIN came before the reset");
}

#[test]
fn a_limit_and_an_order_choose_the_first() {
    let (_server, tcplb, admin) = start(&["-w", "2"]);
    let clients: Vec<Conn> = (1..=3).map(|last| client_of(&tcplb, [127, 0, 3, last])).collect();
    clients[1].assert_echoes(&"x".repeat(1000));
    let first = |query: &str| {
        let rows = list(admin, query);
        let text = |row: &Value| row["client"].as_str().unwrap().split(':').next().unwrap().to_owned();
        rows.iter().map(text).collect::<Vec<String>>()
    };
    assert_eq!(first("?limit=2"), ["127.0.3.1", "127.0.3.2"]);
    assert_eq!(first("?sort=age"), ["127.0.3.1", "127.0.3.2", "127.0.3.3"]);
    assert_eq!(first("?sort=bytes&limit=1"), ["127.0.3.2"]);
    // The order by idleness is that of the last byte: the second one's came last.
    assert_eq!(first("?sort=idle"), ["127.0.3.1", "127.0.3.3", "127.0.3.2"]);
    assert_eq!(first("?limit=100000").len(), 3);
}

#[test]
fn calls_that_are_wrong_say_what_was_expected_and_close_nothing() {
    let (_server, tcplb, admin) = start(&[]);
    let client = client_of(&tcplb, [127, 0, 3, 1]);
    for (method, rest, status, want) in [
        ("GET", "?pol=web", 400, "pol"),
        ("GET", "?limit=0", 400, "from 1 to 100000, got `0`"),
        ("GET", "?limit=100001", 400, "from 1 to 100000"),
        ("GET", "?limit=many", 400, "got `many`"),
        ("GET", "?sort=name", 400, "age or bytes or idle, got `name`"),
        ("GET", "?client=web", 400, "client: expected"),
        ("GET", "?client=127.0.0.1:80", 400, "got `127.0.0.1:80`"),
        ("GET", "?client=", 400, "client: expected"),
        ("GET", "?pool=", 400, "pool: expected a name"),
        ("GET", "?pool=a&pool=b", 400, "several"),
        ("DELETE", "", 400, "at least one of listener, pool, backend, client"),
        ("DELETE", "?limit=1", 400, "limit"),
        ("DELETE", "?pool=default&sort=age", 400, "sort"),
        ("DELETE", "?client=127.0.3.1/33", 400, "client: expected"),
        ("DELETE", "/1", 404, "`1`"),
        ("DELETE", "/web1", 404, "`web1`"),
        ("DELETE", "/-1", 404, "`-1`"),
        ("DELETE", "/99999999999999999999999", 404, "`99999999999999999999999`"),
        ("DELETE", "/1024?force=true", 400, "force"),
        ("GET", "/1", 404, "`1`"),
        ("POST", "", 405, "DELETE"),
    ] {
        let error = admin.call(method, &format!("/v1/connections{rest}"), "").error(status);
        assert!(error.contains(want), "{method} {rest}: {error}");
    }
    client.assert_echoes("still here");
}

#[test]
fn sixteen_callers_at_once_all_get_a_whole_list_while_bytes_flow() {
    let (_server, tcplb, admin) = start(&["-w", "2"]);
    let clients: Vec<Conn> = (0..200).map(|_| client_of(&tcplb, [127, 0, 3, 1])).collect();
    thread::scope(|scope| {
        let callers: Vec<_> =
            (0..16).map(|_| scope.spawn(|| (0..5).map(|_| list(admin, "").len()).collect())).collect();
        clients.iter().for_each(|client| client.assert_echoes("goes on"));
        for caller in callers {
            let counts: Vec<usize> = caller.join().expect("it never panics");
            assert_eq!(counts, [200; 5]);
        }
    });
    // Several orders to close the same ones: each connection is counted once.
    let closed: u64 = thread::scope(|scope| {
        let callers: Vec<_> = (0..4).map(|_| scope.spawn(|| close(admin, "?client=127.0.3.1"))).collect();
        callers.into_iter().map(|caller| caller.join().expect("it never panics")).sum()
    });
    assert_eq!(closed, 200);
    clients.iter().for_each(|client| assert_eq!(client.ending(), Ending::Reset));
    assert_eq!(list(admin, ""), [] as [Value; 0]);
}

#[test]
fn a_few_connections_are_spread_evenly_over_the_workers() {
    const WORKERS: u64 = 4;
    let (_server, tcplb, admin) = start(&["-w", &WORKERS.to_string()]);
    // By the kernel's hash alone it is so once in 66 times. A worker that other programs keep from its core counts as busy, so
    // a second and a third attempt may be needed.
    let is_even = (0..3).any(|_| {
        let clients: Vec<Conn> = (0..4 * WORKERS).map(|_| client_of(&tcplb, [127, 0, 0, 1])).collect();
        let rows = list(admin, "");
        drop(clients);
        eventually("they end", || list(admin, "").is_empty());
        by_worker(&rows).into_values().eq([4; WORKERS as usize])
    });
    assert!(is_even, "4 of 16 at each of {WORKERS} workers");
}

/// How many of these connections each worker has.
fn by_worker(rows: &[Value]) -> BTreeMap<String, usize> {
    let worker_of = |row: &Value| row["id"].as_u64().expect("a number") % 1024;
    tally(rows.iter().map(|row| worker_of(row).to_string()))
}

/// Only one worker listens on a unix socket. Clients that it hands over count at once, although the other has not served them yet.
#[test]
fn clients_of_a_unix_socket_that_come_at_once_are_spread_evenly() {
    const CLIENTS: usize = 400;
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("clients.sock");
    let server = Server::start(peers::echo);
    let listening = Tcplb::new().listen(&format!("unix:{}", path.display())).backend(server.at()).unprobed();
    let tcplb = listening.args(["--admin", "127.0.0.1:0", "-w", "2"]).start();
    let admin = Admin::of(&tcplb);
    // A worker that other programs keep from its core for long gets fewer, so that one attempt may fail.
    let is_even = |_: &usize| {
        let clients: Vec<Conn> = (0..CLIENTS).map(|_| tcplb.connect()).collect();
        clients.iter().for_each(|client| client.assert_echoes("served"));
        let found = by_worker(&list(admin, "?limit=1000"));
        drop(clients);
        eventually("they end", || list(admin, "").is_empty());
        println!("of {CLIENTS}: {found:?}");
        found.into_values().all(|count| count.abs_diff(CLIENTS / 2) <= 4)
    };
    assert!((0..4).filter(is_even).count() >= 3, "half of them at each");
}
