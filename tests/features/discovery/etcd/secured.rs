//! An etcd with users, and one with TLS on both sides.

use super::super::secure::Certificates;
use super::server::{Etcd, text};
use super::{Source, settings};
use serde_json::json;
use tcplb::discovery::Value;
use testkit::{eventually, free_address, need};

fn enable_users(etcd: &Etcd) {
    etcd.put("/w/a", "10.0.0.1:80");
    etcd.put("/x/a", "10.0.0.9:80");
    etcd.call("/v3/auth/user/add", json!({"name": "root", "password": "above all"}));
    etcd.call("/v3/auth/role/add", json!({"name": "root"}));
    etcd.call("/v3/auth/user/grant", json!({"user": "root", "role": "root"}));
    etcd.call("/v3/auth/user/add", json!({"name": "tcplb", "password": "se cret"}));
    etcd.call("/v3/auth/role/add", json!({"name": "reader"}));
    let read = json!({"permType": "READ", "key": text("/w/"), "range_end": text("/w0")});
    etcd.call("/v3/auth/role/grant", json!({"name": "reader", "perm": read}));
    etcd.call("/v3/auth/user/grant", json!({"user": "tcplb", "role": "reader"}));
    etcd.call("/v3/auth/enable", json!({}));
}

/// Writes a key as root.
#[track_caller]
fn put_as_root(etcd: &Etcd, key: &str, value: &str) {
    let token = etcd.call("/v3/auth/authenticate", json!({"name": "root", "password": "above all"}));
    let header = format!("Authorization: {}", token["token"].as_str().unwrap());
    let body = json!({"key": text(key), "value": text(value)}).to_string();
    let answer = testkit::ask(&etcd.client.to_string(), "POST", "/v3/kv/put", &["Connection: close", &header], &body);
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn a_user_reads_its_prefix_and_a_lost_token_is_renewed() {
    let Some(mut etcd) = Etcd::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "se cret\n").unwrap();
    let with = |user: &str| {
        let mut settings = settings(&[etcd.url()]);
        settings.push(("user", Value::Text(user.to_owned())));
        settings.push(("password_file", Value::File(password.clone())));
        settings
    };
    // A user is no mistake where authentication is not enabled yet.
    let mut early = Source::start("etcd", &with("tcplb"));
    eventually("it has an answer", || early.standing().last_success.is_some());
    enable_users(&etcd);
    early.wait_for(&["a"]);
    let (mut source, nobody) = (Source::start("etcd", &with("tcplb")), Source::start("etcd", &settings(&[etcd.url()])));
    let wrong = Source::start("etcd", &with("root"));
    source.wait_for(&["a"]);
    nobody.wait_for_error("user name is empty");
    wrong.wait_for_error("authentication failed, invalid user ID or password");
    put_as_root(&etcd, "/w/b", "10.0.0.2:80");
    source.wait_for(&["a", "b"]);
    // The tokens are in the memory of etcd.
    etcd.kill();
    etcd.run_again();
    eventually("etcd answers", || std::net::TcpStream::connect(etcd.client).is_ok());
    eventually("etcd has a leader", || {
        etcd.try_call("/v3/auth/authenticate", &json!({"name": "root", "password": "above all"})).status == 200
    });
    put_as_root(&etcd, "/w/c", "10.0.0.3:80");
    source.wait_for(&["a", "b", "c"]);
    let errors = [nobody.standing(), wrong.standing()].map(|standing| standing.last_error.unwrap().1);
    assert!(!errors.concat().contains("cret"), "{errors:?}");
}

#[test]
fn a_watch_outlives_its_token() {
    let address = free_address();
    let Some(etcd) = Etcd::start_with(&["--auth-token-ttl=1".to_owned()], address) else { return };
    enable_users(&etcd);
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "se cret").unwrap();
    // The second look comes after the first watch, whose token is older than its time.
    let relayed = super::between::relay(address, |_| {});
    let mut settings = settings(&[relayed]);
    settings.push(("user", Value::Text("tcplb".to_owned())));
    settings.push(("password_file", Value::File(password)));
    let mut source = Source::start("etcd", &settings);
    source.wait_for(&["a"]);
    for round in 0..3 {
        testkit::let_pass(std::time::Duration::from_millis(1200));
        put_as_root(&etcd, &format!("/w/b{round}"), "10.0.0.2:80");
        eventually("it is found", || source.names().contains(&format!("b{round}")));
    }
    assert_eq!(source.standing().errors, 0, "{:?}", source.standing());
}

#[test]
fn tls_is_spoken_and_checked_on_both_sides() {
    let Some(openssl) = need("openssl") else { return };
    let (plain, secure) = (free_address(), free_address());
    let made = Certificates::make(&openssl, &secure.ip().to_string());
    let file = |name: &str| made.path(name).display().to_string();
    let arguments = [
        format!("--listen-client-urls=http://{plain},https://{secure}"),
        format!("--cert-file={}", file("server.pem")),
        format!("--key-file={}", file("server.key")),
        format!("--trusted-ca-file={}", file("ca.pem")),
        "--client-cert-auth".to_owned(),
    ];
    let Some(etcd) = Etcd::start_with(&arguments, plain) else { return };
    etcd.put("/w/a", "10.0.0.1:80");
    let with = |ca: Option<&str>, cert: Option<&str>| {
        let mut settings = settings(&[format!("https://{secure}")]);
        settings.extend(ca.map(|name| ("ca_file", Value::File(made.path(&format!("{name}.pem"))))));
        settings.extend(cert.map(|name| ("cert_file", Value::File(made.path(&format!("{name}.pem"))))));
        settings.extend(cert.map(|name| ("key_file", Value::File(made.path(&format!("{name}.key"))))));
        Source::start("etcd", &settings)
    };
    let mut good = with(Some("ca"), Some("client"));
    good.wait_for(&["a"]);
    etcd.put("/w/b", "10.0.0.2:80");
    good.wait_for(&["a", "b"]);
    assert_eq!(good.standing().errors, 0);
    for (url, why) in [
        (format!("https://{plain}"), "does the server want http://?"),
        (format!("http://{secure}"), "does the server want https://?"),
    ] {
        let source = Source::start("etcd", &settings(&[url]));
        source.wait_for_error(why);
    }
    for (ca, cert, why) in [
        (Some("other"), Some("client"), "invalid peer certificate: UnknownIssuer; ca_file names the authorities"),
        (None, Some("client"), "invalid peer certificate"),
        (Some("ca"), None, ""),
        (Some("ca"), Some("other"), ""),
        (Some("none"), None, "none.pem: No such file"),
    ] {
        let mut source = with(ca, cert);
        source.wait_for_error(why);
        let text = source.standing().last_error.unwrap().1;
        println!("{text}");
        assert!(source.names().is_empty() && !text.contains("PRIVATE"), "{text}");
    }
}
