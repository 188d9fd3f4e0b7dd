//! `GET /v1/explain` and `tcplb explain`: what they say, and where a connection then goes.

use crate::admin::support::{Balancer, Process, backend};
use serde_json::Value;
use std::net::TcpStream;
use testkit::eventually_some;

/// Test servers of these names.
fn servers(names: &[&str]) -> (Vec<Process>, Vec<String>) {
    names.iter().map(|name| backend(name, &[])).unzip()
}

/// A file with one pool of these backends; `pool` is more of it.
fn file(addresses: &[String], pool: &str, backends: &[&str]) -> String {
    let mut text = format!(
        "[global]\nadmin = \"127.0.0.1:0\"\nworkers = 1\n[[listener]]\nbind = [\"127.0.0.1:0\"]\n[[pool]]\n{pool}\n\
         [pool.health]\nkind = \"off\"\n"
    );
    for (address, more) in addresses.iter().zip(backends) {
        text.push_str(&format!("[[pool.backend]]\naddress = \"{address}\"\n{more}\n"));
    }
    text
}

/// The answer for the only client there is, once no connection is open.
fn explain(balancer: &Balancer) -> Value {
    eventually_some("no connection is open", || {
        let answer = balancer.get("/v1/explain?client=127.0.0.1").json(200);
        let idle = answer["candidates"].as_array().unwrap().iter().all(|candidate| candidate["active"] == 0);
        idle.then_some(answer)
    })
}

fn candidate<'a>(answer: &'a Value, backend: &str) -> &'a Value {
    let all = answer["candidates"].as_array().unwrap();
    all.iter().find(|candidate| candidate["backend"] == backend).unwrap_or_else(|| panic!("no {backend}: {answer}"))
}

#[test]
fn a_connection_goes_where_explain_says_for_each_algorithm() {
    let (_servers, addresses) = servers(&["web1", "web2", "web3"]);
    let named = ["name = \"web1\"\nweight = 3", "name = \"web2\"", "name = \"web3\"\nmax_connections = 9"];
    for row in tcplb::policy::balance::REGISTRY {
        let pool = format!("name = \"web\"\nalgorithm = \"{}\"", row.name);
        let balancer = Balancer::from_text(file(&addresses, &pool, &named));
        for _ in 0..12 {
            let explained = explain(&balancer);
            assert_eq!(explained, explain(&balancer), "it changes nothing");
            assert_eq!((&explained["verdict"], &explained["algorithm"]), (&"accept".into(), &row.name.into()));
            let served = balancer.request().expect("it is served");
            match explained["pick"].as_str() {
                // Averages of answer times become stale while the test machine sleeps.
                Some(pick) => assert!(pick == served || row.name == "least-time", "{row:?}: {served}, not {explained}"),
                None => {
                    assert!(["random", "power-of-two"].contains(&row.name), "{explained}");
                    let share = |name: &str| candidate(&explained, name)["share"].as_f64().unwrap();
                    let sum = share("web1") + share("web2") + share("web3");
                    assert!((sum - 1.0).abs() < 1e-9 && share(&served) > 0.0, "{served}: {explained}");
                }
            }
        }
    }
}

#[test]
fn each_backend_that_gets_no_client_has_its_reason() {
    let (_servers, addresses) = servers(&["web1", "web2", "web3", "web4", "web5"]);
    let named = [
        "name = \"web1\"",
        "name = \"web2\"\nweight = 0",
        "name = \"web3\"\nbackup = true",
        "name = \"web4\"\nmax_connections = 1",
        "name = \"web5\"",
    ];
    let pool = "name = \"web\"\nalgorithm = \"least-connections\"\nno_backend = \"wait 20s\"";
    let balancer = Balancer::from_text(file(&addresses, pool, &named));
    let set = |name: &str, state: &str| {
        let body = format!("{{\"state\":\"{state}\"}}");
        balancer.call("PATCH", &format!("/v1/pools/web/backends/{name}"), &body).json(200);
    };
    set("web1", "disabled");
    set("web5", "draining");
    // It goes to the one that is left, and stays there.
    let _client = TcpStream::connect(&balancer.listen).unwrap();
    let asked = |want: fn(&Value) -> bool| {
        eventually_some("it is explained", || {
            let answer = balancer.get("/v1/explain?client=127.0.0.1:51000").json(200);
            want(&answer).then_some(answer)
        })
    };
    let answer = asked(|answer| candidate(answer, "web4")["active"] == 1);
    for (name, usable, why) in [
        ("web1", false, "disabled"),
        ("web2", false, "weight 0"),
        ("web3", true, "up"),
        ("web4", false, "at its limit of 1 connections"),
        ("web5", false, "draining"),
    ] {
        let candidate = candidate(&answer, name);
        assert_eq!((&candidate["usable"], &candidate["why"]), (&usable.into(), &why.into()), "{answer}");
    }
    assert_eq!(answer["pick"], "web3");
    set("web3", "draining");
    let answer = asked(|answer| answer["pick"].is_null());
    assert_eq!(answer["verdict"], "accept");
    let reason = answer["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("no_backend: each backend that is up is at its limit; the client would wait"),
        "{reason}"
    );
}

