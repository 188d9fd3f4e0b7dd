//! The access log: a line for each connection, however it ended, wherever the file has gone meanwhile.

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;
use tempfile::TempDir;
use testkit::{
    Admin, At, Conn, Ending, PATIENCE, Running, Server, Tcplb, account, eventually, fresh_loopback, peers, refusing,
};
use testkit::{need_root, tally};

/// The names of the fields, in their order.
const NAMES: [&str; 11] = [
    "time",
    "listener",
    "client",
    "pool",
    "backend",
    "attempts",
    "connect_ms",
    "duration_ms",
    "bytes_to_backend",
    "bytes_to_client",
    "close",
];

/// A line, by names.
type Line = BTreeMap<&'static str, String>;

/// A directory with a log in it, and whatever a test puts beside it.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn log(&self) -> PathBuf {
        self.path("access.log")
    }

    /// A tcplb that logs here.
    fn tcplb(&self) -> Tcplb {
        Tcplb::new().unprobed().args(["--access-log", shown(&self.log())])
    }

    /// A tcplb that logs here, with this configuration file.
    fn with_file(&self, text: &str) -> Tcplb {
        let file = self.path("tcplb.toml");
        fs::write(&file, format!("[global]\nworkers = 2\naccess_log = {:?}\n{text}", self.log())).unwrap();
        Tcplb::from_file(&file)
    }
}

fn shown(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[track_caller]
fn parse(text: &str) -> Line {
    let fields: Vec<&str> = text.split(' ').collect();
    assert_eq!(fields.len(), NAMES.len(), "`{text}`");
    assert!(fields[0].ends_with('Z') && fields[0].len() == "2026-01-02T03:04:05.678Z".len(), "`{text}`");
    NAMES.into_iter().zip(fields).map(|(name, field)| (name, field.to_owned())).collect()
}

/// How many lines there are, each of them whole.
#[track_caller]
fn count(text: &str) -> u64 {
    text.lines().map(parse).count() as u64
}

/// The only line there is, once it is there.
#[track_caller]
fn only_line(log: &Path) -> Line {
    let mut text = String::new();
    eventually("there is a line", || {
        text = fs::read_to_string(log).unwrap();
        text.ends_with('\n')
    });
    parse(text.trim_end_matches('\n'))
}

/// These fields, in the order in which they are named.
fn of<'a, const N: usize>(line: &'a Line, names: [&str; N]) -> [&'a str; N] {
    names.map(|name| line[name].as_str())
}

#[track_caller]
fn assert_ends_well(tcplb: &mut Running) {
    tcplb.signal(Signal::TERM);
    assert!(tcplb.wait_exit().success());
}

/// Does with its client as the client's first line says.
fn obedient(conn: Conn) -> io::Result<()> {
    match conn.line()?.as_str() {
        "finish" => {
            (&conn).write_all(b"bye")?;
            conn.finish();
            conn.try_ending().map(drop)
        }
        "reset" => {
            conn.reset();
            Ok(())
        }
        _ => peers::echo(conn),
    }
}

/// What the client does after its first line, which says what the backend does.
fn act(tcplb: &Running, line: &str, then: impl FnOnce(Conn)) -> Conn {
    let client = tcplb.connect();
    client.say(line);
    let conn = client.clone();
    then(client);
    conn
}

