//! What can't stand beside `engine = "kernel"`: on the listener, on its pool, on a backend of that.
//!
//! The kernel forwards packets. It reads no byte of a client, makes no connection of its own, and has no timer of a connection. A
//! setting that would need one of these is refused by its key. Its default is not refused. The callers add the place: a line of
//! the file, a backend of a call, an entry of a source.

use super::model::{Backend, HealthKind, Listener, Pool};
use super::settings::{self, BACKEND, LISTENER, POOL, Section};
use super::words;
use crate::base::{Address, Listen};
use crate::policy::balance::approximation;
use std::net::IpAddr;

/// The algorithms that a table of the kernel can stand for.
pub const ALGORITHMS: [&str; 5] = ["round-robin", "weighted-round-robin", "random", "source-hash", "maglev"];

/// A key, and why it can't have its value.
pub type Refusal = (&'static str, String);

/// What is wrong with the settings of a listener whose connections the kernel carries.
pub fn of_listener(listener: &Listener) -> Vec<Refusal> {
    let route = || ("route", refused(settings::READS));
    let bind = listener.bind.iter().filter_map(|listen| Some(("bind", of_bind(listen)?)));
    let routes = (!listener.routes.is_empty()).then(route);
    bind.chain(routes).chain(proxy_only(&LISTENER, listener)).collect()
}

/// The settings that only a proxy can have.
fn proxy_only<S>(section: &Section<S>, values: &S) -> Vec<Refusal> {
    let defaults = (section.defaults)();
    let wrong = section.settings.iter().filter(|it| !it.about.proxy_only.is_empty() && it.is_set(values, &defaults));
    wrong.map(|setting| (setting.about.key, refused(setting.about.proxy_only))).collect()
}

/// What is wrong with an address of such a listener.
fn of_bind(listen: &Listen) -> Option<String> {
    let what = match &listen.0 {
        Address::Unix(_) => "an IP address and a port",
        _ if listen.port() == Some(0) => "a port other than 0",
        _ => return None,
    };
    Some(format!("expected {what} beside engine = \"kernel\", got `{listen}`"))
}

/// What is wrong with the settings of a pool that such a listener leads to; its backends are not looked at.
pub fn of_pool(pool: &Pool) -> Vec<Refusal> {
    let (known, name) = (words::alternatives(&ALGORITHMS), pool.algorithm.name);
    let follows = approximation::ALGORITHMS.contains(&name);
    let hint = if follows { ", which needs approximate = true" } else { "" };
    let why = || ("algorithm", format!("expected {known} for a listener with engine = \"kernel\", got `{name}`{hint}"));
    let is_known = ALGORITHMS.contains(&name) || follows && pool.approximate;
    let algorithm = (!is_known).then(why);
    algorithm.into_iter().chain(proxy_only(&POOL, pool)).collect()
}

/// Why `approximate` of a pool would do nothing. `is_used`: a listener of the kernel leads to the pool.
pub fn of_approximate(pool: &Pool, is_used: bool) -> Option<Refusal> {
    let name = pool.algorithm.name;
    let why = match (approximation::ALGORITHMS.contains(&name), is_used) {
        _ if !pool.approximate => return None,
        (false, _) => {
            let known = words::alternatives(&approximation::ALGORITHMS);
            format!("expected {known} as the algorithm beside it, got `{name}`, which does not follow load")
        }
        (true, false) => {
            "expected a listener with engine = \"kernel\" that leads to the pool: those of the proxy follow load as they are"
                .to_owned()
        }
        (true, true) if approximation::compares_times(pool.algorithm) && pool.health.kind == HealthKind::Off => {
            "expected probes beside least-time, whose times it compares, and health.kind is \"off\"".to_owned()
        }
        (true, true) => return None,
    };
    Some(("approximate", why))
}

/// What is wrong with a backend of such a pool.
pub fn of_backend(backend: &Backend) -> Vec<Refusal> {
    let address = of_address(&backend.address).map(|why| ("address", why));
    let sends = backend.send_proxy.is_some_and(|send| send.version().is_some());
    let sends = sends.then(|| ("send_proxy", refused(settings::CONNECTS)));
    address.into_iter().chain(sends).chain(proxy_only(&BACKEND, backend)).collect()
}

/// Whether a pool that such a listener leads to may have this backend.
pub fn may_have(backend: &Backend) -> Result<(), String> {
    of_backend(backend).into_iter().next().map_or(Ok(()), |(key, why)| Err(format!("{key}: {why}")))
}

fn of_address(address: &Address) -> Option<String> {
    let what = match address {
        Address::Unix(_) => "an IP address or a name",
        Address::Mapped(..) => "a port of its own",
        // An address with an interface behind `%` is read as a name.
        Address::Name(host, _) if host.contains('%') => "an address that is not link-local",
        _ => return None,
    };
    Some(format!("expected {what} for a listener with engine = \"kernel\", got `{address}`"))
}

/// What is wrong with an address of such a listener: its pool has no backend of the same family. A source may find one.
pub fn of_families(listener: &Listener, pool: &Pool) -> Option<Refusal> {
    let families: Option<Vec<bool>> = pool.backends.iter().map(|backend| is_ipv4(&backend.address)).collect();
    let families = families.filter(|families| !families.is_empty() && pool.discover.is_empty())?;
    let lacks = |listen: &&Listen| is_ipv4(&listen.0).is_some_and(|family| !families.contains(&family));
    let listen = listener.bind.iter().find(lacks)?;
    let family = if is_ipv4(&listen.0) == Some(true) { "IPv4" } else { "IPv6" };
    let name = &pool.name;
    Some(("bind", format!("`{listen}` needs {family} backends beside engine = \"kernel\", and pool {name} has none")))
}

/// The family of an address, where it has only one and that is known.
fn is_ipv4(address: &Address) -> Option<bool> {
    match address {
        Address::Inet(at) if at.ip() == IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED) => None,
        Address::Inet(at) => Some(at.ip().to_canonical().is_ipv4()),
        Address::Any(_) | Address::Name(..) | Address::Mapped(..) | Address::Unix(_) => None,
    }
}

