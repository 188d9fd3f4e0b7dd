//! `kind = "consul"`: the passing instances of a service, by blocking queries on `/v1/health/service`.
//!
//! Each answer is the whole list, so a change that was missed is repaired by the next one. The loop keeps the rules of
//! <https://developer.hashicorp.com/consul/api-docs/features/blocking>:
//!
//! - an index that goes backwards starts the loop again without one;
//! - an index of 0, or none, counts as 1: a query with 0 would return at once;
//! - answers that follow each other quickly are slowed down to one a second ([`Pace`]).
//!
//! Queries have Consul's default consistency. A server without a leader then answers with an error, and not with an old
//! list, as one may for `stale`.

use super::entry::{self, shown};
use super::http::{self, Answer, Client, TlsFiles};
use super::pace::Pace;
use super::{BACKENDS_MAX, Feed, Found, Item, Key, Kind, Set, Settings, Takes, Wrong};
use crate::small_file;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeSet;
use std::time::Duration;

/// Where an agent listens by itself.
const AGENT: &str = "http://127.0.0.1:8500";
/// How long a query waits for a change, in seconds. Consul adds up to a sixteenth.
const WAIT: u64 = 20;
/// The time limit of a query.
const LIMIT: Duration = Duration::from_secs(WAIT + 5);
/// The longest token.
const TOKEN_MAX: u64 = 4096;

/// The kind.
pub static CONSUL: Kind = Kind {
    name: "consul",
    doc: "The instances of a Consul service whose checks all pass, by blocking queries.",
    keys: &[
        Key {
            name: "address",
            takes: Takes::Text,
            doc: "The HTTP address of an agent.",
            absent: "\"http://127.0.0.1:8500\"",
            example: "\"http://127.0.0.1:8500\"",
        },
        Key {
            name: "service",
            takes: Takes::Text,
            doc: "The service; its backends are named by the ids of its instances.",
            absent: "required",
            example: "\"web\"",
        },
        Key {
            name: "tag",
            takes: Takes::Text,
            doc: "Only instances with this tag.",
            absent: "every instance",
            example: "\"primary\"",
        },
        Key {
            name: "datacenter",
            takes: Takes::Text,
            doc: "The datacenter of the service.",
            absent: "the agent's",
            example: "\"dc1\"",
        },
        Key {
            name: "token_file",
            takes: Takes::File,
            doc: "A file with an ACL token; read for each query.",
            absent: "no token",
            example: "\"/etc/tcplb/consul.token\"",
        },
        Key {
            name: "ca_file",
            takes: Takes::File,
            doc: "The authorities that HTTPS trusts, in PEM.",
            absent: "those of the system",
            example: "\"/etc/tcplb/consul-ca.pem\"",
        },
    ],
    watches: &["service", "tag", "datacenter", "address"],
    reads: |_| Vec::new(),
    check,
    run,
};

fn check(settings: &Settings) -> Result<(), Wrong> {
    match settings.text("address").map(http::server) {
        Some(Err(why)) => Err(Wrong::new("address", why)),
        _ => Ok(()),
    }
}

fn run(settings: &Settings, feed: &mut Feed) -> Result<(), String> {
    let server = http::server(settings.text("address").unwrap_or(AGENT))?;
    let client = Client::new(TlsFiles { ca: settings.file("ca_file"), ..TlsFiles::default() })?.within(LIMIT);
    let path = path(settings);
    let (mut index, mut pace) = (0, Pace::default());
    while pace.wait(feed) {
        let wait = if index == 0 { String::new() } else { format!("&index={index}&wait={WAIT}s") };
        let mut call = client.get(&server, &format!("{path}{wait}"));
        if let Some(file) = settings.file("token_file") {
            let token = small_file::read_token(file, TOKEN_MAX)?;
            call = call.header("X-Consul-Token", &token).hiding(token);
        }
        let answer = call.send()?;
        // Another success, like 202, is not Consul's.
        if answer.status != 200 {
            return Err(answer.failure());
        }
        let new = next_index(index, answer.header("X-Consul-Index"));
        let items = items(&server, answer, feed.set())?;
        feed.replace(items).map_err(|why| format!("{server}: {why}"))?;
        index = new;
    }
    Ok(())
}

