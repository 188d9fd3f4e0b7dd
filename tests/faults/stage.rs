//! Plays scripts: all pairs at once, both sides of each, in one thread, over sockets that never block it.

mod peer;

use crate::script::Script;
use crate::support::{Conn, PATIENCE};
use peer::{Look, Peer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::time::{Duration, Instant};

/// Who could say nothing for so long is blocked by full buffers, not by a busy machine.
const STUCK: Duration = Duration::from_millis(400);

/// The longest that it waits for the kernel before it looks at its peers again.
const NAP: Duration = Duration::from_millis(20);

/// Pairs of peers, each with a tcplb in between.
#[derive(Default)]
pub struct Stage {
    pairs: Vec<[Peer; 2]>,
    held: bool,
}

impl Stage {
    /// Adds a pair that is connected already: client and backend.
    pub fn add(&mut self, (client, backend): (Conn, Conn), one: &Script, other: &Script) {
        let number = self.pairs.len();
        self.pairs.push([Peer::new(client, number, true, one), Peer::new(backend, number, false, other)]);
    }

    /// From now on nobody ends a pause because nothing happens.
    pub fn hold(&mut self) {
        self.held = true;
    }

    /// The opposite.
    pub fn release(&mut self) {
        self.held = false;
    }

    /// Has everybody come to where only others could get them further, and has been there for a while?
    pub fn is_stuck(&self) -> bool {
        self.pairs.iter().flatten().all(|peer| peer.is_over() || peer.waits() || peer.blocked_for(STUCK))
    }

    /// How many have more to say than is taken.
    pub fn blocked(&self) -> usize {
        self.pairs.iter().flatten().filter(|peer| peer.blocked_for(STUCK)).count()
    }

    /// Plays until all scripts are over, and judges how each side saw the other.
    #[track_caller]
    pub fn play(&mut self) {
        self.play_until("every pair has ended", |stage| stage.pairs.iter().flatten().all(Peer::is_over));
        let wrong: Vec<String> =
            self.pairs.iter().flat_map(|[one, other]| [one.judge(other), other.judge(one)]).flatten().collect();
        assert!(wrong.is_empty(), "{} of {} pairs:\n{}", wrong.len(), self.pairs.len(), first_lines(&wrong));
        self.pairs.clear();
    }

    /// Plays until `condition` holds. Fails where nothing has moved for longer than anybody's patience.
    #[track_caller]
    pub fn play_until(&mut self, what: &str, condition: impl Fn(&Stage) -> bool) {
        let (mut moved, mut last) = (self.moved(), Instant::now());
        while !condition(self) {
            self.listen();
            for [one, other] in &mut self.pairs {
                one.act(&Look::at(other, STUCK, self.held));
                other.act(&Look::at(one, STUCK, self.held));
            }
            let now = self.moved();
            if now != moved {
                (moved, last) = (now, Instant::now());
            }
            if last.elapsed() > PATIENCE {
                let open = self.pairs.iter().filter(|pair| !pair.iter().all(Peer::is_over));
                let open: Vec<String> = open.map(|[one, other]| format!("{one}\n    {other}")).collect();
                panic!("nothing moves any more, but not: {what}\n{}", first_lines(&open));
            }
        }
    }

    /// Waits for the kernel, and takes what it has for those who read.
    fn listen(&mut self) {
        let mut peers: Vec<&mut Peer> = self.pairs.iter_mut().flatten().filter(|peer| !peer.is_over()).collect();
        let ready: Vec<PollFlags> = {
            let mut asked: Vec<PollFd<'_>> =
                peers.iter().filter_map(|peer| Some(PollFd::new(peer.conn()?, peer.interest()))).collect();
            let nap = Timespec::try_from(NAP).expect("a short time");
            poll(&mut asked, Some(&nap)).expect("poll the stage's sockets");
            asked.iter().map(PollFd::revents).collect()
        };
        for (peer, ready) in peers.iter_mut().zip(ready) {
            peer.on(ready);
        }
    }

    /// Changes with everything that anybody does.
    fn moved(&self) -> u64 {
        self.pairs.iter().flatten().map(Peer::moved).sum()
    }
}

fn first_lines(all: &[String]) -> String {
    all.iter().take(12).map(String::as_str).collect::<Vec<_>>().join("\n")
}
