use super::super::file;
use super::*;

/// A file with these backends in its one pool, as `name weight` or `name weight port`.
fn file_of(backends: &[&str]) -> Model {
    let mut text =
        String::from("[[listener]]\nname = \"in\"\nbind = [\":8080\"]\npool = \"web\"\n[[pool]]\nname = \"web\"\n");
    for backend in backends {
        let mut words = backend.split(' ');
        let (name, weight, port) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or("80"));
        text += &format!("[[pool.backend]]\nname = \"{name}\"\naddress = \"10.0.0.1:{port}\"\nweight = {weight}\n");
    }
    model_of(&text)
}

fn model_of(text: &str) -> Model {
    file::parse(text, "test").unwrap().on(2)
}

fn shown(model: &Model) -> Vec<String> {
    let backend = |backend: &Backend| match &backend.address.to_string()[9..] {
        "80" => format!("{} {}", backend.name, backend.weight),
        port => format!("{} {} {port}", backend.name, backend.weight),
    };
    model.pools[0].backends.iter().map(backend).collect()
}

#[test]
fn what_was_changed_at_run_time_survives_what_the_file_does_not_change() {
    type Names = &'static [&'static str];
    #[rustfmt::skip]
    let table: &[(&str, Names, Names, Names, Names)] = &[
        // what                              last file         running           new file          merged
        ("nothing",                          &["a 1"],         &["a 1"],         &["a 1"],         &["a 1"]),
        ("changed, unchanged in the file",   &["a 1", "b 1"],  &["a 9", "b 1"],  &["a 1", "b 1"],  &["a 9", "b 1"]),
        ("changed in both",                  &["a 1"],         &["a 9"],         &["a 5"],         &["a 5"]),
        ("one setting each",                 &["a 1 80"],      &["a 9 80"],      &["a 1 81"],      &["a 9 81"]),
        ("changed in the file only",         &["a 1"],         &["a 1"],         &["a 5"],         &["a 5"]),
        ("taken out",                        &["a 1", "b 1"],  &["b 1"],         &["a 1", "b 1"],  &["b 1"]),
        ("taken out, changed in the file",   &["a 1", "b 1"],  &["b 1"],         &["a 2", "b 1"],  &["a 2", "b 1"]),
        ("taken out of both",                &["a 1", "b 1"],  &["b 1"],         &["b 1"],         &["b 1"]),
        ("added",                            &["a 1"],         &["a 1", "x 1"],  &["a 1"],         &["a 1", "x 1"]),
        ("added, then put into the file",    &["a 1"],         &["a 1", "x 9"],  &["x 2", "a 1"],  &["x 2", "a 1"]),
        ("added by the file",                &["a 1"],         &["a 1", "x 1"],  &["a 1", "y 1"],  &["a 1", "y 1", "x 1"]),
        ("gone from the file",               &["a 1", "b 1"],  &["a 7", "b 1"],  &["b 1"],         &["b 1"]),
        ("all gone",                         &["a 1"],         &["a 1", "x 1"],  &[],              &["x 1"]),
    ];
    for (what, old, running, new, merged) in table {
        assert_eq!(shown(&merge(&file_of(old), &file_of(new), &file_of(running))), *merged, "{what}");
    }
}

#[test]
fn a_pool_that_comes_or_goes_is_as_in_the_file() {
    let one = file_of(&["a 1"]);
    let mut other = file_of(&["b 1"]);
    other.pools[0].name = "other".into();
    assert_eq!(merge(&one, &other, &one), other);
    assert_eq!(merge(&other, &one, &other), one);
}

#[test]
fn a_changed_setting_of_a_pool_leaves_its_backends_as_they_run() {
    let (old, running) = (file_of(&["a 1"]), file_of(&["a 9", "x 1"]));
    let mut new = old.clone();
    new.pools[0].connect_attempts = 7;
    let merged = merge(&old, &new, &running);
    assert_eq!((shown(&merged), merged.pools[0].connect_attempts), (vec!["a 9".to_owned(), "x 1".to_owned()], 7));
}

