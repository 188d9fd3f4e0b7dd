//! Ordered rules about a client's first bytes → routes, of which the one with the most specific name decides.
//!
//! The rules name server names and suffixes. These split all possible beginnings into regions. The rules treat all beginnings of a
//! region alike. A region is a name, a suffix without the names and suffixes within it, every other name, no name, or no TLS.
//! Asking the rules once per region gives the whole answer. A region needs a route only if the next wider one leads elsewhere.

use super::access;
use super::model::{Listener, Route};
use ipnet::IpNet;
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// The pool without backends, which resets its clients. A listener leads what is refused there.
pub const REFUSING: &str = "refused-clients";

/// Beginnings that the rules treat alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Region {
    /// TLS with this server name, in lower case.
    Name(String),
    /// TLS with a name that ends with this suffix, which begins with a dot.
    Suffix(String),
    /// TLS with another name.
    OtherName,
    /// TLS without a name.
    NoName,
    /// An SSH client.
    Ssh,
    /// An HTTP request.
    Http,
    /// Anything else, or nothing.
    Other,
}

impl Region {
    /// Whether it is TLS.
    pub fn is_tls(&self) -> bool {
        !matches!(self, Region::Ssh | Region::Http | Region::Other)
    }
}

/// Where a client goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To this pool.
    Pool(String),
    /// Nowhere: the connection is closed.
    Refuse,
}

impl Target {
    /// The pool that does that.
    pub fn pool(&self) -> String {
        match self {
            Target::Pool(pool) => pool.clone(),
            Target::Refuse => REFUSING.to_owned(),
        }
    }
}

/// What the rules name.
#[derive(Debug, Default)]
pub struct Named {
    /// Exact names, in lower case.
    pub names: BTreeSet<String>,
    /// Suffixes that begin with a dot, in lower case.
    pub suffixes: BTreeSet<String>,
    /// Whether they know SSH.
    pub ssh: bool,
    /// Whether they know HTTP.
    pub http: bool,
}

impl Named {
    /// The longest suffix, other than itself, that fits the name.
    fn around(&self, name: &str) -> Option<&String> {
        let fits = self.suffixes.iter().filter(|suffix| name.len() > suffix.len() && name.ends_with(suffix.as_str()));
        fits.max_by_key(|suffix| suffix.len())
    }
}

/// The routes, and where a client goes that fits none. The error says which difference tcplb does not see.
pub fn routes(
    named: &Named,
    mut decide: impl FnMut(&Region) -> Result<Target, String>,
) -> Result<(Vec<Route>, Target), String> {
    // An unknown name is first: rules that need the name itself have no answer there.
    let (unknown, nameless) = (decide(&Region::OtherName)?, decide(&Region::NoName)?);
    let other = decide(&Region::Other)?;
    if unknown != nameless {
        return Err("the rules treat a TLS client without a server name unlike one with an unknown name".to_owned());
    }
    // By pool, in the order in which the names lead there.
    let mut by_name: Vec<Route> = Vec::new();
    let mut add = |name: String, target: &Target| {
        let pool = target.pool();
        match by_name.iter_mut().find(|route| route.pool == pool) {
            Some(route) => route.sni.push(name),
            None => by_name.push(Route { protocol: Some("tls"), sni: vec![name], pool, ..Route::default() }),
        }
    };
    for (region, name, shown) in named
        .names
        .iter()
        .map(|name| (Region::Name(name.clone()), name, name.clone()))
        .chain(named.suffixes.iter().map(|name| (Region::Suffix(name.clone()), name, format!("*{name}"))))
    {
        let target = decide(&region)?;
        let around = match named.around(name) {
            Some(suffix) => decide(&Region::Suffix(suffix.clone()))?,
            None => unknown.clone(),
        };
        // Where nothing is known of TLS without a name, a route by name beside one with the same pool says nothing.
        if target != around {
            add(shown, &target);
        }
    }
    let mut routes = by_name;
    let mut plain = |protocol, target: &Target| {
        if *target != other {
            routes.push(Route { protocol: Some(protocol), pool: target.pool(), ..Route::default() });
        }
    };
    plain("tls", &unknown);
    if named.ssh {
        plain("ssh", &decide(&Region::Ssh)?);
    }
    if named.http {
        plain("http", &decide(&Region::Http)?);
    }
    Ok((routes, other))
}

/// Routes by the client's address, and where an address goes that fits none. Of these routes the first that fits decides, so longer
/// prefixes stand first.
pub fn by_source(
    nets: impl IntoIterator<Item = IpNet>,
    mut decide: impl FnMut(&IpNet) -> Target,
) -> (Vec<Route>, Target) {
    let rest = decide(&access::every_v6());
    let mut decided = access::decisions(nets, |net| Ok::<_, ()>(decide(net))).unwrap_or_default();
    decided.retain(|(net, target)| net.prefix_len() > 0 || *target != rest);
    decided.sort_by_key(|(net, _)| Reverse(net.prefix_len()));
    let mut routes: Vec<Route> = Vec::new();
    for (net, target) in decided {
        let pool = target.pool();
        match routes.last_mut() {
            Some(route) if route.pool == pool => route.source.push(access::shown(&net)),
            _ => routes.push(Route { source: vec![access::shown(&net)], pool, ..Route::default() }),
        }
    }
    (routes, rest)
}

