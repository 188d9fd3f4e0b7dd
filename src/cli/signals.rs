//! Signals, as values in a channel: no code of ours runs inside a handler.
//!
//! Ctrl-C (SIGINT) comes through the ctrlc crate, the others through signal-hook's thread. A signal that arrives while
//! the channel is full is dropped: whoever sent sixteen unheard ones sends another.

use crossbeam_channel::{Receiver, Sender, bounded};
use signal_hook::consts::{SIGHUP, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use std::io;
use std::thread;

const WAITING: usize = 16;

/// What the operator wants.
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

/// From here on signals no longer end the process but arrive in the channel. Once per process.
pub fn receiver() -> io::Result<Receiver<Signal>> {
    let (sender, receiver) = bounded(WAITING);
    let interrupted = sender.clone();
    ctrlc::set_handler(move || tell(&interrupted, Signal::Stop)).map_err(io::Error::other)?;
    let mut signals = Signals::new([SIGTERM, SIGHUP, SIGUSR1, SIGUSR2])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            tell(
                &sender,
                match signal {
                    SIGHUP => Signal::Hangup,
                    SIGUSR1 => Signal::User1,
                    SIGUSR2 => Signal::User2,
                    _ => Signal::Stop,
                },
            );
        }
    })?;
    Ok(receiver)
}

fn tell(sender: &Sender<Signal>, signal: Signal) {
    // Full, or nobody listens any more: either way the process is on its way out.
    let _ = sender.try_send(signal);
}
