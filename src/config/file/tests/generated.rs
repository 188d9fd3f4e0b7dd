//! Properties: whatever a file without mistakes says, its model prints as a file of the same model; whatever the text, reading
//! it ends with an answer.

use super::super::*;
use crate::base::bytes::escaped;
use crate::config::settings::kinds::{Values, quoted};
use crate::config::settings::{BACKEND, DISCOVER, GLOBAL, HEALTH, LISTENER, POOL, ROUTE, Row, Section};
use crate::config::text::print;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::string::string_regex;
use std::net::{Ipv4Addr, Ipv6Addr};

const EXAMPLE: &str = include_str!("../../../../config.example");

fn text(pattern: &str) -> BoxedStrategy<String> {
    string_regex(pattern).unwrap().prop_map(quoted).boxed()
}

fn texts(items: BoxedStrategy<String>) -> BoxedStrategy<String> {
    vec(items, 1..4).prop_map(|items| format!("[{}]", items.join(", "))).boxed()
}

fn millis(range: std::ops::Range<u64>) -> BoxedStrategy<String> {
    range.prop_map(|millis| quoted(format!("{millis}ms"))).boxed()
}

fn prefix() -> BoxedStrategy<String> {
    let four = (any::<[u8; 4]>(), 0..=32_u8).prop_map(|(ip, bits)| format!("{}/{bits}", Ipv4Addr::from(ip)));
    let six = (any::<[u8; 16]>(), 0..=128_u8).prop_map(|(ip, bits)| format!("{}/{bits}", Ipv6Addr::from(ip)));
    prop_oneof![four, six].prop_map(quoted).boxed()
}

/// A step of a script. What is sent or expected has any bytes.
fn step() -> BoxedStrategy<String> {
    let bytes = vec(any::<u8>(), 1..20).prop_map(|bytes| quoted(escaped(&bytes)));
    let bytes = ("(send|expect)", bytes).prop_map(|(key, bytes)| format!("{{ {key} = {bytes} }}"));
    let regex =
        text("[a-z\"' ]{0,9}(\\\\r\\\\n|\\\\xff|[.]|)").prop_map(|regex| format!("{{ expect_regex = {regex} }}"));
    prop_oneof![bytes, regex].boxed()
}

/// Any good value of a key, as TOML.
fn value(row: &Row) -> BoxedStrategy<String> {
    let (name, placeholder) = match row.values {
        Values::Words(words) => return prop::sample::select(words()).prop_map(quoted).boxed(),
        Values::Number(min, max) => return (min..=max).prop_map(|number| number.to_string()).boxed(),
        Values::Switch => return any::<bool>().prop_map(|value| value.to_string()).boxed(),
        Values::Other { name, placeholder, .. } => (name, placeholder),
    };
    match placeholder {
        // A probe ends before the next one begins.
        "TIME" if row.about.key == "interval" => millis(1_000_000..1_000_000_000),
        "TIME" if row.about.key == "timeout" => millis(1..2_000),
        "TIME" if name.contains("10h") => millis(2_000..36_000_000),
        "TIME" if name.contains("0s") => prop_oneof![Just(quoted("0s")), millis(1..10_000_000_000)].boxed(),
        "TIME" => millis(1..1_000_000),
        "SIZE" => (16..262_144_u32).prop_map(|kib| quoted(format!("{kib}KiB"))).boxed(),
        // Letters that TOML has a meaning for, too.
        "NAME" => text("[a-z0-9.ü\"'\\\\#=\\[\\]{},-]{1,12}"),
        "ADDR" => prop::sample::select(vec!["127.0.0.1:1", "[::1]:1", "unix:/a \"b\" ü/1", "localhost:1"])
            .prop_map(quoted)
            .boxed(),
        // With both families each backend has one of its own.
        "SOURCE" => prop::sample::select(vec!["\"Client\"", "[\"10.0.0.5\", \"2001:db8::5\", \"10.0.0.6\"]"])
            .prop_map(str::to_owned)
            .boxed(),
        "FILE" => text("-|/[a-z \"]{1,9}"),
        "SOCKET" => text("/sockets/[a-z \"]{1,9}"),
        "PREFIX" => texts(prefix()),
        "SERVER_NAMES" => texts(text("([*][.])?[a-z0-9_-]{1,9}([.][A-Za-z]{1,9}){0,2}[.]?")),
        "ALPN" => texts(text("[ -~ü]{1,9}")),
        "RATE" => (1_u32..).prop_map(|rate| quoted(format!("{rate}/s"))).boxed(),
        "MODE" => text("0?[0-7]{3}"),
        "PATH" => text("/[a-z?\"\\\\]{0,9}"),
        "HOST" => text("[a-z.:]{1,9}"),
        "STEPS" => vec(step(), 1..4).prop_map(|steps| format!("[{}]", steps.join(", "))).boxed(),
        "STATUS" => texts(prop_oneof![text("[1-5][0-9]{2}"), text("[12][0-9]{2}-[3-5][0-9]{2}")].boxed()),
        "EVENT" => prop::sample::subsequence(vec!["open", "interval 1m 30s", "close"], 1..=3)
            .prop_map(|events| format!("[{}]", events.into_iter().map(quoted).collect::<Vec<_>>().join(", ")))
            .boxed(),
        _ => panic!("the kind of {} needs a strategy here", row.about.key),
    }
}

