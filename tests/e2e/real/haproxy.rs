//! The access log in HAProxy's format, beside the log of a real HAProxy: the same clients, the same backends, the same parser.

use parking_lot::Mutex;
use regex::Regex;
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use testkit::foreign::{Foreign, haproxy};
use testkit::{
    At, BlackHole, Conn, PATIENCE, Running, Server, Tcplb, eventually, eventually_some, free_address, peers,
};
use testkit::{need, refusing, run};

/// As logstash reads it: the pattern HAPROXYTCP, without the header of syslog.
const TCPLOG: &str = "^(?<client_ip>unix|[0-9a-f.:]+):(?<client_port>[0-9]+) \\[(?<accept_date>[0-9]{2}/[A-Z][a-z]{2}/[0-9]{4}\
    :[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3})\\] (?<frontend>[^ ]+) (?<backend>[^ /]+)/(?<server>[^ ]+) (?<tw>-?[0-9]+)/(?<tc>-?[0-9]+)\
    /(?<tt>[0-9]+) (?<bytes>[0-9]+) (?<state>[-CSPLRIDUKcs][-RQCHDLT]) (?<actconn>[0-9]+)/(?<feconn>[0-9]+)/(?<beconn>[0-9]+)\
    /(?<srvconn>[0-9]+)/(?<retries>\\+?[0-9]+) (?<srv_queue>[0-9]+)/(?<backend_queue>[0-9]+)$";

/// A line, as far as both must have the same.
#[derive(Debug, PartialEq, Eq)]
struct Parsed {
    client_ip: String,
    frontend: String,
    backend: String,
    server: String,
    /// Is there a time in the queue, and one of the connect?
    times: [bool; 2],
    bytes: String,
    state: String,
    /// Of frontend, backend and server; the retries.
    counts: [String; 4],
    queues: [String; 2],
    minute: String,
}

#[track_caller]
fn parse(line: &str) -> Parsed {
    let fields = Regex::new(TCPLOG).expect("a pattern");
    let fields = fields.captures(line).unwrap_or_else(|| panic!("no line of tcplog: `{line}`"));
    let field = |name: &str| fields[name].to_owned();
    // The port of a unix client is a number of HAProxy's own.
    Parsed {
        client_ip: field("client_ip"),
        frontend: field("frontend"),
        backend: field("backend"),
        server: field("server"),
        times: ["tw", "tc"].map(|name| !field(name).starts_with('-')),
        bytes: field("bytes"),
        state: field("state"),
        counts: ["feconn", "beconn", "srvconn", "retries"].map(field),
        queues: ["srv_queue", "backend_queue"].map(field),
        // The clients of both come one after the other.
        minute: field("accept_date")[.."26/Nov/2026:08".len()].to_owned(),
    }
}

/// Connections of servers that neither answer nor close.
static KEPT: Mutex<Vec<Conn>> = Mutex::new(Vec::new());

/// Does with its client as the client's first line says.
fn backend(conn: Conn) -> io::Result<()> {
    match conn.line()?.as_str() {
        "finish" => {
            (&conn).write_all(b"bye")?;
            conn.finish();
            conn.try_ending().map(drop)
        }
        "half" => {
            conn.finish();
            conn.try_ending().map(drop)
        }
        "hold" => {
            KEPT.lock().push(conn);
            Ok(())
        }
        "reset" => {
            conn.reset();
            Ok(())
        }
        _ => peers::echo(conn),
    }
}

