use super::*;
use proptest::prelude::*;

type Set = BTreeSet<u8>;

/// A name, and a time that passes between its answers.
struct Name {
    known: Known<u8>,
    now: Instant,
    step: Duration,
}

impl Name {
    /// One that is looked up every 5 s.
    fn at(addresses: impl IntoIterator<Item = u8>) -> Name {
        Name::every(5, addresses)
    }

    fn every(seconds: u64, addresses: impl IntoIterator<Item = u8>) -> Name {
        let now = Instant::now();
        Name { known: Known::in_use_are(addresses, now), now, step: Duration::from_secs(seconds) }
    }

    /// What is in use after this answer.
    fn answered(&mut self, answer: impl IntoIterator<Item = u8>) -> Vec<u8> {
        self.now += self.step;
        self.known.answered(&answer.into_iter().collect(), self.now);
        self.in_use()
    }

    fn after(&mut self, answers: &[&[u8]]) -> Vec<Vec<u8>> {
        answers.iter().map(|answer| self.answered(answer.iter().copied())).collect()
    }

    fn heard(&mut self, found: impl IntoIterator<Item = u8>) -> Vec<u8> {
        self.known.heard(&found.into_iter().collect(), self.now);
        self.in_use()
    }

    fn joined(&mut self, found: impl IntoIterator<Item = u8>) -> Vec<u8> {
        self.known.join(&found.into_iter().collect(), self.now);
        self.in_use()
    }

    fn in_use(&self) -> Vec<u8> {
        self.known.in_use().into_iter().collect()
    }

    /// How many answers have only this address until it alone is in use.
    fn answers_until_alone(&mut self, address: u8) -> Option<u32> {
        (1..=200).find(|_| self.answered([address]) == [address])
    }
}

/// A name with so many addresses, of which each answer had one.
fn rotating(seconds: u64, count: u8) -> Name {
    let mut name = Name::every(seconds, [1]);
    (1..u32::from(count) * 10).for_each(|turn| drop(name.answered([(turn % u32::from(count)) as u8 + 1])));
    assert_eq!(name.in_use().len(), usize::from(count));
    name
}

#[test]
fn an_answer_without_a_known_address_replaces_all_at_once() {
    let mut one = Name::at([1]);
    assert_eq!(one.after(&[&[2], &[3, 4], &[3, 4], &[5]]), [vec![2], vec![3, 4], vec![3, 4], vec![5]]);
    let mut rotates = rotating(5, 4);
    assert_eq!(rotates.in_use(), [1, 2, 3, 4]);
    let all = vec![1, 2, 3, 4, 9];
    assert_eq!(
        rotates.after(&[&[9], &[9], &[9], &[9]]),
        [all.clone(), all, vec![9], vec![9]],
        "a rotation needs three"
    );
    assert_eq!(Name::at([1, 2, 3, 4]).after(&[&[9]]), [[9]], "one that no answer has shown yet does not");
}

#[test]
fn a_server_that_is_added_to_a_rotation_joins_it() {
    // An answer may be the same twice: a cache gives it again.
    for times in [1, 2] {
        let mut name = rotating(5, 4);
        for turn in 0..40u32 {
            let answer = [5, 1, 2, 3, 4][(turn / times % 5) as usize];
            assert_eq!(name.answered([answer]), [1, 2, 3, 4, 5], "answer {turn}, {times} of each");
        }
    }
    let mut name = rotating(5, 4);
    assert_eq!(name.after(&[&[5], &[6], &[1], &[7], &[8], &[2]]).pop(), Some((1..=8).collect()));
    let mut name = rotating(5, 4);
    let after = [vec![1, 2, 3, 4, 5], (1..=6).collect(), vec![5, 7]];
    assert_eq!(name.after(&[&[5], &[6], &[5, 7]]), after, "it has moved");
    assert!(name.known.rotation.is_none());
    // What a reload finds joins, too.
    let mut name = rotating(5, 4);
    assert_eq!([name.heard([9]), name.answered([1])], [[1, 2, 3, 4, 9]; 2]);
}

