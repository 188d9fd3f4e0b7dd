//! Changes of the nftables table: typed, so that a process that applies them needs no trust in the one that sends them.
//!
//! A change names nothing outside the table. Its names are made of numbers, and its texts are [`Label`]s.
//!
//! A [`Difference`] has the changes in an order in which nft accepts them. What is referred to comes first, and what is no
//! longer referred to goes last. An element that changes is removed and added.
//!
//! # One transaction, or several
//!
//! All changes are one transaction, unless they are too many for that ([`Difference::transactions`]). Then the maps are filled before
//! the rest. Rules lead to a new map only with the last transaction, so a failure before leaves it unused. `state` does not have
//! it yet, and [`Change::AddChoice`] empties one of the same name.
//!
//! # Listeners that are held
//!
//! nft may refuse the rules of a listener. Its chain is then *held*: it stays as it is, with the map that its rules refer to. So
//! does a chain that leaves, if its address is to be that listener's. All else becomes what is wanted.

use super::digest::Digest;
use super::marks::Mark;
use super::table::{
    Bind, ChainId, Choice, ChoiceId, FORMAT, Family, Installed, InstalledChoice, Label, PoolId, Rules, SourceLimit,
    StateKey, Table, Target,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// A change of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Creates the table, with what it always has. It fails if there is one of that name.
    Create,
    /// Adds an element of `state`.
    Note(StateKey, Label),
    /// Removes an element of `state`.
    Forget(StateKey),
    /// Adds a chain for the source addresses of a pool.
    AddSource(PoolId),
    /// Writes the rules of such a chain.
    WriteSource(PoolId, Vec<IpAddr>),
    /// Removes such a chain.
    RemoveSource(PoolId),
    /// Adds where a mark leads to.
    AddBackend(Mark, Target),
    /// Removes where a mark leads to.
    RemoveBackend {
        /// The mark.
        mark: Mark,
        /// The family of the backend's address.
        family: Family,
        /// Whether its target has source addresses.
        source: bool,
    },
    /// Adds an empty choice map. One of the same name, which no rule refers to, is emptied.
    AddChoice(ChoiceId),
    /// Adds entries, from this one on.
    Fill(ChoiceId, u32, Vec<Mark>),
    /// Changes entries.
    SetEntries(ChoiceId, Vec<(u32, Mark)>),
    /// Removes all entries.
    ClearChoice(ChoiceId),
    /// Removes a choice map.
    RemoveChoice(ChoiceId),
    /// Adds a set of a listener's denied addresses.
    AddDenied(ChainId, Digest, Vec<(IpAddr, IpAddr)>),
    /// Removes such a set.
    RemoveDenied(ChainId, Digest),
    /// Adds the set that counts for a limit of each source.
    AddLimit(ChainId, SourceLimit),
    /// Removes such a set.
    RemoveLimit(ChainId, SourceLimit),
    /// Adds a listener's chain, without rules.
    AddChain(ChainId),
    /// Writes the rules of a chain.
    WriteChain(ChainId, Rules),
    /// Removes the rules of a chain, so that it refers to nothing.
    ClearChain(ChainId),
    /// Removes a listener's chain.
    RemoveChain(ChainId),
    /// Adds what leads to a chain.
    AddBind(Bind, ChainId),
    /// Removes what leads to a chain.
    RemoveBind(Bind),
}

/// The changes that make one table of another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// What all others need: the table, sources, backends.
    base: Vec<Change>,
    /// For each map its new entries. Each part may be a transaction of its own, after the base.
    maps: Vec<Vec<Change>>,
    /// The rest.
    rest: Vec<Change>,
}

/// The changes that make `wanted` of `installed`. None if they are equal.
pub fn difference(installed: &Installed, wanted: &Table) -> Difference {
    difference_but(installed, wanted, &BTreeSet::new())
}

/// The same, with chains that are held.
pub fn difference_but(installed: &Installed, wanted: &Table, held: &BTreeSet<ChainId>) -> Difference {
    let mut changes = Changes { kept: Kept::of(installed, wanted, held), ..Changes::default() };
    if !installed.exists {
        changes.base.push(Change::Create);
        Changes::note(&mut changes.base, StateKey::Format, false, FORMAT);
    }
    changes.sources(installed, wanted);
    changes.backends(installed, wanted);
    changes.choices(installed, wanted);
    changes.chains(installed, wanted);
    changes.binds(installed, wanted);
    changes.first.append(&mut changes.last);
    Difference { base: changes.base, maps: changes.maps, rest: changes.first }
}

