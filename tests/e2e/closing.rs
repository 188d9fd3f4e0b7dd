//! How one side ends is how the other side sees it end: FIN as FIN, reset as reset, each direction on its own.

use crossbeam_channel::{Receiver, Sender, unbounded};
use std::io::{self, Write};
use testkit::{Conn, Ending, MIB, PATIENCE, Server, Tcplb, peers, receive, send};

/// A backend that reports to the test how its clients end, and a tcplb in front of it.
macro_rules! with_backend {
    ($script:expr) => {{
        let (report, reported) = unbounded();
        let script = $script;
        let server = Server::start(move |conn| script(conn, &report));
        let tcplb = Tcplb::new().backend(server.at()).unprobed().start();
        (server, tcplb, reported)
    }};
}

fn next<T>(reported: &Receiver<T>) -> T {
    reported.recv_timeout(PATIENCE).expect("the backend reports what it saw")
}

#[test]
fn half_close_from_client_still_delivers_backend_bytes() {
    let (_server, tcplb, _) = with_backend!(|conn: Conn, _: &Sender<()>| {
        let (length, digest) = receive(&conn)?;
        // Only after the client's FIN has come.
        let mut out = &conn;
        out.write_all(&length.to_be_bytes())?;
        out.write_all(&digest)?;
        send(&conn, 7, MIB)?;
        conn.finish();
        io::Result::Ok(())
    });
    let client = tcplb.connect();
    let sent = send(&client, 1, MIB).unwrap();
    client.finish();
    assert_eq!(client.hear(8), MIB.to_be_bytes());
    assert_eq!(client.hear(32), sent);
    assert_eq!(receive(&client).unwrap().0, MIB);
}

#[test]
fn half_close_from_backend_still_delivers_client_bytes() {
    let (_server, tcplb, reported) = with_backend!(|conn: Conn, report: &Sender<_>| {
        (&conn).write_all(b"that is all from me")?;
        conn.finish();
        report.send(receive(&conn)?).map_err(io::Error::other)
    });
    let client = tcplb.connect();
    assert_eq!(client.hear_all(), b"that is all from me");
    // Only after the backend's FIN has come.
    let sent = send(&client, 2, MIB).unwrap();
    client.finish();
    assert_eq!(next(&reported), (MIB, sent));
}

#[test]
fn after_a_clients_fin_the_other_direction_goes_on_without_a_limit() {
    let (_server, tcplb, reported) = with_backend!(|conn: Conn, report: &Sender<Conn>| {
        if conn.try_ending()? == Ending::Fin {
            report.send(conn).map_err(io::Error::other)?;
        }
        Ok(())
    });
    let client = tcplb.connect();
    client.finish();
    let backend = next(&reported);
    for round in 0..200_u8 {
        backend.say([round]);
        assert_eq!(client.hear(1), [round]);
    }
    drop(backend);
    assert_eq!(client.ending(), Ending::Fin);
}

#[test]
fn a_fin_stays_a_fin_both_ways() {
    let (_server, tcplb, reported) = with_backend!(|conn: Conn, report: &Sender<_>| {
        (&conn).write_all(b"hello")?;
        let seen = conn.try_ending()?;
        conn.finish();
        report.send(seen).map_err(io::Error::other)
    });
    for _ in 0..20 {
        let client = tcplb.connect();
        assert_eq!(client.hear(5), b"hello");
        client.finish();
        assert_eq!(next(&reported), Ending::Fin);
        assert_eq!(client.ending(), Ending::Fin);
    }
}

#[test]
fn a_reset_from_the_client_reaches_the_backend_as_a_reset() {
    let (_server, tcplb, reported) = with_backend!(|conn: Conn, report: &Sender<_>| {
        (&conn).write_all(b"hello")?;
        report.send(conn.try_ending()?).map_err(io::Error::other)
    });
    for _ in 0..20 {
        let client = tcplb.connect();
        assert_eq!(client.hear(5), b"hello");
        client.reset();
        assert_eq!(next(&reported), Ending::Reset);
    }
}

#[test]
fn a_reset_from_the_backend_reaches_the_client_as_a_reset() {
    let (_server, tcplb, _) = with_backend!(|conn: Conn, _: &Sender<()>| {
        conn.line()?;
        conn.reset();
        io::Result::Ok(())
    });
    for _ in 0..20 {
        let client = tcplb.connect();
        client.say("anything\n");
        assert_eq!(client.ending(), Ending::Reset);
    }
}

#[test]
fn a_backend_that_resets_at_once_resets_the_client() {
    let server = Server::start(peers::resets);
    let tcplb = Tcplb::new().backend(server.at()).unprobed().start();
    for _ in 0..20 {
        assert_eq!(tcplb.ending_of_next(), Ending::Reset);
    }
}

#[test]
fn a_reset_after_the_other_sides_fin_is_still_a_reset() {
    let (_server, tcplb, reported) = with_backend!(|conn: Conn, report: &Sender<_>| {
        if conn.line()? == "reset me after my fin" {
            conn.try_ending()?;
            conn.reset();
            return Ok(());
        }
        conn.finish();
        report.send(conn.try_ending()?).map_err(io::Error::other)
    });
    let client = tcplb.connect();
    client.say("reset me after my fin\n");
    client.finish();
    assert_eq!(client.ending(), Ending::Reset);

    let client = tcplb.connect();
    client.say("finish first\n");
    assert_eq!(client.hear_all(), b"");
    client.reset();
    assert_eq!(next(&reported), Ending::Reset);
}
