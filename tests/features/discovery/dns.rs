//! Backends from a real name server: what answers change, and what no error removes.

use super::source::Source;
use parking_lot::Mutex;
use rustix::process::Signal;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use tcplb::discovery::Value;
use testkit::{Knot, eventually, let_pass};

type Setting = (&'static str, Value);

fn text(key: &'static str, text: &str) -> Setting {
    (key, Value::Text(text.to_owned()))
}

fn time(key: &'static str, millis: u64) -> Setting {
    (key, Value::Time(Duration::from_millis(millis)))
}

fn resolvers(knot: &Knot) -> Setting {
    ("resolvers", Value::Texts(vec![knot.at.to_string()]))
}

/// Follows the addresses of a name, ten times a second.
#[track_caller]
fn follow(knot: &Knot, name: &str) -> Source {
    Source::start("dns", &[text("name", name), resolvers(knot), time("min_interval", 100)])
}

#[test]
fn addresses_become_backends_and_answers_that_change_follow() {
    let Some(mut knot) = Knot::start("web A 10.0.0.1\nweb AAAA fd00::1\nold CNAME web") else { return };
    let mut source = Source::start("dns", &[text("name", "OLD.w.test:80"), resolvers(&knot)]);
    source.wait_for(&["10.0.0.1:80", "[fd00::1]:80"]);
    let found = source.found("[fd00::1]:80");
    assert_eq!((found.address.to_string().as_str(), found.weight, found.backup), ("[fd00::1]:80", None, None));
    knot.set("web A 10.0.0.1\nweb A 10.0.0.2\nold CNAME web");
    source.wait_for(&["10.0.0.1:80", "10.0.0.2:80"]);
    knot.set("new A 10.0.0.3\nold CNAME new");
    source.wait_for(&["10.0.0.3:80"]);
    assert!(source.standing().is_well());
    assert_eq!(source.standing().errors, 0);
}

#[test]
fn services_become_backends_with_weights_and_backups() {
    let records = "_pg._tcp SRV 10 5 5432 db1\n_pg._tcp SRV 10 0 5433 db1\n_pg._tcp SRV 20 7 5432 db2\n\
                   db1 A 10.0.0.1\ndb2 A 10.0.0.2";
    let Some(mut knot) = Knot::start(records) else { return };
    let srv = text("srv", "_pg._tcp.w.test");
    let mut source = Source::start("dns", &[srv, resolvers(&knot), time("min_interval", 100)]);
    source.wait_for(&["db1.w.test:5432", "db1.w.test:5433", "db2.w.test:5432"]);
    let mut shown = |name: &str| {
        let found = source.found(name);
        format!("{} {:?} {:?}", found.address, found.weight, found.backup)
    };
    assert_eq!(shown("db1.w.test:5432"), "10.0.0.1:5432 Some(5) Some(false)");
    assert_eq!(shown("db1.w.test:5433"), "10.0.0.1:5433 Some(1) Some(false)");
    assert_eq!(shown("db2.w.test:5432"), "10.0.0.2:5432 Some(7) Some(true)");
    // db2 has no address any more: the backend stays as it was.
    knot.set("_pg._tcp SRV 10 9 5432 db1\n_pg._tcp SRV 20 7 5432 db2\n_pg._tcp SRV 30 7 5432 db3\ndb1 A 10.0.0.1");
    source.wait_for_error("db3.w.test has no address");
    eventually("the weight changes", || source.found("db1.w.test:5432").weight == Some(9));
    source.wait_for(&["db1.w.test:5432", "db2.w.test:5432"]);
    assert_eq!(source.found("db2.w.test:5432").address.to_string(), "10.0.0.2:5432");
    assert!(!source.standing().is_well());
    knot.set("_pg._tcp SRV 10 9 5432 db1\ndb1 A 10.0.0.1");
    source.wait_for(&["db1.w.test:5432"]);
    eventually("all is well", || source.standing().is_well());
}

#[test]
fn an_empty_answer_counts_only_if_on_empty_says_so() {
    let Some(mut knot) = Knot::start("web A 10.0.0.1") else { return };
    let settings = [text("name", "web.w.test:80"), resolvers(&knot), time("min_interval", 100)];
    let (mut keeping, mut clearing) = (Source::start("dns", &settings), Source::clearing("dns", &settings));
    keeping.wait_for(&["10.0.0.1:80"]);
    clearing.wait_for(&["10.0.0.1:80"]);
    // The name does not exist any more.
    knot.set("");
    clearing.wait_for(&[]);
    keeping.wait_for_an_answer();
    assert_eq!(keeping.names(), ["10.0.0.1:80"]);
    assert!(keeping.standing().is_well() && clearing.standing().is_well());
    // It exists, without an address.
    knot.set("web TXT none");
    clearing.wait_for_an_answer();
    assert!(clearing.names().is_empty());
    knot.set("web A 10.0.0.2");
    keeping.wait_for(&["10.0.0.2:80"]);
    clearing.wait_for(&["10.0.0.2:80"]);
}

#[test]
fn an_answer_that_udp_has_no_room_for_comes_whole() {
    let addresses = |count: usize| (1..=count).map(|n| format!("web A 10.0.{}.{}\n", n / 250, n % 250)).collect();
    let few: String = addresses(60);
    let many: String = addresses(3000);
    // 60 addresses need more than 512 bytes, and less than the 1232 that the query allows. The others need TCP.
    let Some(mut knot) = Knot::start(&few) else { return };
    let mut source = follow(&knot, "web.w.test:80");
    eventually("all 60 are there", || source.names().len() == 60);
    knot.set(&many);
    eventually("all 3000 are there", || source.names().len() == 3000);
    knot.set(&few);
    eventually("60 stay", || source.names().len() == 60);
    assert_eq!(source.standing().errors, 0);
}

#[test]
fn an_error_of_the_server_keeps_every_backend() {
    let Some(knot) = Knot::start("web A 10.0.0.1") else { return };
    for (name, code) in [("web.broken.test:80", "SERVFAIL"), ("web.other.test:80", "REFUSED")] {
        let source = Source::clearing("dns", &[text("name", name), resolvers(&knot)]);
        source.wait_for_error(&format!("name server {}: answered {code}", knot.at));
        let standing = source.standing();
        assert!(standing.failing && standing.last_success.is_none(), "{standing:?}");
    }
}

#[test]
fn a_server_that_is_gone_or_silent_keeps_every_backend_until_it_is_back() {
    let Some(mut knot) = Knot::start("web A 10.0.0.1") else { return };
    let settings = [text("name", "web.w.test:80"), resolvers(&knot), time("min_interval", 100)];
    let mut source = Source::clearing("dns", &settings);
    source.wait_for(&["10.0.0.1:80"]);
    knot.kill();
    source.wait_for_error(&format!("name server {}: connection refused", knot.at));
    assert_eq!(source.names(), ["10.0.0.1:80"]);
    knot.start_again("web A 10.0.0.2");
    source.wait_for(&["10.0.0.2:80"]);
    eventually("all is well", || source.standing().is_well());
    knot.signal(Signal::STOP);
    source.wait_for_error(&format!("name server {}: no answer", knot.at));
    assert_eq!(source.names(), ["10.0.0.2:80"]);
    knot.signal(Signal::CONT);
    source.wait_for_an_answer();
    eventually("all is well", || source.standing().is_well());
    assert_eq!(source.names(), ["10.0.0.2:80"]);
}

#[test]
fn a_resolver_that_fails_is_replaced_by_the_next_one() {
    let Some(knot) = Knot::start("web A 10.0.0.1") else { return };
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let both = Value::Texts(vec![silent.local_addr().unwrap().to_string(), knot.at.to_string()]);
    let mut source = Source::start("dns", &[text("name", "web.w.test:80"), ("resolvers", both)]);
    source.wait_for(&["10.0.0.1:80"]);
    assert_eq!(source.standing().errors, 0);
}

#[test]
fn min_interval_is_the_shortest_time_between_two_look_ups() {
    let Some(mut knot) = Knot::start("web A 10.0.0.1") else { return };
    let mut quick = follow(&knot, "web.w.test:80");
    let mut slow =
        Source::start("dns", &[text("name", "web.w.test:80"), resolvers(&knot), time("min_interval", 3_600_000)]);
    quick.wait_for(&["10.0.0.1:80"]);
    slow.wait_for(&["10.0.0.1:80"]);
    knot.set("web A 10.0.0.2");
    quick.wait_for(&["10.0.0.2:80"]);
    let_pass(Duration::from_secs(2));
    assert_eq!(slow.names(), ["10.0.0.1:80"]);
}

#[test]
fn max_interval_is_the_longest_time_between_two_look_ups() {
    let Some(mut knot) = Knot::start("web 3600 A 10.0.0.1") else { return };
    let mut source =
        Source::start("dns", &[text("name", "web.w.test:80"), resolvers(&knot), time("max_interval", 500)]);
    source.wait_for(&["10.0.0.1:80"]);
    knot.set("web 3600 A 10.0.0.2");
    source.wait_for(&["10.0.0.2:80"]);
}

/// A name server whose answers rotate: each has the next part of the addresses, as their last numbers. Without parts it fails.
struct Rotating {
    at: SocketAddr,
    parts: Arc<Mutex<Vec<Vec<u8>>>>,
    answers: Arc<AtomicUsize>,
}

impl Rotating {
    fn start(parts: &[&[u8]]) -> Rotating {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = socket.local_addr().unwrap();
        let rotating = Rotating { at, parts: Arc::default(), answers: Arc::default() };
        rotating.set(parts);
        let (parts, answers) = (rotating.parts.clone(), rotating.answers.clone());
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((count, from)) = socket.recv_from(&mut query) {
                let name = query[12..count].iter().position(|byte| *byte == 0).unwrap();
                let question = &query[12..12 + name + 5];
                let parts = parts.lock();
                let is_ipv6 = question[name + 2] == 28;
                let part = match parts.len() {
                    count @ 1.. if !is_ipv6 => &parts[answers.fetch_add(1, Ordering::SeqCst) % count][..],
                    _ => &[],
                };
                let code = if parts.is_empty() { 0x82 } else { 0x80 };
                let header = [&query[..2], &[0x81, code, 0, 1, 0, part.len() as u8, 0, 0, 0, 0]];
                let mut answer = [header.concat(), question.to_vec()].concat();
                for last in part {
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 10, 0, 0, *last]);
                }
                socket.send_to(&answer, from).unwrap();
            }
        });
        rotating
    }

    fn set(&self, parts: &[&[u8]]) {
        *self.parts.lock() = parts.iter().map(|part| part.to_vec()).collect();
    }

    /// Waits for so many further answers.
    #[track_caller]
    fn wait_for(&self, count: usize) {
        let before = self.answers.load(Ordering::SeqCst);
        eventually("there are further answers", || self.answers.load(Ordering::SeqCst) >= before + count);
    }
}

