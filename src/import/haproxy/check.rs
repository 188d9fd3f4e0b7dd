//! `option httpchk`, `tcp-check` and their like → the probes of a pool.

use super::proxy::{Proxy, is_unknown, keyword};
use super::words::Line;
use crate::config::model::Pattern;
use crate::import::model::{Check, Step};
use crate::import::note::Notes;
use regex::Regex;

/// What the probes do, and their port if the rules set one.
pub fn check(proxy: &Proxy, notes: &mut Notes) -> (Check, Option<u64>) {
    let Some(line) = &proxy.check else { return (Check::Tcp, None) };
    if is_unknown(line, notes) {
        return (Check::Tcp, None);
    }
    let Some((option, _)) = keyword(line, 0) else { return (Check::Tcp, None) };
    if option.is_lost(line.number, notes) {
        return (Check::Tcp, None);
    }
    let send = |bytes: &[u8]| Step::Send(bytes.to_vec());
    let regex = |pattern: &str| Step::ExpectRegex(pattern.to_owned());
    let steps = match option.name {
        "option httpchk" => return http(line, &proxy.check_rules, notes),
        "option tcp-check" => return script(&proxy.check_rules, notes),
        "option redis-check" => vec![send(b"PING\r\n"), Step::Expect(b"+PONG\r\n".to_vec())],
        "option ldap-check" => vec![
            send(b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\x00"),
            regex(r"(?s)^\x30.+\x02\x01\x01\x61.+\x0a\x01\x00"),
        ],
        "option pgsql-check" => vec![send(&postgres(line.word(3))), Step::Expect(b"R".to_vec())],
        "option mysql-check" => mysql(line, notes),
        "option smtpchk" => {
            notes.changed(line.number, "option smtpchk: the probe greets with QUIT, not with HELO or EHLO".to_owned());
            vec![
                Step::Expect(b"220".to_vec()),
                regex(r"^ .*\r\n|\n220 .*\r\n"),
                send(b"QUIT\r\n"),
                Step::Expect(b"221".to_vec()),
            ]
        }
        _ => return (Check::Tcp, None),
    };
    (Check::Script(steps), None)
}

/// A start-up message of PostgreSQL for this user, as HAProxy sends it.
fn postgres(user: &str) -> Vec<u8> {
    let body = [&b"\x00\x03\x00\x00user\0"[..], user.as_bytes(), b"\0\0"].concat();
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &body].concat()
}

/// The greeting of a MySQL, and a login without a password where the line names a user.
fn mysql(line: &Line, notes: &mut Notes) -> Vec<Step> {
    let regex = |pattern: &str| Step::ExpectRegex(pattern.to_owned());
    let user = line.from(2).skip_while(|word| *word != "user").nth(1).filter(|user| user.len() <= 32);
    let Some(user) = user else {
        return vec![regex(r"(?s)^...\x00\x0a")];
    };
    notes.changed(line.number, "option mysql-check: the login names the plugin mysql_native_password".to_owned());
    let body =
        [&b"\x00\x82\x08\x00\x00\x00\x00\x01\x21"[..], &[0; 23], user.as_bytes(), b"\0\0mysql_native_password\0"]
            .concat();
    let length = u8::try_from(body.len()).unwrap_or(u8::MAX);
    vec![
        regex(r"(?s)^...\x00\x0a.*_password\x00"),
        Step::Send([&[length, 0, 0, 1][..], &body].concat()),
        regex(r"(?s)^...\x02\x00"),
        Step::Send(b"\x01\x00\x00\x00\x01".to_vec()),
    ]
}

