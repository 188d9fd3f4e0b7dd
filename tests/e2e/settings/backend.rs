//! `[[pool.backend]]` and what may stand behind `--backend ADDR`.

use super::{assert_next_is_reset, assert_served, call, echo, named};
use std::collections::BTreeMap;
use testkit::{ConfigFile, Running, Server, Tcplb, tally};

/// The same backend by the file and by a flag: `lines` in its section, `options` after its address.
#[track_caller]
fn each(server: &Server, lines: &str, options: &str, others: &[&Server], check: impl Fn(&Running)) {
    let admin = ["--admin", "127.0.0.1:0", "--health", "off"];
    let mut file = ConfigFile::empty().global("admin = \"127.0.0.1:0\"").backend(server.at(), lines);
    let mut flags = Tcplb::new().args(admin);
    flags = if options.is_empty() { flags.backend(server.at()) } else { flags.backend_with(server.at(), options) };
    for other in others {
        file = file.backend(other.at(), "");
        flags = flags.backend(other.at());
    }
    check(&file.start());
    check(&flags.start());
}

fn shares(tcplb: &Running, clients: usize) -> BTreeMap<String, usize> {
    tally((0..clients).map(|_| tcplb.name_of_next()))
}

#[test]
fn a_backend_s_name_is_what_the_api_shows() {
    let server = echo();
    for name in ["web1", "db1"] {
        each(&server, &format!("name = \"{name}\""), &format!("name={name}"), &[], |tcplb| {
            let backends = call(tcplb, "GET /v1/pools/default/backends");
            assert!(backends.contains(&format!("\"{name}\"")), "{backends}");
        });
    }
}

#[test]
fn address_is_where_a_backend_is() {
    for name in ["one", "other"] {
        // Nothing but the address differs.
        each(&named(name), "", "", &[], |tcplb| assert_eq!(tcplb.name_of_next(), name));
    }
}

#[test]
fn weight_is_a_backend_s_share() {
    let (first, second) = (named("first"), named("second"));
    for (weight, share) in [(0, 0), (1, 4), (3, 6)] {
        each(&first, &format!("weight = {weight}"), &format!("weight={weight}"), &[&second], |tcplb| {
            let counts = shares(tcplb, 8);
            let got = counts.get("first").copied().unwrap_or(0);
            assert_eq!(got, share, "weight {weight}: {counts:?}");
        });
    }
}

#[test]
fn max_connections_of_a_backend_is_how_many_it_has_at_once() {
    let server = echo();
    for limit in [1, 2] {
        each(&server, &format!("max_connections = {limit}"), &format!("max-connections={limit}"), &[], |tcplb| {
            let first = tcplb.connect();
            assert_served(&first);
            if limit == 2 {
                assert_served(&tcplb.connect());
            } else {
                assert_next_is_reset(tcplb);
            }
        });
    }
}

#[test]
fn backup_serves_only_when_no_primary_can() {
    let (first, second) = (named("first"), named("second"));
    each(&first, "backup = true", "backup", &[&second], |tcplb| {
        assert_eq!(shares(tcplb, 6), BTreeMap::from([("second".to_owned(), 6)]));
    });
    each(&first, "backup = false", "", &[&second], |tcplb| assert_eq!(shares(tcplb, 6).len(), 2));
}

#[test]
fn send_proxy_of_a_backend_overrides_the_pool_s() {
    let server = echo();
    for (value, begins) in [("off", &b"served\n"[..]), ("v1", b"PROXY TCP4 "), ("v2", b"\r\n\r\n\0\r\nQUIT\n")] {
        let pool = if value == "v2" { "v1" } else { "v2" };
        let file = ConfigFile::empty().pool(&format!("send_proxy = \"{pool}\""));
        let tcplb = file.backend(server.at(), &format!("send_proxy = \"{value}\"")).start();
        let client = tcplb.connect();
        client.say("served\n");
        assert_eq!(client.hear(begins.len()), begins, "{value}");
    }
}
