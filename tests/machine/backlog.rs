//! Clients that come faster than they are accepted: strace delays each accept, so the backlog is never empty.

use crate::lab::Network;
use rustix::process::Signal;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use testkit::{At, Conn, Flood, Process, Server, Tcplb, eventually, free_address, need, peers, refusing};

/// Clients that a queue of this network holds.
const QUEUE: &str = "64";

/// How long an accept takes, in microseconds. A loop of accepts and a full queue take less than the second that a change waits for a worker.
const DELAY: u32 = 3_000;

/// Slows the worker's accepts.
fn slow(process: &Process) -> Process {
    let is_worker = |path: &Path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == "worker-0");
    let worker = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", process.pid())).expect("its threads");
        tasks.flatten().map(|task| task.path()).find(|path| is_worker(path))
    };
    // A thread gets its name after it begins to run.
    eventually("a worker", || worker().is_some());
    let task = worker().expect("a worker");
    let id = task.file_name().and_then(|id| id.to_str()).expect("a number").to_owned();
    let inject = format!("inject=accept4:delay_enter={DELAY}");
    let strace = Process::spawn(Command::new("strace").args(["-e", "trace=accept4", "-e", &inject, "-p", &id]));
    strace.wait_for_line("attached");
    strace.farewell(Signal::TERM)
}

#[test]
fn listeners_close_after_the_clients_that_wait_although_the_backlog_is_never_empty() {
    let Some(network) = Network::new() else { return };
    if need("strace").is_none() {
        return;
    }
    network.inside(|| {
        fs::write("/proc/sys/net/core/somaxconn", QUEUE).expect("set the longest queue");
        let server = Server::start(peers::echo);
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("tcplb.toml");
        let (stays, extra) = (At::Tcp(free_address()), At::Tcp(free_address()));
        let write = |extra: &str| {
            let pool = |name: &str, at: &At| {
                format!("[[pool]]\nname = '{name}'\nhealth.kind = 'off'\nbackend = [{{ address = '{at}' }}]\n")
            };
            let (web, refused) = (pool("web", server.at()), pool("refused", &refusing()));
            let text = format!(
                "[global]\nworkers = 1\n[[listener]]\nname = 'stays'\nbind = ['{stays}']\npool = 'web'\n{extra}{web}{refused}"
            );
            fs::write(&file, text).expect("a file");
        };
        write(&format!("[[listener]]\nname = 'extra'\nbind = ['{extra}']\npool = 'refused'\n"));
        let mut tcplb = Tcplb::from_file(&file).start();
        let strace = slow(&tcplb);

        let flood = Flood::at(&extra);
        flood.rises(200);
        write("");
        tcplb.signal(Signal::HUP);
        tcplb.wait_for_line("listener extra removed");
        // A socket that is only about to close would leave the attempt without an answer.
        let answered = Conn::attempt(&extra).has_something_within(Duration::from_millis(200));
        assert!(answered, "it is closed once the log says so: {}", tcplb.output());
        assert_eq!(tcplb.count_lines("did not take up"), 0, "{}", tcplb.output());
        drop(flood);

        let flood = Flood::at(&stays);
        flood.rises(200);
        tcplb.signal(Signal::TERM);
        assert_eq!(tcplb.wait_exit().code(), Some(0), "{}", tcplb.output());
        flood.rises(200);
        drop(strace);
    });
}
