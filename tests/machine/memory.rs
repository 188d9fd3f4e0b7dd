//! Little memory, and small pipes.

use crate::lab::limited;
use rustix::pipe::PipeFlags;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::thread;
use testkit::{Conn, MIB, Server, Tcplb, heavy, need, peers, receive, send};

/// Connections that are never read.
const STALLED: usize = 150;

/// What ARCHITECTURE.md says of one whose both ways are stalled: a buffer of 64 KiB for each, and change.
const PROMISED_KIB: u64 = 2 * 64 + 8;

/// How much address space it may have: what it needs to start, the promise for all of these, and not much more.
const LIMIT_KIB: u64 = 96 * 1024;

/// Sends without ever reading, until every buffer is full.
fn floods(conn: Conn) -> std::io::Result<()> {
    let conn = conn.patient();
    let block = [b'x'; 64 * 1024];
    loop {
        (&conn).write_all(&block)?;
    }
}

#[test]
fn stalled_connections_hold_what_is_promised_and_no_more() {
    let _heavy = heavy();
    for relay in ["copy", "splice", "adaptive"] {
        let flood = Server::start(floods);
        let tcplb = Tcplb::new().backend(flood.at()).args(["--relay", relay, "--health", "off"]);
        // With more than one arena, glibc reserves 64 MiB of address space for each of some threads.
        let mut tcplb = limited(tcplb, &format!("-v {LIMIT_KIB}; export MALLOC_ARENA_MAX=1")).start();
        let before = tcplb.rss_kib();
        // All of them at once: each waits until nothing more is taken.
        let clients: Vec<Conn> = (0..STALLED).map(|_| tcplb.connect()).collect();
        thread::scope(|scope| clients.iter().for_each(|client| drop(scope.spawn(|| client.flood()))));
        let grown = tcplb.rss_kib().saturating_sub(before);
        println!("{relay}: {grown} KiB more for {STALLED} stalled connections");
        assert!(grown <= STALLED as u64 * PROMISED_KIB, "{relay}: {grown} KiB more for {STALLED} connections");
        // They are alive: what the backend sent long ago still comes.
        clients.iter().for_each(|client| assert_eq!(client.hear(10), [b'x'; 10]));
        let next = tcplb.connect();
        assert_eq!(next.hear(10), [b'x'; 10]);
        drop((clients, next));
        tcplb.signal(rustix::process::Signal::TERM);
        assert_eq!(tcplb.wait_exit().code(), Some(0), "{relay}");
    }
}

/// Holds pipes until there is no room for another of 1 MiB under the user's limit (pipe-user-pages-soft in pipe(7)).
fn all_pipe_memory() -> Vec<(OwnedFd, OwnedFd)> {
    let limit = std::fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft").expect("every Linux has it");
    let pages: usize = limit.trim().parse().expect("a number");
    let pipes = (0..=pages / 256).map_while(|_| {
        let pipe = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).expect("two descriptors");
        // For a user other than root, this fails when there is no more.
        rustix::pipe::fcntl_setpipe_size(&pipe.1, MIB).ok().map(|_| pipe)
    });
    pipes.collect()
}

#[test]
fn with_all_pipe_memory_used_up_bulk_goes_on() {
    // Root has no limit on pipes: it is taken those rights that lift it.
    let mut wrapper = Vec::new();
    if rustix::process::geteuid().is_root() {
        if need("setpriv").is_none() {
            return;
        }
        wrapper = vec!["setpriv", "--bounding-set=-sys_resource,-sys_admin"];
    }
    let _heavy = heavy();
    // The limit is the user's, whichever process it is that holds the pipes.
    let _all = all_pipe_memory();
    let server = Server::start(|conn: Conn| peers::echo(conn.patient()));
    let tcplb = Tcplb::new().backend(server.at()).args(["--relay", "splice"]).wrapped(wrapper).start();
    let pipes = || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", tcplb.pid())).expect("its descriptors").flatten();
        let open = open.filter_map(|fd| std::fs::read_link(fd.path()).ok());
        open.filter(|target| target.to_string_lossy().starts_with("pipe:")).count()
    };
    let before = pipes();
    let clients: Vec<Conn> = (0..8).map(|_| tcplb.connect()).collect();
    thread::scope(|scope| clients.iter().for_each(|client| drop(scope.spawn(|| client.flood()))));
    assert_eq!(pipes(), before, "a pipe is large or none");

    // One more stream, checked to the byte.
    let client = tcplb.connect();
    let (sent, received) = thread::scope(|scope| {
        let receiving = scope.spawn(|| receive(&client));
        let sent = send(&client, 7, 16 * MIB).expect("all of it is taken");
        client.finish();
        (sent, receiving.join().expect("receiving does not panic").expect("all of it comes"))
    });
    assert_eq!(received, (16 * MIB, sent));
    // Nothing of what stalled is lost either.
    drop(client);
    clients.iter().for_each(|client| assert_eq!(client.hear(MIB), vec![0; MIB]));
}
