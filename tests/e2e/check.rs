//! `tcplb check`: what it refuses because of this machine's addresses, and what it foresees of a start.

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;
use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use tempfile::TempDir;
use testkit::{Server, Tcplb, fresh_loopback, peers, tcplb};

/// What `check` makes of a file: its exit code, and its lines on stderr.
fn check(place: &TempDir, text: &str) -> (Option<i32>, Vec<String>) {
    let file = place.path().join("tcplb.toml");
    fs::write(&file, text).unwrap();
    let output = tcplb(&["check"]).arg(&file).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), said.lines().map(str::to_owned).collect())
}

/// A warning of `check` about this line.
fn warning(place: &TempDir, line: usize, what: &str) -> String {
    format!("warning: {}:{line}: {what}", place.path().join("tcplb.toml").display())
}

fn file(global: &str, bind: &str, backend: &str) -> String {
    format!(
        "[global]\n{global}\n[[listener]]\nname = \"web\"\nbind = [\"{bind}\"]\n[[pool]]\nname = \"app\"\n\
         [[pool.backend]]\nname = \"web1\"\naddress = \"{backend}\"\n"
    )
}

#[test]
fn check_warns_of_what_only_a_start_finds() {
    let place = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let missing = place.path().join("missing");
    let global = format!(
        "admin = \"192.0.2.1:1\"\nadmin_token_file = {:?}\naccess_log = {:?}\nuser = \"no-such-user\"\n",
        missing.join("token"),
        missing.join("log")
    );
    let (code, said) = check(&place, &file(&global, &at.to_string(), "nowhere.invalid:80"));
    assert_eq!(code, Some(0), "{said:?}");
    for (line, what) in [
        (14, "pool app: can't resolve nowhere.invalid:80: ".to_owned()),
        (9, format!("listener web: can't listen on {at} now: Address already in use")),
        (2, "admin: can't listen on 192.0.2.1:1 now: Cannot assign requested address".to_owned()),
        (3, format!("admin_token_file: can't read {}: No such file", missing.join("token").display())),
        (4, format!("access_log: can't write {}: No such file", missing.join("log").display())),
        (5, "user: ".to_owned()),
    ] {
        let wanted = warning(&place, line, &what);
        assert_eq!(said.iter().filter(|line| line.starts_with(&wanted)).count(), 1, "no `{wanted}` in {said:#?}");
    }
    assert_eq!(said.len(), 6, "{said:#?}");
    // It was not disturbed.
    TcpStream::connect(at).unwrap();
    assert!(taken.accept().is_ok());
    // A socket file that a process listens on is busy; one that is left over is not.
    let server = Server::start_unix(&place.path().join("a.sock"), peers::echo);
    let bind = server.at().to_string();
    let (code, said) = check(&place, &file("", &bind, "127.0.0.1:1"));
    assert_eq!(code, Some(0));
    assert!(
        said.len() == 1 && said[0].starts_with(&warning(&place, 5, "listener web: can't listen on unix:")),
        "{said:#?}"
    );
    assert_eq!(server.accepted(), 0);
    let free = format!("unix:{}", place.path().join("b.sock").display());
    let owned = file("", &free, "127.0.0.1:1").replace("[[pool]]", "owner = \"no-such-user\"\n[[pool]]");
    let (code, said) = check(&place, &owned);
    assert_eq!(code, Some(0));
    let why = "listener web: owner: there is no user called `no-such-user` on this machine";
    assert_eq!(said, [warning(&place, 3, why)]);
    assert_eq!(check(&place, &file("", "127.0.0.1:0", "localhost:1")), (Some(0), Vec::new()));
}

