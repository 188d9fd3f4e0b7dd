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
use regex::{Regex, RegexBuilder};
use std::collections::{HashMap, HashSet};

/// Maps in maps, at most.
const DEPTH_MAX: usize = 10;

/// The longest text with variables, in bytes. Texts of texts would grow without a bound.
const TEXT_MAX: usize = 1000;

/// The blocks that define variables, by their names without `$`.
#[derive(Debug, Default)]
pub struct Variables<'a> {
    maps: HashMap<&'a str, Map<'a>>,
    geos: HashMap<&'a str, &'a Directive>,
}

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
        let mut variables = Variables::default();
        for block in stream.iter().filter(|directive| directive.block.is_some()) {
            let Some(name) = block.words.last().and_then(|word| word.strip_prefix('$')) else { continue };
            match block.name() {
                "map" => drop(variables.maps.insert(name, Map::new(block))),
                "geo" => drop(variables.geos.insert(name, block)),
                _ => {}
            }
        }
        variables
    }

    /// The block `geo` that a text is the variable of.
    pub fn geo(&self, text: &str) -> Option<&'a Directive> {
        self.geos.get(name_of(text)?).copied()
    }

    /// Adds the names that maps behind a text know. Rows with keys that are no names are reported, and count as left out.
    pub fn names<'s>(&'s self, text: &'s str, named: &mut Named, notes: &mut Notes) {
        // Maps share their results, so each is visited once.
        let (mut visited, mut open) = (HashSet::new(), vec![text]);
        while let Some(text) = open.pop() {
            for part in parts(text) {
                let Part::Variable(name) = part else { continue };
                let Some(map) = self.maps.get(name).filter(|_| visited.insert(name)) else { continue };
                open.push(map.source);
                open.extend(map.results());
                if !map.is_by_name() {
                    continue;
                }
                named.names.extend(map.names().filter(|name| is_name(name)).cloned());
                named.suffixes.extend(map.suffixes().filter(|suffix| is_name(suffix)).cloned());
                for (row, why) in &map.lost {
                    notes.refused(row.line, format!("map {} ${name}: {}: {why}", map.source, row.shown()));
                }
            }
        }
    }

    /// The text with the values of its variables.
    pub fn text(&self, text: &str, known: &Known<'_>) -> Result<String, String> {
        match (Evaluation { variables: self, known, values: HashMap::new() }).value(text, 0)? {
            Value::Text(text) => Ok(text),
            Value::Under(_) | Value::OtherName => Err("the server name itself is the target".to_owned()),
        }
    }
}

/// Looks variables up for a connection, each map once.
struct Evaluation<'e, 'a> {
    variables: &'e Variables<'a>,
    known: &'e Known<'e>,
    /// The values of maps.
    values: HashMap<String, Value>,
}

impl Evaluation<'_, '_> {
    fn value(&mut self, text: &str, depth: usize) -> Result<Value, String> {
        if depth > DEPTH_MAX {
            return Err("maps refer to each other without an end".to_owned());
        }
        let parts = parts(text);
        if let [Part::Variable(name)] = parts[..] {
            return self.variable(name, depth);
        }
        let mut whole = String::new();
        for part in parts {
            match part {
                Part::Text(text) => whole.push_str(text),
                Part::Variable(name) => match self.variable(name, depth)? {
                    Value::Text(text) => whole.push_str(&text),
                    Value::Under(_) | Value::OtherName => {
                        return Err(format!("tcplb can't route by a text with ${name} in it"));
                    }
                },
            }
            if whole.len() > TEXT_MAX {
                return Err(format!("expected a text of at most {TEXT_MAX} bytes"));
            }
        }
        Ok(Value::Text(whole))
    }

    fn variable(&mut self, name: &str, depth: usize) -> Result<Value, String> {
        let empty = || Ok(Value::Text(String::new()));
        match name {
            "ssl_preread_server_name" => match self.known.region {
                Region::Name(name) => Ok(Value::Text(name.clone())),
                Region::Suffix(suffix) => Ok(Value::Under(suffix.clone())),
                Region::OtherName => Ok(Value::OtherName),
                _ => empty(),
            },
            "ssl_preread_protocol" if self.known.region.is_tls() => Ok(Value::Text(self.known.version.to_owned())),
            "ssl_preread_protocol" => empty(),
            "server_port" if self.known.port.is_empty() => {
                Err("a client of a unix socket has no $server_port".to_owned())
            }
            "server_port" => Ok(Value::Text(self.known.port.to_owned())),
            name => {
                if let Some(value) = self.values.get(name) {
                    return Ok(value.clone());
                }
                let map = self.variables.maps.get(name).ok_or_else(|| format!("tcplb can't route by ${name}"))?;
                let source = self.value(map.source, depth + 1)?;
                let value = self.value(map.result(&source)?, depth + 1)?;
                self.values.insert(name.to_owned(), value.clone());
                Ok(value)
            }
        }
    }
}

