//! Every call of the API, and what it refuses.

use crate::admin::support::{Answer, Balancer, ask, backend};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::net::{TcpListener, TcpStream};

const BACKENDS: &str = "/v1/pools/default/backends";

fn states(status: &Value) -> Vec<(String, String)> {
    let backends = status["pools"][0]["backends"].as_array().expect("backends");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    backends.iter().map(|backend| (text(&backend["name"]), text(&backend["state"]))).collect()
}

#[test]
fn the_status_has_listeners_backends_and_their_counts() {
    let (_web1, at) = backend("web1", &[]);
    let balancer = Balancer::start(&["-b", &format!("{at},name=web1,weight=5"), "-b", "127.0.0.1:1,backup"]);
    assert_eq!(balancer.request().unwrap(), "web1");
    let want = |status: &Value| {
        let backend = &status["pools"][0]["backends"][0];
        backend["bytes_to_client_total"].as_u64() > Some(0)
            && backend["active_connections"] == 0
            && backend["health"]["last_result"] == "connected"
            && status["listeners"][0]["active_connections"] == 0
            && status["pools"][0]["backends"][1]["state"] == "down"
            // Each part of a status is of its own moment.
            && status["pools"][0]["state"] == "degraded"
    };
    let status = balancer.wait("served", want);
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&status["state"], &status["generation"]), (&json!("running"), &json!(1)));
    let address = balancer.listen.as_str();
    let mut listeners = status["listeners"].clone();
    let timed = ["recent", "history"].map(|field| listeners[0].as_object_mut().and_then(|all| all.remove(field)));
    assert!(timed.iter().all(Option::is_some));
    let listener = json!({
        "name": "default", "engine": "proxy", "address": address, "pool": "default", "connections_limit": null,
        "active_connections": 0, "accepted_total": 1, "refused_total": 0, "refused": {},
    });
    assert_eq!(listeners, json!([listener]));
    assert_eq!(status["pools"][0]["state"], "degraded");
    let process = &status["process"];
    assert_eq!(
        (&process["connections"], &process["ports_used"], &process["last_reload"]),
        (&json!(0), &json!(0), &Value::Null)
    );
    for limit in ["connections_limit", "descriptors_limit", "ports_limit", "descriptors"] {
        assert!(process[limit].as_u64() > Some(0), "{limit}");
    }
    let web1 = &status["pools"][0]["backends"][0];
    for (field, value) in [
        ("name", json!("web1")),
        ("address", json!(at)),
        ("weight", json!(5)),
        ("effective_weight", json!(5.0)),
        ("connections_limit", Value::Null),
        ("backup", json!(false)),
        ("state", json!("up")),
        ("connections_total", json!(1)),
        ("connect_failures_total", json!(0)),
    ] {
        assert_eq!(web1[field], value, "{field}");
    }
    assert!(web1["bytes_to_backend_total"].as_u64() > Some(40) && web1["connect_ms"]["p99"].as_f64() > Some(0.0));
    let other = &status["pools"][0]["backends"][1];
    assert_eq!((&other["backup"], &other["connect_ms"]["p50"]), (&json!(true), &Value::Null));
    assert!(other["health"]["last_change_seconds"].is_u64(), "{other}");
    let since = other["health"]["since"].as_str().expect("a time");
    assert!(humantime::parse_rfc3339(since).is_ok(), "{since}");
    assert_eq!(other["health"]["last_result"], "connection refused");
}

