//! Configuration files: what `check`, a start and a reload say about them.

use super::*;

/// A file whose name ends with `.toml`, gone when the test ends.
fn config(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a file");
    std::fs::write(file.path(), text).expect("it is written");
    file
}

#[test]
fn a_config_file_is_checked_and_run() {
    let backend = Process::start(&["backend", "--listen", "127.0.0.1:0", "--name", "web1"]);
    let address = backend.after("listening on ");
    let file = config(&format!(
        "[[listener]]\nbind = ['127.0.0.1:0', '127.0.0.1:0']\n[[pool]]\nname = 'web'\nhealth.kind = 'off'\n\
         backend = [{{ name = 'one', address = '{address}', weight = 7 }}]\n"
    ));
    let path = file.path().to_str().unwrap();
    assert_eq!(stdout(&["check", path]), format!("{path}: ok, 1 listener, 1 pool, 1 backend\n"));
    let mut balancer = Process::start(&["--log-level", "warn", "--config", path]);
    let (first, second) = (balancer.after("listening on "), balancer.after("listening on "));
    assert_eq!(balancer.after(" INFO pool "), "web: weighted-round-robin over 1 backend, health off");
    assert_eq!(balancer.after(" INFO backend "), format!("one {address} weight 7"));
    for address in [first, second] {
        assert!(ask(&address).unwrap().ends_with("\r\n\r\nweb1\n"));
    }
    balancer.signal(Signal::TERM);
    assert_eq!(balancer.end().0.code(), Some(0));
}

#[test]
fn a_config_with_a_likely_mistake_is_accepted_with_a_warning() {
    let file = |pools: &str| config(&format!("[[listener]]\nbind = ['127.0.0.1:0']\npool = 'web'\n{pools}"));
    let pool = |algorithm: &str, rest: &str| {
        format!(
            "[[pool]]\nname = 'web'\nhealth.kind = 'off'\n{algorithm}\nbackend = [{{ address = '127.0.0.1:1', weight = 5 {rest} }}, \
             {{ address = '127.0.0.1:2' {rest} }}]\n"
        )
    };
    for (pools, warnings) in [
        (pool("", ""), &[][..]),
        (pool("algorithm = 'rr'", ""), &[(7, "pool web: round-robin ignores weights, but they differ (from 1 to 5)")]),
        (pool("", ", backup = true"), &[(4, "pool web: every backend is a backup")]),
        (
            pool("", "") + "[[pool]]\nname = 'spare'\nbackend = [{ address = '127.0.0.1:3', weight = 0 }]\n",
            &[(9, "pool spare: no listener uses it"), (9, "pool spare: every backend has weight 0")],
        ),
    ] {
        let file = file(&pools);
        let path = file.path().to_str().unwrap();
        let checked = output(&["check", path]);
        assert_eq!(checked.status.code(), Some(0));
        let shown = String::from_utf8(checked.stderr).unwrap();
        let shown: Vec<&str> = shown.lines().collect();
        assert_eq!(shown.len(), warnings.len(), "{pools}: {shown:?}");
        let balancer = Process::start(&["--config", path]);
        for (line, (number, warning)) in shown.iter().zip(warnings) {
            assert!(line.starts_with(&format!("warning: {path}:{number}: {warning}")), "{line}");
            assert!(balancer.line(warning).contains(" WARN "));
        }
        balancer.signal(Signal::HUP);
        for (_, warning) in warnings {
            assert!(balancer.line(&format!("reload: {warning}")).contains(" WARN "));
        }
    }
}

#[test]
fn sighup_reads_the_file_again_and_a_wrong_one_changes_nothing() {
    let (one, two) = (
        Process::start(&["backend", "--listen", "127.0.0.1:0", "--name", "web1"]),
        Process::start(&["backend", "--listen", "127.0.0.1:0", "--name", "web2"]),
    );
    let (one, two) = (one.after("listening on "), two.after("listening on "));
    let text = |backend: &str, rest: &str| {
        format!(
            "[[listener]]\nbind = ['127.0.0.1:0']\n[[pool]]\nname = 'web'\nhealth.kind = 'off'\n\
             backend = [{{ name = 'it', address = '{backend}' }}]\n{rest}"
        )
    };
    let file = config(&text(&one, ""));
    let mut balancer = Process::start(&["--config", file.path().to_str().unwrap()]);
    let address = balancer.after("listening on ");
    assert!(ask(&address).unwrap().ends_with("web1\n"));

    std::fs::write(file.path(), text(&two, "")).unwrap();
    balancer.signal(Signal::HUP);
    let line = balancer.line("reload: ");
    assert!(line.contains(&format!("backend it changed: address {one} → {two}")), "{line}");
    assert!(ask(&address).unwrap().ends_with("web2\n"));

    std::fs::write(file.path(), text(&one, "wieght = 1\n")).unwrap();
    balancer.signal(Signal::HUP);
    let line = balancer.line("reload refused: ");
    assert!(line.contains("unknown key `wieght`") && line.contains(".toml:7: "), "{line}");
    assert!(ask(&address).unwrap().ends_with("web2\n"));
    balancer.signal(Signal::TERM);
    assert_eq!(balancer.end().0.code(), Some(0));
}

