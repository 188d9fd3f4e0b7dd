//! `frontend`, and the same part of `listen` → a listener.
//!
//! Rules about addresses become `allow` and `deny`, rules about the first bytes become routes. HAProxy evaluates three sets of
//! rules one after the other (`connection`, `session`, `content`). An `accept` ends its own set, a `reject` the connection.

use super::condition::{Acls, Condition, Test};
use super::proxy::{At, Proxy, is_unknown};
use super::tables::BIND;
use super::value;
use super::words::Line;
use crate::import::access::{self, covers};
use crate::import::keywords::find;
use crate::import::listen::{self, Binds};
use crate::import::model::{Listener, Origin};
use crate::import::note::Notes;
use crate::import::routing::{self, Named, Region, Target};
use ipnet::IpNet;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// The stick tables of all proxies, by name: the periods of `conn_rate`, if they have one.
pub type Tables = HashMap<String, Option<Duration>>;

/// A rule that admits or refuses.
#[derive(Clone, Debug)]
struct Rule {
    line: usize,
    accept: bool,
    condition: Condition,
}

/// The rules of the three sets.
#[derive(Debug, Default)]
struct Rules {
    connection: Vec<Rule>,
    session: Vec<Rule>,
    content: Vec<Rule>,
}

/// The listener of a proxy. `pools` finds the section that becomes the pool of a name.
pub fn listener<'a>(
    proxy: &Proxy,
    tables: &Tables,
    pools: &dyn Fn(&str) -> Option<&'a Proxy>,
    notes: &mut Notes,
) -> Listener {
    let mut listener = Listener {
        origin: Origin(proxy.line, proxy.shown()),
        name: proxy.name.clone(),
        max_connections: proxy.max_connections.as_ref().map(|At(_, number)| *number),
        ..Listener::default()
    };
    binds(proxy, &mut listener, notes);
    let acls = Acls::new(&proxy.acls);
    let mut rules = rules(proxy, &acls, tables, &mut listener, notes);
    let bytes = split(&mut rules.content, notes);
    let uses = uses(proxy, &acls, pools, notes);
    let last = match &proxy.default_backend {
        Some(At(_, name)) if pools(name).is_some() => Target::Pool(name.clone()),
        Some(At(line, name)) => {
            notes.refused(*line, format!("default_backend: no section of mode tcp is called {name}"));
            Target::Refuse
        }
        None if proxy.kind == "listen" && pools(&proxy.name).is_some() => Target::Pool(proxy.name.clone()),
        None => Target::Refuse,
    };
    let mut behind = Vec::new();
    if let (Target::Pool(name), true, true) = (&last, uses.is_empty(), bytes.is_empty())
        && let Some(backend) = pools(name).filter(|backend| backend.kind == "backend")
    {
        behind = self::rules(backend, &Acls::new(&backend.acls), tables, &mut listener, notes).content;
        let lost = split(&mut behind, notes);
        for rule in lost.iter().filter(|rule| !rule.accept) {
            notes.refused(rule.line, "tcp-request content: only a listener looks at first bytes".to_owned());
        }
    }
    admit(&mut listener, rules, behind, notes);
    route(proxy, &mut listener, &bytes, uses, last, notes);
    listener
}

fn binds(proxy: &Proxy, listener: &mut Listener, notes: &mut Notes) {
    let mut all = Binds::default();
    let expects = |line: &Line| line.from(2).any(|word| word == "accept-proxy");
    let mixed = proxy.binds.iter().any(expects) && !proxy.binds.iter().all(expects);
    for line in &proxy.binds {
        if mixed && expects(line) {
            notes.refused(line.number, format!("bind {}: accept-proxy: {}", line.word(1), listen::mixed("frontend")));
            continue;
        }
        let addresses = match value::binds(line.word(1)) {
            Ok(addresses) => addresses,
            Err(why) => {
                notes.refused(line.number, format!("bind: {why}"));
                continue;
            }
        };
        let mut only_v6 = false;
        let mut at = 2;
        while at < line.words.len() {
            let (name, value) = (line.word(at), line.word(at + 1));
            let Some(option) = find(BIND, name) else {
                notes.refused(line.number, format!("{name}: HAProxy 2.6 has no such option of bind"));
                break;
            };
            at += 1 + option.values;
            if option.is_lost(line.number, notes) {
                continue;
            }
            match name {
                "accept-proxy" => listener.accept_proxy = true,
                "v6only" => only_v6 = true,
                "mode" => listener.mode = Some(format!("{value:0>4}")),
                "user" | "uid" => listener.owner = Some(value.to_owned()),
                "group" | "gid" => listener.group = Some(value.to_owned()),
                "maxconn" => match value.parse::<u64>() {
                    Ok(number) => {
                        let number = Some(number).filter(|number| *number > 0);
                        listener.max_connections = [listener.max_connections, number].into_iter().flatten().min();
                        notes.changed(line.number, format!("{name}: {}", option.why));
                    }
                    Err(_) => notes.refused(line.number, format!("{name}: expected a number, got `{value}`")),
                },
                _ => {}
            }
        }
        if let Err(why) = addresses.into_iter().try_for_each(|addresses| all.add(addresses, only_v6)) {
            notes.refused(line.number, format!("bind: {why}"));
        }
    }
    if let Err(why) = all.set(listener) {
        notes.refused(proxy.line, format!("{}: bind: {why}", proxy.shown()));
    }
}

