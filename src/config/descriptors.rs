//! How the limit on open files (RLIMIT_NOFILE) is divided: what the process needs for itself, and two for each connection.
//!
//! | for | descriptors |
//! |---|---|
//! | the process: standard streams, signals, the keeper of warm connections, files that are read now and then, look-ups of names | [`PROCESS`] |
//! | each worker: its poll, its waker, descriptors held back for dials | [`WORKER`] |
//! | listening sockets | one a worker for each TCP address, one for a unix socket; none with `engine = "kernel"` |
//! | the prober, and a probe of each backend at once | [`PROBER`] and one a backend, for backends that calls add [`SPARE_PROBES`] more; an eighth of the limit at most |
//! | warm connections | one for each, of the backends that are known now; an eighth of the limit at most ([`Share::warm`]) |
//! | the admin API, where there is one | [`AdminShare::descriptors`] |
//! | the socket of `take_over`, where there is one | [`TAKE_OVER`] |
//! | copies of listening sockets for an upgrade, where one is possible | [`lent_at_once`] |
//! | the access log, where there is one | 2 |
//! | pipes of spliced bulk | two for each of [`Share::pipes`] |
//!
//! Never less than an eighth of the limit, or 1 024, is kept: the rest of the system may hand descriptors to the process too.

use super::discovered::is_discovered;
use super::file::place::{Remark, Within};
use super::model::{Backend, Engine, HealthKind, Listener, Model, Pool, Upgrade};
use crate::base::Address;

const PROCESS: u64 = 24;
const WORKER: u64 = 8;
const PROBER: u64 = 4;
const SPARE_PROBES: u64 = 8;
/// The least and the most that the admin API gets of the limit.
const ADMIN: std::ops::RangeInclusive<u64> = 104..=296;
/// Of the admin API's descriptors: its poll, its waker and its listening sockets.
const ADMIN_OWN: u64 = 8;
/// The socket, a process that takes over there, and a pipe that ends the wait for one.
const TAKE_OVER: u64 = 4;
const LOG: u64 = 2;
/// Of listening sockets that are copied at once.
const LENT: std::ops::RangeInclusive<u64> = 8..=128;
const CONNECTION: u64 = 2;

/// The most pipes that all workers together may have open, two descriptors each. A pipe is in use only while bytes are in it.
/// So this is the number of spliced directions that may be stalled at the same time; those beyond it are copied.
pub const PIPES: usize = 256;

/// Calls of the admin API that are worked on at once. Each has its caller and a probe or a look-up.
pub const ADMIN_CALLS: usize = 16;

/// The most callers that the admin API keeps. A small limit on open files leaves it fewer, so that callers cannot take the
/// descriptors of probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdminShare {
    /// Callers whose request is not whole, or that wait for news.
    pub reading: usize,
    /// Callers that have their answer and have not closed.
    pub closing: usize,
    /// Whole requests that wait for a thread.
    pub queued: usize,
}

impl AdminShare {
    /// What a limit on open files grants.
    pub fn of(limit: u64) -> AdminShare {
        let fixed = ADMIN_OWN + 2 * ADMIN_CALLS as u64;
        let callers = (limit / 8).clamp(*ADMIN.start(), *ADMIN.end()) - fixed;
        let quarter = (callers / 4) as usize;
        AdminShare { reading: 2 * quarter, closing: quarter, queued: quarter }
    }

    /// The most callers that wait for news. They count as [`AdminShare::reading`] too, and leave half of it to others.
    pub fn waiting(self) -> usize {
        self.reading / 2
    }

    /// What these callers, the calls and the server itself need.
    pub fn descriptors(self) -> u64 {
        ADMIN_OWN + (self.reading + self.closing + self.queued + 2 * ADMIN_CALLS) as u64
    }
}

/// How many listening sockets are copied at once for a process that takes over. A large limit may serve thousands of ports, and a
/// hand-over that copies more at once takes less time.
pub fn lent_at_once(limit: u64) -> u64 {
    (limit / 128).clamp(*LENT.start(), *LENT.end())
}

