//! Variables that pick the target of `proxy_pass`: `map` of what `ssl_preread` has found, and `geo`.
//!
//! A map looks a value up: exact texts first, then the longest `*.` mask, then regular expressions in order, then `default`. For a
//! server name the value is a region of names (`routing`), so a mask or an expression must be one that names a suffix.

use super::value::SERVER_PORT;
use super::words::Directive;
use crate::import::access;
use crate::import::note::Notes;
use crate::import::routing::{self, Named, Region};
use ipnet::IpNet;
use regex::RegexBuilder;
use std::collections::HashMap;

/// Maps in maps, at most.
const DEPTH_MAX: usize = 10;

/// The blocks that define variables, by their names without `$`.
#[derive(Debug, Default)]
pub struct Variables<'a>(HashMap<&'a str, &'a Directive>);

/// A value, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Text(String),
    /// A server name that ends with this, and that no map names.
    Under(String),
    /// A server name that no map names and that ends with nothing that a map names.
    OtherName,
}

/// What is known of a connection.
#[derive(Clone, Debug)]
pub struct Known<'a> {
    /// Its first bytes.
    pub region: &'a Region,
    /// The version of TLS that it offers, if it does.
    pub version: &'a str,
    /// The port that the client connected to: a number, or [`SERVER_PORT`] where it may be one of several. Empty where it may have none.
    pub port: &'a str,
}

impl<'a> Variables<'a> {
    /// Those of a block `stream`.
    pub fn new(stream: &'a [Directive]) -> Variables<'a> {
        let defined =
            stream.iter().filter(|directive| matches!(directive.name(), "map" | "geo") && directive.block.is_some());
        Variables(
            defined.filter_map(|directive| Some((directive.words.last()?.strip_prefix('$')?, directive))).collect(),
        )
    }

    /// The block `geo` that a text is the variable of.
    pub fn geo(&self, text: &str) -> Option<&'a Directive> {
        let defined = self.0.get(name_of(text)?)?;
        (defined.name() == "geo").then_some(*defined)
    }

    /// Adds the names that maps behind a text know. Rows with keys that are no names are reported, and count as left out.
    pub fn names(&self, text: &str, named: &mut Named, notes: &mut Notes) -> Result<(), String> {
        self.names_within(text, named, notes, 0)
    }

    fn names_within(&self, text: &str, named: &mut Named, notes: &mut Notes, depth: usize) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return Err("maps refer to each other without an end".to_owned());
        }
        for part in parts(text) {
            let Part::Variable(name) = part else { continue };
            let Some(map) = self.0.get(name).filter(|map| map.name() == "map") else { continue };
            let source = map.word(1);
            for row in rows(map) {
                if by_name(map) {
                    match keys(row.name(), hostnames(map)) {
                        Ok((names, suffixes)) => {
                            named.names.extend(names);
                            named.suffixes.extend(suffixes);
                        }
                        Err(why) => {
                            notes.refused(row.line, format!("map {source} ${name}: {}: {why}", row.shown()));
                            continue;
                        }
                    }
                }
                self.names_within(row.word(1), named, notes, depth + 1)?;
            }
            self.names_within(source, named, notes, depth + 1)?;
        }
        Ok(())
    }

    /// The text with the values of its variables.
    pub fn text(&self, text: &str, known: &Known<'_>) -> Result<String, String> {
        match self.value(text, known, 0)? {
            Value::Text(text) => Ok(text),
            Value::Under(_) | Value::OtherName => Err("the server name itself is the target".to_owned()),
        }
    }

    fn value(&self, text: &str, known: &Known<'_>, depth: usize) -> Result<Value, String> {
        if depth > DEPTH_MAX {
            return Err("maps refer to each other without an end".to_owned());
        }
        let parts = parts(text);
        if let [Part::Variable(name)] = parts[..] {
            return self.variable(name, known, depth);
        }
        let mut whole = String::new();
        for part in parts {
            match part {
                Part::Text(text) => whole.push_str(text),
                Part::Variable(name) => match self.variable(name, known, depth)? {
                    Value::Text(text) => whole.push_str(&text),
                    Value::Under(_) | Value::OtherName => {
                        return Err(format!("tcplb can't route by a text with ${name} in it"));
                    }
                },
            }
        }
        Ok(Value::Text(whole))
    }

    fn variable(&self, name: &str, known: &Known<'_>, depth: usize) -> Result<Value, String> {
        let empty = || Ok(Value::Text(String::new()));
        match name {
            "ssl_preread_server_name" => match known.region {
                Region::Name(name) => Ok(Value::Text(name.clone())),
                Region::Suffix(suffix) => Ok(Value::Under(suffix.clone())),
                Region::OtherName => Ok(Value::OtherName),
                _ => empty(),
            },
            "ssl_preread_protocol" if known.region.is_tls() => Ok(Value::Text(known.version.to_owned())),
            "ssl_preread_protocol" => empty(),
            "server_port" if known.port.is_empty() => Err("a client of a unix socket has no $server_port".to_owned()),
            "server_port" => Ok(Value::Text(known.port.to_owned())),
            name => match self.0.get(name) {
                Some(map) if map.name() == "map" => {
                    let value = self.value(map.word(1), known, depth + 1)?;
                    // A text of the file has no $.
                    if matches!(&value, Value::Text(text) if text.contains(SERVER_PORT)) {
                        return Err(format!("a map of {SERVER_PORT} needs a server with one port"));
                    }
                    self.value(looked_up(map, &value)?, known, depth + 1)
                }
                _ => Err(format!("tcplb can't route by ${name}")),
            },
        }
    }
}