/// Actions that change nothing about where a connection goes, unless a rule that is refused looks at what they leave.
const HARMLESS: [&str; 12] = [
    "capture",
    "set-log-level",
    "set-mark",
    "set-nice",
    "set-priority-class",
    "set-priority-offset",
    "set-tos",
    "set-var",
    "set-var-fmt",
    "unset-var",
    "do-resolve",
    "set-bandwidth-limit",
];

/// Sorts the lines into the three sets. Limits of sources go to the listener.
fn rules(proxy: &Proxy, acls: &Acls, tables: &Tables, listener: &mut Listener, notes: &mut Notes) -> Rules {
    let mut rules = Rules::default();
    let mut tracked: Option<String> = None;
    for line in &proxy.rules {
        let (set, action) = (line.word(1), line.word(2));
        let shown = format!("tcp-request {set} {action}").trim_end().to_owned();
        let length = match action {
            "accept" | "reject" | "silent-drop" => 3,
            "expect-proxy" => 4,
            _ if action.starts_with("track-sc") || HARMLESS.iter().any(|name| action.starts_with(name)) => 0,
            _ if action.starts_with("sc-") => 0,
            _ => {
                notes.refused(line.number, format!("{shown}: tcplb has no such action"));
                continue;
            }
        };
        if action.starts_with("track-sc") {
            if line.word(3) != "src" {
                notes.refused(line.number, format!("{shown}: tcplb counts by the client's address only"));
            }
            let table = line.from(4).skip_while(|word| *word != "table").nth(1);
            tracked = Some(table.unwrap_or(&proxy.name).to_owned());
            continue;
        }
        if length == 0 {
            notes.dropped(line.number, format!("{shown}: tcplb has no such action, and it refuses no client"));
            continue;
        }
        let condition = match acls.condition(line, length) {
            Ok(condition) => condition,
            Err(why) => {
                notes.refused(line.number, format!("{shown}: {why}"));
                continue;
            }
        };
        if let Some(Test::Unknown(what)) = condition.tests().find(|test| matches!(test, Test::Unknown(_))) {
            notes.refused(line.number, format!("{shown}: tcplb can't test {what}"));
            continue;
        }
        if action == "expect-proxy" {
            expect_proxy(&condition, line, listener, notes);
            continue;
        }
        if action == "silent-drop" {
            notes.changed(line.number, format!("{shown}: the client is reset"));
        }
        if condition.tests().any(|test| matches!(test, Test::Limit(_))) {
            let table = tracked.as_deref().unwrap_or(&proxy.name);
            let limited = match condition.as_limit() {
                Some(limit) if action != "accept" => limit_source(limit, table, tables, listener),
                _ => Err("a limit of a source has no exception".to_owned()),
            };
            match limited {
                Ok(None) => {}
                Ok(Some(how)) => notes.changed(line.number, format!("{shown}: {how}")),
                Err(why) => notes.refused(line.number, format!("{shown}: {why}")),
            }
            continue;
        }
        if set != "content" && condition.tests().any(is_of_bytes) {
            notes.refused(line.number, format!("{shown}: at this point no bytes have been read"));
            continue;
        }
        let rule = Rule { line: line.number, accept: action == "accept", condition };
        match set {
            "connection" => rules.connection.push(rule),
            "session" => rules.session.push(rule),
            _ => rules.content.push(rule),
        }
    }
    rules
}

