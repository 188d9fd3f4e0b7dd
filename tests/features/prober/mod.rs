//! The prober against real sockets on the loopback interface.
//!
//! Nothing here waits for a length of time: every wait is for something that can be observed, by [`support::eventually`].

mod moved;
mod support;

use parking_lot::Mutex;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use support::*;
use tcplb::base::{Address, Endpoint, Tick};
use tcplb::config::model::{self, Health, HealthKind, Model};
use tcplb::policy::balance::Client;
use tcplb::policy::health::{Class, ConnectFailure};
use tcplb::pool::{Backend, Note, Resolved, SnapshotPlan, Tried, build, next};
use tcplb::prober;

#[test]
fn a_tcp_probe_marks_down_after_fall_failures_and_up_after_rise_successes() {
    let port = Port::reserve();
    let listener = port.listen();
    let (pool, prober) = watch(tcp(), &[("tcp-updown", at(port.at))]);
    decided(&pool);
    assert!(pool.up.get(0) && report(&pool, 0).last_change.is_none());

    drop(listener);
    eventually("down", || !pool.up.get(0));
    eventually("a failure after that", || probes(&pool, 0) > 3);
    let down = report(&pool, 0);
    assert!(probes_of(&pool, 0, Class::Connect) >= 3 && down.last_change.is_some(), "{down:?}");
    assert_eq!(down.last_result.unwrap().to_string(), "connection refused");

    let before = probes_of(&pool, 0, Class::Passed);
    let listener = port.listen();
    eventually("up", || pool.up.get(0));
    assert!(probes_of(&pool, 0, Class::Passed) >= before + 2);
    prober.stop();
    assert_eq!(
        lines("tcp-updown"),
        ["WARN tcp-updown is down: connection refused", "INFO tcp-updown is up: connected"]
    );
    drop(listener);
}

#[test]
fn the_first_result_decides_at_once_and_names_its_pool_where_there_are_two() {
    let port = Port::reserve();
    let health = Health { interval: HOUR, ..tcp() };
    let members: Members<'_> = &[("first-refused", at(port.at))];
    let snapshot = Arc::new(snapshot_of(&[("one", health.clone(), members), ("two", health, &[])]));
    let _prober = prober::spawn(snapshot.clone(), Arc::default(), Box::new(|_| {})).unwrap();
    eventually("down", || !snapshot.pools[0].up.get(0));
    assert_eq!(lines("first-refused"), ["WARN first-refused is down: connection refused (pool one)"]);
    assert_eq!(probes(&snapshot.pools[0], 0), 1);
}

#[test]
fn a_tcp_probe_is_not_seen_by_the_backends_process() {
    let port = Port::reserve();
    let listener = port.listen();
    listener.set_nonblocking(true).unwrap();
    let (pool, prober) = watch(tcp(), &[("unseen", at(port.at))]);
    eventually("some probes passed", || probes_of(&pool, 0, Class::Passed) >= 5);
    prober.stop();
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn each_kind_of_http_answer_has_its_own_result() {
    let health = Health { timeout: Duration::from_millis(500), interval: Duration::from_secs(1), ..http("/healthz") };
    let closes = TcpListener::bind("127.0.0.1:0").unwrap();
    let closes_at = closes.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in closes.incoming().flatten() {
            let mut stream: TcpStream = stream;
            read_request(&mut stream);
        }
    });
    let (pool, _prober) = watch(
        health,
        &[
            ("http-ok", at(fixed(Some("HTTP/1.1 204 No Content\r\n\r\n")))),
            ("http-sick", at(fixed(Some("HTTP/1.1 503 Service Unavailable\r\n\r\n")))),
            ("http-garbage", at(fixed(Some("SSH-2.0-OpenSSH_9.9\r\n")))),
            ("http-silent", at(fixed(None))),
            ("http-closes", at(closes_at)),
            ("http-refused", at(Port::reserve().at)),
            ("http-nowhere", Vec::new()),
        ],
    );
    eventually("all that have an address are probed", || {
        (0..6).all(|index| report(&pool, index).last_result.is_some())
    });
    let ups: Vec<bool> = (0..7).map(|index| pool.up.get(index)).collect();
    assert_eq!(ups, [true, false, false, false, false, false, false]);
    assert_eq!(lines("http-ok"), [""; 0]);
    assert_eq!(lines("http-sick"), ["WARN http-sick is down: HTTP 503"]);
    assert_eq!(lines("http-garbage"), ["WARN http-garbage is down: no HTTP answer"]);
    assert_eq!(lines("http-silent"), ["WARN http-silent is down: timed out after 500ms"]);
    assert_eq!(lines("http-closes"), ["WARN http-closes is down: connection closed before a status line"]);
    assert_eq!(lines("http-refused"), ["WARN http-refused is down: connection refused"]);
    assert_eq!(report(&pool, 6).last_result, None, "without an address nothing is probed; control reports why");
    assert_eq!(report(&pool, 0).last_result.unwrap().to_string(), "HTTP 204");
}

