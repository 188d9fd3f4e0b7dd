//! The command line from outside: what the built binary prints, and its exit codes.

mod config;
mod import;
#[cfg(feature = "top")]
mod top;

use rustix::process::Signal;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Output;
use testkit::{PATIENCE, Process, tcplb};

/// Every long flag of the balancer.
const FLAGS: [&str; 23] = [
    "listen",
    "backend",
    "config",
    "algorithm",
    "send-proxy",
    "accept-proxy",
    "health",
    "health-path",
    "health-interval",
    "health-timeout",
    "health-rise",
    "health-fall",
    "connect-timeout",
    "idle-timeout",
    "shutdown-timeout",
    "max-connections",
    "workers",
    "admin",
    "admin-token-file",
    "access-log",
    "log-format",
    "log-level",
    "version",
];

fn output(arguments: &[&str]) -> Output {
    tcplb(arguments).output().expect("it runs")
}

fn stdout(arguments: &[&str]) -> String {
    let output = output(arguments);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// What a command line that must fail says.
#[track_caller]
fn refused(arguments: &[&str], code: i32) -> String {
    let output = output(arguments);
    let message = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
    assert!(message.starts_with("error: "), "{arguments:?}: {message}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    message
}

/// The answer to one HTTP request on a connection of its own.
fn ask(address: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn version_is_one_line() {
    let want = format!("tcplb {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(stdout(&["--version"]), want);
    assert_eq!(stdout(&["-V"]), want);
}

#[test]
fn help_names_every_flag_and_long_help_explains_more() {
    let (short, long) = (stdout(&["-h"]), stdout(&["--help"]));
    for flag in FLAGS {
        assert!(short.contains(&format!("--{flag}")), "{flag}: {short}");
        assert!(long.contains(&format!("--{flag}")), "{flag}: {long}");
    }
    for heading in ["Addresses and balancing:", "Health:", "Limits:", "Process:", "Commands:"] {
        assert!(short.contains(heading), "{heading}: {short}");
    }
    assert!(short.lines().count() < long.lines().count());
    assert!(long.contains("tcplb --listen :8080 --backend 127.0.0.1:8081 --backend 127.0.0.1:8082"), "{long}");
    for row in tcplb::policy::balance::REGISTRY {
        assert!(long.contains(row.name), "{long}");
    }
    for (command, flags) in [
        ("backend", &["--listen", "--name", "--latency", "--work", "--fail-health", "--echo"][..]),
        ("demo", &["--once"]),
        ("check", &["FILE"]),
    ] {
        let help = stdout(&[command, "--help"]);
        assert!(flags.iter().all(|flag| help.contains(flag)), "{help}");
    }
}

#[test]
fn the_documents_name_every_flag_and_algorithm() {
    let (flags, algorithms) = (include_str!("../../docs/configuration.md"), include_str!("../../docs/algorithms.md"));
    for flag in FLAGS {
        assert!(flags.contains(&format!("--{flag}")), "docs/configuration.md does not name --{flag}");
    }
    for row in tcplb::policy::balance::REGISTRY {
        let mut names = [row.name].into_iter().chain(row.short.iter().copied());
        assert!(names.all(|name| algorithms.contains(&format!("`{name}`"))), "docs/algorithms.md lacks {}", row.name);
    }
    let help = stdout(&["--help"]) + &stdout(&["backend", "--help"]) + &stdout(&["demo", "--help"]);
    // Each flag in the tables exists.
    let table = [flags, include_str!("../../docs/operations.md")].map(str::lines).into_iter().flatten();
    let table = table.filter(|line| line.starts_with("| `-"));
    let mut named = 0;
    for flag in table.flat_map(|line| line.split(['`', ' ', ',', '|'])).filter(|word| word.starts_with("--")) {
        assert!(help.contains(flag), "the tables name {flag}, which is no flag");
        named += 1;
    }
    assert!(named >= FLAGS.len() + 4, "only {named} flags found in the tables");
}

/// README shows the demo's output. Its sentences are those that the demo prints; the figures are those of one run.
fn is_in_readme(output: &str) {
    let readme = include_str!("../../README.md");
    let without_figures = |line: &str| line.replace(|letter: char| letter.is_ascii_digit(), "").replace(' ', "");
    let printed: Vec<String> = output.lines().map(without_figures).collect();
    let block = readme.split("-- demo\n").nth(1).and_then(|rest| rest.split("```").next()).expect("the demo's output");
    for line in block.lines() {
        assert!(printed.contains(&without_figures(line)), "README shows `{line}`, the demo prints {output}");
    }
}

#[test]
fn every_mistake_is_reported_with_its_flag_and_value() {
    for (line, wants) in [
        ("-b a:1", &["no listener", "--listen :8080"][..]),
        ("-l :1", &["no backend", "--backend 127.0.0.1:8081"]),
        ("-l nowhere -b a:1", &["--listen: expected 127.0.0.1:80", "got `nowhere`: the port is missing"]),
        ("-l :1 -b :2", &["--backend: expected ", "got `:2`: a backend needs a host"]),
        ("-l :1 -b a:1,wieght=2", &["--backend: unknown key `wieght`, did you mean `weight`?", "max-connections=N"]),
        ("-l :1 -b a:1,weight=70000", &["--backend: weight: expected a number from 0 to 65535, got `70000`"]),
        ("-l :1 -b a:1,name=", &["--backend: name: ", "it is empty"]),
        ("-l :1 -b a:1,backup,backup", &["--backend: `backup` is given twice"]),
        ("-l :1 -b a:1 -b a:1", &["--backend: ", "second backend called `a:1`", "name="]),
        ("-l :1 -b a:1,name=x -b b:1,name=x", &["--backend: ", "second backend called `x`"]),
        ("-l :80 -l 127.0.0.1:80 -b a:1", &["--listen: `127.0.0.1:80` overlaps `:80`"]),
        ("-l :80 -l :80 -b a:1", &["--listen: `:80` is given twice"]),
        ("-l :1 -b a:1 --algo rond-robin", &["--algorithm: expected ", "`rond-robin`, did you mean `round-robin`?"]),
        ("-l :1 -b a:1 -w 0", &["--workers: expected a number from 1 to 1024, got `0`"]),
        ("-l :1 -b a:1 --workers -3", &["--workers: ", "`-3`"]),
        ("-l :1 -b a:1 --max-connections 0", &["--max-connections: ", "from 1", "`0`"]),
        ("-l :1 -b a:1 --health icmp", &["--health: expected tcp, http or off, got `icmp`"]),
        ("-l :1 -b a:1 --health-path up", &["--health-path: ", "`up`", "does not begin with /"]),
        ("-l :1 -b a:1 --health tcp --health-path /", &["--health-path: `/` needs HTTP probes", "--health is `tcp`"]),
        ("-l :1 -b a:1 -t 1s --health-timeout 2s", &["--health-timeout: ", "--health-interval of 1s", "`2s`"]),
        ("-l :1 -b a:1 -t 0", &["--health-interval: expected at least 1ms, got `0`"]),
        ("-l :1 -b a:1 --health-rise 0", &["--health-rise: ", "`0`"]),
        ("-l :1 -b a:1 --health-fall -1", &["--health-fall: ", "`-1`"]),
        ("-l :1 -b a:1 --connect-timeout 5", &["--connect-timeout: ", "with a unit", "`5`"]),
        ("-l :1 -b a:1 --idle-timeout never", &["--idle-timeout: ", "`never`"]),
        ("-l :1 -b a:1 --shutdown-timeout 5", &["--shutdown-timeout: ", "`5`"]),
        ("-l :1 -b a:1 --idle-timeout 584542046090y", &["--idle-timeout: expected at most 1y", "`584542046090y`"]),
        ("-l :1 -b a:1 -t 31557601", &["--health-interval: expected at most 1y", "`31557601`"]),
        ("-l :1 -b a:1 --log-format xml", &["--log-format: expected text, json or haproxy, got `xml`"]),
        (
            "-l :1 -b a:1 --log-level loud",
            &["--log-level: expected off, error, warn, info, debug or trace, got `loud`"],
        ),
        ("--lisen :1", &["--lisen", "--listen"]),
        ("-l :1 -b a:1 extra", &["'extra'"]),
        ("backend", &["--listen"]),
        ("backend --listen x", &["'x' for '--listen", "the port is missing"]),
        ("backend --listen :0 --latency 5", &["'5' for '--latency", "with a unit"]),
        ("backend --listen :0 --echo --work 1ms", &["--echo", "--work"]),
        ("demo --listen x", &["'x' for '--listen"]),
        ("-l :1 demo", &["demo", "--listen"]),
    ] {
        let message = refused(&line.split(' ').collect::<Vec<_>>(), 2);
        for want in wants {
            assert!(message.contains(want), "{line}: no `{want}` in {message}");
        }
    }
}

#[test]
fn one_message_reports_all_mistakes() {
    let message = refused(&["-w", "0", "-t", "soon", "--log-level", "x", "--health-rise", "0"], 2);
    assert_eq!(message.lines().filter(|line| line.starts_with("error: ")).count(), 6, "{message}");
}

#[test]
fn a_taken_port_is_reported_with_its_address_and_exit_code_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for arguments in [
        &["--listen", &address, "--backend", "127.0.0.1:1"][..],
        &["backend", "--listen", &address],
        &["demo", "--once", "--listen", &address],
    ] {
        let message = refused(arguments, 1);
        assert!(message.contains(&address) && message.contains("in use"), "{arguments:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn a_start_logs_its_addresses_and_its_pools_and_each_signal_is_logged() {
    let backend = Process::start(&["backend", "--listen", "127.0.0.1:0", "--name", "web1"]);
    let spec = format!("{},name=web1", backend.after("listening on "));
    let arguments = ["-l", "127.0.0.1:0", "-l", "127.0.0.1:0", "-b", &spec, "-t", "5", "-w", "1", "--upgrade", "off"];
    let mut balancer = Process::start(&arguments);
    let (first, second) = (balancer.after("listening on "), balancer.after("listening on "));
    assert!(!first.ends_with(":0") && first != second, "{first} {second}");
    assert_eq!(balancer.after(" INFO pool "), "default: weighted-round-robin over 1 backend, tcp health every 5s");
    let spec = spec.split(',').next().unwrap();
    assert_eq!(balancer.after(" INFO backend "), format!("web1 {spec} weight 1"));
    assert!(ask(&first).unwrap().ends_with("\r\n\r\nweb1\n"));
    assert!(ask(&second).unwrap().ends_with("\r\n\r\nweb1\n"));

    balancer.signal(Signal::HUP);
    let line = balancer.line("SIGHUP");
    let (time, rest) = line.split_once(' ').unwrap();
    assert!(time.len() == "2026-01-02T03:04:05.678Z".len() && time.ends_with('Z'), "{line}");
    assert!(rest.starts_with("INFO SIGHUP ignored"), "{line}");
    for signal in [Signal::USR1, Signal::USR2] {
        balancer.signal(signal);
        balancer.line("ignored");
    }
    assert!(ask(&first).unwrap().ends_with("web1\n"));
    balancer.signal(Signal::TERM);
    assert_eq!(balancer.end().0.code(), Some(0));
}

#[test]
fn ctrl_c_ends_the_balancer_in_order() {
    let mut balancer = Process::start(&["-l", "127.0.0.1:0", "-b", "127.0.0.1:1", "--health", "off"]);
    balancer.after("listening on ");
    balancer.signal(Signal::INT);
    assert_eq!(balancer.end().0.code(), Some(0));
}

#[test]
fn the_log_level_does_not_hide_the_start_up_lines() {
    let mut balancer =
        Process::start(&["-l", "127.0.0.1:0", "-b", "127.0.0.1:1", "--health", "off", "--log-level", "OFF"]);
    balancer.after("listening on ");
    balancer.line("backend 127.0.0.1:1 weight 1");
    balancer.signal(Signal::HUP);
    balancer.signal(Signal::TERM);
    let (status, logged) = balancer.end();
    assert_eq!((status.code(), logged), (Some(0), Vec::new()));
}

#[test]
fn the_test_server_fails_on_request_and_recovers_on_sigusr1() {
    let mut backend = Process::start(&["backend", "--listen", "127.0.0.1:0", "--name", "web1", "--fail-health"]);
    let address = backend.after("listening on ");
    let answer = ask(&address).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\nweb1\n"), "{answer}");
    for (line, status) in [("web1 now answers 200", "HTTP/1.1 200 OK\r\n"), ("web1 now answers 503", "HTTP/1.1 503 ")] {
        backend.signal(Signal::USR1);
        backend.line(line);
        assert!(ask(&address).unwrap().starts_with(status));
    }
    backend.signal(Signal::TERM);
    assert_eq!(backend.end().0.code(), Some(0));
}

#[test]
fn the_demo_s_tour_loses_no_request() {
    let output = output(&["demo", "--once"]);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    for want in ["- stopping web2", "web2 is down", "- starting web2 again", "web2 is up", " requests, 0 failed."] {
        assert!(out.contains(want), "no `{want}` in {out}{err}");
    }
    assert!(!out.contains('\u{1b}'), "colours without a terminal: {out}");
}

#[test]
fn the_demo_serves_its_page_and_names_the_commands_that_show_more() {
    let mut demo = Process::start(&["demo"]);
    let page = demo.after("The status page: http://");
    let admin = page.strip_suffix('/').expect("the address of a page");
    let answer = ask(admin).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("web2"), "{answer}");
    // The tour takes ten seconds.
    demo.line("- stopping web2");
    demo.line("- starting web2 again");
    demo.line(&format!("  tcplb status --admin {admin}"));
    if cfg!(feature = "top") {
        demo.line(&format!("  tcplb top --admin {admin}"));
    }
    let shown = stdout(&["status", "--admin", admin, "--json"]);
    assert!(shown.starts_with("{\n  \""), "JSON on the command line is indented: {shown}");
    let status: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(status["pools"][0]["backends"].as_array().map(Vec::len), Some(3));
    let printed = demo.output();
    demo.signal(Signal::INT);
    assert_eq!(demo.end().0.code(), Some(0));
    if cfg!(feature = "top") {
        is_in_readme(&printed);
    }
}

#[test]
fn a_word_of_another_balancer_gets_a_hint() {
    for (flag, ours) in
        [("--maxconn=5", "--max-connections"), ("--frontend=:80", "--listen"), ("--server=a:1", "--backend")]
    {
        let message = refused(&[flag], 2);
        assert!(message.contains(ours), "{message}");
    }
    let base = ["--listen", "127.0.0.1:0", "--backend"];
    let message = refused(&[&base[..], &["127.0.0.1:1", "--algorithm", "leastconn"]].concat(), 2);
    assert!(message.contains("did you mean `least-connections`?"), "{message}");
    let message = refused(&[&base[..], &["http://web/"]].concat(), 2);
    assert!(message.contains("an address has no `http://`: write `web:80`"), "{message}");

    let file = tempfile::NamedTempFile::new().expect("a file");
    let text =
        "[[frontend]]\n[[listener]]\nmaxconn = 1\nproxy_pass = \"p\"\n[[pool]]\nslowstart = \"1s\"\n[[pool.server]]\n";
    std::fs::write(&file, text).expect("it is written");
    let message = refused(&["check", file.path().to_str().expect("UTF-8")], 2);
    for (line, theirs, ours) in [
        (1, "frontend", "listener"),
        (3, "maxconn", "max_connections"),
        (4, "proxy_pass", "pool"),
        (6, "slowstart", "slow_start"),
        (7, "server", "backend"),
    ] {
        let wanted = format!(":{line}: unknown key `{theirs}`, did you mean `{ours}`?");
        assert!(message.contains(&wanted), "{wanted} is not in {message}");
    }
}

#[test]
fn man_prints_a_page_with_every_flag_and_one_per_command() {
    let page = stdout(&["man"]);
    assert!(page.starts_with(".ie") && page.contains(".TH tcplb 1"), "{page}");
    for flag in FLAGS {
        assert!(page.contains(&flag.replace('-', "\\-")), "--{flag} is not in the page");
    }
    assert!(stdout(&["man", "check"]).contains(".TH tcplb-check 1"));
    assert!(refused(&["man", "nothing"], 2).contains("expected one of check, "));
}

#[test]
fn completions_are_scripts_that_the_shell_accepts() {
    for (shell, word) in [("bash", "complete "), ("zsh", "#compdef tcplb"), ("fish", "complete -c tcplb")] {
        let script = stdout(&["completions", shell]);
        assert!(
            script.contains(word) && script.contains("least-connections") || script.contains("algorithm"),
            "{shell}"
        );
    }
    let script = stdout(&["completions", "bash"]);
    let mut bash =
        std::process::Command::new("bash").arg("-n").stdin(std::process::Stdio::piped()).spawn().expect("bash");
    bash.stdin.take().expect("a pipe").write_all(script.as_bytes()).expect("it is read");
    assert!(bash.wait().expect("it ends").success(), "bash -n");
    assert!(refused(&["completions", "tcsh"], 2).contains("tcsh"));
}
