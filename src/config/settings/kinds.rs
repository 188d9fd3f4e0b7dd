//! Kinds of values: how each is read, and how it is written so that it reads as the same.
//!
//! A message here names the fault of a value; the caller adds its place ([`Given`]).

mod probe;
mod source;

pub use probe::{PROBE, PROBE_HOST, PROBE_PATH, STATUSES, STEPS};
pub use source::SOURCE_ADDRESS;

use super::given::Given;
use crate::base::address::{RANGE_MAX, UNIX_PATH_MAX};
use crate::base::text::{Escaped, hidden_in};
use crate::base::{Address, Listen, Size, duration};
use crate::config::check;
use crate::config::model::{LogEvents, LogTo, NoBackend, OnRemove, PrefixFile, Rate};
use crate::config::words::{self, Words};
use crate::policy::balance::{self, Algorithm};
use crate::policy::limit::canonical;
use ipnet::{IpNet, Ipv6Net};
use std::fmt::{self, Display};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How a value is read and written.
pub struct Kind<T: 'static> {
    /// The accepted values.
    pub values: Values,
    /// Reads it. `None`: it is wrong, and the mistake is noted.
    pub read: fn(&Given<'_>) -> Option<T>,
    /// Writes it as it is read.
    pub write: fn(&T) -> Written,
}

/// The values that a setting accepts.
#[derive(Clone, Copy)]
pub enum Values {
    /// One of these words.
    Words(fn() -> Vec<&'static str>),
    /// A number from one to the other.
    Number(u64, u64),
    /// `true` or `false`.
    Switch,
    /// Something else.
    Other {
        /// Its name.
        name: &'static str,
        /// What help calls it.
        placeholder: &'static str,
        /// An example, as TOML.
        example: &'static str,
    },
}

impl Values {
    pub(super) const fn other(name: &'static str, placeholder: &'static str, example: &'static str) -> Values {
        Values::Other { name, placeholder, example }
    }

    /// Are they prefixes?
    pub fn are_prefixes(&self) -> bool {
        matches!(self, Values::Other { placeholder: PREFIX, .. })
    }

    /// An example, as TOML.
    pub fn example(&self) -> &'static str {
        match self {
            Values::Words(_) => "\"\"",
            Values::Number(..) => "1",
            Values::Switch => "true",
            Values::Other { example, .. } => example,
        }
    }

    /// Can a flag be repeated?
    pub fn is_list(&self) -> bool {
        self.example().starts_with('[')
    }
}

/// A value as TOML has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// In quotes.
    Text(String),
    /// As it is.
    Bare(String),
    /// Texts in brackets.
    List(Vec<String>),
    /// A file, and a hash that identifies its content.
    File(String, String),
}

impl Written {
    /// No value at all: an empty list.
    pub fn is_empty(&self) -> bool {
        matches!(self, Written::List(items) if items.is_empty())
    }

    /// For people: without TOML's quotes and brackets.
    pub fn plain(&self) -> String {
        match self {
            Written::Text(text) | Written::Bare(text) => text.clone(),
            Written::List(items) => items.join(", "),
            Written::File(path, content) => format!("{path} ({content})"),
        }
    }
}

impl Display for Written {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Written::Text(text) | Written::File(text, _) => out.write_str(&quoted(text)),
            Written::Bare(text) => out.write_str(text),
            Written::List(items) => write!(out, "[{}]", items.iter().map(quoted).collect::<Vec<_>>().join(", ")),
        }
    }
}

/// A text in TOML's quotes.
pub fn quoted(text: impl AsRef<str>) -> String {
    toml::Value::String(text.as_ref().to_owned()).to_string()
}

fn text(value: impl Display) -> Written {
    Written::Text(value.to_string())
}

fn list<T: Display>(values: &[T]) -> Written {
    Written::List(values.iter().map(ToString::to_string).collect())
}

/// A word of those that a type has.
pub const fn word<T: Words>() -> Kind<T> {
    Kind {
        values: Values::Words(|| T::NAMES.iter().map(|(word, _)| *word).collect()),
        read: |given| given.text(|text| words::one_of(text, T::NAMES)),
        write: |value| text(words::of(value, T::NAMES)),
    }
}

/// A number from `MIN` to `MAX`.
pub const fn number<T: TryFrom<u64> + Display, const MIN: u64, const MAX: u64>() -> Kind<T> {
    Kind {
        values: Values::Number(MIN, MAX),
        read: |given| given.number(MIN..=MAX),
        write: |value| Written::Bare(value.to_string()),
    }
}

/// A limit, from 1.
pub const fn count<T: TryFrom<u64> + Display>() -> Kind<T> {
    number::<T, 1, { u32::MAX as u64 }>()
}

