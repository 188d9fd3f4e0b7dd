//! Plays scripts: all pairs at once, both sides of each, in one thread, over sockets that never block it.

mod observation;
mod peer;

pub use observation::Observation;

use crate::script::Script;
use peer::{Look, Peer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::time::{Duration, Instant};
use testkit::{Conn, PATIENCE};

/// A peer that could write nothing for so long is blocked by full buffers, not by a busy machine.
const STUCK: Duration = Duration::from_millis(400);

/// The longest that it waits for the kernel before it looks at its peers again.
const NAP: Duration = Duration::from_millis(20);

/// The same where the order is random: most rounds find nothing to do.
const SHORT_NAP: Duration = Duration::from_millis(1);

/// Pairs of peers, each with a tcplb in between.
#[derive(Default)]
pub struct Scenario {
    pairs: Vec<[Peer; 2]>,
    held: bool,
    /// Picks the peer with the next turn.
    random: Option<fastrand::Rng>,
}

impl Scenario {
    /// Peers act and read in a random order, each in about every second round. They write little at a time, as over a
    /// network that takes random times.
    pub fn shuffled(random: fastrand::Rng) -> Scenario {
        Scenario { random: Some(random), ..Scenario::default() }
    }

    /// Adds a pair that is connected already: client and backend.
    pub fn add(&mut self, (client, backend): (Conn, Conn), one: &Script, other: &Script) {
        let number = self.pairs.len();
        let mut pair = [Peer::new(client, number, true, one), Peer::new(backend, number, false, other)];
        if let Some(random) = &mut self.random {
            pair.iter_mut().for_each(|peer| peer.hesitate(random.fork()));
        }
        self.pairs.push(pair);
    }

    /// From now on no peer ends a pause because nothing happens.
    pub fn hold(&mut self) {
        self.held = true;
    }

    /// The opposite.
    pub fn release(&mut self) {
        self.held = false;
    }

    /// Has every peer come to where only another one could get it further, and has been there for a while?
    pub fn is_stuck(&self) -> bool {
        self.pairs.iter().flatten().all(|peer| peer.is_over() || peer.waits() || peer.blocked_for(STUCK))
    }

    /// How many have more to write than is taken.
    pub fn blocked(&self) -> usize {
        self.pairs.iter().flatten().filter(|peer| peer.blocked_for(STUCK)).count()
    }

    /// Plays until all scripts are over, and checks how each side saw the other.
    #[track_caller]
    pub fn play(&mut self) {
        self.play_until("every pair has ended", |scenario| scenario.pairs.iter().flatten().all(Peer::is_over));
        let wrong: Vec<String> =
            self.pairs.iter().flat_map(|[one, other]| [one.check(other), other.check(one)]).flatten().collect();
        assert!(wrong.is_empty(), "{} of {} pairs:\n{}", wrong.len(), self.pairs.len(), first_lines(&wrong));
        self.pairs.clear();
    }

    /// Plays until all scripts are over, or nothing has moved for `patience`: what each side has seen, client first.
    pub fn observe(&mut self, patience: Duration) -> Vec<[Observation; 2]> {
        let since = Instant::now();
        self.run(patience, |scenario| scenario.pairs.iter().flatten().all(Peer::is_over));
        self.pairs.drain(..).map(|pair| pair.map(|peer| peer.observation(since))).collect()
    }

    /// Plays until `condition` holds. Fails where nothing has moved for longer than any patience.
    #[track_caller]
    pub fn play_until(&mut self, what: &str, condition: impl Fn(&Scenario) -> bool) {
        if !self.run(PATIENCE, condition) {
            let open = self.pairs.iter().filter(|pair| !pair.iter().all(Peer::is_over));
            let open: Vec<String> = open.map(|[one, other]| format!("{one}\n    {other}")).collect();
            panic!("nothing moves any more, but not: {what}\n{}", first_lines(&open));
        }
    }

    /// Plays until `condition` holds; false: nothing has moved for `patience` before.
    fn run(&mut self, patience: Duration, condition: impl Fn(&Scenario) -> bool) -> bool {
        let (mut moved, mut last, mut round) = (self.moved(), Instant::now(), Instant::now());
        while !condition(self) {
            self.listen();
            if round.elapsed() > STUCK {
                self.note_starved(round);
            }
            round = Instant::now();
            for [one, other] in &mut self.pairs {
                if has_turn(&mut self.random) {
                    one.act(&Look::at(other, STUCK, self.held));
                }
                if has_turn(&mut self.random) {
                    other.act(&Look::at(one, STUCK, self.held));
                }
            }
            let now = self.moved();
            if now != moved {
                (moved, last) = (now, Instant::now());
            }
            if last.elapsed() > patience {
                return false;
            }
        }
        true
    }

    /// No peer has read since then, for lack of a processor. That may cost bytes once the other side has gone.
    fn note_starved(&mut self, since: Instant) {
        for [one, other] in &mut self.pairs {
            if one.conn().is_none() {
                other.note_starved(since);
            }
            if other.conn().is_none() {
                one.note_starved(since);
            }
        }
    }

    /// Waits for the kernel, and takes what it has for those that read.
    fn listen(&mut self) {
        let nap = if self.random.is_some() { SHORT_NAP } else { NAP };
        let random = &mut self.random;
        let mut peers: Vec<&mut Peer> =
            self.pairs.iter_mut().flatten().filter(|peer| !peer.is_over() && has_turn(random)).collect();
        let ready: Vec<PollFlags> = {
            let mut asked: Vec<PollFd<'_>> =
                peers.iter().filter_map(|peer| Some(PollFd::new(peer.conn()?, peer.interest()))).collect();
            let nap = Timespec::try_from(nap).expect("a short time");
            poll(&mut asked, Some(&nap)).expect("poll the scenario's sockets");
            asked.iter().map(PollFd::revents).collect()
        };
        for (peer, ready) in peers.iter_mut().zip(ready) {
            peer.on(ready);
        }
    }

    /// Changes with everything that any peer does.
    fn moved(&self) -> u64 {
        self.pairs.iter().flatten().map(Peer::moved).sum()
    }
}

fn has_turn(random: &mut Option<fastrand::Rng>) -> bool {
    random.as_mut().is_none_or(fastrand::Rng::bool)
}

fn first_lines(all: &[String]) -> String {
    all.iter().take(12).map(String::as_str).collect::<Vec<_>>().join("\n")
}