#[test]
fn a_part_of_the_answer_before_removes_the_others_at_once() {
    assert_eq!(Name::at([1, 2]).after(&[&[1, 2], &[1], &[1, 2], &[2]]), [vec![1, 2], vec![1], vec![1, 2], vec![2]]);
    // Whatever came before: the first address was away for long, came back, and is removed.
    let mut name = Name::at([1, 2]);
    (0..16).for_each(|_| assert_eq!(name.answered([2]), [2]));
    assert_eq!(name.after(&[&[1, 2], &[1, 2], &[2]]), [vec![1, 2], vec![1, 2], vec![2]]);
    // Those that an answer before that lacks are removed, too.
    assert_eq!(Name::at([1, 2]).after(&[&[2, 3, 4], &[3, 4]]), [vec![1, 2, 3, 4], vec![3, 4]]);
}

#[test]
fn an_address_joins_at_once_and_leaves_after_three_answers_without_it_if_others_join() {
    let answers: [&[u8]; 5] = [&[2, 3], &[2, 3], &[2, 3], &[2, 3, 4], &[2, 3, 4]];
    let in_use = [vec![1, 2, 3], vec![1, 2, 3], vec![2, 3], vec![2, 3, 4], vec![2, 3, 4]];
    assert_eq!(Name::at([1, 2]).after(&answers), in_use);
    // One that comes back in time begins anew.
    let answers: [&[u8]; 6] = [&[1, 3], &[1, 2, 3], &[1, 3, 4], &[1, 3, 4], &[1, 2, 3, 4], &[1, 3, 4, 5]];
    let last = Name::at([1, 2]).after(&answers).pop();
    assert_eq!(last, Some(vec![1, 2, 3, 4, 5]));
}

#[test]
fn a_name_that_moves_back_and_forth_does_so_at_once() {
    for pause in [1, 2, 4] {
        let mut name = Name::at([1]);
        for turn in 0..60 {
            let at = 1 + turn / pause % 2;
            assert_eq!(name.answered([at]), [at], "answer {turn}, {pause} for each");
        }
        // So it does after a rotation.
        let mut name = rotating(5, 4);
        (0..2).for_each(|_| assert_eq!(name.answered([11]), [1, 2, 3, 4, 11]));
        (0..20).for_each(|turn| assert_eq!(name.answered([11 + turn / pause % 2]), [11 + turn / pause % 2]));
        // So it does beside an address that it had before.
        let mut name = Name::at([3]);
        (0..20).for_each(|turn| assert_eq!(name.answered([1 + turn % 2]), [1 + turn % 2]));
    }
}

#[test]
fn a_rotation_that_is_reduced_to_one_address_keeps_the_others_for_twice_their_absence() {
    let mut name = Name::every(10, [1]);
    (0..80).for_each(|turn| drop(name.answered([turn % 8 + 1])));
    assert_eq!(name.answers_until_alone(8), Some(13), "the last one before it had missed one already");
}

#[test]
fn an_address_leaves_a_rotation_after_three_answers_and_two_minutes_and_at_most_fifteen_minutes() {
    // In each, one address had missed one already.
    for (seconds, count, answers) in [(5, 3, 23), (1, 3, 119), (40, 3, 3), (300, 3, 2), (120, 8, 7), (60, 8, 13)] {
        let mut name = rotating(seconds, count);
        let last = name.in_use().into_iter().find(|at| name.known.addresses[at].missed == 0).expect("it was answered");
        assert_eq!(name.answers_until_alone(last), Some(answers), "every {seconds} s, {count} addresses");
        (0..8).for_each(|_| assert_eq!(name.answered([last]), [last]));
        assert!(name.known.rotation.is_none(), "and the rotation is over");
    }
}

#[test]
fn an_absence_before_the_rotation_is_none_of_its_absences() {
    let mut name = Name::every(60, [1, 2]);
    (0..20).for_each(|_| drop(name.answered([1])));
    (0..30).for_each(|turn| drop(name.answered([[1, 2], [2, 3], [3, 1]][turn % 3])));
    assert_eq!(name.in_use(), [1, 2, 3]);
    assert_eq!(name.after(&[&[1], &[1], &[1]]), [vec![1, 2, 3], vec![1, 3], vec![1]]);
}