/// What is installed once the changes of [`difference_but`] are carried out.
pub fn installed_but(installed: &Installed, wanted: &Table, held: &BTreeSet<ChainId>) -> Installed {
    let kept = Kept::of(installed, wanted, held);
    let mut after = wanted.installed();
    for id in &kept.chains {
        match installed.chains.get(id) {
            Some(chain) => drop(after.chains.insert(*id, chain.clone())),
            None => drop(after.chains.remove(id)),
        }
    }
    after.choices.retain(|pool, _| !kept.choices.contains(pool));
    for pool in &kept.choices {
        after.choices.extend(installed.choices.get(pool).map(|choice| (*pool, choice.clone())));
    }
    after.binds.retain(|_, chain| kept.leads_to(installed, *chain));
    after.binds.extend(kept.leaving_binds(installed, wanted));
    if kept.refers {
        after.unused = kept.left(installed, wanted).collect();
    }
    after
}

impl Difference {
    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.base.is_empty() && self.maps.is_empty() && self.rest.is_empty()
    }

    /// All changes, in their order.
    pub fn changes(self) -> Vec<Change> {
        self.base.into_iter().chain(self.maps.into_iter().flatten()).chain(self.rest).collect()
    }

    /// One transaction, if its changes have no more elements than `most`, or several. None is split further than into the base,
    /// each map, and the rest.
    pub fn transactions(self, most: usize) -> Vec<Vec<Change>> {
        let mut all: Vec<Vec<Change>> = Vec::new();
        let mut elements = usize::MAX;
        for part in std::iter::once(self.base).chain(self.maps).chain([self.rest]).filter(|part| !part.is_empty()) {
            let more: usize = part.iter().map(Change::elements).sum();
            elements = elements.saturating_add(more);
            match all.last_mut().filter(|_| elements <= most) {
                Some(last) => last.extend(part),
                None => {
                    elements = more;
                    all.push(part);
                }
            }
        }
        all
    }
}

impl Change {
    /// How many elements nft gets of it, about.
    pub fn elements(&self) -> usize {
        match self {
            Change::Fill(_, _, marks) => marks.len(),
            Change::SetEntries(_, entries) => 2 * entries.len(),
            Change::AddDenied(_, _, ranges) => ranges.len(),
            _ => 1,
        }
    }
}

/// What stays as it is for the sake of chains that are held.
#[derive(Default)]
struct Kept {
    /// The chains, those that are not installed too.
    chains: BTreeSet<ChainId>,
    /// The maps.
    choices: BTreeSet<PoolId>,
    /// Rules that are not known may refer to any map.
    refers: bool,
}

impl Kept {
    fn of(installed: &Installed, wanted: &Table, held: &BTreeSet<ChainId>) -> Kept {
        let leaves = |id: &ChainId| !wanted.chains.contains_key(id);
        let mut chains = held.clone();
        for (bind, chain) in &installed.binds {
            if leaves(chain) && wanted.binds.get(bind).is_some_and(|next| held.contains(next)) {
                chains.insert(*chain);
            }
        }
        let refers = chains.iter().any(|id| installed.chains.contains_key(id));
        let mut choices = BTreeSet::new();
        for (pool, choice) in &wanted.choices {
            // Another pool may have the number of one that has left.
            let is_same = |before: &InstalledChoice| before.size == choice.size() && before.label == choice.label;
            let is_same_map = installed.choices.get(pool).is_some_and(is_same);
            let mut its = wanted.chains.iter().filter(|(_, chain)| chain.rules.choice.pool == *pool).peekable();
            if !is_same_map && its.peek().is_some() && its.all(|(id, _)| chains.contains(id)) {
                choices.insert(*pool);
            }
        }
        if refers {
            choices.extend(installed.choices.keys().filter(|pool| !wanted.choices.contains_key(pool)));
        }
        Kept { chains, choices, refers }
    }

    /// Whether a wanted bind can be there: not if its chain is not installed.
    fn leads_to(&self, installed: &Installed, chain: ChainId) -> bool {
        !self.chains.contains(&chain) || installed.chains.contains_key(&chain)
    }

