//! Tests of routes: against the definition, and of what `check` warns of.

use super::*;
use crate::proto::sniff::{Hello, name};
use proptest::prelude::*;

fn names(list: &[&str]) -> Vec<NamePattern> {
    list.iter().map(|name| name.parse().unwrap()).collect()
}

fn sni(list: &[&str]) -> Conditions {
    Conditions { sni: names(list), ..Conditions::default() }
}

fn tls(name: Option<&str>, alpn: &[&str]) -> Sniffed {
    let server_name = name.and_then(|name| name::normalized(name.as_bytes()).ok());
    let alpn = alpn.iter().map(|protocol| protocol.as_bytes().into()).collect();
    Sniffed { protocol: Protocol::Tls, hello: Some(Hello { server_name, alpn, is_encrypted: false }) }
}

fn plain(protocol: Protocol) -> Sniffed {
    Sniffed { protocol, hello: None }
}

fn by_name(routes: &Routes, name: &str) -> Option<usize> {
    routes.find(Some(&tls(Some(name), &[])), None)
}

#[test]
fn the_most_specific_name_is_tried_first() {
    let rest = Conditions { protocol: Some(Protocol::Tls), ..Conditions::default() };
    let list = [rest, sni(&["*.com"]), sni(&["*.example.com", "www.example.com"]), sni(&["db.example.com"])];
    let routes = Routes::new(&list);
    for (name, route) in [
        ("db.example.com", 3),
        ("DB.Example.COM.", 3),
        ("www.example.com", 2),
        ("a.b.example.com", 2),
        ("x.db.example.com", 2),
        ("example.com", 1),
        ("badexample.com", 1),
        ("com", 0),
        ("example.org", 0),
    ] {
        assert_eq!(by_name(&routes, name), Some(route), "{name}");
    }
    assert_eq!(routes.find(Some(&tls(None, &[])), None), Some(0));
    assert_eq!(routes.find(Some(&plain(Protocol::Http)), None), None);
    assert_eq!(routes.find(None, None), None);
}

#[test]
fn where_another_condition_fails_a_less_specific_route_is_tried() {
    let with_alpn = |conditions: Conditions, alpn: &str| Conditions { alpn: vec![alpn.to_owned()], ..conditions };
    let list = [
        with_alpn(sni(&["db.example.com"]), "postgresql"),
        sni(&["db.example.com"]),
        with_alpn(sni(&["*.example.com"]), "h2"),
        with_alpn(Conditions::default(), "h2"),
    ];
    let routes = Routes::new(&list);
    let find = |name, alpn: &[&str]| routes.find(Some(&tls(name, alpn)), None);
    assert_eq!(find(Some("db.example.com"), &["h2", "postgresql"]), Some(0));
    assert_eq!(find(Some("db.example.com"), &["h2"]), Some(1));
    assert_eq!(find(Some("x.example.com"), &["http/1.1", "h2"]), Some(2));
    assert_eq!(find(Some("x.example.com"), &["http/1.1"]), None);
    assert_eq!(find(None, &["h2"]), Some(3));
    assert_eq!(find(None, &["H2"]), None, "protocols of ALPN are bytes");
}

#[test]
fn a_source_needs_an_address() {
    let source = vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
    let routes = Routes::new(&[Conditions { source, ..Conditions::default() }]);
    assert!(routes.wanted().is_empty(), "no byte has to be read");
    for (source, route) in [
        (Some("10.1.2.3"), Some(0)),
        (Some("::ffff:10.1.2.3"), Some(0)),
        (Some("2001:db8::1"), Some(0)),
        (Some("11.0.0.1"), None),
        (None, None),
    ] {
        let source = source.map(|source| source.parse().unwrap());
        assert_eq!(routes.find(None, source), route, "{source:?}");
        assert_eq!(routes.find(Some(&plain(Protocol::Ssh)), source), route, "{source:?}");
    }
}

