//! Each setting, declared once: a row in the table of its section.
//!
//! A row holds the key, its documentation, its kind (which reads and writes the value) and its place in the model. It
//! also holds what a reload does with it, and its flag if it has one. The default is that of the model. Derived from
//! the tables:
//!
//! | what | where |
//! |---|---|
//! | reading a file, hints to unknown keys | [`Section::read`] with [`Source::File`], called by `config::file` |
//! | flags, their help, what may stand beside `--config` | [`Source::Flags`], called by `cli::args` and `cli::flags` |
//! | the configuration in force as a file | `config::text` |
//! | what a reload changes, and what needs a restart | `config::diff` |
//! | warnings of settings without effect | `config::advice` |
//! | `tcplb config reference`, docs/configuration.md, config.example | [`reference`] |
//!
//! | module | part |
//! |---|---|
//! | `global`, `listener`, `route`, `pool`, `health`, `backend`, `discover` | a table each, and the rules between its keys |
//! | `presets` | keys of a pool that one word sets |
//! | [`kinds`] | how each kind of value is read and written |
//! | [`given`] | a value as the user gave it, and where a mistake in it is noted |
//! | [`reference`] | the tables as pages |
//!
//! A new setting is a field with its default in `config::model`, a row here, its use and its test. A command then writes
//! the pages: `TCPLB_WRITE=1 cargo test --test model generated`.

mod backend;
mod discover;
pub mod given;
mod global;
mod health;
pub mod kinds;
mod listener;
mod pool;
mod presets;
pub mod reference;
mod route;

pub use backend::BACKEND;
pub use discover::DISCOVER;
pub use given::{Source, Typed};
pub use global::GLOBAL;
pub use health::HEALTH;
pub use listener::LISTENER;
pub(super) use listener::{ADDRESSES, all_have_addresses, has_addresses};
pub use pool::POOL;
pub use route::ROUTE;

pub(super) use backend::read as read_backend;
pub(super) use discover::{keys as discover_keys, read as read_discover, written as written_of_kind};
pub use global::read as read_global;
pub use health::read as read_health;
pub use listener::read as read_listener;
pub use pool::read as read_pool;
pub use route::{name as route_name, read as read_route};

use given::Given;
use kinds::{Kind, Values, Written};

/// What stands in no section.
pub const ROOT: [&str; 3] = ["global", "listener", "pool"];

/// A section of the file, or the entry of a list of sections, which becomes an `S` of the model.
pub struct Section<S: 'static> {
    /// As in a header, like `pool.health`.
    pub name: &'static str,
    /// Whether there may be several: `[[…]]`.
    pub many: bool,
    /// What it is.
    pub doc: &'static str,
    /// Sections within it.
    pub within: &'static [&'static str],
    /// Its keys.
    pub settings: &'static [Setting<S>],
    /// An `S` whose values are the defaults.
    pub defaults: fn() -> S,
}

/// A key of a section.
pub struct Setting<S: 'static> {
    /// Everything but its place in the model.
    pub about: About,
    place: &'static dyn Place<S>,
    need: Option<Need<S>>,
}

/// What a setting is, whatever section it is in.
#[derive(Clone, Copy)]
pub struct About {
    /// As the file has it.
    pub key: &'static str,
    /// One sentence, in Markdown.
    pub doc: &'static str,
    /// Further sentences: consequences, limits.
    pub more: &'static str,
    /// The page that has more about it, and a heading of it.
    pub see: &'static str,
    /// What happens without the key, where that is no value.
    pub absent: &'static str,
    /// An example of a value, as TOML; empty: that of the kind.
    pub example: &'static str,
    /// config.example sets it to this.
    pub set: &'static str,
    /// What a reload does with another value.
    pub reload: Reload,
    /// Whether a value may have passwords in it, so that logs and events do not show it.
    pub is_secret: bool,
    /// Why it can't be set for a listener whose connections the kernel carries; empty: it can.
    pub proxy_only: &'static str,
    /// Its flag.
    pub flag: Option<Flag>,
}

/// What a reload does with another value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// Applies it.
    Live,
    /// Reports that it needs a restart.
    Restart,
    /// Makes another listener, pool or backend of it.
    New,
}

