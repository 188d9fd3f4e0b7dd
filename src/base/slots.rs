//! Slots with generations: a table whose keys expire with their entries.
//!
//! A key may be kept, in a queue or a list, for longer than its entry lives, and another entry may take the slot. The
//! key's generation distinguishes the entries. The table never shrinks. Freed slots are reused, the most recently freed
//! first, since it is in the cache.

/// Identifies one entry for its lifetime. The key of a removed entry finds nothing, even once its slot is reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Index into the table.
    pub slot: u32,
    /// How many entries the slot had before, modulo 2^32.
    pub generation: u32,
}

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// A table of entries with keys.
pub struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    /// Stores the value that `make` builds from its key. `None` if the table has 2^32 entries.
    pub fn insert_with(&mut self, make: impl FnOnce(Key) -> T) -> Option<Key> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let slot = u32::try_from(self.slots.len()).ok()?;
                self.slots.push(Slot { generation: 0, value: None });
                slot
            }
        };
        let entry = &mut self.slots[slot as usize];
        let key = Key { slot, generation: entry.generation };
        entry.value = Some(make(key));
        Some(key)
    }

    /// The entry, unless it was removed.
    pub fn get(&self, key: Key) -> Option<&T> {
        let slot = self.slots.get(key.slot as usize)?;
        if slot.generation == key.generation { slot.value.as_ref() } else { None }
    }

    /// The entry, unless it was removed.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.slot as usize)?;
        if slot.generation == key.generation { slot.value.as_mut() } else { None }
    }

    /// Removes the entry and invalidates its key.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.slot as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.slot);
        Some(value)
    }

    /// The key of the slot's current entry.
    pub fn key_of(&self, slot: u32) -> Option<Key> {
        let entry = self.slots.get(slot as usize)?;
        entry.value.as_ref().map(|_| Key { slot, generation: entry.generation })
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The number of slots: [`Slots::key_of`] finds nothing from here on.
    pub fn slots(&self) -> u32 {
        // `insert_with` adds no slot whose number does not fit.
        self.slots.len() as u32
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys of all entries, collected, so that the table may change during the iteration.
    pub fn keys(&self) -> Vec<Key> {
        (0..self.slots.len() as u32).filter_map(|slot| self.key_of(slot)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_does_not_reach_the_slot_s_next_entry() {
        let mut slots = Slots::default();
        let first = slots.insert_with(|_| "first").unwrap();
        assert_eq!(slots.remove(first), Some("first"));
        let second = slots.insert_with(|_| "second").unwrap();
        assert_eq!(first.slot, second.slot);
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get(second), Some(&"second"));
        assert_eq!((slots.len(), slots.keys()), (1, vec![second]));
    }

    #[test]
    fn generations_wrap() {
        let mut slots = Slots::default();
        let key = slots.insert_with(|_| ()).unwrap();
        slots.remove(key);
        slots.slots[0].generation = u32::MAX;
        let last = slots.insert_with(|_| ()).unwrap();
        assert_eq!(last.generation, u32::MAX);
        slots.remove(last);
        assert_eq!(slots.insert_with(|_| ()).unwrap().generation, 0);
    }
}
