//! `tcplb top` in a real terminal.

use super::refused;
use rustix::process::Signal;
use testkit::{Process, Pty, QUICK_PROBES, Server, peers, tcplb};

fn top(admin: &str) -> Pty {
    Pty::start(tcplb(&["top", "--admin", admin]), 80, 24)
}

/// A tcplb whose admin API has a path, so that a second one can have the same.
fn start(admin: &str, servers: &[&Server]) -> Process {
    let mut arguments = vec!["--listen", "127.0.0.1:0", "--admin", admin];
    arguments.extend(QUICK_PROBES);
    let backends: Vec<String> =
        servers.iter().zip(1..).map(|(server, number)| format!("{},name=web{number}", server.at())).collect();
    for backend in &backends {
        arguments.extend(["--backend", backend]);
    }
    let process = Process::start(&arguments);
    process.wait_for_line("admin on");
    process
}

fn server() -> Server {
    Server::start(peers::echo)
}

#[test]
fn top_shows_a_backend_go_down_and_leaves_the_terminal_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let admin = format!("unix:{}", directory.path().join("admin.sock").display());
    let (one, mut other) = (server(), server());
    let balancer = start(&admin, &[&one, &other]);
    let mut pty = top(&admin);
    let screen = pty.wait_for(&["OK  nothing is wrong", "backends 2: 2 up", "web1", "web2"]);
    assert!(screen.starts_with('✓'), "{screen}");
    other.stop();
    let screen = pty.wait_for(&["WARNING", "1 of 2 down, web2", "✗  web2", "down, ", "up → down:"]);
    assert!(screen.starts_with('!'), "{screen}");
    // The worst one is the first below its pool: Enter goes to its connections.
    pty.type_keys("\x1b[B\x1b[B\r");
    pty.wait_for(&["connections of default/web2", "no connection is open"]);
    // While tcplb does not answer, keys go on.
    balancer.signal(Signal::STOP);
    pty.wait_for(&["SILENT  no answer since "]);
    pty.type_keys("2");
    pty.wait_for(&["backends of all pools", "web1"]);
    balancer.signal(Signal::CONT);
    pty.wait_for(&["WARNING"]);
    // A tcplb that starts anew at the same address is found.
    drop(balancer);
    pty.wait_for(&["SILENT  no answer since ", "can't reach tcplb"]);
    let balancer = start(&admin, &[&one]);
    pty.wait_for(&["OK  nothing is wrong"]);
    pty.resize(120, 30);
    pty.wait_for(&["connect", "3 min", "OK  nothing is wrong"]);
    pty.type_keys("q");
    assert_eq!(pty.wait_exit().code(), Some(0));
    assert!(pty.is_as_before());
    drop(balancer);
}

#[test]
fn top_goes_down_from_a_backend_to_a_client_and_its_explanation() {
    let directory = tempfile::tempdir().unwrap();
    let admin = format!("unix:{}", directory.path().join("admin.sock").display());
    let server = server();
    let balancer = start(&admin, &[&server]);
    let at = balancer.wait_for_line("listening on ").split_once("listening on ").unwrap().1.trim().to_owned();
    let client = std::net::TcpStream::connect(at).unwrap();
    let from = client.local_addr().unwrap().to_string();
    let mut pty = top(&admin);
    pty.wait_for(&["OK  nothing is wrong"]);
    pty.type_keys("2\r");
    pty.wait_for(&["connections of default/web1", &from, "relaying"]);
    pty.type_keys("\r");
    pty.wait_for(&["explain: ", &format!("{from} goes to web1"), "usable"]);
    pty.type_keys("\x1b");
    pty.wait_for(&["connections of default/web1"]);
    // Ctrl-C, which a terminal in raw mode sends as a key.
    pty.type_keys("\x03");
    assert_eq!(pty.wait_exit().code(), Some(0));
    assert!(pty.is_as_before());
}

#[test]
fn a_signal_ends_top_and_gives_the_terminal_back() {
    let directory = tempfile::tempdir().unwrap();
    let admin = format!("unix:{}", directory.path().join("admin.sock").display());
    let server = server();
    let _balancer = start(&admin, &[&server]);
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT] {
        let mut pty = top(&admin);
        pty.wait_for(&["OK  nothing is wrong"]);
        assert!(!pty.is_as_before());
        pty.signal(signal);
        assert_eq!(pty.wait_exit().code(), Some(0), "{signal:?}");
        assert!(pty.is_as_before(), "{signal:?}");
    }
}

#[test]
fn top_needs_a_terminal_and_a_tcplb() {
    let message = refused(&["top"], 2);
    assert!(message.contains("needs a terminal") && message.contains("`tcplb status`"), "{message}");
    let free = testkit::free_address().to_string();
    let mut pty = top(&free);
    assert_eq!(pty.wait_exit().code(), Some(4));
    assert!(pty.text().starts_with("error: can't reach tcplb"), "{}", pty.text());
    assert!(pty.is_as_before());
    let mut wrong = tcplb(&["top", "--admin", &free]);
    wrong.args(["--token-file", "/nonexistent"]);
    let mut pty = Pty::start(wrong, 80, 24);
    assert_eq!(pty.wait_exit().code(), Some(2));
}
