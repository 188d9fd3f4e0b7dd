//! Changes under way: real sockets, a balancer in this process, and clients that must not notice.

mod hold;
mod support;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use support::*;
use tcplb::base::{Address, Listen};
use tcplb::config::model::{self, Health, HealthKind, OnDown, OnRemove};
use tcplb::control::{Refused, ReloadError};
use tcplb::pool::AdminState;

#[test]
fn reloads_under_load_fail_no_connection_of_a_listener_that_stays() {
    let (one, two, three) = (named("1"), named("2"), named("3"));
    let balancer = Balancer::start(model(&[("web", &[("1", &one), ("2", &two)])]));
    let at = balancer.at();
    let load = Load::start(&at, 3);
    for round in 0..15 {
        balancer.edit(|model| {
            let mut extra = model::Listener { name: "extra".into(), ..model.listeners[0].clone() };
            extra.bind = vec![any_port()];
            model.listeners.truncate(1);
            if round % 2 == 0 {
                model.listeners.push(extra);
            }
            // One always stays, so that there is always a backend.
            model.pools[0].backends = match round % 3 {
                0 => vec![backend("1", one.at()), backend("3", three.at())],
                1 => vec![backend("2", two.at()), backend("1", one.at())],
                _ => vec![model::Backend { weight: 7, ..backend("1", one.at()) }],
            };
            model.pools[0].connect_attempts = 3 + round % 2;
        });
        load.served(20);
        let changes = balancer.remote.reload(false).unwrap();
        assert!(!changes.0.is_empty());
        assert_eq!(balancer.at(), at, "it was not touched");
        if round % 2 == 0 {
            let extra = balancer.at_listener("extra");
            let client = Client::connect(&extra);
            client.exchange();
            let changes = balancer.reload(|model| model.listeners.truncate(1)).to_string();
            assert!(changes.contains("listener extra removed (1 connection goes on)"), "{changes}");
            client.exchange();
            eventually("no socket listens there any more", || Conn::try_to(&extra).is_err());
        }
    }
    assert_eq!(load.stop(), 0, "failed connections");
    assert_eq!(balancer.published.reloads(), (23, 0));
}

#[test]
fn a_listener_whose_pool_changes_keeps_its_sockets_and_its_counts() {
    let (one, two) = (named("1"), named("2"));
    let mut wanted = model(&[("a", &[("1", &one)]), ("b", &[("2", &two)])]);
    // Twice a port of the kernel's choice: which is which must not get mixed up.
    wanted.listeners[0].bind.push(any_port());
    let balancer = Balancer::start(wanted);
    let at = balancer.at();
    let addresses = || balancer.published.snapshot().listeners[0].addresses.clone();
    let before_all = addresses();
    let before = Client::connect(&at);
    let changes = balancer.reload(|model| model.listeners[0].pool = "b".into());
    assert_eq!(changes.to_string(), "listener a changed: pool a → b (1 connection)");
    assert_eq!(Client::connect(&at).server, "2");
    assert_eq!((addresses(), before_all.len()), (before_all, 2));
    before.exchange();
    let snapshot = balancer.published.snapshot();
    assert_eq!((snapshot.listeners[0].totals.accepted(), snapshot.listeners[0].pool.settings.name.as_str()), (2, "b"));
}

