//! Names of backends, which are looked up again at a real name server while clients come.

use crate::lab::{Network, with_resolv_conf};
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use tempfile::TempDir;
use testkit::{Admin, Conn, Knot, Running, Server, Tcplb, eventually, fresh_loopback, need, peers};

/// A tcplb whose backend is `db.w.test`, two servers where that may lead, and the name server.
struct Setup {
    knot: Knot,
    tcplb: Running,
    servers: [SocketAddr; 2],
    /// Where another listener of the same tcplb is.
    own: SocketAddr,
    _running: [Server; 2],
    _directory: TempDir,
}

impl Setup {
    /// The name leads to the first server. `None` where Knot or `unshare` is missing.
    fn start() -> Option<Setup> {
        need("unshare")?;
        let first = Server::start(peers::named("one"));
        let one: SocketAddr = first.at().to_string().parse().expect("an address");
        let two = SocketAddr::new(fresh_loopback(), one.port());
        let second = Server::start_at_address(two, peers::named("two"));
        let server = "127.0.0.1:53".parse().expect("an address");
        let knot = Knot::start_at(server, &format!("db A {}", one.ip()))?;
        let directory = tempfile::tempdir().expect("a directory");
        let (file, resolv) = (directory.path().join("tcplb.toml"), directory.path().join("resolv.conf"));
        fs::write(&resolv, "nameserver 127.0.0.1\noptions timeout:2 attempts:1\n").expect("a file");
        let own = SocketAddr::new(fresh_loopback(), one.port());
        let text = format!(
            "[global]\nadmin = '127.0.0.1:0'\n[[listener]]\nname = 'web'\nbind = ['127.0.0.1:0']\n\
             [[listener]]\nname = 'own'\nbind = ['{own}']\n[[pool]]\n\
             [[pool.backend]]\nname = 'db'\naddress = 'db.w.test:{}'\n[[pool.backend]]\nname = 'other'\n\
             address = 'db.w.test:{}'\nweight = 0\n",
            one.port(),
            one.port(),
        );
        fs::write(&file, text).expect("a file");
        let tcplb = with_resolv_conf(Tcplb::from_file(&file), &resolv).start();
        Some(Setup { knot, tcplb, servers: [one, two], own, _running: [first, second], _directory: directory })
    }

    fn ip(&self, server: usize) -> String {
        self.servers[server].ip().to_string()
    }

    fn admin(&self) -> Admin {
        Admin::of(&self.tcplb)
    }

    /// What the status shows of the name.
    fn name(&self) -> Value {
        self.admin().get("/v1/status").json(200)["pools"][0]["names"][0].clone()
    }

    /// Waits for so many further look-ups that work.
    #[track_caller]
    fn wait_for_answers(&self, count: usize) {
        for _ in 0..count {
            let age = || self.name()["last_success_seconds"].as_u64();
            eventually("the last answer is older", || age().is_some_and(|seconds| seconds >= 2));
            eventually("there is another answer", || age() == Some(0));
        }
    }

    /// From, to and originator of what changed, by backend.
    fn changes(&self) -> Vec<Value> {
        let events = self.admin().get("/v1/events").json(200);
        let events = events["events"].as_array().expect("an array").iter();
        let changes = events.filter(|event| event["kind"] == "config");
        changes.map(|event| json!([event["backend"], event["by"], event["from"], event["to"]])).collect()
    }

    /// A backend, as the API shows it.
    fn backend(&self, name: &str) -> Value {
        let all = self.admin().get("/v1/pools/default/backends").json(200);
        all.as_array().expect("an array").iter().find(|it| it["name"] == name).expect("the backend").clone()
    }

    /// A client that is served, and the name of its server.
    #[track_caller]
    fn served(&self) -> (Conn, String) {
        let client = self.tcplb.connect();
        let name = client.hear_line();
        client.assert_echoes("served");
        (client, name)
    }
}

#[test]
fn a_name_that_leads_elsewhere_takes_new_clients_along_and_another_order_is_no_change() {
    let Some(network) = Network::new() else { return };
    network.inside(|| {
        let Some(mut setup) = Setup::start() else { return };
        let [one, two] = setup.servers;
        let (client, name) = setup.served();
        assert_eq!(name, "one");
        let nothing = setup.admin().get("/v1/config/diff").json(200);
        setup.wait_for_answers(1);
        assert_eq!(setup.changes(), Vec::<Value>::new());

        setup.knot.set(&format!("db A {}", two.ip()));
        // Every client in between is served.
        eventually("new clients are served by the other server", || setup.served().1 == "two");
        client.assert_echoes("goes on");
        let moved = ["db", "other"].map(|name| json!([name, "names", one.to_string(), two.to_string()]));
        assert_eq!(setup.changes(), moved);
        assert_eq!(setup.tcplb.count_lines("names: pool default: backend db changed: resolved address "), 1);
        assert_eq!(setup.admin().get("/v1/config/diff").json(200), nothing, "the file has the name");

        setup.knot.set(&format!("db A {}\ndb A {}", one.ip(), two.ip()));
        eventually("both servers have new clients", || setup.served().1 == "one" && setup.served().1 == "two");
        // Knot turns the order with each answer.
        let count = setup.changes().len();
        setup.wait_for_answers(3);
        assert_eq!((count, setup.changes().len()), (4, 4));
        assert_eq!((&setup.name()["ok"], &setup.name()["errors_total"]), (&json!(true), &json!(0)));
        let metric = "tcplb_name_last_success_timestamp_seconds";
        assert!(setup.admin().metric(metric, &["name=\"db.w.test\""]) > 0);
        client.assert_echoes("goes on");
    });
}

