//! What the status, the metrics and the log show while something is wrong.

use crate::admin::exposition::parse;
use crate::admin::support::Balancer;
use serde_json::{Value, json};
use std::io::{Read, Write};
use testkit::{At, Conn, Ending, Server, refusing};

/// One pool with these lines and backends, and an admin API.
fn pool(lines: &str, backends: &[(&str, &At)]) -> String {
    let backend = |(name, at): &(&str, &At)| format!("[[pool.backend]]\nname = '{name}'\naddress = '{at}'\n");
    let backends: String = backends.iter().map(backend).collect();
    format!(
        "[global]\nworkers = 1\nadmin = '127.0.0.1:0'\n[[listener]]\nbind = ['127.0.0.1:0']\n[[pool]]\n{lines}\n{backends}"
    )
}

const UNPROBED: &str = "[pool.health]\nkind = 'off'\n";

fn backend(status: &Value) -> &Value {
    &status["pools"][0]["backends"][0]
}

#[test]
fn a_backend_that_resets_every_client_is_reported_everywhere() {
    let server = Server::start(|conn: Conn| {
        (&conn).read_exact(&mut [0; 4])?;
        conn.reset();
        Ok(())
    });
    let balancer = Balancer::from_text(pool(UNPROBED, &[("web1", server.at())]));
    for _ in 0..40 {
        let client = Conn::to(&At::parse(&balancer.listen));
        client.say("ping");
        assert_eq!(client.ending(), Ending::Reset);
    }
    let text = "web1: 40 of the last 40 connections were reset by the backend before a byte";
    let status = balancer.wait("all are over", |status| status["verdict"]["text"] == text);
    assert_eq!(status["verdict"]["level"], "critical");
    assert_eq!(
        (&backend(&status)["state"], &backend(&status)["closed"]),
        (&json!("up"), &json!({"backend_reset": 40}))
    );
    assert_eq!(backend(&status)["recent"]["resets_before_byte"], 40);
    assert_eq!(
        (&status["findings"][0]["pool"], &status["findings"][0]["backend"]),
        (&json!("default"), &json!("web1"))
    );
    let shown = String::from_utf8(balancer.client(&["status"]).stdout).unwrap();
    assert!(shown.starts_with(&format!("critical: {text}\n")), "{shown}");
    let of = [("pool", "default"), ("backend", "web1")];
    let parsed = parse(&balancer.get("/metrics").body);
    assert_eq!(parsed.value("tcplb_backend_resets_before_byte_total", &of), 40.0);
    balancer.process.wait_for_line(text);
}

