//! Backends from EndpointSlices, by
//! <https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/>. Pure.
//!
//! - The slices of a Service are one list. An endpoint may stand in several: the one that is ready wins, and then IPv4
//!   before IPv6 before a name. A pod with two addresses is one backend.
//! - `ready` that is missing counts as true, and `serving` as `ready`.
//! - An endpoint that is not ready takes no client. Only if no endpoint is ready, those that end but still serve do.
//! - All addresses of an endpoint are equal, so the first is taken.
//! - A slice that is not understood leaves its endpoints as they were.

use crate::base::AdminState;
use crate::discovery::entry::{address_of, shown};
use crate::discovery::{BACKENDS_MAX, Feed, Found, Item};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// The slices of a Service.
pub struct Slices {
    port: Option<String>,
    known: BTreeMap<String, Slice>,
    /// Why the newest form of a slice is not understood, by its name.
    wrong: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Slice {
    address_type: AddressType,
    endpoints: Option<Vec<Endpoint>>,
    ports: Option<Vec<Port>>,
}

/// In the order of preference.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
enum AddressType {
    IPv4,
    IPv6,
    #[serde(rename = "FQDN")]
    Name,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    addresses: Vec<String>,
    conditions: Option<Conditions>,
    target_ref: Option<Target>,
}

#[derive(Default, Deserialize)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Deserialize)]
struct Target {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Port {
    name: Option<String>,
    port: Option<u16>,
    protocol: Option<String>,
}

/// In the order of preference.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Readiness {
    Ready,
    /// It ends, and serves until then.
    Ending,
    Not,
}

impl Slices {
    /// No slices; `port`: the name or the number that a backend has.
    pub fn new(port: Option<&str>) -> Slices {
        Slices { port: port.map(str::to_owned), known: BTreeMap::new(), wrong: BTreeMap::new() }
    }

    /// All slices, as a list has them.
    pub fn replace(&mut self, slices: &[Box<RawValue>]) {
        let named: Vec<(String, &str)> = slices.iter().map(|text| (name_in(text.get()), text.get())).collect();
        let names: BTreeSet<&String> = named.iter().map(|(name, _)| name).collect();
        self.known.retain(|name, _| names.contains(name));
        self.wrong.clear();
        named.into_iter().for_each(|(name, text)| self.take(name, serde_json::from_str(text)));
    }

    /// A slice that is new or has changed.
    pub fn put(&mut self, slice: Value) {
        self.take(name(&slice), serde_json::from_value(slice));
    }

    fn take(&mut self, name: String, slice: serde_json::Result<Slice>) {
        match slice {
            Ok(slice) => {
                self.wrong.remove(&name);
                self.known.insert(name, slice);
            }
            Err(why) => {
                self.wrong.insert(name, shown(&why.to_string()));
            }
        }
    }

    /// A slice that is gone.
    pub fn remove(&mut self, slice: &Value) {
        let name = name(slice);
        self.known.remove(&name);
        self.wrong.remove(&name);
    }

    /// Hands over the backends of all slices.
    pub fn hand_over(&self, feed: &mut Feed) -> Result<(), String> {
        let count = self.known.values().flat_map(|slice| &slice.endpoints).map(Vec::len).sum::<usize>();
        // An endpoint may stand in two slices, one for each family.
        if count > 2 * BACKENDS_MAX {
            return Err(format!("its slices have {count} endpoints; at most {BACKENDS_MAX} backends are taken"));
        }
        let mut items = self.items();
        items.extend(self.wrong.iter().map(|(name, why)| {
            let place = format!("slice {name}");
            // The endpoints of a slice that was never understood are not known.
            if self.known.contains_key(name) {
                Item::new(place, Err(why.clone()))
            } else {
                Item::unnamed(place, why.clone())
            }
        }));
        feed.replace(items)
    }

    /// The backends of the slices that are understood.
    pub fn items(&self) -> Vec<Item> {
        let mut best: BTreeMap<String, (Readiness, AddressType, Item)> = BTreeMap::new();
        for (name, slice) in &self.known {
            let port = self.port_of(slice);
            for (endpoint, number) in slice.endpoints.iter().flatten().zip(1..) {
                let item = item(endpoint, port.clone(), || format!("slice {name}, endpoint {number}"));
                let new = (endpoint.readiness(), slice.address_type, item);
                match best.entry(new.2.key.clone()) {
                    Entry::Occupied(mut old) if (new.0, new.1) < (old.get().0, old.get().1) => drop(old.insert(new)),
                    Entry::Occupied(_) => {}
                    Entry::Vacant(free) => drop(free.insert(new)),
                }
            }
        }
        let is_any_ready = best.values().any(|(readiness, ..)| *readiness == Readiness::Ready);
        let items = best.into_values().map(|(readiness, _, mut item)| {
            if let Ok(found) = &mut item.found {
                found.state = match readiness {
                    Readiness::Ready => AdminState::Enabled,
                    Readiness::Ending if !is_any_ready => AdminState::Enabled,
                    Readiness::Ending => AdminState::Draining,
                    // It says itself that a probe would fail.
                    Readiness::Not => AdminState::Disabled,
                };
            }
            item
        });
        items.collect()
    }

