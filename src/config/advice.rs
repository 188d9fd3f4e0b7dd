//! Warns the operator of settings that are valid and rarely meant. Nothing here is refused.
//!
//! `tcplb check`, the start, a reload and a change by API log or show each warning as a line.

use super::file::MISTAKES_MAX;
use super::file::place::{Place, Remark, Within};
use super::model::{Listener, Model, Pool};
use super::settings::{self, GLOBAL, HEALTH, LISTENER, POOL, Section};
use crate::policy::balance::Shares;
use crate::policy::routes::{self, Clients, Covered};
use crate::proto::sniff::Protocol;
use std::collections::HashSet;

/// Every warning about a model.
pub fn of(model: &Model) -> Vec<Remark> {
    let used: HashSet<&str> = model.listeners.iter().flat_map(Listener::pools).collect();
    let mut warnings = without_effect(&GLOBAL, "global", &Within::Global, &model.global);
    warnings.extend(of_process_limit(model));
    for listener in &model.listeners {
        let which = format!("listener {}", listener.name);
        warnings.extend(without_effect(&LISTENER, &which, &Within::Listener(listener.name.clone()), listener));
        warnings.extend(of_routes(listener));
        warnings.extend(of_warm_routes(listener, model));
    }
    for pool in &model.pools {
        if !used.contains(pool.name.as_str()) {
            let place = Within::Pool(pool.name.clone());
            warnings.push(Remark::new(place, format!("pool {}: no listener uses it", pool.name)));
        }
        warnings.extend(of_pool(pool));
    }
    readable(warnings)
}

/// The limit of the process, where the kernel carries connections: nothing there counts them before it lets them in.
fn of_process_limit(model: &Model) -> Option<Remark> {
    model.global.max_connections?;
    let of_kernel: Vec<&str> = model.kernel_listeners().map(|listener| listener.name.as_str()).collect();
    let what = "max_connections has no effect on listeners with engine = \"kernel\"";
    let remark =
        || Remark::new(Within::Global.key("max_connections"), format!("global: {what}: {}", of_kernel.join(", ")));
    (!of_kernel.is_empty()).then(remark)
}

/// About a route.
fn on_route(listener: &Listener, index: usize, key: Option<&'static str>, what: &str) -> Remark {
    let place = Within::Route(listener.name.clone(), index);
    let place = key.map_or_else(|| place.clone().into(), |key| place.clone().key(key));
    Remark::new(place, format!("listener {}: {} {what}", listener.name, route(listener, index)))
}

/// A route, by its number and its name.
fn route(listener: &Listener, index: usize) -> String {
    let name = listener.routes.get(index).and_then(|route| route.name.as_ref());
    format!("route {}{}", index + 1, name.map_or_else(String::new, |name| format!(" ({name})")))
}

/// Routes of Postgres to pools with warm connections.
fn of_warm_routes<'a>(listener: &'a Listener, model: &'a Model) -> impl Iterator<Item = Remark> + 'a {
    let warm: HashSet<&str> =
        model.pools.iter().filter(|pool| pool.warm_connections > 0).map(|pool| pool.name.as_str()).collect();
    listener.routes.iter().enumerate().filter_map(move |(index, it)| {
        let is_one = it.conditions.protocol == Some(Protocol::Postgres) && warm.contains(it.pool.as_str());
        let what =
            "leads clients of postgres with TLS, which take no warm connection; warm_connections keeps some in pool";
        is_one.then(|| on_route(listener, index, Some("pool"), &format!("{what} {}", it.pool)))
    })
}