fn path(settings: &Settings) -> String {
    let mut path = format!("/v1/health/service/{}?passing=true", http::encoded(settings.text("service").unwrap_or("")));
    for (key, parameter) in [("tag", "tag"), ("datacenter", "dc")] {
        if let Some(value) = settings.text(key) {
            path.push_str(&format!("&{parameter}={}", http::encoded(value)));
        }
    }
    path
}

/// The index of the next query; 0: one that does not wait.
fn next_index(last: u64, header: Option<&str>) -> u64 {
    let index = header.and_then(|text| text.trim().parse().ok()).unwrap_or(0).max(1);
    if index < last { 0 } else { index }
}

fn items(server: &str, answer: Answer, known: &Set) -> Result<Vec<Item>, String> {
    let says = |name: &str, value: &str| answer.header(name).is_some_and(|text| text.trim() == value);
    if says("X-Consul-KnownLeader", "false") {
        return Err(format!("{server}: it knows no leader"));
    }
    let is_filtered = says("X-Consul-Results-Filtered-By-ACLs", "true");
    let items = parse(&answer.bytes()?, known).map_err(|why| format!("{server}: {why}"))?;
    if items.is_empty() && is_filtered {
        // A token that has expired gets an empty list, not a refusal.
        return Err(format!("{server}: the token may not read the instances of the service"));
    }
    Ok(items)
}

/// An instance. Garbage in what is not read is no mistake.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Instance {
    node: Node,
    service: Service,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    address: String,
    port: u16,
    weights: Option<Weights>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: u16,
}

/// What an instance is called, whatever else is wrong with it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Named {
    node: NodeName,
    service: ServiceId,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NodeName {
    node: String,
}

#[derive(Deserialize)]
struct ServiceId {
    #[serde(rename = "ID")]
    id: String,
}

/// The instances of an answer, each as its text. They are read one at a time: so many small values take no more room than
/// their bytes.
#[derive(Deserialize)]
#[serde(transparent)]
struct List<'a> {
    #[serde(borrow, deserialize_with = "http::list::<BACKENDS_MAX, _, _>")]
    instances: Vec<&'a RawValue>,
}

/// The key of an instance, and the instance or what is wrong with it.
type Listed = (String, Result<Instance, String>);

/// The instances of an answer. Ids are unique on a node only, so a second instance of the same id is named `ID@NODE`;
/// `known` keeps the name of each that has one.
pub fn parse(bytes: &[u8], known: &Set) -> Result<Vec<Item>, String> {
    let list: List<'_> = serde_json::from_slice(bytes).map_err(|error| format!("expected a list: {error}"))?;
    let listed: Vec<Result<Listed, String>> = list.instances.iter().map(|text| instance(text.get())).collect();
    let mut names: BTreeSet<String> =
        listed.iter().flatten().filter_map(|(key, _)| known.get(key)).map(|found| found.name.clone()).collect();
    let items = listed.into_iter().zip(1..).map(|(listed, number)| {
        let (key, instance) = match listed {
            Ok(listed) => listed,
            Err(why) => return Item::unnamed(format!("entry {number}"), why),
        };
        let found = instance.and_then(|Instance { node, service }| {
            let name = match known.get(&key) {
                Some(found) => found.name.clone(),
                None if names.contains(&service.id) => key.clone(),
                None => service.id.clone(),
            };
            names.insert(name.clone());
            found(name, &node, &service)
        });
        Item::new(key, found)
    });
    Ok(items.collect())
}

/// The key of an instance, and the instance. Fails if its key can't be read.
fn instance(text: &str) -> Result<Listed, String> {
    let named: Result<Named, _> = serde_json::from_str(text);
    let Some((node, id)) = named.ok().map(|it| (it.node.node, it.service.id)).filter(|(_, id)| !id.is_empty()) else {
        return Err("expected an instance with Service.ID and Node.Node".to_owned());
    };
    let instance = serde_json::from_str(text).map_err(|error| shown(&error.to_string()));
    Ok((format!("{}@{}", shown(&id), shown(&node)), instance))
}