#[test]
fn an_http_probe_follows_the_answer_down_and_up() {
    let answer = Arc::new(Mutex::new(Some("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")));
    let (pool, _prober) = watch(http("/"), &[("http-updown", at(http_server(&answer)))]);
    decided(&pool);
    *answer.lock() = Some("HTTP/1.0 500 Oops\r\n\r\n");
    eventually("down", || !pool.up.get(0));
    *answer.lock() = Some("HTTP/1.1 200\r\n\r\n");
    eventually("up", || pool.up.get(0));
    assert_eq!(lines("http-updown"), ["WARN http-updown is down: HTTP 500", "INFO http-updown is up: HTTP 200"]);
}

#[test]
fn a_unix_socket_is_probed_and_called_localhost() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let endpoint = || vec![Endpoint::Unix(path.as_path().into())];
    let (pool, _prober) = watch(Health { interval: HOUR, ..http("/up?x=1") }, &[("unix-http", endpoint())]);
    let (mut stream, _) = listener.accept().unwrap();
    let request = read_request(&mut stream);
    assert!(request.starts_with("GET /up?x=1 HTTP/1.1\r\nHost: localhost\r\nUser-Agent: tcplb/"), "{request}");
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    decided(&pool);
    assert!(pool.up.get(0));
    let (pool, _prober) = watch(tcp(), &[("unix-tcp", endpoint())]);
    decided(&pool);
    assert!(pool.up.get(0));
}

#[test]
fn a_black_hole_times_out() {
    let hole = BlackHole::start();
    let health = Health { timeout: Duration::from_millis(200), interval: Duration::from_millis(200), ..tcp() };
    let (pool, _prober) = watch(health, &[("hole", at(hole.at().tcp()))]);
    eventually("down", || !pool.up.get(0));
    assert_eq!(lines("hole"), ["WARN hole is down: timed out after 200ms"]);
    assert!(probes_of(&pool, 0, Class::Timeout) > 0);
}

#[test]
fn a_backend_is_up_if_one_of_its_endpoints_answers() {
    let hole = BlackHole::start();
    let (refused, port) = (Port::reserve(), Port::reserve());
    let _listener = port.listen();
    let endpoints = [hole.at().tcp(), refused.at, port.at].map(Endpoint::Inet).to_vec();
    let health = Health { timeout: Duration::from_secs(1), interval: HOUR, ..tcp() };
    let (pool, _prober) = watch(health, &[("several", endpoints)]);
    decided(&pool);
    assert!(pool.up.get(0), "{:?}", report(&pool, 0));
}

