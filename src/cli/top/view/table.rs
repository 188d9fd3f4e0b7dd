//! The rows of a screen as a table. Only rows on the screen become text.

use super::super::rows::Row;
use super::super::state::{Pane, State};
use super::columns::{self, BACKENDS, OF_CANDIDATES, OF_CONNECTIONS, OF_LISTENERS, OF_ROUTED_CONNECTIONS, SPARK, Slot};
use super::{bold, line, nothing, paint};
use crate::admin::api::{BackendView, Event, Level, Urgency};
use crate::admin::figures::{self, Align};
use crate::cli::remote::events;
use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

/// The cells of the sign before each row.
const SIGN: u16 = 2;

fn is_routed(row: &Row<'_>) -> bool {
    matches!(row, Row::Connection(connection) if connection.route.is_some() || connection.sni.is_some())
}

/// Draws heads at `top` and then so many rows.
pub fn draw(state: &State, rows: &[Row<'_>], cells: &mut Buffer, top: u16, room: u16) {
    let slots = match &state.view().pane {
        Pane::Overview | Pane::Backends { .. } => BACKENDS,
        Pane::Connections { .. } if rows.iter().any(is_routed) => OF_ROUTED_CONNECTIONS,
        Pane::Connections { .. } => OF_CONNECTIONS,
        Pane::Listeners => OF_LISTENERS,
        Pane::Explain { .. } => OF_CANDIDATES,
        Pane::Events | Pane::Findings => &[],
    };
    let width = cells.area.width;
    let fitting = columns::fit(slots, width.saturating_sub(SIGN));
    let mut left = SIGN;
    for (slot, width) in &fitting {
        put(cells, left, top, slot.head, *width, columns::align(slot.head), bold());
        left += width + 1;
    }
    let selected = state.selected(rows);
    let room = usize::from(room);
    // The selection stays in the middle, away from the ends.
    let offset = selected.map_or(0, |at| at.saturating_sub(room / 2)).min(rows.len().saturating_sub(room));
    for (at, row) in rows.iter().enumerate().skip(offset).take(room) {
        let y = top + 1 + (at - offset) as u16;
        match row {
            Row::Event(_) => line(cells, y, event(state, row)),
            Row::Finding(finding) => {
                let (sign, word) = match finding.level {
                    Level::Critical => ("✗", "critical"),
                    _ => ("!", "warning"),
                };
                let style = pulse(state, row, Style::new());
                line(cells, y, Line::styled(format!("{sign} {word:<9}{}", finding.text), style));
            }
            Row::Source(_, source) => {
                let (sign, colour) = if source.ok { ("✓", Color::Green) } else { ("!", Color::Yellow) };
                let sign = Span::styled(sign, paint(state, Style::new(), colour));
                let text = format!("  source {}: {}", source.source, figures::found(source));
                line(cells, y, Line::from_iter([sign, Span::raw(text)]));
            }
            Row::More(_, count) => line(cells, y, Line::raw(format!("{:4}and {count} more: Enter lists them", ""))),
            _ => record(state, row, cells, y, &fitting),
        }
        if selected == Some(at) {
            for x in 0..width {
                let cell = &mut cells[(x, y)];
                cell.set_style(cell.style().add_modifier(Modifier::REVERSED));
            }
        }
    }
    if rows.is_empty() {
        line(cells, top + 1, Line::raw(nothing(state, &state.view().pane)));
    }
}

/// A row with a cell under each head.
fn record(state: &State, row: &Row<'_>, cells: &mut Buffer, y: u16, fitting: &[(&'static Slot, u16)]) {
    let (sign, colour) = sign(row);
    let is_pool = matches!(row, Row::Pool(_));
    let plain = if is_pool { bold() } else { Style::new() };
    let marked = colour.map_or(plain, |colour| paint(state, plain, colour));
    cells.set_stringn(0, y, sign, 1, marked);
    let mut left = SIGN;
    for (slot, width) in fitting {
        let style = match slot.head {
            "state" => pulse(state, row, marked),
            "failures" if has_failures(row) => plain.add_modifier(Modifier::BOLD),
            _ => plain,
        };
        if slot.head == SPARK {
            cells.set_stringn(left, y, spark(row, *width), usize::from(*width), Style::new());
        } else if let Some((text, align)) = columns::cell(row, slot.head) {
            // Backends stand below their pool.
            let indent = u16::from(slot.head == "backend" && state.view().pane == Pane::Overview && !is_pool);
            put(cells, left + indent, y, &text, width - indent, align, style);
        }
        left += width + 1;
    }
}