#[test]
fn a_disabled_backend_that_is_healthy_is_up_in_the_metric_of_its_health() {
    let server = Server::start(testkit::peers::echo);
    let balancer = Balancer::from_text(pool(UNPROBED, &[("web1", server.at())]));
    let value = |name, more: &[(&str, &str)]| {
        let of = [("pool", "default"), ("backend", "web1")];
        parse(&balancer.get("/metrics").body).value(name, &[&of[..], more].concat())
    };
    assert_eq!(value("tcplb_backend_state", &[("state", "up")]), 1.0);
    balancer.call("PATCH", "/v1/pools/default/backends/web1", r#"{"state":"disabled"}"#).json(200);
    assert_eq!(value("tcplb_backend_up", &[]), 1.0);
    assert_eq!(value("tcplb_backend_state", &[("state", "up")]), 0.0);
    assert_eq!(value("tcplb_backend_state", &[("state", "disabled")]), 1.0);
    let verdict = balancer.status()["verdict"].clone();
    let text = "default: none of 1 takes connections: 1 disabled";
    assert_eq!(verdict, json!({ "level": "critical", "text": text }));
}

#[test]
fn a_slow_start_shows_in_the_effective_weight() {
    let (one, other) = (Server::start(testkit::peers::echo), Server::start(testkit::peers::echo));
    let lines = format!("slow_start = '1h'\n{UNPROBED}");
    let balancer = Balancer::from_text(pool(&lines, &[("web1", one.at())]));
    let body = json!({ "address": other.at().to_string(), "name": "web2", "weight": 10 }).to_string();
    balancer.call("POST", "/v1/pools/default/backends", &body).json(201);
    let status = balancer.status();
    let backends = &status["pools"][0]["backends"];
    assert_eq!((&backends[0]["effective_weight"], &backends[1]["weight"]), (&json!(1.0), &json!(10)));
    assert!(backends[1]["effective_weight"].as_f64() < Some(5.0), "{backends}");
    let parsed = parse(&balancer.get("/metrics").body);
    assert!(parsed.value("tcplb_backend_weight", &[("pool", "default"), ("backend", "web2")]) < 5.0);
}

#[test]
fn results_that_count_towards_a_change_are_shown() {
    let mut server = Server::start(testkit::peers::echo);
    let lines = "[pool.health]\ninterval = '100ms'\ntimeout = '100ms'\nrise = 100000\nfall = 100000\n";
    let dead = refusing();
    let balancer = Balancer::from_text(pool(lines, &[("web1", server.at()), ("web2", &dead)]));
    let transition = |status: &Value| backend(status)["health"]["transition"].as_str().unwrap_or_default().to_owned();
    let status = balancer.wait("one is down", |status| status["pools"][0]["state"] == "degraded");
    assert_eq!(transition(&status), "");
    let text = status["verdict"]["text"].as_str().unwrap();
    assert!(
        text.starts_with("default: 1 of 2 down, web2 since ") && text.ends_with(" UTC, connection refused"),
        "{text}"
    );
    balancer.wait("web1 is up", |status| backend(status)["health"]["last_result"] == "connected");
    server.stop();
    let fails = |status: &Value| transition(status).starts_with("up, ");
    let status = balancer.wait("a probe of web1 has failed", fails);
    assert!(transition(&status).ends_with(" of 100000 failures"), "{status:#}");
    assert_eq!(backend(&status)["state"], "up");
    server.start_again();
    balancer.wait("a probe of web1 has passed", |status| transition(status).is_empty());
}

#[test]
fn the_last_minute_and_its_history_show_what_clients_did() {
    let server = Server::start(|conn: Conn| {
        (&conn).write_all(b"hello")?;
        testkit::peers::echo(conn)
    });
    let balancer = Balancer::from_text(pool(UNPROBED, &[("web1", server.at())]));
    for _ in 0..10 {
        let client = Conn::to(&At::parse(&balancer.listen));
        client.hear(5);
        client.assert_echoes("ping");
        client.finish();
        assert_eq!(client.ending(), Ending::Fin);
    }
    let status = balancer.wait("a sample was taken", |status| status["pools"][0]["history"] != json!([]));
    for recent in [&backend(&status)["recent"], &status["pools"][0]["recent"]] {
        assert_eq!((&recent["ended"], &recent["connect_failures"]), (&json!(10), &json!(0)));
        for field in ["connections_per_second", "bytes_to_backend_per_second", "bytes_to_client_per_second", "seconds"]
        {
            assert!(recent[field].as_f64() > Some(0.0), "{field}: {recent}");
        }
        assert!(recent["first_byte_ms"]["p50"].as_f64() > Some(0.0), "{recent}");
    }
    let rate = backend(&status)["recent"]["connections_per_second"].as_f64().unwrap();
    let seconds = backend(&status)["recent"]["seconds"].as_f64().unwrap();
    assert!((rate * seconds - 10.0).abs() < 0.5, "{rate} a second in {seconds} s");
    assert!(
        backend(&status)["history"][0].as_f64() > Some(0.0)
            && status["listeners"][0]["history"][0].as_f64() > Some(0.0)
    );
    assert!(backend(&status)["rtt_ms"].as_f64() > Some(0.0), "{}", backend(&status));
    assert_eq!(backend(&status)["retransmits_total"], 0);
    assert!(status["process"]["loop_lag_ms"]["p99"].as_f64() > Some(0.0), "{}", status["process"]);
}
