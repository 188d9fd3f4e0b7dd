//! Section 5.3 of the Maglev paper (see [`maglev`]), repeated: 1,000 backends, tables of 65,537 and 655,373 entries.
//!
//! Figure 11 has the most and the fewest entries of a backend. Figure 12 has the entries that change when random backends
//! leave. It can only count entries of backends that stay: with the large table it shows fewer changes than the entries
//! of those that left. Its curves are read from the figure's image.
//!
//! `bench/maglev` runs the test with 200 repetitions, as the paper, and makes the table and the plot of docs/algorithms.md.
//! It sets [`WRITE`] to the name of a file for the results.

use super::super::rendezvous::Rendezvous;
use super::super::{hash, maglev, source_hash};
use super::*;
use std::fmt::Write;
use std::{env, fs};

/// Names the file for the results; without it the test runs a few repetitions and writes nothing.
const WRITE: &str = "TCPLB_MAGLEV";

const BACKENDS: usize = 1_000;

/// Backends that leave, and the changed entries in percent that the paper shows for the small and the large table.
const FIGURE_12: [(usize, f64, f64); 7] = [
    (1, 0.61, 0.33),
    (5, 1.79, 0.47),
    (10, 2.30, 0.57),
    (15, 2.28, 0.63),
    (20, 2.62, 0.70),
    (25, 2.82, 0.75),
    (29, 2.77, 0.79),
];

/// The fewest and the most entries of a backend.
fn extremes(table: impl Iterator<Item = usize>) -> (usize, usize) {
    let mut entries = vec![0; BACKENDS];
    table.for_each(|index| entries[index] += 1);
    (*entries.iter().min().unwrap(), *entries.iter().max().unwrap())
}

/// A table as the paper fills it by rendezvous: each entry is the key of a race.
fn raced(members: &[Member], size: usize) -> impl Iterator<Item = usize> {
    let rendezvous = Rendezvous::new(members);
    (0..size as u64).map(move |entry| {
        let [first] = rendezvous.first(hash::nth(0, entry), |_| true);
        first.unwrap()
    })
}

/// The share, in percent, of entries that change though their backend stays, when `leaving` random ones leave.
fn changed(members: &[Member], before: &[u32], leaving: usize, random: &mut fastrand::Rng) -> f64 {
    let mut members = members.to_vec();
    for index in random.choose_multiple(0..BACKENDS, leaving) {
        members[index].weight = 0;
    }
    let after = maglev::filled(&members, before.len());
    let stays = |index: u32| members[index as usize].weight > 0;
    let moved = before.iter().zip(&after).filter(|(before, after)| before != after && stays(**before)).count();
    100.0 * moved as f64 / before.len() as f64
}

#[test]
fn the_tables_are_as_even_and_as_stable_as_those_of_the_paper() {
    let file = env::var_os(WRITE);
    let members = members(&[1; BACKENDS]);
    let mut results = String::new();
    let mut even = |method: &str, size: usize, (fewest, most): (usize, usize)| {
        writeln!(results, "entries\t{method}\t{size}\t{fewest}\t{most}").unwrap();
        most as f64 * BACKENDS as f64 / size as f64 - 1.0
    };
    let tables = [maglev::SMALL, maglev::LARGE].map(|size| maglev::filled(&members, size));
    for table in &tables {
        let (fewest, most) = extremes(table.iter().map(|&index| index as usize));
        assert_eq!((fewest, most), (table.len() / BACKENDS, table.len() / BACKENDS + 1));
        even("maglev", table.len(), (fewest, most));
    }
    // The paper's has 49.5 % too many.
    let surplus = even("rendezvous", maglev::SMALL, extremes(raced(&members, maglev::SMALL)));
    assert!((0.35..0.65).contains(&surplus), "the fullest backend has {surplus} more than its share");
    if file.is_some() {
        even("rendezvous", maglev::LARGE, extremes(raced(&members, maglev::LARGE)));
        even("source-hash", source_hash::BUCKETS, extremes(raced(&members, source_hash::BUCKETS)));
    }

    let repetitions = if file.is_some() { 200 } else { 3 };
    let mut random = fastrand::Rng::with_seed(1);
    for (leaving, small, large) in FIGURE_12 {
        for (table, paper) in tables.iter().zip([small, large]) {
            let sum: f64 = (0..repetitions).map(|_| changed(&members, table, leaving, &mut random)).sum();
            let percent = sum / f64::from(repetitions);
            writeln!(results, "changed\t{}\t{leaving}\t{percent:.4}\t{paper:.2}", table.len()).unwrap();
            let off = (percent - paper).abs();
            assert!(off < 0.05 + paper / 20.0, "{percent} % of {} with {leaving} away, not {paper} %", table.len());
        }
    }
    if let Some(file) = file {
        fs::write(file, results).expect("write the results");
    }
}