/// Yes or no.
pub const SWITCH: Kind<bool> =
    Kind { values: Values::Switch, read: |given| given.switch(), write: |value| Written::Bare(value.to_string()) };

/// A time that a timer can measure.
pub const TIME: Kind<Duration> = Kind {
    values: Values::other("time", "TIME", "\"7s\""),
    read: |given| given.text(duration::parse_positive),
    write: |time| text(duration::written(*time)),
};

/// A time, or zero, for which the key has a meaning of its own.
pub const TIME_OR_ZERO: Kind<Duration> = Kind {
    values: Values::other("time, or `\"0s\"`", "TIME", "\"7s\""),
    read: |given| {
        given.text(|text| match duration::parse(text)? {
            Duration::ZERO => Ok(Duration::ZERO),
            _ => duration::parse_positive(text),
        })
    },
    ..TIME
};

/// A time; behind a flag a bare number is seconds.
pub const INTERVAL: Kind<Duration> = Kind {
    read: |given| {
        given.text(if given.is_flag() { duration::parse_positive_or_seconds } else { duration::parse_positive })
    },
    ..TIME
};

/// What keepalive can do, which counts in seconds and not beyond nine hours of silence (tcp(7)).
pub const DEAD_PEER_TIME: Kind<Duration> = Kind {
    values: Values::other("time from `\"2s\"` to `\"10h\"`", "TIME", "\"7s\""),
    read: |given| {
        given.text(|text| {
            let range = Duration::from_secs(2)..=Duration::from_secs(10 * 3600);
            let time = duration::parse(text)?;
            range.contains(&time).then_some(time).ok_or_else(|| format!("expected a time from 2s to 10h, got `{text}`"))
        })
    },
    ..TIME
};

/// The size of a buffer. Less than a quarter of what is moved at once would only cost system calls; the upper end is far beyond
/// what the longest fat path fills.
pub const BUFFER_SIZE: Kind<Size> = Kind {
    values: Values::other("size from `\"16KiB\"` to `\"256MiB\"`", "SIZE", "\"256KiB\""),
    read: |given| given.text(|text| Size::parse(text, Size::kib(16), Size::mib(256))),
    write: |size| text(size),
};

/// An algorithm, by its long or short name.
pub const ALGORITHM: Kind<&'static Algorithm> = Kind {
    values: Values::Words(|| balance::REGISTRY.iter().map(|row| row.name).collect()),
    read: |given| given.text(words::algorithm),
    write: |algorithm| text(algorithm.name),
};

/// The name of a listener, pool or backend.
pub const NAME: Kind<String> = Kind {
    values: Values::other("name", "NAME", "\"web\""),
    read: |given| given.text(|text| check::name(text).map(|()| text.to_owned())),
    write: |name| text(name),
};

/// A user or a group of the system. Whether it exists is known where it is used.
pub const ACCOUNT: Kind<String> = Kind {
    values: Values::other("name or number", "NAME", "\"www-data\""),
    read: |given| {
        given.text(|text| {
            let good = check::name(text).is_ok() && !text.contains(':') && is_account(text);
            let expected = || format!("expected a name or a number from 0 to {MAX_ID}, got `{text}`");
            good.then(|| text.to_owned()).ok_or_else(expected)
        })
    },
    ..NAME
};

/// The highest number of a user or a group. The next one means "unchanged" to the kernel (chown(2)).
const MAX_ID: u32 = u32::MAX - 1;

/// Whether the text is the number of a user or a group, or no number at all.
fn is_account(text: &str) -> bool {
    let digits = text.strip_prefix('+').unwrap_or(text);
    !digits.bytes().all(|byte| byte.is_ascii_digit()) || digits.parse().is_ok_and(|number: u32| number <= MAX_ID)
}

/// An address to listen on.
pub const LISTEN: Kind<Listen> = Kind {
    values: Values::other("address", "ADDR", "\"127.0.0.1:9900\""),
    read: |given| given.text(Listen::parse),
    write: |listen| text(listen),
};

/// Addresses to listen on.
pub const LISTENS: Kind<Vec<Listen>> = Kind {
    values: Values::other("list of addresses", "ADDR", "[\":8080\"]"),
    read: |given| {
        let ranges = given.list(Listen::parse_all)?;
        let ports: usize = ranges.iter().map(Vec::len).filter(|ports| *ports > 1).sum();
        if ports > RANGE_MAX {
            given.wrong(&format!("expected ranges of at most {RANGE_MAX} ports in all, got {ports}"));
        }
        Some(ranges.concat())
    },
    write: |listens| Written::List(Listen::shown(listens)),
};