/// A flag that sets the same.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Without the dashes.
    pub long: &'static str,
    /// One letter.
    pub short: Option<char>,
    /// Another name.
    pub alias: Option<&'static str>,
    /// What it stands under in the help.
    pub heading: &'static str,
}

/// Another setting that one has no effect without.
struct Need<S> {
    what: &'static str,
    is_met: fn(&S) -> bool,
}

/// Where a value is in the model.
trait Place<S>: Sync {
    fn read(&self, into: &mut S, given: &Given<'_>) -> bool;
    fn write(&self, from: &S) -> Option<Written>;
    fn copy(&self, to: &mut S, from: &S);
    fn values(&self) -> &Values;
}

/// A value of one kind in the model.
struct Lens<S, T: 'static> {
    kind: Kind<T>,
    /// `None`: there is no value, so no line of a file.
    get: fn(&S) -> Option<T>,
    set: fn(&mut S, T),
    copy: fn(&mut S, &S),
}

impl<S, T> Place<S> for Lens<S, T> {
    fn read(&self, into: &mut S, given: &Given<'_>) -> bool {
        let value = (self.kind.read)(given);
        value.map(|value| (self.set)(into, value)).is_some()
    }

    fn write(&self, from: &S) -> Option<Written> {
        (self.get)(from).map(|value| (self.kind.write)(&value)).filter(|written| !written.is_empty())
    }

    fn copy(&self, to: &mut S, from: &S) {
        (self.copy)(to, from);
    }

    fn values(&self) -> &Values {
        &self.kind.values
    }
}

/// A row: `setting!(Pool.idle_timeout: kinds::TIME, "doc")`. A key that is not called like its field stands before it; where the
/// field is not simply the value, two functions follow: model to value, and value to model.
macro_rules! setting {
    ($section:ident . $key:ident : $kind:expr, $doc:expr) => {
        setting!(stringify!($key), $section.$key: $kind, $doc)
    };
    ($key:expr, $section:ident $(. $field:ident)+ : $kind:expr, $doc:expr) => {
        setting!(
            $key, $section $(. $field)+ : $kind,
            |model| Clone::clone(&model $(. $field)+).into(), |model, value| model $(. $field)+ = value.into(), $doc
        )
    };
    ($key:expr, $section:ident $(. $field:ident)+ : $kind:expr, $get:expr, $set:expr, $doc:expr) => {
        $crate::config::settings::Setting::<$section>::new(
            $key,
            const {
                &$crate::config::settings::Lens::<$section, _> {
                    kind: $kind,
                    get: $get,
                    set: $set,
                    copy: |to, from| to $(. $field)+ .clone_from(&from $(. $field)+),
                }
            },
            $doc,
        )
    };
}
use setting;

/// The texts that a row may add.
macro_rules! texts {
    ($($field:ident),+) => {
        $(const fn $field(mut self, text: &'static str) -> Self {
            self.about.$field = text;
            self
        })+
    };
}

impl About {
    const fn new(key: &'static str, doc: &'static str) -> About {
        let (reload, is_secret, flag) = (Reload::Live, false, None);
        About { key, doc, more: "", see: "", absent: "", example: "", set: "", reload, is_secret, proxy_only: "", flag }
    }
}

impl<S> Setting<S> {
    const fn new(key: &'static str, place: &'static dyn Place<S>, doc: &'static str) -> Self {
        Setting { about: About::new(key, doc), place, need: None }
    }

    texts!(more, see, absent, example, set, proxy_only);

    const fn restart(mut self) -> Self {
        self.about.reload = Reload::Restart;
        self
    }

    const fn secret(mut self) -> Self {
        self.about.is_secret = true;
        self
    }

    const fn makes_another(mut self) -> Self {
        self.about.reload = Reload::New;
        self
    }

    /// It has no effect without another setting of its section.
    const fn needs(mut self, what: &'static str, is_met: fn(&S) -> bool) -> Self {
        self.need = Some(Need { what, is_met });
        self
    }

    const fn flag(self, long: &'static str, heading: &'static str) -> Self {
        self.flag_as(Flag { long, short: None, alias: None, heading })
    }

    const fn flag_as(mut self, flag: Flag) -> Self {
        self.about.flag = Some(flag);
        self
    }

    /// What may be given.
    pub fn values(&self) -> &Values {
        self.place.values()
    }

    /// Its value; `None` if there is none.
    pub fn write(&self, from: &S) -> Option<Written> {
        self.place.write(from)
    }