#[test]
fn a_backend_drained_under_load_ends_with_no_connection_cut() {
    let (one, two) = (named("1"), named("2"));
    let balancer = Balancer::start(model(&[("web", &[("1", &one), ("2", &two)])]));
    let at = balancer.at();
    let load = Load::start(&at, 3);
    let long: Vec<Client> = (0..8).map(|_| Client::connect(&at)).collect();
    for (state, shown) in [(AdminState::Draining, "draining"), (AdminState::Disabled, "disabled")] {
        balancer.remote.change_backend("web", "1", None, Some(state)).unwrap();
        let drained = balancer.backend("web", "1");
        // Clients that the load had under way reach it within an attempt; clients that connect from now on do not.
        eventually("only the long ones are left", || {
            drained.active() as usize == long.iter().filter(|client| client.server == "1").count()
        });
        let before = drained.counters.connections.load(Ordering::Relaxed);
        load.served(50);
        long.iter().for_each(Client::exchange);
        assert!((0..10).all(|_| Client::connect(&at).server == "2"), "{shown}");
        assert_eq!(drained.counters.connections.load(Ordering::Relaxed), before);
        let snapshot = balancer.published.snapshot();
        assert_eq!(snapshot.pools[0].members[0].state.word(), shown);
    }
    drop(long);
    eventually("the last one ends", || balancer.backend("web", "1").active() == 0);
    balancer.remote.change_backend("web", "1", Some(3), Some(AdminState::Enabled)).unwrap();
    eventually("it is back", || Client::connect(&at).server == "1");
    assert_eq!(load.stop(), 0, "failed connections");
}

#[test]
fn a_disabled_backend_is_not_probed_and_one_that_is_enabled_again_is_at_once() {
    let one = named("1");
    let mut model = model(&[("web", &[("1", &one)])]);
    model.pools[0].health = Health { interval: Duration::from_millis(5), ..Health::default() };
    let balancer = Balancer::start(model);
    let probes =
        || balancer.backend("web", "1").counters.probes.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>();
    eventually("it is probed", || probes() > 2);
    balancer.remote.change_backend("web", "1", None, Some(AdminState::Disabled)).unwrap();
    // One may have been under way. Any other would have its turn while changes go by for twenty intervals.
    eventually("it comes to rest", || {
        let (before, until) = (probes(), std::time::Instant::now() + Duration::from_millis(100));
        while std::time::Instant::now() < until {
            balancer.remote.change_backend("web", "1", Some(1), None).unwrap();
        }
        probes() == before
    });
    let before = probes();
    balancer.remote.change_backend("web", "1", None, Some(AdminState::Enabled)).unwrap();
    eventually("it is probed again", || probes() > before);
}

#[test]
fn a_reload_that_fails_leaves_everything_as_it_was() {
    let (one, two) = (named("1"), named("2"));
    let balancer = Balancer::start(model(&[("web", &[("1", &one)])]));
    let before = balancer.published.snapshot();
    let unchanged = || Arc::ptr_eq(&before, &balancer.published.snapshot());

    balancer.break_file(&["tcplb.toml:3: unknown key `wieght`", "tcplb.toml:9: unknown pool `wbe`"]);
    let Err(ReloadError::Mistakes(mistakes)) = balancer.remote.reload(false) else { panic!("it was not refused") };
    assert_eq!(mistakes.len(), 2);
    assert!(unchanged());

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = tempfile::tempdir().unwrap();
    let path = socket.path().join("new.sock");
    balancer.edit(|model| {
        model.pools[0].backends = vec![backend("2", two.at())];
        model.listeners.push(model::Listener {
            name: "new".into(),
            bind: vec![Listen(Address::Unix(path.clone())), Listen(Address::Inet(taken.local_addr().unwrap()))],
            ..model.listeners[0].clone()
        });
    });
    let dry = balancer.remote.reload(true).unwrap().to_string();
    assert!(dry.contains("listener new added") && dry.contains("backend 1 removed"), "{dry}");
    let Err(ReloadError::CouldNotListen(why)) = balancer.remote.reload(false) else { panic!("it was not refused") };
    assert!(why.contains(&taken.local_addr().unwrap().to_string()), "{why}");
    assert!(unchanged() && !path.exists(), "nothing is half-done");
    assert_eq!(Client::connect(&balancer.at()).server, "1");
    assert_eq!(balancer.published.reloads(), (0, 2), "a dry run does not count");

    drop(taken);
    balancer.remote.reload(false).unwrap();
    assert_eq!(Client::connect(&balancer.at()).server, "2");
    assert!(path.exists());
    drop(balancer);
    assert!(!path.exists());
}

