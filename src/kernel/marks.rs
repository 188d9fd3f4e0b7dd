//! Marks: how conntrack names a backend's address.
//!
//! A connection's mark is that of its backend, from its first packet to the end of its conntrack entry. The upper byte
//! is ours ([`PREFIX`]), the others are a number. So entries of other programs, with marks of their own, are never ours.
//!
//! A number belongs to one address of one backend of one pool. Numbers go up and wrap, so that a number is not used
//! again soon after its backend has left.

use super::table::Target;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::SocketAddr;

/// The upper byte of all our marks: the letter t.
pub const PREFIX: u32 = 0x7400_0000;
/// The bits of a mark that hold [`PREFIX`].
pub const PREFIX_MASK: u32 = 0xff00_0000;

/// A mark of ours.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Mark(u32);

impl Mark {
    /// The mark with this value, if it is one of ours.
    pub fn of_value(value: u32) -> Option<Mark> {
        (value & PREFIX_MASK == PREFIX).then_some(Mark(value))
    }

    /// Its value in conntrack.
    pub fn value(self) -> u32 {
        self.0
    }

    /// The mark after this one, which is the first one after the last.
    fn next(self) -> Mark {
        Mark(PREFIX | (self.0 + 1) & !PREFIX_MASK)
    }
}

impl TryFrom<u32> for Mark {
    type Error = String;

    fn try_from(value: u32) -> Result<Mark, String> {
        Mark::of_value(value).ok_or_else(|| format!("{value:#010x} is no mark of tcplb"))
    }
}

impl From<Mark> for u32 {
    fn from(mark: Mark) -> u32 {
        mark.0
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:#010x}", self.0)
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self}")
    }
}

/// Which marks are in use, and for what.
#[derive(Debug)]
pub struct Marks {
    targets: HashMap<Mark, (String, SocketAddr)>,
    marks: HashMap<(String, SocketAddr), Mark>,
    last: Mark,
}

impl Default for Marks {
    fn default() -> Marks {
        Marks { targets: HashMap::new(), marks: HashMap::new(), last: Mark(PREFIX) }
    }
}

impl Marks {
    /// Takes over a mark of an installed table. Of two marks for one target the first one stays the target's.
    pub fn adopt(&mut self, mark: Mark, target: &Target) {
        let key = (target.label.as_str().to_owned(), target.address);
        self.last = self.last.max(mark);
        self.targets.insert(mark, key.clone());
        self.marks.entry(key).or_insert(mark);
    }

    /// The mark of a target; a new one gets the next unused one. `None`: all 16 million are in use.
    pub fn of(&mut self, label: &str, address: SocketAddr) -> Option<Mark> {
        let entry = match self.marks.entry((label.to_owned(), address)) {
            Entry::Occupied(entry) => return Some(*entry.get()),
            Entry::Vacant(entry) => entry,
        };
        let first = self.last.next();
        let mut mark = first;
        while self.targets.contains_key(&mark) {
            mark = mark.next();
            if mark == first {
                return None;
            }
        }
        self.last = mark;
        self.targets.insert(mark, entry.key().clone());
        Some(*entry.insert(mark))
    }

    /// The mark may be used for another target: no connection has it any more.
    pub fn release(&mut self, mark: Mark) {
        if let Some(key) = self.targets.remove(&mark)
            && self.marks.get(&key) == Some(&mark)
        {
            self.marks.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::Label;
    use super::*;

    fn at(port: u16) -> SocketAddr {
        ([10, 0, 0, 1], port).into()
    }

    fn target(name: &str, port: u16) -> Target {
        Target { address: at(port), label: Label::of_name(name), source: None }
    }

    #[test]
    fn a_mark_has_our_letter() {
        assert_eq!(Mark::of_value(0x7400_0001).map(Mark::value), Some(0x7400_0001));
        assert_eq!((Mark::of_value(0x7300_0001), Mark::of_value(1)), (None, None));
        assert_eq!(Mark(0x74ff_ffff).next(), Mark(0x7400_0000));
        assert!(serde_json::from_str::<Mark>("5").is_err());
    }

    #[test]
    fn a_target_keeps_its_mark_and_a_number_is_not_used_again_at_once() {
        let mut marks = Marks::default();
        let [a, b] = ["a", "b"].map(|name| marks.of(name, at(1)).unwrap());
        assert_eq!((a.value(), b.value(), marks.of("a", at(1))), (0x7400_0001, 0x7400_0002, Some(a)));
        marks.release(b);
        assert_eq!(marks.of("a", at(2)).map(Mark::value), Some(0x7400_0003), "not the one that was just released");
        assert_eq!(marks.of("b", at(1)).map(Mark::value), Some(0x7400_0004), "a released target is a new one");
    }

    #[test]
    fn marks_of_an_installed_table_stay() {
        let mut marks = Marks::default();
        let (seven, nine) = (Mark(PREFIX | 7), Mark(PREFIX | 9));
        marks.adopt(seven, &target("a", 1));
        // An aborted change of another program left two.
        marks.adopt(nine, &target("a", 1));
        assert_eq!(marks.of("a", at(1)), Some(seven));
        assert_eq!(marks.of("b", at(1)), Some(Mark(PREFIX | 10)));
        marks.release(nine);
        assert_eq!(marks.of("a", at(1)), Some(seven));
    }

    #[test]
    fn numbers_wrap_to_unused_ones() {
        let mut marks = Marks::default();
        marks.adopt(Mark(PREFIX | 0x00ff_ffff), &target("a", 1));
        marks.adopt(Mark(PREFIX), &target("b", 1));
        assert_eq!(marks.of("c", at(1)), Some(Mark(PREFIX | 1)));
    }
}
