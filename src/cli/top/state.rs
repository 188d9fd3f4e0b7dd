//! The state of `tcplb top`, and what an input does to it. Pure: it opens nothing, and time is an argument.

use super::keys::{self, Action, Move};
use super::layout::Layout;
use super::rows::{self, Only, Row};
use crate::admin::api::{Connection, Event, Events, Explained, Status};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// How long a change stands out.
const PULSE: Duration = Duration::from_millis(1500);
/// After this long without an answer the first line reports it.
const SILENCE: Duration = Duration::from_secs(3);
/// The most events that are kept, as many as tcplb keeps.
pub const EVENTS_KEPT: usize = 10_000;
/// The longest filter.
const FILTER_MAX: usize = 100;

/// What a screen shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pane {
    /// The process, pools with backends, the last events.
    Overview,
    /// Backends of all pools, or of one.
    Backends {
        /// The pool.
        pool: Option<String>,
    },
    /// Connections of all backends, or of one.
    Connections {
        /// The pool and the backend.
        of: Option<(String, String)>,
    },
    /// Events.
    Events,
    /// What is wrong.
    Findings,
    /// Listeners.
    Listeners,
    /// Where a client would go now.
    Explain {
        /// The client's address.
        client: String,
        /// Its listener.
        listener: String,
        /// The protocol of its first bytes.
        protocol: Option<String>,
        /// The server name that it asks for.
        sni: Option<String>,
    },
}

/// A screen, and where the user is in it.
#[derive(Clone, Debug)]
pub struct View {
    /// What it shows.
    pub pane: Pane,
    /// Shows only rows with this text, in lower case.
    pub filter: String,
    /// Shows only backends in this state.
    pub only: Only,
    /// The number of the order, in [`rows::orders`].
    pub order: usize,
    /// The name of the selected row.
    pub selected: Option<String>,
    /// Its place when it was last seen: the selection's place once the row is gone.
    pub place: usize,
}

impl View {
    fn of(pane: Pane) -> View {
        View { pane, filter: String::new(), only: Only::All, order: 0, selected: None, place: 0 }
    }
}

/// What the keys do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As in the table of keys.
    Keys,
    /// They edit the filter.
    Typing,
    /// Any key closes the help.
    Help,
}

/// What a screen asks for besides status and events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// `GET /v1/connections`.
    Connections {
        /// The pool and the backend.
        of: Option<(String, String)>,
        /// The client's address or prefix.
        client: Option<String>,
        /// The order.
        sort: &'static str,
    },
    /// `GET /v1/explain`.
    Explain {
        /// The client's address.
        client: String,
        /// Its listener.
        listener: String,
        /// The protocol of its first bytes.
        protocol: Option<String>,
        /// The server name that it asks for.
        sni: Option<String>,
    },
}

/// What the poll shall ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// Whether it asks for nothing.
    pub paused: bool,
    /// What it asks for besides status and events.
    pub query: Option<Query>,
}

/// An answer of the admin API.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The status.
    Status(Box<Status>),
    /// The events since the last answer, or why there are none.
    Events(Result<Events, String>),
    /// The connections that a query asked for, or why there are none.
    Connections(Query, Result<Vec<Connection>, String>),
    /// Where the client of a query would go, or why that is not known.
    Explained(Query, Result<Box<Explained>, String>),
    /// Why there is no status.
    Trouble(String),
}

/// What arrives at the main thread.
#[derive(Clone, Debug)]
pub enum Input {
    /// A key.
    Key(KeyEvent),
    /// The terminal has another size: columns, lines.
    Size(u16, u16),
    /// An answer.
    Answer(Answer),
    /// Time passes.
    Tick,
    /// A signal ends the program.
    End,
}

/// Whether the program goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It goes on.
    Go,
    /// It ends.
    Quit,
}

/// All that is drawn.
pub struct State {
    /// The last status.
    pub status: Status,
    /// Events, the newest last.
    pub events: VecDeque<Event>,
    /// When the process started that they are of.
    events_of: String,
    /// Why there are no events.
    pub no_events: Option<String>,
    /// The connections of the current screen, or why there are none.
    connections: Option<(Query, Result<Vec<Connection>, String>)>,
    /// The explanation of the current screen, or why there is none.
    explained: Option<(Query, Result<Box<Explained>, String>)>,
    /// The screens from the numbered pane down to the current one; never empty.
    views: Vec<View>,
    /// What the keys do.
    pub mode: Mode,
    /// Whether the figures stand still.
    pub paused: bool,
    /// Columns and lines.
    pub size: (u16, u16),
    /// Whether colours are used.
    pub colours: bool,
    /// When the last status came.
    answered: Duration,
    /// Why none came since.
    trouble: Option<String>,
    now: Duration,
    pulses: HashMap<String, Duration>,
}

