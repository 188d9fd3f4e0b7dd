//! The same from a configuration file, by the program itself: what the file says holds, and a reload changes it.

use super::support::{
    Balancer, Client, Port, backend, client_of, eventually, greeting, is_reset, is_served, serve, waits,
};
use rustix::process::Signal;
use std::io::Write;
use std::net::SocketAddr;
use testkit::Process;

#[test]
fn limits_in_a_file_hold_and_a_reload_changes_them() {
    let (server, later) = (backend("a"), Port::reserve());
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("deny.txt");
    let many: String = (0..100_000).map(|at| format!("10.{}.{}.0/24\n", at / 256 % 256, at % 256)).collect();
    std::fs::write(&list, format!("{many}127.0.0.5\n")).unwrap();
    let text = format!(
        r#"
[[listener]]
name = "web"
bind = ["127.0.0.1:0"]
pool = "web"
deny = ["127.0.0.2"]
deny_file = "{}"
connection_rate_per_source = "2/s"

[[listener]]
name = "later"
bind = ["127.0.0.1:0"]
pool = "later"

[[pool]]
name = "web"
health.kind = "off"
backend = [{{ address = "{server}" }}]

[[pool]]
name = "later"
no_backend = "wait 20s"
health.kind = "off"
backend = [{{ address = "{}" }}]
"#,
        list.display(),
        later.at
    );
    let file = directory.path().join("tcplb.toml");
    std::fs::write(&file, &text).unwrap();
    let process = Process::start(&["--config", file.to_str().unwrap()]);
    let address = || -> SocketAddr { process.after("listening on ").parse().unwrap() };
    let (web, waiting) = (address(), address());
    let connect = |ip: [u8; 4]| -> Client { client_of(web, ip) };

    is_reset(&mut connect([127, 0, 0, 2]));
    let line = process.after("listener web refused 127.0.0.2:");
    assert!(line.ends_with(": denied"), "{line}");
    let served = (0..40).filter(|_| greeting(&mut connect([127, 0, 0, 3])).is_ok()).count();
    assert!((2..40).contains(&served), "{served} of 40");
    is_served(&mut connect([127, 0, 0, 4]));
    is_reset(&mut connect([127, 0, 0, 5]));

    std::fs::write(&list, "127.0.0.4\n127.0.0.999\n").unwrap();
    process.signal(Signal::HUP);
    process.after("deny.txt:2: expected a prefix");
    is_reset(&mut connect([127, 0, 0, 5]));
    is_served(&mut connect([127, 0, 0, 4]));
    std::fs::write(&list, "127.0.0.4 # moved there\n").unwrap();
    process.signal(Signal::HUP);
    let changed = process.after("reload: listener web changed: deny_file ");
    assert!(changed.contains("(100001 prefixes, ") && changed.contains("(1 prefixes, "), "{changed}");
    is_served(&mut connect([127, 0, 0, 5]));
    is_reset(&mut connect([127, 0, 0, 4]));

    let mut client = client_of(waiting, [127, 0, 0, 1]);
    waits(&mut client);
    std::fs::write(&file, text.replace("deny = [\"127.0.0.2\"]", "limits = \"count\"")).unwrap();
    process.signal(Signal::HUP);
    let changed = process.after("reload: listener web changed: ");
    assert!(changed.starts_with("deny 127.0.0.2/32 → none, limits enforce → count"), "{changed}");
    is_served(&mut connect([127, 0, 0, 2]));
    (0..10).for_each(|_| is_served(&mut connect([127, 0, 0, 3])));
    serve(later.listen(), "b");
    assert_eq!(greeting(&mut client).unwrap(), 'b', "the reload did not make it leave");
}

