//! Connections that outlast a restart by a service manager. The test plays the manager and its descriptor store.

mod store;

use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use store::Manager;
use testkit::{
    Admin, At, ConfigFile, Conn, Ending, ManualServer, Process, Server, eventually, free_address, need, peers,
};

/// A tcplb that the manager starts, stops, and starts again.
struct Service {
    manager: Manager,
    file: ConfigFile,
    process: Process,
    at: At,
    admin: Admin,
}

/// A configuration that keeps connections, with these lines of `[global]` besides.
fn configured<'a>(global: &[&str], backends: impl IntoIterator<Item = &'a At>) -> ConfigFile {
    let file = ConfigFile::over(backends).listener(&format!("bind = ['{}']", free_address()));
    let file = file.global("keep_connections = 'restart'");
    global.iter().fold(file.global(&format!("admin = '{}'", free_address())), |file, line| file.global(line))
}

impl Service {
    #[track_caller]
    fn start(manager: Manager, file: ConfigFile) -> Service {
        let path = file.write();
        let process = manager.start(&["--config", path.to_str().unwrap()]);
        let line = process.wait_for_line("listening on ");
        let at = At::parse(line.split_once("listening on ").unwrap().1.trim());
        let admin = Admin::of(&process);
        Service { manager, file, process, at, admin }
    }

    /// Has it started again with this file.
    #[track_caller]
    fn start_again(self, file: ConfigFile) -> Service {
        Service::start(self.manager, file)
    }

    #[track_caller]
    fn stop(&mut self) -> ExitStatus {
        self.process.signal(Signal::TERM);
        self.process.wait_exit()
    }

    /// Restarts it with the same file.
    #[track_caller]
    fn restart(mut self) -> Service {
        assert!(self.stop().success());
        let file = ConfigFile::of(self.file.text());
        self.start_again(file)
    }

    fn pair(&self, server: &ManualServer) -> (Conn, Conn) {
        let client = Conn::to(&self.at);
        (client, server.accept())
    }

    fn ids(&self) -> BTreeSet<u64> {
        let connections: Value = serde_json::from_str(&self.admin.get("/v1/connections").body).unwrap();
        connections.as_array().unwrap().iter().map(|connection| connection["id"].as_u64().unwrap()).collect()
    }
}

/// Both directions carry bytes.
#[track_caller]
fn assert_relays(client: &Conn, backend: &Conn, text: &str) {
    client.say(text);
    assert_eq!(backend.hear(text.len()), text.as_bytes());
    backend.say(text);
    assert_eq!(client.hear(text.len()), text.as_bytes());
}

#[test]
fn keep_connections_lets_connections_outlast_a_restart() {
    let Some(manager) = Manager::new() else { return };
    let server = ManualServer::start();
    let service = Service::start(manager, configured(&[], [server.at()]));
    let quiet: Vec<(Conn, Conn)> = (0..100).map(|_| service.pair(&server)).collect();
    quiet.iter().for_each(|(client, backend)| assert_relays(client, backend, "before"));
    let (half, half_backend) = service.pair(&server);
    half.say("the whole request");
    half.finish();
    let (stalled, stalled_backend) = service.pair(&server);
    let held = stalled.fill();
    let (gone, gone_backend) = service.pair(&server);
    assert_relays(&gone, &gone_backend, "before");
    let (reset, reset_backend) = service.pair(&server);
    assert_relays(&reset, &reset_backend, "before");
    eventually("all are served", || service.ids().len() == 104);
    let before = service.ids();
    assert!(service.file.text().contains("keep_connections = 'restart'"));

    let mut service = service;
    assert!(service.stop().success());
    service.process.wait_for_line("stopped: 0 connections finished, 0 reset, 104 kept for the next start");
    assert_eq!(service.manager.count(), 1, "one queue has all of them");
    quiet[0].0.say("sent meanwhile");
    gone.finish();
    reset.reset();
    let file = ConfigFile::of(service.file.text());
    let service = service.start_again(file);
    service.process.wait_for_line("104 connections of the process before go on");
    eventually("the manager keeps nothing any more", || service.manager.count() == 0);
    assert_eq!(quiet[0].1.hear(14), b"sent meanwhile");
    quiet.iter().for_each(|(client, backend)| assert_relays(client, backend, "after"));
    assert_eq!(half_backend.hear_all(), b"the whole request");
    half_backend.say("the answer");
    half_backend.finish();
    assert_eq!(half.hear_all(), b"the answer");
    assert_eq!(stalled_backend.hear(held).len(), held);
    assert_relays(&stalled, &stalled_backend, "after");
    assert_eq!(gone_backend.ending(), Ending::Fin);
    gone_backend.finish();
    assert_eq!(reset_backend.ending(), Ending::Reset);
    eventually("three have ended", || service.ids().len() == 101);
    assert!(service.ids().is_subset(&before), "each keeps its number");
    let (client, backend) = service.pair(&server);
    assert_relays(&client, &backend, "a new one");
    assert_eq!(service.ids().difference(&before).count(), 1, "a new one has a new number");

    let service = service.restart();
    quiet.iter().for_each(|(client, backend)| assert_relays(client, backend, "after a second restart"));
    assert_relays(&client, &backend, "the first");
    drop((quiet, client, backend, stalled, stalled_backend));
    eventually("all have ended", || service.ids().is_empty());
    assert_eq!(service.admin.metric("tcplb_backend_connections_active", &[]), 0);
}

