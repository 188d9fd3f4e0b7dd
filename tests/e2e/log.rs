//! The process's log on stderr: what it holds, and what happens when its reader is stuck.

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader, Cursor, PipeReader, PipeWriter, Read, pipe};
use std::os::fd::AsFd;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;
use tempfile::TempDir;
use testkit::{Admin, At, Conn, PATIENCE, QUICK_PROBES, Server, Tcplb, eventually, peers};

/// A tcplb whose stderr is a small pipe that the test reads only when it means to.
struct Stuck {
    child: Child,
    stderr: BufReader<PipeReader>,
    /// The end that tcplb writes to: the same open file description.
    writer: PipeWriter,
    at: At,
    admin: Admin,
    place: TempDir,
    server: Server,
}

impl Stuck {
    /// Started, and read up to its last line; then its file is made a wrong one, so that each reload logs some 64 KiB.
    fn start() -> Stuck {
        let (place, server) = (tempfile::tempdir().unwrap(), Server::start(peers::echo));
        let file = place.path().join("tcplb.toml");
        let text = format!(
            "[global]\nadmin = \"127.0.0.1:0\"\n[[listener]]\nname = \"web\"\nbind = [\"127.0.0.1:0\"]\n[[pool]]\nname = \"app\"\n\
             [pool.health]\ninterval = \"300ms\"\ntimeout = \"300ms\"\n[[pool.backend]]\nname = \"web1\"\naddress = \"{}\"\n",
            server.at()
        );
        fs::write(&file, &text).unwrap();
        let (reader, writer) = pipe().unwrap();
        rustix::pipe::fcntl_setpipe_size(&reader, 4096).unwrap();
        let mut command = Tcplb::from_file(&file).command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer.try_clone().unwrap());
        let child = command.spawn().unwrap();
        let mut stderr = BufReader::new(reader);
        let mut after = |what: &str| loop {
            let mut line = String::new();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "`{what}` never came");
            if let Some((_, rest)) = line.trim_end().split_once(what) {
                return rest.to_owned();
            }
        };
        let at = At::parse(&after("listening on "));
        let admin = Admin(after("admin on http://").parse().unwrap());
        let mistakes: String = (0..64).map(|number| format!("{}{number} = 1\n", "k".repeat(900))).collect();
        fs::write(&file, text.replace("[global]\n", &format!("[global]\n{mistakes}"))).unwrap();
        Stuck { child, stderr, writer, at, admin, place, server }
    }

    /// Has lines logged until some find no room.
    fn overflow(&self) {
        eventually("lines are lost", || {
            assert_eq!(self.admin.call("POST", "/v1/reload", "").status, 400);
            self.lost() > 0
        });
    }

    fn lost(&self) -> u64 {
        self.admin.metric("tcplb_log_lines_lost_total", &[])
    }

    fn wait_exit(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("it has ended", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Reads to the end in a thread of its own, line by line.
    fn read_on(&mut self) -> Receiver<String> {
        let (sender, lines) = channel();
        let reader = self.stderr.get_ref().try_clone().unwrap();
        let held = Cursor::new(self.stderr.buffer().to_vec());
        thread::spawn(move || {
            let lines = BufReader::new(held.chain(reader)).lines();
            lines.map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        lines
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_full_stderr_stops_the_log_and_nothing_else() {
    let mut tcplb = Stuck::start();
    tcplb.overflow();
    // Workers, control and the prober go on, and each has lines for the log.
    Conn::to(&tcplb.at).assert_echoes("undisturbed");
    let changed = tcplb.admin.call("PATCH", "/v1/pools/app/backends/web1", "{\"weight\":7}");
    assert_eq!(changed.status, 200, "{changed:?}");
    tcplb.server.stop();
    eventually("the prober sees it", || tcplb.admin.metric("tcplb_backend_up", &["backend=\"web1\""]) == 0);
    // A shell may share stderr, which a non-blocking one would surprise.
    assert!(!fcntl_getfl(tcplb.writer.as_fd()).unwrap().contains(OFlags::NONBLOCK));
    tcplb.signal(Signal::TERM);
    assert!(tcplb.wait_exit().success());
}

#[test]
fn what_was_lost_is_logged_once_stderr_is_read_again() {
    let mut tcplb = Stuck::start();
    tcplb.overflow();
    let lost = tcplb.lost();
    let lines = tcplb.read_on();
    let end = Instant::now() + PATIENCE;
    let next = || lines.recv_timeout(end.saturating_duration_since(Instant::now())).expect("a line");
    let logged = loop {
        let line = next();
        assert!(line.starts_with("20"), "a whole line with its time: {line}");
        if let Some((_, rest)) = line.split_once(" WARN log: ") {
            break rest.to_owned();
        }
    };
    let count: u64 = logged.split_once(" line").expect("a count").0.parse().unwrap();
    assert!((1..=lost).contains(&count), "{count} of {lost}");
    // And what comes later is logged again.
    fs::remove_file(tcplb.place.path().join("tcplb.toml")).unwrap();
    tcplb.admin.call("POST", "/v1/reload", "");
    while !next().contains("reload refused: can't read ") {}
    tcplb.signal(Signal::TERM);
    assert!(tcplb.wait_exit().success());
}

#[test]
fn the_start_is_logged_with_time_and_level_whatever_the_level() {
    let server = Server::start(peers::echo);
    for level in ["info", "error", "off"] {
        let flags = ["--admin", "127.0.0.1:0", "--log-level", level];
        let tcplb = Tcplb::new().backend_with(server.at(), "name=web1").args(QUICK_PROBES).args(flags).start();
        for what in ["listening on ", "pool default: ", "backend web1 ", "admin on http://"] {
            let line = tcplb.wait_for_line(what);
            let (time, rest) = line.split_once(' ').unwrap();
            assert!(humantime::parse_rfc3339(time).is_ok() && rest.starts_with(&format!("INFO {what}")), "{line}");
        }
        let quiet = tcplb.count_lines("no new privileges") == 0;
        assert_eq!(quiet, level != "info", "{}", tcplb.output());
    }
}

#[test]
fn the_log_escapes_what_comes_from_outside() {
    let (place, server) = (tempfile::tempdir().unwrap(), Server::start(peers::echo));
    // A path of the operator's choice: neither a name nor an address, so nothing refuses it.
    let odd = place.path().join("a\n2026-01-01T00:00:00.000Z ERROR forged\u{202e}\u{1b}[2K.log");
    let flags = ["--access-log", odd.to_str().unwrap()];
    let tcplb = Tcplb::new().backend(server.at()).args(flags).start();
    tcplb.signal(Signal::USR1);
    let line = tcplb.wait_for_line("reopened");
    let escaped = "/a\\n2026-01-01T00:00:00.000Z ERROR forged\\u{202e}\\u{1b}[2K.log reopened";
    assert!(line.contains(" INFO access log ") && line.ends_with(escaped), "{line}");
}
