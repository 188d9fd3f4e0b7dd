//! Scripts and listings as nft 1.0.6 has them. tests/machine/kernel_table.rs gives all of them to nft itself.

use super::*;
use crate::kernel::table::Limits;

fn number(number: u32) -> Number {
    Number::new(number).unwrap()
}

fn mark(number: u32) -> Mark {
    Mark::of_value(0x7400_0000 | number).unwrap()
}

#[test]
fn elements_that_follow_each_other_join_one_command() {
    let pool = PoolId { pool: number(7), family: Family::V6 };
    let id = ChoiceId { pool, size: 5 };
    let target = |port| Target {
        address: (std::net::Ipv6Addr::LOCALHOST, port).into(),
        label: Label::of_backend("p", "b"),
        source: None,
    };
    let script = render(&[
        Change::AddBackend(mark(1), target(80)),
        Change::AddBackend(mark(2), Target { source: Some(number(7)), ..target(81) }),
        Change::SetEntries(id, vec![(3, mark(1)), (4, mark(2))]),
        Change::Fill(id, 1, vec![mark(2), mark(2)]),
        Change::RemoveBackend { mark: mark(9), family: Family::V4, source: false },
    ]);
    assert_eq!(
        script,
        "add element inet tcplb backends6 { 0x74000001 comment \"p/b\" : ::1 . 80, 0x74000002 comment \"p/b\" : ::1 . 81 }\n\
         add element inet tcplb sources { 0x74000002 : goto source_7_6 }\n\
         delete element inet tcplb choice_7_6_5 { 3, 4 }\n\
         add element inet tcplb choice_7_6_5 { 3 : 0x74000001, 4 : 0x74000002, 1 : 0x74000002, 2 : 0x74000002 }\n\
         delete element inet tcplb backends4 { 0x74000009 }\n"
    );
}

#[test]
fn rules_refuse_first_then_choose_and_then_translate() {
    let pool = PoolId { pool: number(2), family: Family::V6 };
    let id = ChainId { listener: number(1), family: Family::V6 };
    let limits = Limits { connections: Some(5), rate: Some(9) };
    let choice = ChoiceId { pool, size: 4099 };
    let all = Rules { denied: Some(Digest(1)), limits, pick: Pick::Source, choice };
    let chain = "add rule inet tcplb listener_1_6 ";
    assert_eq!(
        rules(id, &all).iter().map(|line| line.strip_prefix(chain).unwrap()).collect::<Vec<_>>(),
        [
            "ip6 saddr @denied_1_6_0000000000000001 reject with tcp reset",
            "add @connections_1_6_5 { ip6 saddr & ffff:ffff:ffff:ffff:: ct count over 5 } reject with tcp reset",
            "update @rate_1_6_9 { ip6 saddr & ffff:ffff:ffff:ffff:: limit rate over 9/second burst 9 packets } reject \
             with tcp reset",
            "ct mark set jhash ip6 saddr mod 4099 seed 0x7463706c",
            "ct mark set ct mark map @choice_2_6_4099",
            "meta l4proto tcp dnat ip6 to ct mark map @backends6",
        ]
    );
    let v4 = ChainId { family: Family::V4, ..id };
    let choice = ChoiceId { pool: PoolId { family: Family::V4, ..pool }, size: 7 };
    let plain = |pick| Rules { denied: None, limits: Limits::default(), pick, choice };
    let first = |pick| rules(v4, &plain(pick)).into_iter().next().unwrap();
    assert!(first(Pick::Turn).ends_with("listener_1_4 ct mark set numgen inc mod 7"));
    assert!(first(Pick::Connection).ends_with("ct mark set jhash ip saddr . tcp sport mod 7 seed 0x7463706c"));
}

/// What nft 1.0.6 lists, without its metainfo.
fn listings(state: &str) -> [String; 8] {
    let list = |kind: &str, name: &str, elements: &str| {
        format!(r#"{{"nftables": [{{"metainfo": {{}}}}, {{"{kind}": {{"name": "{name}"{elements}}}}}]}}"#)
    };
    [
        list("set", "state", &format!(r#", "elem": [{state}]"#)),
        list(
            "map",
            "backends4",
            r#", "elem": [[{"elem": {"val": 1946157057, "comment": "web/a b"}}, {"concat": ["10.0.0.1", 80]}]]"#,
        ),
        list(
            "map",
            "backends6",
            r#", "elem": [[{"elem": {"val": 1946157058, "comment": "web/c"}}, {"concat": ["fd00::1", 81]}]]"#,
        ),
        list("map", "sources", r#", "elem": [[1946157058, {"goto": {"target": "source_3_6"}}]]"#),
        list(
            "map",
            "listeners4",
            r#", "elem": [[{"concat": ["192.0.2.1", 80]}, {"goto": {"target": "listener_1_4"}}]]"#,
        ),
        list("map", "listeners6", ""),
        list("map", "wild4", ""),
        list("map", "wild6", r#", "elem": [[443, {"goto": {"target": "listener_2_6"}}]]"#),
    ]
}

#[test]
fn listings_are_read() {
    let state = r#"{"elem": {"val": 0, "comment": "tcplb 1"}}, {"elem": {"val": 536870914, "comment": "4099 00000000000000ff web"}}"#;
    let installed = read(&listings(state)).unwrap();
    let pool = PoolId { pool: number(1), family: Family::V4 };
    let choice = InstalledChoice { label: Label::of_name("web"), size: 4099, digest: Digest(255), entries: None };
    assert_eq!(installed.choices.into_iter().collect::<Vec<_>>(), [(pool, choice)]);
    let shown: Vec<String> = installed
        .backends
        .iter()
        .map(|(mark, target)| format!("{mark} {} {} {:?}", target.address, target.label, target.source.map(u32::from)))
        .collect();
    assert_eq!(shown, ["0x74000001 10.0.0.1:80 web/a b None", "0x74000002 [fd00::1]:81 web/c Some(3)"]);
    let chain = |listener, family| ChainId { listener: number(listener), family };
    assert_eq!(
        installed.binds.into_iter().collect::<Vec<_>>(),
        [
            (Bind::Address(([192, 0, 2, 1], 80).into()), chain(1, Family::V4)),
            (Bind::Port(Family::V6, 443), chain(2, Family::V6))
        ]
    );
}

#[test]
fn a_table_of_another_program_is_foreign_and_one_that_was_edited_is_damaged() {
    for state in ["", "1", r#"{"elem": {"val": 0, "comment": "mine"}}"#] {
        assert_eq!(read(&listings(state)), Err(ReadError::Foreign), "{state}");
    }
    let ours = r#"{"elem": {"val": 0, "comment": "tcplb 1"}}"#;
    let damaged = |listings: &[String]| match read(listings) {
        Err(ReadError::Damaged(what)) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(damaged(&listings(&ours.replace("tcplb 1", "tcplb 2"))), "its format is tcplb 2");
    assert_eq!(damaged(&listings(&format!("{ours}, 268435456"))), "state: 268435456");
    let mut edited = listings(ours);
    edited[1] = edited[1].replace("1946157057", "5");
    assert!(damaged(&edited).starts_with("backends4: [{"));
    edited[1] = "{".to_owned();
    assert!(damaged(&edited).starts_with("backends4: EOF"));
    edited[1] = edited[2].clone();
    assert_eq!(damaged(&edited), "backends4: not in its listing");
}