/// Everything that is wrong with a listener of the kernel and its pool, each with its key, for a model that has no lines.
pub fn of_both(listener: &Listener, pool: Option<&Pool>) -> Vec<String> {
    let name = &listener.name;
    let own = of_listener(listener).into_iter().chain(pool.and_then(|pool| of_families(listener, pool)));
    let own = own.map(|(key, why)| format!("listener {name}: {key}: {why}"));
    let of_pool = pool.into_iter().flat_map(|pool| {
        let own = of_pool(pool).into_iter().map(|(key, why)| format!("pool {}: {key}: {why}", pool.name));
        own.chain(pool.backends.iter().flat_map(|backend| {
            let of_backend = of_backend(backend).into_iter();
            of_backend.map(|(key, why)| format!("pool {}: backend {}: {key}: {why}", pool.name, backend.name))
        }))
    });
    own.chain(of_pool).collect()
}

fn refused(why: &str) -> String {
    format!("it can't be set for a listener with engine = \"kernel\": {why}")
}

#[cfg(test)]
mod tests {
    use crate::config::check;
    use crate::config::file;
    use crate::config::model::Model;
    use crate::config::text;

    fn read(listener: &str, pool: &str, backend: &str) -> Result<Model, Vec<String>> {
        let bind = if listener.contains("bind") { "" } else { "bind = ['10.0.0.1:80']" };
        let address = if backend.contains("address") { "" } else { "address = '10.0.0.2:80'" };
        let (listener, route) =
            listener.split_once("[[").map_or((listener, String::new()), |(own, rest)| (own, format!("[[{rest}")));
        let text = format!(
            "[[listener]]\nname = 'web'\nengine = 'kernel'\n{bind}\n{listener}\n{route}\n[[pool]]\nname = 'pool'\n{pool}\n[pool.health]\n\
             port = 80\n[[pool.backend]]\nname = 'b'\n{address}\n{backend}\n"
        );
        file::parse(&text, "f").map(|parsed| parsed.model).map_err(|mistakes| mistakes.0)
    }

