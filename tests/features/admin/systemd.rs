//! The messages that a service manager gets, and the sockets that it hands over. The test plays the manager.

use crate::admin::support::{PATIENCE, Process, tcplb};
use rustix::process::Signal;
use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::process::Command;
use std::time::Instant;
use tcplb::net::listen::bind_for_messages;
use testkit::{ConfigFile, Tcplb, refusing};

/// The next message that has this line.
#[track_caller]
fn message_with(socket: &UnixDatagram, line: &str) -> String {
    let (mut seen, end) = (Vec::new(), Instant::now() + PATIENCE);
    loop {
        assert!(Instant::now() < end, "`{line}` was not sent, but {seen:?}");
        let mut buffer = [0; 4096];
        // A stop of the whole process interrupts a receive that has a time-out (signal(7)).
        let count = match socket.recv(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            outcome => outcome.unwrap_or_else(|error| panic!("`{line}` was not sent, but {seen:?}: {error}")),
        };
        let message = String::from_utf8(buffer[..count].to_vec()).expect("UTF-8");
        if message.lines().any(|sent| sent == line) {
            return message;
        }
        seen.push(message);
    }
}

/// A tcplb whose messages the socket gets.
fn notified() -> (ConfigFile, UnixDatagram, Process) {
    let file = ConfigFile::over([&refusing()]).health("kind = 'tcp'");
    let notify = file.path("notify");
    let socket = UnixDatagram::bind(&notify).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = Tcplb::from_file(&file.write()).command();
    command.env("NOTIFY_SOCKET", notify).env("WATCHDOG_USEC", "400000");
    (file, socket, Process::spawn(&mut command))
}

#[test]
fn the_service_manager_gets_start_reload_watchdog_and_stop_messages() {
    let (file, socket, mut process) = notified();
    let ready = message_with(&socket, "READY=1");
    assert!(ready.lines().any(|line| line.starts_with("STATUS=")), "{ready}");
    // By then it listens.
    TcpStream::connect(process.after("listening on ")).unwrap();
    message_with(&socket, "WATCHDOG=1");
    message_with(&socket, "WATCHDOG=1");
    process.signal(Signal::HUP);
    let reloading = message_with(&socket, "RELOADING=1");
    let when = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).expect("when");
    assert!(when.parse::<u64>().is_ok_and(|usec| usec > 0), "{reloading}");
    message_with(&socket, "READY=1");
    file.rewrite("nonsense");
    process.signal(Signal::HUP);
    message_with(&socket, "RELOADING=1");
    assert!(message_with(&socket, "READY=1").contains("STATUS=running with the old configuration"));
    process.signal(Signal::TERM);
    message_with(&socket, "STOPPING=1");
    assert_eq!(process.end().0.code(), Some(0));
}

#[test]
fn a_service_manager_that_does_not_read_holds_up_nothing_and_gets_the_newest_state() {
    let (file, socket, mut process) = notified();
    process.after("listening on ");
    // Each reload is two messages: more than find room.
    let room: usize = std::fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").unwrap().trim().parse().unwrap();
    for _ in 0..room {
        process.signal(Signal::HUP);
        process.line("reload: nothing changed");
    }
    file.rewrite("nonsense");
    process.signal(Signal::HUP);
    process.line("reload refused");
    // From here on it reads.
    message_with(&socket, "STATUS=running with the old configuration: the new one was refused");
    message_with(&socket, "WATCHDOG=1");
    process.signal(Signal::TERM);
    message_with(&socket, "STOPPING=1");
    assert_eq!(process.end().0.code(), Some(0));
}

#[test]
fn a_service_manager_may_listen_on_an_abstract_socket() {
    let name = format!("tcplb-test-{}", std::process::id());
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = tcplb(&["-l", "127.0.0.1:0", "-b", "127.0.0.1:1"]);
    command.env("NOTIFY_SOCKET", format!("@{name}"));
    let _process = Process::spawn(&mut command);
    message_with(&socket, "READY=1");
}

/// tcplb with one inherited socket as descriptor 3, as sd_listen_fds(3) wants it.
fn activated(socket: OwnedFd, arguments: &[&str]) -> Process {
    let mut command = Command::new("/bin/sh");
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"";
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_tcplb")]).args(arguments);
    Process::spawn_with_input(&mut command, socket)
}

#[test]
fn an_inherited_socket_is_taken_over_by_the_listener_of_its_address() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap().to_string();
    // A client that connects before tcplb runs is served by it.
    let mut early = TcpStream::connect(&at).unwrap();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let backend = server.local_addr().unwrap().to_string();
    let arguments = ["-l", &at, "-l", "127.0.0.1:0", "-b", &backend, "--health", "off", "-w", "2"];
    let process = activated(listener.into(), &arguments);
    assert_eq!(process.after("listening on "), at);
    let mut inside = server.accept().unwrap().0;
    std::io::Write::write_all(&mut inside, b"hello").unwrap();
    drop(inside);
    let mut text = String::new();
    early.set_read_timeout(Some(PATIENCE)).unwrap();
    early.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    // Both workers share its queue.
    for _ in 0..20 {
        let _client = TcpStream::connect(&at).unwrap();
        server.accept().unwrap();
    }
}

