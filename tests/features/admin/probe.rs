//! `POST /v1/pools/P/backends/B/probe` and `tcplb probe`: what was sent, expected and received, and what it means.

use crate::admin::support::{Balancer, tcplb};
use serde_json::{Value, json};
use std::io::Write;
use std::net::SocketAddr;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use testkit::{ConfigFile, Conn, ManualServer, Server, ask, peers, refusing};

/// The prober sends one probe at the start and no second one. A probe has a time that no machine needs.
const SLOW: &str = "interval = \"1h\"\ntimeout = \"20s\"";

/// A balancer with one backend, `web1` at `at`, which is probed so.
fn balancer(at: &str, health: &str) -> Balancer {
    Balancer::from_text(format!(
        "[global]\nadmin = \"127.0.0.1:0\"\nworkers = 1\n[[listener]]\nbind = [\"127.0.0.1:0\"]\n[[pool]]\nname = \"web\"\n\
         [pool.health]\n{health}\n[[pool.backend]]\nname = \"web1\"\naddress = \"{at}\"\n"
    ))
}

/// Reads one line, and answers with this.
fn answers(line: &'static str) -> Server {
    Server::start(move |conn: Conn| {
        conn.line()?;
        (&conn).write_all(line.as_bytes())?;
        conn.try_ending().map(drop)
    })
}

/// Sends this at once, and closes.
fn says(line: &'static str) -> Server {
    Server::start(move |conn: Conn| {
        (&conn).write_all(line.as_bytes())?;
        conn.finish();
        conn.try_ending().map(drop)
    })
}

fn http(status: u16) -> Server {
    Server::start(peers::http("web1", Arc::new(AtomicU16::new(status))))
}

/// Waits for the result of the prober, so that the meaning of the next one is known.
fn settled(balancer: &Balancer) {
    balancer.wait("probed", |status| !status["pools"][0]["backends"][0]["health"]["last_result"].is_null());
}

fn probed(balancer: &Balancer) -> Value {
    settled(balancer);
    balancer.call("POST", "/v1/pools/web/backends/web1/probe", "").json(200)
}

/// The steps of the only address, as `kind text`.
fn steps(probed: &Value) -> Vec<String> {
    let addresses = probed["addresses"].as_array().unwrap();
    assert_eq!(addresses.len(), 1, "{probed}");
    let step = |step: &Value| format!("{} {}", step["kind"].as_str().unwrap(), step["text"].as_str().unwrap());
    addresses[0]["steps"].as_array().unwrap().iter().map(step).collect()
}

const UP: &str = "web1 is up, and this result would keep it up";
const DOWN: &str = "web1 is down, and this result would keep it down";

