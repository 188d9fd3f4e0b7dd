//! tcplb under a real systemd, by the packaged unit: upgrades, reloads, restarts, stops and the watchdog.

mod manager;

use manager::Manager;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::thread;
use testkit::{Admin, At, ConfigFile, Conn, Server, eventually, free_address, peers};

const UNIT: &str = "tcplb.service";

/// tcplb as a service, in front of an echo server.
struct Service {
    manager: Manager,
    config: ConfigFile,
    at: At,
    admin: Admin,
    _server: Server,
}

impl Service {
    /// Starts it. `more` are further lines of the unit's section `[Service]`, `global` is one of the configuration.
    fn start(more: &str, global: &str) -> Option<Service> {
        let manager = Manager::start()?;
        let server = Server::start(peers::echo);
        let (at, admin) = (free_address(), free_address());
        let config = ConfigFile::over([server.at()]).listener(&format!("bind = ['{at}']"));
        let config = config.global(&format!("admin = '{admin}'")).global("workers = 2").global(global);
        let service = Service { manager, config, at: At::Tcp(at), admin: Admin(admin), _server: server };
        service.manager.add(UNIT, &service.unit(more));
        service.manager.call(&["start", UNIT]);
        Some(service)
    }

    /// The packaged unit, without what only the system's own manager can do.
    fn unit(&self, more: &str) -> String {
        let (path, log) = (self.config.write(), self.config.path("log"));
        let packaged = include_str!("../../packaging/tcplb.service");
        let (general, _) = packaged.split_once("\n# Everything tcplb does not need").expect("the part on isolation");
        let general = general.replace("[Unit]\n", "[Unit]\nDefaultDependencies=no\n");
        let general = general.replace("/usr/local/bin/tcplb", env!("CARGO_BIN_EXE_tcplb"));
        let general = general.replace("/etc/tcplb/tcplb.toml", &path.display().to_string());
        let log = log.display();
        format!("{general}\n{more}\nStandardOutput=append:{log}\nStandardError=append:{log}\n")
    }

    #[track_caller]
    fn connect(&self) -> Conn {
        Conn::to(&self.at)
    }

    fn pid(&self) -> i32 {
        self.show("MainPID").parse().expect("a process number")
    }

    #[track_caller]
    fn show(&self, property: &str) -> String {
        self.manager.show(UNIT, property)
    }

    /// Upgrades, and waits until systemd knows the new process.
    #[track_caller]
    fn upgrade(&self) -> i32 {
        let figures = self.admin.call("POST", "/v1/upgrade", "").json(200);
        let pid = figures["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a process number");
        eventually("systemd knows the new main process", || self.pid() == pid);
        assert_eq!(self.show("ActiveState"), "active");
        pid
    }

    #[track_caller]
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid()).expect("it runs"), signal).expect("signal it");
    }

    /// What it has logged so far, over all restarts.
    fn log(&self) -> String {
        fs::read_to_string(self.config.path("log")).expect("its log")
    }

    /// It was restarted so many times, and runs.
    #[track_caller]
    fn wait_for_restarts(&self, count: usize) {
        let is_back = || self.show("NRestarts") == count.to_string() && self.show("ActiveState") == "active";
        eventually("systemd restarts it", is_back);
    }
}

#[test]
fn systemd_restarts_reloads_and_stops_a_process_that_has_taken_over() {
    let Some(service) = Service::start("", "") else { return };
    let client = service.connect();
    client.assert_echoes("before");
    let pids = [service.pid(), service.upgrade(), service.upgrade()];
    assert!(pids[0] != pids[1] && pids[1] != pids[2], "{pids:?}");
    client.assert_echoes("after two upgrades");
    service.signal(Signal::KILL);
    service.wait_for_restarts(1);
    service.connect().assert_echoes("after a restart");

    service.upgrade();
    let other = free_address();
    let text = service.config.text();
    let listener = format!("\n[[listener]]\nname = 'other'\npool = 'default'\nbind = ['{other}']\n");
    service.config.rewrite(&format!("{text}{listener}"));
    service.manager.call(&["reload", UNIT]);
    let mut reloaded = None;
    eventually("the other listener is there", || {
        reloaded = Conn::try_to(&At::Tcp(other)).ok();
        reloaded.is_some()
    });
    let client = reloaded.expect("it was waited for");
    client.assert_echoes("after a reload");
    service.config.rewrite("nonsense");
    assert!(!service.manager.systemctl(&["reload", UNIT]).status.success());
    service.connect().assert_echoes("after a reload that was refused");

    assert!(!service.manager.processes(UNIT).is_empty());
    thread::scope(|scope| {
        let stop = scope.spawn(|| service.manager.call(&["stop", UNIT]));
        eventually("it drains", || service.show("ActiveState") == "deactivating");
        eventually("no client is accepted", || Conn::try_to(&service.at).is_err());
        client.assert_echoes("while it drains");
        drop(client);
        stop.join().expect("it stops");
    });
    assert_eq!(service.show("ActiveState"), "inactive", "it is not failed: {}", service.log());
    assert!(service.log().contains("stopped: 1 connection finished, 0 reset"), "{}", service.log());
    assert_eq!(service.manager.processes(UNIT), "", "no process is left");
}

#[test]
fn the_watchdog_of_systemd_watches_the_process_that_has_taken_over() {
    let Some(service) = Service::start("WatchdogSec=4s", "") else { return };
    service.upgrade();
    // systemd takes beats from the main process only.
    let last_beat = || service.show("WatchdogTimestampMonotonic").parse::<u64>().expect("a time");
    for _ in 0..3 {
        let seen = last_beat();
        eventually("the new process sends a beat", || last_beat() > seen);
    }
    assert_eq!(service.show("NRestarts"), "0");
    service.signal(Signal::STOP);
    service.wait_for_restarts(1);
    service.connect().assert_echoes("after the watchdog's restart");
}

#[test]
fn open_connections_outlast_systemctl_restart_and_not_a_stop() {
    let Some(service) = Service::start("", "keep_connections = 'restart'") else { return };
    let clients: Vec<Conn> = (0..100).map(|_| service.connect()).collect();
    let echo = |text: &str| clients.iter().for_each(|client| client.assert_echoes(text));
    echo("before");
    for round in ["a restart", "a restart of a process that has taken over"] {
        let before = service.pid();
        clients[0].say("sent before the restart, ");
        service.manager.call(&["restart", UNIT]);
        assert_ne!(service.pid(), before);
        assert_eq!(clients[0].hear(25), b"sent before the restart, ");
        echo(round);
        eventually("systemd keeps nothing any more", || service.show("NFileDescriptorStore") == "0");
        service.connect().assert_echoes("a new client");
        service.upgrade();
    }
    service.manager.call(&["stop", UNIT]);
    assert_eq!(clients.iter().filter(|client| client.try_ending().is_ok()).count(), 100);
    assert_eq!(service.show("ActiveState"), "inactive", "it is not failed: {}", service.log());
}