/// Any good lines of a section: each key or none. Keys that the file must agree on are left out.
fn lines<S>(section: &'static Section<S>, without: &'static [&'static str]) -> BoxedStrategy<Vec<String>> {
    let rows = section.listed().rows.into_iter().filter(|row| !without.contains(&row.about.key));
    let lines: Vec<_> = rows
        .map(|row| {
            let key = row.about.key;
            option::of(value(&row)).prop_map(move |value| value.map(|value| format!("{key} = {value}")))
        })
        .collect();
    lines.prop_map(|lines| lines.into_iter().flatten().collect()).boxed()
}

/// Lines without those of these keys.
fn without(lines: Vec<String>, keys: &[&str]) -> Vec<String> {
    let of = |line: &String, key: &&str| line.starts_with(&format!("{key} = "));
    lines.into_iter().filter(|line| !keys.iter().any(|key| of(line, key))).collect()
}

fn has(lines: &[String], start: &str) -> bool {
    lines.iter().any(|line| line.starts_with(start))
}

fn global() -> BoxedStrategy<String> {
    let lines = lines(&GLOBAL, &[]);
    let beside = |lines: Vec<String>| {
        let mut lines = if has(&lines, "user") { lines } else { without(lines, &["group"]) };
        if !has(&lines, "admin_token_file") {
            lines = without(lines, &["admin_read_token_file"]);
        }
        if has(&lines, "log_events") {
            lines = without(lines, &["log_format"]);
            lines.push("log_format = 'json'".to_owned());
        }
        lines.join("\n")
    };
    lines.prop_map(beside).boxed()
}

fn health() -> BoxedStrategy<Vec<String>> {
    let http = ["path", "host", "expect_status"];
    let beside_kind = move |mut lines: Vec<String>| {
        let kind =
            lines.iter().find_map(|line| line.strip_prefix("kind = ")).map(|kind| kind.trim_matches('"').to_owned());
        match kind.as_deref() {
            None | Some("http") => without(lines, &["steps"]),
            Some("script") => {
                if !has(&lines, "steps") {
                    lines.push("steps = [{ expect = 'OK' }]".to_owned());
                }
                without(lines, &http)
            }
            Some("agent") => {
                lines = without(lines, &[&http[..], &["steps", "port"]].concat());
                lines.push("port = 8090".to_owned());
                lines
            }
            Some("off") => without(lines, &[&http[..], &["steps", "port", "initial"]].concat()),
            Some(_) => without(lines, &[&http[..], &["steps"]].concat()),
        }
    };
    lines(&HEALTH, &[]).prop_map(beside_kind).boxed()
}

/// A source of any kind, with its keys as their examples have them.
fn source() -> BoxedStrategy<String> {
    let common = lines(&DISCOVER, &["kind"]);
    let kind = prop::sample::select(vec!["path = '/a \"b\"'", "path = './b'"]);
    (common, kind)
        .prop_map(|(lines, path)| format!("[[pool.discover]]\nkind = 'file'\n{path}\n{}\n", lines.join("\n")))
        .boxed()
}

/// Routes to a pool called `p0`, each with a name or without one.
fn routes() -> BoxedStrategy<String> {
    let route = (lines(&ROUTE, &["name", "pool"]), any::<bool>());
    let routes = vec(route, 0..3).prop_map(|routes| {
        let sections = routes.into_iter().enumerate().map(|(number, (mut lines, named))| {
            // Only these two have a hello.
            if has(&lines, "protocol = \"http\"") || has(&lines, "protocol = \"ssh\"") {
                lines = without(lines, &["sni", "alpn"]);
            }
            if lines.is_empty() {
                lines.push("source = ['10.0.0.0/8']".to_owned());
            }
            let name = if named { format!("name = 'r{number}'\n") } else { String::new() };
            format!("[[listener.route]]\n{name}pool = 'p0'\n{}\n", lines.join("\n"))
        });
        sections.collect::<String>()
    });
    routes.boxed()
}

/// Without a port, and so without an agent.
fn without_port(lines: Vec<String>) -> Vec<String> {
    let agent = has(&lines, "kind = \"agent\"");
    without(lines, if agent { &["port", "kind"] } else { &["port"] })
}

/// An address that no other listener or backend of the file has.
fn address(kind: u8, port: usize) -> String {
    quoted(match kind % 4 {
        0 => format!("127.0.0.1:{}", 100 + port),
        1 => format!("[::1]:{}", 100 + port),
        2 => format!("host-{kind}.internal:{}", 100 + port),
        _ => format!("unix:/run/a \"quoted\" ü/{port}.sock"),
    })
}

/// A file without a mistake.
fn file() -> BoxedStrategy<String> {
    let listener =
        (lines(&LISTENER, &["name", "bind", "engine", "pool", "silent_pool"]), any::<u8>(), any::<usize>(), routes());
    let backend = (lines(&BACKEND, &["name", "address"]), any::<u8>(), any::<bool>());
    let pool = (lines(&POOL, &["name", "approximate"]), health(), vec(backend, 0..4), vec(source(), 0..3));
    let all = (global(), vec(listener, 1..4), vec(pool, 1..4));
    all.prop_map(|(global, listeners, pools)| {
        let (mut file, mut port) = (format!("[global]\n{global}\n"), 0);
        for (number, (lines, kind, pool, routes)) in listeners.into_iter().enumerate() {
            let pool = pool % pools.len();
            port += 2;
            let lines = if kind % 4 == 3 { lines } else { without(lines, &["mode", "owner", "group"]) };
            let bind = [address(kind, port - 1), address(kind / 4, port)];
            file += &format!("[[listener]]\nname = 'l{number}'\npool = 'p{pool}'\nbind = [{}]\n", bind.join(", "));
            let silent = if kind % 2 == 0 { String::new() } else { format!("silent_pool = 'p{pool}'\n") };
            file += &(lines.join("\n") + "\n" + &silent + &routes);
        }
        for (number, (lines, health, backends, sources)) in pools.into_iter().enumerate() {
            // A unix socket has no other port to probe, which a preset may set, and no source address.
            let unix = backends.iter().any(|(_, kind, _)| kind % 4 == 3);
            let lines = if unix { without(lines, &["preset", "source"]) } else { lines };
            // A warm connection has no client yet.
            let of_clients = lines.iter().any(|line| line.starts_with("source") && line.contains("Client"));
            let lines = if of_clients { without(lines, &["warm_connections"]) } else { lines };
            file += &format!("[[pool]]\nname = 'p{number}'\n{}\n", lines.join("\n"));
            let health = if unix { without_port(health) } else { health };
            file += &format!("[pool.health]\n{}\n", health.join("\n"));
            for (lines, kind, named) in backends {
                port += 1;
                file += &format!("[[pool.backend]]\naddress = {}\n{}\n", address(kind, port), lines.join("\n"));
                // A path with white space is no name.
                file += &if named || kind % 4 == 3 { format!("name = 'b{port}'\n") } else { String::new() };
            }
            file += &sources.concat();
        }
        file
    })
    .boxed()
}

/// A header or a setting, whole or with something missing.
fn line() -> impl Strategy<Value = String> {
    let header = "\\[{1,2}(global|listener|listener\\.route|pool|pool\\.(health|backend|discover))\\]{1,2}";
    let key = "(name|bind|pool|workers|kind|weight|address|health\\.path)";
    let value = "(\"[a-z:0-9]{0,5}\"?|[0-9]{1,6}|\\[[\"a:1,]{0,6}\\]?|\\{ ?\\}?|true|1979-05-27)";
    string_regex(&format!("({header}|{key} ?=? ?{value})")).unwrap()
}

proptest! {
    #[test]
    fn what_is_printed_is_read_as_the_same(file in file()) {
        let parsed = parse(&file, "file").map_err(|mistakes| TestCaseError::fail(format!("{mistakes}\n{file}")))?;
        let model = parsed.on(3);
        let printed = print(&model);
        let parsed = parse(&printed, "printed").map_err(|mistakes| TestCaseError::fail(format!("{mistakes}\n{printed}")))?;
        prop_assert!(!parsed.workers_per_core);
        prop_assert_eq!(parsed.model, model);
    }

    #[test]
    fn any_text_gets_an_answer(text in "(\\PC|[\n\t\"'=\\[\\]{}#.,]){0,200}") {
        answered(&text)?;
    }

    #[test]
    fn almost_right_text_gets_an_answer(lines in vec(line(), 0..12)) {
        answered(&lines.join("\n"))?;
    }

    #[test]
    fn the_example_with_pieces_moved_about_gets_an_answer(
        edits in vec((any::<prop::sample::Index>(), 0..30_usize, "[\\[\\]{}\"'=#\n.,a-z0-9-]{0,4}"), 1..8)
    ) {
        let mut letters: Vec<char> = EXAMPLE.replace("\n#", "\n").chars().collect();
        for (at, gone, come) in edits {
            let at = at.index(letters.len());
            let end = (at + gone).min(letters.len());
            letters.splice(at..end, come.chars());
        }
        answered(&letters.into_iter().collect::<String>())?;
    }
}

/// No panic; if there are mistakes, each is one line that names a line of the file, in order.
fn answered(text: &str) -> Result<(), TestCaseError> {
    let Err(Mistakes(lines)) = parse(text, "f") else { return Ok(()) };
    prop_assert!(!lines.is_empty() && lines.len() <= MISTAKES_MAX + 1);
    let mut last = 1;
    for line in lines.into_iter().filter(|line| line != "f: … and more") {
        let number: Option<usize> = line.strip_prefix("f:").and_then(|rest| rest.split(':').next()?.parse().ok());
        let number = number.ok_or_else(|| TestCaseError::fail(line.clone()))?;
        prop_assert!(number >= last && number <= text.lines().count() + 1, "{}", line);
        prop_assert!(!line.contains('\n'), "{}", line);
        last = number;
    }
    Ok(())
}
