//! `tcplb status`, `backends` and `reload` against a running tcplb, and against none.

use crate::admin::support::{Balancer, backend, tcplb};
use std::net::{TcpListener, TcpStream};
use std::process::{Output, Stdio};

#[track_caller]
fn shown(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

#[track_caller]
fn refused(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let message = String::from_utf8(output.stderr.clone()).expect("UTF-8");
    assert!(message.lines().last().is_some_and(|line| line.starts_with("error: ")), "{message}");
    message
}

#[test]
fn status_is_a_table_or_json() {
    let balancer = Balancer::start(&["-b", "127.0.0.1:1,name=web1,weight=5", "-b", "127.0.0.1:2", "--health", "off"]);
    let text = shown(&balancer.client(&["status"]));
    assert!(text.starts_with("ok: nothing is wrong: 2 backends up\n"), "{text}");
    let version = format!("\ntcplb {} running", env!("CARGO_PKG_VERSION"));
    for want in [&version, &balancer.listen, "web1", "127.0.0.1:2", "pool default: up, weighted-round-robin", "STATE"] {
        assert!(text.contains(want), "no {want} in {text}");
    }
    let head = text.lines().find(|line| line.starts_with("BACKEND")).unwrap();
    let row = text.lines().find(|line| line.starts_with("web1")).unwrap();
    assert_eq!(head.find("STATE"), row.find("up"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&shown(&balancer.client(&["status", "--json"]))).unwrap();
    assert_eq!(json["pools"][0]["backends"][0]["weight"], 5);
    let pool = shown(&balancer.client(&["status", "default"]));
    assert!(pool.starts_with("pool default: up, weighted-round-robin\nBACKEND") && pool.contains("web1"), "{pool}");
    let json: serde_json::Value =
        serde_json::from_str(&shown(&balancer.client(&["status", "default", "--json"]))).unwrap();
    assert_eq!(json["name"], "default");
    assert!(refused(&balancer.client(&["status", "other"]), 1).contains("there is no pool `other`"));
    let url = format!("http://{}/", balancer.admin);
    assert!(tcplb(&["status", "--admin", &url]).output().unwrap().status.success());
}

#[test]
fn backends_are_listed_added_changed_and_removed() {
    let balancer = Balancer::idle();
    let run = |arguments: &[&str]| balancer.client(&[&["backends"], arguments].concat());
    assert!(shown(&run(&["list"])).contains("web1"));
    assert_eq!(shown(&run(&[])), shown(&run(&["list"])), "without a verb they are listed");
    let added = shown(&run(&[
        "add",
        "default",
        "[::1]:7",
        "--weight",
        "4",
        "--name",
        "x",
        "--backup",
        "--max-connections",
        "2",
    ]));
    assert_eq!(added, "x added to pool default, weight 4\n");
    let row = shown(&run(&["list", "default"]));
    assert!(row.lines().any(|line| line.starts_with("x ") && line.contains("up (backup)")), "{row}");
    assert_eq!(shown(&run(&["weight", "default", "x", "9"])), "x has weight 9\n");
    assert_eq!(shown(&run(&["disable", "default", "x"])), "x disabled\n");
    assert_eq!(shown(&run(&["enable", "default", "x"])), "x enabled, now up\n");
    assert_eq!(shown(&run(&["drain", "default", "x"])), "x is drained: no connection is left\n");
    assert!(shown(&run(&["list", "default", "--json"])).contains("\"draining\""));
    assert_eq!(shown(&run(&["remove", "default", "x", "--force"])), "x removed from pool default\n");
    assert!(refused(&run(&["remove", "default", "x"]), 1).contains("answers 404"));
    assert!(refused(&run(&["add", "default", "nowhere"]), 1).contains("port is missing"));
    assert!(refused(&run(&["list", "none"]), 1).contains("none"));
    assert!(refused(&balancer.client(&["reload", "--dry-run"]), 1).contains("flags"));
}

#[test]
fn a_drain_waits_for_the_last_connection_or_for_its_time_out() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let spec = format!("{},name=web1", server.local_addr().unwrap());
    let balancer = Balancer::start(&["-b", &spec, "--health", "off"]);
    let client = TcpStream::connect(&balancer.listen).unwrap();
    let (kept, _) = server.accept().unwrap();
    balancer.wait("open", |status| status["pools"][0]["backends"][0]["active_connections"] == 1);
    let message =
        refused(&balancer.client(&["backends", "drain", "default", "web1", "--wait", "--timeout", "300ms"]), 5);
    assert!(message.contains("1 connection left") && message.contains("300ms"), "{message}");
    let from = client.local_addr().unwrap().to_string();
    assert!(message.lines().any(|line| line.contains(&from) && line.contains("relaying")), "{message}");

    let waiting = tcplb(&["backends", "remove", "default", "web1", "--wait"])
        .env("TCPLB_ADMIN", &balancer.admin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    balancer.wait("draining", |status| status["pools"][0]["backends"][0]["state"] == "draining");
    drop((client, kept));
    let output = waiting.wait_with_output().unwrap();
    let text = shown(&output);
    assert!(text.ends_with("web1 is drained: no connection is left\nweb1 removed from pool default\n"), "{output:?}");
}

#[test]
fn silence_and_wrong_addresses_have_exit_codes_of_their_own() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let at = |admin: &str| tcplb(&["status", "--admin", admin]).output().unwrap();
    assert!(refused(&at(&closed), 4).contains(&closed));
    assert!(refused(&at("unix:/nowhere/admin.sock"), 4).contains("/nowhere/admin.sock"));
    for wrong in ["https://localhost:1", "localhost", "unix:"] {
        assert!(refused(&at(wrong), 2).contains("expected 127.0.0.1:9900"), "{wrong}");
    }
    // A backend answers HTTP, but is no tcplb.
    let (_web1, web1) = backend("web1", &[]);
    assert!(refused(&at(&web1), 1).contains("not from tcplb"));
    let output = tcplb(&["backends", "drain", "p", "b", "--timeout", "1s"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "--timeout needs --wait");
}

#[test]
fn the_token_comes_from_a_file_or_the_environment() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    std::fs::write(&path, "correct-horse\n").unwrap();
    let path = path.to_str().unwrap();
    let balancer = Balancer::start(&["-b", "127.0.0.1:1", "--health", "off", "--admin-token-file", path]);
    assert!(refused(&balancer.client(&["status"]), 1).contains("401"));
    shown(&balancer.client(&["status", "--token-file", path]));
    let output = tcplb(&["status", "--admin", &balancer.admin]).env("TCPLB_TOKEN", "correct-horse").output().unwrap();
    shown(&output);
    refused(&balancer.client(&["status", "--token-file", "/nowhere/token"]), 2);
}

#[test]
fn connections_are_listed_watched_and_killed() {
    let server = testkit::Server::start(testkit::peers::echo);
    let balancer = Balancer::start(&["-b", &format!("{},name=web1", server.at()), "--health", "off"]);
    let at = testkit::At::parse(&balancer.listen);
    let connect = |last: u8| {
        let conn = testkit::Conn::from_source([127, 0, 4, last].into(), &at).expect("it listens");
        conn.assert_echoes("hello");
        conn
    };
    let clients: Vec<testkit::Conn> = (1..=3).map(connect).collect();
    let run = |arguments: &[&str]| balancer.client(&[&["connections"], arguments].concat());
    let text = shown(&run(&[]));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0].split_whitespace().collect::<Vec<_>>().join(" "),
        "ID CLIENT BACKEND STATE AGE IDLE IN OUT RTT"
    );
    for (line, client) in lines[1..].iter().zip(["127.0.4.1:", "127.0.4.2:", "127.0.4.3:"]) {
        assert!(line.contains(client) && line.contains("web1") && line.contains("relaying"), "{text}");
        assert!(line.chars().count() <= 80, "{text}");
    }
    assert_eq!(lines.len(), 4);
    assert_eq!(shown(&run(&["--backend", "web1", "--pool", "default", "--listener", "default"])).lines().count(), 4);
    let limited = shown(&run(&["--sort", "bytes", "--limit", "1"]));
    assert_eq!(limited.lines().count(), 2, "{limited}");
    let json: serde_json::Value = serde_json::from_str(&shown(&run(&["--json", "--client", "127.0.4.2"]))).unwrap();
    assert_eq!((json.as_array().map(Vec::len), &json[0]["bytes_to_client"]), (Some(1), &serde_json::json!(5)));

    // Without a terminal it does not ask.
    let killed = shown(&run(&["--client", "127.0.4.2", "--kill"]));
    assert!(killed.lines().nth(1).is_some_and(|line| line.contains("127.0.4.2:")), "{killed}");
    assert!(killed.ends_with("1 connection closed\n"), "{killed}");
    assert_eq!(clients[1].ending(), testkit::Ending::Reset);
    let id = lines[1].split_whitespace().next().unwrap();
    assert!(shown(&run(&[id])).contains("127.0.4.1:"));
    assert!(shown(&run(&[id, "--kill", "--yes"])).ends_with("1 connection closed\n"));
    assert_eq!(clients[0].ending(), testkit::Ending::Reset);
    assert!(refused(&run(&[id]), 1).contains("404"));
    clients[2].assert_echoes("still here");
    assert_eq!(shown(&run(&["--client", "127.0.4.1", "--kill"])), "no connection matches\n");
    assert_eq!(
        shown(&run(&["--client", "127.0.4.0/24", "--kill", "--json"])).replace(char::is_whitespace, ""),
        "{\"closed\":1}"
    );
    assert!(refused(&run(&["--client", "web"]), 1).contains("client: expected"));
    // An empty list is an answer, but a name that is not there is a mistake.
    assert_eq!(shown(&run(&["--backend", "web1", "--client", "127.0.4.1"])).lines().count(), 1);
    for (arguments, want) in [
        (&["--backend", "wbe1"][..], "there is no backend called `wbe1`, did you mean `web1`?"),
        (&["--backend", "wbe1", "--json"], "there is no backend called `wbe1`"),
        (&["--backend", "wbe1", "--kill"], "there is no backend called `wbe1`"),
        (&["--backend", "wbe1", "--pool", "default"], "there is no backend of pool default called `wbe1`"),
        (&["--backend", "web1", "--pool", "defualt"], "there is no pool called `defualt`, did you mean `default`?"),
        (&["--listener", "web"], "there is no listener called `web`"),
    ] {
        let message = refused(&run(arguments), 1);
        assert!(message.contains(want), "{message}");
    }
    for wrong in [&["--kill"][..], &["--yes", "--pool", "default"], &["7", "--pool", "default"], &["--watch", "--json"]]
    {
        assert_eq!(run(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn a_watch_ends_in_order_at_ctrl_c_and_without_a_reader() {
    use std::io::{BufRead, BufReader};
    let balancer = Balancer::idle();
    let start = || {
        let mut command = tcplb(&["connections", "--watch"]);
        command.env("TCPLB_ADMIN", &balancer.admin).stdout(Stdio::piped()).spawn().unwrap()
    };
    for interrupt in [true, false] {
        let mut watch = start();
        let mut out = BufReader::new(watch.stdout.take().unwrap());
        let mut heads = 0;
        // Two looks at an empty table.
        while heads < 2 {
            let mut line = String::new();
            out.read_line(&mut line).unwrap();
            heads += usize::from(line.starts_with("ID  CLIENT"));
        }
        if interrupt {
            let pid = rustix::process::Pid::from_child(&watch);
            rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        }
        // Without an interrupt, the next look finds that the reader is gone.
        drop(out);
        assert_eq!(watch.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn on_a_terminal_a_kill_asks_first() {
    use std::io::Write;
    if testkit::need("script").is_none() {
        return;
    }
    let server = testkit::Server::start(testkit::peers::echo);
    let balancer = Balancer::start(&["-b", &format!("{},name=web1", server.at()), "--health", "off"]);
    let client = testkit::Conn::to(&testkit::At::parse(&balancer.listen));
    client.assert_echoes("hello");
    let program = tcplb(&[]).get_program().to_string_lossy().into_owned();
    for (options, answer, last) in [
        ("--json", "n\n", "{\"closed\":0}"),
        ("", "n\n", "nothing is closed"),
        ("", "\n", "nothing is closed"),
        ("", "y\n", "1 connection closed"),
    ] {
        client.assert_echoes("still here");
        let command = format!("'{program}' connections --pool default --kill {options}");
        let mut script = std::process::Command::new("script");
        script.args(["-qec", &command, "/dev/null"]).env("TCPLB_ADMIN", &balancer.admin);
        let mut terminal = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        terminal.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        let text = shown(&terminal.wait_with_output().unwrap());
        assert!(text.contains("Close them? [y/N] ") && text.trim_end().ends_with(last), "{options} {answer:?}: {text}");
    }
    assert_eq!(client.ending(), testkit::Ending::Reset);
}