#[test]
fn mistakes_in_a_list_of_prefixes_are_reported_by_its_own_lines() {
    let lists =
        [config("# no client from there\n192.0.2.0/24\n"), config("10.0.0.0/8\n10.0.0.0/99\n"), config("# none\n")];
    let paths = lists.each_ref().map(|file| file.path().to_str().unwrap());
    let with = |key: &str, path: &str| {
        let pool = "[[pool]]\n[[pool.backend]]\naddress = '127.0.0.1:1'";
        config(&format!("[[listener]]\nbind = [':0']\n{key} = '{path}'\n{pool}\n"))
    };
    let check = |file: &tempfile::NamedTempFile| output(&["check", file.path().to_str().unwrap()]);
    // A byte-order mark, as editors on Windows write it, is no mistake in either.
    let marked = config("\u{feff}192.0.2.0/24\n");
    let marked = with("deny_file", marked.path().to_str().unwrap());
    std::fs::write(marked.path(), format!("\u{feff}{}", std::fs::read_to_string(marked.path()).unwrap())).unwrap();
    assert_eq!(check(&marked).status.code(), Some(0), "{:?}", check(&marked));
    assert_eq!(check(&with("deny_file", paths[0])).status.code(), Some(0));
    assert_eq!(check(&with("deny_file", paths[2])).status.code(), Some(0), "an empty one denies no client");
    let unreadable = with("allow_file", "/nowhere");
    let place = format!("error: {}:3: allow_file: can't read /nowhere: No such file", unreadable.path().display());
    for (file, said) in [
        (unreadable, place),
        (with("deny_file", paths[1]), format!("error: {}:2: expected a prefix like", paths[1])),
        (with("allow_file", paths[2]), format!("error: {}: expected at least one prefix", paths[2])),
    ] {
        let message = refused(&["check", file.path().to_str().unwrap()], 2);
        assert!(message.lines().any(|line| line.starts_with(&said)), "{message}");
    }
}

#[test]
fn mistakes_in_a_config_file_are_reported_line_by_line() {
    let file = config("[global]\nworkers = 0\n\n[[listener]]\nbnd = [':80']\n");
    let path = file.path().to_str().unwrap();
    for arguments in [&["check", path][..], &["--config", path], &["-c", path]] {
        let message = refused(arguments, 2);
        let wants =
            [":2: workers: expected a number from 1 to 1024, got `0`", ":5: unknown key `bnd`, did you mean `bind`?"];
        for want in wants {
            assert!(message.lines().any(|line| line == format!("error: {path}{want}")), "{message}");
        }
    }
    let bad = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(bad.path(), b"# a\n# \xff\n").unwrap();
    let large = tempfile::NamedTempFile::new().unwrap();
    large.as_file().set_len((8 << 20) + 1).unwrap();
    for (path, why) in [
        ("/nowhere/tcplb.toml", "can't read /nowhere/tcplb.toml: No such file"),
        (large.path().to_str().unwrap(), ": expected at most 8 MiB, but it has more"),
        ("/dev/zero", "can't read /dev/zero: expected a file or a pipe, but it is a device"),
        ("/", "can't read /: expected a file or a pipe, but it is a directory"),
        (bad.path().to_str().unwrap(), ":2: not a text in UTF-8"),
    ] {
        for arguments in [["check", path], ["--config", path]] {
            let message = refused(&arguments, 2);
            assert!(message.contains(why) && message.lines().count() == 1, "{message}");
        }
    }
}

#[test]
fn of_millions_of_mistakes_a_hundred_are_reported_within_bounded_memory() {
    let many = 2_000_000;
    for (text, first) in [
        ("=\n".repeat(many), ":1: not TOML: "),
        ("a = 1\n".repeat(many / 2), ":1: unknown key `a`"),
        (format!("x = {}\n", "[=,".repeat(many)), ":1: "),
        ((0..many / 10).map(|number| format!("k{number}=1\n")).collect(), ":1: unknown key `k0`"),
        ("[[listener]]\nbind = [':0']\npool = 'x'\n".repeat(many / 20), ":1: "),
    ] {
        let file = config(&text);
        let path = file.path().to_str().unwrap();
        // In KiB. Keeping every mistake would take two to three times as much.
        let script = format!("ulimit -v 1048576; exec {} check {path}", env!("CARGO_BIN_EXE_tcplb"));
        let output = std::process::Command::new("sh").args(["-c", &script]).output().expect("it runs");
        let message = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<&str> = message.lines().collect();
        assert_eq!(output.status.code(), Some(2), "{:.200}", message);
        assert!(lines.len() <= 101 && lines[0].contains(first), "{} lines: {:.200}", lines.len(), message);
        assert!(lines.len() == 1 || lines.last().is_some_and(|line| line.ends_with(": … and more")), "{message}");
    }
}

#[test]
fn no_flag_of_the_balancer_goes_with_a_config_file() {
    let file = config("[[listener]]\nbind = ['127.0.0.1:0']\n[[pool]]\n");
    let path = file.path().to_str().unwrap();
    for flag in FLAGS.iter().filter(|flag| !["config", "log-level", "version"].contains(flag)) {
        let flag_typed = format!("--{flag}");
        let value = (*flag != "accept-proxy").then_some("1");
        let arguments: Vec<&str> = ["--config", path, &flag_typed].into_iter().chain(value).collect();
        let message = refused(&arguments, 2);
        assert!(
            message.starts_with("error: --config: ") && message.contains(&format!("leave out --{flag},")),
            "{message}"
        );
    }
    let message = refused(&["-c", path, "-l", ":1", "-b", "a:1", "--log-level", "loud"], 2);
    assert!(message.contains("leave out --listen, --backend, or") && message.contains("--log-level: "), "{message}");
}
