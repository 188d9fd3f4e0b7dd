//! The names of a route: exact ones, and wildcards.

use crate::proto::sniff::name;
use std::fmt;
use std::str::FromStr;

/// What a route compares a client's name with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NamePattern {
    /// This name.
    Exact(Box<str>),
    /// One or more labels, and then this name.
    Below(Box<str>),
}

impl FromStr for NamePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<NamePattern, String> {
        let (kind, rest): (fn(Box<str>) -> NamePattern, _) = match text.strip_prefix("*.") {
            Some(rest) => (NamePattern::Below, rest),
            None => (NamePattern::Exact, text),
        };
        let why = match name::normalized(rest.as_bytes()) {
            Ok(name) => return Ok(kind(name)),
            Err(_) if rest.contains('*') => {
                "`*.` stands for one or more labels in front of a name, and only there".to_owned()
            }
            Err(_) if !text.is_ascii() => "write it in ASCII as clients send it, like xn--bcher-kva.example".to_owned(),
            Err(why) => why.to_string(),
        };
        Err(format!("expected a name like db.example.com or *.example.com, got `{text}`: {why}"))
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NamePattern::Exact(name) => out.write_str(name),
            NamePattern::Below(name) => write!(out, "*.{name}"),
        }
    }
}