const BEFORE: &str = r#"
[global]
workers = 2
shutdown_timeout = "30s"
[[listener]]
name = "web"
bind = [":8080"]
pool = "web"
[[listener]]
name = "old"
bind = [":8081"]
pool = "web"
[[pool]]
name = "web"
on_remove = "drain 30s"
[[pool.backend]]
name = "web1"
address = "10.0.0.1:80"
[[pool.backend]]
name = "web2"
address = "10.0.0.2:80"
[[pool]]
name = "spare"
"#;

const AFTER: &str = r#"
[global]
workers = 4
shutdown_delay = "5s"
shutdown_timeout = "1m"
names = "required"
[[listener]]
name = "web"
bind = [":8080", ":8082"]
pool = "api"
[[pool]]
name = "web"
idle_timeout = "5m"
algorithm = "maglev"
on_remove = "drain 30s"
[[pool.backend]]
name = "web1"
address = "10.0.0.1:80"
weight = 5
max_connections = 10
[[pool.backend]]
name = "web3"
address = "10.0.0.3:80"
[[pool]]
name = "api"
"#;

#[test]
fn every_change_is_reported_in_a_line() {
    let (before, after) = (model_of(BEFORE), model_of(AFTER));
    let mut changes = between(&before, &after);
    for (number, change) in changes.0.iter_mut().enumerate() {
        change.connections = number as u64;
    }
    assert_eq!(
        changes.to_string().lines().collect::<Vec<_>>(),
        [
            "global changed: shutdown_delay 0s → 5s, shutdown_timeout 30s → 1m, names later → required (0 connections)",
            "global: workers 2 → 4 needs a restart",
            "listener web changed: bind :8080 → :8080, :8082, pool web → api (2 connections)",
            "listener old removed (3 connections go on)",
            "pool web changed: algorithm weighted-round-robin → maglev, idle_timeout 1h → 5m (4 connections)",
            "pool web: backend web1 changed: weight 1 → 5, max_connections none → 10 (5 connections)",
            "pool web: backend web3 added (6 connections)",
            "pool web: backend web2 removed (7 connections may finish within 30s)",
            "pool api added (8 connections)",
            "pool spare removed (9 connections go on)",
        ]
    );
    assert_eq!(between(&before, &before).to_string(), "nothing changed");
}

#[test]
fn changes_of_sources_are_reported() {
    let of = |sources: &[(&str, &str)]| {
        let mut model = file_of(&["a 1"]);
        for (path, more) in sources {
            let text = format!(
                "[[listener]]\nbind = [':1']\n[[pool]]\n[[pool.discover]]\nkind = 'file'\npath = '{path}'\n{more}"
            );
            model.pools[0].discover.extend(model_of(&text).pools.remove(0).discover);
        }
        model
    };
    for (before, after, want) in [
        (&[][..], &[("/a", "")][..], "pool web: discovery by file added"),
        (&[("/a", "")], &[], "pool web: discovery by file removed"),
        (&[("/a", "")], &[("/b", "")], "pool web: discovery by file changed: path /a → /b"),
        (
            &[("/a", "")],
            &[("/b", "weight = 5\non_empty = 'clear'")],
            "pool web: discovery by file changed: path /a → /b, on_empty keep → clear, weight 1 → 5",
        ),
        (&[("/a", "")], &[("/a", ""), ("/b", "")], "pool web: discovery by file-2 added"),
        (&[("/a", ""), ("/b", "")], &[("/b", "")], "pool web: discovery by file removed"),
        (&[("/a", "")], &[("/a", "")], "nothing changed"),
    ] {
        assert_eq!(between(&of(before), &of(after)).to_string(), want, "{before:?} {after:?}");
    }
    let other = model_of(
        "[[listener]]\nbind = [':1']\n[[pool]]\n[[pool.discover]]\nkind = 'etcd'\nprefix = '/a/'\nendpoints = ['http://a:1']",
    );
    let mut etcd = of(&[]);
    etcd.pools[0].discover = other.pools[0].discover.clone();
    let want = "pool web: discovery by etcd added\npool web: discovery by file removed";
    assert_eq!(between(&of(&[("/a", "")]), &etcd).to_string(), want);
}

