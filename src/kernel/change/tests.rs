//! Small tables by hand.

use super::*;
use crate::kernel::table::{Chain, Limits, Number, Pick, SourceChain};
use std::collections::BTreeMap;
use std::sync::Arc;

fn number(number: u32) -> Number {
    Number::new(number).unwrap()
}

fn mark(number: u32) -> Mark {
    Mark::of_value(0x7400_0000 | number).unwrap()
}

/// A table with a listener on 192.0.2.1:80, and a pool of two backends.
fn table(entries: &[u32]) -> Table {
    let pool = PoolId { pool: number(1), family: Family::V4 };
    let id = ChainId { listener: number(1), family: Family::V4 };
    let target = |host: u8, name: &str| Target {
        address: ([10, 0, 0, host], 80).into(),
        label: Label::of_backend("web", name),
        source: None,
    };
    let entries: Arc<[Mark]> = entries.iter().map(|entry| mark(*entry)).collect();
    let choice = ChoiceId { pool, size: entries.len() as u32 };
    let rules = Rules { denied: None, limits: Limits::default(), pick: Pick::Turn, choice };
    Table {
        backends: BTreeMap::from([(mark(1), target(1, "a")), (mark(2), target(2, "b"))]),
        choices: BTreeMap::from([(pool, Choice::new(Label::of_name("web"), entries))]),
        sources: BTreeMap::new(),
        chains: BTreeMap::from([(id, Chain { label: Label::of_name("front"), rules, denied: None })]),
        binds: BTreeMap::from([(Bind::Address(([192, 0, 2, 1], 80).into()), id)]),
    }
}

fn pool() -> PoolId {
    PoolId { pool: number(1), family: Family::V4 }
}

#[test]
fn equal_tables_differ_by_nothing() {
    let table = table(&[1, 2, 1]);
    assert_eq!(difference(&table.installed(), &table), []);
}

#[test]
fn the_first_table_is_created_before_anything_refers_to_it() {
    let changes = difference(&Installed::default(), &table(&[1, 2, 1]));
    let position = |what: &dyn Fn(&Change) -> bool| changes.iter().position(what).unwrap();
    assert_eq!(position(&|change| *change == Change::Create), 0);
    let map = position(&|change| matches!(change, Change::AddChoice(_)));
    let rules = position(&|change| matches!(change, Change::WriteChain(..)));
    let bind = position(&|change| matches!(change, Change::AddBind(..)));
    assert!(map < rules && rules < bind, "{changes:?}");
}

#[test]
fn an_entry_that_changes_is_one_change_and_a_note_of_the_digest() {
    let (before, after) = (table(&[1, 2, 1]), table(&[1, 1, 1]));
    let changes = difference(&before.installed(), &after);
    let id = ChoiceId { pool: pool(), size: 3 };
    let text = Label::try_from(after.choices[&pool()].installed().text()).unwrap();
    let note = [Change::Forget(StateKey::Choice(pool())), Change::Note(StateKey::Choice(pool()), text)];
    assert_eq!(changes[..1], [Change::SetEntries(id, vec![(1, mark(1))])]);
    assert_eq!(changes[1..], note);
    let unknown = InstalledChoice { entries: None, ..before.choices[&pool()].installed() };
    let installed = Installed { choices: BTreeMap::from([(pool(), unknown)]), ..before.installed() };
    let changes = difference(&installed, &after);
    let fill = Change::Fill(id, 0, vec![mark(1); 3]);
    assert_eq!(changes[..2], [Change::ClearChoice(id), fill], "a map with unknown entries is filled again");
}

#[test]
fn a_map_of_another_size_is_filled_before_the_rules_use_it_and_the_old_one_goes_last() {
    let (before, after) = (table(&[1, 2, 1]), table(&[1, 2, 1, 2]));
    let changes = difference(&before.installed(), &after);
    let id = |size| ChoiceId { pool: pool(), size };
    assert_eq!(changes.first(), Some(&Change::AddChoice(id(4))));
    assert_eq!(changes.last(), Some(&Change::RemoveChoice(id(3))));
    assert!(changes.iter().any(|change| matches!(change, Change::WriteChain(_, rules) if rules.choice == id(4))));
}

#[test]
fn what_leaves_is_unreferenced_first() {
    let mut before = table(&[1, 2, 1]);
    let chain = before.chains.values_mut().next().unwrap();
    chain.rules.limits = Limits { connections: Some(5), rate: None };
    for target in before.backends.values_mut() {
        target.source = Some(number(1));
    }
    let source = SourceChain { label: Label::of_name("web"), addresses: vec!["10.0.0.9".parse().unwrap()] };
    before.sources.insert(pool(), source);
    let changes = difference(&before.installed(), &Table::default());
    let position = |what: &dyn Fn(&Change) -> bool| changes.iter().position(what).unwrap();
    let unbound = position(&|change| matches!(change, Change::RemoveBind(_)));
    let cleared = position(&|change| matches!(change, Change::ClearChain(_)));
    let no_mark = changes.iter().rposition(|change| matches!(change, Change::RemoveBackend { .. })).unwrap();
    let chain = position(&|change| matches!(change, Change::RemoveChain(_)));
    let map = position(&|change| matches!(change, Change::RemoveChoice(_)));
    let set = position(&|change| matches!(change, Change::RemoveLimit(..)));
    let source = position(&|change| matches!(change, Change::RemoveSource(_)));
    assert!(cleared < unbound && unbound < chain && cleared < map && cleared < set && no_mark < source, "{changes:?}");
    assert_eq!(changes.len(), 11, "{changes:?}");
}
