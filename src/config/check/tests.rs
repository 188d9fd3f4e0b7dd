use super::*;
use crate::config::file;
use crate::config::model::{Backend, Global};

#[test]
fn a_merged_model_names_each_backend_that_a_probe_can_t_reach() {
    let backends = ["127.0.0.1:1", "unix:/run/a.sock"];
    let backends =
        backends.map(|at| Backend { name: at.to_owned(), ..Backend::at(Address::parse_backend(at).unwrap()) });
    let pool = Pool { name: "web".to_owned(), backends: backends.into(), ..Pool::default() };
    let mut model = Model { global: Global::default(), listeners: Vec::new(), pools: vec![pool] };
    assert_eq!(all_fit(&model), Ok(()));
    model.pools[0].health.port = Some(80);
    let mistakes = all_fit(&model).unwrap_err();
    assert!(
        matches!(&mistakes[..], [one] if one.starts_with("pool web: backend unix:/run/a.sock: a probe of port 80"))
    );
}

#[test]
fn names_that_would_break_a_log_line_are_refused() {
    for good in ["web1", "unix:/run/a.sock", "[::1]:80", "größe"] {
        assert_eq!(name(good), Ok(()), "{good}");
    }
    for (bad, why) in [("", "empty"), ("a b", "white space"), ("a\nb", "white space"), ("a\u{7f}", "control")] {
        let message = name(bad).unwrap_err();
        assert!(message.contains(why), "{message}");
    }
    for hidden in ["web\u{200b}1", "web\u{202e}1", "web\u{2066}1", "web1\u{fe0f}", "\u{feff}web1", "we\u{ad}b"] {
        let message = name(hidden).unwrap_err();
        assert!(message.contains("hidden character `\\u{") && message.is_ascii(), "{message}");
    }
    let long = name(&"n".repeat(100_000)).unwrap_err();
    assert!(long.contains("longer than 128 bytes") && long.len() < 300, "{}", long.len());
}

#[test]
fn a_health_path_fits_a_request_line() {
    for good in ["/", "/healthz", "/a?b=c&d=%20"] {
        assert_eq!(health_path(good), Ok(()), "{good}");
    }
    for (bad, why) in [
        ("", "begin with /"),
        ("healthz", "begin with /"),
        ("/a b", "spaces"),
        ("/a\r\nX: y", "control"),
        ("/ü", "ASCII"),
    ] {
        let message = health_path(bad).unwrap_err();
        assert!(message.contains(why), "{message}");
    }
}

#[test]
fn a_health_host_fits_a_header() {
    for good in ["web.internal", "web.internal:8080", "[::1]"] {
        assert_eq!(health_host(good), Ok(()), "{good}");
    }
    for bad in ["", "a b", "a\r\nX: y", "größe"] {
        assert!(health_host(bad).is_err(), "{bad}");
    }
}

#[test]
fn local_is_what_no_other_machine_reaches() {
    let local = |text: &str| is_local(&Listen::parse(text).unwrap());
    for text in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "localhost:1", "unix:/a"] {
        assert!(local(text), "{text}");
    }
    for text in [":1", "0.0.0.0:1", "[::]:1", "10.0.0.1:1", "web.internal:1"] {
        assert!(!local(text), "{text}");
    }
}

#[test]
fn a_message_stays_on_its_line() {
    assert_eq!(shown("got `a\nb\u{1b}[31m`: größer, isn't it"), "got `a\\nb\\u{1b}[31m`: größer, isn't it");
    assert_eq!(shown("got `a\u{202e}b`"), "got `a\\u{202e}b`");
}

#[test]
fn a_backend_that_is_a_listener_is_found() {
    let leads = |listen: &str, backend: &str| {
        let ours = |ip: IpAddr| ip == "10.0.0.1".parse::<IpAddr>().unwrap();
        let listen = Listen::parse(listen).unwrap();
        OwnListeners::new([("web", &listen)]).refuse_at(&Address::parse_backend(backend).unwrap(), ours).is_err()
    };
    for (listen, backend) in [
        ("127.0.0.1:80", "127.0.0.1:80"),
        (":80", "127.0.0.1:80"),
        (":80", "[::1]:80"),
        ("[::]:80", "10.0.0.1:80"),
        ("0.0.0.0:80", "10.0.0.1:80"),
        ("0.0.0.0:80", "[::ffff:127.0.0.1]:80"),
        (":80", "localhost:80"),
        ("localhost:80", "127.0.0.1:80"),
        (":80", "0.0.0.0:80"),
        ("127.0.0.1:80", "0.0.0.0:80"),
        ("[::1]:80", "[::]:80"),
        ("web:80", "WEB:80"),
        ("unix:/a", "unix:/a"),
    ] {
        assert!(leads(listen, backend), "{listen} {backend}");
    }
    for (listen, backend) in [
        ("127.0.0.1:80", "127.0.0.1:81"),
        (":0", "127.0.0.1:80"),
        (":80", "10.0.0.2:80"),
        ("0.0.0.0:80", "[::1]:80"),
        ("127.0.0.1:80", "127.0.0.2:80"),
        ("10.0.0.1:80", "0.0.0.0:80"),
        ("127.0.0.1:80", "[::]:80"),
        (":80", "web:80"),
        ("unix:/a", "unix:/b"),
    ] {
        assert!(!leads(listen, backend), "{listen} {backend}");
    }
}