#[test]
fn changes_at_run_time_survive_a_reload_of_an_unchanged_file() {
    let (one, two, three) = (named("1"), named("2"), named("3"));
    let balancer = Balancer::start(model(&[("web", &[("1", &one), ("2", &two)])]));
    let remote = &balancer.remote;
    remote.remove_backend("web", "1", false).unwrap();
    remote.change_backend("web", "2", Some(9), Some(AdminState::Draining)).unwrap();
    remote.add_backend("web", backend("3", three.at())).unwrap();
    let generation = balancer.published.snapshot().generation;
    assert_eq!(generation, 4);
    assert_eq!(remote.reload(false).unwrap().to_string(), "nothing changed");
    let snapshot = balancer.published.snapshot();
    let members = snapshot.pools[0].members.iter();
    let shown: Vec<_> =
        members.map(|member| (member.backend.name.as_str(), member.weight, member.state.word())).collect();
    assert_eq!(shown, [("2", 9, "draining"), ("3", 1, "enabled")]);
    assert_eq!(balancer.published.model().pools[0].backends.len(), 2);
    assert_eq!(Client::connect(&balancer.at()).server, "3");
}

#[test]
fn impossible_changes_are_refused_with_the_reason() {
    let one = named("1");
    let balancer = Balancer::start(model(&[("web", &[("1", &one)])]));
    let remote = &balancer.remote;
    let (pool, name) = ("web".to_owned(), "1".to_owned());
    assert_eq!(remote.add_backend("wbe", backend("1", one.at())), Err(Refused::NoPool("wbe".into())));
    assert_eq!(remote.add_backend("web", backend("1", one.at())), Err(Refused::Exists { pool: pool.clone(), name }));
    let missing = Refused::NoBackend { pool, name: "2".into() };
    assert_eq!(remote.change_backend("web", "2", Some(1), None), Err(missing.clone()));
    assert_eq!(remote.remove_backend("web", "2", true), Err(missing));
    let bad = model::Backend { name: "a b".into(), ..backend("1", one.at()) };
    assert!(matches!(remote.add_backend("web", bad), Err(Refused::Invalid(why)) if why.contains("white space")));
    let nowhere = model::Backend::at(Address::Name("nowhere.invalid".into(), 80));
    assert!(
        matches!(remote.add_backend("web", nowhere), Err(Refused::Invalid(why)) if why.contains("nowhere.invalid"))
    );

    let open = Client::connect(&balancer.at());
    remote.stop();
    eventually("it drains", || balancer.published.is_draining());
    assert_eq!(remote.remove_backend("web", "1", false), Err(Refused::Draining));
    assert_eq!(remote.reload(false), Err(ReloadError::Draining));
    open.exchange();
    drop(open);
    let remote = remote.clone();
    balancer.wait();
    assert_eq!(remote.remove_backend("web", "1", false), Err(Refused::Gone));
    assert_eq!(remote.reload(false), Err(ReloadError::Gone));
}

#[test]
fn on_remove_decides_what_happens_to_connections_of_a_removed_backend() {
    let (one, two) = (named("1"), named("2"));
    let time = Duration::from_millis(300);
    for (on_remove, force, goes_on) in [
        (OnRemove::Keep, false, true),
        (OnRemove::Keep, true, false),
        (OnRemove::Reset, false, false),
        (OnRemove::Drain(Duration::from_secs(3600)), false, true),
        (OnRemove::Drain(time), false, false),
    ] {
        let mut model = model(&[("web", &[("1", &one), ("2", &two)])]);
        model.pools[0].on_remove = on_remove;
        let balancer = Balancer::start(model);
        let clients: Vec<Client> = (0..6).map(|_| Client::connect(&balancer.at())).collect();
        let backend = balancer.backend("web", "1");
        assert_eq!(backend.active(), 3);
        let began = std::time::Instant::now();
        balancer.remote.remove_backend("web", "1", force).unwrap();
        for client in &clients {
            if goes_on || client.server == "2" {
                client.exchange();
            } else {
                client.conn.assert_reset();
            }
        }
        if on_remove == OnRemove::Drain(time) {
            assert!(began.elapsed() >= time);
        }
        assert_eq!(Client::connect(&balancer.at()).server, "2");
        drop(clients);
        eventually("its leases come back", || backend.active() == 0);
    }
}