#[test]
fn changes_of_routes_are_reported() {
    let of = |routes: &[&str]| {
        let sections: Vec<String> =
            routes.iter().map(|lines| format!("[[listener.route]]\npool = 'web'\n{lines}\n")).collect();
        let head = "[[listener]]\nname = 'in'\nbind = [':1']\n";
        model_of(&format!("{head}{}[[pool]]\nname = 'web'\n", sections.concat()))
    };
    let (a, b, ssh) = ("name = 'a'\nsni = ['a.example']", "name = 'b'\nsni = ['b.example']", "protocol = 'ssh'");
    let other_b = "name = 'b'\nsni = ['*.example', 'b.example']\nprotocol = 'tls'";
    for (before, after, want) in [
        (&[a][..], &[a, b][..], "listener in: route b added"),
        (&[b, ssh], &[a, b, ssh], "listener in: route a added"),
        (&[ssh, b], &[b], "listener in: route 1 removed"),
        (
            &[a, b],
            &[a, other_b],
            "listener in: route b changed: protocol none → tls, sni b.example → *.example, b.example",
        ),
        (&[ssh], &["protocol = 'http'"], "listener in: route 1 changed: protocol ssh → http"),
        (&[a, ssh, b], &[b, ssh, a], "listener in changed: routes a, 2, b → b, 2, a (0 connections)"),
        (&[a, b], &[a, b], "nothing changed"),
        (&[ssh], &["name = 'x'\nprotocol = 'ssh'"], "listener in: route x added\nlistener in: route 1 removed"),
    ] {
        assert_eq!(between(&of(before), &of(after)).to_string(), want, "{before:?} {after:?}");
    }
}

#[test]
fn a_listener_removed_with_its_pool_does_not_say_that_its_connections_go_on() {
    let before = file_of(&["a 1"]);
    let mut after = before.clone();
    (after.listeners[0].name, after.listeners[0].pool) = ("other".into(), "new".into());
    after.pools[0].name = "new".into();
    let changes = between(&before, &after).to_string();
    let lines: Vec<&str> = changes.lines().filter(|line| line.contains("removed")).collect();
    assert_eq!(lines, ["listener in removed (0 connections)", "pool web removed (0 connections go on)"]);
}

#[test]
fn what_needs_a_restart_stays_as_it_runs() {
    let (before, after) = (model_of(BEFORE), model_of(AFTER));
    let running = in_force(after.clone(), &before);
    let global = &running.global;
    assert_eq!((global.workers, global.shutdown_delay.as_secs(), global.shutdown_timeout.as_secs()), (2, 5, 60));
    assert_eq!(between(&running, &after).to_string(), "global: workers 2 → 4 needs a restart", "and is reported again");
}

#[test]
fn passwords_in_the_steps_of_a_script_are_not_shown() {
    let of = |health: &str| {
        model_of(&format!("[[listener]]\nbind = [':1']\n[[pool]]\nname = 'web'\n[pool.health]\n{health}"))
    };
    let with = |password: &str| of(&format!("steps = [{{ send = 'AUTH {password}\\r\\n' }}, {{ expect = '+OK' }}]"));
    let changes = |from: &Model, to: &Model| between(from, to).to_string();
    let want = "pool web changed: health.steps (not shown) → (not shown) (0 connections)";
    assert_eq!(changes(&with("hunter2"), &with("hunter3")), want);
    let added = changes(&of("kind = 'tcp'"), &with("hunter2"));
    assert_eq!(added, "pool web changed: health.kind tcp → script, health.steps none → (not shown) (0 connections)");
}