#[test]
fn only_protocols_that_a_route_asks_for_are_wanted() {
    let of = |list: &[Conditions]| Routes::new(list).wanted();
    let protocol = |protocol| Conditions { protocol: Some(protocol), ..Conditions::default() };
    assert_eq!(of(&[]), Protocols::default());
    assert_eq!(of(&[sni(&["a.b"])]), [Protocol::Tls].into_iter().collect());
    let alpn = Conditions { alpn: vec!["h2".to_owned()], ..Conditions::default() };
    assert_eq!(of(&[alpn, protocol(Protocol::Ssh)]), [Protocol::Tls, Protocol::Ssh].into_iter().collect());
    let postgres = Conditions { protocol: Some(Protocol::Postgres), ..sni(&["a.b"]) };
    assert_eq!(of(&[postgres]), [Protocol::Postgres].into_iter().collect());
}

#[test]
fn a_name_or_a_wildcard_that_is_none_is_refused() {
    for (text, shown) in [
        ("db.example.com", "db.example.com"),
        ("DB.Example.com.", "db.example.com"),
        ("*.API.example.com.", "*.api.example.com"),
        ("*.com", "*.com"),
        ("localhost", "localhost"),
        ("_acme.x", "_acme.x"),
    ] {
        let pattern: NamePattern = text.parse().unwrap();
        assert_eq!(pattern.to_string(), shown);
        assert_eq!(pattern.to_string().parse(), Ok(pattern));
    }
    let long = "a.".repeat(128);
    for (text, why) in [
        ("*foo.com", "`*.` stands for"),
        ("a.*.b", "`*.` stands for"),
        ("*.*.b", "`*.` stands for"),
        ("*", "`*.` stands for"),
        ("**.a", "`*.` stands for"),
        ("foo.*", "`*.` stands for"),
        ("*.", "labels is empty"),
        ("", "labels is empty"),
        (".", "labels is empty"),
        ("a..b", "labels is empty"),
        (".a", "labels is empty"),
        ("192.0.2.1", "IP address"),
        ("::1", "IP address"),
        ("[::1]", "other characters"),
        ("db.example.com:5432", "other characters"),
        ("a b", "other characters"),
        ("bücher.example", "xn--"),
        (&long, "253"),
    ] {
        let message = text.parse::<NamePattern>().unwrap_err();
        assert!(message.starts_with("expected a name like db.example.com or *.example.com, got `"), "{message}");
        assert!(message.contains(why), "{message}");
    }
}

#[test]
fn conditions_that_never_hold_or_always_do_are_refused() {
    let message = Conditions::default().check().unwrap_err();
    assert!(message.contains("needs a condition"), "{message}");
    for protocol in Protocol::ALL {
        let only = Conditions { protocol: Some(protocol), ..Conditions::default() };
        assert_eq!(only.check(), Ok(()));
        for (key, with) in [
            ("sni", Conditions { sni: names(&["a.b"]), ..only.clone() }),
            ("alpn", Conditions { alpn: vec!["h2".to_owned()], ..only.clone() }),
        ] {
            assert_eq!(with.check().is_ok(), protocol.has_hello(), "{protocol} {key}");
            assert!(with.check().err().is_none_or(|message| message.contains(key)));
        }
    }
}