/// Frontends and what is behind them, in the words of both.
struct Front {
    name: &'static str,
    /// Lines of HAProxy's frontend and backend, and of tcplb's listener and pool.
    haproxy: [&'static str; 2],
    tcplb: [&'static str; 2],
    servers: Vec<At>,
    /// Of each server, in both.
    limit: Option<u32>,
}

fn front(name: &'static str, servers: &[&At], haproxy: [&'static str; 2], tcplb: [&'static str; 2]) -> Front {
    Front { name, haproxy, tcplb, servers: servers.iter().map(|at| (*at).clone()).collect(), limit: None }
}

/// HAProxy and tcplb with the same fronts.
struct Pair {
    fronts: Vec<(&'static str, [At; 2])>,
    log: UnixDatagram,
    tcplb_log: PathBuf,
    read: usize,
    _haproxy: Foreign,
    _tcplb: Running,
    _folder: TempDir,
}

impl Pair {
    fn start(fronts: &[Front]) -> Option<Pair> {
        need("haproxy")?;
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let log = UnixDatagram::bind(path("log.sock")).unwrap();
        log.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut theirs = format!(
            "    mode tcp\n    log {} format raw local0\n    option tcplog\n    retries 0\n",
            path("log.sock").display()
        );
        let tcplb_log = path("access.log");
        let mut ours = format!("[global]\nworkers = 1\naccess_log = {tcplb_log:?}\nlog_format = \"haproxy\"\n");
        let mut binds: Vec<SocketAddr> = Vec::new();
        for Front { name, haproxy: [front, back], tcplb: [listener, pool], servers, limit } in fronts {
            let at = free_address();
            binds.push(at);
            let proxied = if front.contains("accept-proxy") { " accept-proxy" } else { "" };
            let front = front.replace("accept-proxy", "");
            theirs +=
                &format!("frontend {name}\n    bind {at}{proxied}\n    {front}\n    default_backend {name}-pool\n");
            theirs += &format!("backend {name}-pool\n    {back}\n");
            ours += &format!(
                "[[listener]]\nname = \"{name}\"\nbind = [\"127.0.0.1:0\"]\npool = \"{name}-pool\"\n{listener}\n"
            );
            ours += &format!(
                "[[pool]]\nname = \"{name}-pool\"\nalgorithm = \"first\"\n{pool}\n[pool.health]\nkind = \"off\"\n"
            );
            for (number, server) in servers.iter().enumerate() {
                let [theirs_most, ours_most] = limit.map_or(["".into(), "".into()], |limit| {
                    [format!(" maxconn {limit}"), format!("max_connections = {limit}")]
                });
                theirs += &format!("    server s{number} {server}{theirs_most}\n");
                ours += &format!("[[pool.backend]]\nname = \"s{number}\"\naddress = \"{server}\"\n{ours_most}\n");
            }
        }
        let haproxy = haproxy(&theirs, &[])?;
        let file = path("tcplb.toml");
        fs::write(&file, ours).unwrap();
        let tcplb = Tcplb::from_file(&file).start();
        let fronts = fronts.iter().zip(binds).zip(tcplb.listening());
        let fronts = fronts.map(|((front, theirs), ours)| (front.name, [At::Tcp(theirs), ours.clone()])).collect();
        let mut pair = Pair { fronts, log, tcplb_log, read: 0, _haproxy: haproxy, _tcplb: tcplb, _folder: folder };
        // HAProxy listens on all of them or on none.
        let first = pair.at(pair.fronts[0].0)[0].clone();
        eventually_some("HAProxy listens", || Conn::try_to(&first).ok()).finish();
        pair.next_of_haproxy();
        Some(pair)
    }

    fn at(&self, front: &str) -> [At; 2] {
        self.fronts.iter().find(|(name, _)| *name == front).expect("a front").1.clone()
    }

    fn next_of_haproxy(&mut self) -> String {
        let mut line = [0; 4096];
        let length = self.log.recv(&mut line).expect("a line of HAProxy");
        String::from_utf8_lossy(&line[..length]).trim_end().to_owned()
    }

    fn next_of_tcplb(&mut self) -> String {
        let line = eventually_some("tcplb has logged it", || {
            let text = fs::read_to_string(&self.tcplb_log).ok()?;
            let whole = text.rsplit_once('\n')?.0;
            whole.lines().nth(self.read).map(str::to_owned)
        });
        self.read += 1;
        line
    }

    /// Does the same with both, and compares their next lines.
    #[track_caller]
    fn compare(&mut self, front: &str, state: &str, act: impl Fn(&At) -> Option<Conn>) {
        let [found, expected] = self.lines_of(front, act);
        assert_eq!(parse(&found), parse(&expected), "{front}\n  tcplb:   {found}\n  HAProxy: {expected}");
        assert_eq!(parse(&found).state, state, "{front}: {found}");
    }

    /// The same where HAProxy 2.6 does not write the state that its manual gives.
    #[track_caller]
    fn compare_all_but_the_state(&mut self, front: &str, state: &str, act: impl Fn(&At) -> Option<Conn>) {
        let [found, theirs] = self.lines_of(front, act);
        let expected = Parsed { state: state.to_owned(), ..parse(&theirs) };
        assert_eq!(parse(&found), expected, "{front}\n  tcplb:   {found}\n  HAProxy: {theirs}");
        assert_eq!(parse(&theirs).state, "CD", "{front}: {theirs}");
    }

    /// The lines of tcplb and of HAProxy.
    fn lines_of(&mut self, front: &str, act: impl Fn(&At) -> Option<Conn>) -> [String; 2] {
        let [theirs, ours] = self.at(front);
        // What the client keeps open, it keeps open until the line is there.
        let kept = act(&theirs);
        let expected = self.next_of_haproxy();
        drop(kept);
        let kept = act(&ours);
        let found = self.next_of_tcplb();
        drop(kept);
        [found, expected]
    }
}

/// A client that says this, and then does that.
fn client(line: &'static str, then: impl Fn(&Conn)) -> impl Fn(&At) -> Option<Conn> {
    move |at| {
        let conn = Conn::to(at);
        conn.say(line);
        then(&conn);
        Some(conn)
    }
}

/// The same, and then resets.
fn client_that_resets(line: &'static str, before: impl Fn(&Conn)) -> impl Fn(&At) -> Option<Conn> {
    let client = client(line, before);
    move |at| {
        client(at).into_iter().for_each(Conn::reset);
        None
    }
}

/// Hears how the balancer ends the connection, and closes too.
fn waits_for_its_end(conn: &Conn) {
    let _ = conn.try_ending();
    conn.finish();
}

/// A client that may be refused before it is connected.
fn refused(at: &At) -> Option<Conn> {
    let conn = Conn::try_to(at).ok()?;
    waits_for_its_end(&conn);
    Some(conn)
}

/// Has no way to see that the balancer has begun to dial, or to wait.
fn lets_it_begin(conn: &Conn) {
    assert!(!conn.has_something_within(Duration::from_millis(300)));
}

const SLOW: [&str; 2] = ["", "timeout server 500ms"];
const IDLE: [&str; 2] = ["timeout client 500ms", ""];
const SOON: [&str; 2] = ["", "idle_timeout = \"500ms\"\nhalf_close_timeout = \"500ms\""];

#[test]
fn lines_are_those_of_haproxy_field_by_field() {
    let (server, dead, hole) = (Server::start(backend), refusing(), BlackHole::start());
    let at = server.at();
    let fronts = [
        front("plain", &[at], ["", ""], ["", ""]),
        front("refused", &[&dead], ["", ""], ["", ""]),
        front("none", &[], ["", ""], ["", ""]),
        front("denied", &[at], ["tcp-request content reject", ""], ["deny = [\"0.0.0.0/0\"]", ""]),
        front("second", &[&dead, at], ["", "retries 1\n    option redispatch 1\n    balance first"], ["", ""]),
        front("deaf", &[hole.at()], ["", "timeout connect 300ms"], ["", "connect_timeout = \"300ms\""]),
        front("deafer", &[hole.at()], ["", ""], ["", ""]),
        front("slow", &[at], SLOW, SOON),
        front("idle", &[at], IDLE, SOON),
        front("proxied", &[at], ["accept-proxy", ""], ["accept_proxy = true", ""]),
        Front {
            limit: Some(1),
            ..front("queue", &[at], ["", "timeout queue 300ms"], ["", "no_backend = \"wait 300ms\""])
        },
        Front {
            limit: Some(1),
            ..front("patient", &[at], ["", "timeout queue 30s"], ["", "no_backend = \"wait 30s\""])
        },
    ];
    let Some(mut pair) = Pair::start(&fronts) else { return };

    pair.compare(
        "plain",
        "--",
        client("echo\n", |conn| {
            conn.assert_echoes("hello");
            conn.finish();
            conn.hear_all();
        }),
    );
    let hears = |conn: &Conn| drop(conn.hear_all());
    let closes = |conn: &Conn| {
        conn.hear_all();
        conn.finish();
    };
    let finishes = |conn: &Conn| {
        conn.finish();
        waits_for_its_end(conn);
    };
    let echoes = |conn: &Conn| conn.assert_echoes("hello");
    pair.compare("plain", "--", client("finish\n", closes));
    pair.compare("plain", "CD", client_that_resets("echo\n", echoes));
    pair.compare("plain", "SD", client("reset\n", waits_for_its_end));
    pair.compare("refused", "SC", refused);
    pair.compare("none", "SC", refused);
    pair.compare("denied", "PR", refused);
    pair.compare("second", "--", client("finish\n", closes));
    pair.compare("deaf", "sC", refused);
    pair.compare_all_but_the_state("deafer", "CC", client_that_resets("", lets_it_begin));
    pair.compare("slow", "sD", client("hold\n", waits_for_its_end));
    pair.compare("slow", "sD", client("hold\n", finishes));
    pair.compare("idle", "cD", client("echo\n", echoes));
    pair.compare("idle", "cD", client("half\n", hears));
    let header = "PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\nfinish\n";
    pair.compare("proxied", "--", client(header, closes));
    for front in ["queue", "patient"] {
        let served = pair.at(front).map(|at| client("echo\n", echoes)(&at));
        match front {
            "queue" => pair.compare(front, "sQ", refused),
            _ => pair.compare_all_but_the_state(front, "CQ", client_that_resets("", lets_it_begin)),
        }
        drop(served);
        pair.next_of_haproxy();
        pair.next_of_tcplb();
    }
}

#[test]
fn the_time_is_in_the_zone_of_the_system_as_haproxy_has_it() {
    let server = Server::start(backend);
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let flags = ["--access-log", log.to_str().unwrap(), "--log-format", "haproxy"];
    let zoned = Tcplb::new().unprobed().backend(server.at()).args(flags).wrapped(["env", "TZ=Asia/Kolkata"]);
    let tcplb = zoned.start();
    let hour = || run(Command::new("date").env("TZ", "Asia/Kolkata").arg("+%d/%b/%Y:%H:%M")).trim().to_owned();
    let before = hour();
    let conn = tcplb.connect();
    conn.say("finish\n");
    conn.hear_all();
    drop(conn);
    eventually("there is a line", || fs::read_to_string(&log).is_ok_and(|text| text.ends_with('\n')));
    let (line, after) = (fs::read_to_string(&log).unwrap(), hour());
    assert!([before, after].iter().any(|hour| line.contains(&format!(" [{hour}"))), "{line}");
}
