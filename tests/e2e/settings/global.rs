//! `[global]` and the flags of the process.

use super::{assert_served, both, call, echo};
use rustix::process::Signal;
use std::collections::HashMap;
use std::fs;
use std::process::Command;
use testkit::{Admin, ConfigFile, Ending, MIB, Process, Started, Tcplb, eventually, need, run, send};

fn threads(process: &Process, prefix: &str) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.pid())).expect("its threads");
    let name = |task: std::io::Result<fs::DirEntry>| fs::read_to_string(task.ok()?.path().join("comm")).ok();
    tasks.filter_map(name).filter(|name| name.starts_with(prefix)).count()
}

#[test]
fn workers_is_the_number_of_event_loops() {
    let server = echo();
    for count in [1, 3] {
        let flags = ["--workers", &count.to_string()];
        for tcplb in both(&[server.at()], ConfigFile::global, &format!("workers = {count}"), &flags) {
            eventually("its workers run", || threads(&tcplb, "worker-") == count);
            assert_served(&tcplb.connect());
        }
    }
}

/// The nice values of its threads, by name.
fn nice(process: &Process) -> HashMap<String, i32> {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.pid())).expect("its threads");
    let nice = tasks.filter_map(|task| {
        // The name may hold blanks; the nice value is the 17th field behind it (proc_pid_stat(5)).
        let stat = fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
        let (name, fields) = (stat.split_once('(')?.1.rsplit_once(") ")?.0, stat.rsplit_once(") ")?.1);
        Some((name.to_owned(), fields.split(' ').nth(16)?.parse::<i32>().ok()?))
    });
    nice.collect()
}

#[test]
fn threads_that_serve_no_client_have_a_lower_priority_than_workers() {
    let server = echo();
    let tcplb = ConfigFile::over([server.at()]).global("admin = '127.0.0.1:0'").start();
    // A thread has its name before it lowers its priority.
    eventually("admin and control are lower than workers, and the prober is not", || {
        let nice = nice(&tcplb);
        let of = |name: &str| nice.get(name).zip(nice.get("worker-0")).map(|(thread, worker)| thread - worker);
        [of("admin"), of("control"), of("prober")] == [Some(5), Some(5), Some(0)]
    });
}

#[test]
fn max_connections_lets_further_clients_wait() {
    let server = echo();
    for limit in [1, 2] {
        let (line, value) = (format!("max_connections = {limit}"), limit.to_string());
        for tcplb in both(&[server.at()], ConfigFile::global, &line, &["--max-connections", &value]) {
            super::assert_second(&tcplb, limit == 2);
        }
    }
}

#[test]
fn shutdown_timeout_is_how_long_a_drain_takes() {
    let server = echo();
    for time in ["0s", "60s"] {
        let line = format!("shutdown_timeout = \"{time}\"");
        for mut tcplb in both(&[server.at()], ConfigFile::global, &line, &["--shutdown-timeout", time]) {
            let client = tcplb.connect();
            assert_served(&client);
            tcplb.signal(Signal::TERM);
            if time == "0s" {
                assert_eq!(client.ending(), Ending::Reset);
            } else {
                tcplb.wait_for_line("draining");
                assert_served(&client);
                drop(client);
            }
            assert!(tcplb.wait_exit().success());
        }
    }
}

#[test]
fn state_file_keeps_what_the_api_changes_over_a_restart() {
    let server = echo();
    for kept in [true, false] {
        let file = ConfigFile::over([server.at()]).pool("name = \"web\"").global("admin = \"127.0.0.1:0\"");
        let line = format!("state_file = \"{}\"", file.path("state.toml").display());
        let file = if kept { file.global(&line) } else { file };
        let path = file.write();
        let mut tcplb = Tcplb::from_file(&path).start();
        Admin::of(&tcplb).call("PATCH", "/v1/pools/web/backends/b1", "{\"weight\":7}").json(200);
        tcplb.signal(Signal::TERM);
        assert!(tcplb.wait_exit().success());
        let restarted = Tcplb::from_file(&path).start();
        assert_eq!(call(&restarted, "GET /v1/config").contains("weight = 7"), kept);
    }
}

