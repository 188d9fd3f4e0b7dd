//! Changes of the nftables table: typed, so that a process that applies them needs no trust in the one that sends them.
//!
//! A change names nothing outside the table. Its names are made of numbers, and its texts are [`Label`]s.
//!
//! [`difference`] gives the changes in an order in which nft accepts them. What is referred to comes first, and what is no
//! longer referred to goes last. All of them are one transaction. An element that changes is removed and added.

use super::marks::Mark;
use super::table::{
    Bind, ChainId, Choice, ChoiceId, Digest, FORMAT, Family, Installed, InstalledChoice, Label, PoolId, Rules,
    SourceLimit, StateKey, Table, Target,
};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

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
    /// Adds an empty choice map.
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

/// The changes that make `wanted` of `installed`, for one transaction. None if they are equal.
pub fn difference(installed: &Installed, wanted: &Table) -> Vec<Change> {
    let mut changes = Changes::default();
    if !installed.exists {
        changes.first.push(Change::Create);
        changes.note(StateKey::Format, false, FORMAT);
    }
    changes.sources(installed, wanted);
    changes.backends(installed, wanted);
    changes.choices(installed, wanted);
    changes.chains(installed, wanted);
    changes.binds(installed, wanted);
    changes.first.append(&mut changes.last);
    changes.first
}

/// The changes of a difference so far.
#[derive(Default)]
struct Changes {
    /// In the order of the transaction.
    first: Vec<Change>,
    /// What follows them all: removals of what they refer to no longer.
    last: Vec<Change>,
}

impl Changes {
    fn note(&mut self, key: StateKey, is_there: bool, text: &str) {
        if is_there {
            self.first.push(Change::Forget(key));
        }
        // Each text is made of what a label may hold, and is shorter.
        match Label::try_from(text.to_owned()) {
            Ok(text) => self.first.push(Change::Note(key, text)),
            Err(why) => debug_assert!(false, "{text}: {why}"),
        }
    }

    fn sources(&mut self, installed: &Installed, wanted: &Table) {
        for (id, source) in &wanted.sources {
            let (before, after) = (installed.sources.get(id), source.installed());
            if before.is_none() {
                self.first.push(Change::AddSource(*id));
            }
            if before.is_none_or(|before| before.digest != after.digest) {
                self.first.push(Change::WriteSource(*id, source.addresses.clone()));
            }
            if before != Some(&after) {
                self.note(StateKey::Source(*id), before.is_some(), &after.text());
            }
        }
        for id in installed.sources.keys().filter(|id| !wanted.sources.contains_key(id)) {
            self.last.extend([Change::RemoveSource(*id), Change::Forget(StateKey::Source(*id))]);
        }
    }

    fn backends(&mut self, installed: &Installed, wanted: &Table) {
        let removal = |mark: Mark, target: &Target| Change::RemoveBackend {
            mark,
            family: Family::of(target.address.ip()),
            source: target.source.is_some(),
        };
        for (mark, target) in &installed.backends {
            match wanted.backends.get(mark) {
                Some(wanted) if wanted == target => {}
                // A chain of source addresses can be removed only after what leads there: hence not last.
                _ => self.first.push(removal(*mark, target)),
            }
        }
        for (mark, target) in &wanted.backends {
            if installed.backends.get(mark) != Some(target) {
                self.first.push(Change::AddBackend(*mark, target.clone()));
            }
        }
    }

    fn choices(&mut self, installed: &Installed, wanted: &Table) {
        for (pool, choice) in &wanted.choices {
            let (before, after) = (installed.choices.get(pool), choice.installed());
            let id = ChoiceId { pool: *pool, size: choice.size() };
            match before {
                Some(before) if before.size == after.size => {
                    if before.digest != after.digest {
                        self.rewrite(id, before, choice);
                    }
                }
                other => {
                    self.first.push(Change::AddChoice(id));
                    self.first.push(Change::Fill(id, 0, choice.entries.to_vec()));
                    let old = other.map(|before| ChoiceId { pool: *pool, size: before.size });
                    self.last.extend(old.map(Change::RemoveChoice));
                }
            }
            let same = |before: &InstalledChoice| {
                (before.size, before.digest, &before.label) == (after.size, after.digest, &after.label)
            };
            if !before.is_some_and(same) {
                self.note(StateKey::Choice(*pool), before.is_some(), &after.text());
            }
        }
        for (pool, before) in installed.choices.iter().filter(|(pool, _)| !wanted.choices.contains_key(pool)) {
            let id = ChoiceId { pool: *pool, size: before.size };
            self.last.extend([Change::RemoveChoice(id), Change::Forget(StateKey::Choice(*pool))]);
        }
    }

    /// Changes the entries of a map of the same size.
    fn rewrite(&mut self, id: ChoiceId, before: &InstalledChoice, choice: &Choice) {
        match &before.entries {
            Some(entries) => {
                let pairs = entries.iter().zip(choice.entries.iter()).enumerate();
                let changed = pairs.filter(|(_, (before, after))| before != after);
                let changed = changed.map(|(entry, (_, after))| (entry as u32, *after)).collect();
                self.first.push(Change::SetEntries(id, changed));
            }
            None => {
                self.first.push(Change::ClearChoice(id));
                self.first.push(Change::Fill(id, 0, choice.entries.to_vec()));
            }
        }
    }

    fn chains(&mut self, installed: &Installed, wanted: &Table) {
        for (id, chain) in &wanted.chains {
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
                self.note(StateKey::Chain(*id), before.is_some(), &after.text());
            }
            let Some(before) = before else { continue };
            let old = before.denied.filter(|_| before.denied != after.denied);
            self.last.extend(old.map(|digest| Change::RemoveDenied(*id, digest)));
            let old = before.limits.each().filter(|limit| !after.limits.each().any(|other| other == *limit));
            self.last.extend(old.map(|limit| Change::RemoveLimit(*id, limit)));
        }
        // Chains that leave refer to nothing from here on, but binds still lead to them.
        let mut leaving = Vec::new();
        for (id, before) in installed.chains.iter().filter(|(id, _)| !wanted.chains.contains_key(id)) {
            self.first.push(Change::ClearChain(*id));
            leaving.extend([Change::RemoveChain(*id), Change::Forget(StateKey::Chain(*id))]);
            leaving.extend(before.denied.map(|digest| Change::RemoveDenied(*id, digest)));
            leaving.extend(before.limits.each().map(|limit| Change::RemoveLimit(*id, limit)));
        }
        self.last.append(&mut leaving);
    }

    fn binds(&mut self, installed: &Installed, wanted: &Table) {
        let gone = installed.binds.iter().filter(|(bind, chain)| wanted.binds.get(bind) != Some(chain));
        self.first.extend(gone.map(|(bind, _)| Change::RemoveBind(*bind)));
        let new = wanted.binds.iter().filter(|(bind, chain)| installed.binds.get(bind) != Some(chain));
        self.first.extend(new.map(|(bind, chain)| Change::AddBind(*bind, *chain)));
    }
}

#[cfg(test)]
mod tests;