#[test]
fn check_names_what_is_in_the_way_of_a_socket_file() {
    let place = tempfile::tempdir().unwrap();
    let (regular, missing) = (place.path().join("file"), place.path().join("missing"));
    fs::write(&regular, "").unwrap();
    for (path, why) in [
        (regular, "(a file that is no socket is at that path)".to_owned()),
        (place.path().to_owned(), "(a directory is at that path)".to_owned()),
        (missing.join("a.sock"), format!("(there is no directory {})", missing.display())),
    ] {
        let bind = format!("unix:{}", path.display());
        let (code, said) = check(&place, &file("", &bind, "127.0.0.1:1"));
        assert!(code == Some(0) && said.len() == 1 && said[0].ends_with(&why), "{said:#?}");
        let output = tcplb(&["--listen", &bind, "--backend", "127.0.0.1:1"]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && said.contains(&why), "{said}");
    }
}

#[test]
fn check_warns_of_a_name_that_is_the_address_of_another_listener() {
    let place = tempfile::tempdir().unwrap();
    for (other, clashes) in [("127.0.0.1:4711", true), ("127.0.0.1:4712", false), ("0.0.0.0:4711", true)] {
        let (code, said) = check(&place, &file("", &format!("localhost:4711\", \"{other}"), "127.0.0.1:1"));
        let found = said.iter().any(|line| line.contains("localhost:4711 is ") && line.contains(other));
        assert!(code == Some(0) && found == clashes, "{other}: {said:#?}");
    }
}

/// Both are refused by a start.
#[test]
fn check_warns_of_an_empty_token_and_of_more_connections_than_descriptors() {
    let place = tempfile::tempdir().unwrap();
    let (token, path) = (place.path().join("token"), place.path().join("tcplb.toml"));
    fs::write(&token, "\n").unwrap();
    let global = format!("admin = \"127.0.0.1:0\"\nadmin_token_file = {token:?}\nmax_connections = 100000\n");
    fs::write(&path, file(&global, "127.0.0.1:0", "127.0.0.1:1")).unwrap();
    let script = "ulimit -n 1024 && exec \"$0\" \"$1\" \"$2\"";
    let tcplb = env!("CARGO_BIN_EXE_tcplb");
    for (command, code, mark) in [("check", Some(0), "warning: "), ("--config", Some(1), "error: ")] {
        let output = Command::new("sh").args(["-c", script, tcplb, command]).arg(&path).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), code, "{said}");
        let marked: Vec<&str> = said.lines().filter(|line| line.starts_with(mark)).collect();
        let has = |part: &str| marked.iter().any(|line| line.contains(part));
        assert!(has("max_connections: 100000 connections need 200000 descriptors"), "{said}");
        assert!(
            command == "--config" || has(&format!("the token from {}: the file is empty", token.display())),
            "{said}"
        );
    }
}

#[test]
fn a_token_file_without_a_writer_is_given_up_with_one_error() {
    let place = tempfile::tempdir().unwrap();
    let (fifo, path) = (place.path().join("fifo"), place.path().join("tcplb.toml"));
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let global = format!("admin = \"127.0.0.1:0\"\nadmin_token_file = {fifo:?}\n");
    fs::write(&path, file(&global, "127.0.0.1:0", "127.0.0.1:1")).unwrap();
    let silent = format!("{}: its writer did not write and close it within 10s", fifo.display());
    let started = format!("error: can't serve the admin API on 127.0.0.1:0: can't take the admin token from {silent}");
    let checked = warning(&place, 3, &format!("admin_token_file: can't read {silent}"));
    let asked = format!("error: --token-file: can't read {silent}");
    let (config, token) = (path.to_str().unwrap(), fifo.to_str().unwrap());
    // At the same time: each takes as long as tcplb waits for the pipe.
    let runs = [
        (&["--config", config][..], 1, started),
        (&["check", config], 0, checked),
        (&["status", "--token-file", token], 2, asked),
    ];
    let children = runs.map(|(arguments, code, line)| {
        let child = tcplb(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        (child, code, line)
    });
    for (child, code, line) in children {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), said.trim_end()), (Some(code), &*line));
    }
}