/// How the limit is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The most clients at once.
    pub connections: usize,
    /// The most pipes at once.
    pub pipes: usize,
    /// The most warm connections at once, of all backends. Sources may find more backends than were known.
    pub warm: u64,
    /// Descriptors for everything but connections.
    pub reserved: u64,
}

/// The listening sockets that a model asks for. A name may turn out to have several addresses.
pub fn listening_sockets(model: &Model) -> u64 {
    let workers = model.global.workers as u64;
    let proxies = model.listeners.iter().filter(|listener| !listener.is_of_kernel());
    let binds = proxies.flat_map(|listener| &listener.bind);
    binds.map(|listen| if matches!(listen.0, Address::Unix(_)) { 1 } else { workers }).sum()
}

/// Divides `limit` for a model with so many listening sockets. The error says what does not fit, and the remedy.
///
/// Only what the file and the API ask for is refused. Backends that sources have found leave fewer connections than
/// `max_connections` ([`capped`]): a set that is refused would keep backends that are gone.
pub fn divide(limit: u64, model: &Model, listening: u64) -> Result<Share, String> {
    let (workers, needed) = (model.global.workers, needed(limit, model, listening, is_configured));
    let fits = fits(limit, model, listening, is_configured);
    let own = format!(
        "{workers} workers, {listening} listening sockets, probes, warm connections and the rest need {needed} descriptors"
    );
    let limit_is = format!("the limit on open files is {limit} (ulimit -n, LimitNOFILE=)");
    let share = |wanted: u64| {
        let connections = wanted.min(self::fits(limit, model, listening, |_| true)).max(1);
        Share {
            connections: usize::try_from(connections).unwrap_or(usize::MAX),
            pipes: pipes(limit, model) as usize,
            warm: limit / 8,
            reserved: reserved(limit, model, listening, |_| true),
        }
    };
    match model.global.max_connections {
        _ if fits == 0 => {
            let enough =
                (0..64).map(|power| 1 << power).find(|limit| self::fits(*limit, model, listening, is_configured) > 0);
            Err(format!(
                "{limit_is}, which leaves none for connections: {own}; raise it to {} or more, or use fewer workers",
                enough.unwrap_or(u64::MAX)
            ))
        }
        Some(wanted) if wanted as u64 > fits => Err(format!(
            "max_connections: {wanted} connections need {} descriptors, and {own}; {limit_is}: raise it, or set \
             max_connections to {fits} at most",
            (wanted as u64).saturating_mul(CONNECTION)
        )),
        Some(wanted) => Ok(share(wanted as u64)),
        None => Ok(share(fits)),
    }
}

/// A warning where fewer clients than `max_connections` are served, because of backends that sources have found.
pub fn capped(share: Share, model: &Model) -> Option<String> {
    let wanted = model.global.max_connections.filter(|wanted| *wanted > share.connections)?;
    Some(format!(
        "max_connections: {wanted} connections do not fit the limit on open files beside the backends that sources have \
         found: tcplb serves at most {} clients at once",
        share.connections
    ))
}

/// A warning for each setting that asks for more than the division leaves: clients of a listener, and warm connections.
pub fn beyond(share: Share, model: &Model) -> Vec<Remark> {
    let most = share.connections;
    let beyond = |listener: &Listener| {
        let wanted = listener.max_connections.filter(|wanted| *wanted as usize > most)?;
        let name = &listener.name;
        let what = format!("max_connections: {wanted} has no effect, as tcplb serves at most {most} clients");
        let place = Within::Listener(name.clone()).key("max_connections");
        Some(Remark::new(place, format!("listener {name}: {what}")))
    };
    let wanted = warm(model, |_| true);
    let warm = (wanted > share.warm).then(|| {
        let most = share.warm;
        Remark::anywhere(format!(
            "warm_connections: the pools want {wanted} in all, and tcplb keeps at most {most}: an eighth of the limit on open files"
        ))
    });
    model.listeners.iter().filter_map(beyond).chain(warm).collect()
}

/// Do the file, the flags or the API ask for this backend?
fn is_configured(backend: &Backend) -> bool {
    !is_discovered(backend)
}

/// The backends of a pool that `counts` accepts.
fn backends(pool: &Pool, counts: fn(&Backend) -> bool) -> u64 {
    pool.backends.iter().filter(|backend| counts(backend)).count() as u64
}

