//! Slots with generations: a table whose keys go stale when the entry they named is gone.
//!
//! A key may be kept, in a queue or a list, for longer than its entry lives; by then the slot may belong to another. The
//! generation in the key tells the two apart. Slots never shrink; freed ones are reused, the most recently freed first,
//! while it is warm.

/// Names one entry for as long as it lives. A key of a removed entry finds nothing, even once the slot is reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Index into the table.
    pub slot: u32,
    /// How many tenants the slot had before, modulo 2^32.
    pub generation: u32,
}

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// The table.
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
    /// Stores what `make` builds from the key it will have. Gives the value back as an error if the table has 2^32 entries.
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

    /// The entry, unless it is gone.
    pub fn get(&self, key: Key) -> Option<&T> {
        let slot = self.slots.get(key.slot as usize)?;
        if slot.generation == key.generation { slot.value.as_ref() } else { None }
    }

    /// The entry, unless it is gone.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.slot as usize)?;
        if slot.generation == key.generation { slot.value.as_mut() } else { None }
    }

    /// Takes the entry out and retires its key.
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

    /// The key of the entry that now lives in `slot`.
    pub fn key_of(&self, slot: u32) -> Option<Key> {
        let entry = self.slots.get(slot as usize)?;
        entry.value.as_ref().map(|_| Key { slot, generation: entry.generation })
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Is it empty?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys of all entries, collected, so that the table may change while they are worked through.
    pub fn keys(&self) -> Vec<Key> {
        (0..self.slots.len() as u32).filter_map(|slot| self.key_of(slot)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_does_not_reach_the_next_tenant() {
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