/// A block `map`, whose rows are sorted by how nginx looks them up.
#[derive(Debug)]
struct Map<'a> {
    source: &'a str,
    /// Texts in lower case, with their results.
    exact: HashMap<String, &'a str>,
    /// Ends of names, which begin with a dot, with their results.
    behind: HashMap<String, &'a str>,
    /// Regular expressions, in the order of the file.
    patterns: Vec<Pattern<'a>>,
    default: &'a str,
    /// Rows that no route can stand for, with the reason.
    lost: Vec<(&'a Directive, String)>,
}

/// A row of a map with a regular expression.
#[derive(Debug)]
struct Pattern<'a> {
    regex: Regex,
    /// The names and the suffixes that it stands for, in a map of the server name.
    names: Vec<String>,
    suffixes: Vec<String>,
    result: &'a str,
}

impl<'a> Map<'a> {
    fn new(block: &'a Directive) -> Map<'a> {
        let is_parameter = |row: &Directive, name: &str| row.words.len() == 1 && row.name() == name;
        let hostnames = block.inner().iter().any(|row| is_parameter(row, "hostnames"));
        let mut map = Map {
            source: block.word(1),
            exact: HashMap::new(),
            behind: HashMap::new(),
            patterns: Vec::new(),
            default: "",
            lost: Vec::new(),
        };
        let rows = block.inner().iter();
        for row in rows.filter(|row| !is_parameter(row, "hostnames") && !is_parameter(row, "volatile")) {
            let (key, result) = (row.name(), row.word(1));
            match key {
                "default" => map.default = result,
                "include" => {
                    let why = "the file is not read; put its rows into the map";
                    map.lost.push((row, why.to_owned()));
                }
                _ if key.starts_with('~') => match map.pattern(key, result) {
                    Some(pattern) => map.patterns.push(pattern),
                    None => map.lost.push((row, format!("tcplb can't route by the expression {key}"))),
                },
                _ if hostnames && key.ends_with(".*") => {
                    map.lost.push((row, format!("a name of tcplb has no wildcard at its end, as {key} has")));
                }
                _ => {
                    let text = key.trim_start_matches('\\').to_ascii_lowercase();
                    match (text.strip_prefix("*."), text.strip_prefix('.')) {
                        (Some(rest), _) if hostnames => drop(map.behind.insert(format!(".{rest}"), result)),
                        (_, Some(rest)) if hostnames => {
                            map.exact.insert(rest.to_owned(), result);
                            map.behind.insert(text, result);
                        }
                        _ => drop(map.exact.insert(text, result)),
                    }
                }
            }
        }
        map
    }

    fn pattern(&self, key: &str, result: &'a str) -> Option<Pattern<'a>> {
        let pattern = key.strip_prefix('~')?;
        let (pattern, blind) = pattern.strip_prefix('*').map_or((pattern, false), |pattern| (pattern, true));
        let regex = RegexBuilder::new(pattern).case_insensitive(blind).build().ok()?;
        let (names, suffixes) = if self.is_by_name() { routing::of_regex(pattern)? } else { Default::default() };
        Some(Pattern { regex, names, suffixes, result })
    }

    /// Whether it looks up the server name itself.
    fn is_by_name(&self) -> bool {
        name_of(self.source) == Some("ssl_preread_server_name")
    }

    fn names(&self) -> impl Iterator<Item = &String> {
        self.exact.keys().chain(self.patterns.iter().flat_map(|pattern| &pattern.names))
    }

    fn suffixes(&self) -> impl Iterator<Item = &String> {
        self.behind.keys().chain(self.patterns.iter().flat_map(|pattern| &pattern.suffixes))
    }

    fn results(&self) -> impl Iterator<Item = &'a str> {
        let patterns = self.patterns.iter().map(|pattern| pattern.result);
        self.exact.values().chain(self.behind.values()).copied().chain(patterns).chain([self.default])
    }

    /// The result for a value.
    fn result(&self, value: &Value) -> Result<&'a str, String> {
        // The parts of a name that begin with a dot, the longest first.
        let ends = |name: &str| {
            let mut ends = name.match_indices('.').map(|(at, _)| &name[at..]);
            ends.find_map(|end| self.behind.get(end).copied())
        };
        // `Variables::names` has reported the rows that are lost.
        if let (false, Some((row, why))) = (self.is_by_name(), self.lost.first()) {
            return Err(format!("map {}: {}: {why}", self.source, row.shown()));
        }
        let found = match value {
            // A text of the file has no $.
            Value::Text(text) if text.contains(SERVER_PORT) => {
                return Err(format!("a map of {SERVER_PORT} needs a server with one port"));
            }
            Value::Text(text) => {
                let lower = text.to_ascii_lowercase();
                let by_end = || ends(lower.get(1..)?);
                let by_pattern = || self.patterns.iter().find(|pattern| pattern.regex.is_match(text));
                let exact = self.exact.get(&lower).copied();
                exact.or_else(by_end).or_else(|| by_pattern().map(|pattern| pattern.result))
            }
            Value::Under(_) | Value::OtherName if !self.is_by_name() => {
                return Err(format!("tcplb can't route by a map of {}", self.source));
            }
            Value::Under(under) => ends(under).or_else(|| {
                let is_under =
                    |pattern: &&Pattern<'_>| pattern.suffixes.iter().any(|suffix| under.ends_with(suffix.as_str()));
                self.patterns.iter().find(is_under).map(|pattern| pattern.result)
            }),
            Value::OtherName => None,
        };
        Ok(found.unwrap_or(self.default))
    }
}