#[test]
fn a_line_has_the_side_that_ended_a_connection_and_its_bytes() {
    let server = Server::start(obedient);
    type Act = fn(Conn);
    let endings: [(&str, &str, Act, [&str; 2]); 4] = [
        (
            "echo\n",
            "client_fin",
            |client| (client.say("12345"), client.finish(), client.hear_all()).2.clear(),
            ["10", "5"],
        ),
        ("finish\n", "backend_fin", |client| client.hear_all().clear(), ["7", "3"]),
        ("reset\n", "backend_reset", |client| assert_eq!(client.ending(), Ending::Reset), ["6", "0"]),
        ("echo\n", "client_reset", |client| client.assert_echoes("123"), ["8", "3"]),
    ];
    for (line, close, then, bytes) in endings {
        let place = Place::new();
        let mut tcplb = place.tcplb().backend_with(server.at(), "name=web1").start();
        let client = act(&tcplb, line, then);
        // Of the four only the last is still open, and to be reset.
        if close == "client_reset" {
            client.reset()
        } else {
            drop(client)
        }
        let found = only_line(&place.log());
        assert_eq!(
            of(&found, ["close", "bytes_to_backend", "bytes_to_client"]),
            [close, bytes[0], bytes[1]],
            "{found:?}"
        );
        assert_eq!(of(&found, ["listener", "pool", "backend", "attempts"]), ["default", "default", "web1", "1"]);
        assert!(found["client"].starts_with("127.0.0.1:"), "{found:?}");
        for time in ["connect_ms", "duration_ms"] {
            assert!(found[time].parse::<u64>().unwrap() < PATIENCE.as_millis() as u64, "{found:?}");
        }
        assert_ends_well(&mut tcplb);
        assert_eq!(fs::read_to_string(place.log()).unwrap().lines().count(), 1);
    }
}

#[test]
fn a_client_that_was_not_served_has_a_line_with_the_reason() {
    let (place, server) = (Place::new(), Server::start(peers::echo));
    let listeners = [
        ("closed", "deny = [\"0.0.0.0/0\"]", "good"),
        ("strict", "accept_proxy = true", "good"),
        ("empty", "", "nobody"),
        ("broken", "", "refusing"),
        ("once", "max_connections_per_source = 1", "patient"),
        ("quiet", "", "good"),
    ];
    let listeners = listeners.map(|(name, line, pool)| {
        format!("[[listener]]\nname = \"{name}\"\nbind = [\"127.0.0.1:0\"]\npool = \"{pool}\"\n{line}\n")
    });
    let pool = |name: &str, backend: &str| {
        let idle = if name == "patient" { "1h" } else { "200ms" };
        format!("[[pool]]\nname = \"{name}\"\nidle_timeout = \"{idle}\"\n[pool.health]\nkind = \"off\"\n{backend}\n")
    };
    let backend = |at: &At| format!("[[pool.backend]]\naddress = \"{at}\"");
    let [good, patient] = ["good", "patient"].map(|name| pool(name, &backend(server.at())));
    let pools = [good, patient, pool("nobody", ""), pool("refusing", &backend(&refusing()))];
    let mut tcplb = place.with_file(&(listeners.concat() + &pools.concat())).start();
    let at = |number: usize| tcplb.listening()[number].clone();
    // Resets may come so soon that connecting or writing reports them.
    let cut = |number: usize| {
        drop(Conn::try_to(&at(number)).and_then(|conn| (&conn).write_all(b"hello\r\n\r\n").and(conn.try_ending())))
    };
    (0..4).for_each(cut);
    let fits = Conn::to(&at(4));
    fits.assert_echoes("in");
    cut(4);
    // Silent: only the time-out ends it.
    Conn::to(&at(5)).try_ending().unwrap();
    drop(fits);
    assert_ends_well(&mut tcplb);
    let text = fs::read_to_string(place.log()).unwrap();
    let mut found: Vec<Line> = text.lines().map(parse).collect();
    found.sort_by_key(|line| (line["listener"].clone(), line["close"].clone()));
    let logged: Vec<_> =
        found.iter().map(|line| of(line, ["listener", "close", "pool", "attempts", "bytes_to_backend"])).collect();
    assert_eq!(
        logged,
        [
            ["broken", "connect_failed", "refusing", "1", "0"],
            ["closed", "denied", "good", "0", "0"],
            ["empty", "no_backend", "nobody", "0", "0"],
            ["once", "client_fin", "patient", "1", "2"],
            ["once", "source_limit", "patient", "0", "0"],
            ["quiet", "idle_timeout", "good", "1", "0"],
            ["strict", "bad_proxy_header", "good", "0", "0"],
        ]
    );
    for line in found.iter().filter(|line| line["attempts"] == "0") {
        assert_eq!(of(line, ["backend", "connect_ms"]), ["-", "-"], "{line:?}");
    }
}

