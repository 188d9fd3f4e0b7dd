//! The keys of `tcplb top`, in one table.

use super::state::Pane;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What a key does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Shows a numbered pane.
    Show(Pane),
    /// Goes down: from a pool to its backends, to connections, to explain.
    Enter,
    /// Goes back.
    Back,
    /// Moves the selection.
    Move(Move),
    /// Begins to type a filter.
    Filter,
    /// Shows backends in the next state only.
    Only,
    /// Takes the next order.
    Sort,
    /// Stops the figures, or lets them go on.
    Pause,
    /// Shows the keys.
    Help,
    /// Ends.
    Quit,
}

/// How the selection moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// One row up.
    Up,
    /// One row down.
    Down,
    /// One screen up.
    PageUp,
    /// One screen down.
    PageDown,
    /// To the first row.
    First,
    /// To the last row.
    Last,
}

/// Keys with the same action.
pub struct Key {
    /// As the help shows them.
    pub shown: &'static str,
    /// What they do, in a few words.
    pub help: &'static str,
    codes: &'static [KeyCode],
    action: Action,
}

const fn key(shown: &'static str, codes: &'static [KeyCode], action: Action, help: &'static str) -> Key {
    Key { shown, help, codes, action }
}

/// All keys. Ctrl-C quits, too.
pub const KEYS: &[Key] = &[
    key("1", &[KeyCode::Char('1')], Action::Show(Pane::Overview), "overview: verdict, limits, pools, last events"),
    key("2", &[KeyCode::Char('2')], Action::Show(Pane::Backends { pool: None }), "backends of all pools"),
    key("3", &[KeyCode::Char('3')], Action::Show(Pane::Connections { of: None }), "open connections"),
    key("4", &[KeyCode::Char('4')], Action::Show(Pane::Events), "events, newest first"),
    key("5", &[KeyCode::Char('5')], Action::Show(Pane::Findings), "findings: all that is wrong, worst first"),
    key("6", &[KeyCode::Char('6')], Action::Show(Pane::Listeners), "listeners"),
    key("Up, k", &[KeyCode::Up, KeyCode::Char('k')], Action::Move(Move::Up), "row before"),
    key("Down, j", &[KeyCode::Down, KeyCode::Char('j')], Action::Move(Move::Down), "next row"),
    key("PgUp", &[KeyCode::PageUp], Action::Move(Move::PageUp), "screen before"),
    key("PgDn, Space", &[KeyCode::PageDown, KeyCode::Char(' ')], Action::Move(Move::PageDown), "next screen"),
    key("Home, g", &[KeyCode::Home, KeyCode::Char('g')], Action::Move(Move::First), "first row"),
    key("End, G", &[KeyCode::End, KeyCode::Char('G')], Action::Move(Move::Last), "last row"),
    key("Enter", &[KeyCode::Enter], Action::Enter, "down: to backends, to connections, to explain"),
    key("Esc, Backspace", &[KeyCode::Esc, KeyCode::Backspace], Action::Back, "clear the filter, else back"),
    key("/", &[KeyCode::Char('/')], Action::Filter, "filter by a part of a name, address or state"),
    key("f", &[KeyCode::Char('f')], Action::Only, "only backends that are down, failing, draining, …"),
    key("s", &[KeyCode::Char('s')], Action::Sort, "next order"),
    key("p", &[KeyCode::Char('p')], Action::Pause, "pause, and go on"),
    key("?", &[KeyCode::Char('?'), KeyCode::Char('h')], Action::Help, "these keys"),
    key("q, Ctrl-C", &[KeyCode::Char('q')], Action::Quit, "quit"),
];

/// What a key does, if anything.
pub fn action(event: KeyEvent) -> Option<Action> {
    if is_interrupt(event) {
        return Some(Action::Quit);
    }
    if event.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) {
        return None;
    }
    KEYS.iter().find(|key| key.codes.contains(&event.code)).map(|key| key.action.clone())
}

/// Whether it is Ctrl-C: a terminal in raw mode sends no signal.
pub fn is_interrupt(event: KeyEvent) -> bool {
    event.modifiers.contains(KeyModifiers::CONTROL) && event.code == KeyCode::Char('c')
}