    /// The binds of chains that leave and stay.
    fn leaving_binds<'a>(
        &'a self,
        installed: &'a Installed,
        wanted: &'a Table,
    ) -> impl Iterator<Item = (Bind, ChainId)> + 'a {
        let binds = installed.binds.iter().filter(|(bind, chain)| {
            self.chains.contains(chain)
                && !wanted.chains.contains_key(chain)
                && wanted.binds.get(bind).is_some_and(|next| self.chains.contains(next))
        });
        binds.map(|(bind, chain)| (*bind, *chain))
    }

    /// Whether a map is filled with what is wanted.
    fn is_filled(&self, wanted: &Table, id: &ChoiceId) -> bool {
        let choice = wanted.choices.get(&id.pool).filter(|_| !self.choices.contains(&id.pool));
        choice.is_some_and(|choice| choice.size() == id.size)
    }

    /// The maps that are installed, and neither filled nor kept.
    fn left<'a>(&'a self, installed: &'a Installed, wanted: &'a Table) -> impl Iterator<Item = ChoiceId> + 'a {
        let maps = installed.choices.iter().filter(|(pool, _)| !self.choices.contains(pool));
        let maps = maps.map(|(pool, before)| ChoiceId { pool: *pool, size: before.size });
        maps.chain(installed.unused.iter().copied()).filter(|id| !self.is_filled(wanted, id))
    }
}

/// The changes of a difference so far.
#[derive(Default)]
struct Changes {
    kept: Kept,
    base: Vec<Change>,
    maps: Vec<Vec<Change>>,
    /// What follows the maps.
    first: Vec<Change>,
    /// What follows them all: removals of what they refer to no longer.
    last: Vec<Change>,
}

impl Changes {
    fn note(to: &mut Vec<Change>, key: StateKey, is_there: bool, text: &str) {
        if is_there {
            to.push(Change::Forget(key));
        }
        // Each text is made of what a label may hold, and is shorter.
        match Label::try_from(text.to_owned()) {
            Ok(text) => to.push(Change::Note(key, text)),
            Err(why) => debug_assert!(false, "{text}: {why}"),
        }
    }

    fn sources(&mut self, installed: &Installed, wanted: &Table) {
        for (id, source) in &wanted.sources {
            let (before, after) = (installed.sources.get(id), source.installed());
            if before.is_none() {
                self.base.push(Change::AddSource(*id));
            }
            if before.is_none_or(|before| before.digest != after.digest) {
                self.base.push(Change::WriteSource(*id, source.addresses.clone()));
            }
            if before != Some(&after) {
                Changes::note(&mut self.base, StateKey::Source(*id), before.is_some(), &after.text());
            }
        }
        for id in installed.sources.keys().filter(|id| !wanted.sources.contains_key(id)) {
            self.last.extend([Change::RemoveSource(*id), Change::Forget(StateKey::Source(*id))]);
        }
    }

    fn backends(&mut self, installed: &Installed, wanted: &Table) {
        if Arc::ptr_eq(&installed.backends, &wanted.backends) {
            return;
        }
        let removal = |mark: Mark, target: &Target| Change::RemoveBackend {
            mark,
            family: Family::of(target.address.ip()),
            source: target.source.is_some(),
        };
        for (mark, target) in installed.backends.iter() {
            match wanted.backends.get(mark) {
                Some(wanted) if wanted == target => {}
                // A chain of source addresses can be removed only after what leads there: hence not last.
                _ => self.base.push(removal(*mark, target)),
            }
        }
        for (mark, target) in wanted.backends.iter() {
            if installed.backends.get(mark) != Some(target) {
                self.base.push(Change::AddBackend(*mark, target.clone()));
            }
        }
    }

    fn choices(&mut self, installed: &Installed, wanted: &Table) {
        for (pool, choice) in wanted.choices.iter().filter(|(pool, _)| !self.kept.choices.contains(pool)) {
            let (before, after) = (installed.choices.get(pool), choice.installed());
            let id = ChoiceId { pool: *pool, size: choice.size() };
            let same = |before: &InstalledChoice| {
                (before.size, before.digest, &before.label) == (after.size, after.digest, &after.label)
            };
            match before {
                Some(before) if before.size == after.size => {
                    let mut part = Vec::new();
                    if before.digest != after.digest {
                        rewrite(&mut part, id, before, choice);
                    }
                    if !same(before) {
                        Changes::note(&mut part, StateKey::Choice(*pool), true, &after.text());
                        self.maps.push(part);
                    }
                }
                _ => {
                    self.maps.push(vec![Change::AddChoice(id), Change::Fill(id, 0, choice.entries.to_vec())]);
                    // Rules lead there with the rest.
                    Changes::note(&mut self.first, StateKey::Choice(*pool), before.is_some(), &after.text());
                }
            }
        }
        let gone = installed.choices.keys().filter(|pool| !wanted.choices.contains_key(pool));
        for pool in gone.filter(|pool| !self.kept.choices.contains(pool)) {
            self.last.push(Change::Forget(StateKey::Choice(*pool)));
        }
        // Rules of a chain that is held may refer to any of these.
        if !self.kept.refers {
            self.last.extend(self.kept.left(installed, wanted).map(Change::RemoveChoice));
        }
    }