#[test]
fn dead_peer_timeout_sets_keepalive() {
    let Some(ss) = need("ss") else { return };
    let server = echo();
    for (time, units) in [("2s", ["ms", "sec"]), ("10h", ["min", "hour"])] {
        let tcplb = ConfigFile::over([server.at()]).global(&format!("dead_peer_timeout = \"{time}\"")).start();
        let client = tcplb.connect();
        assert_served(&client);
        let filter = format!("sport = :{}", tcplb.at().port());
        let timers = run(Command::new(&ss).args(["-tnoH", "state", "established", &filter]));
        let timer = timers.split("timer:(keepalive,").nth(1).and_then(|rest| rest.split(',').next());
        let timer = timer.unwrap_or_else(|| panic!("{time}: no keepalive in {timers}"));
        assert!(units.iter().any(|unit| timer.contains(unit)), "{time}: keepalive after {timer}");
    }
}

fn pipes(process: &Process) -> usize {
    let fds = fs::read_dir(format!("/proc/{}/fd", process.pid())).expect("its descriptors");
    let target = |fd: std::io::Result<fs::DirEntry>| fs::read_link(fd.ok()?.path()).ok();
    fds.filter_map(target).filter(|target| target.to_string_lossy().starts_with("pipe:")).count()
}

#[test]
fn relay_moves_bytes_through_a_buffer_or_a_pipe() {
    let server = echo();
    for engine in ["copy", "splice"] {
        let line = format!("relay = \"{engine}\"");
        // Twice by the file: the suite's own --relay would contradict a second one on the command line.
        let by_flag = Tcplb::new().backend(server.at()).unprobed();
        let by_flag: Started = if std::env::var_os("TCPLB_TEST_RELAY").is_none() {
            by_flag.args(["--relay", engine]).start().into()
        } else {
            ConfigFile::over([server.at()]).global(&line).start()
        };
        let by_file = ConfigFile::over([server.at()]).global(&line).start();
        for tcplb in [by_flag, by_file] {
            let before = pipes(&tcplb);
            let client = tcplb.connect();
            std::thread::scope(|scope| {
                scope.spawn(|| send(&client, 7, MIB).expect("it takes all of it"));
                client.hear(MIB);
            });
            // Pipes are kept for reuse.
            assert_eq!(pipes(&tcplb) > before, engine == "splice", "{engine}");
        }
    }
}

#[test]
fn admin_opens_the_api() {
    let server = echo();
    let line = "admin = \"127.0.0.1:0\"";
    for tcplb in both(&[server.at()], ConfigFile::global, line, &["--admin", "127.0.0.1:0"]) {
        assert!(call(&tcplb, "GET /healthz").starts_with("HTTP/1.1 200 "));
    }
    for mut tcplb in both(&[server.at()], ConfigFile::global, "", &[]) {
        tcplb.signal(Signal::TERM);
        assert!(tcplb.wait_exit().success());
        assert!(!tcplb.output().contains("admin on"), "{}", tcplb.output());
    }
}

#[test]
fn admin_token_file_holds_the_only_token() {
    let server = echo();
    for (token, other) in [
        ("one-token-of-16-letters", "another-token-of-16-letters"),
        ("another-token-of-16-letters", "one-token-of-16-letters"),
    ] {
        let file = ConfigFile::over([server.at()]).global("admin = \"127.0.0.1:0\"");
        let path = file.beside("token", token);
        let path = path.to_str().expect("a path in ASCII");
        let flags = ["--admin", "127.0.0.1:0", "--admin-token-file", path, "--health", "off"];
        let by_flag = Tcplb::new().backend(server.at()).args(flags).start();
        let by_file = file.global(&format!("admin_token_file = \"{path}\"")).start();
        for tcplb in [&by_flag, &*by_file] {
            let status =
                |token: &str| call(tcplb, &format!("GET /v1/status HTTP/1.1\r\nAuthorization: Bearer {token}\r\nX:"));
            assert!(status(token).starts_with("HTTP/1.1 200 "), "{}", status(token));
            assert!(status(other).starts_with("HTTP/1.1 401 "), "{}", status(other));
        }
    }
}