impl State {
    /// The first screen.
    pub fn new(status: Status, size: (u16, u16), colours: bool) -> State {
        State {
            status,
            events: VecDeque::new(),
            events_of: String::new(),
            no_events: None,
            connections: None,
            explained: None,
            views: vec![View::of(Pane::Overview)],
            mode: Mode::Keys,
            paused: false,
            size,
            colours,
            answered: Duration::ZERO,
            trouble: None,
            now: Duration::ZERO,
            pulses: HashMap::new(),
        }
    }

    /// The current screen.
    pub fn view(&self) -> &View {
        // There is always one: only screens above the first are removed.
        &self.views[self.views.len() - 1]
    }

    fn view_mut(&mut self) -> &mut View {
        let last = self.views.len() - 1;
        &mut self.views[last]
    }

    /// What the first line reports while tcplb does not answer.
    pub fn silence(&self) -> Option<String> {
        let silent = self.now.saturating_sub(self.answered);
        if self.paused || silent < SILENCE {
            return None;
        }
        let why = self.trouble.as_ref().map_or(String::new(), |why| format!(": {why}"));
        Some(format!("no answer since {} s{why}", silent.as_secs()))
    }

    /// Whether the row or line of this name has just changed.
    pub fn pulses(&self, name: &str) -> bool {
        self.pulses.get(name).is_some_and(|until| *until > self.now)
    }

