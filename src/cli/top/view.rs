//! Draws a state into cells. The parts from top to bottom: verdict, details, title, heads, rows, events, foot.
//!
//! A colour repeats what a word or a sign says. Text from outside loses its control characters on the way into a cell.

mod columns;
mod table;
mod texts;

use super::keys::KEYS;
use super::layout::{Layout, SMALLEST};
use super::rows::{self, Only, Row};
use super::state::{Mode, Pane, State, VERDICT};
use crate::admin::api::Level;
use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

/// Draws the state.
pub fn draw(state: &State, cells: &mut Buffer) {
    let (width, height) = (cells.area.width, cells.area.height);
    let (least_width, least_height) = SMALLEST;
    if width < least_width || height < least_height {
        let text = format!("tcplb top needs {least_width}x{least_height}, this is {width}x{height}");
        return line(cells, 0, Line::raw(text));
    }
    if state.mode == Mode::Help {
        return help(cells);
    }
    let layout = Layout::of(state);
    line(cells, 0, verdict(state));
    let details = match &state.view().pane {
        Pane::Overview => texts::process(&state.status),
        Pane::Connections { of: Some((pool, backend)) } => texts::backend(&state.status, pool, backend),
        Pane::Explain { client, .. } => texts::explained(client, state.explanation()),
        _ => Vec::new(),
    };
    // What explain says fills whole lines.
    let is_list = !matches!(state.view().pane, Pane::Explain { .. });
    let details = if is_list { texts::flow(details, width) } else { details };
    for (offset, text) in (1..=layout.details).zip(details) {
        line(cells, offset, Line::raw(text));
    }
    let title = 1 + layout.details;
    line(cells, title, self::title(state, width));
    let rows = rows::rows(state);
    table::draw(state, &rows, cells, title + 1, layout.rows);
    if layout.events > 0 {
        let top = title + 2 + layout.rows;
        line(cells, top, Line::styled("last events", bold()));
        let events: Vec<Row<'_>> = state.events.iter().rev().take(usize::from(layout.events)).map(Row::Event).collect();
        for (offset, event) in (top + 1..).zip(&events) {
            line(cells, offset, table::event(state, event));
        }
        if events.is_empty() {
            line(cells, top + 1, Line::raw(nothing(state, &Pane::Events)));
        }
    }
    line(cells, height - 1, foot(state));
}

/// What stands in place of rows.
fn nothing(state: &State, pane: &Pane) -> String {
    let view = state.view();
    let is_filtered = view.pane == *pane && (!view.filter.is_empty() || view.only != Only::All);
    match pane {
        Pane::Connections { .. } => match state.listed() {
            Some(Err(why)) => why.clone(),
            Some(Ok(_)) if is_filtered => "no connection matches".to_owned(),
            Some(Ok(_)) => "no connection is open".to_owned(),
            None => "asking …".to_owned(),
        },
        Pane::Explain { .. } => match state.explanation() {
            Some(Err(why)) => why.clone(),
            Some(Ok(_)) => "no backend is a candidate".to_owned(),
            None => "asking …".to_owned(),
        },
        _ if is_filtered => "nothing matches: Esc clears the filter".to_owned(),
        Pane::Events => state.no_events.clone().unwrap_or_else(|| "no event yet".to_owned()),
        Pane::Findings => "nothing is wrong".to_owned(),
        Pane::Overview | Pane::Backends { .. } => "no backend is configured".to_owned(),
        Pane::Listeners => "no listener is configured".to_owned(),
    }
}

fn verdict(state: &State) -> Line<'static> {
    let (sign, word, colour, text) = match (state.silence(), &state.status.verdict) {
        (Some(silence), _) => ("!", "SILENT", Color::Yellow, silence),
        (None, verdict) => {
            let (sign, word, colour) = match verdict.level {
                Level::Ok => ("✓", "OK", Color::Green),
                Level::Warning => ("!", "WARNING", Color::Yellow),
                Level::Critical => ("✗", "CRITICAL", Color::Red),
            };
            (sign, word, colour, verdict.text.clone())
        }
    };
    let mut style = bold();
    if state.silence().is_some() || state.pulses(VERDICT) {
        style = style.add_modifier(Modifier::REVERSED);
    }
    let paused = if state.paused { "PAUSED  " } else { "" };
    Line::from_iter([
        Span::styled(paused.to_owned(), bold().add_modifier(Modifier::REVERSED)),
        Span::styled(format!("{sign} {word}"), paint(state, style, colour)),
        Span::styled(format!("  {text}"), style.remove_modifier(Modifier::REVERSED)),
    ])
}