/// `tcp-check` rules.
fn script(rules: &[Line], notes: &mut Notes) -> (Check, Option<u64>) {
    let (mut steps, mut port, mut connects) = (Vec::new(), None, 0);
    for line in rules.iter().filter(|line| line.word(0) == "tcp-check") {
        let wrong = |notes: &mut Notes, why: &str| notes.refused(line.number, format!("{}: {why}", line.shown()));
        if is_unknown(line, notes) {
            continue;
        }
        match line.word(1) {
            "connect" => {
                connects += 1;
                let own = connect(line, notes);
                if connects > 1 || (own.is_some() && !steps.is_empty()) {
                    wrong(notes, "a script has one connection");
                }
                port = port.or(own);
            }
            "send" => steps.push(Step::Send(line.words.get(2).map(|word| word.bytes.clone()).unwrap_or_default())),
            "send-binary" => match hex(line.word(2)) {
                Some(bytes) => steps.push(Step::Send(bytes)),
                None => wrong(notes, "expected hexadecimal digits"),
            },
            "expect" => match expectation(line) {
                Ok(pattern) => steps.push(Step::ExpectRegex(pattern)),
                Err(why) => wrong(notes, &why),
            },
            _ => {}
        }
    }
    let pairs = steps.windows(2).find(|pair| matches!(pair, [Step::ExpectRegex(_), Step::ExpectRegex(_)]));
    if let (Some(_), Some(line)) = (pairs, rules.iter().rfind(|line| line.word(1) == "expect")) {
        notes.changed(
            line.number,
            "tcp-check expect: a step looks at what the steps before it have left, so they stand in the order of the answer".to_owned(),
        );
    }
    let check = if steps.is_empty() { Check::Tcp } else { Check::Script(steps) };
    (check, port)
}

/// The port of a `connect` rule. Options that tcplb lacks are reported.
fn connect(line: &Line, notes: &mut Notes) -> Option<u64> {
    let (mut port, mut at) = (None, 2);
    while at < line.words.len() {
        let (name, value) = (line.word(at), line.word(at + 1));
        at += 1;
        match name {
            "default" | "linger" => {}
            "port" => {
                port = value.parse().ok().filter(|port| (1..=65535).contains(port));
                if port.is_none() {
                    notes.refused(line.number, format!("{}: expected a port, got `{value}`", line.shown()));
                }
                at += 1;
            }
            "comment" | "proto" | "alpn" | "sni" => at += 1,
            "send-proxy" => notes.dropped(
                line.number,
                "send-proxy: a probe begins with a PROXY header where the backend expects one".to_owned(),
            ),
            _ => {
                notes.refused(line.number, format!("{}: tcplb has no `{name}` of a probe", line.shown()));
                return port;
            }
        }
    }
    port
}

/// Options of `expect` that take a value and only say what is reported.
const REPORTS: [&str; 8] =
    ["comment", "ok-status", "error-status", "tout-status", "on-success", "on-error", "status-code", "min-recv"];

/// The match of an `expect` rule: whether it is negated, its kind, its pattern.
fn matched(line: &Line) -> (bool, &str, &str) {
    let (mut negated, mut at) = (false, 2);
    loop {
        let word = line.word(at);
        if REPORTS.contains(&word) {
            at += 2;
        } else if let Some(rest) = word.strip_prefix('!') {
            negated = !negated;
            if !rest.is_empty() {
                return (negated, rest, line.word(at + 1));
            }
            at += 1;
        } else {
            return (negated, word, line.word(at + 1));
        }
    }
}

/// The regular expression of a `tcp-check expect` rule.
fn expectation(line: &Line) -> Result<String, String> {
    let (negated, kind, pattern) = matched(line);
    if negated {
        return Err("a step expects the right answer, not the absence of a wrong one".to_owned());
    }
    let text = match kind {
        "string" => regex::escape(pattern),
        "rstring" => pattern.to_owned(),
        "binary" => {
            let bytes = hex(pattern).ok_or("expected hexadecimal digits")?;
            bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
        }
        kind => return Err(format!("a step has no `{kind}`")),
    };
    Pattern::new(&text).map(|_| text)
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().collect();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let good = digits.len().is_multiple_of(2) && digits.iter().all(u8::is_ascii_hexdigit);
    if good { digits.chunks(2).map(pair).collect() } else { None }
}

/// The codes that HAProxy takes for a success without a rule.
const SUCCESS: &str = "200-399";

/// What a probe by HTTP asks for.
struct Request<'a> {
    method: &'a str,
    path: &'a str,
    host: Option<String>,
}

