use super::*;
use crate::base::Address;
use crate::config::file;
use crate::config::model::{Backend, HealthKind, InitialHealth, NoBackend, OnDown, Pattern, Step};
use crate::config::text;
use crate::policy::balance;
use std::time::Duration;

fn file_of(pool: &str) -> String {
    format!("[[listener]]\nbind = [':80']\n[[pool]]\n{pool}\n[[pool.backend]]\naddress = 'a:1'\n")
}

/// The pool of a file with these lines. What is printed of it is read as the same.
fn read(lines: &str) -> Pool {
    let model = file::parse(&file_of(lines), "f").unwrap_or_else(|mistakes| panic!("{mistakes}")).on(1);
    let printed = text::print(&model);
    let again = file::parse(&printed, "printed").unwrap_or_else(|mistakes| panic!("{mistakes}\n{printed}")).on(1);
    assert_eq!(again, model, "{printed}");
    model.pools[0].clone()
}

fn mistakes(lines: &str) -> Vec<String> {
    file::parse(&file_of(lines), "f").map_or_else(|mistakes| mistakes.0, |_| Vec::new())
}

/// The default pool with a backend.
fn plain() -> Pool {
    Pool { backends: vec![Backend::at(Address::parse_backend("a:1").unwrap())], ..Pool::default() }
}

fn http(path: &str) -> HealthKind {
    HealthKind::Http { path: path.to_owned(), host: None, expect: vec![(200, 200)] }
}

/// A pool in which one backend has a role that others get later.
fn with_role(health: Health) -> Pool {
    let health = Health { initial: InitialHealth::Down, ..health };
    Pool { on_down: OnDown::Reset, no_backend: NoBackend::Wait(Duration::from_secs(10)), health, ..plain() }
}

fn redis() -> HealthKind {
    let [bulk, primary] = [&b"$"[..], b"master"].map(|bytes| Step::Expect(bytes.to_vec()));
    let role = Step::ExpectRegex(Pattern::new("role:").unwrap());
    HealthKind::Script { steps: vec![Step::Send(b"INFO replication\r\n".to_vec()), bulk, role, primary] }
}

#[test]
fn each_preset_sets_its_keys_and_nothing_else() {
    let probing = |kind, port| Health { kind, port, ..Health::default() };
    let hour = Duration::from_secs(3600);
    let all = [
        ("patroni-primary", with_role(probing(http("/primary"), Some(8008)))),
        ("patroni-replica", with_role(probing(http("/replica"), Some(8008)))),
        ("redis-primary", with_role(probing(redis(), None))),
        ("galera", Pool { no_backend: NoBackend::Reset, ..with_role(probing(http("/"), Some(9200))) }),
        (
            "mqtt",
            Pool {
                algorithm: balance::find("least-connections").unwrap(),
                idle_timeout: 20 * hour,
                max_lifetime: Some(24 * hour),
                ..plain()
            },
        ),
    ];
    assert_eq!(all.each_ref().map(|(name, _)| *name), PRESETS.each_ref().map(|preset| preset.name));
    for (name, pool) in all {
        assert_eq!(read(&format!("preset = '{name}'")), pool, "{name}");
    }
}

#[test]
fn a_pool_s_own_keys_win_wherever_they_stand() {
    let own = read(
        "on_down = 'keep'\npreset = 'patroni-primary'\nname = 'db'\nslow_start = '3s'\n\
         [pool.health]\nport = 9008\nhost = 'patroni'\ninterval = '500ms'",
    );
    let kind =
        HealthKind::Http { path: "/primary".to_owned(), host: Some("patroni".to_owned()), expect: vec![(200, 200)] };
    let half = Duration::from_millis(500);
    let health = Health { kind, port: Some(9008), interval: half, timeout: half, ..Health::default() };
    let slow_start = Duration::from_secs(3);
    assert_eq!(own, Pool { name: "db".to_owned(), on_down: OnDown::Keep, slow_start, ..with_role(health) });
}

#[test]
fn the_kind_of_a_preset_keeps_its_parameters_and_another_replaces_them() {
    let kind = |preset: &str, lines: &str| read(&format!("preset = '{preset}'\n[pool.health]\n{lines}")).health;
    assert_eq!(kind("patroni-primary", "kind = 'http'").kind, http("/primary"));
    assert_eq!(kind("redis-primary", "kind = 'script'").kind, redis());
    assert_eq!(kind("redis-primary", "path = '/role'").kind, http("/role"));
    let steps = kind("redis-primary", "steps = [{ send = 'AUTH x\\r\\n' }, { expect = '+OK' }]").kind;
    assert_eq!(
        steps,
        HealthKind::Script { steps: vec![Step::Send(b"AUTH x\r\n".to_vec()), Step::Expect(b"+OK".to_vec())] }
    );
    let tcp = kind("patroni-primary", "kind = 'tcp'");
    assert_eq!((tcp.kind, tcp.port, tcp.initial), (HealthKind::Tcp, Some(8008), InitialHealth::Down));
    // Without probes no backend would ever be up.
    assert_eq!(kind("patroni-primary", "kind = 'off'"), Health { kind: HealthKind::Off, ..Health::default() });
    let both = mistakes("preset = 'galera'\n[pool.health]\nkind = 'off'\ninitial = 'down'");
    assert!(both[0].contains("initial: expected probes"), "{both:?}");
}

#[test]
fn an_unknown_preset_gets_the_words_there_are() {
    let expected = "f:4: preset: expected patroni-primary, patroni-replica, redis-primary, galera or mqtt, got";
    assert_eq!(
        mistakes("preset = 'patroni-primry'"),
        [format!("{expected} `patroni-primry`, did you mean `patroni-primary`?")]
    );
    assert_eq!(mistakes("preset = 5"), [format!("{expected} `5`")]);
}

#[test]
fn a_preset_that_sets_a_port_cannot_probe_a_socket_file() {
    let lines = mistakes("preset = 'galera'\n[[pool.backend]]\naddress = 'unix:/run/db.sock'");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("f:6: address: "), "{lines:?}");
}
