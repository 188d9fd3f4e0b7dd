//! A backend as an object describes it, in a file or as the value of a registry's key:
//! `{"address": "10.0.0.7:80", "weight": 5, "max_connections": 200, "backup": false, "state": "enabled"}`.

use super::Found;
use crate::base::text::Escaped;
use crate::base::{Address, AdminState};
use serde_json::{Map, Value};
use std::net::Ipv6Addr;

/// The keys of such an object.
const KEYS: [&str; 5] = ["address", "weight", "max_connections", "backup", "state"];
/// The most characters of a value that an error shows. The longest address is shorter.
const SHOWN_MAX: usize = 300;

/// The backend of this name. Every key but `address` may be missing; a key that is not known is an error, since it is
/// a misspelt one.
pub fn found(name: &str, object: &Map<String, Value>) -> Result<Found, String> {
    let mut found = Found::at(name.to_owned(), address(object.get("address").ok_or("the address is missing")?)?);
    for (key, value) in object {
        match key.as_str() {
            "address" => {}
            "weight" => found.weight = Some(number(key, value, 0, u16::MAX)?),
            "max_connections" => found.max_connections = Some(number(key, value, 1, u32::MAX)?),
            "backup" => found.backup = Some(value.as_bool().ok_or_else(|| wrong(key, "true or false", value))?),
            "state" => found.state = state(key, value)?,
            _ => return Err(format!("unknown key `{}`; the keys are {}", shown(key), KEYS.join(", "))),
        }
    }
    Ok(found)
}

/// Whether its address can be read, and no key is unknown: one may be a misspelt `name`.
pub fn is_at_its_address(object: &Map<String, Value>) -> bool {
    object.get("address").is_some_and(|value| address(value).is_ok())
        && object.keys().all(|key| KEYS.contains(&key.as_str()))
}

/// Text from outside as errors show it: on one line, and not endless.
pub fn shown(text: &str) -> String {
    let end = text.char_indices().nth(SHOWN_MAX).map_or(text.len(), |(end, _)| end);
    let more = if end < text.len() { "…" } else { "" };
    format!("{}{more}", Escaped(&text[..end]))
}

/// A host as registries have it, without the brackets of an IPv6 address.
pub fn address_of(host: &str, port: u16) -> Result<Address, String> {
    match host.parse::<Ipv6Addr>() {
        Ok(ip) => Address::parse_backend(&format!("[{ip}]:{port}")),
        // With a port it would be the path of a unix socket.
        Err(_) if host.starts_with("unix:") => Err(format!("expected an IP address or a name, got `{}`", shown(host))),
        Err(_) => Address::parse_backend(&format!("{}:{port}", shown(host))),
    }
}

fn address(value: &Value) -> Result<Address, String> {
    match value.as_str() {
        Some(text) if text.len() <= SHOWN_MAX => Address::parse_backend(text),
        _ => Err(wrong("address", "a text like \"10.0.0.7:80\"", value)),
    }
}

fn number<N: TryFrom<u64> + Into<u64> + Copy>(key: &str, value: &Value, least: u64, most: N) -> Result<N, String> {
    let number = value.as_u64().filter(|number| *number >= least).and_then(|number| N::try_from(number).ok());
    number.ok_or_else(|| wrong(key, &format!("a number from {least} to {}", most.into()), value))
}

fn state(key: &str, value: &Value) -> Result<AdminState, String> {
    let known = AdminState::NAMES.iter().find(|(word, _)| value.as_str() == Some(word));
    known.map(|(_, state)| *state).ok_or_else(|| wrong(key, "enabled, draining or disabled", value))
}

fn wrong(key: &str, expected: &str, value: &Value) -> String {
    format!("{key}: expected {expected}, got `{}`", shown(&value.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Found, String> {
        let Value::Object(object) = serde_json::from_str(text).unwrap() else { panic!("{text} is no object") };
        found("web1", &object)
    }

    #[test]
    fn every_key_is_taken() {
        let full =
            r#"{"address": "10.0.0.7:80", "weight": 0, "max_connections": 9, "backup": true, "state": "draining"}"#;
        let want = Found {
            name: "web1".to_owned(),
            address: Address::Inet("10.0.0.7:80".parse().unwrap()),
            weight: Some(0),
            max_connections: Some(9),
            backup: Some(true),
            state: AdminState::Draining,
        };
        assert_eq!(of(full), Ok(want));
        let plain = of(r#"{"address": "web.internal:80"}"#).unwrap();
        assert_eq!((plain.weight, plain.backup, plain.state), (None, None, AdminState::Enabled));
    }

    #[test]
    fn a_mistake_names_the_key_and_what_was_expected() {
        for (text, why) in [
            (r#"{"weight": 1}"#, "the address is missing"),
            (r#"{"address": 80}"#, "address: expected a text like \"10.0.0.7:80\", got `80`"),
            (r#"{"address": "10.0.0.7"}"#, "the port is missing"),
            (r#"{"address": "a:1", "weight": 65536}"#, "weight: expected a number from 0 to 65535, got `65536`"),
            (r#"{"address": "a:1", "weight": -1}"#, "weight: expected a number from 0 to 65535, got `-1`"),
            (r#"{"address": "a:1", "weight": "5"}"#, "weight: expected a number from 0 to 65535, got `\"5\"`"),
            (r#"{"address": "a:1", "max_connections": 0}"#, "max_connections: expected a number from 1 to 4294967295"),
            (r#"{"address": "a:1", "backup": "yes"}"#, "backup: expected true or false, got `\"yes\"`"),
            (r#"{"address": "a:1", "state": "off"}"#, "state: expected enabled, draining or disabled, got `\"off\"`"),
            (r#"{"address": "a:1", "wieght": 5}"#, "unknown key `wieght`; the keys are address, weight,"),
        ] {
            let message = of(text).unwrap_err();
            assert!(message.contains(why), "{text}: {message}");
        }
    }

    #[test]
    fn an_error_is_one_line_and_not_endless() {
        let text = format!("{{\"address\": \"a\\n\u{202e}{}\"}}", "x".repeat(1 << 20));
        let message = of(&text).unwrap_err();
        assert!(message.len() < 1000 && !message.chars().any(crate::base::text::is_hidden), "{message}");
    }
}
