//! Validates the balancer's flags: text in, a [`Model`] or every mistake out.
//!
//! Pure: it opens, resolves and looks up nothing; the number of cores is an argument. A mistake is one line that names the
//! flag, shows the value and says what would be accepted. All mistakes are reported together, so that an operator fixes a
//! command line in one go.

use super::args::Balance;
use super::backend_spec;
use crate::base::{Listen, nearest};
use crate::config::check::{self, WORKERS_MAX};
use crate::config::model::{self, Model, defaults};
use crate::config::settings::{self, GLOBAL, HEALTH, LISTENER, POOL, Source, Typed, kinds};
use crate::config::words::alternatives;
use log::LevelFilter;
use std::collections::HashSet;
use std::path::PathBuf;

/// The configuration in the flags.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What to run.
    pub model: Model,
    /// The log level, unless RUST_LOG sets another one.
    pub log_level: LevelFilter,
    /// The socket of the tcplb to take over from.
    pub take_over: Option<PathBuf>,
}

/// Every mistake in a command line, a line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mistakes(pub Vec<String>);

/// Reads the flags. `cores` is the number of workers without `--workers`.
pub fn read(flags: &Balance, cores: usize) -> Result<Asked, Mistakes> {
    let typed = flags.typed.clone();
    let listener = settings::read_listener(&Source::Flags { typed: &typed, flag_of: |key| LISTENER.flag_of(key) });
    listens(&listener.bind, &typed);
    let mut pool = settings::read_pool(&Source::Flags { typed: &typed, flag_of: |key| POOL.flag_of(key) });
    let health = Source::Flags { typed: &typed, flag_of: |key| HEALTH.flag_of(key) };
    pool.health = settings::read_health(&health, pool.health);
    let mut global = settings::read_global(&Source::Flags { typed: &typed, flag_of: |key| GLOBAL.flag_of(key) });
    if typed.values("workers").is_none() {
        global.workers = cores.clamp(1, WORKERS_MAX);
    }
    let take_over = take_over(flags).map_err(|why| typed.note(why)).unwrap_or_default();
    global.take_over.clone_from(&take_over);
    pool.backends = backends(&typed, &listener.bind, &global);
    admin(&global, &listener.bind, &typed);
    if let Some(why) = take_over_overlaps(&global, listener.bind.iter()) {
        typed.note(why);
    }
    let log_level = log_level(flags).map_err(|why| typed.note(why)).unwrap_or(LevelFilter::Info);
    let mistakes = typed.into_mistakes();
    if mistakes.is_empty() {
        Ok(Asked { model: Model { global, listeners: vec![listener], pools: vec![pool] }, log_level, take_over })
    } else {
        Err(Mistakes(mistakes))
    }
}

/// The levels of `--log-level`, quietest first.
const LOG_LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// What `--log-level` says.
pub fn log_level(flags: &Balance) -> Result<LevelFilter, String> {
    let Some(text) = &flags.log_level else { return Ok(LevelFilter::Info) };
    text.parse().map_err(|_| {
        let hint = nearest::hint(text, LOG_LEVELS);
        format!("--log-level: expected {}, got `{text}`{hint}", alternatives(&LOG_LEVELS))
    })
}

/// What `--take-over` says.
pub fn take_over(flags: &Balance) -> Result<Option<PathBuf>, String> {
    let path = flags.take_over.as_deref().map(kinds::socket_path).transpose();
    path.map_err(|why| format!("--take-over: {why}"))
}

/// The mistake, if a listener or the admin API has the socket of `--take-over`.
pub fn take_over_overlaps<'a>(
    global: &'a model::Global,
    listeners: impl Iterator<Item = &'a Listen>,
) -> Option<String> {
    let listen = global.take_over_address()?;
    let other = listeners.chain(&global.admin).find(|other| check::overlap(other, &listen))?;
    Some(format!("--take-over: `{other}` is given already, as an address to listen on"))
}