/// The address of a backend.
pub const BACKEND_ADDRESS: Kind<Address> = Kind {
    values: Values::other("address", "ADDR", "\"127.0.0.1:8081\""),
    read: |given| given.text(Address::parse_backend),
    write: |address| text(address),
};

/// The path of a file.
pub const PATH: Kind<PathBuf> = Kind {
    values: Values::other("path", "FILE", "\"/etc/tcplb/token\""),
    read: |given| given.text(path),
    write: |path| text(path.display()),
};

/// The path of a unix socket.
pub const SOCKET_PATH: Kind<PathBuf> = Kind {
    values: Values::other("path of a unix socket", "SOCKET", "\"/run/tcplb/take-over.sock\""),
    read: |given| given.text(socket_path),
    write: |path| text(path.display()),
};

/// A path at which a unix socket can be bound.
pub fn socket_path(text: &str) -> Result<PathBuf, String> {
    let why = if text.is_empty() {
        "it is empty".to_owned()
    } else if text.starts_with('@') {
        "an abstract socket has no permissions".to_owned()
    } else if text.starts_with("unix:") {
        "write the path without `unix:`".to_owned()
    } else if text.len() > UNIX_PATH_MAX {
        format!("it has more than {UNIX_PATH_MAX} bytes")
    } else if let Some(letter) = hidden_in(text) {
        format!("it contains the hidden character `{letter}`")
    } else {
        return Ok(PathBuf::from(text));
    };
    Err(format!("expected the path of a unix socket, like /run/tcplb/take-over.sock, got `{}`: {why}", Escaped(text)))
}

/// Where the access log goes.
pub const LOG_TO: Kind<LogTo> = Kind {
    values: Values::other("path, or `\"-\"` for stdout", "FILE", "\"/var/log/tcplb/access.log\""),
    read: |given| given.text(path).map(LogTo::from),
    write: |to| text(to),
};

/// A file of prefixes. The reader of the configuration file reads what it holds (`config::file::list`).
pub const PREFIX_FILE: Kind<PrefixFile> = Kind {
    values: Values::other("path", "FILE", "\"/etc/tcplb/prefixes.txt\""),
    read: |given| given.text(path).map(|path| PrefixFile { path, prefixes: Arc::default() }),
    write: |file| {
        let mut hasher = DefaultHasher::new();
        file.prefixes.hash(&mut hasher);
        let content = format!("{} prefixes, {:016x}", file.prefixes.len(), hasher.finish());
        Written::File(file.path.display().to_string(), content)
    },
};

/// A path that the system takes.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err(format!("expected the path of a file, got `{text}`"));
    }
    Ok(PathBuf::from(text))
}

/// What help calls a prefix.
const PREFIX: &str = "PREFIX";

/// Prefixes.
pub const PREFIXES: Kind<Vec<IpNet>> = Kind {
    values: Values::other("list of prefixes", PREFIX, "[\"10.0.0.0/8\", \"2001:db8::/32\"]"),
    read: |given| given.list(prefix),
    write: |prefixes| list(prefixes),
};

/// The bits in front of the IPv4 address in an IPv4-mapped one.
const MAPPED: u8 = 96;

/// `10.0.0.0/8`, `2001:db8::/32`, or a single address. Bits beyond the prefix don't count, so they are dropped. An IPv4-mapped
/// one (`::ffff:10.0.0.0/104`) is the IPv4 prefix, since clients are matched by their IPv4 address.
pub fn prefix(text: &str) -> Result<IpNet, String> {
    let single = || text.parse::<IpAddr>().map(IpNet::from);
    let net = text.parse::<IpNet>().or_else(|_| single()).map_err(|_| {
        format!("expected a prefix like 10.0.0.0/8 or 2001:db8::/32, or a single address, got `{text}`")
    })?;
    let short = |net: &Ipv6Net| net.prefix_len() < MAPPED && net.addr().to_ipv4_mapped().is_some();
    if matches!(&net, IpNet::V6(net) if short(net)) {
        return Err(format!(
            "expected /{MAPPED} or longer after an IPv4-mapped address, got `{text}`: write 0.0.0.0/0 for all IPv4 addresses, \
             ::/0 for all IPv6 addresses"
        ));
    }
    Ok(canonical(net.trunc()))
}

/// So many per second.
pub const RATE: Kind<Rate> = Kind {
    values: Values::other("rate", "RATE", "\"50/s\""),
    read: |given| {
        given.text(|text| {
            let digits = text.strip_suffix("/s").filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
            match digits.and_then(|digits| digits.parse().ok()) {
                Some(per_second) if per_second > 0 => Ok(Rate { per_second }),
                _ => Err(format!("expected so many per second, like 50/s, got `{text}`")),
            }
        })
    },
    write: |rate| text(format_args!("{}/s", rate.per_second)),
};