#[test]
fn the_client_of_a_line_is_the_announced_one_or_none_at_a_unix_socket() {
    let server = Server::start(peers::echo);
    for accepts in [true, false] {
        let place = Place::new();
        let socket = format!("unix:{}", shown(&place.path("web.sock")));
        let tcplb = place.tcplb().listen(&socket).backend(server.at()).args(accepts.then_some("--accept-proxy"));
        let tcplb = tcplb.start();
        let client = tcplb.connect();
        if accepts {
            client.say("PROXY TCP6 2001:db8::1 2001:db8::2 4711 443\r\n");
        }
        client.assert_echoes("hello");
        drop(client);
        let (line, want) = (only_line(&place.log()), if accepts { "[2001:db8::1]:4711" } else { "-" });
        assert_eq!(of(&line, ["client", "bytes_to_backend"]), [want, "5"]);
    }
}

#[test]
fn as_json_a_line_is_an_object_with_the_same_names_and_the_number() {
    let (place, server) = (Place::new(), Server::start(obedient));
    let tcplb = place.tcplb().args(["--log-format", "json"]).backend_with(server.at(), "name=web1").start();
    act(&tcplb, "finish\n", |client| client.hear_all().clear());
    let mut text = String::new();
    eventually("there is a line", || {
        text = fs::read_to_string(place.log()).unwrap();
        text.ends_with('\n')
    });
    let json: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    assert!(json.len() == NAMES.len() + 5 && NAMES.iter().all(|name| json.contains_key(*name)), "{text}");
    assert!(["sni", "route"].iter().all(|name| json.get(*name).is_some_and(serde_json::Value::is_null)), "{text}");
    assert!(json["id"].as_u64().is_some_and(|id| id >= 1024), "{text}");
    assert!(json["failed_attempts"].as_array().is_some_and(Vec::is_empty), "{text}");
    let want = [
        ("event", "close".into()),
        ("backend", "web1".into()),
        ("bytes_to_backend", 7.into()),
        ("close", "backend_fin".into()),
    ];
    want.into_iter().for_each(|(name, value): (_, serde_json::Value)| assert_eq!(json[name], value));
}

#[test]
fn with_a_dash_the_log_is_on_stdout_and_signals_change_nothing() {
    let server = Server::start(obedient);
    for stdout in ["-", "/dev/stdout"] {
        let flags = ["--access-log", stdout];
        let mut tcplb = Tcplb::new().backend_with(server.at(), "name=web1").unprobed().args(flags).start();
        tcplb.signal(Signal::USR1);
        tcplb.wait_for_line("SIGUSR1 ignored");
        act(&tcplb, "finish\n", |client| client.hear_all().clear());
        let line = parse(&tcplb.wait_for_line(" backend_fin"));
        assert_eq!(of(&line, ["backend", "bytes_to_client"]), ["web1", "3"]);
        assert_ends_well(&mut tcplb);
    }
}

#[test]
fn what_a_stop_cuts_off_is_in_the_file_when_the_process_has_ended() {
    let (place, server) = (Place::new(), Server::start(peers::echo));
    let mut tcplb = place.tcplb().backend(server.at()).args(["--shutdown-timeout", "0s"]).start();
    let clients: Vec<Conn> = (0..100).map(|_| tcplb.connect()).collect();
    clients.iter().for_each(|client| client.assert_echoes("x"));
    assert_ends_well(&mut tcplb);
    let text = fs::read_to_string(place.log()).unwrap();
    let reasons = tally(text.lines().map(|line| parse(line)["close"].clone()));
    assert_eq!(reasons, BTreeMap::from([("shutdown".to_owned(), 100)]));
}