/// `expect-proxy layer4 if { src … }`: these addresses send a header. Other clients may connect without one in HAProxy.
fn expect_proxy(condition: &Condition, line: &Line, listener: &mut Listener, notes: &mut Notes) {
    let sources: Vec<IpNet> = condition
        .tests()
        .flat_map(|test| match test {
            Test::Source(nets) => nets.clone(),
            _ => BTreeSet::new(),
        })
        .collect();
    let only = condition.tests().all(|test| matches!(test, Test::Source(_)));
    // With a negation, an address of none of the prefixes would be one of the proxies.
    let positive = condition.holds(|_| true) && !condition.holds(|_| false);
    if !only || !positive || sources.is_empty() {
        return notes
            .refused(line.number, "expect-proxy: tcplb expects a header from prefixes of addresses only".to_owned());
    }
    listener.accept_proxy = true;
    listener.trusted_proxies = sources.iter().map(access::shown).collect();
    notes.changed(line.number, "expect-proxy: clients of other addresses are refused".to_owned());
}

/// Sets a limit of the listener. Returns what differs.
fn limit_source(
    limit: &super::condition::Limit,
    tracked: &str,
    tables: &Tables,
    listener: &mut Listener,
) -> Result<Option<String>, String> {
    if !limit.rate {
        listener.max_connections_per_source = Some(limit.most);
        return Ok(None);
    }
    let table = limit.table.as_deref().unwrap_or(tracked);
    let period = tables.get(table).copied().flatten();
    let period =
        period.filter(|period| !period.is_zero()).ok_or(format!("the stick table {table} stores no conn_rate"))?;
    let rate = u64::try_from(u128::from(limit.most) * 1_000 / period.as_millis().max(1)).unwrap_or(u64::MAX);
    let rate = rate.min(u64::from(u32::MAX));
    if rate == 0 {
        return Err("a rate of tcplb is at least 1 per second".to_owned());
    }
    listener.connection_rate_per_source = Some(rate);
    let same = period == Duration::from_secs(1);
    Ok((!same)
        .then(|| format!("{rate} connections per second, in place of {} in {} s", limit.most, period.as_secs_f64())))
}

/// Takes the rules about first bytes out of the rules of `content`.
fn split(content: &mut Vec<Rule>, notes: &mut Notes) -> Vec<Rule> {
    let of_source =
        |rule: &Rule| rule.condition.tests().any(|test| matches!(test, Test::Source(_) | Test::SourceFile(_)));
    let of_bytes = |rule: &Rule| rule.condition.tests().any(is_of_bytes);
    if !content.iter().any(of_bytes) {
        return Vec::new();
    }
    let (mut bytes, mut sources) = (Vec::new(), Vec::new());
    for rule in std::mem::take(content) {
        match (of_source(&rule), of_bytes(&rule)) {
            (true, false) if !rule.accept => sources.push(rule),
            (true, _) => notes.refused(
                rule.line,
                "tcp-request content: tcplb decides by addresses first, so a rule can't mix them with first bytes"
                    .to_owned(),
            ),
            (false, _) => bytes.push(rule),
        }
    }
    *content = sources;
    bytes
}

fn is_of_bytes(test: &Test) -> bool {
    matches!(test, Test::Tls | Test::Name(..) | Test::AnyName | Test::Ssh | Test::Http)
}

/// The prefixes of rules.
fn prefixes(rules: &[Rule]) -> impl Iterator<Item = IpNet> {
    rules.iter().flat_map(|rule| rule.condition.tests()).flat_map(|test| match test {
        Test::Source(nets) => nets.clone(),
        _ => BTreeSet::new(),
    })
}

/// Whether a condition about addresses holds for all of a prefix.
fn holds_for(condition: &Condition, net: &IpNet) -> bool {
    condition.holds(|test| match test {
        Test::Always(always) => *always,
        Test::Source(nets) => covers(nets, net),
        _ => false,
    })
}

