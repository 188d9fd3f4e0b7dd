//! Routes as an operator sees them: connections, the access log, metrics, explain.

use serde_json::{Value, json};
use std::fs;
use testkit::{Admin, ConfigFile, Conn, Ending, Server, Started, eventually, peers, tcplb};

/// ClientHellos of openssl and curl, and what they say.
const DB: &[u8] = include_bytes!("../../data/sniff/openssl_tls13.bin");
const WWW: &[u8] = include_bytes!("../../data/sniff/curl_http2.bin");
const NO_NAME: &[u8] = include_bytes!("../../data/sniff/openssl_no_name.bin");

const POOLS: [&str; 4] = ["own", "db", "web", "office"];

/// A listener with a route by name, one by ALPN and one by address. Each pool has a backend that says its name.
struct Edge {
    tcplb: Started,
    admin: Admin,
    _servers: Vec<Server>,
}

impl Edge {
    fn start(more: &str) -> Edge {
        let servers: Vec<Server> = POOLS.iter().map(|name| Server::start(peers::named(name))).collect();
        let file = ConfigFile::of("");
        let log = file.path("access.log");
        let mut text = format!(
            "[global]\nadmin = \"127.0.0.1:0\"\nworkers = 1\naccess_log = \"{}\"\nlog_format = \"json\"\n\
             [[listener]]\nname = \"edge\"\nbind = [\"127.0.0.1:0\"]\npool = \"own\"\n{more}\n\
             [[listener.route]]\nname = \"db\"\nsni = [\"*.example.com\"]\nalpn = [\"postgresql\"]\npool = \"db\"\n\
             [[listener.route]]\nprotocol = \"tls\"\nalpn = [\"h2\"]\npool = \"web\"\n\
             [[listener.route]]\nname = \"office\"\nsource = [\"127.0.9.0/24\"]\npool = \"office\"\n",
            log.display()
        );
        for (name, server) in POOLS.iter().zip(&servers) {
            let (at, probes) = (server.at(), "[pool.health]\nkind = \"off\"");
            text += &format!(
                "[[pool]]\nname = \"{name}\"\n{probes}\n[[pool.backend]]\nname = \"{name}1\"\naddress = \"{at}\"\n"
            );
        }
        let tcplb = file.whole(text).start();
        let admin = Admin::of(&tcplb);
        Edge { tcplb, admin, _servers: servers }
    }

    /// A client with these first bytes, connected to this pool.
    #[track_caller]
    fn client(&self, first: &[u8], pool: &str) -> Conn {
        let client = self.tcplb.connect();
        client.say(first);
        assert_eq!((client.hear_line(), client.hear(first.len())), (pool.to_owned(), first.to_vec()));
        client
    }

    fn connections(&self) -> Vec<Value> {
        self.admin.get("/v1/connections").json(200).as_array().expect("an array").clone()
    }

    fn explain(&self, query: &str) -> Value {
        self.admin.get(&format!("/v1/explain?client=127.0.0.1{query}")).json(200)
    }

    fn command(&self, arguments: &[&str]) -> String {
        let output = tcplb(arguments).env("TCPLB_ADMIN", self.admin.0.to_string()).output().expect("it runs");
        String::from_utf8(output.stdout).expect("text")
    }

    fn took(&self, route: &str) -> u64 {
        self.admin.metric("tcplb_route_connections_total", &["listener=\"edge\"", &format!("route=\"{route}\"")])
    }
}