#[test]
fn a_route_that_an_earlier_one_covers_is_found() {
    let with = |conditions: Conditions, source: &[&str], alpn: &[&str]| Conditions {
        source: source.iter().map(|net| net.parse().unwrap()).collect(),
        alpn: alpn.iter().map(|name| (*name).to_owned()).collect(),
        ..conditions
    };
    let of = |protocol, conditions: Conditions| Conditions { protocol: Some(protocol), ..conditions };
    let any = Conditions::default;
    for (routes, found) in [
        (vec![sni(&["a.b"]), sni(&["a.b"])], vec![(1, vec![0])]),
        (vec![sni(&["*.b"]), sni(&["a.b"])], vec![]),
        (vec![sni(&["a.b"]), sni(&["*.b"])], vec![]),
        (vec![sni(&["*.b"]), sni(&["*.a.b"])], vec![]),
        (vec![sni(&["A.B", "c"]), sni(&["d"]), sni(&["c", "a.b.", "d"])], vec![(2, vec![0, 1])]),
        (vec![sni(&["a", "b"]), sni(&["a", "c"])], vec![]),
        (vec![of(Protocol::Tls, any()), sni(&["a"])], vec![]),
        (vec![of(Protocol::Tls, any()), of(Protocol::Tls, with(any(), &["10.0.0.0/8"], &[]))], vec![(1, vec![0])]),
        (vec![of(Protocol::Tls, sni(&["a"])), sni(&["a"])], vec![(1, vec![0])]),
        (vec![of(Protocol::Tls, any()), with(any(), &[], &["h2"])], vec![(1, vec![0])]),
        (
            vec![of(Protocol::Tls, any()), with(any(), &[], &["h2"]), of(Protocol::Postgres, with(any(), &[], &["x"]))],
            vec![],
        ),
        (vec![sni(&["a"]), of(Protocol::Postgres, sni(&["a"]))], vec![(1, vec![0])]),
        (vec![with(any(), &[], &["h2", "x"]), with(any(), &[], &["x"])], vec![(1, vec![0])]),
        (vec![with(any(), &[], &["x"]), with(any(), &[], &["h2", "x"])], vec![]),
        (
            vec![with(any(), &["10.0.0.0/9", "10.128.0.0/9"], &[]), with(any(), &["10.0.0.0/8"], &[])],
            vec![(1, vec![0])],
        ),
        (vec![with(any(), &["::ffff:10.0.0.0/104"], &[]), with(any(), &["10.1.0.0/16"], &[])], vec![(1, vec![0])]),
        (vec![with(any(), &["10.1.0.0/16"], &[]), with(any(), &["10.0.0.0/8"], &[])], vec![]),
        (vec![with(any(), &["10.0.0.0/8"], &["x"]), with(any(), &["10.0.0.0/8"], &["y", "x"])], vec![]),
        (vec![with(any(), &["10.0.0.0/8"], &["y", "x"]), with(any(), &["10.1.0.0/16"], &["x"])], vec![(1, vec![0])]),
        (vec![with(any(), &["10.0.0.0/8"], &[]), with(any(), &["10.1.0.0/16", "11.0.0.0/8"], &[])], vec![]),
    ] {
        let found: Vec<Covered> = found.into_iter().map(|(route, by)| Covered { route, by }).collect();
        assert_eq!(covered(&routes, Clients::MayHaveNone), found, "{routes:?}");
        assert_eq!(covered(&routes, Clients::HaveAddresses), found, "{routes:?}");
    }
    let everywhere = [with(sni(&["a"]), &["0.0.0.0/1", "128.0.0.0/1", "::/0"], &[]), sni(&["a"])];
    assert_eq!(covered(&everywhere, Clients::MayHaveNone), []);
    assert_eq!(covered(&everywhere, Clients::HaveAddresses), [Covered { route: 1, by: vec![0] }]);
    let of_one_family = [with(sni(&["a"]), &["0.0.0.0/0"], &[]), sni(&["a"])];
    assert_eq!(covered(&of_one_family, Clients::HaveAddresses), []);
}

/// Ten thousand names in one table: each is found, and none is scanned for.
#[test]
fn many_names_are_found() {
    let list: Vec<Conditions> = (0..10_000)
        .map(|index| sni(&[&format!("host{index}.example.com"), &format!("*.zone{index}.example.com")]))
        .collect();
    let routes = Routes::new(&list);
    for index in [0, 1, 4_999, 9_999] {
        assert_eq!(by_name(&routes, &format!("HOST{index}.example.com")), Some(index));
        assert_eq!(by_name(&routes, &format!("a.b.zone{index}.example.com")), Some(index));
    }
    assert_eq!(by_name(&routes, "host10000.example.com"), None);
    assert_eq!(covered(&list, Clients::HaveAddresses), []);
}

