//! The result of a choice that is not made: what [`super::Balance::preview`] returns.

use std::collections::BTreeMap;

/// The most choices that a preview makes.
const STARTS_MAX: usize = 64;

/// The backend that the next choice would give, by its index.
#[derive(Clone, Debug, PartialEq)]
pub enum Preview {
    /// No random number takes part. `None`: no backend with weight is usable.
    Certain(Option<usize>),
    /// A draw decides: the backends that it may give, each with its chance. The chances add up to 1.
    Drawn(Vec<(usize, f64)>),
}

impl Preview {
    /// A draw by weight.
    pub fn by_weight(weights: impl IntoIterator<Item = (usize, u64)>) -> Preview {
        let weights: Vec<(usize, u64)> = weights.into_iter().collect();
        let total = weights.iter().map(|(_, weight)| weight).sum::<u64>() as f64;
        match weights.is_empty() {
            true => Preview::Certain(None),
            false => {
                Preview::Drawn(weights.into_iter().map(|(index, weight)| (index, weight as f64 / total)).collect())
            }
        }
    }

    /// One of several cases, each with its chance. A case without a backend counts only if no other one has a backend.
    pub fn of_cases(cases: impl IntoIterator<Item = (f64, Preview)>) -> Preview {
        let (mut chances, mut drawn) = (BTreeMap::new(), false);
        for (chance, case) in cases {
            match case {
                Preview::Certain(Some(index)) => *chances.entry(index).or_insert(0.0) += chance,
                Preview::Certain(None) => {}
                Preview::Drawn(all) => {
                    drawn = true;
                    all.into_iter().for_each(|(index, part)| *chances.entry(index).or_insert(0.0) += chance * part);
                }
            }
        }
        let total: f64 = chances.values().sum();
        match chances.len() {
            0 => Preview::Certain(None),
            1 if !drawn => Preview::Certain(chances.into_keys().next()),
            _ => Preview::Drawn(chances.into_iter().map(|(index, chance)| (index, chance / total)).collect()),
        }
    }

    /// The preview of a choice that begins at the backend that this one gives. A choice looks at every backend, so it is made at
    /// most [`STARTS_MAX`] times. If more backends may be drawn, neighbours share one choice, and the chances are approximate.
    #[must_use]
    pub fn then(self, choose: impl Fn(usize) -> Option<usize>) -> Preview {
        match self {
            Preview::Certain(index) => Preview::Certain(index.and_then(choose)),
            Preview::Drawn(all) => {
                let neighbours = all.chunks(all.len().div_ceil(STARTS_MAX).max(1));
                Preview::of_cases(neighbours.filter_map(|some| {
                    let chance = some.iter().map(|(_, chance)| chance).sum();
                    Some((chance, Preview::Certain(choose(some.get(some.len() / 2)?.0))))
                }))
            }
        }
    }

    /// Whether no backend is usable.
    pub fn is_none(&self) -> bool {
        *self == Preview::Certain(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_draw_of_many_backends_makes_a_bounded_number_of_choices() {
        let choices = Cell::new(0);
        let choose = |index| {
            choices.set(choices.get() + 1);
            Some(index / 5_000)
        };
        let Preview::Drawn(chances) = Preview::by_weight((0..10_000).map(|index| (index, 1))).then(choose) else {
            panic!("it draws")
        };
        assert!(choices.get() <= STARTS_MAX, "{}", choices.get());
        assert_eq!(chances.len(), 2);
        assert!(chances.iter().all(|(_, chance)| (chance - 0.5).abs() < 0.02), "{chances:?}");
    }
}
