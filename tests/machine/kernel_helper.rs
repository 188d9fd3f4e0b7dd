//! The helper process of the kernel engine, and `tcplb kernel flush`: what they may do, and what they refuse. The tests speak to
//! the helper as the balancer does.

use crate::lab::Network;
use std::fs;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tcplb::handover::Channel;
use testkit::{PATIENCE, Process, eventually, need, tcplb};

/// A table as tcplb makes one, as far as its owner is seen.
const OURS: &str = "add table inet tcplb\nadd set inet tcplb state { type mark; }\n\
                    add element inet tcplb state { 0 comment \"tcplb 1\" }\n";

/// What others have: a table, and connections with another mark and with none.
const OTHERS: &str = "add table inet other\nadd set inet other some { type ipv4_addr; }\n\
                      add element inet other some { 192.0.2.1 }\n\
                      add chain inet other in { type filter hook input priority 0; }\n\
                      add rule inet other in tcp dport 22 accept\n";

/// As root without the capability, which no program that it starts can get.
const WITHOUT: [&str; 3] = ["setpriv", "--bounding-set", "-net_admin"];

/// Starts a program where there is no nft.
const WITHOUT_NFT: [&str; 6] = ["unshare", "--mount", "sh", "-c", HIDE, "sh"];

const HIDE: &str = "for nft in /usr/sbin/nft /sbin/nft /usr/bin/nft /bin/nft; do \
                    if [ -e $nft ]; then mount --bind /dev/null $nft; fi; done; exec \"$@\"";

/// As an unprivileged user with the capability, as a service has it.
const AMBIENT: [&str; 7] = [
    "setpriv",
    "--reuid=nobody",
    "--regid=nogroup",
    "--clear-groups",
    "--inh-caps=+net_admin",
    "--ambient-caps=+net_admin",
    "--bounding-set=-all,+net_admin",
];

/// A machine with nft and conntrack, or `None` where that is not possible.
fn machine() -> Option<Network> {
    need("nft")?;
    need("conntrack")?;
    need("setpriv")?;
    Network::new()
}

/// The command, started by `wrapper`.
fn wrapped(wrapper: &[&str], arguments: &[&str]) -> Command {
    let asked = tcplb(arguments);
    let Some((program, rest)) = wrapper.split_first() else { return asked };
    let mut command = Command::new(program);
    command.args(rest).arg(asked.get_program()).args(asked.get_args());
    command
}