#[test]
fn backends_of_a_name_whose_answers_rotate_stay_and_fail_over_and_removal_are_at_once() {
    let server = Rotating::start(&[&[1, 2], &[2, 3], &[3, 1]]);
    let resolvers = ("resolvers", Value::Texts(vec![server.at.to_string()]));
    let mut source = Source::start("dns", &[text("name", "web.test:80"), resolvers, time("min_interval", 100)]);
    let all = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"];
    source.wait_for(&all);
    let settled = source.set();
    server.wait_for(9);
    server.set(&[&[1], &[2], &[3]]);
    server.wait_for(9);
    // An error is no answer: what the source knows outlasts it.
    server.set(&[]);
    source.wait_for_error("answered SERVFAIL");
    server.set(&[&[1], &[2], &[3]]);
    server.wait_for(9);
    assert!(Arc::ptr_eq(&settled, &source.set()), "{:?}", source.names());
    // Each is the only address from then on, however often.
    for (last, name) in [(8, "10.0.0.8:80"), (9, "10.0.0.9:80")].repeat(4) {
        server.set(&[&[last]]);
        source.wait_for(&[name]);
    }
    server.set(&[&[7, 9]]);
    source.wait_for(&["10.0.0.7:80", "10.0.0.9:80"]);
    server.set(&[&[7]]);
    server.wait_for(2);
    assert_eq!(source.names(), ["10.0.0.7:80"], "one answer is enough");
    assert!(source.standing().is_well());
}