    #[test]
    fn what_only_a_proxy_can_do_is_refused_by_its_key_and_line() {
        for (listener, pool, backend, key) in [
            ("bind = ['unix:/a']", "", "", "bind"),
            ("bind = ['10.0.0.1:0']", "", "", "bind"),
            ("bind = ['[fd00::1]:80']", "", "", "bind"),
            ("accept_proxy = true", "", "", "accept_proxy"),
            ("max_connections = 3", "", "", "max_connections"),
            ("deny = ['192.0.2.0/24']\nlimits = 'count'", "", "", "limits"),
            ("[[listener.route]]\nsource = ['10.0.0.0/8']\npool = 'pool'", "", "", "route"),
            ("", "algorithm = 'first'", "", "algorithm"),
            ("", "algorithm = 'least-connections'", "", "algorithm"),
            ("", "algorithm = 'sticky-round-robin'", "", "algorithm"),
            ("", "send_proxy = 'v2'", "", "send_proxy"),
            ("", "no_backend = 'wait 1s'", "", "no_backend"),
            ("", "connect_timeout = '1s'", "", "connect_timeout"),
            ("", "connect_attempts = 1", "", "connect_attempts"),
            ("", "warm_connections = 1", "", "warm_connections"),
            ("", "idle_timeout = '1s'", "", "idle_timeout"),
            ("", "half_close_timeout = '1s'", "", "half_close_timeout"),
            ("", "max_lifetime = '1h'", "", "max_lifetime"),
            ("", "slow_start = '1s'", "", "slow_start"),
            ("", "outlier_failures = 3", "", "outlier_failures"),
            ("", "", "max_connections = 3", "max_connections"),
            ("", "", "send_proxy = 'v1'", "send_proxy"),
            ("", "", "address = '10.0.0.2:same'", "address"),
            ("", "", "address = '[fe80::1%lo]:80'", "address"),
        ] {
            let mistakes = read(listener, pool, backend).expect_err(&format!("{listener} {pool} {backend}"));
            let named =
                mistakes.iter().any(|line| line.contains(&format!(" {key}: ")) && line.contains("engine = \"kernel\""));
            assert!(named, "{key}: {mistakes:?}");
        }
    }

    #[test]
    fn approximate_is_refused_where_it_would_do_nothing() {
        let proxy = "[[listener]]\nbind = ['10.0.0.1:80']\n[[pool]]\nalgorithm = 'least-connections'\napproximate = true\n\
                     [[pool.backend]]\naddress = '10.0.0.2:80'\n";
        let said = file::parse(proxy, "f").map(|parsed| parsed.model).map_err(|mistakes| mistakes.0).unwrap_err();
        let want = "f:5: approximate: expected a listener with engine = \"kernel\" that leads to the pool";
        assert!(said.len() == 1 && said[0].starts_with(want), "{said:?}");
        for (pool, want) in [
            ("", "got `weighted-round-robin`, which does not follow load"),
            ("algorithm = 'maglev'", "got `maglev`, which does not follow load"),
            ("algorithm = 'least-time'\nhealth = { kind = 'off' }", "health.kind is \"off\""),
        ] {
            let text = format!(
                "[[listener]]\nname = 'web'\nengine = 'kernel'\nbind = ['10.0.0.1:80']\n[[pool]]\napproximate = true\n{pool}\n\
                 [[pool.backend]]\naddress = '10.0.0.2:80'\n"
            );
            let said = file::parse(&text, "f").map(|parsed| parsed.model).map_err(|mistakes| mistakes.0).unwrap_err();
            assert!(said.len() == 1 && said[0].contains("approximate: ") && said[0].contains(want), "{said:?}");
        }
        // One listener of the kernel is enough, and the model says so too.
        let both =
            proxy.replace("[[pool]]", "[[listener]]\nname = 'k'\nengine = 'kernel'\nbind = ['10.0.0.1:81']\n[[pool]]");
        let mut model = file::parse(&both, "f").unwrap().model;
        assert_eq!(check::all_fit(&model), Ok(()));
        model.listeners.retain(|listener| !listener.is_of_kernel());
        let said = check::all_fit(&model).unwrap_err();
        assert!(said.len() == 1 && said[0].starts_with("pool default: approximate: "), "{said:?}");
    }

    #[test]
    fn the_defaults_and_what_the_kernel_can_do_are_accepted() {
        for (listener, pool, backend) in [
            ("", "", ""),
            ("bind = [':80', '[::]:81', '10.0.0.1:5000-5010', 'name:82']", "", ""),
            ("deny = ['192.0.2.0/24']\nmax_connections_per_source = 3\nconnection_rate_per_source = '3/s'", "", ""),
            ("", "connect_timeout = '5s'\nidle_timeout = '1h'\nno_backend = 'reset'\nconnect_attempts = 3", ""),
            ("", "algorithm = 'power-of-two'\napproximate = true", ""),
            ("", "algorithm = 'least-time'\napproximate = true", ""),
            ("", "algorithm = 'maglev'\non_down = 'reset'\non_remove = 'drain 3s'\nall_down = 'try-all'", ""),
            ("", "source = '10.0.0.1'", "weight = 3\nbackup = true\nsend_proxy = 'off'"),
            ("", "", "address = 'name:80'"),
        ] {
            let model =
                read(listener, pool, backend).unwrap_or_else(|mistakes| panic!("{listener} {pool}: {mistakes:?}"));
            assert_eq!(file::parse(&text::print(&model), "f").unwrap().model, model, "what is printed is accepted too");
        }
    }
}