fn said(command: &mut Command) -> (bool, String) {
    let output = command.output().expect("run it");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Runs a script of nft.
fn nft(script: &str) {
    let (done, said) = said(Command::new("nft").arg(script));
    assert!(done, "{script}: {said}");
}

fn rules() -> String {
    said(Command::new("nft").args(["-a", "list", "ruleset"])).1
}

/// Puts a connection with this mark into the kernel's table.
fn connection(port: &str, mark: &str) {
    let arguments = ["-I", "-p", "tcp", "-s", "10.0.0.1", "-d", "10.0.0.2", "--sport", port, "--dport", "80"];
    let more = ["--state", "ESTABLISHED", "-u", "ASSURED", "-t", "1000", "-m", mark];
    let (done, said) = said(Command::new("conntrack").args(arguments).args(more));
    assert!(done, "{said}");
}

/// The ports of clients that the kernel's table has.
fn connections() -> Vec<String> {
    let listed = said(Command::new("conntrack").arg("-L")).1;
    let ports = listed.lines().filter_map(|line| line.split_once(" sport=")?.1.split(' ').next());
    let mut ports: Vec<String> = ports.map(str::to_owned).collect();
    ports.sort();
    ports
}

#[test]
fn a_flush_removes_the_own_table_and_its_connections_and_nothing_else() {
    let Some(machine) = machine() else { return };
    machine.inside(|| {
        nft(OTHERS);
        let before = rules();
        nft(OURS);
        for (port, mark) in [("1", "0x74000001"), ("2", "0x74ffffff"), ("3", "0x75000001"), ("4", "0")] {
            connection(port, mark);
        }
        let (done, text) = said(&mut tcplb(&["kernel", "flush"]));
        assert_eq!((done, text.trim()), (true, "removed the table `inet tcplb` and 2 connections"));
        assert_eq!((rules(), connections()), (before.clone(), vec!["3".to_owned(), "4".to_owned()]));
        let (done, text) = said(&mut tcplb(&["kernel", "flush"]));
        assert_eq!((done, text.trim()), (true, "there is no table `inet tcplb`, and no connection of it"));
        // A table of another release is ours, too.
        nft(&OURS.replace("tcplb 1", "tcplb 99"));
        let (done, text) = said(&mut tcplb(&["kernel", "flush"]));
        assert_eq!((done, text.trim()), (true, "removed the table `inet tcplb` and 0 connections"));
        assert_eq!(rules(), before);
    });
}

#[test]
fn a_flush_that_may_not_or_can_not_is_one_clear_error_and_changes_nothing() {
    let Some(machine) = machine() else { return };
    machine.inside(|| {
        nft(OURS);
        connection("1", "0x74000001");
        let before = rules();
        for (wrapper, want) in
            [(&WITHOUT[..], "needs CAP_NET_ADMIN, which root:root lacks"), (&WITHOUT_NFT, "needs nft")]
        {
            let (done, text) = said(&mut wrapped(wrapper, &["kernel", "flush"]));
            assert!(!done && text.lines().count() == 1 && text.contains(want), "{text}");
        }
        assert_eq!((rules(), connections()), (before, vec!["1".to_owned()]));
        // One of another program: its set of this name says nothing of tcplb.
        for foreign in ["", "add set inet tcplb state { type mark; }\n"] {
            nft("delete table inet tcplb");
            nft(&format!("add table inet tcplb\n{foreign}"));
            let before = rules();
            let (done, text) = said(&mut tcplb(&["kernel", "flush"]));
            assert!(!done && text.lines().count() == 1 && text.contains("tcplb did not make it"), "{text}");
            assert_eq!((rules(), connections()), (before, vec!["1".to_owned()]));
        }
    });
}

/// A helper, with the balancer's ends of its channels.
struct Helper {
    process: Process,
    tables: Channel,
    entries: Channel,
}

impl Helper {
    fn start(wrapper: &[&str], arguments: &[&str]) -> Helper {
        let (tables, theirs) = Channel::pair().expect("a channel");
        let (entries, their_second) = Channel::pair().expect("a channel");
        let mut command = wrapped(wrapper, &[&["kernel-helper"], arguments].concat());
        let process = Process::spawn_with_input(&mut command, Stdio::from(theirs.into_fd()));
        tables.send(b"entries", &[their_second.as_fd()], soon()).expect("send");
        Helper { process, tables, entries }
    }

    /// Asks, and waits for the answer: each in one short message.
    fn ask(channel: &Channel, request: &str) -> String {
        channel.send(format!(".{request}").as_bytes(), &[], soon()).expect("send");
        Helper::heard(channel)
    }

    fn heard(channel: &Channel) -> String {
        let bytes = channel.receive(soon()).expect("receive").expect("an answer").bytes;
        String::from_utf8(bytes).expect("UTF-8").strip_prefix('.').expect("a last message").to_owned()
    }

    /// A line of its status in /proc.
    fn status(&self, key: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.pid())).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{key}:")));
        line.expect("the line").split_whitespace().next().unwrap_or_default().to_owned()
    }
}

fn soon() -> Instant {
    Instant::now() + PATIENCE.max(Duration::from_secs(30))
}

const READY: &str = r#"{"Ok":null}"#;