    /// The missing setting that it needs, if it is set and has no effect.
    pub fn lacks(&self, values: &S, defaults: &S) -> Option<&'static str> {
        let need = self.need.as_ref().filter(|need| !(need.is_met)(values))?;
        self.is_set(values, defaults).then_some(need.what)
    }

    /// Whether its value is another one than the default.
    pub fn is_set(&self, values: &S, defaults: &S) -> bool {
        self.write(values) != self.write(defaults)
    }

    /// Takes the value of another model.
    pub fn copy(&self, to: &mut S, from: &S) {
        self.place.copy(to, from);
    }
}

impl<S> Section<S> {
    /// Its header: `[global]`, `[[pool]]`.
    pub fn header(&self) -> String {
        if self.many { format!("[[{}]]", self.name) } else { format!("[{}]", self.name) }
    }

    /// What may stand in it, sections too.
    pub fn keys(&self) -> Vec<&'static str> {
        self.settings.iter().map(|setting| setting.about.key).chain(self.within.iter().copied()).collect()
    }

    /// The flag of a key.
    pub fn flag_of(&self, key: &str) -> Option<&'static str> {
        let setting = self.settings.iter().find(|setting| setting.about.key == key)?;
        setting.about.flag.map(|flag| flag.long)
    }

    /// Takes over every value that is given and good; the others are noted. The answer: which were taken.
    pub fn read(&self, source: &Source<'_>, into: &mut S) -> Taken {
        let given = self.settings.iter().filter_map(|setting| Some((setting, source.given(setting.about.key)?)));
        let taken = given.filter(|(setting, given)| setting.place.read(into, given));
        Taken(taken.map(|(setting, _)| setting.about.key).collect())
    }

    /// Its settings without their places in the model.
    pub fn listed(&self) -> Listed {
        let defaults = (self.defaults)();
        let row = |setting: &'static Setting<S>| Row {
            about: setting.about,
            values: *setting.values(),
            default: setting.write(&defaults).map(|written| written.to_string()),
        };
        Listed {
            name: self.name.to_owned(),
            header: self.header(),
            doc: self.doc,
            rows: self.settings.iter().map(row).collect(),
        }
    }
}

/// Why a setting is for a proxy only: the kernel reads no byte of a client,
pub(super) const READS: &str = "the kernel reads no bytes of a client";
/// makes no connection,
pub(super) const CONNECTS: &str = "the kernel makes no connection of its own: the client's reaches the backend";
/// has no timer of a connection,
pub(super) const TIMES: &str =
    "the time-outs are those of connection tracking (net.netfilter.nf_conntrack_tcp_timeout_*)";
/// and counts no connections.
pub(super) const COUNTS: &str = "the kernel has no such limit; it has lists of clients, and limits of each source";

/// The keys whose values were good.
pub struct Taken(Vec<&'static str>);

impl Taken {
    /// Whether this one was.
    pub fn has(&self, key: &str) -> bool {
        self.0.contains(&key)
    }
}

/// A section as its readers know it.
pub struct Listed {
    /// Like `pool.health`.
    pub name: String,
    /// Like `[pool.health]`.
    pub header: String,
    /// What it is.
    pub doc: &'static str,
    /// Its keys.
    pub rows: Vec<Row>,
}

impl Listed {
    /// The kind of source whose keys these are; `None` for any other section.
    pub fn source_kind(&self) -> Option<&str> {
        self.name.strip_prefix(DISCOVER.name)?.strip_prefix('.')
    }
}

/// A key as its readers know it.
pub struct Row {
    /// What it is.
    pub about: About,
    /// What may be given.
    pub values: Values,
    /// What it is without the key, as TOML, where that is a value.
    pub default: Option<String>,
}

impl Row {
    /// An example of a value, as TOML.
    pub fn example(&self) -> &'static str {
        if self.about.example.is_empty() { self.values.example() } else { self.about.example }
    }
}

/// Every section, in the order of a file.
pub fn sections() -> Vec<Listed> {
    let mut sections = vec![
        GLOBAL.listed(),
        LISTENER.listed(),
        ROUTE.listed(),
        POOL.listed(),
        HEALTH.listed(),
        BACKEND.listed(),
        DISCOVER.listed(),
    ];
    sections.extend(discover::kinds());
    sections
}