/// The warm connections that the pools want for the backends that `counts` accepts.
fn warm(model: &Model, counts: fn(&Backend) -> bool) -> u64 {
    model.pools.iter().map(|pool| backends(pool, counts) * u64::from(pool.warm_connections)).sum()
}

/// Connections that fit beside everything else.
fn fits(limit: u64, model: &Model, listening: u64, counts: fn(&Backend) -> bool) -> u64 {
    limit.saturating_sub(reserved(limit, model, listening, counts)) / CONNECTION
}

fn reserved(limit: u64, model: &Model, listening: u64, counts: fn(&Backend) -> bool) -> u64 {
    needed(limit, model, listening, counts).max((limit / 8).min(1024))
}

/// Pipes are a matter of speed: under a small limit there are few.
fn pipes(limit: u64, model: &Model) -> u64 {
    if model.global.relay == Engine::Copy { 0 } else { (PIPES as u64).min(limit / 32).max(model.global.workers as u64) }
}

fn needed(limit: u64, model: &Model, listening: u64, counts: fn(&Backend) -> bool) -> u64 {
    let global = &model.global;
    let hands_over = global.take_over.is_some() || global.upgrade == Upgrade::On;
    let probed = model.pools.iter().filter(|pool| pool.health.kind != HealthKind::Off);
    let probes = probed.map(|pool| backends(pool, counts)).sum::<u64>() + SPARE_PROBES;
    PROCESS
        + global.workers as u64 * WORKER
        + listening
        + PROBER
        + probes.min(limit / 8)
        + warm(model, counts).min(limit / 8)
        + if global.admin.is_some() { AdminShare::of(limit).descriptors() } else { 0 }
        + if global.take_over.is_some() { TAKE_OVER } else { 0 }
        + if hands_over { lent_at_once(limit).min(listening) } else { 0 }
        + if global.access_log.is_some() { LOG } else { 0 }
        + 2 * pipes(limit, model)
}

#[cfg(test)]
mod tests {
    use super::super::model::{Global, Health, Origin};
    use super::*;
    use crate::base::Listen;

    fn model(workers: usize, listeners: usize, backends: usize) -> Model {
        let bind = |port| Listen::parse(&format!("127.0.0.1:{port}")).unwrap();
        let listener = |port| Listener { bind: vec![bind(port)], ..Listener::default() };
        let backends = vec![Backend::at(Address::parse_backend("a:1").unwrap()); backends];
        Model {
            global: Global { workers, ..Global::default() },
            listeners: (0..listeners).map(listener).collect(),
            pools: vec![Pool { backends, health: Health::default(), ..Pool::default() }],
        }
    }

    fn divided(limit: u64, model: &Model) -> Result<Share, String> {
        divide(limit, model, listening_sockets(model))
    }

    #[test]
    fn the_default_leaves_descriptors_for_everything_else() {
        assert_eq!(divided(1024, &model(2, 1, 1)).unwrap().connections, 448);
        assert_eq!(divided(20_000, &model(2, 1, 1)).unwrap().connections, 9_488);
        let mut large = model(16, 10, 3);
        large.global.admin = Listen::parse("127.0.0.1:1").ok();
        assert_eq!(listening_sockets(&large), 160);
        let share = divided(1024, &large).unwrap();
        assert_eq!(share.reserved, 24 + 16 * 8 + 160 + 4 + (3 + 8) + 128 + 8 + 2 * 32);
        assert_eq!(share.connections as u64, (1024 - share.reserved) / 2);
        large.listeners.push(Listener { bind: vec![Listen::parse("unix:/a").unwrap()], ..Listener::default() });
        assert_eq!(listening_sockets(&large), 161, "a unix socket is one worker's");
        assert!(divided(u64::MAX, &large).unwrap().connections > 1_000_000);
    }