    /// The number of the port in a slice.
    fn port_of(&self, slice: &Slice) -> Result<u16, String> {
        let is_tcp = |port: &&Port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        let mut ports = slice.ports.iter().flatten().filter(is_tcp).filter_map(|port| Some((port, port.port?)));
        let Some(wanted) = &self.port else {
            return match (ports.next(), ports.next()) {
                (Some((_, number)), None) => Ok(number),
                (None, _) => Err("its slice has no TCP port".to_owned()),
                _ => Err("its slice has several TCP ports: `port` must name one".to_owned()),
            };
        };
        let number = wanted.parse::<u16>().ok();
        if let (Some(number), None) = (number, &slice.ports) {
            // Without a list every port is open.
            return Ok(number);
        }
        let found = ports.find(|(port, it)| port.name.as_ref() == Some(wanted) || Some(*it) == number);
        found.map(|(_, number)| number).ok_or_else(|| format!("its slice has no TCP port `{wanted}`"))
    }
}

impl Endpoint {
    fn readiness(&self) -> Readiness {
        let conditions = self.conditions.as_ref();
        let is = |pick: fn(&Conditions) -> Option<bool>| conditions.and_then(pick);
        let ready = is(|conditions| conditions.ready).unwrap_or(true);
        let serving = is(|conditions| conditions.serving).unwrap_or(ready);
        let terminating = is(|conditions| conditions.terminating).unwrap_or(false);
        match (ready, serving && terminating) {
            (true, _) => Readiness::Ready,
            (false, true) => Readiness::Ending,
            (false, false) => Readiness::Not,
        }
    }
}

/// The name of a slice, whatever else is wrong with it.
fn name<'de>(slice: impl Deserializer<'de>) -> String {
    #[derive(Deserialize)]
    struct Named {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        name: String,
    }
    Named::deserialize(slice).map(|Named { metadata }| shown(&metadata.name)).unwrap_or_default()
}

/// The same of a slice that is not parsed yet.
fn name_in(slice: &str) -> String {
    name(&mut serde_json::Deserializer::from_str(slice))
}

