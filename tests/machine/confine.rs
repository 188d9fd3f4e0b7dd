//! What the sandbox keeps a thread from, tried from inside. Landlock holds for the thread that enters it and for what that
//! thread starts, so each test confines a thread and leaves the others alone.

use rustix::process::{Pid, test_kill_process};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier, OnceLock};
use tcplb::base::Endpoint;
use tcplb::config::model::{Discover, Global, LogTo, Model, Pool, Sandbox};
use tcplb::confine::Confinement;
use tcplb::discovery::{KINDS, Kind, Value};

fn model(global: Global) -> Model {
    Model { global, listeners: Vec::new(), pools: Vec::new() }
}

/// Runs `inside` on a thread that has given up what tcplb gives up, with its file and its socket in these two places.
fn confined<T: Send + 'static>(config: &Path, socket: &Path, inside: impl FnOnce() -> T + Send + 'static) -> T {
    let (config, socket) = (config.to_owned(), Endpoint::Unix(socket.into()));
    let thread = std::thread::spawn(move || {
        Confinement::new(&model(Global::default()), Some(&config))
            .and_then(|confinement| confinement.carry_out(&[socket], &[], None))
            .expect("to be confined");
        inside()
    });
    thread.join().expect("the confined thread does not panic")
}

#[track_caller]
fn assert_denied<T>(what: &str, result: io::Result<T>) {
    let kind = result.err().map(|error| error.kind());
    assert_eq!(kind, Some(ErrorKind::PermissionDenied), "{what}");
}

/// Is there Landlock here? Where not, says so; in CI there must be.
fn have_landlock() -> bool {
    let place = tempfile::tempdir().expect("a directory");
    let (outside, config) = (place.path().join("outside"), place.path().join("etc/tcplb.toml"));
    fs::create_dir(place.path().join("etc")).expect("a directory in it");
    fs::write(&outside, "").expect("a file");
    let found = confined(&config, &config, move || fs::read(&outside).is_err());
    assert!(found || std::env::var_os("CI").is_none(), "no Landlock here, and in CI no test may be skipped");
    if !found {
        eprintln!("skipped: this kernel has no Landlock");
    }
    found
}

#[test]
fn what_the_balancer_does_not_need_is_out_of_reach() {
    if !have_landlock() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (etc, run) = (place.path().join("etc"), place.path().join("run"));
    for directory in [&etc, &run] {
        fs::create_dir(directory).unwrap();
    }
    let (config, secret) = (etc.join("tcplb.toml"), place.path().join("secret"));
    for file in [&config, &secret] {
        fs::write(file, "text").unwrap();
    }
    let program = fs::canonicalize("/bin/true").unwrap();
    assert!(Command::new(&program).status().unwrap().success(), "outside it can be started");
    let (in_etc, in_run, denied) = (config.clone(), run.clone(), secret.clone());
    confined(&config, &run.join("web.sock"), move || {
        assert_denied("read a file", fs::read(&denied));
        assert_denied("list a directory", fs::read_dir("/root").map(drop).and(fs::read_dir("/var").map(drop)));
        assert_denied("start a program", Command::new(&program).stdin(Stdio::null()).status());
        assert_denied("change its own file", fs::write(&in_etc, "changed"));
        assert_denied("write beside it", fs::write(in_etc.with_extension("new"), "new"));
        assert_denied("remove it", fs::remove_file(&in_etc));
        assert_denied("truncate it", File::options().write(true).truncate(true).open(&in_etc));
        assert_denied("rename a file", fs::rename(&in_etc, in_run.join("moved")));
        assert_denied("write among its sockets", fs::write(in_run.join("file"), "new"));
        assert_denied("make a directory there", fs::create_dir(in_run.join("directory")));
        assert_denied("make a link there", symlink("/etc/shadow", in_run.join("link")));
        assert_denied("make a socket elsewhere", UnixListener::bind(in_etc.with_extension("sock")));
    });
    assert_eq!(fs::read_to_string(&config).unwrap(), "text");
    assert_eq!(fs::read_dir(&run).unwrap().count(), 0);
}