#[test]
fn a_probe_of_each_kind_shows_each_step_and_passes_or_fails() {
    let ping = "steps = [{ send = \"PING\\r\\n\" }, { expect = \"+PONG\" }, { expect_regex = \"\\r\\n\" }]";
    let agent = "kind = \"agent\"\nport = PORT".to_owned();
    let agent_expects = "expected a line of up, down, drain, ready or N%";
    let request = |at: &str| {
        let version = env!("CARGO_PKG_VERSION");
        format!(
            "sent GET /up HTTP/1.1\\r\\nHost: {at}\\r\\nUser-Agent: tcplb/{version}\\r\\nConnection: close\\r\\n\\r\\n"
        )
    };
    let http_expects = "expected an HTTP status of 200-299";
    let status = "path = \"/up\"\nexpect_status = [\"200-299\"]".to_owned();
    let step = |text: &str| text.to_owned();
    for (server, health, passed, outcome, want) in [
        (says(""), "kind = \"tcp\"".to_owned(), true, "connected", vec![]),
        (
            http(204),
            status.clone(),
            true,
            "HTTP 204",
            vec![step("request"), step(http_expects), step("received HTTP/1.1 204")],
        ),
        (
            http(503),
            status,
            false,
            "HTTP 503",
            vec![step("request"), step(http_expects), step("received HTTP/1.1 503")],
        ),
        (
            says("up 50%\n"),
            agent.clone(),
            true,
            "its agent says up, 50 %",
            vec![step(agent_expects), step("received up 50%\\n")],
        ),
        (
            says("fine\n"),
            agent,
            false,
            "its agent sent \"fine\": expected up, down, drain, ready or N%",
            vec![step(agent_expects), step("received fine\\n")],
        ),
        (
            answers("+PONG\r\n"),
            ping.to_owned(),
            true,
            "every step of the script passed",
            vec![
                step("sent PING\\r\\n"),
                step("expected \"+PONG\""),
                step("received +PONG\\r\\n"),
                step("expected /\\r\\n/"),
            ],
        ),
        (
            answers("-LOADING\r\n"),
            ping.to_owned(),
            false,
            "step 2: expected \"+PONG\", got \"-LOADING\\r\\n\"",
            vec![step("sent PING\\r\\n"), step("expected \"+PONG\""), step("received -LOADING\\r\\n")],
        ),
    ] {
        let at = server.at().to_string();
        let health = health.replace("PORT", &server.at().port().to_string());
        let balancer = balancer(&at, &format!("{health}\n{SLOW}"));
        let probed = probed(&balancer);
        assert_eq!(
            (&probed["passed"], &probed["addresses"][0]["outcome"]),
            (&json!(passed), &json!(outcome)),
            "{probed}"
        );
        assert_eq!(probed["meaning"], if passed { UP } else { DOWN }, "{probed}");
        assert!(probed["addresses"][0]["connect_ms"].is_number() && probed["addresses"][0]["bytes_left_out"] == 0);
        let steps = steps(&probed);
        assert_eq!(steps.len(), want.len(), "{steps:?}");
        for (step, want) in steps.iter().zip(&want) {
            match want.as_str() {
                "request" => assert_eq!(step, &request(&at)),
                want if want.starts_with("received HTTP") => assert!(step.starts_with(want), "{step}"),
                want => assert_eq!(step, want),
            }
        }
    }
}

#[test]
fn a_server_that_is_silent_and_one_that_refuses_fail() {
    let silent = ManualServer::start();
    let short = "interval = \"1h\"\ntimeout = \"300ms\"";
    let ping = "steps = [{ send = \"PING\\r\\n\" }, { expect = \"+PONG\" }]";
    let late = probed(&balancer(&silent.at().to_string(), &format!("{ping}\n{short}")));
    assert_eq!((&late["passed"], &late["meaning"]), (&json!(false), &json!(DOWN)), "{late}");
    assert_eq!(late["addresses"][0]["outcome"], "step 2: expected \"+PONG\", timed out after 300ms");
    assert_eq!(steps(&late), ["sent PING\\r\\n", "expected \"+PONG\""]);
    assert!(late["addresses"][0]["total_ms"].as_f64().unwrap() >= 300.0, "{late}");

    let closed = refusing();
    let refused = probed(&balancer(&closed.to_string(), &format!("{ping}\n{SLOW}")));
    assert_eq!(
        (&refused["passed"], &refused["addresses"][0]["outcome"]),
        (&json!(false), &json!("connection refused"))
    );
    assert_eq!((&refused["addresses"][0]["connect_ms"], &refused["addresses"][0]["steps"]), (&Value::Null, &json!([])));
}

#[test]
fn a_probe_by_hand_does_not_change_the_health_state() {
    let status = Arc::new(AtomicU16::new(200));
    let server = Server::start(peers::http("web1", status.clone()));
    let balancer = balancer(&server.at().to_string(), &format!("kind = \"http\"\nfall = 3\n{SLOW}"));
    assert_eq!(probed(&balancer)["meaning"], UP);
    status.store(503, Ordering::SeqCst);
    for _ in 0..4 {
        let failed = probed(&balancer);
        assert_eq!(failed["passed"], false, "{failed}");
        assert_eq!(failed["meaning"], "web1 is up; this result and 2 more like it in a row would mark it down");
    }
    let backend = &balancer.status()["pools"][0]["backends"][0];
    assert_eq!((&backend["state"], &backend["health"]["last_result"]), (&json!("up"), &json!("HTTP 200")));
    assert!(!balancer.get("/metrics").body.contains("result=\"status\"} 1"), "it is not counted either");
}