#[test]
fn server_name_and_route_show_in_connections_in_the_access_log_and_in_metrics() {
    let edge = Edge::start("");
    let shown = |row: &Value| (row["sni"].clone(), row["route"].clone());
    let (db, web, none) = (edge.client(DB, "db"), edge.client(WWW, "web"), edge.client(NO_NAME, "own"));
    let want =
        [(json!("db.example.com"), json!("db")), (json!("www.example.com"), json!("2")), (Value::Null, Value::Null)];
    assert_eq!(edge.connections().iter().map(shown).collect::<Vec<_>>(), want);
    assert!(edge.connections().iter().all(|row| row["protocol"] == "tls"));
    let table = edge.command(&["connections"]);
    for text in ["ROUTE", "SNI", "db.example.com", "www.example.com"] {
        assert!(table.contains(text), "{table}");
    }
    assert_eq!(["db", "2", "office", "none"].map(|route| edge.took(route)), [1, 1, 0, 1]);
    assert_eq!(edge.admin.metric("tcplb_sniff_duration_seconds_count", &["listener=\"edge\""]), 3);
    let log = edge.tcplb.file().path("access.log");
    let mut lines = Vec::new();
    for (count, client) in [db, web, none].into_iter().enumerate() {
        client.finish();
        assert_eq!(client.ending(), Ending::Fin);
        eventually("its line is written", || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_default()).collect();
            lines.len() == count + 1 && text.ends_with('\n')
        });
    }
    assert_eq!(lines.iter().map(shown).collect::<Vec<_>>(), want);
}

#[test]
fn a_silent_client_is_sniffing_and_then_in_the_pool_of_silent_clients() {
    let edge = Edge::start("sniff_timeout = \"1h\"");
    let client = edge.tcplb.connect();
    eventually("it is looked at", || {
        let rows = edge.connections();
        rows.len() == 1 && rows[0]["state"] == "sniffing" && rows[0]["pool"] == "own"
    });
    assert_eq!(edge.admin.call("DELETE", "/v1/connections?listener=edge", "").json(200)["closed"], 1);
    assert_eq!(client.ending(), Ending::Reset);
    let edge = Edge::start("sniff_timeout = \"200ms\"\nsilent_pool = \"web\"");
    let client = edge.tcplb.connect();
    assert_eq!(client.hear_line(), "web");
    let row = &edge.connections()[0];
    assert_eq!((&row["route"], &row["sni"], &row["pool"]), (&json!("silent"), &Value::Null, &json!("web")));
    assert_eq!(edge.took("silent"), 1);
}

#[test]
fn explain_with_a_server_name_shows_where_a_client_then_goes() {
    let edge = Edge::start("");
    for (query, first, route, pool) in [
        ("&sni=DB.example.com.&alpn=postgresql", DB, json!("db"), "db"),
        ("&sni=www.example.com&alpn=h2", WWW, json!("2"), "web"),
        ("&alpn=http/1.1", NO_NAME, Value::Null, "own"),
    ] {
        let explained = edge.explain(query);
        assert_eq!((&explained["route"], &explained["pool"]), (&route, &json!(pool)), "{explained}");
        assert_eq!(
            (&explained["pick"], &explained["reason"]),
            (&json!(format!("{pool}1")), &Value::Null),
            "{explained}"
        );
        edge.client(first, pool);
    }
    let without = edge.explain("");
    assert_eq!((&without["pool"], &without["verdict"]), (&json!("own"), &json!("accept")));
    assert!(without["reason"].as_str().unwrap().starts_with("without protocol, sni and alpn: "), "{without}");
    let of_office = edge.admin.get("/v1/explain?client=127.0.9.7&sni=other.example").json(200);
    assert_eq!((&of_office["route"], &of_office["pool"]), (&json!("office"), &json!("office")));
    let office = Conn::from_source([127, 0, 9, 7].into(), edge.tcplb.at()).expect("it listens");
    office.say(NO_NAME);
    assert_eq!(office.hear_line(), "office");
    for (query, text) in [
        ("&sni=a..b", "sni: expected a name like db.example.com, got `a..b`: "),
        ("&sni=192.0.2.1", "sni: expected a name like db.example.com, got `192.0.2.1`: it is an IP address"),
        ("&alpn=", "alpn: expected the name of a protocol like h2 or postgresql, got nothing"),
    ] {
        let error = edge.admin.get(&format!("/v1/explain?client=127.0.0.1{query}")).error(400);
        assert!(error.starts_with(text), "{error}");
    }
    let asked = ["explain", "--client", "127.0.0.1", "--sni", "db.example.com", "--alpn", "postgresql"];
    let printed = edge.command(&asked);
    assert!(printed.contains("127.0.0.1 goes to db1\nlistener edge, route db, pool db, "), "{printed}");
}