/// A piece of a text.
#[derive(Debug, PartialEq, Eq)]
enum Part<'a> {
    Text(&'a str),
    Variable(&'a str),
}

fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        if !before.is_empty() {
            parts.push(Part::Text(before));
        }
        let (name, behind) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(split) => split,
            None => after.split_at(
                after.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').unwrap_or(after.len()),
            ),
        };
        parts.push(Part::Variable(name));
        rest = behind;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest));
    }
    parts
}

/// The name, if the text is a variable and nothing else.
fn name_of(text: &str) -> Option<&str> {
    match parts(text)[..] {
        [Part::Variable(name)] => Some(name),
        _ => None,
    }
}

/// Whether a map looks up the server name itself.
fn by_name(map: &Directive) -> bool {
    name_of(map.word(1)) == Some("ssl_preread_server_name")
}

/// The rows of a map, without its parameters.
fn rows(map: &Directive) -> impl Iterator<Item = &Directive> {
    map.inner().iter().filter(|row| !(row.words.len() == 1 && matches!(row.name(), "hostnames" | "volatile")))
}

fn hostnames(map: &Directive) -> bool {
    map.inner().iter().any(|row| row.words.len() == 1 && row.name() == "hostnames")
}

/// The names and suffixes that the key of a row fits.
fn keys(key: &str, hostnames: bool) -> Result<(Vec<String>, Vec<String>), String> {
    if let Some(pattern) = key.strip_prefix('~') {
        let pattern = pattern.strip_prefix('*').unwrap_or(pattern);
        return routing::of_regex(pattern).ok_or_else(|| format!("tcplb can't route by the expression {key}"));
    }
    let lower = key.trim_start_matches('\\').to_ascii_lowercase();
    let is_name = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    match key {
        "default" | "" => Ok((Vec::new(), Vec::new())),
        // No server name is like this.
        _ if !is_name(lower.strip_prefix("*.").filter(|_| hostnames).unwrap_or(&lower).trim_end_matches(".*")) => {
            Ok((Vec::new(), Vec::new()))
        }
        "include" => Err("a map includes a file, which is not read; put its rows into the map".to_owned()),
        _ if !hostnames => Ok((vec![lower], Vec::new())),
        _ if key.ends_with(".*") => Err(format!("a name of tcplb has no wildcard at its end, as {key} has")),
        _ => Ok(match (lower.strip_prefix("*."), lower.strip_prefix('.')) {
            (Some(rest), _) => (Vec::new(), vec![format!(".{rest}")]),
            (None, Some(rest)) => (vec![rest.to_owned()], vec![lower.clone()]),
            (None, None) => (vec![lower], Vec::new()),
        }),
    }
}

/// The result of a map for a value.
fn looked_up<'a>(map: &'a Directive, value: &Value) -> Result<&'a str, String> {
    let (names, default) = (hostnames(map), rows(map).find(|row| row.name() == "default"));
    let default = default.map_or("", |row| row.word(1));
    let mut best: Option<(usize, &str)> = None;
    let mut by_regex: Option<&str> = None;
    for row in rows(map) {
        let (key, result) = (row.name(), row.word(1));
        if by_name(map) && keys(key, names).is_err() {
            // `names` has reported it.
            continue;
        }
        if key == "include" {
            return Err("a map includes a file, which is not read; put its rows into the map".to_owned());
        }
        if key == "default" {
            continue;
        }
        match (key.strip_prefix('~'), value) {
            (Some(pattern), Value::Text(text)) if by_regex.is_none() => {
                let (pattern, blind) = pattern.strip_prefix('*').map_or((pattern, false), |pattern| (pattern, true));
                let regex = RegexBuilder::new(pattern).case_insensitive(blind).build();
                if regex.map_err(|_| format!("tcplb can't route by the expression {key}"))?.is_match(text) {
                    by_regex = Some(result);
                }
            }
            (Some(_), Value::Under(suffix)) if by_regex.is_none() => {
                if keys(key, names)?.1.iter().any(|behind| suffix.ends_with(behind.as_str())) {
                    by_regex = Some(result);
                }
            }
            (Some(_), _) => {}
            (None, Value::Text(text)) => {
                let (exact, behind) = keys(key, names)?;
                if exact.iter().any(|name| name.eq_ignore_ascii_case(text)) || (key.is_empty() && text.is_empty()) {
                    return Ok(result);
                }
                let fit = behind.iter().filter(|suffix| text.len() > suffix.len() && text.ends_with(suffix.as_str()));
                best = best.max(fit.map(|suffix| (suffix.len(), result)).max());
            }
            (None, Value::Under(under)) => {
                let behind = keys(key, names)?.1;
                let fit = behind.iter().filter(|suffix| under.ends_with(suffix.as_str()));
                best = best.max(fit.map(|suffix| (suffix.len(), result)).max());
            }
            (None, Value::OtherName) => {}
        }
    }
    Ok(best.map(|(_, result)| result).or(by_regex).unwrap_or(default))
}