/// Permission bits as chmod(1) takes them, less those that a socket has no use for.
pub const MODE: Kind<u32> = Kind {
    values: Values::other("octal permissions", "MODE", "\"0660\""),
    read: |given| {
        given.text(|text| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            let octal = (3..=4).contains(&text.len()).then(|| u32::from_str_radix(text, 8).ok()).flatten();
            let mode = octal.filter(|mode| digits && *mode <= 0o777);
            mode.ok_or_else(|| format!("expected permissions in octal from 0000 to 0777, like 0660, got `{text}`"))
        })
    },
    write: |mode| text(format_args!("{mode:04o}")),
};

/// `keep`, `reset` or `drain 30s`.
pub const ON_REMOVE: Kind<OnRemove> = Kind {
    values: Values::Words(|| vec!["keep", "reset", "drain 30s"]),
    read: |given| {
        const EXAMPLE: OnRemove = OnRemove::Drain(Duration::from_secs(30));
        let words = [("keep", OnRemove::Keep), ("reset", OnRemove::Reset), ("drain 30s", EXAMPLE)];
        given.text(|text| followed(text, "drain", OnRemove::Drain).unwrap_or_else(|| words::one_of(text, &words)))
    },
    write: |removed| match removed {
        OnRemove::Keep => text("keep"),
        OnRemove::Reset => text("reset"),
        OnRemove::Drain(time) => text(format_args!("drain {}", duration::written(*time))),
    },
};

/// `reset` or `wait 3s`.
pub const NO_BACKEND: Kind<NoBackend> = Kind {
    values: Values::Words(|| vec!["reset", "wait 3s"]),
    read: |given| {
        const EXAMPLE: NoBackend = NoBackend::Wait(Duration::from_secs(3));
        let words = [("reset", NoBackend::Reset), ("wait 3s", EXAMPLE)];
        given.text(|text| followed(text, "wait", NoBackend::Wait).unwrap_or_else(|| words::one_of(text, &words)))
    },
    write: |none| match none {
        NoBackend::Reset => text("reset"),
        NoBackend::Wait(time) => text(format_args!("wait {}", duration::written(*time))),
    },
};

/// What a word with a duration behind it means; `None` if the text does not begin with the word.
fn followed<T>(text: &str, word: &str, meaning: impl Fn(Duration) -> T) -> Option<Result<T, String>> {
    let (first, rest) = text.trim().split_once(char::is_whitespace).unwrap_or((text.trim(), ""));
    if !first.eq_ignore_ascii_case(word) {
        return None;
    }
    Some(duration::parse_positive(rest).map(meaning).map_err(|why| format!("after `{word}`: {why}")))
}

/// The events of the access log.
pub const LOG_EVENTS: Kind<LogEvents> = Kind {
    values: Values::other("list of events", "EVENT", "[\"open\", \"interval 1m\", \"close\"]"),
    read: |given| {
        let events = given.list(log_event)?;
        if given.is_empty_list() {
            given.wrong(&format!("expected at least one of {EVENTS}, got an empty list"));
        }
        let mut all = LogEvents { open: false, interval: None, close: false };
        for LogEvents { open, interval, close } in events {
            if (open && all.open) || (interval.is_some() && all.interval.is_some()) || (close && all.close) {
                given.wrong("expected each event once");
            }
            all = LogEvents { open: all.open || open, interval: all.interval.or(interval), close: all.close || close };
        }
        Some(all)
    },
    write: |events| {
        let interval = events.interval.map(|time| format!("interval {}", duration::written(time)));
        let open = events.open.then(|| "open".to_owned());
        let close = events.close.then(|| "close".to_owned());
        Written::List([open, interval, close].into_iter().flatten().collect())
    },
};

const EVENTS: &str = "open, interval 60s or close";

/// A line per second and connection is the most that an access log is made for.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

fn log_event(text: &str) -> Result<LogEvents, String> {
    const NONE: LogEvents = LogEvents { open: false, interval: None, close: false };
    let every = |time| LogEvents { interval: Some(time), ..NONE };
    let words = [
        ("open", LogEvents { open: true, ..NONE }),
        ("interval 60s", every(Duration::from_secs(60))),
        ("close", LogEvents { close: true, ..NONE }),
    ];
    let event = followed(text, "interval", every).unwrap_or_else(|| words::one_of(text, &words))?;
    match event.interval {
        Some(time) if time < SHORTEST_INTERVAL => Err(format!("after `interval`: expected at least 1s, got `{text}`")),
        _ => Ok(event),
    }
}