#[test]
fn backends_are_added_changed_and_removed() {
    let (_web1, one) = backend("web1", &[]);
    let (_web2, two) = backend("web2", &[]);
    let balancer = Balancer::start(&["-b", &format!("{one},name=web1")]);
    let body = json!({ "address": two, "name": "web2", "weight": 3, "max_connections": 9 }).to_string();
    let added = balancer.call("POST", BACKENDS, &body);
    assert_eq!(added.json(201)["weight"], 3);
    assert_eq!(added.header("Location"), Some("/v1/pools/default/backends/web2"));
    let names: Vec<_> = states(&balancer.status()).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["web1", "web2"]);
    assert!(balancer.call("POST", BACKENDS, &body).error(409).contains("web2"));

    let web1 = format!("{BACKENDS}/web1");
    let changed = balancer.call("PATCH", &web1, r#"{"weight":7,"state":"disabled"}"#).json(200);
    assert_eq!((&changed["weight"], &changed["state"]), (&json!(7), &json!("disabled")));
    for _ in 0..3 {
        assert_eq!(balancer.request().unwrap(), "web2");
    }
    assert_eq!(balancer.call("PATCH", &web1, r#"{"state":"draining"}"#).json(200)["state"], "draining");
    assert_eq!(balancer.call("PATCH", &web1, r#"{"state":"enabled"}"#).json(200)["weight"], 7);
    let removed = balancer.call("DELETE", &format!("{BACKENDS}/web2"), "");
    assert_eq!(removed.json(200)["name"], "web2");
    assert!(balancer.call("DELETE", &format!("{BACKENDS}/web2"), "").error(404).contains("web2"));
    assert_eq!(balancer.get(BACKENDS).json(200).as_array().map(Vec::len), Some(1));
    balancer.wait("up again", |status| states(status) == [("web1".to_owned(), "up".to_owned())]);
    assert_eq!(balancer.request().unwrap(), "web1");
}

#[test]
fn changes_of_many_callers_at_once_are_all_in_force_and_refused_ones_spoil_none() {
    const CALLERS: usize = 8;
    let names: Vec<String> = (0..CALLERS).map(|number| format!("web{number}")).collect();
    let flags: Vec<String> =
        names.iter().flat_map(|name| ["-b".to_owned(), format!("127.0.0.1:1,name={name}")]).collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(["--health", "off"]).collect();
    let balancer = &Balancer::start(&flags);
    std::thread::scope(|scope| {
        for name in &names {
            scope.spawn(move || {
                for weight in 2..20 {
                    let body = json!({ "weight": weight }).to_string();
                    let changed = balancer.call("PATCH", &format!("{BACKENDS}/{name}"), &body).json(200);
                    assert_eq!((&changed["name"], &changed["weight"]), (&json!(name), &json!(weight)));
                    assert!(balancer.call("PATCH", &format!("{BACKENDS}/no{name}"), &body).error(404).contains(name));
                }
                balancer.call("PATCH", &format!("{BACKENDS}/{name}"), r#"{"state":"disabled"}"#).json(200);
            });
        }
    });
    let disabled: Vec<_> = names.into_iter().map(|name| (name, "disabled".to_owned())).collect();
    assert_eq!(states(&balancer.status()), disabled);
    let events = balancer.get("/v1/events").json(200);
    let of_state = |event: &&Value| event["kind"] == "backend_state" && event["to"] == "disabled";
    let list = events["events"].as_array().expect("events");
    assert_eq!(list.iter().filter(of_state).count(), CALLERS, "{events}");
}

#[test]
fn force_closes_the_connections_of_a_removed_backend() {
    use std::io::Read;
    let balancer = Balancer::start(&["-b", "127.0.0.1:1,name=gone", "--health", "off"]);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let body = json!({ "address": server.local_addr().unwrap().to_string(), "name": "a" }).to_string();
    balancer.call("POST", BACKENDS, &body).json(201);
    balancer.call("DELETE", &format!("{BACKENDS}/gone"), "").json(200);
    let mut client = TcpStream::connect(&balancer.listen).unwrap();
    let (_kept, _) = server.accept().unwrap();
    balancer.call("DELETE", &format!("{BACKENDS}/a?force=false"), "").json(200);
    client.set_nonblocking(true).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "it goes on");
    balancer.call("POST", BACKENDS, &body).json(201);
    let mut second = TcpStream::connect(&balancer.listen).unwrap();
    let (_kept_too, _) = server.accept().unwrap();
    balancer.call("DELETE", &format!("{BACKENDS}/a?force=true"), "").json(200);
    second.set_read_timeout(Some(crate::admin::support::PATIENCE)).unwrap();
    assert!(second.read(&mut [0; 1]).map_or(true, |count| count == 0), "it is closed");
}

#[test]
fn names_are_data_and_addresses_are_names() {
    let balancer = Balancer::start(&["-b", "[::1]:1", "-b", "unix:/nowhere/a.sock", "--health", "off"]);
    for name in ["%5B::1%5D:1", "[::1]:1", "%5b%3A%3a1%5d%3A1", "unix:%2Fnowhere%2Fa.sock"] {
        let changed = balancer.call("PATCH", &format!("{BACKENDS}/{name}"), r#"{"weight":2}"#);
        assert_eq!(changed.json(200)["weight"], 2, "{name}");
    }
    let added = balancer.call("POST", BACKENDS, r#"{"address":"unix:/b c","name":"ü/%\"<script>{backend}"}"#);
    let path = added.header("Location").expect("where it is").to_owned();
    assert_eq!(added.json(201)["address"], "unix:/b c");
    assert_eq!(balancer.call("PATCH", &path, r#"{"weight":9}"#).json(200)["name"], "ü/%\"<script>{backend}");
    for (name, status) in
        [("%zz", 400), ("%", 400), ("%ff%fe", 400), ("%00", 404), ("..", 404), ("a%2Fb", 404), ("%E2%80%AE", 404)]
    {
        balancer.call("PATCH", &format!("{BACKENDS}/{name}"), r#"{"weight":2}"#).error(status);
    }
    let page = balancer.get("/");
    assert!(page.body.contains("&lt;script&gt;{backend}") && !page.body.contains("<script>{"), "{}", page.body);
}

#[test]
fn the_answer_to_a_wrong_body_names_the_mistake() {
    let balancer = Balancer::idle();
    let web1 = format!("{BACKENDS}/web1");
    for (method, path, body, want) in [
        ("POST", BACKENDS, "", "EOF"),
        ("POST", BACKENDS, "{", "EOF"),
        ("POST", BACKENDS, "[]", "no JSON object"),
        ("POST", BACKENDS, r#"["127.0.0.1:1",1,"b",1,true]"#, "no JSON object"),
        ("POST", BACKENDS, "{}", "address"),
        ("POST", BACKENDS, r#"{"address":"a:1","wieght":1}"#, "wieght"),
        ("POST", BACKENDS, r#"{"address":"a"}"#, "the port is missing"),
        ("POST", BACKENDS, r#"{"address":":80"}"#, "needs a host"),
        ("POST", BACKENDS, r#"{"address":"127.0.0.1:1","weight":65536}"#, "0 to 65535, got 65536"),
        ("POST", BACKENDS, r#"{"address":"127.0.0.1:1","name":"a b"}"#, "name"),
        ("POST", BACKENDS, r#"{"address":"127.0.0.1:1","max_connections":0}"#, "max_connections"),
        ("PATCH", &web1, "{}", "weight"),
        ("PATCH", &web1, r#"{"state":"up"}"#, "draining"),
        ("PATCH", &web1, r#"{"weight":-1}"#, "got -1"),
        ("PATCH", &web1, r#"{"name":"x"}"#, "name"),
        ("DELETE", &format!("{web1}?forse=true"), "", "forse"),
        ("DELETE", &format!("{web1}?force=maybe"), "", "maybe"),
        ("POST", "/v1/reload?dryrun=true", "", "dry_run"),
    ] {
        let error = balancer.call(method, path, body).error(400);
        assert!(error.contains(want), "{method} {path} {body}: {error}");
    }
    assert!(balancer.get("/v1/pools/nowhere/backends").error(404).contains("nowhere"));
    balancer.call("POST", "/v1/pools/nowhere/backends", r#"{"address":"127.0.0.1:1"}"#).error(404);
    balancer.call("PATCH", "/v1/pools/nowhere/backends/web1", r#"{"weight":1}"#).error(404);
    assert_eq!(balancer.status()["generation"], 1, "nothing was changed");
}

#[test]
fn unknown_paths_and_methods_are_refused() {
    let balancer = Balancer::idle();
    for path in ["/v1", "/v2/status", "/v1/status/", "/favicon.ico", "/../etc/passwd", "//"] {
        balancer.get(path).error(404);
    }
    for (method, path, allow) in [
        ("POST", "/v1/status", "GET, HEAD"),
        ("PUT", BACKENDS, "GET, HEAD, POST"),
        ("GET", "/v1/pools/default/backends/web1", "PATCH, DELETE"),
        ("GET", "/v1/reload", "POST"),
        ("DELETE", "/register", "POST"),
        ("OPTIONS", "/", "GET, HEAD"),
    ] {
        let answer = balancer.call(method, path, "");
        answer.error(405);
        assert_eq!(answer.header("Allow"), Some(allow), "{method} {path}");
    }
    let head = balancer.call("HEAD", "/v1/status", "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(head.header("Content-Length").and_then(|length| length.parse::<usize>().ok()) > Some(100));
}

#[test]
fn a_backend_registers_itself_if_it_is_alive() {
    let (_web2, two) = backend("web2", &[]);
    let (sick, three) = backend("web3", &["--fail-health"]);
    let balancer = Balancer::start(&["-b", "127.0.0.1:1,name=web1", "--health-path", "/up"]);
    let register = |body: &str| balancer.call("POST", "/register", body);
    let fail = |answer: Answer, status: u16| {
        let text = answer.json(status);
        let title = text["data"]["title"].as_str().expect("a title").to_owned();
        let quoted = json!(title);
        assert_eq!(answer.body, format!(r#"{{"status":"fail","data":{{"title":{quoted}}}}}"#));
        title
    };
    let success = register(&json!({ "address": two, "weight": 4 }).to_string());
    assert_eq!(success.body, format!(r#"{{"status":"success","data":{{"server":"{two}","weight":4}}}}"#));
    assert_eq!(success.status, 200);
    assert_eq!(balancer.request().unwrap(), "web2");
    // Known: its weight is set, or stays.
    assert_eq!(register(&json!({ "address": two, "weight": 6 }).to_string()).json(200)["data"]["weight"], 6);
    assert_eq!(register(&json!({ "address": two }).to_string()).json(200)["data"]["weight"], 6);
    assert_eq!(balancer.status()["pools"][0]["backends"].as_array().map(Vec::len), Some(2));

    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let title = fail(register(&json!({ "address": dead.to_string() }).to_string()), 400);
    assert!(title.contains("not alive") && title.contains("refused"), "{title}");
    let title = fail(register(&json!({ "address": three }).to_string()), 400);
    assert!(title.contains("not alive: HTTP 503"), "{title}");
    sick.signal(Signal::USR1);
    sick.after("now answers 200");
    register(&json!({ "address": three }).to_string()).json(200);
    assert!(fail(register(r#"{"address":"127.0.0.1:1","port":1}"#), 403).contains("port"));
    for body in ["", "{}", "[]", r#"{"address":"x"}"#, r#"{"address":"127.0.0.1:1","weight":70000}"#] {
        fail(register(body), 400);
    }
}

#[test]
fn a_silent_backend_is_not_alive_after_the_health_time_out() {
    // It accepts (the kernel does) and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let balancer = Balancer::start(&["-b", "127.0.0.1:1", "--health-path", "/", "--health-timeout", "200ms"]);
    let answer =
        balancer.call("POST", "/register", &json!({ "address": silent.local_addr().unwrap().to_string() }).to_string());
    let title = answer.json(400)["data"]["title"].to_string();
    assert!(title.contains("timed out after 200ms"), "{title}");
}

#[test]
fn readiness_follows_the_backends_and_the_drain() {
    let (_web1, at) = backend("web1", &[]);
    let balancer = Balancer::start(&["-b", "127.0.0.1:1,name=dead", "--shutdown-timeout", "10s"]);
    balancer.wait("down", |status| states(status)[0].1 == "down");
    assert_eq!((balancer.get("/readyz").status, balancer.get("/healthz").status), (503, 200));
    balancer.call("POST", BACKENDS, &json!({ "address": at, "name": "web1" }).to_string()).json(201);
    assert_eq!(balancer.get("/readyz").status, 200);
    balancer.call("PATCH", &format!("{BACKENDS}/web1"), r#"{"state":"draining"}"#).json(200);
    assert_eq!(balancer.get("/readyz").status, 503);
    balancer.call("PATCH", &format!("{BACKENDS}/web1"), r#"{"state":"enabled"}"#).json(200);
    assert_eq!(balancer.get("/readyz").status, 200);

    let open = TcpStream::connect(&balancer.listen).unwrap();
    balancer.wait("open", |status| status["pools"][0]["backends"][1]["active_connections"] == 1);
    balancer.process.signal(Signal::TERM);
    balancer.wait("draining", |status| status["state"] == "draining");
    assert_eq!((balancer.get("/readyz").body.as_str(), balancer.get("/readyz").status), ("draining\n", 503));
    assert_eq!(balancer.get("/healthz").status, 200);
    balancer.call("POST", BACKENDS, r#"{"address":"127.0.0.1:9"}"#).error(409);
    balancer.call("POST", "/v1/reload", "");
    drop(open);
    let Balancer { mut process, .. } = balancer;
    assert_eq!(process.end().0.code(), Some(0));
}

#[test]
fn a_reload_answers_with_what_changed_or_with_every_mistake() {
    let file = |backends: &str| {
        format!(
            "[global]\nadmin = \"127.0.0.1:0\"\n[[listener]]\nname = \"web\"\nbind = [\"127.0.0.1:0\"]\npool = \"web\"\n\
             [[pool]]\nname = \"web\"\n[pool.health]\nkind = \"off\"\n{backends}"
        )
    };
    let one = "[[pool.backend]]\nname = \"a\"\naddress = \"127.0.0.1:1\"\n";
    let balancer = Balancer::from_text(file(one));
    let reload = |query: &str| balancer.call("POST", &format!("/v1/reload{query}"), "");
    assert_eq!(reload("").json(200)["changes"], json!([]));
    balancer.process.file().rewrite(&file(&one.replace(":1", ":2").replace("\"a\"", "\"b\"")));
    let tried = reload("?dry_run=true").json(200);
    assert_eq!(tried["dry_run"], true);
    assert_eq!(tried["changes"].as_array().map(Vec::len), Some(2), "{tried}");
    assert_eq!(states(&balancer.status())[0].0, "a");
    let done = reload("").json(200);
    assert_eq!(done["changes"], tried["changes"]);
    assert_eq!(done["generation"], balancer.status()["generation"]);
    assert_eq!(states(&balancer.status())[0].0, "b");

    let refused = balancer.reload(&file("weight = 1\nalgorithm = \"rond\"\n")).json(400);
    assert!(refused["mistakes"].as_array().map(Vec::len) >= Some(2), "{refused}");
    assert!(refused["mistakes"][0].as_str().unwrap().contains("tcplb.toml:"), "{refused}");
    assert_eq!(states(&balancer.status())[0].0, "b");
    let metrics = balancer.get("/metrics").body;
    assert!(metrics.contains("tcplb_config_reloads_total{result=\"success\"} 2\n"), "{metrics}");
    assert!(metrics.contains("tcplb_config_reloads_total{result=\"failure\"} 1\n"), "{metrics}");

    let config = balancer.get("/v1/config");
    assert_eq!((config.status, config.header("Content-Type")), (200, Some("application/toml")));
    balancer.process.file().rewrite(&config.body);
    assert_eq!(reload("?dry_run=true").json(200)["changes"], json!([]), "{}", config.body);
}

#[test]
fn without_a_file_there_is_nothing_to_reload() {
    let refused = Balancer::idle().call("POST", "/v1/reload", "").json(400);
    assert!(refused["error"].as_str().unwrap().contains("flags"), "{refused}");
}

#[test]
fn the_page_shows_every_backend_and_loads_nothing_from_elsewhere() {
    let balancer =
        Balancer::start(&["-b", "127.0.0.1:1,name=web1", "-b", "127.0.0.1:2,name=web2", "-b", "127.0.0.1:3"]);
    let page = balancer.get("/");
    assert_eq!((page.status, page.header("Content-Type")), (200, Some("text/html; charset=utf-8")));
    for name in ["web1", "web2", "127.0.0.1:3", balancer.listen.as_str(), "round-robin"] {
        assert!(page.body.contains(name), "no {name} in {}", page.body);
    }
    assert!(!page.body.contains("http://") && !page.body.contains("https://") && !page.body.contains("{{"));
    assert!(page.header("Content-Security-Policy").is_some_and(|policy| policy.starts_with("default-src 'none'")));
}

#[test]
fn with_a_token_every_call_but_those_about_health_needs_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    std::fs::write(&path, "correct-horse\n").unwrap();
    let path = path.to_str().unwrap();
    let balancer = Balancer::start(&["-b", "127.0.0.1:1", "--health", "off", "--admin-token-file", path]);
    for (method, path) in [
        ("GET", "/v1/status"),
        ("GET", BACKENDS),
        ("POST", BACKENDS),
        ("PATCH", "/v1/pools/default/backends/127.0.0.1:1"),
        ("DELETE", "/v1/pools/default/backends/127.0.0.1:1"),
        ("POST", "/v1/pools/default/backends/127.0.0.1:1/probe"),
        ("POST", "/v1/reload"),
        ("GET", "/v1/config"),
        ("GET", "/v1/openapi.json"),
        ("POST", "/register"),
        ("GET", "/metrics"),
        ("GET", "/nothing"),
        ("BREW", "/v1/status"),
    ] {
        for header in [&[][..], &["Authorization: Bearer wrong-horse-1"], &["Authorization: Bearer"]] {
            let answer = ask(&balancer.admin, method, path, header, "");
            answer.error(401);
            assert!(answer.header("WWW-Authenticate").is_some_and(|scheme| scheme.starts_with("Bearer")), "{answer:?}");
        }
    }
    for path in ["/healthz", "/readyz", "/readyz?pool=default"] {
        assert_eq!(balancer.get(path).status, 200, "{path}");
    }
    // The page's own file needs no token, and shows what the API would not.
    let page = balancer.get("/");
    assert_eq!(page.status, 200);
    assert!(!page.body.contains("127.0.0.1:1"), "{}", page.body);
    let right = ["Authorization: Bearer correct-horse"];
    let page = ask(&balancer.admin, "GET", "/", &right, "");
    assert!(page.body.contains("127.0.0.1:1"), "{}", page.body);
    assert_eq!(ask(&balancer.admin, "GET", "/v1/status", &right, "").status, 200);
    assert_eq!(ask(&balancer.admin, "GET", "/", &right, "").status, 200);
    ask(&balancer.admin, "GET", "/nothing", &right, "").error(404);
}

#[test]
fn calls_from_pages_of_other_origins_are_refused() {
    let balancer = Balancer::idle();
    let foreign = ask(&balancer.admin, "POST", "/v1/reload", &["Origin: https://evil.example"], "");
    assert!(foreign.error(403).contains("origin"));
    let own = format!("Origin: http://{}", balancer.admin);
    assert_eq!(ask(&balancer.admin, "GET", "/v1/status", &[&own], "").status, 200);
    let stream = TcpStream::connect(&balancer.admin).unwrap();
    let rebound = crate::admin::support::talk(stream, b"GET /v1/status HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    assert!(rebound.error(403).contains("Host"));
    let stream = TcpStream::connect(&balancer.admin).unwrap();
    let page = crate::admin::support::talk(stream, b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    assert!(page.error(403).contains("Host"));
}

#[test]
fn no_address_or_name_forges_a_line_of_the_log() {
    let mut balancer = Balancer::idle();
    let forged = "2026-01-01T00:00:00.000Z ERROR forged";
    for hidden in ["\n", "\r", "\u{1b}[2K", "\u{85}", "\u{2028}", "\u{202e}", "\u{2066}", "\u{200b}", "\u{feff}"] {
        let address = format!("unix:/a{hidden}{forged}");
        for (path, body) in [
            (BACKENDS, json!({ "address": address, "name": "x" })),
            (BACKENDS, json!({ "address": address })),
            (BACKENDS, json!({ "address": "127.0.0.1:2", "name": format!("x{hidden}y") })),
            ("/register", json!({ "address": address })),
        ] {
            let answer = balancer.call("POST", path, &body.to_string());
            assert_eq!(answer.status, 400, "{body}: {answer:?}");
            let answer: Value = serde_json::from_str(&answer.body).unwrap();
            let why = answer["error"].as_str().or(answer["data"]["title"].as_str()).expect("a reason");
            assert!(!why.contains(hidden), "{why:?}");
        }
    }
    // Without anything hidden, such a path is one.
    balancer
        .call("POST", BACKENDS, &json!({ "address": format!("unix:/a {forged}"), "name": "x" }).to_string())
        .json(201);
    balancer.process.signal(Signal::TERM);
    let (_, lines) = balancer.process.end();
    assert!(lines.iter().any(|line| line.contains(" INFO pool default: backend x added: unix:/a 2026")), "{lines:?}");
    assert!(!lines.iter().any(|line| line.starts_with(forged)), "{lines:?}");
}
