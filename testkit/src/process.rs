//! A child process whose output is kept line by line: waited for, and shown when the test fails.

use crate::{PATIENCE, eventually, tcplb};
use parking_lot::{Condvar, Mutex};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;
use std::{fs, mem};

#[derive(Default)]
struct Log {
    kept: Mutex<Kept>,
    grown: Condvar,
}

#[derive(Default)]
struct Kept {
    lines: Vec<String>,
    /// How many of them [`Process::line`] has passed.
    read: usize,
    /// Of the two streams; with both, nothing more comes.
    closed: usize,
}

/// A child, killed when dropped.
pub struct Process {
    name: String,
    child: Child,
    log: Arc<Log>,
    readers: Vec<JoinHandle<()>>,
    farewell: Option<Signal>,
    leads_group: bool,
}

impl Process {
    /// Starts it without input, with standard output and standard error going to one log.
    #[track_caller]
    pub fn spawn(command: &mut Command) -> Process {
        Process::spawn_with_input(command, Stdio::null())
    }

    /// The same with an input.
    #[track_caller]
    pub fn spawn_with_input(command: &mut Command, input: impl Into<Stdio>) -> Process {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("start {name}: {error}"));
        let log = Arc::new(Log::default());
        let mut readers = Vec::new();
        readers.extend(child.stdout.take().map(|out| keep(out, log.clone())));
        readers.extend(child.stderr.take().map(|out| keep(out, log.clone())));
        Process { name, child, log, readers, farewell: None, leads_group: false }
    }

    /// Starts one that others may follow which are no children of the test. Dropping it kills them, too.
    #[track_caller]
    pub fn spawn_group(command: &mut Command) -> Process {
        let mut process = Process::spawn(command.process_group(0));
        process.leads_group = true;
        process
    }

    /// Starts `tcplb ARGUMENTS`.
    pub fn start(arguments: &[&str]) -> Process {
        Process::spawn(&mut tcplb(arguments))
    }

    /// Ends it with `signal` when dropped, for what would leave a mess if it were killed.
    pub fn farewell(mut self, signal: Signal) -> Process {
        self.farewell = Some(signal);
        self
    }

    /// The process id; a program that was started through `exec` in a shell has the shell's.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signal the child");
    }

    /// Stops it as SIGSTOP does, and waits until all of its threads stand still.
    #[track_caller]
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        let stands = |stat: String| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'));
        let tasks = format!("/proc/{}/task", self.pid());
        eventually("all of its threads stand still", || {
            let mut tasks = fs::read_dir(&tasks).expect("its threads").flatten();
            tasks.all(|task| fs::read_to_string(task.path().join("stat")).is_ok_and(stands))
        });
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends a signal to its child process. This is for a wrapper that detaches from its child when it ends,
    /// like strace.
    pub fn signal_child(&self, signal: Signal) {
        let pid = self.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("its children");
        let child = children.split_whitespace().next().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
        kill_process(child.expect("it runs something"), signal).expect("signal its child");
    }

    /// Waits for it to end by itself.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        let mut status = None;
        eventually(&format!("{} has ended", self.name), || {
            status = self.child.try_wait().expect("wait for the child");
            status.is_some()
        });
        // Its last output is read before the test looks at it.
        for reader in mem::take(&mut self.readers) {
            reader.join().expect("reading never panics");
        }
        status.expect("it has ended")
    }

    /// How it has ended, if it has. Another process may still write to its output.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("wait for the child")
    }

    /// All that it has printed so far.
    pub fn output(&self) -> String {
        self.log.kept.lock().lines.join("\n")
    }

    /// How many lines so far have `text` in them.
    pub fn count_lines(&self, text: &str) -> usize {
        self.log.kept.lock().lines.iter().filter(|line| line.contains(text)).count()
    }

    /// Waits for a line with `text` in it, which may have come already, and returns it.
    #[track_caller]
    pub fn wait_for_line(&self, text: &str) -> String {
        self.wait_for_lines(text, 1).remove(0)
    }

    /// Waits until `count` lines have `text` in them.
    #[track_caller]
    pub fn wait_for_lines(&self, text: &str, count: usize) -> Vec<String> {
        let end = Instant::now() + PATIENCE;
        let mut kept = self.log.kept.lock();
        loop {
            let found: Vec<String> = kept.lines.iter().filter(|line| line.contains(text)).cloned().collect();
            if found.len() >= count {
                return found;
            }
            let over = kept.closed == 2 || self.log.grown.wait_until(&mut kept, end).timed_out();
            assert!(!over, "{} never said `{text}` {count} times; it said:\n{}", self.name, kept.lines.join("\n"));
        }
    }

    /// Waits for the first line of `what`, and returns the lines before it. Never looks at the lines behind it: there may be many,
    /// and reading them must not wait.
    #[track_caller]
    pub fn lines_before(&self, what: &str, is_end: impl Fn(&str) -> bool) -> Vec<String> {
        let patience = Instant::now() + PATIENCE;
        let mut kept = self.log.kept.lock();
        let mut looked = 0;
        loop {
            if let Some(found) = kept.lines[looked..].iter().position(|line| is_end(line)) {
                return kept.lines[..looked + found].to_vec();
            }
            looked = kept.lines.len();
            let over = kept.closed == 2 || self.log.grown.wait_until(&mut kept, patience).timed_out();
            assert!(!over, "{} did not print {what}, but:\n{}", self.name, kept.lines.join("\n"));
        }
    }

    /// The next line with `text` in it, behind the one that was returned last.
    #[track_caller]
    pub fn line(&self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        let mut kept = self.log.kept.lock();
        let begun = kept.read;
        loop {
            while let Some(line) = kept.lines.get(kept.read).cloned() {
                kept.read += 1;
                if line.contains(text) {
                    return line;
                }
            }
            let over = kept.closed == 2 || self.log.grown.wait_until(&mut kept, end).timed_out();
            assert!(!over, "`{text}` did not come, but {:?}", &kept.lines[begun..]);
        }
    }

    /// What follows `text` in the next line that contains it.
    #[track_caller]
    pub fn after(&self, text: &str) -> String {
        self.line(text).split_once(text).map(|(_, rest)| rest.to_owned()).expect("it was waited for")
    }

    /// Waits for it to end by itself; its status, and the lines that [`Process::line`] has not passed.
    #[track_caller]
    pub fn end(&mut self) -> (ExitStatus, Vec<String>) {
        let status = self.wait_exit();
        let kept = self.log.kept.lock();
        (status, kept.lines[kept.read..].to_vec())
    }

    /// Resident memory, in KiB.
    pub fn rss_kib(&self) -> u64 {
        self.status_field("VmRSS:")
    }

    /// Threads.
    pub fn threads(&self) -> u64 {
        self.status_field("Threads:")
    }

    /// Open descriptors.
    pub fn open_fds(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("list its descriptors").count()
    }

    /// Processor time used so far, in ticks of a hundredth of a second (USER_HZ, proc(5)).
    pub fn cpu_ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("read its stat");
        // The name, in parentheses, may itself have spaces: count fields after it. utime and stime are 14 and 15.
        let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks = |field: &str| field.parse::<u64>().expect("a number of ticks");
        ticks(fields[11]) + ticks(fields[12])
    }

    fn status_field(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("read its status");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a field that every process has");
        line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- {} said:\n{}\n---", self.name, self.output());
        }
        if let (Some(signal), Ok(None)) = (self.farewell, self.child.try_wait()) {
            self.signal(signal);
        } else {
            // Fails only if it has ended already.
            let _ = self.child.kill();
        }
        if self.leads_group {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

fn keep(from: impl Read + Send + 'static, log: Arc<Log>) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            log.kept.lock().lines.push(String::from_utf8_lossy(&line).into_owned());
            log.grown.notify_all();
        }
        log.kept.lock().closed += 1;
        log.grown.notify_all();
    })
}
