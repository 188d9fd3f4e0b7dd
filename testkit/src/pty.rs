//! A program in a pseudo-terminal: keys to it, and the screen that its output draws.

use crate::{PATIENCE, eventually};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

/// A sequence that no program sends and the screen ignores: the test's own mark behind the output.
const END: &str = "\x1b[9z";

/// A program in a terminal of its own. Killed when dropped.
pub struct Pty {
    child: Child,
    keys: File,
    /// The program's side, kept so that its settings can be read after the end.
    terminal: File,
    before: Termios,
    screen: Arc<Mutex<Screen>>,
}

impl Pty {
    /// Starts it in a terminal with this many columns and lines.
    #[track_caller]
    pub fn start(mut command: Command, columns: u16, lines: u16) -> Pty {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pseudo-terminal");
        grantpt(&ours).expect("its other side");
        unlockpt(&ours).expect("its other side");
        let path = ptsname(&ours, Vec::new()).expect("a name").into_string().expect("UTF-8");
        let size = Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&ours, size).expect("it takes a size");
        let open = || OpenOptions::new().read(true).write(true).open(&path).expect("open its other side");
        let terminal = open();
        let before = tcgetattr(&terminal).expect("its settings");
        command.stdin(open()).stdout(open()).stderr(open());
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
        let child = command.spawn().expect("it starts");
        let screen = Arc::new(Mutex::new(Screen::new(columns, lines)));
        let keys = File::from(ours);
        let (mut output, drawn) = (keys.try_clone().expect("a second handle"), screen.clone());
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                drawn.lock().take(&bytes[..count]);
            }
        });
        Pty { child, keys, terminal, before, screen }
    }

    /// Types keys.
    #[track_caller]
    pub fn type_keys(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("type into it");
    }

    /// Changes the size; the program gets SIGWINCH.
    #[track_caller]
    pub fn resize(&mut self, columns: u16, lines: u16) {
        *self.screen.lock() = Screen::new(columns, lines);
        let size = Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.keys, size).expect("it takes a size");
        // Without a controlling terminal the kernel signals no process.
        self.signal(Signal::WINCH);
    }

    /// Sends a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signal the child");
    }

    /// The screen's lines.
    pub fn text(&self) -> String {
        self.screen.lock().text()
    }

    /// All output, with the sequences that control the terminal.
    pub fn raw(&self) -> String {
        self.screen.lock().raw.clone()
    }

    /// Waits until the screen shows all of these texts, and returns its lines.
    #[track_caller]
    pub fn wait_for(&self, texts: &[&str]) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let screen = self.text();
            if texts.iter().all(|text| screen.contains(text)) {
                return screen;
            }
            assert!(Instant::now() < end, "the screen never showed {texts:?} but\n{screen}");
            thread::park_timeout(std::time::Duration::from_millis(5));
        }
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the program in the terminal has ended", || {
            status = self.child.try_wait().expect("wait for the child");
            status.is_some()
        });
        // What it wrote last is on its way through the kernel, and this comes behind it.
        self.terminal.write_all(END.as_bytes()).expect("write into the terminal");
        eventually("its output is read", || self.raw().ends_with(END));
        status.expect("it has ended")
    }

    /// Whether the terminal has the settings from before, and shows the cursor on the main screen.
    pub fn is_as_before(&self) -> bool {
        let now = tcgetattr(&self.terminal).expect("its settings");
        let modes = |of: &Termios| (of.input_modes, of.output_modes, of.control_modes, of.local_modes);
        let screen = self.screen.lock();
        modes(&now) == modes(&self.before) && !screen.alternate && !screen.hidden
    }

    /// The program's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the screen:\n{}\n---", self.text());
        }
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The cells that a program has drawn: enough of a terminal for cursor, erasure and private modes.
struct Screen {
    cells: Vec<Vec<char>>,
    at: (usize, usize),
    alternate: bool,
    hidden: bool,
    raw: String,
    /// Bytes of a letter or a sequence that is not whole.
    rest: Vec<u8>,
}

impl Screen {
    fn new(columns: u16, lines: u16) -> Screen {
        let cells = vec![vec![' '; usize::from(columns)]; usize::from(lines)];
        Screen { cells, at: (0, 0), alternate: false, hidden: false, raw: String::new(), rest: Vec::new() }
    }

    fn text(&self) -> String {
        let lines = self.cells.iter().map(|line| line.iter().collect::<String>().trim_end().to_owned());
        lines.collect::<Vec<String>>().join("\n")
    }

    fn take(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.rest) {
            Ok(_) => self.rest.len(),
            Err(error) => error.valid_up_to(),
        };
        let text = String::from_utf8_lossy(&self.rest[..whole]).into_owned();
        let mut left = text.as_str();
        while let Some(letter) = left.chars().next() {
            let taken = match letter {
                '\x1b' => match self.sequence(left) {
                    Some(length) => length,
                    // The rest of it comes later.
                    None => break,
                },
                '\r' => {
                    self.at.0 = 0;
                    1
                }
                '\n' => {
                    self.at.1 += 1;
                    1
                }
                letter => {
                    if let Some(cell) = self.cells.get_mut(self.at.1).and_then(|line| line.get_mut(self.at.0)) {
                        *cell = letter;
                    }
                    self.at.0 += 1;
                    letter.len_utf8()
                }
            };
            left = &left[taken..];
        }
        let taken = text.len() - left.len();
        self.raw.push_str(&text[..taken]);
        self.rest.drain(..taken);
    }

    /// Obeys the sequence at the start of a text; its length, if it is whole.
    fn sequence(&mut self, text: &str) -> Option<usize> {
        let Some(body) = text.strip_prefix("\x1b[") else { return (text.len() >= 2).then_some(2) };
        let end = body.find(|letter: char| letter.is_ascii_alphabetic())?;
        let (values, kind) = (&body[..end], &body[end..=end]);
        let number = |index: usize| values.split(';').nth(index).and_then(|value| value.parse().ok()).unwrap_or(1usize);
        match (kind, values) {
            ("H", _) => self.at = (number(1) - 1, number(0) - 1),
            ("J", _) => self.cells.iter_mut().for_each(|line| line.fill(' ')),
            ("h" | "l", "?1049") => self.alternate = kind == "h",
            ("h" | "l", "?25") => self.hidden = kind == "l",
            _ => {}
        }
        Some(2 + end + 1)
    }
}
