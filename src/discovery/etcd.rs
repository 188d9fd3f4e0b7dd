//! `kind = "etcd"`: backends that are the keys below a prefix of an etcd, version 3.
//!
//! etcd's JSON gateway is asked over HTTP ([`gateway`]). *Looking* reads all keys, page by page, at one revision. *Following*
//! watches the prefix from the next revision on. The watch has a connection of its own and ends after [`STAY`], so that
//! whatever it missed is found by the next look.
//!
//! | event | what follows |
//! |---|---|
//! | the watch breaks, the member loses its leader | a look on the next endpoint, at once; the set stays |
//! | the history is compacted beyond the watch | a look, at once; looks that follow each other closely are slowed down ([`Pace`]) |
//! | no endpoint answers, or watches break one after the other | an error; the source is asked again after its pause |
//! | the token is refused | a new one, once per call |
//! | a value is not understood | an item with an error: its key keeps what it had |

mod gateway;

pub use gateway::{Access, Failure, Gateway, Page, Watched, encoded, number};

use super::http::{self, Client, Next, TlsFiles};
use super::pace::Pace;
use super::{BACKENDS_MAX, Feed, Found, Item, Key, Kind, Settings, Takes, Wrong, entry};
use crate::base::Address;
use crate::small_file;
use gateway::{KeyValue, PAGE, decoded};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a watch stays.
const STAY: Duration = Duration::from_secs(16);
/// The time limit of a call. A change is found within 30 s, though the watched member and the next one hang.
const CALL: Duration = Duration::from_secs(6);
const _: () = assert!(STAY.as_secs() + 2 * CALL.as_secs() < 30);
/// The most keys of a batch of changes.
const BATCH: usize = 1000;
/// The longest password, in bytes.
const PASSWORD_MAX: u64 = 4096;

/// The kind.
pub static ETCD: Kind = Kind {
    name: "etcd",
    doc: "Backends that are the keys below a prefix of an etcd, version 3.4 or later, by its JSON gateway. A key's value is `IP:PORT`, or an object: `{\"address\": \"10.0.0.7:80\", \"weight\": 5}`.",
    keys: &[
        Key {
            name: "endpoints",
            takes: Takes::Texts,
            doc: "The members of the cluster. One is asked; the next one takes its place when it fails.",
            absent: "required",
            example: "[\"http://127.0.0.1:2379\"]",
        },
        Key {
            name: "prefix",
            takes: Takes::Text,
            doc: "The keys, up to and with a `/`. The rest of a key is the name of its backend.",
            absent: "required",
            example: "\"/tcplb/web/\"",
        },
        Key {
            name: "user",
            takes: Takes::Text,
            doc: "The user, where etcd has authentication enabled. It needs to read the prefix.",
            absent: "no authentication",
            example: "\"tcplb\"",
        },
        Key {
            name: "password_file",
            takes: Takes::File,
            doc: "A file with the user's password. It is read again after an error.",
            absent: "no authentication",
            example: "\"/etc/tcplb/etcd.password\"",
        },
        Key {
            name: "ca_file",
            takes: Takes::File,
            doc: "The authorities that may have signed etcd's certificate, in PEM.",
            absent: "those of the system",
            example: "\"/etc/tcplb/etcd-ca.pem\"",
        },
        Key {
            name: "cert_file",
            takes: Takes::File,
            doc: "The certificate that is shown to etcd, in PEM.",
            absent: "none",
            example: "\"/etc/tcplb/etcd-client.pem\"",
        },
        Key {
            name: "key_file",
            takes: Takes::File,
            doc: "The key of `cert_file`, in PEM.",
            absent: "none",
            example: "\"/etc/tcplb/etcd-client.key\"",
        },
    ],
    watches: &["prefix", "endpoints"],
    reads: |_| Vec::new(),
    check,
    run,
};

