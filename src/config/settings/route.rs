//! `[[listener.route]]`: which clients of a listener go to another pool.

use super::kinds::{self, Kind, Values, Written, word};
use super::{Section, Source, setting};
use crate::base::text::hidden_in;
use crate::config::check;
use crate::config::file::table::Table;
use crate::config::model::{NO_ROUTE, Route, SILENT};
use crate::policy::routes::NamePattern;
use crate::proto::sniff::Protocol;

/// The longest name of a protocol in a ClientHello (RFC 7301 3.1).
const ALPN_LENGTH_MAX: usize = 255;

/// The name of a route, which is not one of the labels that listeners give.
const ROUTE_NAME: Kind<String> = Kind { read: |given| given.text(name), ..kinds::NAME };

/// The names that clients ask for.
const SERVER_NAMES: Kind<Vec<NamePattern>> = Kind {
    values: Values::other("list of names", "SERVER_NAMES", "[\"db.example.com\", \"*.api.example.com\"]"),
    read: |given| given.list(str::parse),
    write: |names| Written::List(names.iter().map(ToString::to_string).collect()),
};

/// The protocols that clients offer.
const ALPN: Kind<Vec<String>> = Kind {
    values: Values::other("list of protocols", "ALPN", "[\"postgresql\"]"),
    read: |given| given.list(alpn),
    write: |names| Written::List(names.clone()),
};

/// A name that is free, and no number: those are the labels of routes without a name.
pub fn name(text: &str) -> Result<String, String> {
    check::name(text)?;
    let is_label = [NO_ROUTE, SILENT].contains(&text) || text.bytes().all(|byte| byte.is_ascii_digit());
    let expected = || format!("expected a name other than {NO_ROUTE}, {SILENT} and numbers, got `{text}`");
    if is_label { Err(expected()) } else { Ok(text.to_owned()) }
}

fn alpn(text: &str) -> Result<String, String> {
    let why = if text.is_empty() {
        "it is empty".to_owned()
    } else if text.len() > ALPN_LENGTH_MAX {
        format!("it is longer than {ALPN_LENGTH_MAX} bytes")
    } else if let Some(letter) = hidden_in(text) {
        format!("it contains the hidden character `{letter}`")
    } else {
        return Ok(text.to_owned());
    };
    Err(format!("expected the name of a protocol like h2 or postgresql, got `{text}`: {why}"))
}

/// The table.
pub static ROUTE: Section<Route> = Section {
    name: "listener.route",
    many: true,
    doc: "A route: clients that meet all of its conditions go to its pool instead of the listener's. It needs at least one of \
          `protocol`, `sni`, `alpn` and `source`. Routes with the client's very name come first, then the longest wildcard, \
          then those without `sni`, in the order of the file.",
    within: &[],
    defaults: Route::default,
    settings: &[
        setting!(Route.name: ROUTE_NAME, "Its name in logs, metrics and API.")
            .more("Two routes of a listener cannot share a name.")
            .absent("its number, from 1")
            .example("\"db\"")
            .makes_another(),
        setting!("protocol", Route.conditions.protocol: word::<Protocol>(), "The protocol of the client's first bytes.")
            .more(
                "`tls` is TLS from the first byte on. `postgres` is PostgreSQL without TLS, or with TLS behind an \
                 SSLRequest, which the listener answers. `http` is HTTP in clear text, `ssh` is SSH.",
            )
            .see("routes.md")
            .absent("any")
            .example("\"tls\""),
        setting!("sni", Route.conditions.sni: SERVER_NAMES, "The client asks for one of these names in its ClientHello.")
            .more("`*.example.com` stands for one or more labels in front of `.example.com`. Case is ignored.")
            .absent("any, or none"),
        setting!("alpn", Route.conditions.alpn: ALPN, "The client offers one of these protocols in its ClientHello.")
            .absent("any, or none"),
        setting!("source", Route.conditions.source: kinds::PREFIXES, "The client's address is in one of these prefixes.")
            .absent("any")
            .example("[\"10.0.0.0/8\"]"),
        setting!(Route.pool: kinds::NAME, "The pool of its clients.").absent("required").example("\"db\""),
    ],
};

/// Reads the section.
pub fn read(at: &Table<'_>) -> Route {
    let source = Source::File(*at);
    let mut route = Route::default();
    ROUTE.read(&source, &mut route);
    if !at.has("pool") {
        at.missing("a route needs a pool, like pool = \"db\"".to_owned());
    }
    let conditions = &route.conditions;
    let absent = [
        ("protocol", conditions.protocol.is_none()),
        ("sni", conditions.sni.is_empty()),
        ("alpn", conditions.alpn.is_empty()),
        ("source", conditions.source.is_empty()),
    ];
    for (key, _) in absent {
        if source.given(key).is_some_and(|given| given.is_empty_list()) {
            source.wrong(key, "the list is empty: leave the key out where it is no condition");
        }
    }
    // What is wrong with a single value would be reported twice.
    let is_whole = !absent.iter().any(|(key, is_absent)| *is_absent && at.has(key));
    if let (true, Err(why)) = (is_whole, conditions.check()) {
        if at.has("protocol") { at.wrong("protocol", why) } else { at.missing(why) }
    }
    route
}
