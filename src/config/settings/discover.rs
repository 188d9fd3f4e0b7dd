//! `[[pool.discover]]`: a source of backends. Each kind of source has further keys ([`KINDS`]).

use super::given::Given;
use super::kinds::{self, Kind, Values, Written, count, number, word};
use super::{About, Listed, Row, Section, Source, setting};
use crate::base::duration;
use crate::base::text::hidden_in;
use crate::config::file::table::{Keys, Table};
use crate::config::model::{Discover, OnEmpty};
use crate::config::words::{self, alternatives};
use crate::discovery::{self, KINDS, Key, Takes, Value, Wrong};

/// What stands in the place of a kind until it is read.
static NO_KIND: discovery::Kind = discovery::Kind {
    name: "",
    doc: "",
    keys: &[],
    watches: &[],
    reads: |_| Vec::new(),
    check: |_| Ok(()),
    run: |_, _| Ok(()),
};

/// One of [`KINDS`].
const SOURCE_KIND: Kind<&'static discovery::Kind> = Kind {
    values: Values::Words(|| KINDS.iter().map(|kind| kind.name).collect()),
    read: |given| given.text(kind),
    write: |kind| Written::Text(kind.name.to_owned()),
};

fn kind(text: &str) -> Result<&'static discovery::Kind, String> {
    let words: Vec<_> = KINDS.iter().map(|kind| (kind.name, *kind)).collect();
    words::one_of(text, &words)
}

/// The table, with the keys that every source has.
pub static DISCOVER: Section<Discover> = Section {
    name: "pool.discover",
    many: true,
    doc: "A source of backends. A pool may have several, beside its own backends. A source that fails keeps the backends that it found.",
    within: &[],
    defaults: || Discover::of(&NO_KIND),
    settings: &[
        setting!(
            "kind", Discover.settings: SOURCE_KIND,
            |discover| Some(discover.settings.kind),
            |discover, kind| discover.settings = discovery::Settings::new(kind),
            "Where the source looks. Each kind has further keys."
        )
        .absent("required")
        .example("\"file\""),
        setting!(Discover.on_empty: word::<OnEmpty>(), "What an answer without a backend means.")
            .more("`keep` takes it for a fault of the source, so its backends stay. `clear` removes them."),
        setting!(
            Discover.weight: number::<u16, 0, { u16::MAX as u64 }>(),
            "The weight of a backend whose weight the source does not say."
        ),
        setting!(
            Discover.max_connections: count::<u32>(),
            "The same for connections at once."
        )
        .absent("no limit")
        .example("200"),
        setting!(Discover.backup: kinds::SWITCH, "Whether a backend is a backup, if the source does not say it."),
    ],
};

/// The keys that may stand in a source: those of its kind; of every kind as long as it has none.
pub fn keys(at: &Table<'_>) -> Keys {
    let kind = at.raw("kind").and_then(|text| kind(text).ok());
    let of_kind = KINDS.iter().filter(|other| kind.is_none_or(|kind| kind.name == other.name));
    DISCOVER.keys().into_iter().chain(of_kind.flat_map(|kind| kind.keys).map(|key| key.name)).collect()
}

/// Reads the section; `None` if it has no good kind. Every key is read in any case: all mistakes at once.
pub fn read(at: &Table<'_>) -> Option<Discover> {
    let source = Source::File(*at);
    let mut discover = Discover::of(&NO_KIND);
    let taken = DISCOVER.read(&source, &mut discover);
    if !at.has("kind") {
        let kinds: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        at.missing(format!("a source needs a kind: {}", alternatives(&kinds)));
    }
    if !taken.has("kind") {
        return None;
    }
    let kind = discover.settings.kind;
    let mut is_good = true;
    for key in kind.keys {
        match source.given(key.name).map(|given| value(key, &given)) {
            Some(Some(value)) => discover.settings.set(key.name, value),
            Some(None) => is_good = false,
            None if key.is_required() => {
                is_good = false;
                let Key { name, example, .. } = key;
                at.missing(format!("a source of kind {} needs {name}, like {name} = {example}", kind.name));
            }
            None => {}
        }
    }
    // What is wrong with a single value would be reported twice.
    if let (true, Err(Wrong { key, why })) = (is_good, (kind.check)(&discover.settings)) {
        if at.has(key) { at.wrong(key, why) } else { at.missing(why) }
    }
    Some(discover)
}

fn value(key: &Key, given: &Given<'_>) -> Option<Value> {
    match key.takes {
        Takes::Text => given.text(text).map(Value::Text),
        Takes::Texts => {
            if given.is_empty_list() {
                given.wrong(&format!("expected at least one, like {}", key.example));
            }
            given.list(text).map(Value::Texts)
        }
        Takes::Time => given.text(duration::parse_positive).map(Value::Time),
        Takes::File => given.text(kinds::path).map(Value::File),
    }
}

fn text(text: &str) -> Result<String, String> {
    match hidden_in(text) {
        _ if text.is_empty() => Err("expected a text, got an empty one".to_owned()),
        Some(letter) => Err(format!("expected a text on one line, got the hidden character `{letter}`")),
        None => Ok(text.to_owned()),
    }
}

/// The keys of its kind that have a value, as the file has them.
pub fn written(discover: &Discover) -> impl Iterator<Item = (&'static str, Written)> {
    let settings = &discover.settings;
    settings.kind.keys.iter().filter_map(|key| Some((key.name, write(settings.value(key.name)?))))
}

fn write(value: &Value) -> Written {
    match value {
        Value::Text(text) => Written::Text(text.clone()),
        Value::Texts(texts) => Written::List(texts.clone()),
        Value::Time(time) => Written::Text(duration::written(*time)),
        Value::File(path) => Written::Text(path.display().to_string()),
    }
}

/// The keys of each kind, as a section of its own.
pub fn kinds() -> impl Iterator<Item = Listed> {
    KINDS.iter().map(|kind| Listed {
        name: format!("{}.{}", DISCOVER.name, kind.name),
        header: DISCOVER.header(),
        doc: kind.doc,
        rows: kind.keys.iter().map(row).collect(),
    })
}

fn row(key: &Key) -> Row {
    let Key { name, takes, doc, absent, example } = *key;
    let default = key.default().map(|value| write(&value).to_string());
    let values = match takes {
        Takes::Text => Values::other("text", "TEXT", example),
        Takes::Texts => Values::other("list of texts", "TEXTS", example),
        Takes::Time => Values::other("time", "TIME", example),
        Takes::File => Values::other("path", "FILE", example),
    };
    let absent = if default.is_some() { "" } else { absent };
    Row { about: About { absent, example, ..About::new(name, doc) }, values, default }
}
