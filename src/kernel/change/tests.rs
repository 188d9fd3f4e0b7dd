//! Small tables by hand.

use super::*;
use crate::kernel::table::{Chain, Limits, Number, Pick, SourceChain};
use std::collections::BTreeMap;

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
        backends: Arc::new(BTreeMap::from([(mark(1), target(1, "a")), (mark(2), target(2, "b"))])),
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
    assert!(difference(&table.installed(), &table).is_empty());
}

#[test]
fn the_first_table_is_created_before_anything_refers_to_it() {
    let changes = difference(&Installed::default(), &table(&[1, 2, 1])).changes();
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
    let changes = difference(&before.installed(), &after).changes();
    let id = ChoiceId { pool: pool(), size: 3 };
    let text = Label::try_from(after.choices[&pool()].installed().text()).unwrap();
    let note = [Change::Forget(StateKey::Choice(pool())), Change::Note(StateKey::Choice(pool()), text)];
    assert_eq!(changes[..1], [Change::SetEntries(id, vec![(1, mark(1))])]);
    assert_eq!(changes[1..], note);
    let unknown = InstalledChoice { entries: None, ..before.choices[&pool()].installed() };
    let installed = Installed { choices: BTreeMap::from([(pool(), unknown)]), ..before.installed() };
    let changes = difference(&installed, &after).changes();
    let fill = Change::Fill(id, 0, vec![mark(1); 3]);
    assert_eq!(changes[..2], [Change::ClearChoice(id), fill], "a map with unknown entries is filled again");
}

#[test]
fn a_map_of_another_size_is_filled_before_the_rules_use_it_and_the_old_one_goes_last() {
    let (before, after) = (table(&[1, 2, 1]), table(&[1, 2, 1, 2]));
    let changes = difference(&before.installed(), &after).changes();
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
    for target in Arc::make_mut(&mut before.backends).values_mut() {
        target.source = Some(number(1));
    }
    let source = SourceChain { label: Label::of_name("web"), addresses: vec!["10.0.0.9".parse().unwrap()] };
    before.sources.insert(pool(), source);
    let changes = difference(&before.installed(), &Table::default()).changes();
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

#[test]
fn what_is_too_much_for_one_transaction_is_divided_between_maps_and_rules_lead_there_last() {
    let mut wanted = table(&[1, 2, 1]);
    for other in 2..6 {
        let pool = PoolId { pool: number(other), family: Family::V4 };
        wanted.choices.insert(pool, Choice::new(Label::of_name("other"), vec![mark(1); 100].into()));
    }
    let whole = difference(&Installed::default(), &wanted);
    assert_eq!(whole.clone().transactions(1000), [whole.clone().changes()]);
    let parts = whole.clone().transactions(250);
    assert_eq!((parts.len(), parts.concat()), (2, whole.clone().changes()));
    assert_eq!(parts[0][0], Change::Create);
    let parts = whole.clone().transactions(0);
    // The base, five maps, and the rest.
    assert_eq!((parts.len(), parts.concat()), (7, whole.changes()));
    let late = |change: &Change| {
        matches!(change, Change::Note(StateKey::Choice(_), _) | Change::WriteChain(..) | Change::AddBind(..))
    };
    assert!(parts[..6].iter().flatten().all(|change| !late(change)), "{parts:?}");
    // A map in use has its entries and its digest in one transaction.
    let mut next = wanted.clone();
    for choice in next.choices.values_mut() {
        *choice = Choice::new(choice.label.clone(), choice.entries.iter().map(|_| mark(2)).collect());
    }
    let parts = difference(&wanted.installed(), &next).transactions(0);
    assert!(parts.len() == 5 && parts.iter().all(|part| matches!(part[2], Change::Note(..))), "{parts:?}");
}

#[test]
fn a_chain_that_is_held_stays_and_all_else_is_carried_out() {
    let before = table(&[1, 2, 1]);
    let mut after = table(&[1, 1, 1]);
    let id = *before.chains.keys().next().unwrap();
    after.chains.get_mut(&id).unwrap().rules.limits = Limits { connections: Some(5), rate: None };
    let held = BTreeSet::from([id]);
    let changes = difference_but(&before.installed(), &after, &held).changes();
    assert!(matches!(changes[..], [Change::SetEntries(..), Change::Forget(_), Change::Note(..)]), "{changes:?}");
    let installed = installed_but(&before.installed(), &after, &held);
    assert_eq!(installed.chains, before.installed().chains);
    assert_eq!(installed.choices, after.installed().choices);
    // The address of a listener that is named anew stays with the old chain, if the rules of the new one are refused.
    let new = ChainId { listener: number(2), family: Family::V4 };
    let chain = after.chains.remove(&id).unwrap();
    after.chains.insert(new, chain);
    after.binds.values_mut().for_each(|chain| *chain = new);
    let held = BTreeSet::from([new]);
    assert_eq!(difference_but(&before.installed(), &after, &held).changes().len(), 3);
    assert_eq!(installed_but(&before.installed(), &after, &held).binds, before.binds);
    let after = Table { chains: after.chains, binds: after.binds, ..table(&[1, 2, 1]) };
    assert_eq!(installed_but(&Installed::default(), &after, &held).binds, BTreeMap::new());
}