/// Whether it may be a server name, or the end of one.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
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
        map "$ssl_preread_protocol:$server_port" $text { TLSv1.3:443 a:1; default b; }
        map $ssl_preread_server_name $self { a.example.com a; default $ssl_preread_server_name; }
        map $self $again { b.example.com b; default rest; }
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
        assert_eq!(text("$text", &Region::OtherName), Ok("a:1".to_owned()));
        for lost in ["$odd", "$two", "$unknown", "$ssl_preread_server_name", "$again"] {
            assert!(text(lost, &Region::OtherName).is_err(), "{lost}");
        }
    }

    #[test]
    fn the_names_of_all_maps_are_found() {
        let stream = directives(MAPS).unwrap();
        let mut named = Named::default();
        Variables::new(&stream).names("$both", &mut named, &mut Notes::default());
        assert_eq!(named.names.iter().collect::<Vec<_>>(), ["a.example.com", "example.org"]);
        assert_eq!(named.suffixes.iter().collect::<Vec<_>>(), [".deep.net", ".example.com", ".example.org"]);
    }

    /// Each map is looked up once, however many rows lead to it, and a text has a length.
    #[test]
    fn maps_of_maps_end() {
        let chain = |row: &dyn Fn(usize) -> String| -> String {
            (0..9).map(|number| format!("map $ssl_preread_server_name $v{number} {{ {} }}\n", row(number))).collect()
        };
        let wide = chain(&|number| {
            let rows = (0..50).map(|row| format!("n{row}.v{number}.org $v{};", number + 1));
            rows.collect::<String>() + &format!("default $v{};", number + 1)
        }) + "map $ssl_preread_server_name $v9 { default end; }";
        let stream = directives(&wide).unwrap();
        let (variables, mut named) = (Variables::new(&stream), Named::default());
        variables.names("$v0", &mut named, &mut Notes::default());
        assert_eq!(named.names.len(), 9 * 50);
        let known = Known { region: &Region::OtherName, version: "", port: "443" };
        assert_eq!(variables.text("$v0", &known), Ok("end".to_owned()));

        let long = chain(&|number| format!("default {};", format!("$v{}", number + 1).repeat(50)));
        let stream = directives(&(long + "map $ssl_preread_server_name $v9 { default end; }")).unwrap();
        let variables = Variables::new(&stream);
        variables.names("$v0", &mut Named::default(), &mut Notes::default());
        assert!(variables.text("$v0", &known).unwrap_err().contains("at most 1000 bytes"));
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
