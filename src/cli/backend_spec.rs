//! Parses `--backend ADDR[,weight=N][,name=S][,max-connections=N][,backup]` into a backend of the model.
//!
//! Pure. The caller checks that names are unique.

use super::values;
use crate::base::{Address, nearest};
use crate::config::check;
use crate::config::model::Backend;

const KEYS: [&str; 4] = ["weight", "name", "max-connections", "backup"];
const ACCEPTED: &str = "weight=N, name=S, max-connections=N and backup";

/// Parses one backend. The error shows the wrong part and what is accepted in its place.
pub fn parse(text: &str) -> Result<Backend, String> {
    let mut parts = text.split(',');
    let address = parts.next().unwrap_or_default();
    let address = Address::parse_backend(address)?;
    let mut backend = Backend::at(address);
    let mut seen = Vec::new();
    for part in parts {
        let (key, value) = match part.split_once('=') {
            Some((key, value)) => (key.trim(), Some(value.trim())),
            None => (part.trim(), None),
        };
        let known = KEYS.iter().find(|known| **known == key).ok_or_else(|| unknown(key))?;
        if seen.contains(known) {
            return Err(format!("`{known}` is given twice in `{text}`"));
        }
        seen.push(known);
        set(&mut backend, known, value)?;
    }
    Ok(backend)
}

fn set(backend: &mut Backend, key: &str, value: Option<&str>) -> Result<(), String> {
    let prefixed = |why: String| format!("{key}: {why}");
    match (key, value) {
        ("backup", None) => backend.backup = true,
        ("backup", Some(value)) => {
            return Err(format!("`backup` takes no value, got `backup={value}`"));
        }
        (_, None) => return Err(format!("`{key}` needs a value, like `{key}={}`", example(key))),
        ("weight", Some(value)) => {
            let weight = values::number(value, 0, u64::from(u16::MAX)).map_err(prefixed)?;
            backend.weight = u16::try_from(weight).unwrap_or(u16::MAX);
        }
        ("max-connections", Some(value)) => backend.max_connections = Some(values::count(value).map_err(prefixed)?),
        (_, Some(value)) => {
            check::name(value).map_err(prefixed)?;
            backend.name = value.to_owned();
        }
    }
    Ok(())
}

fn example(key: &str) -> &'static str {
    match key {
        "weight" => "5",
        "max-connections" => "200",
        _ => "web1",
    }
}

fn unknown(key: &str) -> String {
    if key.is_empty() {
        return format!(
            "a key is missing between two commas or after the last one; accepted after the address: {ACCEPTED}"
        );
    }
    let hint = nearest::hint(key, KEYS);
    let stop = if hint.is_empty() { ";" } else { "" };
    format!("unknown key `{key}`{hint}{stop} accepted after the address: {ACCEPTED}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_alone_takes_the_defaults() {
        let backend = parse("127.0.0.1:8081").unwrap();
        assert_eq!(backend.name, "127.0.0.1:8081");
        assert_eq!(backend.address, Address::Inet("127.0.0.1:8081".parse().unwrap()));
        assert_eq!((backend.weight, backend.max_connections, backend.backup), (1, None, false));
    }

    #[test]
    fn every_key_is_parsed_in_any_order() {
        for text in [
            "[::1]:80,weight=5,name=web1,max-connections=200,backup",
            "[::1]:80, backup , max-connections = 200, name=web1, weight=5",
        ] {
            let backend = parse(text).unwrap();
            assert_eq!(backend.name, "web1");
            assert_eq!((backend.weight, backend.max_connections, backend.backup), (5, Some(200), true), "{text}");
        }
        assert_eq!(parse("a:1,weight=0").unwrap().weight, 0);
        assert_eq!(parse("a:1,weight=65535").unwrap().weight, 65_535);
        assert_eq!(parse("a:1,name=x=y").unwrap().name, "x=y");
        assert_eq!(parse("unix:/run/app.sock,name=app").unwrap().address, Address::Unix("/run/app.sock".into()));
    }

    #[test]
    fn each_mistake_is_reported() {
        for (text, wants) in [
            ("", &["the port is missing", "127.0.0.1:80"][..]),
            (":80", &["a backend needs a host", "`:80`"]),
            ("a:0", &["can't be 0"]),
            ("a:1,wieght=3", &["unknown key `wieght`", "did you mean `weight`?", "max-connections=N"]),
            ("a:1,zone=b", &["unknown key `zone`;", "weight=N, name=S, max-connections=N and backup"]),
            ("a:1,weight=65536", &["weight: expected a number from 0 to 65535, got `65536`"]),
            ("a:1,weight=-1", &["weight: ", "`-1`"]),
            ("a:1,weight=", &["weight: ", "got ``"]),
            ("a:1,weight", &["`weight` needs a value, like `weight=5`"]),
            ("a:1,name=", &["name: ", "it is empty"]),
            ("a:1,name=a b", &["name: ", "white space"]),
            ("a:1,max-connections=0", &["max-connections: expected a number from 1", "`0`"]),
            ("a:1,backup=yes", &["`backup` takes no value, got `backup=yes`"]),
            ("a:1,weight=1,weight=2", &["`weight` is given twice"]),
            ("a:1,backup,backup", &["`backup` is given twice"]),
            ("a:1,", &["a key is missing", "weight=N"]),
            ("a:1,,backup", &["a key is missing"]),
        ] {
            let message = parse(text).unwrap_err();
            for want in wants {
                assert!(message.contains(want), "{text}: {message}");
            }
        }
    }

    proptest! {
        #[test]
        fn it_never_panics(text in "\\PC{0,60}") {
            let _ = parse(&text);
        }

        #[test]
        fn it_never_panics_on_almost_right_ones(
            parts in proptest::collection::vec("(weight|name|max-connections|backup|wight|)(=?)[0-9a-z\n -]{0,7}", 0..5)
        ) {
            if let Ok(backend) = parse(&format!("10.0.0.1:80,{}", parts.join(","))) {
                prop_assert!(check::name(&backend.name).is_ok());
                prop_assert!(backend.max_connections != Some(0));
            }
        }

        #[test]
        fn every_backend_round_trips(weight: u16, limit in 1u32.., name in "[a-z0-9.-]{1,20}", backup: bool) {
            let flag = if backup { ",backup" } else { "" };
            let text = format!("web:80,name={name},weight={weight},max-connections={limit}{flag}");
            let at = Backend::at(Address::Name("web".into(), 80));
            let want = Backend { name, weight, max_connections: Some(limit), backup, ..at };
            prop_assert_eq!(parse(&text), Ok(want));
        }
    }
}