#[test]
fn two_hundred_backends_are_all_decided_within_about_a_second() {
    let ports: Vec<Port> = (0..200).map(|_| Port::reserve()).collect();
    let _listeners: Vec<TcpListener> = ports.iter().step_by(2).map(Port::listen).collect();
    let names: Vec<String> = (0..200).map(|index| format!("many-{index}")).collect();
    let members: Vec<(&str, Vec<Endpoint>)> =
        names.iter().zip(&ports).map(|(name, port)| (name.as_str(), at(port.at))).collect();
    let begin = Instant::now();
    let (pool, _prober) = watch(Health { interval: HOUR, ..tcp() }, &members);
    decided(&pool);
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}, on an idle machine it is one second");
    assert!((0..200).all(|index| pool.up.get(index) == (index % 2 == 0)));
}

#[test]
fn few_sockets_are_enough_for_many_silent_backends() {
    let silent = fixed(None);
    let names: Vec<String> = (0..20).map(|index| format!("capped-{index}")).collect();
    let members: Vec<(&str, Vec<Endpoint>)> = names.iter().map(|name| (name.as_str(), at(silent))).collect();
    let health = Health { timeout: Duration::from_millis(30), interval: Duration::from_millis(40), ..http("/") };
    let snapshot = Arc::new(snapshot_of(&[("pool", health, &members)]));
    let pool = snapshot.pools[0].clone();
    let _prober = prober::spawn_with(snapshot, Arc::default(), Box::new(|_| {}), 2).unwrap();
    eventually("everyone's turn came, twice", || (0..20).all(|index| probes(&pool, index) >= 2));
    assert_eq!(pool.up.count(), 0);
}

#[test]
fn failed_connects_of_clients_count_as_failed_probes() {
    let port = Port::reserve();
    let _listener = port.listen();
    let snapshot =
        Arc::new(snapshot_of(&[("pool", Health { interval: HOUR, ..tcp() }, &[("client-fails", at(port.at))])]));
    let pool = snapshot.pools[0].clone();
    let prober = prober::spawn(snapshot.clone(), Arc::default(), Box::new(|_| {})).unwrap();
    let mailbox = prober.mailbox();
    decided(&pool);

    // With others getting through in between, as the worker counts them, no number of failures matters.
    for _ in 0..10 {
        backend(&pool, 0).counters.connections.fetch_add(1, Ordering::Relaxed);
        assert!(mailbox.offer(failed(&pool, 0)).is_ok());
        all_read(&prober, &snapshot);
    }
    assert!(pool.up.get(0));

    // In a row they do: the one above and two more.
    assert!(mailbox.offer(failed(&pool, 0)).is_ok());
    all_read(&prober, &snapshot);
    assert!(pool.up.get(0));
    assert!(mailbox.offer(failed(&pool, 0)).is_ok());
    all_read(&prober, &snapshot);
    assert!(!pool.up.get(0));
    assert_eq!(lines("client-fails"), ["WARN client-fails is down: connection refused"]);
    assert_eq!(report(&pool, 0).last_result.unwrap().to_string(), "connection refused");
}

#[test]
fn with_health_off_a_failed_connect_only_backs_off_and_a_backend_always_remains() {
    let unused = at("127.0.0.1:1".parse().unwrap());
    let health = Health { kind: HealthKind::Off, ..tcp() };
    let members: Members<'_> = &[("off-a", unused.clone()), ("off-b", unused)];
    let snapshot = Arc::new(snapshot_of(&[("pool", health, members)]));
    let pool = snapshot.pools[0].clone();
    let prober = prober::spawn(snapshot.clone(), Arc::default(), Box::new(|_| {})).unwrap();
    let random = &mut fastrand::Rng::with_seed(1);
    let tried = [pool.members[0].tried(), pool.members[1].tried()];
    let mut picks = |tried: &[Tried]| -> Vec<u32> {
        (0..8).map(|_| pool.pick(Client { ip: None }, tried, Tick(1), random).unwrap().index()).collect()
    };

    // Nothing is done about time in between: a back-off may end under our eyes on a slow machine, so each begins again.
    let back_off = |index| {
        assert!(prober.mailbox().offer(failed(&pool, index)).is_ok());
        all_read(&prober, &snapshot);
    };
    eventually("a is left out", || {
        back_off(0);
        !pool.up.get(0) && picks(&[]) == [1; 8] && !pool.up.get(0)
    });
    eventually("both are out and used all the same", || {
        back_off(0);
        back_off(1);
        let both = picks(&[]);
        pool.up.count() == 0 && both.contains(&0) && both.contains(&1) && picks(&tried[..1]) == [1; 8]
    });
    assert!(pool.pick(Client { ip: None }, &tried, Tick(1), &mut fastrand::Rng::with_seed(1)).is_err());

    back_off(0);
    assert!(prober.mailbox().offer(Note::Connected(backend(&pool, 0).id)).is_ok());
    all_read(&prober, &snapshot);
    assert!(pool.up.get(0), "a client got through");
    eventually("the back-off ends", || pool.up.get(1));
    assert_eq!((lines("off-a").len(), lines("off-b").len(), probes(&pool, 0)), (0, 0, 0));
}