/// As many routes without a name, which differ in their sources: each is compared with few others.
#[test]
fn of_many_sources_the_covered_ones_are_found_in_little_time() {
    let of = |text: String| Conditions { source: vec![text.parse().unwrap()], ..Conditions::default() };
    let mut list: Vec<Conditions> = (0..40_000).map(|at| of(format!("10.{}.{}.0/24", at / 250, at % 250))).collect();
    list.push(of("10.7.3.9/32".to_owned()));
    let begun = std::time::Instant::now();
    assert_eq!(covered(&list, Clients::HaveAddresses), [Covered { route: 40_000, by: vec![7 * 250 + 3] }]);
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
}

/// The definition: all routes that fit, the one of the most specific name first, then the first in the file.
fn by_definition(routes: &[Conditions], sniffed: Option<&Sniffed>, source: Option<IpAddr>) -> Option<usize> {
    let hello = sniffed.and_then(|sniffed| sniffed.hello.as_ref());
    let mut best: Option<(usize, usize)> = None;
    for (index, route) in routes.iter().enumerate() {
        let others = route.protocol.is_none_or(|protocol| sniffed.map(|sniffed| sniffed.protocol) == Some(protocol))
            && (route.alpn.is_empty()
                || hello
                    .is_some_and(|hello| route.alpn.iter().any(|alpn| hello.alpn.contains(&alpn.as_bytes().into()))))
            && (route.source.is_empty()
                || source.is_some_and(|ip| route.source.iter().any(|net| net.contains(&ip.to_canonical()))));
        let name = hello.and_then(|hello| hello.server_name.as_deref());
        let specific = |pattern: &NamePattern| match (pattern, name?) {
            (NamePattern::Exact(wanted), name) => (**wanted == *name).then_some(usize::MAX),
            (NamePattern::Below(wanted), name) => name.ends_with(&format!(".{wanted}")).then_some(wanted.len()),
        };
        let rank = if route.sni.is_empty() { Some(0) } else { route.sni.iter().filter_map(specific).max() };
        if let Some(rank) = rank.filter(|_| others)
            && best.is_none_or(|(_, other)| rank > other)
        {
            best = Some((index, rank));
        }
    }
    best.map(|(index, _)| index)
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop::sample::select(Protocol::ALL.to_vec())
}

/// Names of few labels, so that they meet.
fn host() -> impl Strategy<Value = String> {
    prop::collection::vec("[ab]", 1..4).prop_map(|labels| labels.join("."))
}

fn conditions() -> impl Strategy<Value = Conditions> {
    let pattern = (host(), any::<bool>()).prop_map(|(name, wildcard)| {
        let text = if wildcard { format!("*.{name}") } else { name };
        text.parse().unwrap()
    });
    let net =
        (0u8..4, 8u8..11).prop_map(|(high, length)| IpNet::new([10, high << 6, 0, 0].into(), length).unwrap().trunc());
    let alpn = prop::collection::vec("[xy]", 0..2);
    (
        prop::option::weighted(0.4, protocol()),
        prop::collection::vec(pattern, 0..3),
        alpn,
        prop::collection::vec(net, 0..2),
    )
        .prop_map(|(protocol, sni, alpn, source)| Conditions { protocol, sni, alpn, source })
}

