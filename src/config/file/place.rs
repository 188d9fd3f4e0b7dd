//! Remarks on a configuration, and the lines of its file that they are about.
//!
//! What is wrong in a file is noted while it is read ([`super::table`]). A remark follows from the model, which has no lines: it
//! names a section and a key, and [`Lines`] finds these in the text.

use super::MISTAKES_MAX;
use super::table::Notes;
use crate::config::model::defaults;
use crate::config::settings::{LISTENER, ROUTE, Section};
use ipnet::IpNet;
use std::fmt;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A sentence about a part of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    place: Option<Place>,
    text: String,
}

/// A key of a section, or the section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    section: Within,
    key: Option<&'static str>,
}

/// A section. Names are those of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Within {
    /// `[global]`.
    Global,
    /// The listener of this name.
    Listener(String),
    /// The route with this index of a listener.
    Route(String, usize),
    /// The pool of this name.
    Pool(String),
    /// The health checks of a pool.
    Health(String),
    /// A backend of a pool.
    Backend(String, String),
    /// The source with this index of a pool.
    Discover(String, usize),
}

impl Within {
    /// A key of the section.
    pub fn key(self, key: &'static str) -> Place {
        Place { section: self, key: Some(key) }
    }
}

impl From<Within> for Place {
    fn from(section: Within) -> Place {
        Place { section, key: None }
    }
}

impl Remark {
    /// About this place.
    pub fn new(place: impl Into<Place>, text: impl Into<String>) -> Remark {
        Remark { place: Some(place.into()), text: text.into() }
    }

    /// About no part in particular.
    pub fn anywhere(text: impl Into<String>) -> Remark {
        Remark { place: None, text: text.into() }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

/// A file that has been read without a mistake.
pub struct Lines<'a> {
    name: &'a str,
    notes: Notes<'a>,
    document: Option<Spanned<DeTable<'a>>>,
}

type Value<'a> = Spanned<DeValue<'a>>;

impl<'a> Lines<'a> {
    /// Of this text; `name` is what messages call the file.
    pub fn new(text: &'a str, name: &'a str) -> Lines<'a> {
        Lines { name, notes: Notes::new(text), document: DeTable::parse(text).ok() }
    }

    /// The remark behind `file:line`, or alone if the file says nothing there.
    pub fn located(&self, remark: &Remark) -> String {
        match remark.place.as_ref().and_then(|place| self.offset(place)) {
            Some(at) => format!("{}:{}: {remark}", self.name, self.notes.line(at)),
            None => remark.to_string(),
        }
    }

    /// Prefixes with bits beyond their length, like 10.0.0.1/8. The model has them without these bits, and one that meant a single
    /// address takes many.
    pub fn loose_prefixes(&self) -> Vec<String> {
        let Some(document) = &self.document else { return Vec::new() };
        let mut loose = Vec::new();
        for listener in entries(document.get_ref(), LISTENER.name).filter_map(table) {
            loose.extend(self.loose_in(listener, &LISTENER));
            loose.extend(entries(listener, "route").filter_map(table).flat_map(|route| self.loose_in(route, &ROUTE)));
        }
        loose.truncate(MISTAKES_MAX);
        loose
    }

    fn loose_in<S>(&self, table: &DeTable<'_>, section: &Section<S>) -> Vec<String> {
        let keys = section.settings.iter().filter(|setting| setting.values().are_prefixes());
        let of_key = |key: &'static str| {
            entries(table, key).filter_map(move |value| {
                let net: IpNet = value.get_ref().as_str()?.parse().ok()?;
                let line = self.notes.line(value.span().start);
                let what = format!("{key}: `{net}` is {}: bits beyond the prefix do not count", net.trunc());
                (net.trunc() != net).then(|| format!("{}:{line}: {what}", self.name))
            })
        };
        keys.flat_map(|setting| of_key(setting.about.key)).collect()
    }

    /// Where the key stands, or where its section begins.
    fn offset(&self, place: &Place) -> Option<usize> {
        let root = self.document.as_ref()?.get_ref();
        let listener = |name: &str| named(root, "listener", name, "name");
        let pool = |name: &str| named(root, "pool", name, "name");
        let section = match &place.section {
            Within::Global => root.get("global"),
            Within::Listener(name) => listener(name),
            Within::Route(name, index) => listener(name).and_then(|it| entries(table(it)?, "route").nth(*index)),
            Within::Pool(name) => pool(name),
            Within::Health(name) => pool(name).map(|it| table(it).and_then(|it| it.get("health")).unwrap_or(it)),
            Within::Backend(name, backend) => {
                pool(name).and_then(|it| named(table(it)?, "backend", backend, "address"))
            }
            Within::Discover(name, index) => pool(name).and_then(|it| entries(table(it)?, "discover").nth(*index)),
        }?;
        let value = place.key.and_then(|key| table(section)?.get(key)).unwrap_or(section);
        Some(value.span().start)
    }
}