#[test]
fn a_new_snapshot_starts_with_the_known_health() {
    let (up, down, new) = (Port::reserve(), Port::reserve(), Port::reserve());
    let _listener = up.listen();
    let health = Health { interval: HOUR, ..tcp() };
    let (old, prober) =
        watch(health.clone(), &[("adopt-gone", at(new.at)), ("adopt-down", at(down.at)), ("adopt-up", at(up.at))]);
    decided(&old);
    assert_eq!((old.up.get(0), old.up.get(1), old.up.get(2)), (false, false, true));

    let next: Members<'_> = &[("adopt-up", at(up.at)), ("adopt-new", at(new.at)), ("adopt-down", at(down.at))];
    let mut snapshot = snapshot_of(&[("pool", health, next)]);
    let members = &mut Arc::get_mut(&mut snapshot.pools[0]).unwrap().members;
    members[0].backend = old.members[2].backend.clone();
    members[2].backend = old.members[1].backend.clone();
    // Ids are never reused in the process; a fresh build starts over, so the new one borrows a high one.
    let fresh = backend_like(&members[1].backend, 1_000);
    members[1].backend = fresh;
    let pool = snapshot.pools[0].clone();
    assert!(prober.adopt(Arc::new(snapshot)));
    assert!(pool.up.get(0) && !pool.up.get(2));
    eventually("the new one is probed too", || probes(&pool, 1) > 0 && !pool.up.get(1));
    assert_eq!((probes(&pool, 0), probes(&pool, 2)), (1, 1), "the others keep their time");
    assert_eq!(lines("adopt-down").len(), 1);

    // A client's failure at a backend that left counts for none; one at a backend that stayed finds its new slot.
    assert!(prober.mailbox().offer(failed(&old, 0)).is_ok());
    for _ in 0..3 {
        assert!(prober.mailbox().offer(failed(&pool, 0)).is_ok());
    }
    eventually("down", || !pool.up.get(0));
}

fn backend_like(other: &Backend, id: u64) -> Arc<Backend> {
    let id = tcplb::pool::BackendId(id);
    Arc::new(Backend::new(id, other.name.clone(), other.endpoints(), Arc::default(), 0))
}

#[test]
fn running_out_of_local_ports_never_counts_as_a_backend_failure() {
    let ports = [Port::reserve(), Port::reserve()];
    let _listeners = ports.each_ref().map(Port::listen);
    let members = [("ports-a", at(ports[0].at)), ("ports-b", at(ports[1].at))];
    let mut snapshot = snapshot_of(&[("pool", tcp(), &members)]);
    Arc::get_mut(&mut snapshot.pools[0]).unwrap().settings.outlier_failures = 1;
    let pool = snapshot.pools[0].clone();
    let snapshot = Arc::new(snapshot);
    let prober = prober::spawn(snapshot.clone(), Arc::default(), Box::new(|_| {})).unwrap();
    decided(&pool);
    // EADDRNOTAVAIL.
    let failure = ConnectFailure::Os(99);
    assert!(prober.mailbox().offer(Note::ConnectFailed { backend: backend(&pool, 0).id, failure }).is_ok());
    all_read(&prober, &snapshot);
    assert!(pool.up.get(0) && !pool.ejected.get(0));
    assert!(prober.mailbox().offer(failed(&pool, 0)).is_ok());
    eventually("a failure of its own does", || pool.ejected.get(0) && !pool.up.get(0));
}