#[test]
fn access_lists_and_limits_refuse_in_an_explanation_too() {
    let listener = "[[listener]]\nname = \"LIMIT\"\nbind = [\"127.0.0.1:0\"]\ndeny = [\"192.0.2.0/24\"]\n";
    let two = listener.replace("LIMIT", "web") + "max_connections_per_source = 1\n";
    let text = format!(
        "[global]\nadmin = \"127.0.0.1:0\"\n{two}{}limits = \"count\"\n[[pool]]\nname = \"web\"\n[pool.health]\n\
         kind = \"off\"\n[[pool.backend]]\nname = \"web1\"\naddress = \"127.0.0.1:1\"\n",
        listener.replace("LIMIT", "try"),
    );
    let balancer = Balancer::from_text(text);
    let ask = |query: &str| balancer.get(&format!("/v1/explain?{query}"));
    let refused = ask("client=192.0.2.7&listener=web").json(200);
    assert_eq!((&refused["verdict"], &refused["pick"]), (&"refuse".into(), &Value::Null));
    assert_eq!(refused["reason"], "denied: the access lists deny this address");
    assert_eq!(refused["candidates"][0]["why"], "up", "the pool is explained all the same");
    let tried = ask("client=[::ffff:192.0.2.7]:51000&listener=try").json(200);
    assert_eq!((&tried["verdict"], &tried["pick"]), (&"accept".into(), &"web1".into()));
    assert!(tried["reason"].as_str().unwrap().contains("limits = \"count\""), "{tried}");
    assert_eq!(ask("client=198.51.100.1&listener=web").json(200).get("reason"), None);

    for (query, status, want) in [
        ("client=192.0.2.7", 400, "listener: expected one of web, try"),
        ("client=192.0.2.7&listener=other", 404, "there is no listener `other`"),
        ("listener=web", 400, "client: expected an address"),
        ("client=web1&listener=web", 400, "got `web1`"),
        ("client=192.0.2.7&listener=web&host=a", 400, "unknown parameter `host`"),
    ] {
        let error = ask(query).json(status);
        assert!(error["error"].as_str().unwrap().contains(want), "{query}: {error}");
    }
}

#[test]
fn a_client_beyond_the_limit_of_its_source_is_explained_as_refused() {
    let (_servers, addresses) = servers(&["web1"]);
    let text = file(&addresses, "name = \"web\"", &["name = \"web1\""]);
    let limit = "bind = [\"127.0.0.1:0\"]\nmax_connections_per_source = 1\nmax_connections = 2\n";
    let balancer = Balancer::from_text(text.replace("bind = [\"127.0.0.1:0\"]\n", limit));
    let _client = TcpStream::connect(&balancer.listen).unwrap();
    let reason = eventually_some("the client is counted", || {
        let answer = balancer.get("/v1/explain?client=127.0.0.1").json(200);
        answer["reason"].as_str().map(str::to_owned)
    });
    assert_eq!(reason, "source_limit: its source has 1 of 1 connections");
}

#[test]
fn a_client_beyond_the_limit_of_the_listener_waits_although_no_backend_has_room() {
    let (_servers, addresses) = servers(&["web1"]);
    let text = file(&addresses, "name = \"web\"", &["name = \"web1\"\nmax_connections = 1"]);
    let limit = "bind = [\"127.0.0.1:0\"]\nmax_connections = 1\n";
    let balancer = Balancer::from_text(text.replace("bind = [\"127.0.0.1:0\"]\n", limit));
    let _client = TcpStream::connect(&balancer.listen).unwrap();
    let answer = eventually_some("the client is counted", || {
        let answer = balancer.get("/v1/explain?client=127.0.0.1").json(200);
        (candidate(&answer, "web1")["active"] == 1).then_some(answer)
    });
    assert_eq!((&answer["verdict"], &answer["pick"]), (&"accept".into(), &Value::Null));
    let want = "the listener is at its limit of 1 clients: the client would wait in the kernel's backlog; \
                now no_backend: each backend that is up is at its limit";
    assert_eq!(answer["reason"], want);
}

#[test]
fn the_command_shows_the_decision_as_a_sentence_and_a_table() {
    let (_servers, addresses) = servers(&["web1"]);
    let named = ["name = \"web1\"", "name = \"web2\"\nbackup = true"];
    let spare = [addresses[0].clone(), "127.0.0.1:1".to_owned()];
    let run = |pool: &str, arguments: &[&str]| {
        let balancer = Balancer::from_text(file(&spare, pool, &named));
        let output = balancer.client(&[&["explain"], arguments].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let text = run("name = \"web\"", &["--client", "192.0.2.7:51000", "--listener", "default"]);
    assert!(
        text.starts_with("192.0.2.7:51000 goes to web1\nlistener default, pool web, weighted-round-robin: "),
        "{text}"
    );
    assert!(
        text.lines().any(|line| line.starts_with("web2") && line.ends_with("backup: a primary is usable")),
        "{text}"
    );
    let text = run("algorithm = \"random\"", &["--client", "192.0.2.7"]);
    assert!(text.contains("by their shares") && text.contains("100.0 %") && text.contains("SHARE"), "{text}");
    let json: Value = serde_json::from_str(&run("", &["--client", "192.0.2.7", "--json"])).unwrap();
    assert_eq!(json["pick"], "web1");
}