/// Workers log the first at once; a burst may end before the others are due to be logged.
#[test]
fn the_log_counts_refused_clients_soon_and_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tcplb.toml");
    let text = "listener = [{ bind = ['127.0.0.1:0'], deny = ['127.0.0.2'] }]\n\
                pool = [{ health.kind = 'off', backend = [{ address = '127.0.0.1:1' }] }]\n";
    std::fs::write(&file, text).unwrap();
    let mut process = Process::start(&["--config", file.to_str().unwrap()]);
    let listens: SocketAddr = process.after("listening on ").parse().unwrap();
    let refused = |times| (0..times).for_each(|_| is_reset(&mut client_of(listens, [127, 0, 0, 2])));
    refused(5);
    assert!(process.after("listener default refused ").ends_with(": denied"));
    assert_eq!(process.after("listener default refused "), "4 more clients: denied");
    refused(2);
    process.signal(Signal::TERM);
    let (status, said) = process.end();
    assert_eq!(status.code(), Some(0));
    assert!(said.iter().any(|line| line.ends_with("listener default refused 2 more clients: denied")), "{said:?}");
}

/// In this process, where both sides of a reload can be looked at.
#[test]
fn a_reload_keeps_counts_and_moves_waiting_clients() {
    let listener = tcplb::config::model::Listener { max_connections_per_source: Some(2), ..Default::default() };
    let pool = tcplb::config::model::Pool { no_backend: super::WAIT, ..super::unprobed() };
    let balancer = Balancer::start(listener, pool, &[backend("a")], Some(1));
    let mut first = balancer.client();
    is_served(&mut first);
    let mut second = balancer.client_from([127, 0, 0, 2]);
    waits(&mut second);
    let other = backend("b");
    balancer.reload(|model| {
        model.listeners[0].max_connections_per_source = Some(1);
        let added = tcplb::config::model::Backend::at(tcplb::base::Address::Inet(other));
        model.pools[0].backends.push(added);
    });
    assert_eq!(greeting(&mut second).unwrap(), 'b', "the backend is in the new pool only");
    is_reset(&mut balancer.client());
    eventually("two are left", || balancer.admission().totals.active() == 2);
    assert_eq!(balancer.admission().totals.accepted(), 3);
    drop(first);
    eventually("its place is free again", || greeting(&mut balancer.client()).is_ok());
}

#[test]
fn an_ipv4_mapped_prefix_means_the_ipv4_prefix_in_every_list() {
    let server = backend("a");
    let directory = tempfile::tempdir().unwrap();
    let list = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (allowed, denied) = (list("allow", "::ffff:127.0.2.0/120\n"), list("deny", "::ffff:127.0.2.9\n"));
    let text = format!(
        r#"
[[listener]]
name = "trusting"
bind = ["127.0.0.1:0"]
accept_proxy = true
trusted_proxies = ["::ffff:127.0.1.0/120"]

[[listener]]
name = "listed"
bind = ["127.0.0.1:0"]
allow = ["::ffff:127.0.3.0/120"]
deny = ["::ffff:127.0.3.9"]
allow_file = {allowed:?}
deny_file = {denied:?}

[[pool]]
health.kind = "off"
backend = [{{ address = "{server}" }}]
"#
    );
    let file = list("tcplb.toml", &text);
    let process = Process::start(&["--config", file.to_str().unwrap()]);
    let address = || -> SocketAddr { process.after("listening on ").parse().unwrap() };
    let (trusting, listed) = (address(), address());

    let proxied = |ip: [u8; 4]| {
        let mut client = client_of(trusting, ip);
        // It may be reset before it can say anything.
        let _ = client.stream.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n");
        client
    };
    is_served(&mut proxied([127, 0, 1, 1]));
    assert!(greeting(&mut proxied([127, 0, 3, 1])).is_err(), "it is not trusted");

    for (ip, served) in
        [([127, 0, 2, 1], true), ([127, 0, 2, 9], false), ([127, 0, 3, 1], true), ([127, 0, 3, 9], false)]
    {
        assert_eq!(greeting(&mut client_of(listed, ip)).is_ok(), served, "{ip:?}");
    }
    is_reset(&mut client_of(listed, [127, 0, 0, 1]));
}
