//! The way back: a model as the text of a file that `config::file` reads as the same model.
//!
//! The text holds every setting in force, defaults too: it shows what tcplb does, not what the operator typed. Settings that
//! have no value (no limit, no PROXY header) are left out, as they would be in a file.

use super::discovered::is_discovered;
use super::model::Model;
use super::settings::{self, BACKEND, DISCOVER, GLOBAL, HEALTH, LISTENER, POOL, ROUTE, Section};
use std::fmt::Write;

/// The file.
pub fn print(model: &Model) -> String {
    let mut out = String::new();
    section(&mut out, &GLOBAL, &model.global);
    for listener in &model.listeners {
        section(&mut out, &LISTENER, listener);
        for route in &listener.routes {
            section(&mut out, &ROUTE, route);
        }
    }
    for pool in &model.pools {
        section(&mut out, &POOL, pool);
        section(&mut out, &HEALTH, &pool.health);
        if pool.backends.iter().any(is_discovered) {
            out.push_str("\n# Further backends are from the sources below.\n");
        }
        for backend in pool.backends.iter().filter(|backend| !is_discovered(backend)) {
            section(&mut out, &BACKEND, backend);
        }
        for discover in &pool.discover {
            section(&mut out, &DISCOVER, discover);
            for (key, value) in settings::written_of_kind(discover) {
                let _ = writeln!(out, "{key} = {value}");
            }
        }
    }
    out
}

fn section<S>(out: &mut String, section: &Section<S>, values: &S) {
    let gap = if out.is_empty() { "" } else { "\n" };
    // Writing to a string can't fail.
    let _ = writeln!(out, "{gap}{}", section.header());
    for setting in section.settings {
        if let Some(value) = setting.write(values) {
            let _ = writeln!(out, "{} = {value}", setting.about.key);
        }
    }
}
