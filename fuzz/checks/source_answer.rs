//! Any bytes as the answer of a source of backends. What comes out can be a backend, an error fits on a line, and order and
//! repetition do not matter where they must not.
//!
//! The first line names the source.

use serde_json::value::to_raw_value;
use serde_json::{Deserializer, Value};
use std::collections::{BTreeMap, BTreeSet};
use tcplb::base::Address;
use tcplb::base::text::is_hidden;
use tcplb::discovery::etcd::{Page, Watched};
use tcplb::discovery::kubernetes::Slices;
use tcplb::discovery::{Found, Item, Set, consul, etcd, file};

const PREFIX: &str = "/tcplb/web/";

/// Fails if a promise is broken.
pub fn check(bytes: &[u8]) {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return };
    let answer = &bytes[end + 1..];
    match &bytes[..end] {
        b"consul" => consul_instances(answer),
        b"etcd" => etcd_page(answer),
        b"etcd value" => item(&Item::new("web1", etcd::found("web1", answer))),
        b"etcd watch" => etcd_watch(answer),
        b"file" => entries(answer),
        b"kubernetes" => slices(answer),
        _ => {}
    }
}

/// A backend survives being written and read. An error is one line, and not endless.
fn item(item: &Item) {
    match &item.found {
        Ok(found) => {
            let text = found.address.to_string();
            assert_eq!(Address::parse_backend(&text).as_ref(), Ok(&found.address), "{text}");
            assert_ne!(found.max_connections, Some(0));
        }
        Err(why) => error(why),
    }
}

fn error(why: &str) {
    assert!(!why.is_empty() && why.len() < 8 * 1024 && !why.chars().any(is_hidden), "{why:?}");
}

/// What is understood of an answer, by its keys.
fn set(items: &[Item]) -> Set {
    items.iter().filter_map(|item| Some((item.key.clone(), item.found.clone().ok()?))).collect()
}

fn consul_instances(answer: &[u8]) {
    let items = match consul::parse(answer, &Set::new()) {
        Ok(items) => items,
        Err(why) => return error(&why),
    };
    items.iter().for_each(item);
    let known = set(&items);
    let again = consul::parse(answer, &known).expect("it was understood");
    assert_eq!(set(&again), known, "an instance keeps its name");
}

fn etcd_page(answer: &[u8]) {
    let Ok(page) = serde_json::from_slice::<Page>(answer) else { return };
    for pair in &page.kvs {
        match etcd::item(PREFIX, pair) {
            Ok(Some(found)) => {
                assert!(!found.key.is_empty(), "the prefix itself is no backend");
                assert!(found.found.as_ref().is_ok_and(|it| it.name == found.key) || found.found.is_err());
                item(&found);
            }
            Ok(None) => {}
            Err(why) => error(&why),
        }
    }
}

fn etcd_watch(answer: &[u8]) {
    let mut batch = BTreeMap::new();
    for watched in Deserializer::from_slice(answer).into_iter::<Watched>() {
        let Ok(watched) = watched else { break };
        if let Some(refusal) = watched.error {
            error(&refusal.text("http://etcd"));
        }
        for event in watched.result.into_iter().flat_map(|changes| changes.events) {
            if let Err(why) = etcd::collect(PREFIX, &event.kind, &event.kv, &mut batch) {
                error(&why);
            }
        }
    }
    for (key, changed) in &batch {
        assert!(changed.as_ref().is_none_or(|item| item.key == *key));
        changed.iter().for_each(item);
    }
}

fn entries(answer: &[u8]) {
    match file::parse(answer) {
        Ok(items) => {
            items.iter().for_each(item);
            let understood: Vec<&Found> = items.iter().filter_map(|item| item.found.as_ref().ok()).collect();
            assert_eq!(set(&items).len(), understood.len(), "two entries of one name are understood");
        }
        Err(why) => error(&why),
    }
}

fn slices(answer: &[u8]) {
    let Ok(Value::Array(list)) = serde_json::from_slice(answer) else { return };
    let raw: Vec<_> = list.iter().map(|slice| to_raw_value(slice).expect("it is JSON")).collect();
    for port in [None, Some("web"), Some("8080")] {
        let mut slices = Slices::new(port);
        slices.replace(&raw);
        let items = slices.items();
        items.iter().for_each(item);
        let keys: BTreeSet<&String> = items.iter().map(|item| &item.key).collect();
        assert_eq!(keys.len(), items.len(), "a backend stands for one endpoint");

        let mut watched = Slices::new(port);
        list.iter().for_each(|slice| watched.put(slice.clone()));
        assert_eq!(watched.items(), items, "a watch reports what a list has");
        list.iter().for_each(|slice| watched.remove(slice));
        assert_eq!(watched.items(), [], "all slices are gone");
    }
}
