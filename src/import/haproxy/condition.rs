//! ACLs and the conditions of rules, as far as tcplb can test the same.

use super::words::Line;
use crate::import::access;
use crate::import::routing;
use ipnet::IpNet;
use std::collections::{BTreeSet, HashMap};

/// What one ACL looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// It always holds, or never.
    Always(bool),
    /// The client's address is in one of these.
    Source(BTreeSet<IpNet>),
    /// The client's address is in this file.
    SourceFile(String),
    /// The client begins TLS.
    Tls,
    /// The server name is one of these, or ends with one of those.
    Name(Vec<String>, Vec<String>),
    /// There is a server name.
    AnyName,
    /// The client begins SSH.
    Ssh,
    /// The client sends an HTTP request.
    Http,
    /// The source has more connections at once, or per period, than this.
    Limit(Limit),
    /// tcplb can't test it.
    Unknown(String),
}

/// A limit of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Connections per period of the stick table, or at once.
    pub rate: bool,
    /// So many are allowed.
    pub most: u64,
    /// The stick table that counts; without it the one that the rule tracks.
    pub table: Option<String>,
}

/// Part of a condition: any of the tests, or none of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    pub negated: bool,
    pub tests: Vec<Test>,
}

/// A condition. Without one, a rule always applies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// `unless`.
    negated: bool,
    /// Any of these has to hold: all terms of it.
    any: Vec<Vec<Term>>,
}

impl Condition {
    /// All tests in it.
    pub fn tests(&self) -> impl Iterator<Item = &Test> {
        self.any.iter().flatten().flat_map(|term| &term.tests)
    }