#[test]
fn the_spelling_of_a_unix_path_hides_no_listener() {
    let same = |listen: &str, other: &str| {
        let (listen, other) = (Listen::parse(listen).unwrap(), Listen::parse(other).unwrap());
        let found = OwnListeners::new([("web", &listen)]).refuse_at(&other.0, |_| false).is_err();
        assert_eq!(overlap(&listen, &other), found, "{listen} {other}");
        found
    };
    for (listen, other) in [
        ("unix:/tmp/a/q.sock", "unix:/tmp/a/../a/q.sock"),
        ("unix:/tmp/a/q.sock", "unix:/tmp/./a/q.sock"),
        ("unix:/tmp/a/q.sock", "unix://tmp//a/q.sock"),
        ("unix:/q.sock", "unix:/../q.sock"),
        ("unix:q.sock", "unix:./a/../q.sock"),
        ("unix:../q.sock", "unix:a/../../q.sock"),
        ("unix:@a", "unix:@a"),
    ] {
        assert!(same(listen, other), "{listen} {other}");
    }
    for (listen, other) in [
        ("unix:/tmp/q.sock", "unix:/tmp/a/q.sock"),
        ("unix:q.sock", "unix:../q.sock"),
        ("unix:q.sock", "unix:../../q.sock"),
        ("unix:../q.sock", "unix:../../q.sock"),
        ("unix:q.sock", "unix:/q.sock"),
        ("unix:@a", "unix:./@a"),
        ("unix:@a/b", "unix:@a/./b"),
    ] {
        assert!(!same(listen, other), "{listen} {other}");
    }
}

#[test]
fn listeners_overlap_when_the_kernel_would_refuse_one() {
    let meets = |a: &str, b: &str| {
        let (a, b) = (Listen::parse(a).unwrap(), Listen::parse(b).unwrap());
        assert_eq!(overlap(&a, &b), overlap(&b, &a), "{a} {b}");
        overlap(&a, &b)
    };
    for (a, b) in [
        (":80", "127.0.0.1:80"),
        (":80", ":80"),
        (":80", "[::1]:80"),
        ("[::]:80", "10.0.0.1:80"),
        ("0.0.0.0:80", "10.0.0.1:80"),
        ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
        ("web:80", "WEB:80"),
        ("web:80", ":80"),
        ("unix:/a", "unix:/a"),
    ] {
        assert!(meets(a, b), "{a} {b}");
    }
    for (a, b) in [
        (":80", ":81"),
        (":0", ":0"),
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("web:0", "web:0"),
        ("web:0", ":0"),
        ("127.0.0.1:80", "127.0.0.2:80"),
        ("0.0.0.0:80", "[::1]:80"),
        ("web:80", "api:80"),
        ("web:80", "127.0.0.1:80"),
        ("unix:/a", "unix:/b"),
        ("unix:/a", ":80"),
    ] {
        assert!(!meets(a, b), "{a} {b}");
    }
}

