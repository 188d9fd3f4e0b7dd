//! Settings, values and answers. tests/features/discovery/etcd asks a real etcd.

use super::gateway::{Page, Watched};
use super::*;
use crate::discovery;
use proptest::prelude::*;

fn settings(values: &[(&'static str, &str)]) -> Settings {
    let mut settings = Settings::new(&ETCD);
    for (key, value) in values {
        let takes = ETCD.keys.iter().find(|known| known.name == *key).unwrap().takes;
        settings.set(
            key,
            match takes {
                Takes::Texts => discovery::Value::Texts(value.split_whitespace().map(str::to_owned).collect()),
                Takes::File => discovery::Value::File(value.into()),
                _ => discovery::Value::Text((*value).to_owned()),
            },
        );
    }
    settings
}

fn pair(key: &str, value: &str) -> Value {
    json!({"key": encoded(key.as_bytes()), "value": encoded(value.as_bytes()), "mod_revision": "7"})
}

#[test]
fn mistakes_of_the_settings_name_their_key() {
    let good = [("endpoints", "http://127.0.0.1:2379 https://etcd.internal"), ("prefix", "/tcplb/web/")];
    assert_eq!(check(&settings(&good)), Ok(()));
    for (key, value, wrong, why) in [
        ("endpoints", "", "endpoints", "an empty one"),
        ("endpoints", "127.0.0.1:2379", "endpoints", "expected http://HOST:PORT"),
        ("prefix", "/tcplb/web", "prefix", "ends with /, like \"/tcplb/web/\", got `/tcplb/web`"),
        ("prefix", "", "prefix", "ends with /"),
        ("user", "a", "user", "it needs password_file beside it"),
        ("password_file", "a", "password_file", "it needs user beside it"),
        ("cert_file", "a", "cert_file", "it needs key_file beside it"),
        ("key_file", "a", "key_file", "it needs cert_file beside it"),
    ] {
        let error = check(&settings(&[good[0], good[1], (key, value)])).unwrap_err();
        assert_eq!(error.key, wrong);
        assert!(error.why.contains(why), "{}", error.why);
    }
}

#[test]
fn a_value_is_an_address_or_an_object() {
    let plain = found("web1", b" 10.0.0.7:80\n").unwrap();
    assert_eq!((plain.name.as_str(), plain.address.to_string().as_str(), plain.weight), ("web1", "10.0.0.7:80", None));
    let full = found("web1", br#" {"address": "web.internal:80", "weight": 5, "backup": true}"#).unwrap();
    assert_eq!((full.address.to_string().as_str(), full.weight, full.backup), ("web.internal:80", Some(5), Some(true)));
    for (value, why) in [
        (&b""[..], "neither an address nor a JSON object"),
        (b"10.0.0.7", "neither an address nor a JSON object"),
        (b":80", "a backend needs a host"),
        (b"\xff", "the value is no text"),
        (b"[]", "neither an address"),
        (b"{", "the value is no JSON object"),
        (b"{\"weight\": 1}", "the address is missing"),
        (b"{\"address\": \"a:1\", \"wait\": 1}", "unknown key `wait`"),
    ] {
        let error = found("web1", value).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
    let long = found("web1", &[b'x'; 1 << 20]).unwrap_err();
    assert!(long.len() < 1000, "{}", long.len());
}

#[test]
fn a_page_and_changes_are_read_as_every_version_writes_them() {
    let page: Page = serde_json::from_value(
        json!({"header": {"revision": "7"}, "kvs": [pair("/w/a", "a:1")], "more": true, "count": "2"}),
    )
    .unwrap();
    assert_eq!((page.header.revision, page.kvs.len(), page.more), (7, 1, true));
    let empty: Page = serde_json::from_str(r#"{"header": {"cluster_id": "1", "revision": 7}}"#).unwrap();
    assert_eq!((empty.header.revision, empty.kvs.len(), empty.more), (7, 0, false));
    let endless = format!("{{\"header\": {{}}, \"kvs\": [{}{{}}]}}", "{},".repeat(PAGE));
    assert!(serde_json::from_str::<Page>(&endless).unwrap_err().to_string().contains("more than 1000 entries"));
    for (error, code_and_text) in [
        (json!({"grpc_code": 14, "http_code": 503, "message": "no leader", "http_status": "x"}), "no leader"),
        (json!({"code": 14, "message": "no leader", "details": []}), "no leader"),
    ] {
        let stream: Watched = serde_json::from_value(json!({ "error": error })).unwrap();
        assert_eq!(stream.error.unwrap().text("http://a"), format!("http://a: {code_and_text}"));
    }
}

#[test]
fn of_several_events_of_a_key_the_last_one_counts() {
    let mut batch = BTreeMap::new();
    let mut event = |kind: &str, key: &str, value: &str| {
        let pair = serde_json::from_value(pair(key, value)).unwrap();
        collect("/w/", kind, &pair, &mut batch)
    };
    event("", "/w/a", "a:1").unwrap();
    event("PUT", "/w/a", "a:2").unwrap();
    event("DELETE", "/w/b", "").unwrap();
    event("PUT", "/w/b", "garbage").unwrap();
    event("PUT", "/w/c", "c:1").unwrap();
    event("DELETE", "/w/c", "").unwrap();
    event("PUT", "/w/", "ignored").unwrap();
    event("DELETE", "/w/", "").unwrap();
    assert!(event("PUT", "/x/a", "a:1").unwrap_err().contains("outside the prefix"));
    assert_eq!(batch.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(batch["a"].as_ref().unwrap().found.as_ref().unwrap().address.to_string(), "a:2");
    assert!(batch["b"].as_ref().unwrap().found.is_err());
    assert!(batch["c"].is_none());
}

#[test]
fn a_range_ends_behind_every_key_of_its_prefix() {
    for (prefix, end) in [(&b"/w/"[..], &b"/w0"[..]), (b"a\xff", b"b"), (b"\xff\xff", b"\0")] {
        assert_eq!(end_of(prefix), end);
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), text in "\\PC{0,40}") {
        let _ = found("web1", &bytes);
        let _ = found("web1", text.as_bytes());
        let _ = serde_json::from_slice::<Watched>(&bytes);
        let _ = serde_json::from_slice::<Page>(&bytes);
        let _ = decoded(&text);
    }

    #[test]
    fn almost_right_answers_do_not_panic(
        key in "[a-z/=+A-Z0-9]{0,12}", kind in "(|PUT|DELETE|x)", value in "[a-z/=+A-Z0-9]{0,12}", revision in "(-?[0-9]{0,22}|null|\"[0-9]{0,22}\")",
    ) {
        let text = format!(
            r#"{{"result": {{"compact_revision": {revision}, "events": [{{"type": "{kind}", "kv": {{"key": "{key}", "value": "{value}"}}}}]}}}}"#
        );
        if let Ok(Watched { result: Some(result), .. }) = serde_json::from_str(&text) {
            for event in result.events {
                let _ = collect("/", &event.kind, &event.kv, &mut BTreeMap::new());
            }
        }
    }

    #[test]
    fn a_key_with_the_prefix_lies_within_its_range(prefix in proptest::collection::vec(any::<u8>(), 1..5), rest in proptest::collection::vec(any::<u8>(), 0..5)) {
        let (key, end) = ([prefix.clone(), rest].concat(), end_of(&prefix));
        prop_assert!(key >= prefix && (end == [0] || key < end));
    }
}

#[test]
fn a_value_can_not_name_a_unix_socket_of_this_machine() {
    for value in ["unix:/run/docker.sock", r#"{"address": "unix:/run/docker.sock"}"#, "unix:@name"] {
        let why = found("web1", value.as_bytes()).unwrap_err();
        assert!(why.contains("can't name a unix socket"), "{value}: {why}");
    }
    for host in ["unix:/run/docker.sock", "unix:@name"] {
        assert!(entry::address_of(host, 80).unwrap_err().contains("expected an IP address or a name"), "{host}");
    }
}