/// Whether a listener leads a client to this pool.
pub fn leads_to(listener: &Listener, pool: &str) -> bool {
    listener.pool == pool
        || listener.silent_pool.as_deref() == Some(pool)
        || listener.routes.iter().any(|route| route.pool == pool)
}

/// Names and suffixes that a regular expression stands for, if it is one of the simple ones: `^www\.example\.com$`,
/// `^(.*\.)?example\.com$`, `\.example\.com$`. The answer is exact or `None`.
pub fn of_regex(pattern: &str) -> Option<(Vec<String>, Vec<String>)> {
    let (open, rest) = match pattern.strip_prefix('^') {
        Some(rest) => (false, rest),
        None => (true, pattern),
    };
    let rest = rest.strip_suffix('$')?;
    let starts: [(&str, bool, bool); 6] = [
        (r"(.*\.)?", true, true),
        (r"(.+\.)?", true, true),
        (r"(?:.*\.)?", true, true),
        (r"(.*)\.", false, true),
        (r".*\.", false, true),
        (r".+\.", false, true),
    ];
    let (start, exact, suffix) =
        starts.into_iter().find(|(start, ..)| rest.starts_with(start)).unwrap_or(("", true, false));
    let literal = literal(rest.strip_prefix(start)?)?;
    match (open && start.is_empty(), literal.strip_prefix('.')) {
        // Without an anchor, only a name behind a dot is a suffix.
        (true, Some(_)) => Some((Vec::new(), vec![literal])),
        (true, None) => None,
        (false, Some(_)) => None,
        (false, None) => {
            let suffix = suffix.then(|| format!(".{literal}"));
            Some((exact.then_some(literal).into_iter().collect(), suffix.into_iter().collect()))
        }
    }
}

/// The text that a regular expression without operators matches, in lower case. An unescaped dot counts as a dot.
fn literal(pattern: &str) -> Option<String> {
    let mut text = String::new();
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => text.push(letters.next().filter(|next| matches!(next, '.' | '-' | '_'))?),
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.' => text.push(letter.to_ascii_lowercase()),
            _ => return None,
        }
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str], suffixes: &[&str]) -> Named {
        let set = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Named { names: set(names), suffixes: set(suffixes), ssh: true, http: false }
    }

    fn pool(name: &str) -> Target {
        Target::Pool(name.to_owned())
    }

    #[test]
    fn only_regions_that_differ_from_the_wider_one_get_a_route() {
        let named = named(&["a.example.com", "b.example.com", "c.org"], &[".example.com", ".deep.example.com"]);
        let (routes, rest) = routes(&named, |region| {
            Ok(match region {
                Region::Name(name) if name == "b.example.com" => pool("b"),
                Region::Name(name) if name == "c.org" => pool("c"),
                Region::Name(_) | Region::Suffix(_) => pool("wild"),
                Region::OtherName | Region::NoName => pool("tls"),
                Region::Ssh => Target::Refuse,
                Region::Http | Region::Other => pool("rest"),
            })
        })
        .unwrap();
        let shown: Vec<(Option<&str>, String, &str)> =
            routes.iter().map(|route| (route.protocol, route.sni.join(" "), route.pool.as_str())).collect();
        assert_eq!(rest, pool("rest"));
        assert_eq!(
            shown,
            [
                (Some("tls"), "b.example.com".to_owned(), "b"),
                (Some("tls"), "c.org".to_owned(), "c"),
                (Some("tls"), "*.example.com".to_owned(), "wild"),
                (Some("tls"), String::new(), "tls"),
                (Some("ssh"), String::new(), REFUSING),
            ]
        );
    }

    #[test]
    fn a_client_without_a_name_that_goes_elsewhere_is_an_error() {
        let decided =
            routes(&named(&[], &[]), |region| Ok(if *region == Region::NoName { Target::Refuse } else { pool("web") }));
        assert!(decided.unwrap_err().contains("without a server name"));
    }

    #[test]
    fn simple_expressions_are_names() {
        for (pattern, names, suffixes) in [
            (r"^www\.example\.com$", &["www.example.com"][..], &[][..]),
            (r"^(.*\.)?example\.com$", &["example.com"], &[".example.com"]),
            (r"^.*\.example\.com$", &[], &[".example.com"]),
            (r".*\.Example.com$", &[], &[".example.com"]),
            (r"\.example\.com$", &[], &[".example.com"]),
        ] {
            let (found, behind) = of_regex(pattern).unwrap();
            assert_eq!((found.as_slice(), behind.as_slice()), (&*strings(names), &*strings(suffixes)), "{pattern}");
        }
        for pattern in
            ["example", r"example\.com$", "^a", r"^(a|b)\.com$", r"^\d+\.com$", "^$", r"^[^.]+\.example\.com$"]
        {
            assert_eq!(of_regex(pattern), None, "{pattern}");
        }
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }
}