/// Counts, or what the screen shows, to the left; order and filters to the right.
fn title(state: &State, width: u16) -> Line<'static> {
    let view = state.view();
    let left = match &view.pane {
        Pane::Overview => texts::counts(&state.status),
        Pane::Backends { pool: None } => "backends of all pools".to_owned(),
        Pane::Backends { pool: Some(pool) } => format!("backends of pool {pool}"),
        Pane::Connections { of: None } => "connections".to_owned(),
        Pane::Connections { of: Some((pool, backend)) } => format!("connections of {pool}/{backend}"),
        Pane::Events => "events, newest first".to_owned(),
        Pane::Findings => "findings, worst first".to_owned(),
        Pane::Listeners => "listeners".to_owned(),
        Pane::Explain { client, listener, sni, .. } => {
            let name = sni.as_ref().map(|name| format!(" for {name}")).unwrap_or_default();
            format!("explain: {client} at listener {listener}{name}, now")
        }
    };
    let mut right: Vec<String> =
        rows::orders(&view.pane).get(view.order).map(|order| order.shown.to_owned()).into_iter().collect();
    if view.only != Only::All {
        right.push(format!("only {}", view.only.word()));
    }
    if !view.filter.is_empty() {
        right.push(format!("filter {}", view.filter));
    }
    let right = right.join(", ");
    let pad = usize::from(width).saturating_sub(Span::raw(&left).width() + Span::raw(&right).width());
    // Where both do not fit, what the user chose is the shorter one.
    let pad = " ".repeat(pad.max(2));
    Line::from_iter([Span::styled(left, bold()), Span::raw(pad), Span::raw(right)])
}

fn foot(state: &State) -> Line<'static> {
    if state.mode == Mode::Typing {
        return Line::from_iter([
            Span::styled(format!("/{}", state.view().filter), bold()),
            Span::styled(" ", Style::new().add_modifier(Modifier::REVERSED)),
            Span::raw("  Enter keeps the filter, Esc clears it"),
        ]);
    }
    let panes = ["overview", "backends", "connections", "events", "findings", "listeners"];
    let current = match &state.view().pane {
        Pane::Overview => 0,
        Pane::Backends { .. } => 1,
        Pane::Connections { .. } | Pane::Explain { .. } => 2,
        Pane::Events => 3,
        Pane::Findings => 4,
        Pane::Listeners => 5,
    };
    let pane = |(index, name): (usize, &&str)| {
        let style = if index == current { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        [Span::styled(format!("{} {name}", index + 1), style), Span::raw(" ")]
    };
    let mut spans: Vec<Span<'_>> = panes.iter().enumerate().flat_map(pane).collect();
    spans.push(Span::raw(" ? keys"));
    Line::from(spans)
}

fn help(cells: &mut Buffer) {
    line(cells, 0, Line::styled("keys of tcplb top (any key closes this)", bold()));
    // Two columns, where one is too long for the screen.
    let room = usize::from(cells.area.height.saturating_sub(2)).max(1);
    let half = cells.area.width / 2;
    for (index, key) in KEYS.iter().enumerate() {
        let (column, row) = (index / room, index % room);
        let (left, top) = (column as u16 * half, 2 + row as u16);
        let width = if KEYS.len() > room { half } else { cells.area.width };
        let text = format!("{:<15} {}", key.shown, key.help);
        cells.set_stringn(left, top, text, usize::from(width.saturating_sub(1)), Style::new());
    }
}

/// A line from the left edge; what does not fit is cut.
fn line(cells: &mut Buffer, top: u16, text: Line<'_>) {
    if top < cells.area.height {
        let width = cells.area.width;
        cells.set_line(0, top, &text, width);
    }
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

/// With this colour, unless the user refuses colours.
fn paint(state: &State, style: Style, colour: Color) -> Style {
    if state.colours { style.fg(colour) } else { style }
}