#[test]
fn an_inherited_unix_socket_is_taken_over_and_a_surplus_one_is_logged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("web.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let backend = server.local_addr().unwrap().to_string();
    let listen = format!("unix:{}", path.display());
    let arguments = ["-l", &listen, "-b", &backend, "--health", "off", "--shutdown-timeout", "0s"];
    let mut process = activated(listener.into(), &arguments);
    assert_eq!(process.after("listening on "), listen);
    let _client = UnixStream::connect(&path).unwrap();
    server.accept().unwrap();
    process.signal(Signal::TERM);
    assert_eq!(process.end().0.code(), Some(0));
    assert!(path.exists(), "it is the service manager's");

    let unwanted = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = unwanted.local_addr().unwrap().to_string();
    let process = activated(unwanted.into(), &["-l", "127.0.0.1:0", "-b", &backend, "--health", "off"]);
    assert!(process.after("the service manager opened ").starts_with(&at));

    let connected = TcpStream::connect(&backend).unwrap();
    let mut process = activated(connected.into(), &["-l", "127.0.0.1:0", "-b", &backend, "--health", "off"]);
    process.after("can't use the socket number 0 of LISTEN_FDS: it does not listen");
    assert_eq!(process.end().0.code(), Some(1));
}

#[test]
fn an_inherited_socket_and_take_over_are_refused_together() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("take-over.sock");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let flags = ["-l", &at, "-b", "127.0.0.1:1", "--take-over", path.to_str().unwrap()];
    let mut process = activated(listener.into(), &flags);
    process
        .after(&format!("can't be used with sockets of the service manager, like {at}; it starts this service again"));
    assert_eq!(process.end().0.code(), Some(1));
    assert!(!path.exists());
}

#[test]
fn an_inherited_socket_that_listens_for_messages_is_refused_and_is_no_kept_connection() {
    let directory = tempfile::tempdir().unwrap();
    let listening = bind_for_messages(&directory.path().join("messages.sock")).unwrap();
    let copy = listening.as_fd().try_clone_to_owned().unwrap();
    let mut process = activated(copy, &["-l", "127.0.0.1:0", "-b", "127.0.0.1:1"]);
    process.after(
        "can't use the socket number 0 of LISTEN_FDS: it listens for SOCK_SEQPACKET: expected a listening stream",
    );
    assert_eq!(process.end().0.code(), Some(1));
}

#[test]
fn a_mode_for_a_socket_file_of_the_service_manager_is_refused() {
    let file = ConfigFile::over([&refusing()]);
    let path = file.path("web.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let file = file.listener(&format!("bind = [\"unix:{}\"]\nmode = \"0600\"", path.display()));
    let mut process = activated(listener.into(), &["--config", file.write().to_str().unwrap()]);
    process.after("listener default: mode, owner and group of ");
    assert_eq!(process.end().0.code(), Some(1));
    assert!(path.exists(), "it is the service manager's");
}

#[test]
fn a_listener_on_an_inherited_socket_can_be_removed_and_put_back() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let file = ConfigFile::empty();
    let write = |inherited: bool| {
        let inherited =
            if inherited { format!("[[listener]]\nname = \"web\"\nbind = [\"{at}\"]\n") } else { String::new() };
        let other = "[[listener]]\nname = \"other\"\nbind = [\"127.0.0.1:0\"]\n";
        let address = server.local_addr().unwrap();
        let pool = format!("[[pool]]\n[pool.health]\nkind = \"off\"\n[[pool.backend]]\naddress = \"{address}\"\n");
        file.rewrite(&format!("[global]\nworkers = 2\n{inherited}{other}{pool}"))
    };
    let is_served = || {
        let _client = TcpStream::connect(at).unwrap();
        server.accept().unwrap();
    };
    // It does not have to be wanted at the start.
    let process = activated(listener.into(), &["--config", write(false).to_str().unwrap()]);
    process.line("nothing is configured to listen there");
    process.line("listening on ");
    for _ in 0..2 {
        write(true);
        process.signal(Signal::HUP);
        process.line("listener web added");
        (0..10).for_each(|_| is_served());
        write(false);
        process.signal(Signal::HUP);
        process.line("listener web removed");
        let mut refused = TcpStream::connect(at).unwrap();
        refused.set_read_timeout(Some(PATIENCE)).unwrap();
        let outcome = refused.read(&mut [0]);
        assert_eq!(outcome.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset), "it does not hang");
    }
}