#[test]
fn a_backend_that_is_the_admin_api_is_refused() {
    let place = tempfile::tempdir().unwrap();
    for (admin, backend) in [
        ("127.0.0.1:4712", "127.0.0.1:4712"),
        ("localhost:4712", "127.0.0.1:4712"),
        ("unix:/tmp/x.sock", "unix:/tmp/./x.sock"),
    ] {
        let why = format!("this is where the admin API listens (`{admin}`)");
        let (code, said) = check(&place, &file(&format!("admin = \"{admin}\""), ":4711", backend));
        assert!(code == Some(2) && said.len() == 1 && said[0].contains(&why), "{admin} {backend}: {said:#?}");
        let flags = ["--listen", ":4711", "--admin", admin, "--backend", backend];
        let output = tcplb(&flags).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains(&why), "{admin} {backend}: {said}");
    }
    let admin = "admin = \"127.0.0.1:4712\"";
    assert_eq!(check(&place, &file(admin, ":4711", "127.0.0.1:4713")).0, Some(0));
}

#[test]
fn a_backend_that_is_a_listener_is_refused() {
    let place = tempfile::tempdir().unwrap();
    // This machine's own address towards others, if it has one.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let own = socket.connect("192.0.2.1:1").and_then(|()| socket.local_addr()).map(|at| at.ip());
    let mut cases = vec![
        (":4711", "127.0.0.1:4711"),
        (":4711", "[::1]:4711"),
        ("0.0.0.0:4711", "localhost:4711"),
        ("127.0.0.1:4711", "127.0.0.1:4711"),
        ("unix:/tmp/x.sock", "unix:/tmp/x.sock"),
    ];
    let own = own.map(|ip| format!("{ip}:4711"));
    cases.extend(own.iter().map(|own| ("[::]:4711", own.as_str())));
    for (bind, backend) in cases {
        let why = format!("this is where listener web listens (`{bind}`)");
        let (code, said) = check(&place, &file("", bind, backend));
        assert!(code == Some(2) && said.len() == 1 && said[0].contains(&why), "{bind} {backend}: {said:#?}");
        let flags = ["--listen", bind, "--backend", backend];
        let output = tcplb(&flags).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let why = why.replace("web", "default");
        assert!(output.status.code() == Some(2) && said.contains(&why), "{bind} {backend}: {said}");
    }
    for (bind, backend) in [(":0", "127.0.0.1:4711"), (":4711", "192.0.2.1:4711"), (":4711", "127.0.0.1:4712")] {
        assert_eq!(check(&place, &file("", bind, backend)).0, Some(0), "{bind} {backend}");
    }
    let said = Tcplb::new().listen("127.0.0.1:4711").args(["-b", "tcp://127.0.0.1:80"]).start_in_vain().1;
    assert!(said.contains("an address has no `tcp://`: write `127.0.0.1:80`"), "{said}");
}

#[test]
fn a_mode_and_a_unix_path_out_of_bounds_are_refused_with_place_and_bound() {
    let place = tempfile::tempdir().unwrap();
    let path = format!("unix:/{}", "x".repeat(107));
    let longest = &path[..path.len() - 1];
    let with_mode = |bind: &str, mode: &str| {
        file("", bind, "127.0.0.1:1").replace("[[pool]]", &format!("mode = {mode:?}\n[[pool]]"))
    };
    for (text, line, why) in [
        (
            with_mode("unix:/a", "7777"),
            6,
            "mode: expected permissions in octal from 0000 to 0777, like 0660, got `7777`",
        ),
        (
            with_mode("unix:/a", "0888"),
            6,
            "mode: expected permissions in octal from 0000 to 0777, like 0660, got `0888`",
        ),
        (file("", &path, "127.0.0.1:1"), 5, "the path of a unix socket has at most 107 bytes"),
        (file("", "127.0.0.1:0", &path), 10, "the path of a unix socket has at most 107 bytes"),
    ] {
        let (code, said) = check(&place, &text);
        let is_it = |line_said: &String| line_said.contains(&format!("tcplb.toml:{line}: ")) && line_said.contains(why);
        assert!(code == Some(2) && said.len() == 1 && said.iter().all(is_it), "{line}: {why}: {said:#?}");
    }
    assert_eq!(check(&place, &file("", "127.0.0.1:0", longest)).0, Some(0));
}

