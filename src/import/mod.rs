//! `tcplb import`: the configuration of another balancer as one of tcplb. Pure: text in, text out.
//!
//! ```text
//! text ─► words ─► sections, blocks ─► one model of what tcplb can express ─► TOML
//!            (each dialect has its own)        │
//!                                              └─► notes: what is changed, dropped or refused, each with its line
//! ```
//!
//! | module     | part                                                                             |
//! |------------|----------------------------------------------------------------------------------|
//! | `haproxy`  | haproxy.cfg: tokenizer, sections, the tables of its keywords, proxies to the model |
//! | `nginx`    | nginx.conf with a `stream` block: the same for directives                         |
//! | `keywords` | the row of such a table: a keyword, its fate, the reason                          |
//! | `listen`   | the addresses of a listener                                                       |
//! | `access`   | ordered rules about addresses → `allow` and `deny`, where the longest prefix decides |
//! | `routing`  | ordered rules about first bytes → routes, where the most specific name decides    |
//! | `model`    | what comes out, and its TOML                                                      |
//! | `note`     | the messages                                                                      |
//!
//! A keyword whose loss lets clients in, or sends traffic elsewhere, is refused if tcplb has no counterpart. So is a keyword
//! that this code does not know. A default of the other balancer that differs from the one of tcplb is written out.

mod access;
mod haproxy;
mod keywords;
mod listen;
mod model;
mod nginx;
mod note;
mod routing;

use model::Config;
use note::Notes;
pub use note::{Kind, Note};

/// The balancer that a configuration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// haproxy.cfg.
    Haproxy,
    /// nginx.conf.
    Nginx,
}

/// What came out.
#[derive(Debug)]
pub struct Imported {
    /// The file for tcplb, without what was refused.
    pub toml: String,
    /// How many listeners it has.
    pub listeners: usize,
    /// In the order of the lines.
    pub notes: Vec<Note>,
}

/// The text is no configuration of that balancer: each mistake with its line.
#[derive(Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<(usize, String)>);

/// Reads a configuration. `file` is its name in comments.
pub fn import(text: &str, file: &str, dialect: Dialect) -> Result<Imported, Mistakes> {
    let mut notes = Notes::default();
    let config: Config = match dialect {
        Dialect::Haproxy => haproxy::read(text, &mut notes)?,
        Dialect::Nginx => nginx::read(text, &mut notes)?,
    };
    Ok(Imported { toml: config.toml(file), listeners: config.listeners().count(), notes: notes.sorted() })
}

/// The balancer that the text is for, if that can be seen. HAProxy's sections begin with a word at the beginning of a line. nginx's
/// lines end with `;` or `{`.
pub fn detect(text: &str) -> Option<Dialect> {
    let (mut sections, mut ends) = (0, 0);
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        // A block may end on its first line. A condition of HAProxy ends with `}`, but not with `; }`.
        if line.trim_end_matches(['}', ' ']).ends_with(';') || line.ends_with('{') {
            ends += 1;
        } else if line.split_whitespace().next().is_some_and(haproxy::begins_section) {
            sections += 1;
        }
    }
    match (sections, ends) {
        (0, 0) => None,
        (0, _) => Some(Dialect::Nginx),
        (_, 0) => Some(Dialect::Haproxy),
        // A format of HAProxy may end with `;`, and an argument of nginx may stand on its own line.
        (sections, ends) if ends > 4 * sections => Some(Dialect::Nginx),
        (sections, ends) if sections > 4 * ends => Some(Dialect::Haproxy),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