#[test]
fn on_down_reset_resets_connections_of_a_backend_that_goes_down() {
    for on_down in [OnDown::Keep, OnDown::Reset] {
        let (mut one, two) = (named("1"), named("2"));
        let mut model = model(&[("web", &[("1", &one), ("2", &two)])]);
        model.pools[0].on_down = on_down;
        model.pools[0].health = Health {
            kind: HealthKind::Tcp,
            port: None,
            interval: Duration::from_millis(20),
            timeout: Duration::from_millis(20),
            rise: 1,
            fall: 1,
            ..Health::default()
        };
        let balancer = Balancer::start(model);
        let clients: Vec<Client> = (0..4).map(|_| Client::connect(&balancer.at())).collect();
        one.stop_listening();
        let snapshot = balancer.published.snapshot();
        eventually("it is down", || !snapshot.pools[0].up.get(snapshot.pools[0].members[0].slot));
        for client in &clients {
            if on_down == OnDown::Keep || client.server == "2" {
                client.exchange();
            } else {
                client.conn.assert_reset();
            }
        }
    }
}

/// Set in the process that is alone with its descriptors.
const ALONE: &str = "TCPLB_TEST_HUNDRED_CHANGES";

/// Runs itself again in a process of its own, where no other test opens descriptors.
#[test]
fn a_hundred_changes_leave_nothing_behind() {
    if std::env::var_os(ALONE).is_some() {
        return a_hundred_changes();
    }
    let own = std::env::current_exe().unwrap();
    let name = "control::a_hundred_changes_leave_nothing_behind";
    let child =
        std::process::Command::new(own).args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().unwrap();
    let out = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{out}{}", String::from_utf8_lossy(&child.stderr));
}

fn a_hundred_changes() {
    let (one, two) = (named("1"), named("2"));
    let mut model = model(&[("web", &[("1", &one), ("2", &two)])]);
    model.pools[0].algorithm = tcplb::policy::balance::find("maglev").expect("it is registered");
    let balancer = Balancer::start(model);
    let at = balancer.at();
    let held = Client::connect(&at);
    let change = |round: usize| {
        balancer.edit(|model| {
            model.listeners.truncate(1);
            if round.is_multiple_of(2) {
                let bind = vec![any_port()];
                model.listeners.push(model::Listener { name: "extra".into(), bind, ..model.listeners[0].clone() });
            }
            model.pools[0].backends[1].weight = 1 + (round % 7) as u16;
        });
        balancer.remote.reload(false).expect("reloaded");
        let new = model::Backend { name: format!("x{round}"), ..backend("2", two.at()) };
        balancer.remote.add_backend("web", new).expect("added");
        Client::connect(&at).exchange();
        balancer.remote.remove_backend("web", &format!("x{round}"), false).expect("removed");
    };
    // The first few fill what is kept for later: buffers, pipes, the allocator's arenas.
    (0..10).for_each(&change);
    let quiet = || balancer.published.snapshot().listeners[0].totals.active() == 1;
    eventually("only one connection is open", quiet);
    let before = usage();
    (10..110).for_each(&change);
    held.exchange();
    eventually("only one connection is open", quiet);
    eventually("descriptors and threads are as before", || {
        let now = usage();
        (now.descriptors, now.threads) == (before.descriptors, before.threads)
    });
    let slots = balancer.published.snapshot().pools[0].members.iter().map(|member| member.slot).max();
    assert!(slots < Some(8), "slots are used again: {slots:?}");
    // A hundred Maglev tables would be 26 MB.
    let grown = usage().kib.saturating_sub(before.kib);
    assert!(grown < 8 << 10, "{grown} KiB more");
}
