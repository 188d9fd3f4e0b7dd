//! The scripted peers themselves, without tcplb in between: a suite whose own parts are wrong proves nothing.

use crossbeam_channel::unbounded;
use std::io::ErrorKind;
use std::process::Command;
use std::time::Duration;
use testkit::{
    At, BlackHole, Conn, Ending, MIB, PATIENCE, Process, Server, eventually, fresh_loopback, peers, receive, refusing,
    send,
};

#[test]
fn an_echo_server_echoes_and_finishes_after_its_client() {
    let server = Server::start(peers::echo);
    let client = Conn::to(server.at());
    client.assert_echoes("hello");
    client.finish();
    assert_eq!(client.ending(), Ending::Fin);
}

#[test]
fn a_reset_differs_from_a_fin() {
    let server = Server::start(peers::resets);
    assert_eq!(Conn::to(server.at()).ending(), Ending::Reset);
    let (report, reported) = unbounded();
    let server = Server::start(move |conn| report.send(conn.try_ending()?).map_err(std::io::Error::other));
    Conn::to(server.at()).reset();
    assert_eq!(reported.recv_timeout(PATIENCE).unwrap(), Ending::Reset);
    drop(Conn::to(server.at()));
    assert_eq!(reported.recv_timeout(PATIENCE).unwrap(), Ending::Fin);
}

#[test]
fn a_stopped_server_refuses_and_comes_back_on_its_port() {
    let folder = tempfile::tempdir().unwrap();
    let tcp = Server::start(peers::named("tcp"));
    let unix = Server::start_unix(&folder.path().join("peer.sock"), peers::named("unix"));
    for mut server in [tcp, unix] {
        let held = Conn::to(server.at());
        held.hear_line();
        server.stop_listening();
        held.assert_echoes("kept");
        assert!(Conn::try_to(server.at()).is_err());
        server.start_again();
        Conn::to(server.at()).hear_line();
        server.stop();
        held.try_ending().unwrap();
        assert!(Conn::try_to(server.at()).is_err());
    }
}

#[test]
fn a_refusing_address_refuses_and_a_black_hole_stays_silent() {
    assert_eq!(Conn::try_to(&refusing()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let hole = BlackHole::start();
    let At::Tcp(at) = hole.at() else { panic!("a TCP address") };
    let error = std::net::TcpStream::connect_timeout(at, Duration::from_millis(200)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

#[test]
fn a_stream_is_known_by_its_digest() {
    let server = Server::start(|conn| {
        send(&conn, 1, 3 * MIB + 5)?;
        Ok(())
    });
    let same = receive(&Conn::to(server.at())).unwrap();
    assert_eq!(same.0, 3 * MIB + 5);
    assert_eq!(receive(&Conn::to(server.at())).unwrap(), same);
}

#[test]
fn a_flood_ends_when_all_buffers_are_full() {
    let (give, given) = unbounded();
    let server = Server::start_on(fresh_loopback(), move |conn| give.send(conn).map_err(std::io::Error::other));
    let client = Conn::to(server.at());
    let backend = given.recv_timeout(PATIENCE).unwrap();
    client.flood();
    assert!(!client.is_writable_within(Duration::ZERO) && backend.has_something_within(Duration::ZERO));
}

#[test]
fn a_process_is_watched() {
    let mut process = Process::spawn(Command::new("sh").args(["-c", "echo here >&2; echo and here; read x; exit 3"]));
    process.wait_for_line("and here");
    assert_eq!(process.wait_exit().code(), Some(3));
    assert_eq!(process.count_lines("here"), 2);
    let process = Process::spawn(Command::new("sh").args(["-c", "while :; do :; done"]));
    assert!(process.open_fds() > 0 && process.threads() == 1 && process.rss_kib() > 0);
    eventually("it has used some time", || process.cpu_ticks() > 0);
}