fn client() -> impl Strategy<Value = (Option<Sniffed>, Option<IpAddr>)> {
    let hello = (prop::option::of(host()), prop::collection::vec("[xyz]", 0..3)).prop_map(|(name, alpn)| Hello {
        server_name: name.map(String::into_boxed_str),
        alpn: alpn.iter().map(|name| name.as_bytes().into()).collect(),
        is_encrypted: false,
    });
    let sniffed = prop_oneof![
        4 => (any::<bool>(), hello).prop_map(|(tls, hello)| Sniffed {
            protocol: if tls { Protocol::Tls } else { Protocol::Postgres },
            hello: Some(hello),
        }),
        1 => protocol().prop_map(plain),
    ];
    let source = (any::<u8>(), any::<bool>()).prop_map(|(high, mapped)| {
        let ip = std::net::Ipv4Addr::from([10, high, 0, 1]);
        if mapped { ip.to_ipv6_mapped().into() } else { ip.into() }
    });
    (prop::option::weighted(0.9, sniffed), prop::option::weighted(0.9, source))
}

proptest! {
    #[test]
    fn the_table_finds_what_the_definition_finds(
        routes in prop::collection::vec(conditions(), 0..12),
        clients in prop::collection::vec(client(), 1..40),
    ) {
        let table = Routes::new(&routes);
        let covered: Vec<usize> = covered(&routes, Clients::MayHaveNone).into_iter().map(|covered| covered.route).collect();
        for (sniffed, source) in clients {
            let found = table.find(sniffed.as_ref(), source);
            prop_assert_eq!(found, by_definition(&routes, sniffed.as_ref(), source), "{:?} {:?}", sniffed, source);
            // Nothing is known of a client of another protocol.
            let is_known = sniffed.is_none_or(|sniffed| table.wanted().contains(sniffed.protocol));
            prop_assert!(!is_known || found.is_none_or(|route| !covered.contains(&route)), "{:?} is not covered", found);
        }
    }

    /// The definition of what covers a route: an earlier one with this name that holds wherever it holds.
    #[test]
    fn the_first_route_that_covers_another_is_found(routes in prop::collection::vec(conditions(), 0..16)) {
        let wanted = wanted(routes.iter());
        let of = |index: usize| Comparable::new(&routes[index], wanted, Clients::HaveAddresses);
        let mut expected = Vec::new();
        for route in 0..routes.len() {
            let first = |name| {
                (0..route).find(|other| routes[*other].names().any(|it| it == name) && of(*other).hold_with(&of(route)))
            };
            if let Some(mut by) = routes[route].names().map(first).collect::<Option<Vec<usize>>>() {
                by.sort_unstable();
                by.dedup();
                expected.push(Covered { route, by });
            }
        }
        prop_assert_eq!(covered(&routes, Clients::HaveAddresses), expected);
    }

    /// Where routes have names only, every route that is not covered takes some client.
    #[test]
    fn among_names_every_route_that_takes_no_client_is_covered(
        names in prop::collection::vec(prop::collection::vec((host(), any::<bool>()), 1..3), 0..10),
    ) {
        let text = |(name, wildcard): &(String, bool)| if *wildcard { format!("*.{name}") } else { name.clone() };
        let routes: Vec<Conditions> =
            names.iter().map(|list| sni(&list.iter().map(text).collect::<Vec<_>>().iter().map(String::as_str).collect::<Vec<_>>())).collect();
        let table = Routes::new(&routes);
        let covered: Vec<usize> = covered(&routes, Clients::MayHaveNone).into_iter().map(|covered| covered.route).collect();
        for (route, list) in names.iter().enumerate() {
            // No other name has the label `z`.
            let clients = list.iter().map(|(name, wildcard)| if *wildcard { format!("z.{name}") } else { name.clone() });
            let takes = clients.into_iter().any(|name| by_name(&table, &name) == Some(route));
            prop_assert_eq!(takes, !covered.contains(&route), "route {}", route);
        }
    }

    #[test]
    fn no_text_makes_a_name_panic_and_each_name_round_trips(text in "\\PC{0,20}|[*a.-]{0,12}") {
        if let Ok(pattern) = text.parse::<NamePattern>() {
            prop_assert_eq!(pattern.to_string().parse::<NamePattern>(), Ok(pattern));
        }
    }
}