impl<'a> Request<'a> {
    /// The request of `option httpchk`.
    fn new(line: &'a Line) -> Request<'a> {
        let words: Vec<&str> = line.from(2).collect();
        let (method, path, version) = match words[..] {
            [] => ("OPTIONS", "/", ""),
            [path] => ("OPTIONS", path, ""),
            [method, path] => (method, path, ""),
            [method, path, version, ..] => (method, path, version),
        };
        // Older files hide the header in the version.
        let hidden = version.lines().find_map(|line| line.strip_prefix("Host:").or_else(|| line.strip_prefix("host:")));
        Request { method, path, host: hidden.map(|host| host.trim().to_owned()) }
    }

    /// Changes it by a rule `http-check send`.
    fn change(&mut self, rule: &'a Line, notes: &mut Notes) -> Result<(), String> {
        let mut at = 2;
        while at < rule.words.len() {
            let (name, value) = (rule.word(at), rule.word(at + 1));
            at += 2;
            match name {
                "meth" => self.method = value,
                "uri" => self.path = value,
                "ver" | "comment" => {}
                "hdr" => {
                    let content = rule.word(at);
                    at += 1;
                    if value.eq_ignore_ascii_case("host") {
                        self.host = Some(content.to_owned());
                    } else {
                        notes.dropped(rule.number, format!("http-check send hdr {value}: a probe sends only Host"));
                    }
                }
                _ => return Err(format!("a probe has no `{name}`")),
            }
        }
        Ok(())
    }
}

/// `option httpchk` and the rules of `http-check`.
fn http(line: &Line, rules: &[Line], notes: &mut Notes) -> (Check, Option<u64>) {
    let mut request = Request::new(line);
    let (mut expect, mut port) = (vec![SUCCESS.to_owned()], None);
    for rule in rules.iter().filter(|rule| rule.word(0) == "http-check") {
        if is_unknown(rule, notes) {
            continue;
        }
        let done = match rule.word(1) {
            "connect" => {
                port = connect(rule, notes).or(port);
                Ok(())
            }
            "expect" => statuses(rule).map(|codes| expect = codes),
            "send" => request.change(rule, notes),
            _ => Ok(()),
        };
        if let Err(why) = done {
            notes.refused(rule.number, format!("{}: {why}", rule.shown()));
        }
    }
    let Request { method, path, mut host } = request;
    if method != "GET" {
        notes.changed(line.number, format!("option httpchk: the method is GET, not {method}"));
    }
    let visible = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !path.starts_with('/') || !visible(path) {
        notes.refused(line.number, format!("option httpchk: expected a path, got `{path}`"));
        return (Check::Tcp, port);
    }
    if let Some(bad) = host.take_if(|host| !visible(host)) {
        notes.refused(line.number, format!("option httpchk: expected a host, got `{bad}`"));
    }
    (Check::Http { path: path.to_owned(), host, expect_status: expect }, port)
}

/// The codes of an `http-check expect` rule, as ranges.
fn statuses(rule: &Line) -> Result<Vec<String>, String> {
    let (negated, kind, pattern) = matched(rule);
    let listed = |code: u16| {
        pattern.split([',', ' ']).any(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            first.parse::<u16>().is_ok_and(|first| first <= code) && last.parse::<u16>().is_ok_and(|last| code <= last)
        })
    };
    let fits: Box<dyn Fn(u16) -> bool> = match kind {
        "status" => Box::new(listed),
        "rstatus" => {
            let regex = Regex::new(pattern).map_err(|_| format!("expected a regular expression, got `{pattern}`"))?;
            Box::new(move |code| regex.is_match(&code.to_string()))
        }
        kind => return Err(format!("a probe looks at the status only, not at a `{kind}`")),
    };
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for code in (100..=599).filter(|code| fits(*code) != negated) {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == code => *last = code,
            _ => ranges.push((code, code)),
        }
    }
    if ranges.is_empty() {
        return Err("no status from 100 to 599 fits".to_owned());
    }
    let range = |(first, last)| if first == last { format!("{first}") } else { format!("{first}-{last}") };
    Ok(ranges.into_iter().map(range).collect())
}

#[cfg(test)]
mod tests {
    use super::super::words::lines;
    use super::*;

    fn of(text: &str) -> (Check, Option<u64>, Vec<String>) {
        let mut proxy = Proxy::default();
        let mut notes = Notes::default();
        for line in lines(text).unwrap() {
            proxy.read(&line, &mut notes);
        }
        let (check, port) = check(&proxy, &mut notes);
        (check, port, notes.sorted().iter().map(ToString::to_string).collect())
    }

