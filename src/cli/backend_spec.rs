//! Parses `--backend ADDR[,weight=N][,name=S][,max-connections=N][,backup]` into a backend of the model.
//!
//! Pure. The keys are those of `[[pool.backend]]` that have a flag. The caller checks that names are unique.

use crate::base::{Address, nearest};
use crate::config::check;
use crate::config::model::Backend;
use crate::config::settings::kinds::Values;
use crate::config::settings::{BACKEND, Listed, Row, Source, Typed};
use crate::config::words::alternatives;

/// Parses one backend. The error shows the wrong part and the accepted values.
pub fn parse(text: &str) -> Result<Backend, String> {
    let mut parts = text.split(',');
    let mut backend = Backend::at(Address::parse_backend(parts.next().unwrap_or_default())?);
    let listed = BACKEND.listed();
    let mut given: Vec<(&'static str, Vec<String>)> = Vec::new();
    for part in parts {
        let (key, value) = match part.split_once('=') {
            Some((key, value)) => (key.trim(), Some(value.trim())),
            None => (part.trim(), None),
        };
        let (known, row) = rows(&listed).find(|(known, _)| *known == key).ok_or_else(|| unknown(key, &listed))?;
        if given.iter().any(|(other, _)| *other == known) {
            return Err(format!("`{known}` is given twice in `{text}`"));
        }
        match (row.values, value) {
            (Values::Switch, Some(value)) => return Err(format!("`{known}` takes no value, got `{known}={value}`")),
            (Values::Switch, None) | (_, Some(_)) => {
                given.push((known, value.map(str::to_owned).into_iter().collect()))
            }
            (_, None) => {
                let example = row.example().trim_matches('"');
                return Err(format!("`{known}` needs a value, like `{known}={example}`"));
            }
        }
    }
    let typed = Typed::new("", given);
    BACKEND.read(&Source::Flags { typed: &typed, flag_of: |key| BACKEND.flag_of(key) }, &mut backend);
    match typed.into_mistakes().into_iter().next() {
        Some(why) => Err(why),
        // Without a name it is called by its address, and the path of a unix socket may hold white space.
        None => check::name(&backend.name).map(|()| backend),
    }
}

/// What may follow the address, each by its name there.
fn rows(listed: &Listed) -> impl Iterator<Item = (&'static str, &Row)> + Clone {
    listed.rows.iter().filter_map(|row| Some((row.about.flag?.long, row)))
}

/// `weight=N`, …
pub fn accepted() -> Vec<String> {
    let listed = BACKEND.listed();
    let shown = |(name, row): (&str, &Row)| match row.values {
        Values::Switch => name.to_owned(),
        values => format!("{name}={}", values.placeholder()),
    };
    rows(&listed).map(shown).collect()
}

fn unknown(key: &str, listed: &Listed) -> String {
    let accepted = accepted();
    let accepted = alternatives(&accepted.iter().map(String::as_str).collect::<Vec<_>>()).replace(" or ", " and ");
    if key.is_empty() {
        return format!(
            "a key is missing between two commas or after the last one; accepted after the address: {accepted}"
        );
    }
    let hint = nearest::hint(key, rows(listed).map(|(name, _)| name));
    let stop = if hint.is_empty() { ";" } else { "" };
    format!("unknown key `{key}`{hint}{stop} accepted after the address: {accepted}")
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
            ("a:1,zone=b", &["unknown key `zone`;", "name=NAME, weight=N, max-connections=N and backup"]),
            ("a:1,weight=65536", &["weight: expected a number from 0 to 65535, got `65536`"]),
            ("a:1,weight=-1", &["weight: ", "`-1`"]),
            ("a:1,weight=", &["weight: ", "got ``"]),
            ("a:1,weight", &["`weight` needs a value, like `weight=5`"]),
            ("a:1,name=", &["name: ", "it is empty"]),
            ("a:1,name=a b", &["name: ", "white space"]),
            ("a:1,max-connections=0", &["max-connections: expected a number from 1", "`0`"]),
            ("unix:/a b", &["expected a name without spaces"]),
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
