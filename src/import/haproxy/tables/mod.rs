//! What becomes of each of HAProxy's keywords. `tests/data/import` holds the lists of its manual that these are compared with.

mod options;
mod proxy;

pub use options::{BIND, SERVER};
pub use proxy::PROXY;

use super::super::keywords::{Keyword, changed, dropped, kept};

/// Keywords that older versions of HAProxy had, and what they are called now.
pub const RENAMED: [(&str, &[&str]); 6] = [
    ("clitimeout", &["timeout", "client"]),
    ("srvtimeout", &["timeout", "server"]),
    ("contimeout", &["timeout", "connect"]),
    ("redispatch", &["option", "redispatch"]),
    ("tcplog", &["option", "tcplog"]),
    ("use-backend", &["use_backend"]),
];

/// The keywords of `global` that are more than dropped. All others concern HAProxy's own process, TLS or HTTP.
pub static GLOBAL: &[Keyword] = &[
    kept("maxconn", 0, "max_connections"),
    kept("nbthread", 0, "workers"),
    kept("user", 0, "user"),
    kept("group", 0, "group"),
    kept("uid", 0, "user"),
    kept("gid", 0, "group"),
    kept("hard-stop-after", 0, "shutdown_timeout"),
    kept("daemon", 0, "a service manager runs tcplb"),
    kept("master-worker", 0, "a service manager runs tcplb"),
    kept("pidfile", 0, "a service manager runs tcplb"),
    kept("chroot", 0, "the sandbox of tcplb is on by default"),
    kept("noepoll", 0, "tcplb always uses epoll"),
    kept("quiet", 0, "a service manager runs tcplb"),
    changed("log", 0, "access_log, where a section has option tcplog"),
    changed("stats socket", 0, "admin"),
    dropped("nbproc", 0, "tcplb is one process; workers are its threads"),
    dropped("ulimit-n", 0, "tcplb raises its limit on open files by itself"),
    dropped("nosplice", 0, "relay = \"copy\" in [global] turns splice off"),
    dropped("spread-checks", 0, "tcplb spreads its probes by itself"),
    dropped("node", 0, "tcplb has no name for itself"),
    dropped("description", 0, "tcplb has no name for itself"),
];

/// Why a keyword of `global` that is in no row is dropped.
pub const GLOBAL_ELSE: &str = "it concerns HAProxy's own process, TLS or HTTP";