/// A name server that knows one address of each family, for every name. A query for a family that fails is answered SERVFAIL.
fn two_families(fails: [Arc<AtomicBool>; 2]) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((count, from)) = socket.recv_from(&mut query) {
            let name = query[12..count].iter().position(|byte| *byte == 0).unwrap();
            let question = &query[12..12 + name + 5];
            let is_ipv6 = question[name + 2] == 28;
            let (address, fails) = match is_ipv6 {
                false => (vec![10, 0, 0, 1], &fails[0]),
                true => ([&[0xfd][..], &[0; 14], &[1]].concat(), &fails[1]),
            };
            let fails = fails.load(Ordering::SeqCst);
            let header = [&query[..2], &[0x81, if fails { 0x82 } else { 0x80 }, 0, 1, 0, u8::from(!fails), 0, 0, 0, 0]];
            let mut answer = [header.concat(), question.to_vec()].concat();
            if !fails {
                answer.extend([0xc0, 12, 0, question[name + 2], 0, 1, 0, 0, 0, 0, 0, address.len() as u8]);
                answer.extend(address);
            }
            socket.send_to(&answer, from).unwrap();
        }
    });
    at
}

#[test]
fn a_family_of_addresses_that_fails_keeps_its_backends_and_is_an_error() {
    let fails = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let at = two_families(fails.clone());
    let resolvers = ("resolvers", Value::Texts(vec![at.to_string()]));
    let mut source = Source::clearing("dns", &[text("name", "web.test:80"), resolvers, time("min_interval", 100)]);
    source.wait_for(&["10.0.0.1:80", "[fd00::1]:80"]);
    for (failing, family) in [(1, "IPv6"), (0, "IPv4")] {
        fails[1 - failing].store(false, Ordering::SeqCst);
        fails[failing].store(true, Ordering::SeqCst);
        source.wait_for_error(&format!("{family} addresses of web.test: name server {at}: answered SERVFAIL"));
        source.wait_for_an_answer();
        let standing = source.standing();
        assert!(!standing.is_well() && standing.misunderstood == 1, "{standing:?}");
        assert_eq!(source.names(), ["10.0.0.1:80", "[fd00::1]:80"]);
    }
    fails[0].store(false, Ordering::SeqCst);
    eventually("all is well", || source.standing().is_well());
}