#[test]
fn a_log_that_is_renamed_under_load_loses_no_line() {
    let (place, server) = (Place::new(), Server::start(peers::answers_then_closes("web1")));
    let mut tcplb = place.tcplb().backend(server.at()).args(["--admin", "127.0.0.1:0"]).start();
    let (over, served) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    tcplb.connect().hear_all();
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for round in 1..=5 {
            eventually("it is written to", || fs::metadata(place.log()).is_ok_and(|log| log.len() > 0));
            fs::rename(place.log(), place.path(&format!("access.log.{round}"))).unwrap();
            tcplb.signal(Signal::USR1);
            tcplb.wait_for_lines("reopened", round);
        }
        over.store(true, Ordering::SeqCst);
    });
    let accepted = Admin::of(&tcplb).metric("tcplb_connections_accepted_total", &[]);
    assert_eq!(accepted, served.load(Ordering::SeqCst));
    assert_ends_well(&mut tcplb);
    let parts = fs::read_dir(place.0.path()).unwrap().map(|part| fs::read_to_string(part.unwrap().path()).unwrap());
    let parts: Vec<String> = parts.collect();
    assert_eq!(parts.len(), 6);
    let lines: u64 = parts.iter().map(|part| count(part)).sum();
    assert_eq!(lines, accepted);
}

#[test]
fn a_file_that_can_t_be_opened_again_leaves_the_old_one_in_use() {
    let (place, server) = (Place::new(), Server::start(obedient));
    let tcplb = place.tcplb().backend(server.at()).start();
    let old = place.path("access.log.1");
    fs::rename(place.log(), &old).unwrap();
    fs::create_dir(place.log()).unwrap();
    tcplb.signal(Signal::USR1);
    let logged = tcplb.wait_for_line("can't reopen the access log");
    assert!(logged.contains("directory") && logged.contains("stays in use"), "{logged}");
    act(&tcplb, "finish\n", |client| client.hear_all().clear());
    assert_eq!(only_line(&old)["close"], "backend_fin");
}

#[test]
fn a_full_disk_is_logged_once_and_stops_no_client() {
    let server = Server::start(peers::echo);
    let flags = ["--access-log", "/dev/full", "--admin", "127.0.0.1:0"];
    let mut tcplb = Tcplb::new().backend(server.at()).unprobed().args(flags).start();
    let admin = Admin::of(&tcplb);
    for round in 1..=3 {
        tcplb.connect().assert_echoes("all the same");
        eventually("it is counted", || admin.metric("tcplb_access_log_lost_total", &[]) == round);
    }
    assert_ends_well(&mut tcplb);
    assert_eq!(tcplb.count_lines("can't write the access log /dev/full: No space left on device"), 1);
    // The first at once, the others within ten seconds or at the end.
    let output = tcplb.output();
    let logged = output
        .lines()
        .filter_map(|line| line.split_once("access log: ")?.1.split_once(" line")?.0.parse::<usize>().ok());
    assert_eq!(logged.sum::<usize>(), 3, "{output}");
    assert_eq!(tcplb.count_lines("1 line lost"), 1, "{output}");
}