#[test]
fn the_sandbox_leaves_what_the_balancer_needs() {
    let place = tempfile::tempdir().unwrap();
    let config = place.path().join("tcplb.toml");
    fs::write(&config, "text").unwrap();
    let run = tempfile::tempdir().unwrap();
    let socket = run.path().join("web.sock");
    let (file, at) = (config.clone(), socket.clone());
    confined(&config, &socket, move || {
        assert_eq!(fs::read_to_string(&file).unwrap(), "text");
        // A socket for clients, gone at the end, and one to a backend.
        let listener = UnixListener::bind(&at).unwrap();
        UnixStream::connect(&at).unwrap();
        drop(listener);
        fs::remove_file(&at).unwrap();
        assert!(("localhost", 1).to_socket_addrs().unwrap().next().is_some());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        for file in ["/proc/self/stat", "/proc/stat", "/proc/sys/net/ipv4/tcp_congestion_control"] {
            assert!(!fs::read_to_string(file).unwrap().is_empty(), "{file}");
        }
        assert!(fs::read_dir("/proc/self/fd").unwrap().count() > 3);
        std::thread::available_parallelism().unwrap();
    });
}

#[test]
fn a_source_s_file_can_be_read_and_replaced_and_no_other_place() {
    if !have_landlock() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (etc, lists, other) = (place.path().join("etc"), place.path().join("lists"), place.path().join("other"));
    for directory in [&etc, &lists, &other] {
        fs::create_dir(directory).unwrap();
        fs::write(directory.join("file"), "first").unwrap();
    }
    let (config, list, secret) = (etc.join("file"), lists.join("file"), other.join("file"));
    let kind = KINDS.iter().find(|kind| kind.name == "file").unwrap();
    let mut source = Discover::of(kind);
    source.settings.set("path", Value::File(list.clone()));
    let pools = vec![Pool { discover: vec![source], ..Pool::default() }];
    let model = Model { pools, ..model(Global::default()) };
    let (ready, replaced) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (here, there, at) = (ready.clone(), replaced.clone(), list.clone());
    let thread = std::thread::spawn(move || {
        Confinement::new(&model, Some(&config)).unwrap().carry_out(&[], &[], None).unwrap();
        let first = fs::read_to_string(&at);
        here.wait();
        there.wait();
        assert_denied("read elsewhere", fs::read(&secret));
        assert_denied("change it", fs::write(&at, "changed"));
        (first.unwrap(), fs::read_to_string(&at).unwrap())
    });
    ready.wait();
    fs::write(lists.join("new"), "second").unwrap();
    fs::rename(lists.join("new"), &list).unwrap();
    replaced.wait();
    assert_eq!(thread.join().unwrap(), ("first".to_owned(), "second".to_owned()));
}

#[test]
fn what_a_source_reads_without_a_key_can_be_read_after_it_was_replaced() {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    static ACCOUNT: Kind = Kind {
        name: "account",
        doc: "",
        keys: &[],
        watches: &[],
        reads: |_| PLACE.get().map(|place| place.join("token")).into_iter().collect(),
        check: |_| Ok(()),
        run: |_, _| Ok(()),
    };
    if !have_landlock() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (etc, account, other) = (place.path().join("etc"), place.path().join("account"), place.path().join("other"));
    for directory in [&etc, &account, &other] {
        fs::create_dir(directory).unwrap();
        fs::write(directory.join("file"), "text").unwrap();
    }
    // As the kubelet writes the files of a service account: each is a link through `..data`, which is replaced.
    let publish = |version: &str| {
        fs::create_dir(account.join(version)).unwrap();
        fs::write(account.join(version).join("token"), version).unwrap();
        symlink(version, account.join("..data_tmp")).unwrap();
        fs::rename(account.join("..data_tmp"), account.join("..data")).unwrap();
    };
    publish("..first");
    symlink("..data/token", account.join("token")).unwrap();
    PLACE.set(account.clone()).unwrap();
    let pools = vec![Pool { discover: vec![Discover::of(&ACCOUNT)], ..Pool::default() }];
    let model = Model { pools, ..model(Global::default()) };
    let (ready, replaced) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (here, there) = (ready.clone(), replaced.clone());
    let (config, token, secret) = (etc.join("file"), account.join("token"), other.join("file"));
    let thread = std::thread::spawn(move || {
        Confinement::new(&model, Some(&config)).unwrap().carry_out(&[], &[], None).unwrap();
        let first = fs::read_to_string(&token);
        here.wait();
        there.wait();
        assert_denied("read elsewhere", fs::read(&secret));
        (first.unwrap(), fs::read_to_string(&token).unwrap())
    });
    ready.wait();
    publish("..second");
    fs::remove_dir_all(account.join("..first")).unwrap();
    replaced.wait();
    assert_eq!(thread.join().unwrap(), ("..first".to_owned(), "..second".to_owned()));
}