/// A `geo` block.
#[derive(Debug, PartialEq, Eq)]
pub struct Geo<'a> {
    /// Its prefixes with their values.
    pub nets: Vec<(IpNet, &'a str)>,
    /// The value of every other address.
    pub default: &'a str,
}

/// Reads a `geo` block. The error says what tcplb can't take.
pub fn geo(block: &Directive) -> Result<Geo<'_>, String> {
    if block.words.len() > 2 && block.word(1) != "$remote_addr" {
        return Err(format!("tcplb routes by the client's address, not by {}", block.word(1)));
    }
    let (mut nets, mut default) = (Vec::new(), "");
    for row in block.inner() {
        match row.name() {
            _ if row.word(1).contains('$') => {
                return Err(format!("a geo block has no variables, got `{}`", row.shown()));
            }
            "default" => default = row.word(1),
            "volatile" => {}
            name => match access::prefix(name) {
                Some(net) => nets.push((net, row.word(1))),
                None => return Err(format!("tcplb can't take `{}` of a geo block", row.shown())),
            },
        }
    }
    Ok(Geo { nets, default })
}

#[cfg(test)]
mod tests {
    use super::super::words::directives;
    use super::*;

    const MAPS: &str = r#"
        map $ssl_preread_server_name $name {
            hostnames;
            a.example.com   a;
            .example.org    org;
            *.example.com   wild;
            ~^.+\.deep\.net$ deep;
            default         rest;
        }
        map $ssl_preread_protocol $both { "" ssh; "TLSv1.3" $name; "TLSv1.2" $name; }
        map "$ssl_preread_server_name:1" $odd { default x; }
        map $one $two { default $two; }
    "#;

    fn text(expression: &str, region: &Region) -> Result<String, String> {
        let stream = directives(MAPS).unwrap();
        Variables::new(&stream).text(expression, &Known { region, version: "TLSv1.3", port: "443" })
    }

    #[test]
    fn maps_are_looked_up_as_nginx_does() {
        let named = |name: &str| Region::Name(name.to_owned());
        for (region, want) in [
            (named("a.example.com"), "a"),
            (named("example.org"), "org"),
            (Region::Suffix(".example.com".to_owned()), "wild"),
            (Region::Suffix(".example.org".to_owned()), "org"),
            (Region::Suffix(".deep.net".to_owned()), "deep"),
            (Region::OtherName, "rest"),
            (Region::NoName, "rest"),
        ] {
            assert_eq!(text("$both", &region), Ok(want.to_owned()), "{region:?}");
        }
        assert_eq!(text("$both", &Region::Other), Ok("ssh".to_owned()));
        assert_eq!(text("${both}:22", &Region::Other), Ok("ssh:22".to_owned()));
        for lost in ["$odd", "$two", "$unknown", "$ssl_preread_server_name"] {
            assert!(text(lost, &Region::OtherName).is_err(), "{lost}");
        }
    }

    #[test]
    fn the_names_of_all_maps_are_found() {
        let stream = directives(MAPS).unwrap();
        let mut named = Named::default();
        Variables::new(&stream).names("$both", &mut named, &mut Notes::default()).unwrap();
        assert_eq!(named.names.iter().collect::<Vec<_>>(), ["a.example.com", "example.org"]);
        assert_eq!(named.suffixes.iter().collect::<Vec<_>>(), [".deep.net", ".example.com", ".example.org"]);
    }

    #[test]
    fn a_geo_block_is_prefixes() {
        let block = &directives("geo $g { default a; 10.0.0.0/8 b; }").unwrap()[0];
        let nets = vec![(access::prefix("10.0.0.0/8").unwrap(), "b")];
        assert_eq!(geo(block), Ok(Geo { nets, default: "a" }));
        for bad in ["geo $g { ranges; }", "geo $g { include x; }", "geo $x $g { default a; }"] {
            assert!(geo(&directives(bad).unwrap()[0]).is_err(), "{bad}");
        }
    }
}