    /// The limit, if the condition is nothing else.
    pub fn as_limit(&self) -> Option<&Limit> {
        match (self.negated, &self.any[..]) {
            (false, [terms]) => match &terms[..] {
                [Term { negated: false, tests }] => match &tests[..] {
                    [Test::Limit(limit)] => Some(limit),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        }
    }

    /// The file of addresses, if the condition is nothing else; and whether the client is in it or not.
    pub fn as_file(&self) -> Option<(&str, bool)> {
        match &self.any[..] {
            [terms] => match &terms[..] {
                [Term { negated, tests }] => match &tests[..] {
                    [Test::SourceFile(file)] => Some((file, *negated == self.negated)),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether it holds, given the answer to each test.
    pub fn holds(&self, mut answer: impl FnMut(&Test) -> bool) -> bool {
        if self.any.is_empty() {
            return !self.negated;
        }
        let mut term = |term: &Term| term.tests.iter().any(&mut answer) != term.negated;
        self.any.iter().any(|terms| terms.iter().all(&mut term)) != self.negated
    }
}

/// The named ACLs of a proxy.
#[derive(Debug, Default)]
pub struct Acls(HashMap<String, Vec<Test>>);

impl Acls {
    /// Those of these lines; several lines of one name are alternatives.
    pub fn new(lines: &[Line]) -> Acls {
        let mut named: HashMap<String, Vec<Test>> = HashMap::new();
        for line in lines {
            let words: Vec<&str> = line.from(2).collect();
            let tests = named.entry(line.word(1).to_owned()).or_default();
            match (test(&words), tests.last_mut()) {
                // One set, since there may be thousands of lines.
                (Test::Source(more), Some(Test::Source(nets))) => nets.extend(more),
                (test, _) => tests.push(test),
            }
        }
        Acls(named)
    }

    fn named(&self, name: &str) -> Vec<Test> {
        let one = |test| vec![test];
        match self.0.get(name) {
            Some(tests) => tests.clone(),
            None => match name {
                "TRUE" | "WAIT_END" | "REQ_CONTENT" => one(Test::Always(true)),
                "FALSE" => one(Test::Always(false)),
                "HTTP" => one(Test::Http),
                "LOCALHOST" => one(test(&["src", "127.0.0.1/8", "::1"])),
                name => one(Test::Unknown(format!("the ACL {name}"))),
            },
        }
    }

    /// The condition behind `if` or `unless`, at this word of the line.
    pub fn condition(&self, line: &Line, at: usize) -> Result<Condition, String> {
        let negated = match line.word(at) {
            "" => return Ok(Condition::default()),
            "if" => false,
            "unless" => true,
            word => return Err(format!("expected if or unless, got `{word}`")),
        };
        let words: Vec<&str> = line.from(at + 1).collect();
        let mut any = vec![Vec::new()];
        let (mut next, mut inverted) = (0, false);
        while let Some(word) = words.get(next) {
            next += 1;
            let (not, word) = (word.len() - word.trim_start_matches('!').len(), word.trim_start_matches('!'));
            inverted ^= not % 2 == 1;
            let tests = match word {
                "" => continue,
                "or" | "||" => {
                    any.push(Vec::new());
                    continue;
                }
                "{" => {
                    let length = words[next..].iter().position(|word| *word == "}").ok_or("a { is not closed")?;
                    let inner = &words[next..next + length];
                    next += length + 1;
                    vec![test(inner)]
                }
                name => self.named(name),
            };
            if let Some(terms) = any.last_mut() {
                terms.push(Term { negated: inverted, tests });
            }
            inverted = false;
        }
        if any.iter().any(Vec::is_empty) {
            return Err("expected an ACL".to_owned());
        }
        Ok(Condition { negated, any })
    }
}

/// The values of an ACL, and how they are compared.
#[derive(Debug, Default)]
struct Values<'a> {
    method: &'a str,
    file: Option<&'a str>,
    operator: &'a str,
    values: Vec<&'a str>,
}

fn values<'a>(words: &[&'a str]) -> Values<'a> {
    let mut all = Values::default();
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let value = words.get(at + 1).copied().unwrap_or_default();
        match *word {
            "-i" | "-n" | "-M" => {}
            "-m" => (all.method, at) = (value, at + 1),
            "-f" => (all.file, at) = (Some(value), at + 1),
            "-u" => at += 1,
            "--" => {
                all.values.extend(&words[at + 1..]);
                break;
            }
            "gt" | "ge" | "lt" | "le" | "eq" if all.values.is_empty() => all.operator = word,
            word => all.values.push(word),
        }
        at += 1;
    }
    all
}

/// What a criterion with its values tests.
fn test(words: &[&str]) -> Test {
    let unknown = || Test::Unknown(format!("`{}`", words.join(" ")));
    let Some((criterion, rest)) = words.split_first() else { return unknown() };
    // A comma in parentheses separates arguments.
    let end = criterion.find(')').map_or(0, |end| end + 1);
    let end = criterion[end..].find(',').map_or(criterion.len(), |comma| end + comma);
    let (sample, converters) = (&criterion[..end], criterion[end..].trim_start_matches(','));
    let (name, argument) =
        sample.split_once('(').map_or((sample, ""), |(name, rest)| (name, rest.trim_end_matches(')')));
    let values = values(rest);
    if !matches!(converters, "" | "lower") {
        return unknown();
    }
    match name {
        "always_true" | "wait_end" => Test::Always(true),
        "always_false" => Test::Always(false),
        "src" => match (values.file, &values.values[..]) {
            (Some(file), []) => Test::SourceFile(file.to_owned()),
            (None, values) => {
                match values.iter().map(|value| access::prefix(value)).collect::<Option<BTreeSet<IpNet>>>() {
                    Some(nets) if !nets.is_empty() => Test::Source(nets),
                    _ => unknown(),
                }
            }
            _ => unknown(),
        },
        "req_ssl_sni" | "req.ssl_sni" if values.file.is_none() => names(&values).unwrap_or_else(unknown),
        "req_ssl_hello_type" | "req.ssl_hello_type" if values.values == ["1"] => Test::Tls,
        "req_ssl_ver" | "req.ssl_ver" if values.operator == "gt" && matches!(values.values[..], ["0" | "3"]) => {
            Test::Tls
        }
        "req_proto_http" | "req.proto_http" => Test::Http,
        "req_len" | "req.len" if values.operator == "gt" && values.values == ["0"] => Test::Always(true),
        "payload" | "req.payload" | "req_payload" if argument.starts_with("0,") && is_ssh(&values) => Test::Ssh,
        _ => limit(name, argument, &values).map_or_else(unknown, Test::Limit),
    }
}

/// The server names that these values fit.
fn names(values: &Values<'_>) -> Option<Test> {
    let (mut names, mut suffixes) = (Vec::new(), Vec::new());
    if values.method == "found" {
        return Some(Test::AnyName);
    }
    for value in &values.values {
        let value = value.to_ascii_lowercase();
        match values.method {
            "" | "str" => names.push(value),
            // HAProxy compares letters, tcplb whole labels: `a.com` would also fit `ba.com`.
            "end" | "dom" => match value.strip_prefix('.') {
                Some(_) => suffixes.push(value),
                None => {
                    suffixes.push(format!(".{value}"));
                    names.push(value);
                }
            },
            "reg" => {
                let (exact, behind) = routing::of_regex(&value)?;
                names.extend(exact);
                suffixes.extend(behind);
            }
            _ => return None,
        }
    }
    let is_name = |name: &String| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    let good = names.iter().chain(&suffixes).all(is_name) && !(names.is_empty() && suffixes.is_empty());
    good.then_some(Test::Name(names, suffixes))
}

/// Whether the values are the beginning of an identification string of SSH.
fn is_ssh(values: &Values<'_>) -> bool {
    let [value] = values.values[..] else { return false };
    match values.method {
        "bin" => value.to_ascii_lowercase().starts_with("535348"),
        "" | "str" | "beg" => value.starts_with("SSH"),
        _ => false,
    }
}

fn limit(name: &str, argument: &str, values: &Values<'_>) -> Option<Limit> {
    let counter = name.strip_prefix("src_").or_else(|| {
        let rest = name.strip_prefix("sc")?.trim_start_matches(|letter: char| letter.is_ascii_digit());
        rest.strip_prefix('_')
    })?;
    let rate = match counter {
        "conn_cur" => false,
        "conn_rate" => true,
        _ => return None,
    };
    let [value] = values.values[..] else { return None };
    let value: u64 = value.parse().ok()?;
    let most = match values.operator {
        "gt" => value,
        "ge" => value.checked_sub(1)?,
        _ => return None,
    };
    // `sc_conn_cur(0,TABLE)` has the number of the counter first.
    let table = argument.split(',').next_back().filter(|table| !table.is_empty() && table.parse::<u8>().is_err());
    (most > 0).then(|| Limit { rate, most, table: table.map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use super::super::words::lines;
    use super::*;

    fn condition(text: &str) -> Condition {
        let line = &lines(text).unwrap()[0];
        Acls::default().condition(line, 0).unwrap()
    }

    fn only(text: &str) -> Test {
        let condition = condition(&format!("if {{ {text} }}"));
        condition.tests().next().unwrap().clone()
    }

    fn name(names: &[&str], suffixes: &[&str]) -> Test {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Test::Name(owned(names), owned(suffixes))
    }

    #[test]
    fn criteria_are_understood_or_unknown() {
        assert_eq!(only("req_ssl_sni -i A.com b.com"), name(&["a.com", "b.com"], &[]));
        assert_eq!(only("req.ssl_sni,lower -m end .a.com"), name(&[], &[".a.com"]));
        assert_eq!(only("req.ssl_sni -i -m dom a.com"), name(&["a.com"], &[".a.com"]));
        assert_eq!(only("req.ssl_sni -m reg ^(.*\\.)?a\\.com$"), name(&["a.com"], &[".a.com"]));
        assert_eq!(only("req.ssl_sni -m found"), Test::AnyName);
        assert_eq!(only("req_ssl_hello_type 1"), Test::Tls);
        assert_eq!(only("payload(0,7) -m bin 5353482d322e30"), Test::Ssh);
        assert_eq!(only("req.payload(0,4) -m str SSH-"), Test::Ssh);
        assert_eq!(only("src -f /etc/deny.lst"), Test::SourceFile("/etc/deny.lst".to_owned()));
        let limit =
            |rate, most, table: Option<&str>| Test::Limit(Limit { rate, most, table: table.map(str::to_owned) });
        assert_eq!(only("src_conn_cur ge 10"), limit(false, 9, None));
        assert_eq!(only("sc0_conn_rate gt 20"), limit(true, 20, None));
        assert_eq!(only("src_conn_rate(t) gt 20"), limit(true, 20, Some("t")));
        assert_eq!(only("sc_conn_rate(0) gt 20"), limit(true, 20, None));
        for unknown in [
            "dst_port 80",
            "req.ssl_sni -m sub a",
            "req.ssl_sni -f names",
            "src -n web",
            "nbsrv(a) lt 1",
            "src",
            "req.ssl_sni,field(1,.) a",
            "src_conn_cur lt 3",
        ] {
            assert!(matches!(only(unknown), Test::Unknown(_)), "{unknown}");
        }
    }

    #[test]
    fn conditions_combine_as_haproxy_s() {
        for (text, holding, want) in [
            ("if a b", "a", false),
            ("if a or b", "b", true),
            ("if a !b", "a", true),
            ("if !a || b", "a", false),
            ("unless a", "a", false),
            ("unless ! a", "a", true),
            ("unless a b", "a", true),
        ] {
            let held = Test::Unknown(format!("the ACL {holding}"));
            assert_eq!(condition(text).holds(|test| *test == held), want, "{text} {holding}");
        }
        assert!(Condition::default().holds(|_| false));
        for bad in ["if", "if a or", "if { src 1.2.3.4", "when a"] {
            assert!(Acls::default().condition(&lines(bad).unwrap()[0], 0).is_err(), "{bad}");
        }
    }
}