    fn chains(&mut self, installed: &Installed, wanted: &Table) {
        for (id, chain) in wanted.chains.iter().filter(|(id, _)| !self.kept.chains.contains(id)) {
            let (before, after) = (installed.chains.get(id), chain.installed(*id));
            if let Some(digest) = after.denied.filter(|_| before.and_then(|before| before.denied) != after.denied) {
                let ranges = chain.denied.as_ref().map(|denied| denied.ranges.clone());
                self.first.push(Change::AddDenied(*id, digest, ranges.unwrap_or_default()));
            }
            let had: Vec<SourceLimit> = before.iter().flat_map(|before| before.limits.each()).collect();
            for limit in after.limits.each().filter(|limit| !had.contains(limit)) {
                self.first.push(Change::AddLimit(*id, limit));
            }
            if before.is_none() {
                self.first.push(Change::AddChain(*id));
            }
            if before.is_none_or(|before| before.digest != after.digest) {
                self.first.push(Change::WriteChain(*id, chain.rules));
            }
            if before != Some(&after) {
                Changes::note(&mut self.first, StateKey::Chain(*id), before.is_some(), &after.text());
            }
            let Some(before) = before else { continue };
            let old = before.denied.filter(|_| before.denied != after.denied);
            self.last.extend(old.map(|digest| Change::RemoveDenied(*id, digest)));
            let old = before.limits.each().filter(|limit| !after.limits.each().any(|other| other == *limit));
            self.last.extend(old.map(|limit| Change::RemoveLimit(*id, limit)));
        }
        // Chains that leave refer to nothing from here on, but binds still lead to them.
        let mut leaving = Vec::new();
        let stays = |id: &ChainId| wanted.chains.contains_key(id) || self.kept.chains.contains(id);
        for (id, before) in installed.chains.iter().filter(|(id, _)| !stays(id)) {
            self.first.push(Change::ClearChain(*id));
            leaving.extend([Change::RemoveChain(*id), Change::Forget(StateKey::Chain(*id))]);
            leaving.extend(before.denied.map(|digest| Change::RemoveDenied(*id, digest)));
            leaving.extend(before.limits.each().map(|limit| Change::RemoveLimit(*id, limit)));
        }
        self.last.append(&mut leaving);
    }

    fn binds(&mut self, installed: &Installed, wanted: &Table) {
        let mut after: BTreeMap<Bind, ChainId> = wanted.binds.clone();
        after.retain(|_, chain| self.kept.leads_to(installed, *chain));
        after.extend(self.kept.leaving_binds(installed, wanted));
        let gone = installed.binds.iter().filter(|(bind, chain)| after.get(bind) != Some(chain));
        self.first.extend(gone.map(|(bind, _)| Change::RemoveBind(*bind)));
        let new = after.iter().filter(|(bind, chain)| installed.binds.get(bind) != Some(chain));
        self.first.extend(new.map(|(bind, chain)| Change::AddBind(*bind, *chain)));
    }
}

/// Changes the entries of a map of the same size.
fn rewrite(to: &mut Vec<Change>, id: ChoiceId, before: &InstalledChoice, choice: &Choice) {
    match &before.entries {
        Some(entries) => {
            let pairs = entries.iter().zip(choice.entries.iter()).enumerate();
            let changed = pairs.filter(|(_, (before, after))| before != after);
            let changed = changed.map(|(entry, (_, after))| (entry as u32, *after)).collect();
            to.push(Change::SetEntries(id, changed));
        }
        None => {
            to.push(Change::ClearChoice(id));
            to.push(Change::Fill(id, 0, choice.entries.to_vec()));
        }
    }
}

#[cfg(test)]
mod tests;