fn check(settings: &Settings) -> Result<(), Wrong> {
    let endpoints = settings.texts("endpoints");
    if endpoints.is_empty() {
        return Err(Wrong::new("endpoints", "expected a list like [\"http://127.0.0.1:2379\"], got an empty one"));
    }
    for endpoint in endpoints {
        http::server(endpoint).map_err(|why| Wrong::new("endpoints", why))?;
    }
    let prefix = settings.text("prefix").unwrap_or_default();
    if !prefix.ends_with('/') {
        let why = format!("expected a text that ends with /, like \"/tcplb/web/\", got `{}`", entry::shown(prefix));
        return Err(Wrong::new("prefix", why));
    }
    for (one, other) in
        [("user", "password_file"), ("password_file", "user"), ("cert_file", "key_file"), ("key_file", "cert_file")]
    {
        if settings.value(one).is_some() && settings.value(other).is_none() {
            return Err(Wrong::new(one, format!("it needs {other} beside it")));
        }
    }
    Ok(())
}

fn run(settings: &Settings, feed: &mut Feed) -> Result<(), String> {
    let prefix = settings.text("prefix").ok_or("has no prefix")?;
    let mut gateway = Gateway::new(access(settings)?)?;
    let (mut broken, mut pace) = (0, Pace::default());
    while pace.wait(feed) {
        let (items, revision) = gateway.try_each(|gateway| match feed.is_stopped() {
            true => Err(Failure::Text("the source is removed".to_owned())),
            false => look(gateway, prefix),
        })?;
        feed.replace(items).map_err(|why| format!("{}: {why}", gateway.server()))?;
        match follow(&mut gateway, prefix, revision, feed) {
            Ok(()) => broken = 0,
            Err(why) => {
                gateway.turn();
                broken += 1;
                if broken > gateway.endpoints() {
                    return Err(why);
                }
            }
        }
    }
    Ok(())
}

fn access(settings: &Settings) -> Result<Access, String> {
    let endpoints: Result<Vec<String>, String> =
        settings.texts("endpoints").iter().map(|text| http::server(text)).collect();
    let user = match (settings.text("user"), settings.file("password_file")) {
        (Some(user), Some(path)) => {
            let read = small_file::read(path, PASSWORD_MAX).map_err(|error| format!("{}: {error}", path.display()))?;
            let password = String::from_utf8(read).map_err(|_| format!("{}: it is no text", path.display()))?;
            Some((user.to_owned(), password.trim_end_matches(['\r', '\n']).to_owned()))
        }
        _ => None,
    };
    let files =
        TlsFiles { ca: settings.file("ca_file"), cert: settings.file("cert_file"), key: settings.file("key_file") };
    Ok(Access { endpoints: endpoints?, user, client: Client::new(files)?.within(CALL) })
}

/// Reads all keys as they were at one revision.
fn look(gateway: &mut Gateway, prefix: &str) -> Result<(Vec<Item>, i64), Failure> {
    let end = encoded(&end_of(prefix.as_bytes()));
    let (mut items, mut from, mut revision) = (Vec::new(), prefix.as_bytes().to_vec(), 0);
    loop {
        let ask = json!({"key": encoded(&from), "range_end": end, "limit": PAGE, "revision": revision});
        let page: Page = gateway.ask("/v3/kv/range", &ask)?;
        if revision == 0 {
            revision = page.header.revision;
        }
        for pair in &page.kvs {
            items.extend(item(prefix, pair).map_err(|why| gateway.failure(why))?);
        }
        let Some(last) = page.kvs.last().filter(|_| page.more) else { return Ok((items, revision)) };
        let mut next = decoded(&last.key).map_err(|why| gateway.failure(why))?;
        next.push(0);
        if next <= from || items.len() > BACKENDS_MAX {
            return Err(gateway.failure(format!("has more than {BACKENDS_MAX} backends, or its pages do not end")));
        }
        from = next;
    }
}