/// Sets the lists of the listener. `behind` are the rules of the only backend that it leads to.
fn admit(listener: &mut Listener, rules: Rules, mut behind: Vec<Rule>, notes: &mut Notes) {
    let admits = |set: &[Rule], net: &IpNet| {
        set.iter().find(|rule| holds_for(&rule.condition, net)).is_none_or(|rule| rule.accept)
    };
    let Rules { mut connection, mut session, mut content } = rules;
    files(listener, [&mut connection, &mut session, &mut content, &mut behind], notes);
    let mut sets = vec![session, content, behind];
    if listener.accept_proxy && !connection.is_empty() {
        // At this point HAProxy has not read the header.
        let decided = access::decisions(prefixes(&connection), |net| Ok::<_, ()>(admits(&connection, net)));
        let lists = access::lists(&decided.unwrap_or_default());
        let line = connection.first().map_or(1, |rule| rule.line);
        if lists.deny.is_empty() && listener.trusted_proxies.is_empty() {
            listener.trusted_proxies = lists.allow;
        } else {
            notes.refused(
                line,
                "tcp-request connection: before a PROXY header is read, tcplb has trusted_proxies only, which admits"
                    .to_owned(),
            );
        }
    } else {
        sets.push(connection);
    }
    let all = sets.iter().flat_map(|set| prefixes(set));
    let decided =
        access::decisions(all, |net| Ok::<_, ()>(sets.iter().all(|set| admits(set, net)))).unwrap_or_default();
    let lists = access::lists(&decided);
    listener.allow = lists.allow;
    // `v6only` may have put the same prefix there.
    let first = listener.deny.first().cloned();
    listener.deny.extend(lists.deny.into_iter().filter(|net| first.as_ref() != Some(net)));
}

/// Takes rules about files of addresses out. They are kept if no other rule admits or refuses.
fn files(listener: &mut Listener, sets: [&mut Vec<Rule>; 4], notes: &mut Notes) {
    let of_file = |rule: &Rule| rule.condition.tests().any(|test| matches!(test, Test::SourceFile(_)));
    let rules: usize = sets.iter().map(|set| set.len()).sum();
    for set in sets {
        for rule in set.extract_if(.., |rule| of_file(rule)) {
            match rule.condition.as_file() {
                Some((file, true)) if rules == 1 && !rule.accept => listener.deny_file = Some(file.to_owned()),
                Some((file, false)) if rules == 1 && !rule.accept => listener.allow_file = Some(file.to_owned()),
                _ => notes.refused(
                    rule.line,
                    "tcp-request: a file of addresses is kept only as the one rule that rejects; put its prefixes into the rule"
                        .to_owned(),
                ),
            }
        }
    }
}

/// A rule that picks a pool.
#[derive(Debug)]
struct Use {
    line: usize,
    pool: String,
    condition: Condition,
}

fn uses<'a>(proxy: &Proxy, acls: &Acls, pools: &dyn Fn(&str) -> Option<&'a Proxy>, notes: &mut Notes) -> Vec<Use> {
    let mut uses = Vec::new();
    for line in &proxy.use_backend {
        if is_unknown(line, notes) {
            continue;
        }
        let pool = line.word(1).to_owned();
        let refused = |notes: &mut Notes, why: &str| notes.refused(line.number, format!("use_backend {pool}: {why}"));
        if pool.contains('%') {
            refused(notes, "a route leads to a pool that the file names");
            continue;
        }
        let condition = match acls.condition(line, 2) {
            Ok(condition) => condition,
            Err(why) => {
                refused(notes, &why);
                continue;
            }
        };
        if let Some(Test::Unknown(what)) = condition.tests().find(|test| matches!(test, Test::Unknown(_))) {
            refused(notes, &format!("tcplb can't route by {what}"));
        } else if condition.tests().any(|test| matches!(test, Test::Limit(_) | Test::SourceFile(_))) {
            refused(notes, "tcplb routes by first bytes and by prefixes only");
        } else if pools(&pool).is_none() {
            refused(notes, "no section of mode tcp has this name");
        } else {
            uses.push(Use { line: line.number, pool, condition });
        }
    }
    uses
}