#[test]
fn a_name_that_comes_into_use_with_three_addresses_may_rotate() {
    let mut name = Name::at([1, 2, 3]);
    (0..60).for_each(|turn| assert_eq!(name.answered([turn % 3 + 1]), [1, 2, 3]));
    // An answer with all shows that it does not.
    assert_eq!(Name::at([1, 2, 3]).after(&[&[1, 2, 3], &[1, 2]]), [vec![1, 2, 3], vec![1, 2]]);
    assert_eq!(Name::at([1, 2]).after(&[&[1]]), [[1]], "two do not rotate");
}

#[test]
fn what_a_reload_finds_makes_no_address_leave() {
    let mut name = Name::at([1, 2]);
    (0..100).for_each(|_| drop(name.heard([2, 3])));
    assert_eq!(name.in_use(), [1, 2, 3]);
    assert_eq!(name.heard([4]), [4], "but a move is one");
    assert_eq!(name.after(&[&[4], &[1, 2]]), [vec![4], vec![1, 2]]);
    // A part is no removal.
    let mut name = Name::at([1, 2]);
    assert_eq!([name.answered([1, 2]), name.heard([1]), name.answered([1, 2])], [[1, 2], [1, 2], [1, 2]]);
}

#[test]
fn what_a_reload_finds_may_join_only_until_the_next_answer() {
    let mut name = Name::at([1]);
    assert_eq!([name.answered([2]), name.joined([1])], [vec![2], vec![1, 2]]);
    assert_eq!(name.answered([2]), [2]);
    assert_eq!([name.joined([9]), name.answered([2, 9]), name.answered([2, 9])], [[2, 9], [2, 9], [2, 9]]);
    let mut rotates = rotating(5, 4);
    assert_eq!(rotates.joined([9]), [1, 2, 3, 4, 9]);
    let left = (0..60).find(|turn| rotates.answered([turn % 4 + 1]) == [1, 2, 3, 4]);
    assert_eq!(left, Some(23), "two minutes");
}

#[test]
fn a_refused_answer_is_forgotten() {
    let mut name = Name::at([1, 2]);
    assert_eq!([name.answered([1, 2]), name.answered([9])], [vec![1, 2], vec![9]]);
    name.known.refuse(&Set::from([1, 2]), name.now);
    assert_eq!(name.in_use(), [1, 2]);
    assert_eq!(name.after(&[&[1, 2], &[1]]), [vec![1, 2], vec![1]]);
    // It is refused for as long as it is answered.
    (0..100).for_each(|_| {
        assert_eq!(name.answered([9]), [9]);
        name.known.refuse(&Set::from([1]), name.now);
        assert_eq!(name.in_use(), [1]);
    });
    let mut rotates = rotating(5, 4);
    assert_eq!(rotates.answered([1, 9]), [1, 2, 3, 4, 9]);
    rotates.known.refuse(&Set::from([1, 2, 3, 4]), rotates.now);
    assert_eq!(rotates.after(&[&[2], &[3]]), [[1, 2, 3, 4]; 2], "the rotation goes on");
}

#[test]
fn more_addresses_than_fit_are_forgotten_by_their_absence() {
    let mut name = Name::every(1, [1]);
    for turn in 0..200 {
        name.answered([1, 2 + turn]);
        assert!(name.known.addresses.len() <= 2 + KNOWN_MAX);
    }
    let all = name.answered(1..=200);
    assert_eq!((all.len(), name.known.addresses.len()), (201, 201), "an answer is taken as a whole");
    // What a reload finds counts for those that are absent, and removes none of the last answer.
    (0..=255).for_each(|at| drop(name.joined([at])));
    assert!(name.known.addresses.len() <= 200 + 1 + KNOWN_MAX);
    assert!(Set::from_iter(1..=200).is_subset(&name.known.in_use()));
}

/// The rules of the module, by all answers so far.
struct Definition {
    past: Vec<(Instant, Set)>,
    in_use: Set,
    longest: Option<u32>,
    /// The number of the last answer that moved the name.
    moved: usize,
    /// The strange answers right before the next one.
    strange: Vec<Set>,
}

impl Definition {
    fn new(addresses: Set, now: Instant) -> Definition {
        let longest = (addresses.len() >= 3).then_some(0);
        let past = vec![(now, addresses.clone())];
        Definition { past, in_use: addresses, longest, moved: 0, strange: Vec::new() }
    }