    fn http_of(path: &str, host: Option<&str>, codes: &[&str]) -> Check {
        let expect_status = codes.iter().map(|code| (*code).to_owned()).collect();
        Check::Http { path: path.to_owned(), host: host.map(str::to_owned), expect_status }
    }

    #[test]
    fn checks_by_http() {
        for (text, check, port) in [
            ("option httpchk", http_of("/", None, &["200-399"]), None),
            ("option httpchk /up", http_of("/up", None, &["200-399"]), None),
            (r"option httpchk GET /up HTTP/1.1\r\nHost:\ web", http_of("/up", Some("web"), &["200-399"]), None),
            (
                "option httpchk\nhttp-check connect port 8008\nhttp-check send meth GET uri /primary hdr Host db\nhttp-check expect status 200",
                http_of("/primary", Some("db"), &["200"]),
                Some(8008),
            ),
            ("option httpchk GET /\nhttp-check expect rstatus ^2..|404", http_of("/", None, &["200-299", "404"]), None),
            ("option httpchk GET /\nhttp-check expect ! status 500-599", http_of("/", None, &["100-499"]), None),
        ] {
            let (found, at, _) = of(text);
            assert_eq!((found, at), (check, port), "{text}");
        }
        assert_eq!(of("option httpchk GET /a").2, Vec::<String>::new());
        assert_eq!(of("option httpchk HEAD /a").2, ["1: changed: option httpchk: the method is GET, not HEAD"]);
        for lost in ["expect string ok", "connect ssl", "send meth GET uri / body x"] {
            let (.., notes) = of(&format!("option httpchk GET /\nhttp-check {lost}"));
            assert!(notes.iter().any(|note| note.starts_with("2: error: ")), "{lost}: {notes:?}");
        }
    }

    #[test]
    fn checks_by_script() {
        let regex = |text: &str| Step::ExpectRegex(text.to_owned());
        let (check, _, notes) =
            of("option tcp-check\ntcp-check connect\ntcp-check send PING\\r\\n\ntcp-check expect string +PONG");
        assert_eq!(check, Check::Script(vec![Step::Send(b"PING\r\n".to_vec()), regex(r"\+PONG")]));
        assert_eq!(notes, Vec::<String>::new());
        let (check, ..) = of(
            "option tcp-check\ntcp-check send-binary 50494e47\ntcp-check expect comment x binary 2b\ntcp-check expect rstring ^a|b",
        );
        assert_eq!(check, Check::Script(vec![Step::Send(b"PING".to_vec()), regex(r"\x2b"), regex("^a|b")]));
        assert_eq!(of("option tcp-check").0, Check::Tcp);
        for lost in ["expect ! string x", "expect rstring a$", "send-lf a", "connect ssl", "send-binary 0"] {
            let (.., notes) = of(&format!("option tcp-check\ntcp-check {lost}"));
            assert!(notes.iter().any(|note| note.starts_with("2: error: ")), "{lost}: {notes:?}");
        }
    }

    /// The login of docs/health.md.
    #[test]
    fn logins_are_as_long_as_they_say() {
        let (check, ..) = of("option mysql-check user probe");
        let Check::Script(steps) = check else { panic!("{check:?}") };
        let Step::Send(bytes) = &steps[1] else { panic!("{steps:?}") };
        assert_eq!((bytes[0], bytes.len()), (0x3d, 4 + 0x3d));
        assert_eq!(postgres("bob"), b"\0\0\0\x12\0\x03\0\0user\0bob\0\0");
        for text in [
            "option redis-check",
            "option ldap-check",
            "option smtpchk",
            "option mysql-check",
            "option pgsql-check user a",
        ] {
            let (check, _, notes) = of(text);
            let Check::Script(steps) = check else { panic!("{text}") };
            assert!(!notes.iter().any(|note| note.contains("error")), "{text}: {notes:?}");
            for step in steps {
                if let Step::ExpectRegex(pattern) = step {
                    Pattern::new(&pattern).unwrap();
                }
            }
        }
        for text in ["option external-check", "option spop-check", "option ssl-hello-chk"] {
            assert!(of(text).2[0].starts_with("1: error: "), "{text}");
        }
    }
}