#[test]
fn with_health_off_and_while_disabled_the_probe_says_what_the_prober_does() {
    let server = says("");
    let off = balancer(&server.at().to_string(), "kind = \"off\"");
    let call = |balancer: &Balancer| balancer.call("POST", "/v1/pools/web/backends/web1/probe", "").json(200);
    let probed = call(&off);
    assert_eq!((&probed["kind"], &probed["passed"]), (&json!("off"), &json!(true)));
    assert_eq!(probed["meaning"], "health is off in pool web, so web1 gets no probes; a TCP connect works");
    let none = call(&balancer(&refusing().to_string(), "kind = \"off\""));
    assert_eq!((&none["passed"], &none["addresses"][0]["outcome"]), (&json!(false), &json!("connection refused")));
    assert_eq!(none["meaning"], "health is off in pool web, so web1 gets no probes; a TCP connect fails");

    let probed = balancer(&server.at().to_string(), SLOW);
    probed.call("PATCH", "/v1/pools/web/backends/web1", "{\"state\":\"disabled\"}").json(200);
    assert_eq!(call(&probed)["meaning"], "web1 is disabled, so it gets no probes");
}

#[test]
fn a_backend_on_a_unix_socket_and_one_that_expects_a_proxy_header_are_probed_like_by_the_prober() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("web1.sock");
    let socket = Server::start_unix(&path, |conn: Conn| {
        (&conn).write_all(b"220 ready\r\n")?;
        conn.try_ending().map(drop)
    });
    let unix = balancer(&socket.at().to_string(), &format!("steps = [{{ expect = \"220\" }}]\n{SLOW}"));
    let passed = probed(&unix);
    assert_eq!(
        (&passed["passed"], &passed["addresses"][0]["address"]),
        (&json!(true), &json!(socket.at().to_string()))
    );
    assert_eq!(steps(&passed), ["expected \"220\"", "received 220 ready\\r\\n"]);

    let server = says("");
    let text = ConfigFile::over([server.at()]).pool("name = \"web\"\nsend_proxy = \"v1\"").health(SLOW);
    let text = text.global("admin = \"127.0.0.1:0\"").text();
    let proxied = Balancer::from_text(text);
    settled(&proxied);
    let name = proxied.status()["pools"][0]["backends"][0]["name"].as_str().unwrap().to_owned();
    let passed = proxied.call("POST", &format!("/v1/pools/web/backends/{name}/probe"), "").json(200);
    assert_eq!(steps(&passed), ["sent PROXY UNKNOWN\\r\\n"]);
}

#[test]
fn a_long_answer_is_bounded_and_the_rest_is_counted() {
    let server = Server::start(|conn: Conn| {
        (&conn).write_all(&[b'x'; 16 * 1024])?;
        conn.try_ending().map(drop)
    });
    let never = "steps = [{ expect_regex = \"never\" }]";
    let failed = probed(&balancer(&server.at().to_string(), &format!("{never}\n{SLOW}")));
    let steps = steps(&failed);
    assert_eq!((steps.len(), steps[1].len()), (2, "received ".len() + 8 * 1024), "{failed}");
    assert_eq!(failed["addresses"][0]["bytes_left_out"], 8 * 1024);
}

#[test]
fn more_probes_than_may_run_at_once_are_refused_and_other_calls_are_answered() {
    let silent = ManualServer::start();
    let balancer = balancer(&silent.at().to_string(), &format!("kind = \"http\"\n{SLOW}"));
    // That of the prober.
    let _first = silent.accept();
    let path = "/v1/pools/web/backends/web1/probe";
    let admin: SocketAddr = balancer.admin.parse().unwrap();
    std::thread::scope(|scope| {
        let call = || ask(&admin.to_string(), "POST", path, &[], "");
        let calls: Vec<_> = (0..4).map(|_| scope.spawn(call)).collect();
        let conns: Vec<Conn> = (0..4).map(|_| silent.accept()).collect();
        let refused = balancer.call("POST", path, "");
        assert_eq!(refused.error(503), "4 probes by hand run already: expected fewer at once");
        assert_eq!(balancer.get("/v1/status").status, 200);
        conns.into_iter().for_each(drop);
        for call in calls {
            assert_eq!(call.join().unwrap().json(200)["passed"], false);
        }
    });
    let again = std::thread::spawn(move || ask(&admin.to_string(), "POST", path, &[], "").status);
    drop(silent.accept());
    assert_eq!(again.join().unwrap(), 200, "the places are free again");
}