    /// Answers that lacked it in a row when the answer of this number came, and when it was seen.
    fn absence(&self, number: usize, at: u8) -> Option<(u32, Instant)> {
        let last = self.past[..number].iter().rposition(|(_, answer)| answer.contains(&at))?;
        Some(((number - 1 - last) as u32, self.past[last].0))
    }

    /// Its absence, if it is known when the answer of this number comes.
    fn known(&self, number: usize, at: u8) -> Option<u32> {
        let (missed, seen) = self.absence(number, at)?;
        let age = self.past[number - 1].0 - seen;
        (missed < 32 || age < Duration::from_secs(120)).then_some(missed)
    }

    fn comes_back(&self, number: usize, at: u8) -> bool {
        number > 0 && self.past[number].1.contains(&at) && self.known(number, at).is_some_and(|missed| missed > 0)
    }

    fn turns(&self, number: usize) -> bool {
        let answer = &self.past[number].1;
        answer.iter().any(|at| self.comes_back(number, *at)) && !self.past[number - 1].1.is_subset(answer)
    }

    fn answered(&mut self, answer: &Set, now: Instant) {
        let number = self.past.len();
        self.past.push((now, answer.clone()));
        let known: Vec<u32> = answer.iter().filter_map(|at| self.known(number, *at)).collect();
        let of_strange = |at: &u8| self.strange.iter().any(|answer| answer.contains(at));
        if answer.iter().any(|at| self.known(number, *at).is_some() && !of_strange(at)) {
            self.strange.clear();
        } else {
            self.strange.push(answer.clone());
        }
        let moves = match self.longest {
            Some(1..) => self.strange.len() == 3,
            _ => self.strange.len() == 1,
        };
        if moves {
            (self.moved, self.strange) = (number, Vec::new());
        }
        let recent = || number.saturating_sub(7).max(self.moved)..=number;
        let turned = recent().filter(|number| self.turns(*number)).count();
        let returning = (0..=u8::MAX).filter(|at| recent().any(|number| self.comes_back(number, *at))).count();
        let before = self.longest;
        let rotates = before.is_some() || self.turns(number) && turned >= 3 && returning >= 3;
        let absence = known.iter().max().copied().unwrap_or(0);
        self.longest = (rotates && !moves).then(|| before.unwrap_or(0).max(absence));
        let all: Set = self.past.iter().flat_map(|(_, answer)| answer).copied().collect();
        let others = all.into_iter().filter(|at| !answer.contains(at)).filter(|at| {
            let Some((missed, seen)) = self.absence(number + 1, *at) else { return false };
            let (is_in_use, age) = (self.in_use.contains(at), (now - seen).as_secs());
            match self.longest {
                Some(longest) => {
                    let may_leave = missed >= 3 && age >= 120 && (missed >= 2 * longest || missed >= 32 || age >= 900);
                    let is_known = missed < 32 || age < 120;
                    (is_in_use || before.is_none() && self.known(number, *at).is_some()) && is_known && !may_leave
                }
                None => {
                    let previous = &self.past[number - 1].1;
                    let is_part = answer.is_subset(previous) && answer != previous;
                    is_in_use && missed < 3 && !is_part && !moves && !answer.is_disjoint(&self.in_use)
                }
            }
        });
        self.in_use = others.chain(answer.iter().copied()).collect();
        self.longest = self.longest.filter(|_| turned >= 3 || self.in_use != *answer);
    }
}

/// Answers of all kinds: any at all, parts in turn, fail-overs; each some time after the one before.
fn answers() -> impl Strategy<Value = Vec<(Set, u64)>> {
    let any = prop::collection::vec(prop::collection::btree_set(1u8..12, 1..5), 1..40);
    let turns = (2u8..8, 1u8..4, 1u8..40).prop_map(|(count, part, answers)| {
        let answer = |turn: u8| (0..part).map(|next| 1 + (turn * part + next) % count).collect::<Set>();
        (0..answers).map(answer).collect::<Vec<_>>()
    });
    let runs = prop::collection::vec((prop_oneof![any, turns], 1u64..400), 1..5);
    runs.prop_map(|runs| {
        let timed = |(answers, step): (Vec<Set>, u64)| answers.into_iter().map(move |answer| (answer, step));
        runs.into_iter().flat_map(timed).collect()
    })
}