/// Set in the process that takes its own descriptors away.
const ALONE: &str = "TCPLB_TEST_WITHOUT_DESCRIPTORS";

/// Runs itself again in a process of its own, because it takes the whole process's descriptors away.
#[test]
fn without_descriptors_probes_wait_and_no_backend_is_blamed() {
    if std::env::var_os(ALONE).is_some() {
        return without_descriptors();
    }
    let own = std::env::current_exe().unwrap();
    let name = "prober::without_descriptors_probes_wait_and_no_backend_is_blamed";
    let child =
        std::process::Command::new(own).args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
}

fn without_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let port = Port::reserve();
    let _listener = port.listen();
    let (pool, _prober) = watch(tcp(), &[("lacking", at(port.at))]);
    decided(&pool);
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(3), maximum: limit.maximum }).expect("fewer");
    eventually("it waits", || lines("health checks wait").len() == 1);
    let before = probes(&pool, 0);
    setrlimit(Resource::Nofile, limit).expect("as many as before");
    eventually("it goes on", || probes(&pool, 0) > before + 3);
    assert_eq!((lines("health checks wait").len(), lines("health checks go on").len()), (1, 1));
    assert_eq!(probes(&pool, 0), probes_of(&pool, 0, Class::Passed));
    assert!(pool.up.get(0) && lines("lacking").is_empty());
}

#[test]
fn a_worker_that_adopts_late_sees_the_results_of_probes_meanwhile() {
    let (stays, leaves) = (Port::reserve(), Port::reserve());
    let (listener, _leaving) = (stays.listen(), leaves.listen());
    let model = |names: &[(&str, &Port)], weight| {
        let backends = names.iter().map(|(name, port)| model::Backend {
            name: (*name).to_owned(),
            weight,
            ..model::Backend::at(Address::Inet(port.at))
        });
        let pool =
            model::Pool { name: "pool".into(), health: tcp(), backends: backends.collect(), ..Default::default() };
        Model { global: Default::default(), listeners: Vec::new(), pools: vec![pool] }
    };
    let resolved: Resolved = [("late-stays", &stays), ("late-leaves", &leaves)]
        .map(|(name, port)| (("pool".to_owned(), name.to_owned()), at(port.at)))
        .into();
    let old = Arc::new(build(&model(&[("late-stays", &stays), ("late-leaves", &leaves)], 1), &resolved));
    let prober = prober::spawn(old.clone(), Arc::default(), Box::new(|_| {})).unwrap();
    decided(&old.pools[0]);
    // Another weight, and one backend less. The worker still holds `old`.
    let plan = SnapshotPlan {
        model: &model(&[("late-stays", &stays)], 7),
        resolved: &resolved,
        addresses: &[],
        states: &[],
        now: Tick(1),
    };
    let new = Arc::new(next(Some(&old), &plan));
    assert!(prober.adopt(new.clone()));
    let seen_by_worker = |up| old.pools[0].up.get(0) == up && new.pools[0].up.get(0) == up;
    assert!(seen_by_worker(true) && old.pools[0].up.get(1), "a worker that has no other backend yet needs it");
    // Control does so once the change has arrived.
    old.pools[0].withdraw(1);
    assert!(seen_by_worker(true) && !old.pools[0].up.get(1), "the removed backend gets no client any more");
    drop(listener);
    eventually("down in both", || seen_by_worker(false));
    let _listener = stays.listen();
    eventually("up in both", || seen_by_worker(true));
}
