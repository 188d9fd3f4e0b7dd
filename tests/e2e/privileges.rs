//! The user that tcplb runs as, the rights that are left, and what works with them. Most tests need root.

use rustix::process::{Signal, geteuid};
use std::fmt::Display;
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use testkit::{
    At, Conn, Ending, Process, Running, Server, Tcplb, account, eventually, fresh_loopback, need, need_root, peers,
};

/// CAP_NET_BIND_SERVICE, as /proc/PID/status writes it.
const BIND_SERVICE: &str = "0000000000000400";
const NONE: &str = "0000000000000000";

/// A directory that every user may read, with one for tcplb's file and two that user `nobody` owns where that is
/// possible.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
        for name in ["etc", "run", "elsewhere"] {
            fs::create_dir(place.path().join(name)).unwrap();
            fs::set_permissions(place.path().join(name), Permissions::from_mode(0o755)).unwrap();
        }
        let (user, group) = nobody();
        for name in ["run", "elsewhere"].into_iter().filter(|_| geteuid().is_root()) {
            chown(place.path().join(name), Some(user), Some(group)).unwrap();
        }
        Place(place)
    }

    fn file(&self) -> PathBuf {
        self.path("etc/tcplb.toml")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes the file: these lines in `[global]`, a listener at these addresses, one backend.
    fn write(&self, global: &str, bind: &[&str], backend: impl Display) {
        let text = format!(
            "[global]\nworkers = 2\n{global}\n[[listener]]\nbind = {bind:?}\n[[pool]]\n[pool.health]\nkind = \"off\"\n\
             [[pool.backend]]\naddress = \"{backend}\"\n"
        );
        fs::write(self.file(), text).unwrap();
        fs::set_permissions(self.file(), Permissions::from_mode(0o644)).unwrap();
    }
}

/// Their numbers.
fn nobody() -> (u32, u32) {
    account("nobody").expect("every system has the user nobody")
}

fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// One line of each thread's status, without its name. A thread that ends meanwhile has none.
fn of_every_thread(process: &Process, field: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap();
    let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).ok();
    let value = |text: String| {
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).expect("a field");
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    tasks.filter_map(|task| status(task.unwrap()).map(value)).collect()
}

#[track_caller]
fn assert_every_thread(process: &Process, field: &str, want: &str) {
    let found = of_every_thread(process, field);
    assert!(found.len() >= 6 && found.iter().all(|value| value == want), "{field}: expected {want}, got {found:?}");
}

/// No thread of it can become another user, or gain anything.
fn assert_nobody_with(process: &Process, capabilities: &str) {
    let (user, group) = nobody();
    assert_every_thread(process, "Uid", &vec![user.to_string(); 4].join(" "));
    assert_every_thread(process, "Gid", &vec![group.to_string(); 4].join(" "));
    for field in ["CapPrm", "CapEff"] {
        assert_every_thread(process, field, capabilities);
    }
    assert_every_thread(process, "NoNewPrivs", "1");
}

