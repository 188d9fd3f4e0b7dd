//! A panic in any thread ends the process. A balancer that lacks a thread would lose some of its clients, and a service
//! manager restarts only what has ended.

use crate::logger;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, PanicHookInfo};
use std::process;
use std::thread;
use std::time::Duration;

/// The exit code after a panic, the same as std's after a panic of the main thread.
pub const PANICKED: i32 = 101;

/// How long the end waits for the log to be written.
const PATIENCE: Duration = Duration::from_secs(2);

/// From here on a panic in any thread is logged and ends the process. `RUST_BACKTRACE` adds the stack. Call it once per
/// process.
pub fn end_process_on_panic() {
    panic::set_hook(Box::new(|panic| {
        log::error!("{}", message(panic));
        let stack = Backtrace::capture();
        if stack.status() == BacktraceStatus::Captured {
            stack.to_string().lines().for_each(|line| log::error!("{line}"));
        }
        logger::flush(PATIENCE);
        process::exit(PANICKED);
    }));
}

/// The log line: thread, place and cause.
fn message(panic: &PanicHookInfo<'_>) -> String {
    let thread = thread::current().name().unwrap_or("without a name").to_owned();
    let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let cause = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text");
    format!("tcplb ends: thread {thread} panicked at {place}: {cause}")
}

#[cfg(test)]
mod tests {
    use super::super::serve;
    use super::PANICKED;
    use crate::base::{Address, Listen};
    use crate::config::model::{self, Global, Health, HealthKind, Model, Sandbox, Upgrade};
    use crate::logger;
    use crate::policy::balance::{Algorithm, Balance, Client, Member, Preview, Shares, View};
    use std::io::{BufRead, BufReader, Read};
    use std::net::TcpStream;
    use std::process::{Command, Stdio};

    /// The variable that marks the child process, which panics.
    const CHILD: &str = "TCPLB_TEST_CHILD";

    /// Panics on the worker that calls it.
    struct Broken;

    static BROKEN: Algorithm = Algorithm {
        name: "broken",
        short: &[],
        picks: "nothing",
        shares: Shares::ByWeight,
        build: |_: &[Member], _| Box::new(Broken),
    };

    impl Balance for Broken {
        fn pick(&self, _: Client, _: &View<'_>, _: &mut fastrand::Rng) -> Option<usize> {
            panic!("on purpose")
        }

        fn preview(&self, _: Client, _: &View<'_>) -> Preview {
            panic!("on purpose")
        }
    }

    /// Runs in a child process: the balancer as the program starts it, with an algorithm that panics.
    #[test]
    fn serve_with_a_broken_algorithm_in_a_child_process() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        logger::init_queued(log::LevelFilter::Info);
        let at = |port| Address::Inet(([127, 0, 0, 1], port).into());
        let pool = model::Pool {
            algorithm: &BROKEN,
            backends: vec![model::Backend::at(at(1))],
            health: Health { kind: HealthKind::Off, ..Health::default() },
            ..model::Pool::default()
        };
        let listener = model::Listener { bind: vec![Listen(at(0))], ..model::Listener::default() };
        let global = Global { workers: 2, sandbox: Sandbox::Off, upgrade: Upgrade::Off, ..Global::default() };
        let outcome = serve::run(Model { global, listeners: vec![listener], pools: vec![pool] }, None, None, None);
        panic!("the balancer survived a panic: {outcome:?}");
    }

    #[test]
    fn a_panic_on_a_worker_ends_the_process_with_a_message_and_code_101() {
        let test = "cli::crash::tests::serve_with_a_broken_algorithm_in_a_child_process";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture", "--test-threads", "1"]).env(CHILD, "1").env_remove("RUST_LOG");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let at = loop {
            let start = said.len();
            assert!(stderr.read_line(&mut said).unwrap() > 0, "it did not start: {said}");
            if let Some((_, at)) = said[start..].split_once("listening on ") {
                break at.trim().to_owned();
            }
        };
        let _client = TcpStream::connect(at).unwrap();
        stderr.read_to_string(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(PANICKED), "{said}");
        let line = said.lines().find(|line| line.contains("tcplb ends: thread worker-")).expect(&said);
        assert!(line.contains("ERROR") && line.ends_with("on purpose"), "{line}");
        assert!(!said.contains("the balancer survived"), "{said}");
    }
}
