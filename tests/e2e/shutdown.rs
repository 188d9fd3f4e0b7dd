//! Signals: drain, hurry, ignore.

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;
use std::io::ErrorKind;
use testkit::{Admin, ConfigFile, Conn, Ending, Server, Tcplb, eventually, peers};

#[track_caller]
fn assert_refuses_soon(at: &testkit::At) {
    eventually(
        "new connections are refused",
        || matches!(Conn::try_to(at), Err(error) if error.kind() == ErrorKind::ConnectionRefused),
    );
}

#[track_caller]
fn assert_last_line(tcplb: &testkit::Process, want: &str) {
    let output = tcplb.output();
    let last = output.lines().last().unwrap_or_default();
    assert!(last.ends_with(want), "the last line is `{last}`: {output}");
}

#[test]
fn a_drain_lets_connections_finish_and_then_exits_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let server = Server::start(peers::echo);
        let mut tcplb = Tcplb::over([&server]);
        let (first, second) = (tcplb.connect(), tcplb.connect());
        first.assert_echoes("before");
        second.assert_echoes("before");
        tcplb.signal(signal);
        assert_refuses_soon(tcplb.at());
        first.assert_echoes("during");
        first.finish();
        assert_eq!(first.ending(), Ending::Fin);
        second.assert_echoes("the last one");
        drop(second);
        assert_eq!(tcplb.wait_exit().code(), Some(0), "{}", tcplb.output());
        // Two, and each attempt that was accepted before the listener closed.
        assert_last_line(&tcplb, " connections finished, 0 reset");
    }
}

#[test]
fn with_nothing_open_the_process_exits_with_0_at_once() {
    let server = Server::start(peers::echo);
    let mut tcplb = Tcplb::over([&server]);
    let client = tcplb.connect();
    client.assert_echoes("before");
    client.finish();
    assert_eq!(client.ending(), Ending::Fin);
    tcplb.signal(Signal::TERM);
    assert_eq!(tcplb.wait_exit().code(), Some(0), "{}", tcplb.output());
    // What ended before the drain is not counted.
    assert_last_line(&tcplb, "stopped: 0 connections finished, 0 reset");
}

#[test]
fn what_outlasts_the_drain_is_reset() {
    let server = Server::start(peers::echo);
    let mut tcplb = Tcplb::new().backend(server.at()).args(["--shutdown-timeout", "1s"]).start();
    let client = tcplb.connect();
    client.assert_echoes("before");
    tcplb.signal(Signal::TERM);
    assert_eq!(client.ending(), Ending::Reset);
    assert_eq!(tcplb.wait_exit().code(), Some(0), "{}", tcplb.output());
    assert_last_line(&tcplb, "stopped: 0 connections finished, 1 reset");
}

#[test]
fn with_many_pools_and_nothing_open_the_process_exits_at_once() {
    let mut text = String::new();
    for number in 0..7 {
        text.push_str(&format!("[[listener]]\nname = 'l{number}'\nbind = ['127.0.0.1:0']\npool = 'p{number}'\n"));
        text.push_str(&format!("[[pool]]\nname = 'p{number}'\n[[pool.backend]]\naddress = '127.0.0.1:1'\n"));
    }
    let mut tcplb = ConfigFile::of(text).start();
    // A probe of each has been made, and the next is a while off.
    for number in 0..7 {
        tcplb.wait_for_line(&format!("is down: connection refused (pool p{number})"));
    }
    let begun = std::time::Instant::now();
    tcplb.signal(Signal::TERM);
    assert_eq!(tcplb.wait_exit().code(), Some(0), "{}", tcplb.output());
    assert!(begun.elapsed() < std::time::Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_last_line(&tcplb, "stopped: 0 connections finished, 0 reset");
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    for second in [Signal::TERM, Signal::INT] {
        let server = Server::start(peers::echo);
        let mut tcplb = Tcplb::new().backend(server.at()).args(["--shutdown-timeout", "1h"]).start();
        let client = tcplb.connect();
        client.assert_echoes("before");
        tcplb.signal(Signal::TERM);
        assert_refuses_soon(tcplb.at());
        client.assert_echoes("during");
        tcplb.signal(second);
        assert_eq!(tcplb.wait_exit().code(), Some(0), "{}", tcplb.output());
        assert_eq!(client.ending(), Ending::Reset);
    }
}

#[test]
fn a_client_whose_backend_is_still_being_connected_does_not_hold_up_the_drain() {
    let hole = testkit::BlackHole::start();
    let mut tcplb = Tcplb::new()
        .backend(hole.at())
        .unprobed()
        .args(["--connect-timeout", "1h", "--shutdown-timeout", "1s"])
        .start();
    let client = tcplb.connect();
    client.say("anybody?");
    tcplb.signal(Signal::TERM);
    assert_eq!(client.ending(), Ending::Reset);
    assert_eq!(tcplb.wait_exit().code(), Some(0), "{}", tcplb.output());
}

#[test]
fn without_a_file_sighup_is_ignored_with_a_line() {
    let server = Server::start(peers::echo);
    let mut tcplb = Tcplb::over([&server]);
    let client = tcplb.connect();
    client.assert_echoes("before");
    tcplb.signal(Signal::HUP);
    tcplb.wait_for_line("SIGHUP");
    client.assert_echoes("after");
    tcplb.connect().assert_echoes("a new one");
    tcplb.signal(Signal::TERM);
    drop(client);
    assert_eq!(tcplb.wait_exit().code(), Some(0), "{}", tcplb.output());
}

/// Waits until the process has taken a SIGHUP that was sent before, so that the next one is not merged with it.
fn taken(tcplb: &testkit::Process) {
    eventually("the signal is taken", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", tcplb.pid())).unwrap();
        let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap().trim();
        u64::from_str_radix(pending, 16).unwrap() & 1 == 0
    });
}