fn table<'d, 'a>(value: &'d Value<'a>) -> Option<&'d DeTable<'a>> {
    value.get_ref().as_table()
}

fn entries<'d, 'a>(within: &'d DeTable<'a>, key: &str) -> impl Iterator<Item = &'d Value<'a>> {
    within.get(key).and_then(|value| value.get_ref().as_array()).into_iter().flatten()
}

/// The entry of a list with this name. One without a name is called by another key, or else by the default.
fn named<'d, 'a>(within: &'d DeTable<'a>, list: &str, name: &str, or: &str) -> Option<&'d Value<'a>> {
    entries(within, list).find(|entry| {
        let text = |key: &str| table(entry)?.get(key)?.get_ref().as_str();
        text("name").or_else(|| text(or)).unwrap_or(defaults::NAME) == name
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remark_has_the_line_of_its_key_or_of_its_section() {
        let text = "[global]\nadmin = '127.0.0.1:1'\n[[listener]]\nbind = [':80']\n[[listener.route]]\nsni = ['a']\npool = 'b'\n\
                    [[pool]]\nname = 'a'\nhealth.kind = 'off'\n[[pool]]\nname = 'b'\n[[pool.backend]]\naddress = '127.0.0.1:1'\n\
                    [[pool.backend]]\nname = 'b2'\naddress = '127.0.0.1:2'\nweight = 0\n[[pool.discover]]\nkind = 'dns'\n\
                    [pool.health]\nport = 80\n";
        let lines = Lines::new(text, "f");
        let (a, b) = (|| "a".to_owned(), || "b".to_owned());
        let default = || defaults::NAME.to_owned();
        for (place, line) in [
            (Within::Global.into(), 1),
            (Within::Global.key("admin"), 2),
            (Within::Listener(default()).key("bind"), 4),
            (Within::Listener(default()).key("pool"), 3),
            (Within::Route(default(), 0).into(), 5),
            (Within::Route(default(), 0).key("sni"), 6),
            (Within::Pool(a()).into(), 8),
            (Within::Health(a()).key("kind"), 10),
            (Within::Pool(b()).key("name"), 12),
            (Within::Backend(b(), "127.0.0.1:1".to_owned()).key("address"), 14),
            (Within::Backend(b(), "b2".to_owned()).key("weight"), 18),
            (Within::Discover(b(), 0).key("kind"), 20),
            (Within::Health(b()).key("port"), 22),
        ] {
            assert_eq!(lines.located(&Remark::new(place, "why")), format!("f:{line}: why"));
        }
        for place in [Within::Pool("c".to_owned()), Within::Route(default(), 1), Within::Discover(a(), 0)] {
            assert_eq!(lines.located(&Remark::new(place, "why")), "why");
        }
        assert_eq!(lines.located(&Remark::anywhere("why")), "why");
    }

    #[test]
    fn a_prefix_with_bits_beyond_its_length_is_found_wherever_prefixes_are() {
        let text = "[[listener]]\nbind = [':80']\nallow = ['10.0.0.0/8', '10.0.0.1/8']\ndeny = ['2001:db8::1/32', '192.0.2.1']\n\
                    trusted_proxies = [\n'192.0.2.9/32',\n'192.0.2.9/24']\n[[listener.route]]\nsource = ['10.1.0.0/15']\n";
        let mut loose = Lines::new(text, "f").loose_prefixes();
        loose.sort();
        let expected = [
            "f:3: allow: `10.0.0.1/8` is 10.0.0.0/8",
            "f:4: deny: `2001:db8::1/32` is 2001:db8::/32",
            "f:7: trusted_proxies: `192.0.2.9/24` is 192.0.2.0/24",
            "f:9: source: `10.1.0.0/15` is 10.0.0.0/15",
        ];
        assert_eq!(loose, expected.map(|line| format!("{line}: bits beyond the prefix do not count")));
    }
}
