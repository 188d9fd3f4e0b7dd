//! The command line of both tools.

use crate::floor::{Route, Routes};
use crate::load::{Kind, Plan};
use std::collections::BTreeMap;
use std::str::FromStr;

/// What `load` is asked to do.
pub(crate) fn plan(words: impl Iterator<Item = String>) -> Result<Plan, String> {
    let (places, flags) = split(words, &["kind", "connections", "rate", "seconds", "warm-up"])?;
    let [to] = &places[..] else { return Err(format!("expected one address, got {}", places.len())) };
    let kind = match flags.get("kind").map(String::as_str) {
        Some("kept") => Kind::Kept,
        Some("short") => Kind::Short,
        Some("flood") => Kind::Flood,
        other => return Err(format!("--kind: expected kept, short or flood, got {other:?}")),
    };
    let plan = Plan {
        to: parsed(to, "ADDRESS")?,
        kind,
        connections: parsed(flags.get("connections").map_or("", String::as_str), "--connections")?,
        rate: parsed(flags.get("rate").map_or("", String::as_str), "--rate")?,
        seconds: parsed(flags.get("seconds").map_or("", String::as_str), "--seconds")?,
        warm_up: parsed(flags.get("warm-up").map_or("0", String::as_str), "--warm-up")?,
    };
    let positive = |number: f64| number.is_finite() && number > 0.0;
    let in_range = plan.connections > 0 && positive(plan.rate) && positive(plan.seconds) && plan.warm_up >= 0.0;
    in_range.then_some(plan).ok_or_else(|| "--connections, --rate and --seconds must be above 0".to_owned())
}

/// What `floor` is asked to do.
pub(crate) fn routes(words: impl Iterator<Item = String>) -> Result<Routes, String> {
    let (places, flags) = split(words, &["threads", "splice"])?;
    let mut routes = Vec::new();
    for place in &places {
        let (listen, backend) = place.split_once('=').ok_or(format!("expected LISTEN=BACKEND, got {place}"))?;
        let backend = if backend == "close" { None } else { Some(parsed(backend, "BACKEND")?) };
        routes.push(Route { listen: parsed(listen, "LISTEN")?, backend });
    }
    if routes.is_empty() {
        return Err("expected LISTEN=BACKEND".to_owned());
    }
    let threads = parsed(flags.get("threads").map_or("2", String::as_str), "--threads")?;
    let splice = parsed(flags.get("splice").map_or("false", String::as_str), "--splice")?;
    Ok(Routes { routes, threads, splice })
}

fn parsed<T: FromStr>(text: &str, name: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{name}: unexpected {text:?}"))
}

/// Places, and flags with their values.
fn split(
    mut words: impl Iterator<Item = String>,
    known: &[&str],
) -> Result<(Vec<String>, BTreeMap<String, String>), String> {
    let (mut places, mut flags) = (Vec::new(), BTreeMap::new());
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix("--") else {
            places.push(word);
            continue;
        };
        if !known.contains(&flag) {
            return Err(format!("there is no {word}; there are {}", known.join(", ")));
        }
        flags.insert(flag.to_owned(), words.next().ok_or(format!("{word} has no value"))?);
    }
    Ok((places, flags))
}