/// Backends of a pool share a scale, so their lines can be compared.
fn spark(row: &Row<'_>, width: u16) -> String {
    let highest = |history: &[f64]| history.iter().copied().fold(0.0, f64::max);
    match row {
        Row::Pool(pool) => columns::spark(&pool.history, width, highest(&pool.history)),
        Row::Backend(pool, backend) => {
            let all = pool.backends.iter().map(|backend| highest(&backend.history)).fold(0.0, f64::max);
            columns::spark(&backend.history, width, all)
        }
        Row::Listener(listener) => columns::spark(&listener.history, width, highest(&listener.history)),
        _ => String::new(),
    }
}

fn has_failures(row: &Row<'_>) -> bool {
    matches!(row, Row::Backend(_, backend) if backend.urgency == Urgency::Failing)
}

/// The sign before a row, and the colour that goes with it.
fn sign(row: &Row<'_>) -> (&'static str, Option<Color>) {
    match row {
        Row::Pool(pool) => match pool.state.as_str() {
            "up" => ("✓", Some(Color::Green)),
            "degraded" => ("!", Some(Color::Yellow)),
            _ => ("✗", Some(Color::Red)),
        },
        Row::Backend(_, backend) => of_backend(backend),
        Row::Candidate(candidate) if candidate.usable => ("✓", Some(Color::Green)),
        Row::Candidate(_) => ("-", None),
        _ => (" ", None),
    }
}

fn of_backend(backend: &BackendView) -> (&'static str, Option<Color>) {
    match backend.urgency {
        Urgency::DownWithClients | Urgency::Down => ("✗", Some(Color::Red)),
        Urgency::Failing | Urgency::AtLimit | Urgency::NearLimit => ("!", Some(Color::Yellow)),
        Urgency::SetAside if backend.state == "draining" => ("~", Some(Color::Cyan)),
        Urgency::SetAside => ("-", None),
        Urgency::Up => ("✓", Some(Color::Green)),
    }
}

/// An event as a line.
pub fn event(state: &State, row: &Row<'_>) -> Line<'static> {
    let Row::Event(event) = row else { return Line::default() };
    let style = pulse(state, row, Style::new());
    Line::styled(text(event), style)
}

/// `2026-11-26 13:02:11 backend_state health web/db2: up → down: connection refused`.
fn text(event: &Event) -> String {
    let time = event.time.get(..19).unwrap_or(&event.time).replace('T', " ");
    format!("{time} {}", events::words(event))
}

/// A change stands out for a moment.
fn pulse(state: &State, row: &Row<'_>, style: Style) -> Style {
    if state.pulses(&row.name()) { style.add_modifier(Modifier::BOLD | Modifier::REVERSED) } else { style }
}

/// A text in a cell; what does not fit ends in `…`.
fn put(cells: &mut Buffer, left: u16, top: u16, text: &str, width: u16, align: Align, style: Style) {
    let room = usize::from(width);
    let taken = Span::raw(text).width();
    if taken > room {
        let (end, _) = cells.set_stringn(left, top, text, room.saturating_sub(1), style);
        cells.set_stringn(end, top, "…", 1, style);
        return;
    }
    let indent = if align == Align::Right { (room - taken) as u16 } else { 0 };
    cells.set_stringn(left + indent, top, text, room, style);
}
