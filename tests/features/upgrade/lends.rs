//! What a process lends to its successor: ports of the kernel's choice, socket files and their permissions, options of sockets, the
//! state file. It stays as it is until the successor has taken over.

use super::between::Act;
use super::outlives::Waiting;
use super::{Upgradable, echoes};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use testkit::{At, Conn, Server, Tcplb, account, eventually, fresh_loopback, need, need_root, peers};

/// A directory with a configuration file.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes the file: what `[global]` has besides the admin API, and the listeners with their addresses, each with a pool of its own.
    fn write(&self, global: &str, listeners: &[(&str, &str, &Server)]) {
        let mut text = format!("[global]\nadmin = '127.0.0.1:0'\n{global}\n");
        for (name, rest, server) in listeners {
            text.push_str(&format!(
                "[[listener]]\nname = '{name}'\npool = '{name}'\n{rest}\n[[pool]]\nname = '{name}'\nhealth.kind = 'off'\n\
                 [[pool.backend]]\nname = 'b'\naddress = '{}'\n",
                server.at()
            ));
        }
        fs::write(self.path("tcplb.toml"), text).unwrap();
    }

    fn start(&self) -> Upgradable {
        Upgradable::start_from(&Tcplb::from_file(&self.path("tcplb.toml")))
    }
}

const ANY: &str = "bind = ['127.0.0.1:0']";

/// The listening addresses of the process that answers, in the order of its file.
fn listening(tcplb: &Upgradable) -> Vec<(String, At)> {
    let status = tcplb.get("/v1/status");
    let listeners = status["listeners"].as_array().unwrap().iter().flat_map(|listener| {
        let name = listener["name"].as_str().unwrap().to_owned();
        let addresses = listener["address"].as_str().unwrap().split(", ");
        addresses.map(move |at| (name.clone(), At::parse(at)))
    });
    listeners.collect()
}

#[test]
fn each_listener_keeps_the_ports_that_the_kernel_has_chosen_for_it() {
    let (one, two) = (Server::start(peers::named("one")), Server::start(peers::named("two")));
    let place = Place::new();
    let both = "bind = ['127.0.0.1:0', '127.0.0.1:0']";
    place.write("", &[("a", ANY, &one), ("b", both, &two)]);
    let tcplb = place.start();
    let before = listening(&tcplb);
    assert_eq!(before.len(), 3);
    place.write("", &[("b", both, &two), ("new", ANY, &one), ("a", ANY, &one)]);
    for _ in 0..2 {
        tcplb.upgrade();
        let after = listening(&tcplb);
        let old: Vec<_> = after.iter().filter(|(name, _)| name != "new").cloned().collect();
        assert_eq!(old, [before[1].clone(), before[2].clone(), before[0].clone()]);
        assert!(!before.iter().any(|(_, at)| *at == after[2].1), "a new listener has a port of its own");
        for (name, at) in &after {
            assert_eq!(Conn::to(at).hear_line(), if name == "b" { "two" } else { "one" });
        }
    }
}

#[test]
fn many_listening_sockets_need_few_further_descriptors() {
    let (server, place, ip) = (Server::start(peers::echo), Place::new(), fresh_loopback());
    place.write("workers = 2", &[("a", &format!("bind = ['{ip}:5000-5199']"), &server)]);
    let tcplb = place.start();
    let at = |port: u16| At::Tcp((ip, port).into());
    let client = Conn::to(&at(5_000));
    client.assert_echoes("before");
    let open = tcplb.process.open_fds() as u64;
    assert!(open > 400, "{open}");
    // A second descriptor of each would not fit.
    let limit = Rlimit { current: Some(open + 200), maximum: Some(open + 200) };
    prlimit(Pid::from_raw(tcplb.process.pid() as i32), Resource::Nofile, limit).unwrap();
    tcplb.upgrade();
    client.assert_echoes("after");
    for port in [5_000, 5_199] {
        Conn::to(&at(port)).assert_echoes("a new client");
    }
}