#[test]
fn a_limit_beyond_the_open_files_is_warned_of_by_check_the_start_and_a_reload() {
    let place = tempfile::tempdir().unwrap();
    let with_limit = |limit: &str| {
        let text = file("workers = 1", "127.0.0.1:0", "127.0.0.1:1");
        text.replace("[[pool]]", &format!("max_connections = {limit}\n[[pool]]"))
    };
    let why = "listener web: max_connections: 4000000000 has no effect, as tcplb serves at most ";
    let (code, said) = check(&place, &with_limit("4000000000"));
    assert!(code == Some(0) && said.len() == 1 && said[0].starts_with(&warning(&place, 6, why)), "{said:#?}");
    let (code, said) = check(&place, &file("max_connections = 4000000000", "127.0.0.1:0", "127.0.0.1:1"));
    let global = warning(&place, 2, "max_connections: 4000000000 connections need ");
    assert!(code == Some(0) && said.len() == 1 && said[0].starts_with(&global), "{said:#?}");
    check(&place, &with_limit("4000000000"));
    let path = place.path().join("tcplb.toml");
    let tcplb = Tcplb::from_file(&path).start();
    tcplb.wait_for_line(why);
    check(&place, &with_limit("4000000001"));
    tcplb.signal(Signal::HUP);
    tcplb.wait_for_line("reload: listener web: max_connections: 4000000001 has no effect");
}

#[test]
fn a_prefix_that_is_wider_than_its_address_is_warned_of() {
    let place = tempfile::tempdir().unwrap();
    let lists = "allow = [\"10.0.0.1/8\"]\n[[listener.route]]\nsource = [\"10.1.0.0/16\"]\npool = \"app\"\n[[pool]]";
    let (code, said) = check(&place, &file("", "127.0.0.1:0", "127.0.0.1:1").replace("[[pool]]", lists));
    let why = "allow: `10.0.0.1/8` is 10.0.0.0/8: bits beyond the prefix do not count";
    assert_eq!((code, said), (Some(0), vec![warning(&place, 6, why)]));
}

#[test]
fn a_range_that_the_kernel_gives_to_connections_is_warned_of_by_check_and_the_start() {
    let (place, ip) = (tempfile::tempdir().unwrap(), fresh_loopback());
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let first: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
    let at = |ports: &str| file("", &format!("{ip}:{ports}"), "127.0.0.1:1");
    for ports in [format!("{}-{}", first - 9, first - 1), first.to_string(), format!("{first}\", \"{ip}:{}", first + 1)]
    {
        assert_eq!(check(&place, &at(&ports)), (Some(0), Vec::new()), "{ports}");
    }
    let (code, said) = check(&place, &at(&format!("{}-{}", first - 1, first + 3)));
    let why = format!("listener web: the kernel may give ports of {ip}:{first}-{} to connections", first + 3);
    assert!(code == Some(0) && said.len() == 1 && said[0].contains(&why), "{said:#?}");
    Tcplb::from_file(&place.path().join("tcplb.toml")).start().wait_for_line(&why);
}

#[test]
fn a_configuration_may_be_a_pipe_and_one_without_a_writer_is_given_up() {
    let place = tempfile::tempdir().unwrap();
    let fifo = place.path().join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let program = || tcplb(&[]);
    // At the same time: each takes as long as tcplb waits for the pipe.
    let given_up = ["check", "--config"].map(|how| {
        let mut command = program();
        command.arg(how).arg(&fifo).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    });
    for child in given_up {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let why = format!("error: can't read {}: its writer did not write and close it within 10s\n", fifo.display());
        assert_eq!((output.status.code(), said), (Some(2), why));
    }
    let mut check = program();
    let mut check = check.args(["check", "/dev/stdin"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    check.stdin.take().unwrap().write_all(file("", "127.0.0.1:0", "127.0.0.1:1").as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "/dev/stdin: ok, 1 listener, 1 pool, 1 backend\n");
}
