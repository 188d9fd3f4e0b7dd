//! Which worker serves a fresh connection: the one that accepted it, or a peer.
//!
//! The kernel spreads connections over the workers by a hash. That is even except for chance, which is large among few connections.
//! Once in eight times, one of two workers gets all four streams of a client. They share its core then, while another core idles.
//!
//! | this worker | a peer | the peer serves it |
//! |---|---|---|
//! | has no time left | idles | always |
//! | has far more connections | is busy or not | always |
//! | has a few more connections | is not clearly busier | at most [`EVENED_OUT`] times a second |
//! | alone listens on this socket | has fewer connections | always |
//! | – | has ended, or reads no mail | never |
//!
//! Among several such peers, the one with the fewest connections serves it. A client on its way counts as a connection.
//!
//! A hand-over costs a message and the wake-up of a thread. A connection that stays for a second repays it, a short one does
//! not. The bound decides: of thousands of short connections a second it lets few be handed over, of a few long ones all that are
//! needed.

use super::driver::Transport;
use crate::base::Tick;
use std::cmp::Reverse;
use std::time::Duration;

/// A worker that is busy for more than this share of its time, in percent, has no time left,
const BUSY: u32 = 90;
/// and one below this share idles.
const IDLE: u32 = 50;

/// A difference in connections that is larger than chance.
const FAR_FEWER: usize = 64;

/// One of so many connections is no difference.
const SLACK: usize = 16;

/// A worker that is busy for so many percent more is clearly busier.
const BUSIER: u32 = 10;

/// How often a small difference is evened out, in a [`PERIOD`].
const EVENED_OUT: u32 = 64;
const PERIOD: Duration = Duration::from_secs(1);

/// A worker that has read no mail for so long, although there is some, stands still. Its turns are shorter by far, and it waits less
/// for a core.
pub(super) const STANDS_STILL: Duration = Duration::from_millis(100);

/// How much a worker has to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Those that it has, and those on their way to it.
    pub connections: usize,
    /// How much of the last moment it was at work, in percent.
    pub busy: u32,
}

/// Decides for one worker, and counts what small differences have cost.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    /// Hand-overs for a small difference since then.
    evened_out: u32,
    since: Tick,
}

/// What a hand-over brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Gain {
    Small,
    Large,
}

impl Hosts {
    /// Which of these peers is to serve a connection that this worker has accepted; `None`: it serves the connection itself.
    pub(super) fn choose(
        &mut self,
        own: Load,
        peers: impl Iterator<Item = (usize, Load)>,
        transport: Transport,
        now: Tick,
    ) -> Option<usize> {
        let gains = peers.filter_map(|(number, peer)| Some((gain(own, peer, transport)?, peer.connections, number)));
        let (gain, _, number) = gains.max_by_key(|(gain, connections, _)| (*gain, Reverse(*connections)))?;
        (gain == Gain::Large || self.may_even_out(now)).then_some(number)
    }

    fn may_even_out(&mut self, now: Tick) -> bool {
        if now - self.since >= PERIOD {
            (self.evened_out, self.since) = (0, now);
        }
        let may = self.evened_out < EVENED_OUT;
        self.evened_out += u32::from(may);
        may
    }
}

fn gain(own: Load, peer: Load, transport: Transport) -> Option<Gain> {
    if transport == Transport::Unix {
        return (own.connections > peer.connections).then_some(Gain::Large);
    }
    let is_strained = own.busy > BUSY && peer.busy < IDLE;
    if is_strained || own.connections > peer.connections + FAR_FEWER + peer.connections / 2 {
        return Some(Gain::Large);
    }
    let has_fewer = own.connections > peer.connections + own.connections / SLACK;
    (has_fewer && peer.busy <= own.busy + BUSIER).then_some(Gain::Small)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Transport::{Tcp, Unix};

    fn load(connections: usize, busy: u32) -> Load {
        Load { connections, busy }
    }

    impl Hosts {
        /// Whether the one peer serves a connection.
        fn hands_over(&mut self, own: Load, peer: Load, transport: Transport, now: Tick) -> bool {
            self.choose(own, std::iter::once((1, peer)), transport, now).is_some()
        }
    }

    /// What becomes of one connection, at a worker that has handed over none.
    fn hands_over(own: Load, peer: Load, transport: Transport) -> bool {
        Hosts::default().hands_over(own, peer, transport, Tick::default())
    }

    #[test]
    fn of_several_peers_the_one_with_the_fewest_connections_serves_it_unless_it_is_busier() {
        let choose = |own, peers: &[Load]| {
            let peers = peers.iter().copied().zip(1..).map(|(load, number)| (number, load));
            Hosts::default().choose(own, peers, Tcp, Tick::default())
        };
        assert_eq!(choose(load(5, 10), &[load(4, 10), load(2, 10), load(3, 10)]), Some(2));
        assert_eq!(choose(load(5, 10), &[load(4, 10), load(2, 80), load(3, 10)]), Some(3));
        assert_eq!(choose(load(5, 95), &[load(2, 80), load(9, 10)]), Some(2), "it has time");
        assert_eq!(choose(load(5, 10), &[load(5, 10), load(9, 10)]), None);
        assert_eq!(choose(load(5, 10), &[]), None, "it is alone");
    }

    #[test]
    fn few_connections_are_spread_one_by_one() {
        let (mut hosts, mut connections) = (Hosts::default(), [0, 0]);
        let each = SLACK - 1;
        for _ in 0..2 * each {
            let [own, theirs] = connections;
            let peer_serves = hosts.hands_over(load(own, 0), load(theirs, 0), Tcp, Tick::default());
            connections[usize::from(peer_serves)] += 1;
        }
        assert_eq!(connections, [each, each], "all came to the queue of the first");
    }

    #[test]
    fn a_small_difference_is_left_if_the_peer_is_clearly_busier() {
        assert!(hands_over(load(4, 30), load(2, 30 + BUSIER), Tcp));
        assert!(!hands_over(load(4, 30), load(2, 31 + BUSIER), Tcp));
        assert!(!hands_over(load(160, 0), load(150, 0), Tcp), "one in {SLACK} is no difference");
    }

    #[test]
    fn small_differences_are_evened_out_so_many_times_a_second() {
        let mut hosts = Hosts::default();
        let mut of_ten_thousand = |from: u64| {
            let at = |n: u64| Tick(from + n * PERIOD.as_micros() as u64 / 10_000);
            (0..10_000).filter(|n| hosts.hands_over(load(40, 50), load(30, 50), Tcp, at(*n))).count()
        };
        assert_eq!(of_ten_thousand(0), EVENED_OUT as usize);
        assert_eq!(of_ten_thousand(PERIOD.as_micros() as u64), EVENED_OUT as usize, "in the next second");
    }

    #[test]
    fn a_large_difference_and_a_worker_without_time_need_no_allowance() {
        let mut hosts = Hosts::default();
        for _ in 0..10 * EVENED_OUT {
            assert!(hosts.hands_over(load(65, 0), load(0, 100), Tcp, Tick::default()));
            assert!(hosts.hands_over(load(1, 91), load(1, 49), Tcp, Tick::default()));
        }
        assert!(hands_over(load(10, 20), load(9, 20), Tcp), "none of them was for a small difference");
    }

    #[test]
    fn a_socket_of_one_worker_is_spread_whatever_the_difference() {
        for own in 1..200 {
            assert!(hands_over(load(own, 0), load(own - 1, 100), Unix));
            assert!(!hands_over(load(own, 100), load(own, 0), Unix));
        }
    }
}