#[test]
fn unknown_names_wrong_parameters_and_missing_tokens_are_refused() {
    let balancer = balancer(&refusing().to_string(), "kind = \"off\"");
    for (path, status, want) in [
        ("/v1/pools/none/backends/web1/probe", 404, "`none`"),
        ("/v1/pools/web/backends/none/probe", 404, "`none`"),
        ("/v1/pools/web/backends/web1/probe?x=1", 400, "unknown parameter `x`"),
    ] {
        let error = balancer.call("POST", path, "").error(status);
        assert!(error.contains(want), "{path}: {error}");
    }
    balancer.get("/v1/pools/web/backends/web1/probe").error(405);

    let place = tempfile::tempdir().unwrap();
    let [token, read] = ["token", "read"].map(|name| {
        let path = place.path().join(name);
        std::fs::write(&path, format!("{name}-correct-horse")).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let text = format!(
        "[global]\nadmin = \"127.0.0.1:0\"\nadmin_token_file = \"{token}\"\nadmin_read_token_file = \"{read}\"\n[[listener]]\n\
         bind = [\"127.0.0.1:0\"]\n[[pool]]\nname = \"web\"\n[pool.health]\nkind = \"off\"\n[[pool.backend]]\nname = \"web1\"\n\
         address = \"{}\"\n",
        refusing()
    );
    let guarded = Balancer::from_text(text);
    let with = |header: &[&str]| ask(&guarded.admin, "POST", "/v1/pools/web/backends/web1/probe", header, "").status;
    assert_eq!(with(&[]), 401);
    assert_eq!(with(&["Authorization: Bearer wrong-horse"]), 401);
    assert_eq!(with(&["Authorization: Bearer read-correct-horse"]), 403);
    assert_eq!(with(&["Authorization: Bearer token-correct-horse"]), 200);
    assert_eq!(
        ask(&balancer.admin, "POST", "/v1/pools/web/backends/web1/probe", &["Origin: http://evil.test"], "").status,
        403
    );
}

fn text(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_command_prints_each_step_and_its_exit_code_is_the_result() {
    let server = answers("+PONG\r\nmore\x1b[2J");
    let at = server.at().to_string();
    let ping = |expect: &str| {
        let steps = format!("steps = [{{ send = \"PING\\r\\n\" }}, {{ expect = \"{expect}\" }}]\n{SLOW}");
        let balancer = balancer(&at, &steps);
        settled(&balancer);
        balancer
    };
    let good = ping("+PONG");
    let (code, out, err) = text(&good.client(&["probe", "web", "web1"]));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let lines: Vec<&str> = out.lines().collect();
    let [address, connected, sent, expected, received, more, result, meaning] = lines[..] else { panic!("{out}") };
    assert_eq!((address, sent, expected), (&*at, "  sent      PING\\r\\n", "  expected  \"+PONG\""));
    assert!(connected.starts_with("  connected after ") && connected.ends_with(" ms"), "{out}");
    assert_eq!((received, more), ("  received  +PONG\\r\\n", "            more\\x1b[2J"));
    assert!(result.starts_with("  passed after ") && result.ends_with(" ms: every step of the script passed"), "{out}");
    assert_eq!(meaning, format!("{UP}. This probe does not change the health state."));

    let bad = ping("-ERR");
    let (code, out, err) = text(&bad.client(&["probe", "web", "web1"]));
    assert_eq!((code, err.as_str()), (Some(1), ""), "a failed probe is a result, not an error");
    assert!(
        out.contains("  failed after ")
            && out.ends_with(&format!("{DOWN}. This probe does not change the health state.\n")),
        "{out}"
    );
    let (code, out, _) = text(&bad.client(&["probe", "web", "web1", "--json"]));
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["passed"], &json["backend"]), (Some(1), &json!(false), &json!("web1")));

    for (arguments, want, says) in [
        (["probe", "none", "web1"], 1, "answers 404: there is no pool `none`"),
        (["probe", "web", "none"], 1, "answers 404"),
    ] {
        let (code, out, err) = text(&good.client(&arguments));
        assert_eq!((code, out.as_str()), (Some(want), ""), "{err}");
        assert!(err.starts_with("error: ") && err.contains(says), "{err}");
    }
    let nowhere = tcplb(&["probe", "web", "web1", "--admin", &refusing().to_string()]).output().unwrap();
    assert_eq!(nowhere.status.code(), Some(4), "{nowhere:?}");
}