fn listens(bind: &[Listen], typed: &Typed) {
    if typed.values("listen").is_none() {
        typed.note("no listener: say where clients connect, like --listen :8080");
    }
    for (index, listen) in bind.iter().enumerate() {
        if let Some(other) = bind[..index].iter().find(|other| check::overlap(other, listen)) {
            typed.note(if other == listen {
                format!("--listen: `{listen}` is given twice")
            } else {
                format!("--listen: `{listen}` overlaps `{other}`: only one of them can have the port")
            });
        }
    }
}

fn admin(global: &model::Global, listeners: &[Listen], typed: &Typed) {
    if let Some(admin) = &global.admin {
        if let Some(other) = listeners.iter().find(|other| check::overlap(other, admin)) {
            typed.note(format!("--admin: `{admin}` overlaps --listen `{other}`: only one of them can have the port"));
        }
    } else if typed.values("admin").is_none() && global.admin_token_file.is_some() {
        typed.note("--admin-token-file: expected an --admin address that it belongs to");
    }
}

fn backends(typed: &Typed, bind: &[Listen], global: &model::Global) -> Vec<model::Backend> {
    let Some(texts) = typed.values("backend") else {
        typed.note("no backend: say which servers there are, like --backend 127.0.0.1:8081");
        return Vec::new();
    };
    let mut backends: Vec<model::Backend> = Vec::new();
    let mut names = HashSet::new();
    let take_over = global.take_over_address();
    let own = check::OwnListeners::new(bind.iter().map(|listen| (defaults::NAME, listen)));
    let own = own.with_pools([(defaults::NAME, defaults::NAME)]);
    let own = own.with_admin(&global.admin).with_take_over(&take_over);
    for text in texts {
        match backend_spec::parse(text) {
            Ok(backend) => {
                let listener = model::Listener { bind: bind.to_vec(), ..model::Listener::default() };
                let wrong = own.refuse(defaults::NAME, &backend.address, |_| false);
                let wrong = wrong.and_then(|()| check::maps(&listener, &backend.address));
                if let Err(why) = wrong {
                    typed.note(format!("--backend: `{text}`: {why}"));
                }
                if !names.insert(backend.name.clone()) {
                    let name = &backend.name;
                    typed.note(format!(
                        "--backend: `{text}` is the second backend called `{name}`: give it another name, like \
                         `{},name={}`",
                        backend.address,
                        free_name(&names)
                    ));
                }
                backends.push(backend);
            }
            Err(why) => typed.note(format!("--backend: {why}")),
        }
    }
    backends
}