/// How long until the kernel checks whether the client of a new connection to this port is alive.
fn keepalive(tcplb: &Upgradable, ss: &Path) -> String {
    let client = Conn::to(&tcplb.at);
    assert!(echoes(&client, "served"));
    let filter = format!("sport = :{}", tcplb.at.port());
    let shown = Command::new(ss).args(["-tnoH", "state", "established", &filter]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let timer = shown.split("timer:(keepalive,").nth(1).and_then(|rest| rest.split(',').next());
    timer.unwrap_or_else(|| panic!("no keepalive in {shown}")).to_owned()
}

#[test]
fn a_successor_that_fails_changes_no_option_of_a_socket_and_one_that_takes_over_does() {
    let (Some(ss), Some(_)) = (need("ss"), need("python3")) else { return };
    let echo = Server::start(peers::echo);
    let place = Place::new();
    place.write("dead_peer_timeout = '10h'", &[("web", ANY, &echo)]);
    let tcplb = place.start();
    let is_long = |timer: &str| timer.contains("min") || timer.contains("hour");
    place.write("dead_peer_timeout = '2s'", &[("web", ANY, &echo)]);
    // It has bound everything, and its threads run.
    tcplb.stand_between("Farewell", &Act::KillNew);
    tcplb.upgrade_in_vain();
    let timer = keepalive(&tcplb, &ss);
    assert!(is_long(&timer), "{timer}");
    fs::remove_file(tcplb.path()).unwrap();
    std::os::unix::fs::symlink(&tcplb.program, tcplb.path()).unwrap();
    tcplb.upgrade();
    eventually("the options are those of the new file", || !is_long(&keepalive(&tcplb, &ss)));
}

#[test]
fn a_successor_that_fails_gives_a_socket_file_its_permissions_back() {
    let echo = Server::start(peers::echo);
    let place = Place::new();
    let file = place.path("clients.sock");
    let bind = |mode: &str| format!("bind = ['unix:{}']\nmode = '{mode}'", file.display());
    let mode = || fs::metadata(&file).unwrap().permissions().mode() & 0o777;
    place.write("", &[("web", &bind("0600"), &echo)]);
    let tcplb = place.start();
    // It fails once everything is bound.
    let log = place.path("none/access.log");
    place.write(&format!("access_log = '{}'", log.display()), &[("web", &bind("0666"), &echo)]);
    let why = tcplb.upgrade_in_vain();
    assert!(why.contains("before it could bind its addresses"), "{why}");
    assert_eq!(mode(), 0o600);
    place.write("", &[("web", &bind("0666"), &echo)]);
    tcplb.upgrade();
    assert_eq!(mode(), 0o666);
    assert!(echoes(&Conn::to(&tcplb.at), "served"));
}

#[test]
fn a_successor_that_fails_once_it_runs_gives_a_socket_file_its_permissions_back() {
    if need("python3").is_none() {
        return;
    }
    let echo = Server::start(peers::echo);
    let place = Place::new();
    let file = place.path("clients.sock");
    let bind = |mode: &str| format!("bind = ['unix:{}']\nmode = '{mode}'", file.display());
    let mode = || fs::metadata(&file).unwrap().permissions().mode() & 0o777;
    place.write("", &[("web", &bind("0600"), &echo)]);
    let tcplb = place.start();
    let new = place.path("new.sock");
    let of_new = format!("bind = ['unix:{}']", new.display());
    place.write("", &[("web", &bind("0666"), &echo), ("new", &of_new, &echo)]);
    Waiting::start(&tcplb).cut(&tcplb);
    eventually("the file has its old mode", || mode() == 0o600);
    eventually("the file of its own listener is gone", || !new.exists());
    assert!(echoes(&Conn::to(&tcplb.at), "served"));
}

#[test]
fn a_successor_with_another_user_leaves_a_socket_file_to_its_owner() {
    if !need_root() || need("python3").is_none() {
        return;
    }
    let echo = Server::start(peers::echo);
    let (user, group) = account("nobody").unwrap();
    let place = Place::new();
    fs::set_permissions(place.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let run = place.path("run");
    fs::create_dir(&run).unwrap();
    chown(&run, Some(user), Some(group)).unwrap();
    let file = run.join("clients.sock");
    let bind = format!("bind = ['unix:{}']\nmode = '0600'", file.display());
    place.write("user = 'nobody'", &[("web", &bind, &echo)]);
    let tcplb = place.start();
    place.write("user = 'daemon'", &[("web", &bind, &echo)]);
    tcplb.stand_between("Farewell", &Act::KillNew);
    tcplb.upgrade_in_vain();
    let found = fs::metadata(&file).unwrap();
    assert_eq!((found.uid(), found.gid()), (user, group));
}

#[test]
fn a_successor_that_changes_its_user_leaves_a_socket_file_as_it_could_not_restore_it() {
    if !need_root() || need("python3").is_none() {
        return;
    }
    let echo = Server::start(peers::echo);
    let (user, group) = account("nobody").unwrap();
    let place = Place::new();
    fs::set_permissions(place.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let run = place.path("run");
    fs::create_dir(&run).unwrap();
    chown(&run, Some(user), Some(group)).unwrap();
    let file = run.join("clients.sock");
    let bind = format!("bind = ['unix:{}']\nmode = '0660'", file.display());
    place.write("user = 'nobody'", &[("web", &bind, &echo)]);
    let tcplb = place.start();
    let of_new = format!("bind = ['unix:{}']\nmode = '0666'\ngroup = 'daemon'", file.display());
    place.write("user = 'nobody'", &[("web", &of_new, &echo)]);
    Waiting::start(&tcplb).cut(&tcplb);
    tcplb.process.wait_for_line("as they are: a restart applies them");
    tcplb.process.wait_for_line("this process ends with its last connection");
    let found = fs::metadata(&file).unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (user, group, 0o660));
    assert!(echoes(&Conn::to(&tcplb.at), "served"));
}

#[test]
fn the_file_of_an_address_that_is_gone_is_removed_and_a_strange_one_stays() {
    let echo = Server::start(peers::echo);
    let place = Place::new();
    let (gone, strange, stays) = (place.path("gone.sock"), place.path("strange.sock"), place.path("stays.sock"));
    let bind = |path: &Path| format!("bind = ['unix:{}']", path.display());
    let all = [&stays, &gone, &strange].map(|path| bind(path));
    place.write("", &[("stays", &all[0], &echo), ("gone", &all[1], &echo), ("strange", &all[2], &echo)]);
    let tcplb = place.start();
    fs::remove_file(&strange).unwrap();
    let other = UnixListener::bind(&strange).unwrap();
    let inode = fs::metadata(&strange).unwrap().ino();
    place.write("", &[("stays", &all[0], &echo), ("strange", &all[2], &echo)]);
    tcplb.upgrade();
    eventually("the file of the listener that is gone is removed", || !gone.exists());
    assert!(echoes(&Conn::to(&tcplb.at), "served"));
    place.write("", &[("stays", &all[0], &echo)]);
    tcplb.upgrade();
    assert!(echoes(&Conn::to(&tcplb.at), "served"));
    assert_eq!(fs::metadata(&strange).unwrap().ino(), inode, "another process has put it there");
    drop(other);
}

#[test]
fn only_the_process_that_has_taken_over_writes_the_state_file() {
    if need("python3").is_none() {
        return;
    }
    let echo = Server::start(peers::echo);
    let place = Place::new();
    let file = place.path("state.toml");
    place.write(&format!("state_file = '{}'", file.display()), &[("web", ANY, &echo)]);
    let tcplb = place.start();
    eventually("the old process has written it", || file.exists());
    fs::remove_file(&file).unwrap();
    let fifo = tcplb.stand_between("Farewell", &Act::Wait);
    thread::scope(|scope| {
        let upgrade = scope.spawn(|| tcplb.upgrade());
        eventually("all threads of the new process run", || fs::metadata(format!("{fifo}.reached")).is_ok());
        assert!(!file.exists());
        fs::write(&fifo, "go\n").unwrap();
        upgrade.join().unwrap();
    });
    eventually("the new process has written it", || file.exists());
}

#[test]
fn connections_whose_descriptors_are_lost_on_the_way_stay_in_the_old_process() {
    if need("python3").is_none() {
        return;
    }
    let echo = Server::start(peers::echo);
    let tcplb = Upgradable::start(Tcplb::new().backend(echo.at()).args(["-w", "1"]));
    let clients: Vec<Conn> = (0..3).map(|_| tcplb.connect()).collect();
    clients.iter().for_each(|client| client.assert_echoes("before"));
    tcplb.stand_between("Prepare", &Act::Lose);
    let figures = tcplb.upgrade();
    assert_eq!((&figures["connections"], &figures["left"]), (&2.into(), &1.into()), "{figures}");
    clients.iter().for_each(|client| client.assert_echoes("after"));
    tcplb.process.wait_for_line("the new process has reached its limit on open files");
    tcplb.connect().assert_echoes("a new one");
}

/// A line of the status of a process, without its name.
fn status_of(pid: &serde_json::Value, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn as_another_user_inside_the_sandbox_two_upgrades_keep_every_connection_and_file() {
    if !need_root() {
        return;
    }
    let echo = Server::start(peers::echo);
    let (user, group) = account("nobody").unwrap();
    let place = Place::new();
    fs::set_permissions(place.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let run = place.path("run");
    fs::create_dir(&run).unwrap();
    chown(&run, Some(user), Some(group)).unwrap();
    let file = run.join("clients.sock");
    // A port that only root may bind, at an address of this test's own.
    let port =
        format!("bind = ['{}:81', 'unix:{}']\nmode = '0660'\nowner = 'nobody'", fresh_loopback(), file.display());
    place.write("user = 'nobody'", &[("web", &port, &echo)]);
    let tcplb = place.start();
    let clients = [Conn::to(&tcplb.at), Conn::to(&At::Unix(file.clone()))];
    for round in ["one", "two"] {
        let figures = tcplb.upgrade();
        assert_eq!((&figures["connections"], &figures["left"]), (&2.into(), &0.into()), "{figures}");
        let pid = &figures["pid"];
        assert_eq!(status_of(pid, "Uid"), vec![user.to_string(); 4].join(" "));
        assert_eq!((status_of(pid, "NoNewPrivs"), status_of(pid, "CapEff")), ("1".into(), "0000000000000400".into()));
        clients.iter().for_each(|client| client.assert_echoes(round));
        for at in [&tcplb.at, &At::Unix(file.clone())] {
            assert!(echoes(&Conn::to(at), round));
        }
        assert_eq!(fs::metadata(&file).unwrap().uid(), user);
    }
}
