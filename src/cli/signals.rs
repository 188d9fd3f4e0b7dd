//! Signals as values; none of our code runs inside a signal handler.
//!
//! SIGINT comes through the ctrlc crate, the others through signal-hook's thread. Each kind has a queue of its own, so
//! that one kind can't displace another. Repeated signals of a kind become one, except a stop, whose second one ends
//! the drain. A stop is delivered before all others.

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select_biased};
use signal_hook::consts::{SIGHUP, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator;
use std::io;
use std::thread;
use std::time::Duration;

/// A signal to the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT or SIGTERM.
    Stop,
    /// SIGHUP.
    Hangup,
    /// SIGUSR1.
    User1,
    /// SIGUSR2.
    User2,
}

/// The receiving ends.
pub struct Signals {
    stops: Receiver<()>,
    hangups: Receiver<()>,
    firsts: Receiver<()>,
    seconds: Receiver<()>,
}

/// The sending ends.
#[derive(Clone)]
struct Places {
    stops: Sender<()>,
    hangups: Sender<()>,
    firsts: Sender<()>,
    seconds: Sender<()>,
}

/// Installs the handlers: from here on signals arrive in the returned value instead of ending the process. Call it once
/// per process. Fails if a handler or the thread can't be installed.
pub fn receiver() -> io::Result<Signals> {
    let (places, signals) = places();
    let interrupted = places.clone();
    ctrlc::set_handler(move || interrupted.put(Signal::Stop)).map_err(io::Error::other)?;
    let mut arriving = iterator::Signals::new([SIGTERM, SIGHUP, SIGUSR1, SIGUSR2])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in arriving.forever() {
            places.put(match signal {
                SIGHUP => Signal::Hangup,
                SIGUSR1 => Signal::User1,
                SIGUSR2 => Signal::User2,
                _ => Signal::Stop,
            });
        }
    })?;
    Ok(signals)
}

fn places() -> (Places, Signals) {
    // The first stop begins a drain and the second ends it; a third adds nothing.
    let (stops, of_stops) = bounded(2);
    let ((hangups, of_hangups), (firsts, of_firsts), (seconds, of_seconds)) = (bounded(1), bounded(1), bounded(1));
    let signals = Signals { stops: of_stops, hangups: of_hangups, firsts: of_firsts, seconds: of_seconds };
    (Places { stops, hangups, firsts, seconds }, signals)
}

impl Places {
    fn put(&self, signal: Signal) {
        let place = match signal {
            Signal::Stop => &self.stops,
            Signal::Hangup => &self.hangups,
            Signal::User1 => &self.firsts,
            Signal::User2 => &self.seconds,
        };
        // A full queue holds the same signal already; a disconnected one means that the process ends.
        let _ = place.try_send(());
    }
}

impl Iterator for Signals {
    type Item = Signal;

    /// Waits for the next signal, a stop before all others; `None` once no signal can come.
    fn next(&mut self) -> Option<Signal> {
        select_biased! {
            recv(self.stops) -> signal => signal.ok().map(|()| Signal::Stop),
            recv(self.firsts) -> signal => signal.ok().map(|()| Signal::User1),
            recv(self.seconds) -> signal => signal.ok().map(|()| Signal::User2),
            recv(self.hangups) -> signal => signal.ok().map(|()| Signal::Hangup),
        }
    }
}

impl Signals {
    /// The channel of stops. A stop received there is not delivered by the iterator.
    pub fn stops(&self) -> Receiver<()> {
        self.stops.clone()
    }

    /// Waits for a stop and ignores other signals.
    pub fn wait_for_stop(&self) {
        // An error means that no signal can come any more.
        let _ = self.stops.recv();
    }

    /// Whether a stop comes within this time.
    pub fn stops_within(&self, time: Duration) -> bool {
        self.stops.recv_timeout(time) != Err(RecvTimeoutError::Timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_comes_first_and_repeated_signals_become_one() {
        let (places, mut signals) = places();
        for _ in 0..100 {
            [Signal::Hangup, Signal::User1, Signal::User2].into_iter().for_each(|signal| places.put(signal));
        }
        (0..3).for_each(|_| places.put(Signal::Stop));
        let next: Vec<Signal> = (0..5).filter_map(|_| signals.next()).collect();
        assert_eq!(next, [Signal::Stop, Signal::Stop, Signal::User1, Signal::User2, Signal::Hangup]);
        drop(places);
        assert_eq!(signals.next(), None);
    }
}