/// A name that no backend has, for the message about one that two have.
fn free_name(taken: &HashSet<String>) -> String {
    (2..).map(|number| format!("web{number}")).find(|name| !taken.contains(name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::args::Arguments;
    use super::*;
    use crate::base::Address;
    use crate::config::model::{Health, HealthKind};
    use clap::Parser;
    use std::time::Duration;

    fn asked(line: &str) -> Result<Asked, Mistakes> {
        let arguments = Arguments::try_parse_from(std::iter::once("tcplb").chain(line.split_whitespace())).unwrap();
        read(&arguments.balance, 4)
    }

    fn good(line: &str) -> Model {
        asked(&format!("-l :8080 -b 127.0.0.1:8081 {line}")).unwrap().model
    }

    /// The only mistake in an otherwise good command line.
    #[track_caller]
    fn mistake(line: &str) -> String {
        let Mistakes(lines) = asked(&format!("-l :8080 -b 127.0.0.1:8081 {line}")).unwrap_err();
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines[0].clone()
    }

    #[test]
    fn two_flags_are_enough_and_the_rest_is_the_contract_s_defaults() {
        let Asked { model, log_level, .. } = asked("--listen :8080 --backend 127.0.0.1:8081").unwrap();
        assert_eq!((model.global.workers, model.global.max_connections), (4, None));
        assert_eq!(model.global.shutdown_timeout, Duration::from_secs(30));
        assert_eq!(model.listeners.len(), 1);
        assert_eq!(model.listeners[0].name, "default");
        assert_eq!(model.listeners[0].pool, "default");
        assert_eq!(model.listeners[0].bind, [Listen(Address::Any(8080))]);
        let pool = &model.pools[0];
        assert_eq!(
            (pool.name.as_str(), pool.algorithm.name, pool.connect_attempts),
            ("default", "weighted-round-robin", 3)
        );
        assert_eq!((pool.connect_timeout, pool.idle_timeout), (Duration::from_secs(5), Duration::from_secs(3600)));
        assert_eq!(pool.health, Health::default());
        assert_eq!(pool.backends[0].name, "127.0.0.1:8081");
        assert_eq!(log_level, LevelFilter::Info);
    }

    #[test]
    fn every_flag_reaches_the_model() {
        let line = "-l 127.0.0.1:1 -l [::1]:2 -b a:1,name=x -b b:2 --algo RR -w 3 -t 5 --health-timeout 300ms \
                    --health-rise 4 --health-fall 5 --health-path /up --connect-timeout 1s --idle-timeout 2m \
                    --shutdown-timeout 0s --max-connections 77 --log-level DEBUG";
        let Asked { model, log_level, .. } = asked(line).unwrap();
        assert_eq!((model.global.workers, model.global.max_connections), (3, Some(77)));
        assert_eq!(model.global.shutdown_timeout, Duration::ZERO);
        assert_eq!(model.listeners[0].bind.len(), 2);
        let pool = &model.pools[0];
        assert_eq!((pool.connect_timeout, pool.idle_timeout), (Duration::from_secs(1), Duration::from_secs(120)));
        assert_eq!(pool.backends.len(), 2);
        let http = HealthKind::Http { path: "/up".into(), host: None, expect: vec![(200, 200)] };
        let (interval, timeout) = (Duration::from_secs(5), Duration::from_millis(300));
        assert_eq!(pool.health, Health { kind: http, interval, timeout, rise: 4, fall: 5, ..Health::default() });
        assert_eq!(log_level, LevelFilter::Debug);
    }

    #[test]
    fn proxy_headers_are_for_the_pool_and_the_listener() {
        let model = good("");
        assert!(!model.listeners[0].accept_proxy && model.pools[0].send_proxy.is_none());
        assert!(good("--accept-proxy").listeners[0].accept_proxy);
        assert_eq!(good("--send-proxy v1").pools[0].send_proxy, Some(model::ProxyVersion::V1));
        assert_eq!(good("--send-proxy V2").pools[0].send_proxy, Some(model::ProxyVersion::V2));
    }

    #[test]
    fn the_access_log_goes_to_a_file_or_with_a_dash_to_stdout() {
        let log = |line: &str| (good(line).global.access_log, good(line).global.log_format);
        assert_eq!(log(""), (None, model::LogFormat::Text));
        assert_eq!(log("--access-log -"), (Some(model::LogTo::Stdout), model::LogFormat::Text));
        let file = Some(model::LogTo::File("./-".into()));
        assert_eq!(log("--access-log ./- --log-format JSON"), (file, model::LogFormat::Json));
    }

    #[test]
    fn a_health_path_implies_http_and_contradicts_the_others() {
        let kind = |line: &str| good(line).pools[0].health.kind.clone();
        let http = |path: &str| HealthKind::Http { path: path.into(), host: None, expect: vec![(200, 200)] };
        assert_eq!(kind(""), HealthKind::Tcp);
        assert_eq!(kind("--health off"), HealthKind::Off);
        assert_eq!(kind("--health HTTP"), http("/"));
        assert_eq!(kind("--health-path /a"), http("/a"));
        assert_eq!(kind("--health http --health-path /a"), http("/a"));
        for other in ["tcp", "off"] {
            let message = mistake(&format!("--health {other} --health-path /a"));
            assert!(message.contains("--health-path: `/a`") && message.contains(&format!("`{other}`")), "{message}");
        }
        assert!(mistake("--health-path up").contains("--health-path: expected a path like /healthz, got `up`"));
        assert_eq!(mistake("--health ping"), "--health: expected tcp, http or off, got `ping`");
    }

    #[test]
    fn the_health_timeout_fits_the_interval() {
        let timeout = |line: &str| good(line).pools[0].health.timeout;
        assert_eq!(timeout("-t 200ms"), Duration::from_millis(200), "lowered with the interval");
        assert_eq!(timeout("-t 10"), Duration::from_secs(1));
        assert_eq!(timeout("-t 3s --health-timeout 3s"), Duration::from_secs(3));
        for line in ["--health-timeout 3s", "-t 1s --health-timeout 3s"] {
            let message = mistake(line);
            assert!(message.contains("--health-timeout") && message.contains("`3s`"), "{message}");
            assert!(message.contains("--health-interval of "), "{message}");
        }
        assert!(mistake("-t 0 --health-timeout 3s").starts_with("--health-interval"));
    }

    #[test]
    fn each_wrong_value_is_reported_with_its_flag() {
        for (line, wants) in [
            ("-a leest", &["--algorithm: expected ", "round-robin", "got `leest`"][..]),
            ("-w 0", &["--workers: expected a number from 1 to 1024, got `0`"]),
            ("-w 1025", &["--workers: ", "`1025`"]),
            ("-w -1", &["--workers: ", "`-1`"]),
            ("--max-connections 0", &["--max-connections: ", "from 1", "`0`"]),
            ("--health-rise 0", &["--health-rise: ", "`0`"]),
            ("--health-fall x", &["--health-fall: ", "`x`"]),
            ("-t 0", &["--health-interval: expected at least 1ms, got `0`"]),
            ("-t soon", &["--health-interval: ", "500ms", "`soon`"]),
            ("--health-timeout 1", &["--health-timeout: ", "with a unit", "`1`"]),
            ("--connect-timeout 5", &["--connect-timeout: ", "with a unit", "`5`"]),
            ("--connect-timeout 0s", &["--connect-timeout: expected at least 1ms, got `0s`"]),
            ("--idle-timeout 1x", &["--idle-timeout: ", "`1x`"]),
            ("--shutdown-timeout 30", &["--shutdown-timeout: ", "`30`"]),
            ("--send-proxy v3", &["--send-proxy: expected off, v1 or v2, got `v3`"]),
            ("--user a\u{7f}b", &["--user: expected a name or a number from 0 to 4294967294", "`a\\u{7f}b`"]),
            ("--group web", &["--group: expected a user that it goes with"]),
            ("--sandbox on", &["--sandbox: expected auto or off, got `on`"]),
            ("--log-format xml", &["--log-format: expected text, json or haproxy, got `xml`"]),
            ("--log-level loud", &["--log-level: expected off, error", "`loud`"]),
            ("-l nowhere", &["--listen: expected 127.0.0.1:80", "or :80", "`nowhere`: the port is missing"]),
            ("-b a:1,weight=x", &["--backend: weight: ", "0 to 65535", "`x`"]),
        ] {
            let message = mistake(line);
            for want in wants {
                assert!(message.contains(want), "{line}: {message}");
            }
        }
    }

    #[test]
    fn listeners_that_overlap_are_refused() {
        assert_eq!(mistake("-l :8080"), "--listen: `:8080` is given twice");
        let message = mistake("-l 127.0.0.1:8080");
        assert!(message.contains("`127.0.0.1:8080` overlaps `:8080`"), "{message}");
        assert_eq!(good("-l 127.0.0.1:0 -l 127.0.0.1:0").listeners[0].bind.len(), 3);
    }

    #[test]
    fn two_backends_with_one_name_are_refused() {
        let message = mistake("-b 127.0.0.1:8081");
        assert!(message.contains("second backend called `127.0.0.1:8081`"), "{message}");
        assert!(message.contains("`127.0.0.1:8081,name=web2`"), "{message}");
        assert!(mistake("-b a:1,name=web2 -b b:1,name=web2").contains("`b:1,name=web3`"));
        assert_eq!(good("-b 127.0.0.1:8081,name=again").pools[0].backends.len(), 2);
    }

    #[test]
    fn all_mistakes_come_at_once() {
        let Mistakes(lines) = asked("-w 0 -a nope -t x --log-level y --health-rise 0").unwrap_err();
        for want in
            ["no listener", "no backend", "--workers", "--algorithm", "--health-interval", "--log-level", "-rise"]
        {
            assert_eq!(lines.iter().filter(|line| line.contains(want)).count(), 1, "{want}: {lines:?}");
        }
        assert_eq!(lines.len(), 7);
    }
}
