//! A balancer under load, whose backends come and go by lease: etcd and backends fail, and clients do not.

use super::between;
use super::registration::serve;
use super::server::Etcd;
use parking_lot::Mutex;
use rustix::process::Signal;
use serde_json::json;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use testkit::{At, ConfigFile, PATIENCE, Started, eventually, let_pass};

const CLIENTS: usize = 3;

/// Clients that make one request a connection, again and again.
struct Load {
    over: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    clients: Vec<JoinHandle<()>>,
}

/// What the clients have seen.
#[derive(Default)]
struct Seen {
    /// The requests that each client has made.
    made: [usize; CLIENTS],
    /// Answers by the address of the server.
    served: HashMap<String, usize>,
    failures: Vec<io::Error>,
}

impl Load {
    fn start(at: &At) -> Load {
        let (over, seen) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Seen>>::default());
        let client = |client: usize| {
            let (over, seen, at) = (over.clone(), seen.clone(), at.tcp());
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let answer = ask(at);
                    let mut seen = seen.lock();
                    seen.made[client] += 1;
                    match answer {
                        Ok(server) => *seen.served.entry(server).or_default() += 1,
                        Err(error) => seen.failures.push(error),
                    }
                    drop(seen);
                    // A steady load that leaves the cores to others.
                    let_pass(Duration::from_millis(1));
                }
            })
        };
        let clients = (0..CLIENTS).map(client).collect();
        Load { over, seen, clients }
    }

    /// Waits until each client has made further requests; those that are open now are among them.
    #[track_caller]
    fn goes_on(&self) {
        let before = self.seen.lock().made;
        let further = || self.seen.lock().made.iter().zip(before).all(|(now, before)| *now >= before + 20);
        eventually("clients make requests", further);
    }

    /// Waits for further answers of this server.
    #[track_caller]
    fn reaches(&self, server: &str) {
        let count = || self.seen.lock().served.get(server).copied().unwrap_or(0);
        let before = count();
        eventually(&format!("clients reach {server}"), || count() > before);
    }

    /// Forgets the failures so far, which are at most so many.
    #[track_caller]
    fn failed_at_most(&self, most: usize) {
        let failures = std::mem::take(&mut self.seen.lock().failures);
        assert!(failures.len() <= most, "{failures:?}");
    }

    #[track_caller]
    fn ends_well(self) {
        self.over.store(true, Ordering::Relaxed);
        self.clients.into_iter().for_each(|client| client.join().expect("a client reports its failures"));
        let seen = self.seen.lock();
        assert!(seen.failures.is_empty(), "{:?}", seen.failures);
    }
}

/// Makes a request; the name of the server that answers.
fn ask(at: SocketAddr) -> io::Result<String> {
    let (mut stream, mut answer) = (TcpStream::connect(at)?, String::new());
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")?;
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, name)) if head.starts_with("HTTP/1.1 200 ") => Ok(name.trim_end().to_owned()),
        _ => Err(io::Error::other(answer)),
    }
}

/// A balancer that follows these members.
#[track_caller]
fn balance(urls: &[String]) -> Started {
    let source = format!("[[pool.discover]]\nkind = \"etcd\"\nendpoints = {urls:?}\nprefix = \"/w/\"\n");
    let balancer = ConfigFile::empty().and(&source).start();
    eventually("a backend serves", || ask(balancer.at().tcp()).is_ok());
    balancer
}

/// Revokes the lease of a key.
#[track_caller]
fn revoke(etcd: &Etcd, key: &str) {
    let kept = etcd.call("/v3/kv/range", json!({"key": super::server::text(key)}));
    etcd.call("/v3/lease/revoke", json!({"ID": kept["kvs"][0]["lease"]}));
}

#[test]
fn backends_come_and_go_by_lease_and_etcd_restarts_and_no_client_fails() {
    let Some(etcd) = Etcd::start() else { return };
    let (_first, _) = serve(&etcd, "/w/first", &[]);
    let (client, etcd) = (etcd.client, Arc::new(Mutex::new(etcd)));
    // Once a restart has made the source look again, and before it watches, the history that it needs is compacted.
    let (compacts, orders) = (Arc::<AtomicBool>::default(), Arc::downgrade(&etcd));
    let is_due = compacts.clone();
    let url = between::relay(client, move |request| {
        if request.starts_with("POST /v3/watch")
            && is_due.swap(false, Ordering::Relaxed)
            && let Some(etcd) = orders.upgrade()
        {
            let etcd = etcd.lock();
            etcd.put("/x", "1");
            etcd.compact(etcd.put("/x", "2"));
        }
    });
    let balancer = balance(&[url]);
    let load = Load::start(balancer.at());
    let removals = || balancer.count_lines("1 removed");

    let (revoked, at) = serve(&etcd.lock(), "/w/revoked", &[]);
    load.reaches(&at);
    revoke(&etcd.lock(), "/w/revoked");
    revoked.wait_for_lines("registered", 2);
    load.reaches(&at);

    let (mut leaving, at) = serve(&etcd.lock(), "/w/leaving", &[]);
    load.reaches(&at);
    let before = removals();
    leaving.signal(Signal::TERM);
    eventually("it is removed", || removals() > before);
    assert!(leaving.wait_exit().success());
    load.goes_on();
    load.failed_at_most(0);

    // Its connections die with it. Until its lease expires, those that come are served by others.
    let (crashing, at) = serve(&etcd.lock(), "/w/crashing", &[]);
    load.reaches(&at);
    let before = removals();
    drop(crashing);
    eventually("its lease expires", || removals() > before);
    load.goes_on();
    load.failed_at_most(CLIENTS);

    compacts.store(true, Ordering::Relaxed);
    etcd.lock().kill();
    load.goes_on();
    etcd.lock().start_again();
    eventually("the history is compacted", || !compacts.load(Ordering::Relaxed));
    let (_last, at) = serve(&etcd.lock(), "/w/last", &[]);
    load.reaches(&at);
    load.ends_well();
}

#[test]
fn a_cluster_loses_leader_and_quorum_and_no_client_fails() {
    let Some(mut members) = Etcd::cluster() else { return };
    let (first, _) = serve(&members[0], "/w/first", &[]);
    let mut servers = vec![first];
    let balancer = balance(&members.iter().map(Etcd::url).collect::<Vec<_>>());
    let load = Load::start(balancer.at());
    for round in 0..2 {
        let leader = (0..3).find(|index| members[*index].leads()).expect("a leader");
        members[leader].kill();
        load.goes_on();
        let follower = &members[(leader + 1) % 3];
        follower.wait();
        let (server, at) = serve(follower, &format!("/w/{round}"), &[]);
        load.reaches(&at);
        servers.push(server);
        members[leader].start_again();
    }
    members[0].kill();
    members[1].kill();
    load.goes_on();
    members[0].run_again();
    members[1].start_again();
    let (_last, at) = serve(&members[1], "/w/last", &[]);
    load.reaches(&at);
    load.ends_well();
}