/// A FIFO in place of the log, and its reading end; the kernel holds a page of what is written, no more.
fn fifo(place: &Place) -> File {
    rustix::fs::mknodat(CWD, place.log(), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let reader = rustix::fs::open(place.log(), OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
    rustix::pipe::fcntl_setpipe_size(&reader, 4096).unwrap();
    let flags = rustix::fs::fcntl_getfl(&reader).unwrap();
    rustix::fs::fcntl_setfl(&reader, flags - OFlags::NONBLOCK).unwrap();
    reader.into()
}

#[test]
fn an_access_log_without_a_reader_stops_no_client_and_counts_lost_lines() {
    let (place, server) = (Place::new(), Server::start(peers::echo));
    let mut reader = fifo(&place);
    // Long names make long lines, so that it takes fewer clients.
    let (closed, pool) = ("c".repeat(128), "p".repeat(128));
    let text = format!(
        "admin = \"127.0.0.1:0\"\n[[listener]]\nname = \"{closed}\"\nbind = [\"127.0.0.1:0\"]\ndeny = [\"0.0.0.0/0\"]\n\
         [[listener]]\nname = \"open\"\nbind = [\"127.0.0.1:0\"]\n[[pool]]\nname = \"{pool}\"\n[pool.health]\nkind = \"off\"\n\
         [[pool.backend]]\naddress = \"{}\"\n",
        server.at()
    );
    let text = text.replace("bind", &format!("pool = \"{pool}\"\nbind"));
    let mut tcplb = place.with_file(&text).start();
    let (denies, serves, admin) = (tcplb.listening()[0].clone(), tcplb.listening()[1].clone(), Admin::of(&tcplb));
    let lost = || admin.metric("tcplb_access_log_lost_total", &[]);
    eventually("lines are lost", || {
        (0..500).for_each(|_| drop(Conn::try_to(&denies).and_then(|conn| conn.try_ending())));
        lost() > 0
    });
    tcplb.wait_for_line("lost: written too slowly");
    let guest = Conn::to(&serves);
    guest.assert_echoes("undisturbed");
    // A reader comes at last, and reads to the end. The guest stays until there is room for its line.
    let (begun, beginning) = std::sync::mpsc::channel();
    let reading = thread::spawn(move || {
        let mut text = vec![0; 1 << 20];
        reader.read_exact(&mut text)?;
        begun.send(()).expect("the test waits for it");
        reader.read_to_end(&mut text)?;
        Ok::<_, io::Error>(String::from_utf8(text).expect("text"))
    });
    beginning.recv().expect("a mebibyte was held back");
    drop(guest);
    eventually("every connection has ended", || admin.metric("tcplb_connections_active", &[]) == 0);
    let (accepted, lost) = (admin.metric("tcplb_connections_accepted_total", &[]), lost());
    assert_ends_well(&mut tcplb);
    let text = reading.join().unwrap().unwrap();
    assert_eq!(count(&text) + lost, accepted);
    assert!(text.lines().any(|line| parse(line)["listener"] == "open"));
}

/// The whole lines that a FIFO holds; nothing more comes.
fn lines_left(mut reader: File) -> usize {
    let mut text = Vec::new();
    let flags = rustix::fs::fcntl_getfl(&reader).unwrap();
    rustix::fs::fcntl_setfl(&reader, flags | OFlags::NONBLOCK).unwrap();
    // At the end of what is there it is either over or would block.
    let _ = reader.read_to_end(&mut text);
    text.iter().filter(|byte| **byte == b'\n').count()
}

#[test]
fn a_log_that_is_stuck_does_not_keep_the_process_from_ending_and_every_line_is_counted() {
    let (place, server) = (Place::new(), Server::start(peers::answers_then_closes("web1")));
    let reader = fifo(&place);
    let mut tcplb = place.tcplb().backend(server.at()).start();
    // More than the kernel holds.
    (0..200).for_each(|_| drop(tcplb.connect().hear_all()));
    let begun = Instant::now();
    assert_ends_well(&mut tcplb);
    // A second, on a machine with nothing else to do.
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
    tcplb.wait_for_line("access log: the end does not wait any longer");
    let output = tcplb.output();
    let lost = output.lines().filter(|line| line.contains(" lost: written too slowly"));
    let lost = lost.filter_map(|line| line.split_once("access log: ")?.1.split(' ').next()?.parse::<usize>().ok());
    assert_eq!(lines_left(reader) + lost.sum::<usize>(), 200, "{output}");
}

#[test]
fn a_file_that_takes_the_place_of_a_stuck_log_gets_the_lines() {
    let (place, server) = (Place::new(), Server::start(peers::answers_then_closes("web1")));
    let reader = fifo(&place);
    // The sandbox would let it open that FIFO again, and nothing else of that name.
    let tcplb = place.tcplb().backend(server.at()).args(["--sandbox", "off"]).start();
    (0..200).for_each(|_| drop(tcplb.connect().hear_all()));
    eventually("the pipe is full", || rustix::io::ioctl_fionread(&reader).unwrap() > 3_000);
    fs::rename(place.log(), place.path("old")).unwrap();
    tcplb.signal(Signal::USR1);
    tcplb.wait_for_line("reopened");
    let whole = |text: &str| text.lines().filter(|line| line.split(' ').count() == NAMES.len()).count();
    eventually("the others are in the file", || {
        whole(&fs::read_to_string(place.log()).unwrap_or_default()) >= 200 - 50
    });
    // One line may have been torn; its end is not written into another file.
    let (old, new) = (lines_left(reader), fs::read_to_string(place.log()).unwrap());
    assert_eq!(whole(&new), new.lines().count(), "{new:.300}");
    eventually("no line is missing", || {
        let new = fs::read_to_string(place.log()).unwrap().lines().count();
        (199..=200).contains(&(old + new))
    });
}

#[test]
fn what_can_t_be_opened_ends_the_start() {
    let (place, server) = (Place::new(), Server::start(peers::echo));
    let refused = |wants: &str| {
        let (status, said) = place.tcplb().backend(server.at()).start_in_vain();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("error: can't open the access log") && said.contains(wants), "{said}");
    };
    drop(fifo(&place));
    refused("no process reads this FIFO");
    fs::remove_file(place.log()).unwrap();
    fs::create_dir(place.log()).unwrap();
    refused("directory");
}

#[test]
fn the_user_that_root_becomes_has_the_log_and_opens_it_again_in_the_sandbox() {
    if !need_root() {
        return;
    }
    let (place, server) = (Place::new(), Server::start(obedient));
    let (user, group) = account("nobody").expect("every system has the user nobody");
    fs::set_permissions(place.0.path(), Permissions::from_mode(0o755)).unwrap();
    let start = || {
        let bind = format!("{}:0", fresh_loopback());
        place.tcplb().listen(&bind).backend(server.at()).args(["--user", "nobody"]).start()
    };
    let serve = |tcplb: &Running| drop(act(tcplb, "finish\n", |client| client.hear_all().clear()));

    // A directory that is root's: the file is his, but a new one can't be made there.
    let tcplb = start();
    let logged = tcplb.wait_for_line("SIGUSR1 will fail");
    assert!(logged.contains("nobody:nogroup can't create files in"), "{logged}");
    serve(&tcplb);
    assert_eq!(only_line(&place.log())["close"], "backend_fin");
    let log = fs::metadata(place.log()).unwrap();
    assert_eq!((log.uid(), log.gid(), log.mode() & 0o007), (user, group, 0));
    let old = place.path("access.log.1");
    fs::rename(place.log(), &old).unwrap();
    tcplb.signal(Signal::USR1);
    tcplb.wait_for_line("can't reopen the access log");
    // As logrotate's `create` does.
    fs::write(place.log(), "").unwrap();
    chown(place.log(), Some(user), Some(group)).unwrap();
    tcplb.signal(Signal::USR1);
    tcplb.wait_for_line("reopened");
    serve(&tcplb);
    only_line(&place.log());
    drop(tcplb);

    // One that is his.
    fs::remove_file(place.log()).unwrap();
    chown(place.0.path(), Some(user), Some(group)).unwrap();
    let tcplb = start();
    fs::rename(place.log(), &old).unwrap();
    tcplb.signal(Signal::USR1);
    tcplb.wait_for_line("reopened");
    serve(&tcplb);
    only_line(&place.log());
    assert_eq!(tcplb.count_lines("SIGUSR1 will fail"), 0);
    drop(tcplb);

    // There he can put a link to what is not his, which root must not give away.
    let secret = place.path("secret");
    for link in [true, false] {
        fs::write(&secret, "root's").unwrap();
        fs::remove_file(place.log()).unwrap();
        match link {
            true => std::os::unix::fs::symlink(&secret, place.log()).unwrap(),
            false => fs::hard_link(&secret, place.log()).unwrap(),
        }
        let (status, said) = place.tcplb().backend(server.at()).args(["--user", "nobody"]).start_in_vain();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains(if link { "symbolic link" } else { "second name" }), "{said}");
        assert_eq!(
            (fs::read_to_string(&secret).unwrap().as_str(), fs::metadata(&secret).unwrap().uid()),
            ("root's", 0)
        );
    }
}