#[test]
fn admin_read_token_file_permits_reading_and_no_change() {
    let server = echo();
    for read in [true, false] {
        let file = ConfigFile::over([server.at()]).global("admin = \"127.0.0.1:0\"");
        let (token, read_token) = (file.beside("token", "admin-token"), file.beside("read-token", "reading-token"));
        let key = if read { format!("admin_read_token_file = {read_token:?}") } else { String::new() };
        let tcplb = file.global(&format!("admin_token_file = {token:?}")).global(&key).start();
        let status = |request: &str, token: &str| {
            let answer = call(&tcplb, &format!("{request} HTTP/1.1\r\nAuthorization: Bearer {token}\r\nX:"));
            answer.split(' ').nth(1).unwrap_or_default().to_owned()
        };
        let expected = if read { ["200", "403", "403"] } else { ["401"; 3] };
        for (request, expected) in
            ["GET /v1/status", "PATCH /v1/pools/default/backends/b1", "POST /v1/reload"].iter().zip(expected)
        {
            assert_eq!(status(request, "reading-token"), expected, "{request}");
            assert!(!["401", "403"].contains(&status(request, "admin-token").as_str()), "{request}");
        }
    }
}

#[test]
fn access_log_names_the_file_and_log_format_its_lines() {
    let server = echo();
    for format in ["text", "json", "haproxy"] {
        let file = ConfigFile::over([server.at()]);
        let path = |name: &str| file.beside(name, "").to_str().expect("a path in ASCII").to_owned();
        let (by_file, by_flag) = (path("by-file.log"), path("by-flag.log"));
        let flags = ["--access-log", &by_flag, "--log-format", format, "--health", "off"];
        let flagged = Tcplb::new().backend(server.at()).args(flags).start();
        let filed = file.global(&format!("access_log = \"{by_file}\"\nlog_format = \"{format}\"")).start();
        for (tcplb, path) in [(&flagged, by_flag), (&*filed, by_file)] {
            assert_served(&tcplb.connect());
            let read = || fs::read_to_string(&path).expect("the log");
            eventually("the line is there", || read().ends_with('\n'));
            let found = match read() {
                line if line.starts_with('{') => "json",
                line if line.starts_with("127.0.0.1:") => "haproxy",
                _ => "text",
            };
            assert_eq!(found, format, "{}", read());
        }
    }
}

#[test]
fn log_level_decides_what_is_logged() {
    let server = echo();
    for (level, logged) in [("info", true), ("error", false)] {
        let mut tcplb = Tcplb::new().backend(server.at()).unprobed().args(["--log-level", level]).start();
        tcplb.signal(Signal::TERM);
        assert!(tcplb.wait_exit().success());
        assert_eq!(tcplb.output().contains("draining"), logged, "{}", tcplb.output());
    }
}

#[test]
fn sandbox_shuts_out_what_is_not_needed() {
    let server = echo();
    for mode in ["auto", "off"] {
        let elsewhere = ConfigFile::empty();
        let list = elsewhere.beside("deny.txt", "192.0.2.1\n");
        let file = ConfigFile::over([server.at()]).global(&format!("sandbox = \"{mode}\""));
        let path = file.write();
        let tcplb = Tcplb::from_file(&path).start();
        if mode == "auto" && tcplb.output().contains("Landlock is not") {
            eprintln!("skipped: this kernel has no Landlock");
            return;
        }
        let file = file.listener(&format!("deny_file = \"{}\"", list.display()));
        file.write();
        tcplb.signal(Signal::HUP);
        let line = tcplb.wait_for_line("reload");
        assert_eq!(line.contains("refused"), mode == "auto", "{line}");
        assert_served(&tcplb.connect());
    }
    let by_flag = |mode| Tcplb::new().backend(server.at()).unprobed().args(["--sandbox", mode]).start();
    assert!(!by_flag("off").output().contains("sandboxed"));
    by_flag("auto").wait_for_line("sandboxed");
}