/// Sets the pool and the routes of the listener.
fn route(proxy: &Proxy, listener: &mut Listener, bytes: &[Rule], mut uses: Vec<Use>, last: Target, notes: &mut Notes) {
    let of_source = |one: &Use| one.condition.tests().any(|test| matches!(test, Test::Source(_)));
    let of_bytes = |one: &Use| one.condition.tests().any(is_of_bytes);
    let by_bytes = !bytes.is_empty() || uses.iter().any(|one| of_bytes(one) && !of_source(one));
    // The rest is kept: without it, what it rejects would be let in.
    for one in uses.extract_if(.., |one| of_source(one) && (by_bytes || of_bytes(one))) {
        let why = "tcplb tries names before addresses, so the rules of a listener can't look at both";
        notes.refused(one.line, format!("use_backend {}: {why}", one.pool));
    }
    let line = uses.first().map(|one| one.line).or(bytes.first().map(|rule| rule.line)).unwrap_or(proxy.line);
    let pick = |answer: &dyn Fn(&Test) -> bool| {
        let picked = uses.iter().find(|one| one.condition.holds(answer));
        picked.map_or_else(|| last.clone(), |one| Target::Pool(one.pool.clone()))
    };
    let found = if uses.iter().any(of_source) {
        let nets = uses.iter().flat_map(|one| one.condition.tests()).flat_map(|test| match test {
            Test::Source(nets) => nets.clone(),
            _ => BTreeSet::new(),
        });
        Ok(routing::by_source(nets, |net| {
            pick(&|test| match test {
                Test::Always(always) => *always,
                Test::Source(nets) => covers(nets, net),
                _ => false,
            })
        }))
    } else {
        let mut named = Named::default();
        let all = bytes.iter().map(|rule| &rule.condition).chain(uses.iter().map(|one| &one.condition));
        for test in all.flat_map(Condition::tests) {
            match test {
                Test::Name(names, suffixes) => {
                    named.names.extend(names.iter().cloned());
                    named.suffixes.extend(suffixes.iter().cloned());
                }
                Test::Ssh => named.ssh = true,
                Test::Http => named.http = true,
                _ => {}
            }
        }
        routing::routes(&named, |region| {
            let answer = |test: &Test| is_in(test, region);
            let stop = bytes.iter().find(|rule| rule.condition.holds(answer));
            Ok(if stop.is_some_and(|rule| !rule.accept) { Target::Refuse } else { pick(&answer) })
        })
    };
    let (routes, rest) = match found {
        Ok(found) => found,
        Err(why) => {
            listener.pool = last.pool();
            for line in bytes.iter().map(|rule| rule.line).chain(uses.iter().map(|one| one.line)) {
                notes.refused(line, format!("routing of {}: {why}", proxy.shown()));
            }
            return;
        }
    };
    listener.pool = rest.pool();
    listener.routes = routes;
    let sniffs = listener.routes.iter().any(|route| route.protocol.is_some());
    match &proxy.inspect_delay {
        Some(At(_, time)) if sniffs && !time.is_zero() => listener.sniff_timeout = Some(*time),
        Some(At(line, _)) if !sniffs => {
            notes.dropped(*line, "tcp-request inspect-delay: no route looks at first bytes".to_owned());
        }
        _ => {}
    }
    let delays = proxy.inspect_delay.as_ref().is_some_and(|At(_, time)| !time.is_zero());
    if sniffs && !(delays && proxy.rules.iter().any(|rule| rule.word(1) == "content")) {
        notes.changed(
            line,
            "use_backend: tcplb waits for a client's first message, HAProxy decides by the bytes that have arrived"
                .to_owned(),
        );
    }
    // After the delay HAProxy decides without bytes.
    listener.silent_pool = Some(rest.pool()).filter(|_| sniffs && rest != Target::Refuse);
    for rule in proxy.use_backend.iter().chain(&proxy.acls).chain(&proxy.rules) {
        let words: Vec<&str> = rule.from(0).collect();
        let by_letters = words.windows(2).any(|pair| matches!(pair, ["-m", "end" | "dom"]));
        if sniffs && by_letters && words.iter().any(|word| word.contains("ssl_sni")) {
            notes
                .changed(rule.number, "ssl_sni: a suffix fits whole labels only: a.com does not fit ba.com".to_owned());
        }
    }
}

/// Whether a test holds for clients of a region.
fn is_in(test: &Test, region: &Region) -> bool {
    match test {
        Test::Always(always) => *always,
        Test::Tls => region.is_tls(),
        Test::Ssh => *region == Region::Ssh,
        Test::Http => *region == Region::Http,
        Test::AnyName => region.is_tls() && *region != Region::NoName,
        Test::Name(names, suffixes) => match region {
            Region::Name(name) => names.contains(name) || suffixes.iter().any(|suffix| name.ends_with(suffix.as_str())),
            Region::Suffix(behind) => suffixes.iter().any(|suffix| behind.ends_with(suffix.as_str())),
            _ => false,
        },
        Test::Source(_) | Test::SourceFile(_) | Test::Limit(_) | Test::Unknown(_) => false,
    }
}
