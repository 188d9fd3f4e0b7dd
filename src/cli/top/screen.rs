//! The terminal: taken at the start, and given back on every way out, a panic and a signal included.

use super::state::{Input, State};
use super::view;
use crate::cli::crash;
use crossbeam_channel::Sender;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::{self, Stdout, stdout};
use std::panic;
use std::thread;

/// The terminal while it is ours; dropping this gives it back.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// Takes the terminal and starts the threads that read keys and signals. Call it once per process.
    pub fn take(inputs: &Sender<Input>) -> io::Result<Screen> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGQUIT])?;
        crash::end_process_on_panic();
        let report = panic::take_hook();
        // The report goes to the screen that the user sees afterwards.
        panic::set_hook(Box::new(move |panic| {
            give_back();
            report(panic);
        }));
        let terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
        enable_raw_mode()?;
        // From here on a failure gives it back.
        let screen = Screen { terminal };
        execute!(stdout(), EnterAlternateScreen, Hide)?;
        let ends = inputs.clone();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            if signals.forever().next().is_some() {
                let _ = ends.send(Input::End);
            }
        })?;
        let keys = inputs.clone();
        thread::Builder::new().name("keys".to_owned()).spawn(move || read(&keys))?;
        Ok(screen)
    }

    /// Columns and lines.
    pub fn size(&self) -> io::Result<(u16, u16)> {
        size()
    }

    /// Draws the state: only what has changed is written.
    pub fn draw(&mut self, state: &State) -> io::Result<()> {
        self.terminal.draw(|frame| view::draw(state, frame.buffer_mut()))?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Ends the alternate screen and raw mode. A terminal that is gone needs neither.
fn give_back() {
    let _ = execute!(stdout(), LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
}

/// Reads keys and sizes until the terminal or the main thread is gone.
fn read(inputs: &Sender<Input>) {
    loop {
        let input = match event::read() {
            Ok(Event::Key(key)) => Input::Key(key),
            Ok(Event::Resize(width, height)) => Input::Size(width, height),
            Ok(_) => continue,
            Err(_) => Input::End,
        };
        let over = matches!(input, Input::End);
        if inputs.send(input).is_err() || over {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::crash::PANICKED;
    use crate::logger;
    use crossbeam_channel::bounded;
    use std::process::Command;
    use testkit::Pty;

    /// The variable that marks the child process, which panics.
    const CHILD: &str = "TCPLB_TEST_CHILD";

    /// Runs in a child process.
    #[test]
    fn a_thread_panics_while_the_terminal_is_taken_in_a_child_process() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        logger::init(log::LevelFilter::Error);
        let (inputs, _arriving) = bounded(1);
        let _screen = Screen::take(&inputs).unwrap();
        let _ = thread::Builder::new().name("poll".to_owned()).spawn(|| panic!("on purpose")).unwrap().join();
        panic!("top survived a panic");
    }

    #[test]
    fn a_panic_gives_the_terminal_back_before_its_report() {
        let test = "cli::top::screen::tests::a_thread_panics_while_the_terminal_is_taken_in_a_child_process";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture", "--test-threads", "1"]).env(CHILD, "1").env_remove("RUST_LOG");
        let mut pty = Pty::start(command, 80, 24);
        assert_eq!(pty.wait_exit().code(), Some(PANICKED), "{}", pty.raw());
        assert!(pty.is_as_before());
        let raw = pty.raw();
        let (_, after) = raw.split_once("\x1b[?1049l").expect("the alternate screen ends");
        assert!(after.contains("tcplb ends: thread poll panicked") && after.contains("on purpose"), "{after}");
    }
}