#[test]
fn the_helper_keeps_one_capability_and_ends_with_the_balancer() {
    let Some(machine) = machine() else { return };
    machine.inside(|| {
        const NET_ADMIN: &str = "0000000000001000";
        let (nobody, root) = ("65534", "0");
        for (wrapper, arguments, user) in
            [(&[][..], &[][..], root), (&[], &["--user=nobody"], nobody), (&AMBIENT, &[], nobody)]
        {
            let mut helper = Helper::start(wrapper, arguments);
            assert_eq!(Helper::heard(&helper.tables), READY, "{}", helper.process.output());
            for set in ["CapPrm", "CapEff", "CapInh", "CapAmb", "CapBnd"] {
                assert_eq!(helper.status(set), NET_ADMIN, "{set} {wrapper:?} {arguments:?}");
            }
            assert_eq!((helper.status("Uid"), helper.status("NoNewPrivs")), (user.to_owned(), "1".to_owned()));
            // The program that it starts has the capability.
            let answer = Helper::ask(&helper.tables, r#"{"Apply":["Create"]}"#);
            assert!(answer.contains("Applied"), "{answer}");
            assert!(rules().contains("owned by tcplb"));
            nft("delete table inet tcplb");
            let answer = Helper::ask(&helper.entries, r#""Figures""#);
            assert!(answer.contains("table_max"), "{answer}");
            drop((helper.tables, helper.entries));
            assert!(helper.process.wait_exit().success());
        }
    });
}

#[test]
fn the_helper_touches_nothing_but_the_own_table_and_connections_with_own_marks() {
    let Some(machine) = machine() else { return };
    machine.inside(|| {
        nft(OTHERS);
        let before = rules();
        let mut helper = Helper::start(&[], &["--user=nobody"]);
        assert_eq!(Helper::heard(&helper.tables), READY);
        // Without a table of ours it changes none.
        let answer = Helper::ask(&helper.tables, r#"{"Apply":[{"Forget":"Format"}]}"#);
        assert!(answer.contains("Refused"), "{answer}");
        nft("add table inet tcplb");
        let answer = Helper::ask(&helper.tables, r#"{"Apply":["Create"]}"#);
        assert!(answer.contains("File exists"), "{answer}");
        let answer = Helper::ask(&helper.tables, r#""Read""#);
        assert!(answer.contains("Foreign"), "{answer}");
        nft("delete table inet tcplb");
        assert_eq!(rules(), before);
        // A filter that selects all selects those with a mark of ours.
        connection("1", "0x74000001");
        connection("2", "0x75000001");
        let filter =
            r#"{"marks":null,"entries":null,"to":null,"client":null,"client_port":null,"id":null,"states":"Any"}"#;
        let answer = Helper::ask(&helper.entries, &format!(r#"{{"List":[{filter},10]}}"#));
        assert!(answer.contains("10.0.0.1:1\"") && !answer.contains("10.0.0.1:2\""), "{answer}");
        let answer = Helper::ask(&helper.entries, &format!(r#"{{"Delete":{filter}}}"#));
        assert_eq!(answer, r#"{"Ok":{"Deleted":[1,false]}}"#);
        assert_eq!(connections(), ["2"]);
        let of_others = filter.replace("\"marks\":null", "\"marks\":[1962934273]");
        helper.entries.send(format!(r#".{{"Delete":{of_others}}}"#).as_bytes(), &[], soon()).expect("send");
        // What is no request ends it.
        helper.tables.send(b".{\"Apply\":[{\"Run\":\"flush ruleset\"}]}", &[], soon()).expect("send");
        helper.process.wait_exit();
        assert_eq!((rules(), connections()), (before, vec!["2".to_owned()]));
    });
}

#[test]
fn connections_are_counted_by_backend_from_dumps_and_ends() {
    let Some(machine) = machine() else { return };
    machine.inside(|| {
        let helper = Helper::start(&[], &[]);
        assert_eq!(Helper::heard(&helper.tables), READY);
        let figures = || {
            let answer = Helper::ask(&helper.entries, r#""Figures""#);
            let value: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
            value["Ok"]["Figures"].clone()
        };
        connection("1", "0x74000001");
        let base = figures();
        assert_eq!((&base["entries"], &base["counts"][0]["active"]), (&1.into(), &1.into()), "{base}");
        assert_eq!(base["counts"][0]["opened"], 0, "it was there before");
        connection("2", "0x74000001");
        connection("3", "0x75000001");
        let next = figures();
        assert_eq!((&next["entries"], &next["table_entries"]), (&2.into(), &3.into()), "{next}");
        let count = &next["counts"][0];
        assert_eq!((&count["mark"], &count["to"]), (&0x7400_0001.into(), &"10.0.0.2:80".into()), "{next}");
        assert_eq!((&count["active"], &count["opened"]), (&2.into(), &1.into()), "{next}");
        // It comes and goes between two dumps.
        connection("4", "0x74000002");
        for port in ["1", "4"] {
            let (done, said) = said(Command::new("conntrack").args(["-D", "-p", "tcp", "--sport", port]));
            assert!(done, "{said}");
        }
        let mut opened = 0;
        eventually("its end is counted", || {
            let last = figures();
            let of = |mark: u32| last["counts"].as_array()?.iter().find(|count| count["mark"] == mark).cloned();
            opened += of(0x7400_0002).map_or(0, |count| count["opened"].as_u64().unwrap_or(0));
            opened == 1 && of(0x7400_0001).is_some_and(|count| count["active"] == 1)
        });
    });
}

#[test]
fn what_the_helper_lacks_is_its_first_answer() {
    let Some(machine) = machine() else { return };
    machine.inside(|| {
        let first = |wrapper: &[&str]| {
            let mut helper = Helper::start(wrapper, &[]);
            let answer = Helper::heard(&helper.tables);
            helper.process.wait_exit();
            answer
        };
        assert_eq!(first(&WITHOUT), r#"{"Err":{"Privilege":"root:root"}}"#);
        assert_eq!(first(&WITHOUT_NFT), r#"{"Err":"NoNft"}"#);
        assert_eq!(rules(), "");
        nft("add table inet tcplb");
        assert_eq!(first(&[]), r#"{"Err":"Foreign"}"#);
        nft("add set inet tcplb state { type mark; }");
        assert_eq!(first(&[]), r#"{"Err":"Foreign"}"#);
    });
}