/// Hands over changes after this revision, until the time is over or another look is due.
fn follow(gateway: &mut Gateway, prefix: &str, revision: i64, feed: &mut Feed) -> Result<(), String> {
    let create = json!({
        "key": encoded(prefix.as_bytes()),
        "range_end": encoded(&end_of(prefix.as_bytes())),
        "start_revision": revision.saturating_add(1),
    });
    let mut changes = gateway.watch(STAY, &json!({"create_request": create}))?;
    while !feed.is_stopped() {
        let mut batch: BTreeMap<String, Option<Item>> = BTreeMap::new();
        loop {
            match changes.wait()? {
                Next::Value(Watched { error: Some(error), .. }) => return Err(error.text(gateway.server())),
                Next::Value(Watched { result: Some(result), .. }) => {
                    if result.compact_revision > 0 {
                        return Ok(());
                    }
                    if result.canceled {
                        return Err(format!(
                            "{}: ended the watch: {}",
                            gateway.server(),
                            entry::shown(&result.cancel_reason)
                        ));
                    }
                    for event in result.events {
                        collect(prefix, &event.kind, &event.kv, &mut batch)
                            .map_err(|why| format!("{}: {why}", gateway.server()))?;
                    }
                }
                Next::Value(Watched { .. }) => {}
                Next::Ended => return Err(format!("{}: ended the watch", gateway.server())),
                Next::TimeOver => return Ok(()),
            }
            if batch.len() >= BATCH || !changes.has_more() {
                break;
            }
        }
        let gone: Vec<String> = batch.iter().filter(|(_, item)| item.is_none()).map(|(key, _)| key.clone()).collect();
        let changed: Vec<Item> = batch.into_values().flatten().collect();
        match changed.is_empty() && gone.is_empty() {
            true => feed.answered(),
            false => feed.change(changed, &gone).map_err(|why| format!("{}: {why}", gateway.server()))?,
        }
    }
    Ok(())
}

/// What an event does to its key. The last one of a key counts.
pub fn collect(
    prefix: &str,
    kind: &str,
    pair: &KeyValue,
    batch: &mut BTreeMap<String, Option<Item>>,
) -> Result<(), String> {
    if kind == "DELETE" {
        if let Some(name) = name(prefix, pair)? {
            batch.insert(name, None);
        }
    } else if let Some(item) = item(prefix, pair)? {
        batch.insert(item.key.clone(), Some(item));
    }
    Ok(())
}

/// The entry of a key; none for the prefix itself. An error means that the answer is not etcd's.
pub fn item(prefix: &str, pair: &KeyValue) -> Result<Option<Item>, String> {
    let value = decoded(&pair.value)?;
    Ok(name(prefix, pair)?.map(|name| Item::new(name.clone(), found(&name, &value))))
}

/// The rest of a key, which is a backend's name. Bytes that are no text are replaced, and the name is refused later.
fn name(prefix: &str, pair: &KeyValue) -> Result<Option<String>, String> {
    let key = decoded(&pair.key)?;
    let rest = key.strip_prefix(prefix.as_bytes()).ok_or("answered with a key outside the prefix")?;
    Ok((!rest.is_empty()).then(|| String::from_utf8_lossy(rest).into_owned()))
}

/// The backend that a value describes: an address, or an object.
pub fn found(name: &str, value: &[u8]) -> Result<Found, String> {
    let text = std::str::from_utf8(value).map_err(|_| "the value is no text")?.trim();
    if text.starts_with('{') {
        return match serde_json::from_str(text) {
            Ok(Value::Object(object)) => entry::found(name, &object).and_then(not_local),
            Ok(_) => Err("the value is no object".to_owned()),
            Err(error) => Err(format!("the value is no JSON object: {error}")),
        };
    }
    let short = entry::shown(text);
    let address = Address::parse_backend(&short)
        .map_err(|why| format!("the value is neither an address nor a JSON object: {why}"))?;
    not_local(Found::at(name.to_owned(), address))
}

/// A key space may be written by others than the operator of this machine, whose unix sockets are not theirs to give.
fn not_local(found: Found) -> Result<Found, String> {
    match found.address {
        Address::Unix(_) => {
            Err("expected IP:PORT or NAME:PORT: etcd can't name a unix socket of this machine".to_owned())
        }
        _ => Ok(found),
    }
}

/// The first key behind all keys with this prefix.
fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // etcd's sign for: no end.
    vec![0]
}

#[cfg(test)]
mod tests;
