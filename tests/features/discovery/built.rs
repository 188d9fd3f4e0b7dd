//! Sources at work in the built program: clients are served by what they find, and status and metrics show them.

use super::consul::Consul;
use super::kubernetes::Cluster;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use testkit::{Admin, ConfigFile, Conn, Ending, Server, Started, eventually, peers, tally};

/// A server that says its name, and ends.
fn server(name: &str) -> Server {
    Server::start(peers::answers_then_closes(name))
}

#[track_caller]
fn start(file: ConfigFile) -> (Started, Admin) {
    let tcplb = file.global("admin = \"127.0.0.1:0\"\nworkers = 1").pool("name = \"web\"").start();
    let admin = Admin::of(&tcplb);
    (tcplb, admin)
}

/// What the status shows of the pool.
#[track_caller]
fn pool(admin: Admin) -> Json {
    admin.get("/v1/status").json(200)["pools"][0].clone()
}

/// What the status shows of a source.
#[track_caller]
fn source(admin: Admin, name: &str) -> Json {
    let pool = pool(admin);
    let of = |sources: &Vec<Json>| sources.iter().find(|source| source["source"] == name).cloned();
    pool["discovery"].as_array().and_then(of).unwrap_or_else(|| panic!("no {name}: {pool}"))
}

/// Waits until the pool has these backends: each with its origin, in any order.
#[track_caller]
fn wait_for(admin: Admin, want: &[&str]) {
    eventually(&format!("the backends are {want:?}"), || {
        let pool = pool(admin);
        let text = |backend: &Json, key: &str| backend[key].as_str().unwrap_or_default().to_owned();
        let shown = |it: &Json| format!("{} {}", text(it, "name"), text(it, "origin"));
        let mut shown: Vec<String> = pool["backends"].as_array().unwrap().iter().map(shown).collect();
        shown.sort();
        shown == want
    });
}

/// Ends the clients with the scope, also where the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn clients_reach_what_consul_and_kubernetes_know() {
    let (mut consul, cluster) = (Consul::start(), Cluster::start());
    let [one, two, three] = ["one", "two", "three"].map(server);
    consul.has_at("one", one.at().tcp());
    cluster.put_at("two", two.at().tcp());
    let sources = format!(
        "[[pool.discover]]\nkind = \"consul\"\naddress = \"http://{}\"\nservice = \"web\"\n\
         [[pool.discover]]\nkind = \"kubernetes\"\napi = \"http://{}\"\nnamespace = \"shop\"\nservice = \"web\"\n",
        consul.server.at(),
        cluster.server.at()
    );
    let (tcplb, admin) = start(ConfigFile::empty().and(&sources));
    wait_for(admin, &["one discovery:consul", "two discovery:kubernetes"]);
    // Consul gives its instance the weight 3.
    let next_four = || tally((0..4).map(|_| tcplb.name_of_next()));
    let shares = |of_consul: &str, other: &str| BTreeMap::from([(of_consul.to_owned(), 3), (other.to_owned(), 1)]);
    assert_eq!(next_four(), shares("one", "two"));
    cluster.put_at("three", three.at().tcp());
    cluster.delete("two");
    wait_for(admin, &["one discovery:consul", "three discovery:kubernetes"]);
    assert_eq!(next_four(), shares("one", "three"));
    for name in ["consul", "kubernetes"] {
        let shown = source(admin, name);
        assert_eq!((&shown["ok"], &shown["backends"], &shown["errors_total"]), (&true.into(), &1.into(), &0.into()));
        let labels = ["pool=\"web\"", &format!("source=\"{name}\"")];
        assert_eq!(admin.metric("tcplb_discovery_backends", &labels), 1);
        assert_eq!(admin.metric("tcplb_discovery_errors_total", &labels), 0);
        assert!(admin.metric("tcplb_discovery_last_success_timestamp_seconds", &labels) > 0);
    }
    // An outage shows, and takes no backend.
    consul.server.stop();
    eventually("the outage shows", || source(admin, "consul")["ok"] == false);
    let shown = source(admin, "consul");
    assert!(shown["last_error"].as_str().unwrap().starts_with("http://127."), "{shown}");
    assert!(admin.metric("tcplb_discovery_errors_total", &["source=\"consul\""]) > 0);
    assert_eq!(source(admin, "kubernetes")["ok"], true);
    assert_eq!(next_four(), shares("one", "three"));
    consul.has_at("two", two.at().tcp());
    consul.server.start_again();
    wait_for(admin, &["three discovery:kubernetes", "two discovery:consul"]);
    assert_eq!(next_four(), shares("two", "three"));
    eventually("its end shows too", || source(admin, "consul")["ok"] == true);
}

#[test]
fn a_file_that_is_replaced_under_load_fails_no_connection() {
    let servers = ["b0", "b1", "b2", "b3"].map(server);
    let file = ConfigFile::empty();
    let (list, new) = (file.path("backends.toml"), file.path("new"));
    // First some leave, then one stays, then all leave.
    let sets = [[0, 1], [1, 2], [0, 3]];
    let text = |set: [usize; 2]| -> String {
        let entry = |number: usize| format!("[[backend]]\nname = 'b{number}'\naddress = '{}'\n", servers[number].at());
        set.into_iter().map(entry).collect()
    };
    fs::write(&list, text(sets[0])).unwrap();
    let (tcplb, admin) = start(file.and(&format!("[[pool.discover]]\nkind = \"file\"\npath = {list:?}\n")));
    wait_for(admin, &["b0 discovery:file", "b1 discovery:file"]);
    let (at, over, served) = (tcplb.at(), AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _ends = Ends(&over);
        let client = || {
            while !over.load(Ordering::SeqCst) {
                let conn = Conn::to(at);
                let name = conn.hear_line();
                assert!(name.starts_with('b'), "{name}");
                conn.finish();
                assert_eq!(conn.ending(), Ending::Fin);
                served.fetch_add(1, Ordering::SeqCst);
            }
        };
        let clients = [(); 4].map(|()| scope.spawn(client));
        for round in 1..=20 {
            let set = sets[round % 3];
            // Half of a list comes first, and changes nothing.
            fs::write(&new, "[[backend]]\nname = 'b").unwrap();
            fs::rename(&new, &list).unwrap();
            fs::write(&new, text(set)).unwrap();
            fs::rename(&new, &list).unwrap();
            wait_for(admin, &set.map(|number| format!("b{number} discovery:file")).each_ref().map(String::as_str));
            let before = served.load(Ordering::SeqCst);
            eventually("clients are served", || served.load(Ordering::SeqCst) >= before + 8);
            assert!(clients.iter().all(|client| !client.is_finished()), "a client failed");
        }
    });
    println!("{served:?} connections");
    assert_eq!(admin.metric("tcplb_discovery_backends", &["source=\"file\""]), 2);
    eventually("the file's end is its newest", || source(admin, "file")["ok"] == true);
}