    #[test]
    fn the_admin_api_has_callers_by_the_limit() {
        let most = AdminShare { reading: 128, closing: 64, queued: 64 };
        assert_eq!((AdminShare::of(u64::MAX), most.descriptors()), (most, 296));
        assert_eq!(AdminShare::of(256), AdminShare { reading: 32, closing: 16, queued: 16 });
        for limit in 0..4096 {
            let share = AdminShare::of(limit);
            assert!(share.queued >= 16 && share.descriptors() <= (limit / 8).max(104), "{limit}: {share:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error_with_the_remedy() {
        let error = divided(256, &model(16, 10, 1)).unwrap_err();
        for part in ["is 256", "ulimit -n", "16 workers, 160 listening sockets", "or more"] {
            assert!(error.contains(part), "{error}");
        }
        let mut explicit = model(2, 1, 1);
        explicit.global.max_connections = Some(448);
        assert_eq!(divided(1024, &explicit).unwrap().connections, 448);
        explicit.global.max_connections = Some(449);
        let error = divided(1024, &explicit).unwrap_err();
        assert!(error.contains("449 connections need 898 descriptors") && error.contains("448 at most"), "{error}");
        explicit.global.max_connections = Some(usize::MAX);
        assert!(divided(1024, &explicit).is_err());
    }

    #[test]
    fn backends_of_sources_leave_fewer_connections_and_are_not_refused() {
        let mut model = model(2, 1, 11);
        model.pools[0].warm_connections = 4;
        let fits = divided(1024, &model).unwrap().connections;
        model.global.max_connections = Some(fits);
        assert_eq!(capped(divided(1024, &model).unwrap(), &model), None);
        let found = |label: &str| Backend {
            origin: Origin::Source(label.into()),
            ..Backend::at(Address::parse_backend("b:1").unwrap())
        };
        model.pools[0].backends.extend(vec![found("dns"); 10]);
        let share = divided(1024, &model).unwrap();
        assert_eq!(share.connections, fits - 10 * (1 + 4) / 2, "a probe and four warm connections for each");
        let warning = capped(share, &model).unwrap();
        for number in [fits, share.connections] {
            assert!(warning.contains(&number.to_string()), "{warning}");
        }
        // The same backends in a file do not fit.
        model.pools[0].backends.iter_mut().for_each(|backend| backend.origin = Origin::default());
        assert!(divided(1024, &model).unwrap_err().contains("max_connections"));
        // At least one client is served, however many a source finds.
        let mut small = self::model(1, 1, 1);
        let least = (32..1024).find(|limit| divided(*limit, &small).is_ok()).unwrap();
        small.pools[0].backends.extend(vec![found("dns"); 1000]);
        assert_eq!(divided(least, &small).unwrap().connections, 1);
    }

    #[test]
    fn a_listener_that_allows_more_than_the_process_serves_is_warned_of() {
        let mut model = model(2, 2, 1);
        let share = divided(1024, &model).unwrap();
        let most = u32::try_from(share.connections).unwrap();
        model.listeners[0].max_connections = Some(most);
        assert_eq!(beyond(share, &model), []);
        model.listeners[0].max_connections = Some(most + 1);
        assert_eq!(beyond(share, &model).len(), 1);
        model.global.max_connections = Some(10);
        model.listeners[1].max_connections = Some(11);
        assert_eq!(beyond(divided(1024, &model).unwrap(), &model).len(), 2);
    }

    #[test]
    fn warm_connections_have_an_eighth_of_the_limit_at_most() {
        let without = divided(1024, &model(16, 1, 4)).unwrap();
        let mut warm = model(16, 1, 4);
        for (wanted, has) in [(8, 32), (32, 128), (33, 128), (10_000, 128)] {
            warm.pools[0].warm_connections = wanted;
            let share = divided(1024, &warm).unwrap();
            assert_eq!((share.reserved - without.reserved, share.warm), (has, 128), "{wanted}");
            assert_eq!(beyond(share, &warm).len(), usize::from(wanted > 32), "{wanted}");
        }
    }

    #[test]
    fn the_advised_limit_is_enough() {
        for (workers, listeners, backends) in [(1, 1, 1), (16, 10, 1), (64, 100, 5000)] {
            let model = model(workers, listeners, backends);
            let error = divided(32, &model).unwrap_err();
            let advised: u64 = error.split("raise it to ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
            assert!(divided(advised, &model).is_ok(), "{error}");
        }
    }
}