/// An endpoint without a pod is called by its address and port. Without these it may be any backend, at `place`.
fn item(endpoint: &Endpoint, port: Result<u16, String>, place: impl Fn() -> String) -> Item {
    let pod = endpoint.target_ref.as_ref().filter(|target| target.kind == "Pod" && !target.name.is_empty());
    let Some(host) = endpoint.addresses.first() else {
        let why = "expected an address, got none".to_owned();
        return pod
            .map_or_else(|| Item::unnamed(place(), why.clone()), |pod| Item::new(shown(&pod.name), Err(why.clone())));
    };
    let at = port.and_then(|port| address_of(host, port));
    match (pod, at) {
        (Some(pod), at) => {
            let name = shown(&pod.name);
            Item::new(name.clone(), at.map(|address| Found::at(name, address)))
        }
        (None, Ok(address)) => Item::new(address.to_string(), Ok(Found::at(address.to_string(), address))),
        (None, Err(why)) => Item::unnamed(shown(host), why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::Set;
    use proptest::prelude::*;
    use serde_json::json;
    use std::sync::Arc;

    fn slice(name: &str, kind: &str, endpoints: Value) -> Value {
        let ports =
            json!([{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
        json!({"metadata": {"name": name}, "addressType": kind, "endpoints": endpoints, "ports": ports})
    }

    fn pod(name: &str, address: &str, conditions: Value) -> Value {
        json!({"addresses": [address, "10.9.9.9"], "conditions": conditions, "targetRef": {"kind": "Pod", "name": name}})
    }

    fn listed(slices: &[Value]) -> Vec<Box<RawValue>> {
        slices.iter().map(|slice| serde_json::value::to_raw_value(slice).unwrap()).collect()
    }

    fn shown_of(port: Option<&str>, slices: Vec<Value>) -> Vec<String> {
        let mut all = Slices::new(port);
        all.replace(&listed(&slices));
        let show = |Item { key, found, .. }: Item| match found {
            Ok(found) => format!("{key}: {} {}", found.address, found.state.word()),
            Err(why) => format!("{key}: {why}"),
        };
        all.items().into_iter().map(show).collect()
    }

    #[test]
    fn slices_are_merged_by_endpoint() {
        let v4 = slice(
            "a",
            "IPv4",
            json!([pod("p1", "10.0.0.1", json!({})), pod("p2", "10.0.0.2", json!({"ready": false}))]),
        );
        let v6 = slice(
            "b",
            "IPv6",
            json!([pod("p1", "fd00::1", json!({"ready": true})), pod("p3", "fd00::3", json!(null))]),
        );
        let moved = slice("c", "IPv4", json!([pod("p2", "10.0.0.2", json!({"ready": true}))]));
        let bare = slice("d", "FQDN", json!([{"addresses": ["web.example"]}]));
        let want = [
            "p1: 10.0.0.1:8080 enabled",
            "p2: 10.0.0.2:8080 enabled",
            "p3: [fd00::3]:8080 enabled",
            "web.example:8080: web.example:8080 enabled",
        ];
        assert_eq!(shown_of(Some("http"), vec![v4, v6, moved, bare]), want);
    }

    #[test]
    fn endpoints_that_end_serve_only_if_no_other_is_ready() {
        let ending = pod("p1", "10.0.0.1", json!({"ready": false, "serving": true, "terminating": true}));
        let starting = pod("p2", "10.0.0.2", json!({"ready": false, "serving": false}));
        let ready = pod("p3", "10.0.0.3", json!({"ready": null}));
        let gone = pod("p4", "10.0.0.4", json!({"ready": false, "serving": false, "terminating": true}));
        let all = slice("a", "IPv4", json!([ending, starting, ready, gone]));
        let want = [
            "p1: 10.0.0.1:8080 draining",
            "p2: 10.0.0.2:8080 disabled",
            "p3: 10.0.0.3:8080 enabled",
            "p4: 10.0.0.4:8080 disabled",
        ];
        assert_eq!(shown_of(None, vec![all]), want);
        let last = slice("a", "IPv4", json!([ending, starting, gone]));
        assert_eq!(shown_of(None, vec![last])[0], "p1: 10.0.0.1:8080 enabled");
    }

    #[test]
    fn a_port_is_found_by_name_or_number() {
        let of = |port| shown_of(port, vec![slice("a", "IPv4", json!([pod("p1", "10.0.0.1", json!({}))]))]);
        assert_eq!(of(Some("8080")), ["p1: 10.0.0.1:8080 enabled"]);
        assert_eq!(of(None), ["p1: 10.0.0.1:8080 enabled"]);
        assert_eq!(of(Some("dns")), ["p1: its slice has no TCP port `dns`"]);
        let every = json!({"metadata": {"name": "a"}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": null});
        assert_eq!(shown_of(Some("99"), vec![every.clone()]), ["10.0.0.1:99: 10.0.0.1:99 enabled"]);
        assert_eq!(shown_of(None, vec![every]), ["10.0.0.1: its slice has no TCP port"]);
    }

    #[test]
    fn a_slice_that_is_not_understood_keeps_its_endpoints() {
        let mut slices = Slices::new(None);
        slices.replace(&listed(&[slice("a", "IPv4", json!([pod("p1", "10.0.0.1", json!({}))]))]));
        slices.put(json!({"metadata": {"name": "a"}, "addressType": "IPv4", "endpoints": 5}));
        slices.replace(&listed(&[json!({"metadata": {"name": "a"}, "addressType": "IPv9"})]));
        assert_eq!(slices.items().len(), 1);
        assert_eq!(slices.wrong.len(), 1);
        slices.remove(&json!({"metadata": {"name": "a"}}));
        assert!(slices.items().is_empty() && slices.wrong.is_empty());
    }

    #[test]
    fn an_endpoint_without_an_address_is_named_by_its_pod_or_its_place() {
        let endpoints = json!([{"addresses": []}, {"addresses": [], "targetRef": {"kind": "Pod", "name": "p1"}}]);
        let want = ["p1: expected an address, got none", "slice a, endpoint 1: expected an address, got none"];
        assert_eq!(shown_of(None, vec![slice("a", "IPv4", endpoints.clone())]), want);
        let mut slices = Slices::new(None);
        slices.replace(&listed(&[slice("a", "IPv4", endpoints)]));
        assert_eq!(slices.items().iter().map(|item| item.is_unnamed).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn more_endpoints_than_a_source_may_have_are_an_error() {
        let endpoints = vec![json!({"addresses": []}); 2 * BACKENDS_MAX + 1];
        let (_stop, stopped) = crossbeam_channel::bounded(0);
        let nothing = Box::new(|_: &Arc<Set>| {});
        let mut feed = Feed::new(Default::default(), true, Arc::default(), Arc::default(), stopped, nothing);
        let mut slices = Slices::new(None);
        slices.replace(&listed(&[slice("a", "IPv4", json!(endpoints))]));
        let why = slices.hand_over(&mut feed).unwrap_err();
        assert!(why.contains("have 100001 endpoints; at most 50000"), "{why}");
    }

    proptest! {
        #[test]
        fn any_endpoint_gives_items(text in "\\PC{0,60}", port in any::<u16>(), ready in any::<Option<bool>>()) {
            let mut slices = Slices::new(Some(&text));
            slices.put(json!({"metadata": {"name": text}, "addressType": "IPv4", "ports": [{"name": text, "port": port}],
                "endpoints": [{"addresses": [text], "conditions": {"ready": ready}}, {"addresses": []}]}));
            slices.put(json!({"metadata": text}));
            prop_assert!(slices.items().len() <= 2);
        }
    }
}