#[test]
fn a_name_server_that_fails_removes_no_address() {
    let Some(network) = Network::new() else { return };
    network.inside(|| {
        let Some(mut setup) = Setup::start() else { return };
        setup.wait_for_answers(1);
        setup.knot.fail();
        let wait_for_error = |setup: &Setup, text: &str| {
            eventually(text, || setup.name()["last_error"].as_str().is_some_and(|why| why.contains(text)));
            assert_eq!(setup.name()["ok"], json!(false));
            assert_eq!(setup.served().1, "one");
        };
        wait_for_error(&setup, "name server 127.0.0.1:53: answered SERVFAIL");
        setup.knot.kill();
        wait_for_error(&setup, "name server 127.0.0.1:53: connection refused");
        setup.knot.start_again("web A 10.0.0.1");
        wait_for_error(&setup, "the name has no address");
        assert_eq!(setup.tcplb.count_lines("name db.w.test: "), 1, "an outage has one line");
        assert_eq!(setup.changes(), Vec::<Value>::new());
        setup.knot.set(&format!("db A {}", setup.ip(1)));
        eventually("new clients are served by the other server", || setup.served().1 == "two");
        setup.tcplb.wait_for_line("name db.w.test: it is resolved again");
        assert_eq!(setup.name()["ok"], json!(true));
    });
}

#[test]
fn what_probes_and_an_operator_say_holds_wherever_a_name_leads() {
    let Some(network) = Network::new() else { return };
    network.inside(|| {
        let Some(mut setup) = Setup::start() else { return };
        let [one, two] = setup.servers;
        let gone = SocketAddr::new(fresh_loopback(), one.port());
        setup.admin().call("PATCH", "/v1/pools/default/backends/other", "{\"state\":\"draining\"}").json(200);
        setup.knot.set(&format!("db A {}\ndb A {}", one.ip(), gone.ip()));
        setup.tcplb.wait_for_line(&format!("db: address {gone} is down"));
        setup.knot.set(&format!("db A {}\ndb A {}", two.ip(), gone.ip()));
        let state = |at: SocketAddr| {
            let backend = setup.backend("db");
            let mut addresses = backend["addresses"].as_array().expect("an array").iter();
            addresses.find(|it| it["address"] == at.to_string()).map(|it| it["state"].clone())
        };
        eventually("the name leads to the other server", || state(two).is_some());
        assert_eq!(state(gone), Some(json!("down")), "no probe has to find that out again");
        assert_eq!(setup.backend("other")["state"], "draining");
        // After three answers without it.
        eventually("the first server leaves", || state(one).is_none());
        assert_eq!((state(gone), &setup.backend("other")["state"]), (Some(json!("down")), &json!("draining")));
        assert_eq!(setup.served().1, "two");
    });
}

#[test]
fn a_name_that_leads_to_tcplb_itself_or_to_no_server_moves_no_backend() {
    let Some(network) = Network::new() else { return };
    network.inside(|| {
        let Some(mut setup) = Setup::start() else { return };
        setup.wait_for_answers(1);
        let own = setup.own;
        setup.knot.set(&format!("db A {}", own.ip()));
        let wait_for_error = |setup: &Setup, text: &str| {
            eventually(text, || setup.name()["last_error"].as_str().is_some_and(|why| why.contains(text)));
            assert_eq!(setup.name()["ok"], json!(false));
            assert_eq!(setup.served().1, "one");
        };
        wait_for_error(&setup, &format!("db.w.test leads to {own}, and this is where listener own listens (`{own}`)"));
        // The next answer is refused as well.
        let errors = || setup.name()["errors_total"].as_u64().expect("a number");
        eventually("it is looked up again", || errors() >= 2);
        // A reload keeps the backend where it is, too.
        setup.admin().call("POST", "/v1/reload", "").json(200);
        assert_eq!(setup.served().1, "one");
        setup.knot.set("db A 0.0.0.0\ndb A 224.0.0.1");
        wait_for_error(&setup, "which no server can have");
        assert_eq!(setup.tcplb.count_lines("name db.w.test: "), 1, "{}", setup.tcplb.output());
        assert_eq!(setup.changes(), Vec::<Value>::new());
        setup.knot.set(&format!("db A {}\ndb A 255.255.255.255", setup.ip(1)));
        eventually("new clients are served by the other server", || setup.served().1 == "two");
        setup.tcplb.wait_for_line("name db.w.test: it is resolved again");
    });
}