fn call(socket: &Path, path: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn reload(tcplb: &Running, says: &str) -> String {
    tcplb.signal(Signal::HUP);
    tcplb.wait_for_line(says)
}

#[test]
fn the_state_file_is_written_as_the_user_and_inside_the_sandbox() {
    if !need_root() {
        return;
    }
    let (server, place) = (Server::start(peers::echo), Place::new());
    let weigh = |weight: u8| {
        let mut stream = UnixStream::connect(place.path("run/admin.sock")).unwrap();
        let body = format!("{{\"weight\":{weight}}}");
        let call = format!("PATCH /v1/pools/default/backends/{}", server.at());
        write!(stream, "{call} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    };
    let start = |directory: &str| {
        let (admin, state) = (unix(&place.path("run/admin.sock")), place.path(directory).join("state.toml"));
        let global = format!("user = \"nobody\"\nadmin = \"{admin}\"\nstate_file = \"{}\"", state.display());
        place.write(&global, &["127.0.0.1:0"], server.at());
        (Tcplb::from_file(&place.file()).start(), state)
    };
    let (tcplb, state) = start("elsewhere");
    weigh(5);
    eventually("the change is saved", || fs::read_to_string(&state).is_ok_and(|text| text.contains("weight = 5")));
    assert_eq!(state.metadata().unwrap().uid(), nobody().0);
    assert_eq!(state.metadata().unwrap().mode() & 0o777, 0o600);
    drop(tcplb);
    // Root owns this one.
    let (tcplb, _) = start("etc");
    tcplb.wait_for_line("state_file: can't write");
    weigh(6);
}

#[test]
fn started_as_root_every_thread_becomes_the_user_for_good() {
    if !need_root() {
        return;
    }
    let (server, place) = (Server::start(peers::echo), Place::new());
    let admin = place.path("run/admin.sock");
    let global = format!("user = \"nobody\"\nadmin = \"{}\"", unix(&admin));
    place.write(&global, &["127.0.0.1:0"], server.at());
    let tcplb = Tcplb::from_file(&place.file()).start();
    tcplb.connect().assert_echoes("as nobody");
    // The last thread that it starts has started.
    reload(&tcplb, "reload: nothing changed");
    assert_nobody_with(&tcplb, BIND_SERVICE);
    let group = nobody().1.to_string();
    assert_every_thread(&tcplb, "Groups", &group);
    for field in ["CapInh", "CapAmb"] {
        assert_every_thread(&tcplb, field, NONE);
    }
    assert!(tcplb.wait_for_line("runs as nobody:").contains("with CAP_NET_BIND_SERVICE only, no new privileges"));
    // What the metrics read of the process is still there to be read.
    let metrics = call(&admin, "/metrics");
    for metric in ["process_open_fds", "process_resident_memory_bytes", "process_cpu_seconds_total"] {
        let line = metrics.lines().find(|line| line.starts_with(metric));
        let value = line.and_then(|line| line.rsplit(' ').next()).unwrap_or_else(|| panic!("{metric}: {metrics}"));
        assert!(value.parse::<f64>().unwrap() >= 0.0, "{metric}: {value}");
    }
    assert!(!metrics.contains("process_open_fds 0\n") && !metrics.contains("process_resident_memory_bytes 0\n"));
}

#[test]
fn a_group_may_be_given_and_user_and_group_may_be_numbers() {
    if !need_root() {
        return;
    }
    let server = Server::start(peers::echo);
    let flags = ["--user", "3456789", "--group", "3456790"];
    let tcplb = Tcplb::new().backend(server.at()).args(flags).start();
    tcplb.connect().assert_echoes("as nobody in particular");
    assert_every_thread(&tcplb, "Uid", "3456789 3456789 3456789 3456789");
    assert_every_thread(&tcplb, "Gid", "3456790 3456790 3456790 3456790");
    assert_every_thread(&tcplb, "Groups", "3456790");
}

#[test]
fn a_reload_may_add_a_low_port_and_a_name() {
    if !need_root() {
        return;
    }
    let (server, place, low) = (Server::start_on([127, 0, 0, 1], peers::echo), Place::new(), fresh_loopback());
    place.write("user = \"nobody\"", &["127.0.0.1:0"], server.at());
    let tcplb = Tcplb::from_file(&place.file()).start();
    // A name is looked up by modules that are loaded only now, from files that are read only now.
    let bind = format!("{low}:80");
    let by_name = format!("localhost:{}", server.at().port());
    place.write("user = \"nobody\"", &["127.0.0.1:0", &bind], &by_name);
    reload(&tcplb, &format!("listening on {bind}"));
    tcplb.wait_for_line("reload: listener default changed");
    Conn::to(&At::parse(&bind)).assert_echoes("on a low port");
}

#[test]
fn a_reload_reads_the_lists_that_the_file_names() {
    let (server, place) = (Server::start(peers::echo), Place::new());
    let list = place.path("elsewhere/deny.txt");
    let write = || {
        place.write("", &["127.0.0.1:0"], server.at());
        let text = fs::read_to_string(place.file()).unwrap();
        let key = format!("[[listener]]\ndeny_file = \"{}\"", list.display());
        fs::write(place.file(), text.replace("[[listener]]", &key)).unwrap();
    };
    fs::write(&list, "192.0.2.0/24\n").unwrap();
    write();
    let tcplb = Tcplb::from_file(&place.file()).start();
    tcplb.connect().assert_echoes("not on the list");
    fs::write(&list, "127.0.0.0/8\n").unwrap();
    reload(&tcplb, "reload: listener default changed");
    assert_eq!(tcplb.ending_of_next(), Ending::Reset);
}

#[test]
fn socket_files_are_the_user_s_and_gone_at_the_end() {
    if !need_root() {
        return;
    }
    let (server, place) = (Server::start(peers::echo), Place::new());
    let (socket, admin) = (place.path("run/web.sock"), place.path("run/admin.sock"));
    let global = format!("user = \"nobody\"\nadmin = \"{}\"", unix(&admin));
    place.write(&global, &[&unix(&socket)], server.at());
    let mut tcplb = Tcplb::from_file(&place.file()).start();
    tcplb.connect().assert_echoes("by a file");
    for path in [&socket, &admin] {
        let file = fs::metadata(path).unwrap();
        assert_eq!((file.uid(), file.gid()), nobody(), "{}", path.display());
    }
    assert_eq!(fs::metadata(&admin).unwrap().mode() & 0o777, 0o600);
    assert!(call(&admin, "/healthz").contains("200 OK"));
    // It can make another one there.
    let other = place.path("run/other.sock");
    place.write(&global, &[&unix(&socket), &unix(&other)], server.at());
    reload(&tcplb, "reload: listener default changed");
    Conn::to(&At::Unix(other.clone())).assert_echoes("by another");
    tcplb.signal(Signal::TERM);
    assert!(tcplb.wait_exit().success());
    assert_eq!(fs::read_dir(place.path("run")).unwrap().count(), 0, "{}", tcplb.output());
    assert!(!tcplb.output().contains("WARN"), "{}", tcplb.output());
}

#[test]
fn a_token_file_that_others_can_read_is_logged() {
    let (server, place) = (Server::start(peers::echo), Place::new());
    let token = place.path("etc/token");
    fs::write(&token, "secret\n").unwrap();
    let user = if geteuid().is_root() { "user = \"nobody\"\n" } else { "" };
    for mode in [0o644, 0o600] {
        fs::set_permissions(&token, Permissions::from_mode(mode)).unwrap();
        let global = format!("{user}admin = \"127.0.0.1:0\"\nadmin_token_file = \"{}\"", token.display());
        place.write(&global, &["127.0.0.1:0"], server.at());
        // Read before tcplb changes its user, so that the user needs no right to it.
        let tcplb = Tcplb::from_file(&place.file()).start();
        tcplb.wait_for_line("admin on ");
        assert_eq!(
            tcplb.count_lines("every user of this machine can read the admin token"),
            usize::from(mode == 0o644)
        );
    }
}

#[test]
fn a_start_reports_what_the_user_will_not_be_able_to_do() {
    if !need_root() {
        return;
    }
    let (server, place) = (Server::start(peers::echo), Place::new());
    let socket = place.path("etc/web.sock");
    place.write("user = \"nobody\"", &["127.0.0.1:0", &unix(&socket)], server.at());
    fs::set_permissions(place.file(), Permissions::from_mode(0o600)).unwrap();
    let tcplb = Tcplb::from_file(&place.file()).start();
    tcplb.connect().assert_echoes("all the same");
    let line = tcplb.wait_for_line("a reload will fail: nobody:");
    assert!(line.contains(&place.file().display().to_string()) && line.contains("Permission denied"), "{line}");
    let line = tcplb.wait_for_line("will stay behind at the end");
    assert!(line.contains(&socket.display().to_string()), "{line}");
    // It says the same when it happens, and has no hint: the operator may still open the file.
    let refused = reload(&tcplb, "reload refused");
    assert!(refused.contains("can't read") && !refused.contains("the sandbox of this process"), "{refused}");
    fs::set_permissions(place.file(), Permissions::from_mode(0o644)).unwrap();
    reload(&tcplb, "reload: nothing changed");
}

#[test]
fn a_reload_that_leads_out_of_the_sandbox_is_refused_with_the_reason() {
    let (server, place) = (Server::start(peers::echo), Place::new());
    let bind = "127.0.0.1:0";
    for (sandbox, free) in [("auto", false), ("off", true)] {
        let global = format!("sandbox = \"{sandbox}\"");
        place.write(&global, &[bind], server.at());
        let tcplb = Tcplb::from_file(&place.file()).start();
        let said = tcplb.wait_for_line("runs as ");
        assert!(said.contains("no new privileges"), "{said}");
        assert_eq!(said.contains("no sandbox"), free, "{said}");
        // A listener where there was none.
        let socket = place.path("elsewhere/web.sock");
        place.write(&global, &[bind, &unix(&socket)], server.at());
        let why = "the sandbox of this process excludes that path";
        if free {
            reload(&tcplb, "reload: listener default changed");
        } else {
            let refused = reload(&tcplb, "reload refused");
            assert!(refused.contains(&socket.display().to_string()) && refused.contains(why), "{refused}");
        }
        // A file that is elsewhere now.
        place.write(&global, &[bind], server.at());
        fs::rename(place.file(), place.path("elsewhere/tcplb.toml")).unwrap();
        std::os::unix::fs::symlink(place.path("elsewhere/tcplb.toml"), place.file()).unwrap();
        tcplb.signal(Signal::HUP);
        if free {
            tcplb.wait_for_lines("reload: listener default changed", 2);
        } else {
            let refused = tcplb.wait_for_lines("reload refused", 2).remove(1);
            assert!(refused.contains("can't read") && refused.contains(why), "{refused}");
        }
        fs::remove_file(place.file()).unwrap();
        tcplb.connect().assert_echoes("undisturbed");
        // Editors replace a file: another one by the same name is read.
        place.write(&global, &[bind], server.at());
        reload(&tcplb, "reload: nothing changed");
    }
}

/// Arguments of setpriv(1) that leave only the right to low ports.
const LOW_PORTS: [&str; 2] = ["--inh-caps=+net_bind_service", "--ambient-caps=+net_bind_service"];

/// tcplb in a place where user `nobody` can start it, started as `nobody` with these further words for
/// setpriv.
fn unprivileged(place: &Place, words: &[&str]) -> Option<Tcplb> {
    Some(Tcplb::new().wrapped(as_nobody(place, words)?.iter().map(String::as_str)))
}

fn as_nobody(place: &Place, words: &[&str]) -> Option<Vec<String>> {
    if !need_root() {
        return None;
    }
    let setpriv = need("setpriv")?;
    let program = place.path("tcplb");
    fs::copy(env!("CARGO_BIN_EXE_tcplb"), &program).unwrap();
    let (user, group) = nobody();
    let (user, group) = (format!("--reuid={user}"), format!("--regid={group}"));
    // The last of these starts the copy in place of the program that it is given.
    let shell = ["sh", "-c", "shift; exec \"$0\" \"$@\""];
    let (setpriv, program) = (setpriv.display().to_string(), program.display().to_string());
    let account = [setpriv.as_str(), &user, &group, "--clear-groups"];
    let words = account.into_iter().chain(words.iter().copied()).chain(shell).chain([program.as_str()]);
    Some(words.map(str::to_owned).collect())
}

#[test]
fn without_root_the_capability_for_low_ports_is_enough() {
    let (server, place, low) = (Server::start(peers::echo), Place::new(), fresh_loopback());
    let bind = format!("{low}:80");
    let Some(tcplb) = unprivileged(&place, &LOW_PORTS) else { return };
    let tcplb = tcplb.listen(&bind).backend(server.at()).start();
    tcplb.connect().assert_echoes("on a low port");
    tcplb.wait_for_line("with CAP_NET_BIND_SERVICE only, no new privileges");
    assert_nobody_with(&tcplb, BIND_SERVICE);
}

/// A system call that packaging/tcplb.service forbids would fail there, and only there.
#[test]
fn with_only_the_right_to_low_ports_no_privileged_call_is_made() {
    let (server, place) = (Server::start(peers::echo), Place::new());
    let Some(strace) = need("strace") else { return };
    let Some(words) = as_nobody(&place, &LOW_PORTS) else { return };
    let (strace, record) = (strace.display().to_string(), place.path("trace"));
    let trace = "trace=execve,capset,setuid,setresuid,setgid,setresgid,setgroups,chown,lchown,fchown,fchownat";
    let trace = ["-f", "-o", record.to_str().expect("a path in UTF-8"), "-e", trace];
    let words = [strace.as_str()].into_iter().chain(trace).chain(words.iter().map(String::as_str));
    let mut tcplb = Tcplb::new().wrapped(words).backend(server.at()).args(["--user", "nobody"]).start();
    tcplb.connect().assert_echoes("watched");
    tcplb.wait_for_line("with CAP_NET_BIND_SERVICE only");
    tcplb.signal_child(Signal::TERM);
    assert!(tcplb.wait_exit().success());
    let calls = fs::read_to_string(&record).unwrap();
    // setpriv and the shell come first, and setpriv does use them.
    let (before, own) = calls.rsplit_once("execve(").expect("tcplb is started");
    assert!(
        before.contains("capset(") && !own.contains("cap") && !own.contains("set") && !own.contains("chown"),
        "{own}"
    );
}

#[test]
fn without_any_privilege_tcplb_serves_high_ports() {
    let (server, place) = (Server::start(peers::echo), Place::new());
    let Some(tcplb) = unprivileged(&place, &[]) else { return };
    // A process that already runs as the user needs no change of user.
    let tcplb = tcplb.backend(server.at()).args(["--user", "nobody"]).start();
    tcplb.connect().assert_echoes("on a high port");
    tcplb.wait_for_line("with no capability, no new privileges");
    assert_nobody_with(&tcplb, NONE);
}

#[test]
fn a_start_reports_what_it_can_t_do_before_it_opens_anything() {
    let (server, place) = (Server::start(peers::echo), Place::new());
    let refused = |tcplb: Tcplb, args: &[&str], code: i32, wants: &str| {
        let (status, said) = tcplb.backend(server.at()).args(args.iter().copied()).start_in_vain();
        assert_eq!(status.code(), Some(code), "{said}");
        assert!(said.contains(wants) && !said.contains("listening"), "{said}");
    };
    refused(Tcplb::new(), &["--user", "nobdy-at-all"], 1, "error: user: there is no user called `nobdy-at-all`");
    refused(Tcplb::new(), &["--user", "nobody", "--group", "no-such"], 1, "there is no group called `no-such`");
    refused(Tcplb::new(), &["--user", "root"], 1, "expected a user other than root, got `root`");
    let number = "expected a name or a number from 0 to 4294967294, got `4294967295`";
    refused(Tcplb::new(), &["--user", "4294967295"], 2, number);
    refused(Tcplb::new(), &["--user", "nobody", "--group", "4294967295"], 2, number);
    refused(Tcplb::new(), &["--group", "nogroup"], 2, "--group: expected a user that it goes with");
    let Some(tcplb) = unprivileged(&place, &[]) else { return };
    refused(tcplb, &["--user", "daemon"], 1, "lacks CAP_SETUID and CAP_SETGID");
}

#[test]
fn a_low_port_without_the_right_to_it_names_the_remedies() {
    let (server, place, low) = (Server::start(peers::echo), Place::new(), fresh_loopback());
    for arguments in [vec!["--listen".to_owned(), format!("{low}:80")], vec!["--admin".to_owned(), format!("{low}:81")]]
    {
        let Some(tcplb) = unprivileged(&place, &[]) else { return };
        let (status, said) = tcplb.backend(server.at()).args(arguments.iter().map(String::as_str)).start_in_vain();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("Permission denied") && said.contains("needs CAP_NET_BIND_SERVICE: `setcap "), "{said}");
        assert!(said.contains("AmbientCapabilities=") && said.contains("as root with `user`"), "{said}");
    }
}

#[test]
fn staying_root_is_logged() {
    if !need_root() {
        return;
    }
    let server = Server::start(peers::echo);
    let tcplb = Tcplb::over([&server]);
    tcplb.connect().assert_echoes("as root");
    tcplb.wait_for_line("WARN runs as root");
    assert_every_thread(&tcplb, "NoNewPrivs", "1");
}

#[test]
fn a_kernel_without_landlock_is_logged_and_tcplb_serves() {
    let Some(strace) = need("strace") else { return };
    let (server, place) = (Server::start(peers::echo), Place::new());
    let strace = strace.display().to_string();
    for (error, reason) in
        [("ENOSYS", "there is no Landlock here"), ("EPERM", "there is no"), ("EOPNOTSUPP", "Landlock is turned off")]
    {
        let (trace, record) = ("trace=landlock_create_ruleset", place.path("trace").display().to_string());
        let inject = format!("inject=landlock_create_ruleset:error={error}");
        let words = [strace.as_str(), "-f", "-o", &record, "-e", trace, "-e", &inject];
        let mut tcplb = Tcplb::new().wrapped(words).backend(server.at()).start();
        tcplb.connect().assert_echoes("without walls");
        tcplb.wait_for_line(&format!("no new privileges, no sandbox: {reason}"));
        // Not strace, which would let go of it and leave it behind.
        tcplb.signal_child(Signal::TERM);
        assert!(tcplb.wait_exit().success());
    }
}