#[test]
fn a_backend_with_the_client_s_port_needs_a_port_for_each_client_and_each_probe() {
    let with = |bind: &str, pool: &str, health: &str, at: &str| {
        let text = format!(
            "[[listener]]\nname = 'web'\nbind = ['{bind}']\n[[pool]]\n{pool}\n[pool.health]\n{health}\n\
             [[pool.backend]]\naddress = '{at}'\n"
        );
        file::parse(&text, "f").map(drop).map_err(|mistakes| mistakes.to_string())
    };
    let (off, port) = ("kind = 'off'", "port = 80");
    assert_eq!(with(":5000-5150", "", off, "192.0.2.1:same"), Ok(()));
    assert_eq!(with(":64535", "", port, "[2001:db8::1]:+1000"), Ok(()));
    for (bind, pool, health, at, want) in [
        (
            ":80",
            "",
            "",
            "192.0.2.1:same",
            "a probe needs a port, and that of `192.0.2.1:same` is the client's: set health.port",
        ),
        (":64536", "", off, "192.0.2.1:+1000", "leads beyond port 65535 for listener web at `:64536`"),
        ("unix:/a", "", off, "192.0.2.1:same", "needs a port of the listener, but listener web binds `unix:/a`"),
        (":80", "warm_connections = 1", off, "192.0.2.1:same", "expected warm_connections = 0"),
        (":80-85", "", off, "127.0.0.1:+5", "this is where listener web listens (`:85`)"),
        (":80", "source = '2001:db8::1'", off, "192.0.2.1:same", "has no IPv4 address"),
    ] {
        let said = with(bind, pool, health, at).unwrap_err();
        assert!(said.contains(want) && said.lines().count() == 1, "{said}");
    }
    let said = with(":1-4000', ':5000-5150", "", off, "192.0.2.1:80").unwrap_err();
    assert!(said.contains("bind: expected ranges of at most 4096 ports in all, got 4151"), "{said}");
    let said = with(":5000-5150', ':5100-5200", "", off, "192.0.2.1:80").unwrap_err();
    assert!(said.contains("`:5100` overlaps") || said.contains("`:5100` is given already"), "{said}");
    assert_eq!(said.lines().count(), 1, "two ranges that overlap are one mistake: {said}");
}

#[test]
fn a_backend_with_the_client_s_port_is_a_loop_only_where_clients_of_its_pool_lead() {
    let with = |global: &str, listener: &str, at: &str| {
        let text = format!(
            "[global]\n{global}\n[[listener]]\nname = 'web'\nbind = ['127.0.0.2:5000-5010']\npool = 'web'\n\
             [[listener]]\nname = 'other'\npool = 'other'\n{listener}\n[[pool]]\nname = 'other'\n\
             [[pool]]\nname = 'web'\n[pool.health]\nkind = 'off'\n[[pool.backend]]\naddress = '{at}'\n"
        );
        file::parse(&text, "f").map(drop).map_err(|mistakes| mistakes.to_string())
    };
    let (same, route) = ("127.0.0.1:same", "[[listener.route]]\nprotocol = 'ssh'\npool = 'web'");
    for (global, listener, at) in [
        ("admin = '127.0.0.1:9000'", "bind = ['127.0.0.1:4999', '127.0.0.1:5011']", same),
        ("admin = '127.0.0.1:5000'", "bind = ['127.0.0.3:5000']", "127.0.0.1:+11"),
        ("admin = '127.0.0.3:5000'", "bind = ['127.0.0.1:6000']", "127.0.0.1:+989"),
    ] {
        assert_eq!(with(global, listener, at), Ok(()), "{global} {listener} {at}");
    }
    for (global, listener, at, why) in [
        ("admin = '127.0.0.1:5005'", "bind = [':80']", same, "this is where the admin API listens (`127.0.0.1:5005`)"),
        ("admin = '127.0.0.1:5015'", "bind = [':80']", "127.0.0.1:+5", "this is where the admin API listens"),
        ("", "bind = ['127.0.0.1:5010']", same, "this is where listener other listens (`127.0.0.1:5010`)"),
        ("", &format!("bind = ['127.0.0.1:80']\n{route}"), same, "this is where listener other listens"),
        ("", "bind = ['127.0.0.1:80']\nsilent_pool = 'web'", same, "this is where listener other listens"),
    ] {
        let said = with(global, listener, at).unwrap_err();
        assert!(said.contains(why) && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn a_listener_of_both_families_makes_one_of_ipv4_needless() {
    let said = |binds: &str| {
        let text = format!("[[listener]]\nbind = [{binds}]\n[[pool]]\n");
        file::parse(&text, "f").unwrap_err().to_string()
    };
    let leave_out = |both: &str| {
        format!("only one of them can have the port; `{both}` takes IPv4 clients too, so leave `0.0.0.0:80` out")
    };
    for both in ["[::]:80", ":80"] {
        assert!(said(&format!("'0.0.0.0:80', '{both}'")).ends_with(&leave_out(both)));
        assert!(said(&format!("'{both}', '0.0.0.0:80'")).ends_with(&leave_out(both)));
    }
    for others in ["'[::]:80', '127.0.0.1:80'", "'[::]:80', '[::1]:80'", "'0.0.0.0:80', '127.0.0.1:80'"] {
        assert!(said(others).ends_with("only one of them can have the port"), "{others}");
    }
}