#[test]
fn explain_with_a_protocol_shows_where_clients_of_it_go() {
    let route = |keys: &str, pool: &str| format!("[[listener.route]]\nname = \"{pool}\"\n{keys}\npool = \"{pool}\"\n");
    let mut text = format!(
        "[global]\nadmin = \"127.0.0.1:0\"\n\
         [[listener]]\nname = \"edge\"\nbind = [\"127.0.0.1:0\"]\npool = \"own\"\n{}{}{}\
         [[listener]]\nname = \"tls\"\nbind = [\"127.0.0.1:0\"]\npool = \"own\"\n{}",
        route("protocol = \"postgres\"\nsni = [\"one.example\"]", "db"),
        route("protocol = \"postgres\"", "web"),
        route("protocol = \"tls\"", "office"),
        route("sni = [\"one.example\"]", "db")
    );
    for name in POOLS {
        text += &format!(
            "[[pool]]\nname = \"{name}\"\n[pool.health]\nkind = \"off\"\n[[pool.backend]]\naddress = \"127.0.0.1:1\"\n"
        );
    }
    let tcplb = ConfigFile::of(text).start();
    let admin = Admin::of(&tcplb);
    let as_tls = json!("without protocol: for a client of tls; one of postgres may take another route");
    for (query, pool, reason) in [
        ("edge&protocol=postgres&sni=one.example", "db", Value::Null),
        ("edge&protocol=postgres&sni=two.example", "web", Value::Null),
        ("edge&protocol=postgres", "web", Value::Null),
        ("edge&protocol=tls&sni=one.example", "office", Value::Null),
        ("edge&protocol=tls", "office", Value::Null),
        ("edge&sni=one.example", "office", as_tls),
        ("edge&protocol=ssh", "own", Value::Null),
        ("tls&sni=one.example", "db", Value::Null),
        // Its routes do not look for that protocol.
        ("tls&protocol=postgres&sni=one.example", "own", Value::Null),
    ] {
        let explained = admin.get(&format!("/v1/explain?client=127.0.0.1&listener={query}")).json(200);
        let route = if pool == "own" { Value::Null } else { json!(pool) };
        assert_eq!((&explained["pool"], &explained["route"]), (&json!(pool), &route), "{query}");
        assert_eq!(explained["reason"], reason, "{query}");
    }
    for (query, text) in [
        ("smtp", "protocol: expected tls or postgres or http or ssh, got `smtp`"),
        ("ssh&alpn=h2", "protocol: expected tls or postgres beside alpn, got `ssh`, whose clients send no ClientHello"),
    ] {
        let error = admin.get(&format!("/v1/explain?client=127.0.0.1&listener=edge&protocol={query}")).error(400);
        assert_eq!(error, text);
    }
    let asked =
        ["explain", "--client", "127.0.0.1", "--listener", "edge", "--protocol", "postgres", "--sni", "one.example"];
    let output = testkit::tcplb(&asked).env("TCPLB_ADMIN", admin.0.to_string()).output().expect("it runs");
    let printed = String::from_utf8(output.stdout).expect("text");
    assert!(printed.contains("listener edge, route db, pool db, "), "{printed}");
}

#[test]
fn totals_of_a_route_go_on_after_a_reload_that_changes_it() {
    let edge = Edge::start("");
    edge.client(WWW, "web");
    edge.client(DB, "db");
    let text = edge.tcplb.file().text().replace("*.example.com", "www.example.com");
    let text = text.replace("alpn = [\"postgresql\"]", "");
    edge.tcplb.reload(&text);
    edge.tcplb.wait_for_line("listener edge: route db changed: ");
    edge.client(WWW, "db");
    assert_eq!(["db", "2", "none"].map(|route| edge.took(route)), [2, 1, 0]);
}