/// Routes that no client can take.
fn of_routes(listener: &Listener) -> Vec<Remark> {
    let clients = match settings::all_have_addresses(listener) {
        true => Clients::HaveAddresses,
        false => Clients::MayHaveNone,
    };
    let covered = routes::covered(listener.routes.iter().map(|route| &route.conditions), clients);
    let covered = covered.into_iter().map(|Covered { route: index, by }| {
        let by: Vec<String> = by.into_iter().map(|by| route(listener, by)).collect();
        let take = if by.len() > 1 { "take" } else { "takes" };
        let what = format!("can never take a client: {} {take} all of them", by.join(" and "));
        on_route(listener, index, None, &what)
    });
    let with_source = listener.routes.iter().enumerate().filter(|(_, route)| !route.conditions.source.is_empty());
    let without_address = with_source.filter(|_| !settings::has_addresses(listener)).map(|(index, _)| {
        let what = format!("can never take a client: source needs {}", settings::ADDRESSES);
        on_route(listener, index, Some("source"), &what)
    });
    covered.chain(without_address).collect()
}

/// Settings that have no effect without another one.
fn without_effect<S>(section: &Section<S>, which: &str, within: &Within, values: &S) -> Vec<Remark> {
    let defaults = (section.defaults)();
    let lacks =
        section.settings.iter().filter_map(|setting| Some((setting.about.key, setting.lacks(values, &defaults)?)));
    let remark = |(key, what): (&'static str, _)| {
        Remark::new(within.clone().key(key), format!("{which}: {key} has no effect without {what}"))
    };
    lacks.map(remark).collect()
}

/// The first [`MISTAKES_MAX`] warnings, and whether there are more.
pub fn readable(mut warnings: Vec<Remark>) -> Vec<Remark> {
    if warnings.len() > MISTAKES_MAX {
        warnings.truncate(MISTAKES_MAX);
        warnings.push(Remark::anywhere("… and more"));
    }
    warnings
}

/// Every warning about the pool of this name.
pub fn of_pool_called(model: &Model, name: &str) -> Vec<Remark> {
    model.pools.iter().find(|pool| pool.name == name).map(of_pool).unwrap_or_default()
}

