//! The way back: a model as the text of a file that `config::file` reads as the same model.
//!
//! Every setting that is in force is written, defaults too: whoever reads it sees what tcplb does, not what was typed.
//! Settings that have no value (no limit, no PROXY header) are left out, as they would be in a file.

use crate::base::{Listen, duration};
use crate::config::model::{
    Abandoned, AllDown, Backend, Engine, Global, Health, HealthKind, InitialHealth, Listener, LogFormat, Model, Names,
    NoBackend, OnDown, OnRemove, Pool, Sandbox, SendProxy,
};
use crate::config::words;
use std::fmt::{Display, Write};
use std::time::Duration;

/// The file.
pub fn print(model: &Model) -> String {
    let mut out = Lines::default();
    global(&mut out, &model.global);
    for one in &model.listeners {
        listener(&mut out, one);
    }
    for one in &model.pools {
        pool(&mut out, one);
    }
    out.0
}

fn global(out: &mut Lines, global: &Global) {
    out.section("[global]");
    out.plain("workers", global.workers);
    out.plain_if("max_connections", global.max_connections);
    out.time("shutdown_delay", global.shutdown_delay);
    out.time("shutdown_timeout", global.shutdown_timeout);
    out.time("dead_peer_timeout", global.dead_peer_timeout);
    out.text_if("socket_buffer", global.socket_buffer);
    let name = Engine::NAMES.iter().find(|(_, engine)| *engine == global.relay).map_or("adaptive", |(name, _)| name);
    out.text("relay", name);
    out.text("names", words::of(&global.names, &Names::NAMES));
    out.text_if("admin", global.admin.as_ref());
    out.text_if("admin_token_file", global.admin_token_file.as_ref().map(|path| path.display()));
    out.text_if("user", global.user.as_ref());
    out.text_if("group", global.group.as_ref());
    let name = Sandbox::NAMES.iter().find(|(_, sandbox)| *sandbox == global.sandbox).map_or("auto", |(name, _)| name);
    out.text("sandbox", name);
    out.text_if("access_log", global.access_log.as_ref());
    out.text("log_format", words::of(&global.log_format, &LogFormat::NAMES));
    out.plain("metrics_per_backend", global.metrics_per_backend);
}

fn listener(out: &mut Lines, listener: &Listener) {
    out.section("[[listener]]");
    out.text("name", &listener.name);
    out.list("bind", listener.bind.iter().map(Listen::to_string));
    out.text("pool", &listener.pool);
    out.plain("accept_proxy", listener.accept_proxy);
    for (key, prefixes) in
        [("trusted_proxies", &listener.trusted_proxies), ("allow", &listener.allow), ("deny", &listener.deny)]
    {
        if !prefixes.is_empty() {
            out.list(key, prefixes.iter().map(|prefix| prefix.to_string()));
        }
    }
    for (key, file) in [("allow_file", &listener.allow_file), ("deny_file", &listener.deny_file)] {
        out.text_if(key, file.as_ref().map(|file| file.path.display()));
    }
    out.plain_if("max_connections", listener.max_connections);
    out.plain_if("max_connections_per_source", listener.max_connections_per_source);
    let rate = listener.connection_rate_per_source.map(|rate| format!("{}/s", rate.per_second));
    out.text_if("connection_rate_per_source", rate);
    out.text_if("mode", listener.socket_file.mode.map(|mode| format!("{mode:04o}")));
    out.text_if("owner", listener.socket_file.owner.as_ref());
    out.text_if("group", listener.socket_file.group.as_ref());
    out.text("limits", words::of(&listener.limits_dry_run, &Listener::LIMITS));
}

fn pool(out: &mut Lines, pool: &Pool) {
    out.section("[[pool]]");
    out.text("name", &pool.name);
    out.text("algorithm", pool.algorithm.name);
    out.text_if("send_proxy", pool.send_proxy.map(|version| words::of(&SendProxy::As(version), &SendProxy::NAMES)));
    out.time("connect_timeout", pool.connect_timeout);
    out.plain("connect_attempts", pool.connect_attempts);
    out.time("idle_timeout", pool.idle_timeout);
    out.time("half_close_timeout", pool.half_close_timeout);
    out.time("max_lifetime", pool.max_lifetime.unwrap_or_default());
    out.text(
        "on_down",
        match pool.on_down {
            OnDown::Keep => "keep",
            OnDown::Reset => "reset",
        },
    );
    out.text(
        "on_remove",
        match pool.on_remove {
            OnRemove::Keep => "keep".to_owned(),
            OnRemove::Reset => "reset".to_owned(),
            OnRemove::Drain(time) => format!("drain {}", duration::written(time)),
        },
    );
    out.time("slow_start", pool.slow_start);
    out.text(
        "no_backend",
        match pool.no_backend {
            NoBackend::Reset => "reset".to_owned(),
            NoBackend::Wait(time) => format!("wait {}", duration::written(time)),
        },
    );
    out.text("abandoned", words::of(&pool.abandoned, &Abandoned::NAMES));
    out.text("all_down", words::of(&pool.all_down, &AllDown::NAMES));
    out.plain("outlier_failures", pool.outlier_failures);
    health(out, &pool.health);
    for one in &pool.backends {
        backend(out, one);
    }
}

fn health(out: &mut Lines, health: &Health) {
    out.section("[pool.health]");
    match &health.kind {
        HealthKind::Tcp => out.text("kind", "tcp"),
        HealthKind::Off => out.text("kind", "off"),
        HealthKind::Http { path, host, expect } => {
            out.text("kind", "http");
            out.text("path", path);
            out.text_if("host", host.as_ref());
            out.list(
                "expect_status",
                expect.iter().map(|(first, last)| match first == last {
                    true => first.to_string(),
                    false => format!("{first}-{last}"),
                }),
            );
        }
    }
    out.text("initial", words::of(&health.initial, &InitialHealth::NAMES));
    out.plain_if("port", health.port);
    out.time("interval", health.interval);
    out.time("timeout", health.timeout);
    out.plain("rise", health.rise);
    out.plain("fall", health.fall);
}

fn backend(out: &mut Lines, backend: &Backend) {
    out.section("[[pool.backend]]");
    out.text("name", &backend.name);
    out.text("address", &backend.address);
    out.plain("weight", backend.weight);
    out.plain_if("max_connections", backend.max_connections);
    out.plain("backup", backend.backup);
    out.text_if("send_proxy", backend.send_proxy.map(|send| words::of(&send, &SendProxy::NAMES)));
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn section(&mut self, header: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        self.line(format_args!("{gap}{header}"));
    }

    fn plain(&mut self, key: &str, value: impl Display) {
        self.line(format_args!("{key} = {value}"));
    }

    fn plain_if(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.plain(key, value);
        }
    }

    fn text(&mut self, key: &str, value: impl Display) {
        self.plain(key, quoted(value));
    }

    fn text_if(&mut self, key: &str, value: Option<impl Display>) {
        self.plain_if(key, value.map(quoted));
    }

    fn time(&mut self, key: &str, value: Duration) {
        self.text(key, duration::written(value));
    }

    fn list(&mut self, key: &str, values: impl Iterator<Item = String>) {
        self.plain(key, format_args!("[{}]", values.map(quoted).collect::<Vec<_>>().join(", ")));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string can't fail.
        let _ = writeln!(self.0, "{line}");
    }
}

fn quoted(text: impl Display) -> String {
    toml::Value::String(text.to_string()).to_string()
}