fn found(name: String, node: &Node, service: &Service) -> Result<Found, String> {
    let host = if service.address.is_empty() { &node.address } else { &service.address };
    let weight = service.weights.as_ref().map(|weights| weights.passing);
    Ok(Found { weight, ..Found::at(name, entry::address_of(host, service.port)?) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(id: &str, node: &str, address: &str) -> String {
        format!(
            r#"{{"Node": {{"Node": "{node}", "Address": "10.0.0.9"}}, "Service": {{"ID": "{id}", "Address": "{address}", "Port": 80, "Weights": {{"Passing": 10, "Warning": 1}}}}}}"#
        )
    }

    fn shown_of(text: &str, known: &Set) -> Vec<String> {
        let items = parse(text.as_bytes(), known).unwrap().into_iter();
        items
            .map(|Item { key, found, .. }| match found {
                Ok(found) => format!("{key}: {} {}", found.name, found.address),
                Err(why) => format!("{key}: {why}"),
            })
            .collect()
    }

    #[test]
    fn an_instance_without_an_address_has_that_of_its_node() {
        let text =
            format!("[{}, {}, {}]", entry("a", "n1", ""), entry("b", "n1", "10.0.0.1"), entry("c", "n1", "fd00::1"));
        assert_eq!(
            shown_of(&text, &Set::new()),
            ["a@n1: a 10.0.0.9:80", "b@n1: b 10.0.0.1:80", "c@n1: c [fd00::1]:80"]
        );
        let items = parse(text.as_bytes(), &Set::new()).unwrap();
        assert_eq!(items[0].found.as_ref().unwrap().weight, Some(10));
    }

    #[test]
    fn the_same_id_on_two_nodes_is_two_backends_that_keep_their_names() {
        let (one, two) = (entry("redis", "n1", ""), entry("redis", "n2", "10.0.0.2"));
        let known = parse(format!("[{two}]").as_bytes(), &Set::new()).unwrap();
        let known: Set = known.into_iter().map(|item| (item.key, item.found.unwrap())).collect();
        let want = ["redis@n1: redis@n1 10.0.0.9:80", "redis@n2: redis 10.0.0.2:80"];
        assert_eq!(shown_of(&format!("[{one}, {two}]"), &known), want);
    }

    #[test]
    fn an_instance_that_is_not_understood_has_its_own_key() {
        let text = r#"[5, {"Node": {"Node": "n", "Address": "a"}, "Service": {"ID": "x", "Port": 70000}}, {"Node": {"Node": "n", "Address": "a"}, "Service": {"ID": "y", "Port": 0}}]"#;
        let shown = shown_of(text, &Set::new());
        assert!(shown[0].starts_with("entry 1: "), "{shown:?}");
        assert!(shown[1].starts_with("x@n: invalid value"), "{shown:?}");
        assert!(shown[2].contains("y@n: ") && shown[2].ends_with("a backend's port can't be 0"), "{shown:?}");
        let is_unnamed =
            |text: &str| parse(text.as_bytes(), &Set::new()).unwrap().iter().map(|it| it.is_unnamed).collect();
        let unnamed: Vec<bool> = is_unnamed(text);
        assert_eq!(unnamed, [true, false, false]);
        let text = r#"[{"Node": null, "Service": {"ID": "x"}}, {"Node": {"Node": "n"}, "Service": {"ID": 7}}]"#;
        let unnamed: Vec<bool> = is_unnamed(text);
        assert_eq!(unnamed, [true, true]);
        for text in ["", "null", "{}", "rubbish"] {
            assert!(parse(text.as_bytes(), &Set::new()).is_err(), "{text}");
        }
    }

    #[test]
    fn an_endless_list_is_refused_before_it_fills_the_memory() {
        let text = format!("[{}0]", "0,".repeat(1 << 20));
        let why = parse(text.as_bytes(), &Set::new()).unwrap_err();
        assert!(why.contains("more than 50000 entries"), "{why}");
    }

    #[test]
    fn the_index_keeps_the_rules_of_consul() {
        for (last, header, next) in [
            (0, Some("7"), 7),
            (7, Some("7"), 7),
            (7, Some("9"), 9),
            (7, Some("6"), 0),
            (0, Some("0"), 1),
            (1, Some("0"), 1),
            (7, Some("0"), 0),
            (7, None, 0),
            (1, Some("x"), 1),
        ] {
            assert_eq!(next_index(last, header), next, "{last} {header:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_error_or_items(bytes in any::<Vec<u8>>(), text in "\\PC{0,60}") {
            let listed = format!(r#"[{{"Node": {{"Node": {text:?}, "Address": {text:?}}}, "Service": {{"ID": {text:?}, "Port": 1}}}}]"#);
            for bytes in [&bytes[..], text.as_bytes(), listed.as_bytes()] {
                let _ = parse(bytes, &Set::new());
            }
        }
    }
}
