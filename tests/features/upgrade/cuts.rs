//! A hand-over that is cut at each of its messages. A process in between passes them on up to one. Then a test kills either side, or
//! the channel closes.

use super::pulls::{Pulled, TAKEN, asked};
use rustix::process::{Pid, Signal, kill_process};
use std::process::Command;
use testkit::{Conn, Process, Server, Tcplb, need, peers};

/// Passes messages on between a puller, which connects to `PATH`, and the socket of the process that runs. At the message `STEP`,
/// which it does not pass on, it prints the number of the puller and waits for a line. Then it ends.
const BETWEEN: &str = r#"
import os, re, select, socket, struct, sys
path, real, step = sys.argv[1:]
def seqpacket():
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listening = seqpacket()
listening.bind(path)
listening.listen()
print("ready", flush=True)
puller, _ = listening.accept()
# The puller listens there itself.
os.unlink(path)
running = seqpacket()
running.connect(real)
to = {puller: running, running: puller}
begins = {puller: True, running: True}
while True:
    for one in select.select(list(to), [], [])[0]:
        packet, descriptors, _, _ = socket.recv_fds(one, 1 << 18, 253)
        if not packet:
            sys.exit(1)
        if begins[one] and re.match(rb'.{5}\{"descriptors":\d+,"message":\{?"' + step.encode() + b'"', packet, re.DOTALL):
            credentials = puller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            print("puller", struct.unpack("3i", credentials)[0], flush=True)
            sys.stdin.readline()
            sys.exit(0)
        begins[one] = packet[0] == 0
        socket.send_fds(to[one], [packet], descriptors)
        for descriptor in descriptors:
            socket.close(descriptor)
"#;

/// A process that runs, its clients, and a puller whose message of this kind, or the one to it, is held back.
struct Cut {
    running: Pulled,
    clients: Vec<Conn>,
    puller: Process,
    between: Process,
    input: std::io::PipeWriter,
}

/// `None`: a tool is missing.
fn cut_at(step: &str, server: &Server) -> Option<Cut> {
    need("python3")?;
    let asked_for = || Tcplb::new().backend(server.at());
    let running = Pulled::start(asked_for());
    let clients: Vec<Conn> = (0..10).map(|_| running.connect()).collect();
    clients.iter().for_each(|client| client.assert_echoes("before"));
    let path = running.socket.with_extension("between");
    let mut python = Command::new("python3");
    python.args(["-c", BETWEEN]).arg(&path).arg(&running.socket).arg(step);
    let (output, input) = std::io::pipe().unwrap();
    let between = Process::spawn_with_input(&mut python, output);
    between.wait_for_line("ready");
    let puller = Process::spawn(&mut asked(asked_for(), &path));
    between.wait_for_line("puller ");
    Some(Cut { running, clients, puller, between, input })
}

fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

#[test]
fn a_puller_that_is_killed_at_any_message_costs_no_connection() {
    let server = Server::start(peers::echo);
    for step in ["Hello", "Welcome", "Sockets", "Running", "Prepare", "Ready"] {
        let Some(Cut { running, clients, mut puller, mut between, input }) = cut_at(step, &server) else { return };
        kill(puller.pid());
        puller.wait_exit();
        drop(input);
        between.wait_exit();
        if step != "Hello" {
            running.process.wait_for_line("take-over failed, and this process goes on: ");
        }
        clients.iter().for_each(|client| client.assert_echoes(step));
        running.connect().assert_echoes("a new one");
    }
}

#[test]
fn a_predecessor_that_is_killed_leaves_what_it_has_handed_over() {
    let server = Server::start(peers::echo);
    // A puller that does not have the listening sockets yet ends, and the same command starts anew.
    for step in ["Hello", "Welcome", "Sockets"] {
        let Some(Cut { running, mut puller, mut between, input, .. }) = cut_at(step, &server) else { return };
        kill(running.process.pid());
        drop(input);
        between.wait_exit();
        assert_eq!(puller.wait_exit().code(), Some(1), "{}", puller.output());
    }
    for step in ["Running", "Prepare", "Ready", "Commit", "Farewell"] {
        let Some(Cut { running, clients, puller, mut between, input }) = cut_at(step, &server) else { return };
        kill(running.process.pid());
        drop(input);
        between.wait_exit();
        puller.wait_for_line("has died during the hand-over, and this one goes on");
        running.connect().assert_echoes("a new one");
        if step == "Farewell" {
            clients.iter().for_each(|client| client.assert_echoes("it has moved"));
        }
    }
}

#[test]
fn a_channel_that_closes_while_both_live_leaves_the_predecessor_in_charge() {
    let server = Server::start(peers::echo);
    for step in ["Welcome", "Running", "Prepare", "Ready"] {
        let Some(Cut { running, clients, mut puller, mut between, input }) = cut_at(step, &server) else { return };
        drop(input);
        between.wait_exit();
        assert_eq!(puller.wait_exit().code(), Some(1), "{}", puller.output());
        assert_eq!(puller.count_lines(TAKEN), 0);
        running.process.wait_for_line("take-over failed, and this process goes on: ");
        clients.iter().for_each(|client| client.assert_echoes(step));
        running.connect().assert_echoes("a new one");
    }
}