proptest! {
    /// After each answer those are in use that the rules name.
    #[test]
    fn those_in_use_follow_the_definition(first in prop::collection::btree_set(1u8..12, 1..5), answers in answers()) {
        let mut now = Instant::now();
        let (mut known, mut definition) = (Known::in_use_are(first.clone(), now), Definition::new(first, now));
        for (answer, step) in answers {
            now += Duration::from_secs(step);
            known.answered(&answer, now);
            definition.answered(&answer, now);
            prop_assert_eq!(known.in_use(), definition.in_use.clone(), "after {:?}", definition.past);
            prop_assert_eq!(known.rotation, definition.longest);
        }
    }

    /// Whatever the answers are: the last one is in use; without a known address it alone is, unless the name rotates. While it
    /// rotates, no address leaves that was seen within two minutes or 3 answers, except by a move. None stays for 15 minutes beyond its third missing answer.
    #[test]
    fn no_answer_is_left_out_and_no_address_leaves_a_rotation_early_or_stays_for_long(answers in answers()) {
        let mut now = Instant::now();
        let mut known = Known::in_use_are([1], now);
        let mut past = vec![(now, Set::from([1]))];
        for (answer, step) in answers {
            now += Duration::from_secs(step);
            let (before, rotated) = (known.in_use(), known.rotation.is_some());
            let is_known = answer.iter().any(|at| known.addresses.get(at).is_some_and(|address| !address.is_strange));
            let has_moved = !is_known && (!known.has_returns() || known.strange == 2);
            known.answered(&answer, now);
            past.push((now, answer.clone()));
            let in_use = known.in_use();
            prop_assert!(answer.is_subset(&in_use));
            if has_moved {
                prop_assert_eq!(&in_use, &answer);
            }
            let has = |(_, other): &&(Instant, Set), at: &u8| other.contains(at);
            if rotated && !has_moved {
                for at in before.difference(&in_use) {
                    prop_assert!(past.iter().rev().take(3).all(|other| !has(&other, at)), "{at}");
                    let recent = |(then, _): &&(Instant, Set)| now - *then < STAY_LEAST;
                    prop_assert!(past.iter().filter(recent).all(|other| !has(&other, at)), "{at}");
                }
            }
            for at in &in_use {
                let last = past.iter().rposition(|other| has(&other, at)).expect("an answer had it");
                prop_assert!(past.len() - last <= 3 || now - past[last].0 < STAY_MOST, "{at}");
            }
        }
    }

    /// A rotation through parts of any size settles, and then nothing changes any more. One address of two in turn is none.
    #[test]
    fn a_rotation_in_turn_settles(count in 2u8..24, part in 1u8..8, first in 0u8..24) {
        let part = part.min(count);
        let is_failover = (count, part) == (2, 1);
        let answer = |turn: u32| (0..part).map(move |next| ((turn * u32::from(part) + u32::from(next)) % u32::from(count)) as u8);
        let mut name = Name::at(answer(first.into()));
        for turn in 1..200 {
            let in_use = name.answered(answer(u32::from(first) + turn));
            if is_failover {
                prop_assert_eq!(in_use.len(), 1);
            } else if turn > 2 * u32::from(count) + 8 {
                prop_assert_eq!(in_use.len(), usize::from(count), "answer {}", turn);
            }
        }
    }

    /// Once the answers stay the same, they alone are in use.
    #[test]
    fn what_is_answered_for_long_is_all_that_is_in_use(
        answers in prop::collection::vec(prop::collection::btree_set(1u8..12, 1..5), 0..80),
        last in prop::collection::btree_set(1u8..12, 1..5),
    ) {
        let mut name = Name::at([1]);
        answers.into_iter().for_each(|answer| drop(name.answered(answer)));
        (0..MEMORY).for_each(|_| drop(name.answered(last.clone())));
        prop_assert_eq!(name.known.in_use(), last);
    }

    /// What a reload finds joins, and takes no address away where it must not move the name.
    #[test]
    fn what_may_only_join_takes_no_address_away(answers in answers(), found in prop::collection::btree_set(1u8..20, 1..8)) {
        let mut name = Name::at([1]);
        for (answer, _) in answers {
            let before = name.known.in_use();
            let after: Set = name.joined(found.clone()).into_iter().collect();
            prop_assert_eq!(after, &before | &found);
            name.answered(answer);
        }
    }
}