#[test]
fn a_stop_during_a_start_keeps_connections_once_more() {
    let (Some(manager), Some(_)) = (Manager::new(), need("strace")) else { return };
    let server = ManualServer::start();
    let mut service = Service::start(manager, configured(&[], [server.at()]));
    let (client, backend) = service.pair(&server);
    assert_relays(&client, &backend, "before");
    assert!(service.stop().success());
    let Service { manager, file, .. } = service;
    let file = ConfigFile::of(file.text());
    let path = file.write();
    // Each new thread runs before the one that has started it goes on.
    let slowly =
        ["strace", "-D", "-qq", "-f", "-o", "/dev/null", "-e", "trace=clone3", "-e", "inject=clone3:delay_exit=100ms"];
    let mut starting = manager.start_by(&slowly, &["--config", path.to_str().unwrap()]);
    starting.wait_for_line("serves at most");
    starting.signal(Signal::TERM);
    assert!(starting.wait_exit().success());
    starting.wait_for_line("stopped: 0 connections finished, 0 reset, 1 kept for the next start");
    let _service = Service::start(manager, ConfigFile::of(file.text()));
    assert_relays(&client, &backend, "after");
}

#[test]
fn without_keep_connections_a_stop_resets_what_is_open() {
    let Some(manager) = Manager::new() else { return };
    let server = ManualServer::start();
    let file =
        ConfigFile::of(configured(&["shutdown_timeout = '100ms'"], [server.at()]).text().replace("restart'", "off'"));
    let mut service = Service::start(manager, file);
    let (client, backend) = service.pair(&server);
    assert_relays(&client, &backend, "before");
    assert!(service.stop().success());
    assert_eq!((client.ending(), backend.ending()), (Ending::Reset, Ending::Reset));
    assert_eq!(service.manager.count(), 0, "keep_connections is off");
}

#[test]
fn connections_in_use_go_on_until_the_drain_is_over_and_are_kept_then() {
    let Some(manager) = Manager::new() else { return };
    let echo = Server::start(peers::echo);
    let mut service = Service::start(manager, configured(&["shutdown_timeout = '3s'"], [echo.at()]));
    let client = Conn::to(&service.at);
    let over = AtomicBool::new(false);
    let service = thread::scope(|scope| {
        // It never rests for a second.
        let busy = scope.spawn(|| {
            let mut count = 0;
            while !over.load(Ordering::SeqCst) {
                client.assert_echoes(&format!("message {count}"));
                count += 1;
                testkit::let_pass(Duration::from_millis(20));
            }
        });
        service.process.signal(Signal::TERM);
        service.process.wait_for_line("draining");
        assert!(service.process.wait_exit().success());
        service.process.wait_for_line("0 reset, 1 kept for the next start");
        let file = ConfigFile::of(service.file.text());
        let service = service.start_again(file);
        over.store(true, Ordering::SeqCst);
        busy.join().unwrap();
        service
    });
    client.assert_echoes("after the restart");
    drop(service);
}

#[test]
fn a_kept_connection_whose_backend_is_gone_from_the_configuration_goes_on_and_time_counts_meanwhile() {
    let Some(manager) = Manager::new() else { return };
    let (server, other) = (ManualServer::start(), ManualServer::start());
    let mut service = Service::start(manager, configured(&[], [server.at()]));
    let (client, backend) = service.pair(&server);
    assert_relays(&client, &backend, "before");
    assert!(service.stop().success());
    let text = service.file.text().replace(&server.at().to_string(), &other.at().to_string());
    let mut service = service.start_again(ConfigFile::of(text.replace("\"b1\"", "\"new\"")));
    assert_relays(&client, &backend, "after");
    let (new, new_backend) = service.pair(&other);
    assert_relays(&new, &new_backend, "at the new one");
    let silent = Instant::now();
    assert!(service.stop().success());
    testkit::let_pass(Duration::from_secs(3));
    let text = service.file.text();
    let service = service.start_again(ConfigFile::of(text));
    let elapsed = silent.elapsed().as_secs();
    let connections: Value = serde_json::from_str(&service.admin.get("/v1/connections").body).unwrap();
    let idle = |connection: &Value| connection["idle_seconds"].as_u64().unwrap();
    assert!(connections.as_array().unwrap().iter().all(|connection| idle(connection) + 1 >= elapsed), "{connections}");
}