/// Every warning about a pool and its backends.
pub fn of_pool(pool: &Pool) -> Vec<Remark> {
    let within = Within::Pool(pool.name.clone());
    let mut warnings = without_effect(&POOL, &format!("pool {}", pool.name), &within, pool);
    let health = Within::Health(pool.name.clone());
    warnings.extend(without_effect(&HEALTH, &format!("pool {}: health", pool.name), &health, &pool.health));
    let mut warn = |place: Place, what: &str| warnings.push(Remark::new(place, format!("pool {}: {what}", pool.name)));
    // A source may find others.
    let own_alone = pool.discover.is_empty() && !pool.backends.is_empty();
    let weights = || pool.backends.iter().map(|backend| backend.weight).filter(|weight| *weight > 0);
    match (weights().min(), weights().max()) {
        (Some(least), Some(most)) if least < most && pool.algorithm.shares != Shares::ByWeight => {
            // A client of the one keeps its backend, and so does a client of the other.
            let other =
                if pool.algorithm.name == "sticky-round-robin" { "source-hash" } else { "weighted-round-robin" };
            let name = pool.algorithm.name;
            let what =
                format!("{name} ignores weights, but they differ (from {least} to {most}): {other} goes by weight");
            warn(within.clone().key("algorithm"), &what);
        }
        (None, _) if own_alone => {
            warn(within.clone().into(), "every backend has weight 0, so none takes a new connection")
        }
        _ => {}
    }
    if own_alone && pool.backends.iter().all(|backend| backend.backup) {
        warn(within.into(), "every backend is a backup, so they replace no primary");
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Address;
    use crate::config::model::{Backend, Discover, Global, Listener};
    use crate::discovery::KINDS;
    use crate::policy::balance;

    fn texts(remarks: Vec<Remark>) -> Vec<String> {
        remarks.iter().map(Remark::to_string).collect()
    }

    fn pool(algorithm: &str, weights: &[u16], backup: bool) -> Pool {
        let backend = |(port, weight): (u16, &u16)| {
            let address = Address::parse_backend(&format!("127.0.0.1:{port}")).unwrap();
            Backend { weight: *weight, backup, ..Backend::at(address) }
        };
        let backends = (1..).zip(weights).map(backend).collect();
        Pool { name: "web".to_owned(), algorithm: balance::find(algorithm).unwrap(), backends, ..Pool::default() }
    }

    #[test]
    fn of_thousands_of_warnings_a_hundred_are_reported() {
        let pool = |number| Pool { name: format!("p{number}"), ..pool("random", &[1], false) };
        let model =
            |count| Model { pools: (0..count).map(pool).collect(), listeners: Vec::new(), global: Global::default() };
        assert_eq!(of(&model(100)).len(), 100);
        let warnings = texts(of(&model(5_000)));
        assert_eq!((warnings.len(), warnings[100].as_str()), (101, "… and more"));
    }

    #[test]
    fn weights_that_differ_are_warned_of_where_the_algorithm_ignores_them() {
        for (algorithm, weights, warning) in [
            (
                "round-robin",
                &[5, 1, 0][..],
                Some("ignores weights, but they differ (from 1 to 5): weighted-round-robin"),
            ),
            (
                "sticky-round-robin",
                &[5, 1],
                Some("ignores weights, but they differ (from 1 to 5): source-hash goes by"),
            ),
            ("first", &[5, 1], Some("ignores weights, but they differ (from 1 to 5): weighted-round-robin goes by")),
            ("round-robin", &[5, 5, 0], None),
            ("weighted-round-robin", &[5, 1], None),
            ("least-connections", &[5, 1], None),
            ("round-robin", &[0, 0], Some("every backend has weight 0")),
            ("maglev", &[], None),
        ] {
            let warnings = texts(of_pool(&pool(algorithm, weights, false)));
            assert_eq!(warnings.len(), usize::from(warning.is_some()), "{algorithm} {weights:?}: {warnings:?}");
            assert!(warnings.iter().all(|line| line.contains(warning.unwrap())), "{warnings:?}");
        }
    }

    #[test]
    fn the_limit_of_the_process_is_warned_of_where_the_kernel_carries_connections() {
        let warnings = |global: &str, engine: &str| {
            let listener = format!("[[listener]]\nname = 'web'\nbind = [':80']\n{engine}\n");
            let backend = "[[pool]]\n[[pool.backend]]\naddress = '10.0.0.1:80'\n";
            texts(of(&super::super::file::parse(&format!("[global]\n{global}\n{listener}{backend}"), "f")
                .unwrap()
                .model))
        };
        let (limit, kernel) = ("max_connections = 9", "engine = 'kernel'");
        let what = "global: max_connections has no effect on listeners with engine = \"kernel\": web";
        assert!(warnings(limit, kernel).iter().any(|line| line.ends_with(what)), "{:?}", warnings(limit, kernel));
        for (global, engine) in [("", kernel), (limit, "")] {
            assert!(warnings(global, engine).is_empty(), "{global} {engine}");
        }
    }

    #[test]
    fn a_setting_without_the_one_it_needs_is_warned_of() {
        let warnings = |global: &str, listener: &str, pool: &str| {
            let text = format!("[global]\n{global}\n[[listener]]\nbind = [':80']\n{listener}\n[[pool]]\n{pool}\n");
            texts(of(&super::super::file::parse(&text, "f").unwrap().model))
        };
        for (global, listener, pool, warning) in [
            ("admin_token_file = '/t'", "", "", "global: admin_token_file has no effect without admin"),
            ("metrics_per_backend = false", "", "", "global: metrics_per_backend has no effect without admin"),
            ("log_format = 'json'", "", "", "global: log_format has no effect without access_log"),
            (
                "",
                "trusted_proxies = ['::/0']",
                "",
                "listener default: trusted_proxies has no effect without accept_proxy",
            ),
            ("", "", "abandoned = 'drop'", "pool default: abandoned has no effect without no_backend = \"wait …\""),
        ] {
            assert_eq!(warnings(global, listener, pool), [warning]);
        }
        let global = "admin = 'unix:/a'\nadmin_token_file = '/t'\nmetrics_per_backend = false\naccess_log = '-'\n\
                      log_format = 'json'";
        let listener = "accept_proxy = true\ntrusted_proxies = ['::/0']";
        assert_eq!(warnings(global, listener, "no_backend = 'wait 1s'\nabandoned = 'drop'"), [""; 0]);
        assert_eq!(warnings("log_format = 'text'", "", "abandoned = 'serve'"), [""; 0], "the defaults");
    }

    #[test]
    fn limits_by_address_are_warned_of_where_no_client_has_one() {
        let warnings = |listener: &str| {
            let text = format!("[[listener]]\n{listener}\n[[pool]]\n[[pool.backend]]\naddress = '127.0.0.1:1'\n");
            texts(of(&super::super::file::parse(&text, "f").unwrap().model))
        };
        for (key, value) in [
            ("allow", "['10.0.0.0/8']"),
            ("deny", "['10.0.0.0/8']"),
            ("allow_file", "'/a'"),
            ("deny_file", "'/d'"),
            ("max_connections_per_source", "3"),
            ("connection_rate_per_source", "'3/s'"),
        ] {
            let with = |rest: &str| warnings(&format!("{key} = {value}\n{rest}"));
            let warning =
                format!("listener default: {key} has no effect without an IP address in bind, or accept_proxy");
            for bind in ["bind = ['unix:/a', 'unix:@b']", "limits = 'count'\nbind = ['unix:/a']"] {
                assert_eq!(with(bind), [warning.as_str()], "{bind}");
            }
            for bind in ["bind = ['unix:/a', ':80']", "bind = ['name:80']", "bind = ['unix:/a']\naccept_proxy = true"] {
                assert_eq!(with(bind), [""; 0], "{bind}");
            }
        }
        let count = "limits = 'count'\nbind = [':80']";
        let warning = "listener default: limits has no effect without a list or a limit per source";
        assert_eq!(warnings(count), [warning]);
        assert_eq!(warnings(&format!("{count}\nmax_connections = 5")), [warning]);
    }

    #[test]
    fn routes_that_can_never_take_a_client_are_warned_of() {
        let warnings = |listener: &str| {
            let text = format!("[[listener]]\n{listener}\n[[pool]]\n");
            texts(of(&super::super::file::parse(&text, "f").unwrap().model))
        };
        let route = |lines: &str| format!("\n[[listener.route]]\npool = 'default'\n{lines}");
        let routes = |routes: &[&str]| {
            warnings(&("bind = [':80']".to_owned() + &routes.iter().map(|lines| route(lines)).collect::<String>()))
        };
        let (a, b) = ("sni = ['a.example']", "name = 'b'\nsni = ['b.example']");
        assert_eq!(routes(&[a, b, "sni = ['*.example']"]), [""; 0]);
        let by_one = "listener default: route 2 can never take a client: route 1 takes all of them";
        assert_eq!(routes(&[a, "sni = ['A.example.']\nprotocol = 'tls'"]), [by_one]);
        let by_two = "listener default: route 3 (c) can never take a client: route 1 and route 2 (b) take all of them";
        assert_eq!(routes(&[a, b, "name = 'c'\nsni = ['b.example', 'a.example']"]), [by_two]);
        let source = "source = ['10.0.0.0/8']";
        let without_address =
            "listener default: route 1 can never take a client: source needs an IP address in bind, or accept_proxy";
        assert_eq!(warnings(&format!("bind = ['unix:/a']{}", route(source))), [without_address]);
        assert_eq!(warnings(&format!("bind = ['unix:/a']\naccept_proxy = true{}", route(source))), [""; 0]);
        for line in ["sniff_timeout = '1s'", "silent_pool = 'default'"] {
            let key = line.split(' ').next().unwrap();
            let warning = format!("listener default: {key} has no effect without a route with protocol, sni or alpn");
            let with = |rest: &str| warnings(&format!("bind = [':80']\n{line}{rest}"));
            assert_eq!((with(""), with(&route(source))), (vec![warning.clone()], vec![warning]));
            assert_eq!(with(&route(a)), [""; 0]);
        }
    }

    #[test]
    fn warm_connections_that_clients_of_postgres_with_tls_never_take_are_warned_of() {
        let warnings = |protocol: &str, warm: u32| {
            let text = format!(
                "[[listener]]\nbind = [':80']\npool = 'a'\n[[listener.route]]\nname = 'db'\nprotocol = '{protocol}'\npool = 'b'\n\
                 [[pool]]\nname = 'a'\nwarm_connections = 5\n[[pool]]\nname = 'b'\nwarm_connections = {warm}\n"
            );
            texts(of(&super::super::file::parse(&text, "f").unwrap().model))
        };
        let warning = "listener default: route 1 (db) leads clients of postgres with TLS, which take no warm connection; \
                       warm_connections keeps some in pool b";
        assert_eq!(warnings("postgres", 10), [warning]);
        assert_eq!(warnings("postgres", 0), [""; 0]);
        assert_eq!(warnings("tls", 10), [""; 0]);
    }

    #[test]
    fn a_pool_of_routes_or_of_silent_clients_is_used() {
        let text = "[[listener]]\nbind = [':80']\npool = 'a'\nsilent_pool = 'b'\n[[listener.route]]\nprotocol = 'ssh'\npool = 'c'\n\
                    [[pool]]\nname = 'a'\n[[pool]]\nname = 'b'\n[[pool]]\nname = 'c'\n[[pool]]\nname = 'd'\n";
        let model = super::super::file::parse(text, "f").unwrap().model;
        assert_eq!(texts(of(&model)), ["pool d: no listener uses it"]);
    }

    #[test]
    fn settings_of_probes_are_warned_of_where_there_are_none() {
        let warnings = |kind: &str, health: &str, pool: &str| {
            let text = format!(
                "[[listener]]\nbind = [':80']\n[[pool]]\n{pool}\n[pool.health]\nkind = '{kind}'\n{health}\n\
                 [[pool.backend]]\naddress = '127.0.0.1:1'\n"
            );
            texts(of(&super::super::file::parse(&text, "f").unwrap().model))
        };
        for (key, value) in
            [("interval", "'500ms'"), ("interval", "'9s'"), ("timeout", "'900ms'"), ("rise", "7"), ("fall", "7")]
        {
            let line = format!("{key} = {value}");
            let warning = format!("pool default: health: {key} has no effect without probes, and kind is \"off\"");
            assert_eq!(warnings("off", &line, ""), [warning]);
            assert_eq!(warnings("tcp", &line, ""), [""; 0]);
        }
        let warning = "pool default: on_down has no effect without probes, and health.kind is \"off\"";
        assert_eq!(warnings("off", "", "on_down = 'reset'"), [warning]);
        assert_eq!(warnings("tcp", "", "on_down = 'reset'"), [""; 0]);
        assert_eq!(warnings("off", "", ""), [""; 0]);
    }

    #[test]
    fn a_pool_of_backups_and_one_without_a_listener_are_warned_of() {
        let warnings = texts(of_pool(&pool("random", &[1, 1], true)));
        assert!(warnings.len() == 1 && warnings[0].contains("every backend is a backup"), "{warnings:?}");
        let found = vec![Discover::of(KINDS[0])];
        for weight in [0, 1] {
            let with_a_source = Pool { discover: found.clone(), ..pool("random", &[weight], true) };
            assert_eq!(texts(of_pool(&with_a_source)), [""; 0], "its source may find primaries");
        }
        let pools = vec![pool("random", &[1], false), Pool { name: "spare".to_owned(), ..pool("random", &[1], false) }];
        let listeners = vec![Listener { pool: "web".to_owned(), ..Listener::default() }];
        let model = Model { global: Global::default(), listeners, pools };
        assert_eq!(texts(of(&model)), ["pool spare: no listener uses it"]);
    }
}