    /// The place of the selected row among these, if any is selected.
    pub fn selected(&self, rows: &[Row<'_>]) -> Option<usize> {
        let name = self.view().selected.as_ref()?;
        let found = rows.iter().position(|row| row.name() == *name);
        found.or_else(|| rows.len().checked_sub(1).map(|last| self.view().place.min(last)))
    }

    /// What the poll shall ask for.
    pub fn want(&self) -> Want {
        let view = self.view();
        let query = match &view.pane {
            Pane::Connections { of } => Some(Query::Connections {
                of: of.clone(),
                client: rows::prefix(&view.filter),
                sort: rows::orders(&view.pane).get(view.order).map_or("age", |order| order.key),
            }),
            Pane::Explain { client, listener, protocol, sni } => Some(Query::Explain {
                client: client.clone(),
                listener: listener.clone(),
                protocol: protocol.clone(),
                sni: sni.clone(),
            }),
            _ => None,
        };
        Want { paused: self.paused, query }
    }

    /// The explanation that the current screen asks for, once there is one.
    pub fn explanation(&self) -> Option<&Result<Box<Explained>, String>> {
        let (query, answer) = self.explained.as_ref()?;
        (self.want().query.as_ref() == Some(query)).then_some(answer)
    }

    /// The connections that the current screen asks for, once there are some.
    pub fn listed(&self) -> Option<&Result<Vec<Connection>, String>> {
        let (query, answer) = self.connections.as_ref()?;
        (self.want().query.as_ref() == Some(query)).then_some(answer)
    }

    /// Applies an input.
    pub fn update(&mut self, input: Input, now: Duration) -> Flow {
        self.now = now;
        self.pulses.retain(|_, until| *until > now);
        match input {
            Input::Key(event) if event.kind == KeyEventKind::Release => {}
            Input::Key(event) if keys::is_interrupt(event) => return Flow::Quit,
            Input::Key(event) => return self.key(event),
            Input::Size(width, height) => self.size = (width, height),
            Input::Answer(answer) => self.answer(answer),
            Input::Tick => {}
            Input::End => return Flow::Quit,
        }
        Flow::Go
    }

    fn key(&mut self, event: KeyEvent) -> Flow {
        match self.mode {
            Mode::Help => self.mode = Mode::Keys,
            Mode::Typing => self.typed(event.code),
            Mode::Keys => match keys::action(event) {
                Some(Action::Quit) => return Flow::Quit,
                Some(action) => self.act(action),
                None => {}
            },
        }
        Flow::Go
    }

    fn typed(&mut self, code: KeyCode) {
        let filter = &mut self.view_mut().filter;
        match code {
            KeyCode::Char(letter) if !letter.is_control() && filter.len() < FILTER_MAX => {
                filter.extend(letter.to_lowercase());
            }
            KeyCode::Backspace => {
                filter.pop();
            }
            KeyCode::Esc => {
                filter.clear();
                self.mode = Mode::Keys;
            }
            KeyCode::Enter => self.mode = Mode::Keys,
            _ => {}
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Show(pane) => self.views = vec![View::of(pane)],
            Action::Enter => {
                if let Some(pane) = self.below() {
                    self.views.push(View::of(pane));
                }
            }
            Action::Back => self.back(),
            Action::Move(step) => self.step(step),
            Action::Filter => self.mode = Mode::Typing,
            Action::Only if rows::has_states(&self.view().pane) => {
                let view = self.view_mut();
                view.only = view.only.next();
            }
            Action::Sort => {
                let count = rows::orders(&self.view().pane).len().max(1);
                let view = self.view_mut();
                view.order = (view.order + 1) % count;
            }
            Action::Pause => {
                self.paused = !self.paused;
                // The silence was the user's wish.
                self.answered = self.now;
            }
            Action::Help => self.mode = Mode::Help,
            Action::Only | Action::Quit => {}
        }
    }

    /// What Enter leads to: from the selected row, else from the first.
    fn below(&self) -> Option<Pane> {
        let rows = rows::rows(self);
        rows.get(self.selected(&rows).unwrap_or(0))?.below()
    }

    fn back(&mut self) {
        let view = self.view_mut();
        if !view.filter.is_empty() || view.only != Only::All {
            view.filter.clear();
            view.only = Only::All;
        } else if self.views.len() > 1 {
            self.views.pop();
        } else {
            self.view_mut().selected = None;
        }
    }

    fn step(&mut self, step: Move) {
        let page = usize::from(Layout::of(self).rows.max(1));
        let (name, place) = {
            let rows = rows::rows(self);
            let Some(last) = rows.len().checked_sub(1) else { return };
            let at = self.selected(&rows);
            let place = match (step, at) {
                (Move::First, _) | (Move::Up | Move::PageUp | Move::Down, None) => 0,
                (Move::Last, _) => last,
                (Move::Up, Some(at)) => at.saturating_sub(1),
                (Move::Down, Some(at)) => (at + 1).min(last),
                (Move::PageUp, Some(at)) => at.saturating_sub(page),
                (Move::PageDown, at) => at.map_or(page - 1, |at| at + page).min(last),
            };
            (rows[place].name(), place)
        };
        let view = self.view_mut();
        view.selected = Some(name);
        view.place = place;
    }

    fn answer(&mut self, answer: Answer) {
        // An answer may have been on its way when the user paused.
        if self.paused {
            return;
        }
        match answer {
            Answer::Status(status) => self.replace(*status),
            Answer::Events(Ok(events)) => self.append(events),
            Answer::Events(Err(why)) => self.no_events = Some(why),
            Answer::Connections(query, result) => {
                if self.want().query.as_ref() == Some(&query) {
                    self.connections = Some((query, result));
                    self.follow();
                }
            }
            Answer::Explained(query, result) => {
                if self.want().query.as_ref() == Some(&query) {
                    self.explained = Some((query, result));
                    self.follow();
                }
            }
            Answer::Trouble(why) => self.trouble = Some(why),
        }
    }

    fn replace(&mut self, status: Status) {
        let until = self.now + PULSE;
        let old = std::mem::replace(&mut self.status, status);
        let mut changed = Vec::new();
        if old.verdict.text != self.status.verdict.text {
            changed.push(VERDICT.to_owned());
        }
        let findings = self.status.findings.iter().filter(|finding| !old.findings.contains(finding));
        changed.extend(findings.map(|finding| Row::Finding(finding).name()));
        // What was already there with another state; a new backend is a change, too.
        let states = |status: &Status| -> HashMap<String, String> {
            let pools = status.pools.iter();
            let all = pools.flat_map(|pool| {
                let backends = pool.backends.iter().map(|backend| (Row::Backend(pool, backend).name(), &backend.state));
                backends.chain([(Row::Pool(pool).name(), &pool.state)])
            });
            all.map(|(name, state)| (name, state.clone())).collect()
        };
        let before = states(&old);
        let now = states(&self.status).into_iter();
        changed.extend(now.filter(|(name, state)| before.get(name) != Some(state)).map(|(name, _)| name));
        self.pulses.extend(changed.into_iter().map(|name| (name, until)));
        self.answered = self.now;
        self.trouble = None;
        self.follow();
    }

    fn append(&mut self, events: Events) {
        // Another process answers; its events have numbers of their own.
        if self.events_of != events.started {
            self.events.clear();
            self.events_of = events.started;
        }
        // Those of the first answer are old.
        let pulse = self.no_events.is_none() && !self.events.is_empty();
        self.no_events = None;
        let last = self.events.back().map_or(0, |event| event.seq);
        for event in events.events.into_iter().filter(|event| event.seq > last) {
            if pulse {
                self.pulses.insert(Row::Event(&event).name(), self.now + PULSE);
            }
            if self.events.len() == EVENTS_KEPT {
                self.events.pop_front();
            }
            self.events.push_back(event);
        }
        self.follow();
    }

    /// Notes the place of the selected row, for the time when it is gone.
    fn follow(&mut self) {
        if self.view().selected.is_none() {
            return;
        }
        let place = self.selected(&rows::rows(self)).unwrap_or(0);
        self.view_mut().place = place;
    }
}

/// The name of the verdict, for [`State::pulses`].
pub const VERDICT: &str = "verdict";
