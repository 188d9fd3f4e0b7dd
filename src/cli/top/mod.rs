//! `tcplb top`: a running tcplb in the terminal, worst first.
//!
//! | module | part |
//! |---|---|
//! | `state` | the state and what an input does to it; pure, time is an argument |
//! | `keys` | the one table of keys; the help screen shows it |
//! | `rows` | the rows of a screen: filtered, in order |
//! | `layout` | how many lines each part of a screen has |
//! | `view` | draws a state into a buffer of cells |
//! | `poll` | thread: asks the admin API once a second |
//! | `screen` | takes the terminal, and gives it back on every way out |
//!
//! Three threads feed one bounded channel: keys, signals and answers. The main thread takes an input, updates the state
//! and draws. So a key never waits for the network.
//!
//! # Screens
//!
//! | screen | rows | Enter leads to | Esc, Backspace |
//! |---|---|---|---|
//! | 1 overview | pools and their backends, then the last events | the pool's backends, or the backend's connections | clear the filter, then the selection |
//! | 2 backends | backends of all pools, or of one | the backend's connections | as above, then back |
//! | 3 connections | open connections of all, or of one backend | explain: where this client would go now | as above, then back |
//! | 4 events | the events that tcplb keeps, newest first | | as above |
//! | 5 findings | what is wrong, worst first | the backend's connections, or the pool's backends | as above |
//! | 6 listeners | listeners | | as above |
//! | explain | the candidates of the pool | | back |
//!
//! # Inputs
//!
//! | input | what it does |
//! |---|---|
//! | a key | [`keys`] maps it to an action; while a filter is typed, it edits the filter |
//! | status | replaces the figures; a backend with another state, another verdict and a new finding pulse |
//! | events | are appended, and pulse; numbers that begin again mean a new process |
//! | connections, explained | are kept if the screen still asks for them |
//! | trouble | is kept; after three seconds without an answer the first line names it |
//! | a new size | the next drawing uses it |
//! | tick | redraws, so that a pulse ends and the age of the last answer grows |
//! | end | SIGTERM, SIGINT, SIGHUP or SIGQUIT: quits |
//!
//! `p` stops the poll, and so the figures, until the next `p`. The state tracks a selected row by its name, so it stays on
//! the same row when the order changes.

mod keys;
mod layout;
mod poll;
mod rows;
mod screen;
#[cfg(test)]
mod snapshots;
mod state;
#[cfg(test)]
mod tests;
mod view;

use super::remote::args::Reach;
use super::remote::{Trouble, client::Client, done};
use crate::logger;
use crossbeam_channel::{RecvTimeoutError, bounded};
use poll::Poll;
use screen::Screen;
use state::{Flow, Input, State};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Inputs that wait for the main thread. A thread with more of them waits.
const INPUTS: usize = 64;

/// How often the state is drawn without any input.
const TICK: Duration = Duration::from_secs(1);

/// Runs `tcplb top` until the user or a signal ends it.
pub fn run(reach: &Reach) -> ExitCode {
    done(|| {
        check_terminal()?;
        logger::init(log::LevelFilter::Error);
        let client = Client::new(reach)?;
        // A wrong address or token is reported as by the other commands, before the terminal is taken.
        let status = poll::first(&client)?;
        let failed = |error: std::io::Error| Trouble::could_not_run(format!("the terminal: {error}"));
        let begun = Instant::now();
        let (inputs, arriving) = bounded(INPUTS);
        let mut screen = Screen::take(&inputs).map_err(failed)?;
        let mut state = State::new(status, screen.size().map_err(failed)?, super::terminal::colours());
        let mut poll = Poll::start(client.within(poll::CALL), inputs).map_err(failed)?;
        loop {
            screen.draw(&state).map_err(failed)?;
            let input = match arriving.recv_timeout(TICK) {
                Ok(input) => input,
                Err(RecvTimeoutError::Timeout) => Input::Tick,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            if state.update(input, begun.elapsed()) == Flow::Quit {
                return Ok(());
            }
            // Inputs that have arrived already share one drawing.
            for input in arriving.try_iter().take(INPUTS) {
                if state.update(input, begun.elapsed()) == Flow::Quit {
                    return Ok(());
                }
            }
            poll.want(state.want());
        }
    })
}

/// Fails where the output is no terminal, or one that cannot place the cursor.
fn check_terminal() -> Result<(), Trouble> {
    let once = "`tcplb status` prints the same once";
    if !std::io::stdout().is_terminal() {
        return Err(Trouble::wrong_usage(format!("tcplb top needs a terminal, and stdout is none; {once}")));
    }
    match std::env::var("TERM") {
        Ok(terminal) if terminal != "dumb" => Ok(()),
        Ok(_) => Err(Trouble::wrong_usage(format!("tcplb top can't use a terminal with TERM=dumb; {once}"))),
        Err(_) => Err(Trouble::wrong_usage(format!("tcplb top can't use a terminal without TERM; {once}"))),
    }
}