#[test]
fn a_record_that_can_t_be_read_costs_only_its_connections() {
    let Some(manager) = Manager::new() else { return };
    let server = ManualServer::start();
    let mut service = Service::start(manager, configured(&[], [server.at()]));
    let pairs: Vec<(Conn, Conn)> = (0..2).map(|_| service.pair(&server)).collect();
    pairs.iter().for_each(|(client, backend)| assert_relays(client, backend, "before"));
    assert!(service.stop().success());
    let directory = tempfile::tempdir().unwrap();
    let garbage = directory.path().join("garbage");
    fs::write(&garbage, "{\"version\":1,\"connections\":[{\"record\":").unwrap();
    let garbage: OwnedFd = fs::File::open(&garbage).unwrap().into();
    service.manager.replace_records(&garbage);
    let file = ConfigFile::of(service.file.text());
    let service = service.start_again(file);
    assert_eq!(service.process.count_lines("their record can't be read"), 1, "{}", service.process.output());
    for (client, backend) in &pairs {
        assert_eq!((client.ending(), backend.ending()), (Ending::Fin, Ending::Fin));
    }
    eventually("the manager keeps nothing any more", || service.manager.count() == 0);
    let (client, backend) = service.pair(&server);
    assert_relays(&client, &backend, "a new one");
}

#[test]
fn a_manager_that_keeps_nothing_is_reported_at_the_start_and_connections_drain() {
    let Some(manager) = Manager::new() else { return };
    let echo = Server::start(peers::echo);
    manager.limit(0);
    let mut service = Service::start(manager, configured(&["shutdown_timeout = '60s'"], [echo.at()]));
    service.process.wait_for_line("keep_connections has no effect: the service manager keeps no descriptor");
    let client = Conn::to(&service.at);
    client.assert_echoes("before");
    service.process.signal(Signal::TERM);
    service.process.wait_for_line("0 connections kept for the next start; the others can't be");
    client.assert_echoes("while it drains");
    client.finish();
    assert_eq!(client.ending(), Ending::Fin);
    assert!(service.process.wait_exit().success());
    service.process.wait_for_line("stopped: 1 connection finished, 0 reset");
    assert!(!service.manager.has_read("FDNAME=tcplb-kept"), "the check at the start has shown it");
}

#[test]
fn a_manager_that_is_late_at_the_start_keeps_connections_at_the_end() {
    let Some(manager) = Manager::new() else { return };
    let server = ManualServer::start();
    manager.pause();
    let service = Service::start(manager, configured(&[], [server.at()]));
    service
        .process
        .wait_for_line("keep_connections may have no effect: the service manager does not read its messages");
    service.manager.resume();
    service.manager.wait_for("FDSTOREREMOVE=1\nFDNAME=tcplb-check");
    assert_eq!(service.manager.count(), 0, "the queue of the check is gone");
    let (client, backend) = service.pair(&server);
    assert_relays(&client, &backend, "before");
    let _service = service.restart();
    assert_relays(&client, &backend, "after");
}

#[test]
fn a_manager_that_closes_a_queue_a_moment_after_it_has_refused_it_costs_no_connection() {
    let Some(manager) = Manager::new() else { return };
    let echo = Server::start(peers::echo);
    let mut service = Service::start(manager, configured(&["shutdown_timeout = '60s'"], [echo.at()]));
    service.manager.wait_for("FDSTOREREMOVE=1\nFDNAME=tcplb-check");
    service.manager.limit(0);
    let client = Conn::to(&service.at);
    client.assert_echoes("before");
    service.process.signal(Signal::TERM);
    service.process.wait_for_line("others can't be: the service manager keeps no descriptor");
    client.assert_echoes("while it drains");
    client.finish();
    assert_eq!(client.ending(), Ending::Fin);
    assert!(service.process.wait_exit().success());
    service.process.wait_for_line("stopped: 1 connection finished, 0 reset");
}

#[test]
fn a_manager_that_stops_reading_delays_a_stop_for_a_bounded_time_and_a_second_signal_ends_it() {
    let Some(manager) = Manager::new() else { return };
    let echo = Server::start(peers::echo);
    let mut service = Service::start(manager, configured(&["shutdown_timeout = '60s'"], [echo.at()]));
    let client = Conn::to(&service.at);
    client.assert_echoes("before");
    service.manager.wait_for("READY=1");
    service.manager.wait_for("FDSTOREREMOVE=1\nFDNAME=tcplb-check");
    service.manager.pause();
    service.process.signal(Signal::TERM);
    service.process.wait_for_line("can't be: the service manager does not read its messages");
    client.assert_echoes("while it drains");
    service.process.signal(Signal::TERM);
    assert_eq!(client.ending(), Ending::Reset);
    assert!(service.process.wait_exit().success());
    // What it reads later holds no connection.
    service.manager.resume();
    eventually("it has an empty queue", || service.manager.count() == 1);
    let file = ConfigFile::of(service.file.text());
    let service = service.start_again(file);
    assert_eq!(service.process.count_lines("of the process before"), 0, "{}", service.process.output());
}

#[test]
fn without_a_service_manager_keep_connections_is_reported_to_have_no_effect() {
    let echo = Server::start(peers::echo);
    let started = configured(&[], [echo.at()]).start();
    started.wait_for_line("keep_connections has no effect: no service manager has started tcplb");
    let client = started.connect();
    client.assert_echoes("served");
}