#[test]
fn only_the_access_log_s_directory_can_be_written() {
    if !have_landlock() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (etc, logs) = (place.path().join("etc"), place.path().join("logs"));
    for directory in [&etc, &logs] {
        fs::create_dir(directory).unwrap();
    }
    let (config, log, device) = (etc.join("tcplb.toml"), logs.join("access.log"), Path::new("/dev/null"));
    fs::write(&config, "text").unwrap();
    for to in [&log, device] {
        let global = Global { access_log: Some(LogTo::File(to.to_owned())), ..Global::default() };
        let open = |path: &Path| File::options().append(true).create(true).open(path);
        let (config, log, is_file) = (config.clone(), log.clone(), to != device);
        let to = to.to_owned();
        let inside = move || {
            let file = open(&to).expect("it can be opened before");
            let confinement = Confinement::new(&model(global), Some(&config));
            confinement
                .and_then(|confinement| confinement.carry_out(&[], &[], Some(file.as_fd())))
                .expect("to be confined");
            writeln!(&file, "line").expect("what was open stays open");
            // As after a rename, and as after none.
            open(&to).expect("it can be opened again");
            let new = open(&log.with_extension("new"));
            if is_file {
                drop(new.expect("another can be made"))
            } else {
                assert_denied("a device is alone", new)
            }
            assert_denied("write beside the configuration", fs::write(config.with_extension("new"), "new"));
            assert_denied("write to it", File::options().append(true).open(&config));
            assert_denied("remove a log", fs::remove_file(&log));
            assert_denied("read a log", fs::read(&log));
            assert_denied("make a directory there", fs::create_dir(log.with_extension("directory")));
            assert_denied("make a link there", symlink("/etc/shadow", log.with_extension("link")));
        };
        std::thread::spawn(inside).join().expect("the confined thread does not panic");
    }
    assert_eq!(fs::read_to_string(&log).unwrap(), "line\n");
}

#[test]
fn other_processes_are_out_of_reach() {
    if !have_landlock() {
        return;
    }
    let mut other = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_child(&other);
    test_kill_process(pid).expect("outside it can be signalled");
    let name = format!("tcplb-test-{}", std::process::id());
    let theirs = SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&theirs).unwrap();
    UnixStream::connect_addr(&theirs).expect("outside it can be reached");
    let place = tempfile::tempdir().unwrap();
    let config = place.path().join("tcplb.toml");
    let (signal, reach, peek) = confined(&config, &config, move || {
        let peek = File::open(format!("/proc/{}/mem", pid.as_raw_nonzero()));
        (test_kill_process(pid), UnixStream::connect_addr(&theirs), peek)
    });
    drop(other.stdin.take());
    other.wait().unwrap();
    assert_denied("look at its memory", peek);
    // The two came with ABI 6 (Linux 6.12).
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    if (numbers.next(), numbers.next()) >= (Some(6), Some(12)) {
        assert_denied("signal another process", signal.map_err(io::Error::from));
        assert_denied("reach a socket without a file", reach);
    } else {
        eprintln!("skipped: signals and abstract sockets, which this kernel can't keep in");
    }
}

#[test]
fn a_sandbox_that_is_off_denies_nothing() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("file");
    let written = file.clone();
    let outcome = std::thread::spawn(move || {
        let global = Global { sandbox: Sandbox::Off, ..Global::default() };
        Confinement::new(&model(global), None)
            .and_then(|confinement| confinement.carry_out(&[], &[], None))
            .expect("nothing can fail");
        fs::write(&written, "text")
    });
    outcome.join().unwrap().unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "text");
}