#[test]
fn sigterm_behind_a_flood_of_sighups_goes_first() {
    let server = Server::start(peers::echo);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tcplb.toml");
    let text =
        format!("[[listener]]\nbind = ['127.0.0.1:0']\n[[pool]]\n[[pool.backend]]\naddress = '{}'\n", server.at());
    std::fs::write(&file, &text).unwrap();
    let mut tcplb = Tcplb::from_file(&file).start();
    tcplb.connect().assert_echoes("before");
    // A file that lasts as long as the test wants: a FIFO.
    std::fs::remove_file(&file).unwrap();
    mknodat(CWD, &file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    for _ in 0..100 {
        tcplb.signal(Signal::HUP);
        taken(&tcplb);
    }
    tcplb.signal(Signal::TERM);
    // The file is never read to its end, which holds up nothing else.
    assert_eq!(tcplb.wait_exit().code(), Some(0), "{}", tcplb.output());
    assert_eq!(tcplb.count_lines("reload"), 0, "{}", tcplb.output());
}

#[test]
fn during_the_shutdown_delay_clients_are_served_and_readiness_is_refused() {
    let server = Server::start(peers::echo);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tcplb.toml");
    let text = |delay: &str| {
        format!(
            "[global]\nadmin = '127.0.0.1:0'\nshutdown_delay = '{delay}'\n[[listener]]\nbind = ['127.0.0.1:0']\n[[pool]]\n\
             [pool.health]\nkind = 'off'\n[[pool.backend]]\naddress = '{}'\n",
            server.at()
        )
    };
    std::fs::write(&file, text("1s")).unwrap();
    let start = || {
        let tcplb = Tcplb::from_file(&file).start();
        let admin = Admin::of(&tcplb);
        assert_eq!(admin.get("/readyz").status, 200);
        (tcplb, admin)
    };

    let (mut tcplb, admin) = start();
    let early = tcplb.connect();
    early.assert_echoes("before");
    tcplb.signal(Signal::TERM);
    tcplb.wait_for_line("not ready any more: listeners stay open for 1s");
    let ready = admin.get("/readyz");
    assert!(ready.status == 503 && ready.body.contains("draining"), "{ready:?}");
    let late = tcplb.connect();
    late.assert_echoes("during the delay");
    tcplb.wait_for_line("draining: no new connections");
    assert_refuses_soon(tcplb.at());
    early.assert_echoes("during the drain");
    late.assert_echoes("during the drain");
    drop((early, late));
    assert_eq!(tcplb.wait_exit().code(), Some(0), "{}", tcplb.output());

    // A reload changes it, and a second signal does not wait for it.
    let (mut tcplb, admin) = start();
    std::fs::write(&file, text("1h")).unwrap();
    tcplb.signal(Signal::HUP);
    tcplb.wait_for_line("shutdown_delay 1s → 1h");
    let client = tcplb.connect();
    client.assert_echoes("before");
    tcplb.signal(Signal::TERM);
    eventually("it is not ready", || admin.get("/readyz").status == 503);
    tcplb.connect().assert_echoes("during the delay");
    tcplb.signal(Signal::TERM);
    assert_eq!(tcplb.wait_exit().code(), Some(0), "{}", tcplb.output());
    assert_eq!(client.ending(), Ending::Reset);
}
