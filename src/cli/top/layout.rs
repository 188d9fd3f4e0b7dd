//! How many lines each part of a screen has, for a size of the terminal.

use super::state::{Pane, State};

/// The smallest terminal, in columns and lines.
pub const SMALLEST: (u16, u16) = (60, 12);

/// From this width on, the process's line and a backend's details need fewer lines.
const WIDE: u16 = 130;

/// The lines of a screen from top to bottom: verdict, details, title, heads, rows, events, foot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Lines of the process, of a backend, or of an explanation.
    pub details: u16,
    /// Lines of rows.
    pub rows: u16,
    /// Events on the overview; each has a line.
    pub events: u16,
}

impl Layout {
    /// The layout of the current screen.
    pub fn of(state: &State) -> Layout {
        let (width, height) = state.size;
        let wide = width >= WIDE;
        let details = match &state.view().pane {
            Pane::Overview if wide => 1,
            Pane::Overview => 2,
            Pane::Connections { of: Some(_) } if wide => 2,
            Pane::Connections { of: Some(_) } => 4,
            Pane::Explain { .. } => 2,
            _ => 0,
        };
        let (events, heading) = match &state.view().pane {
            Pane::Overview => ((height / 5).clamp(2, 10), 1),
            _ => (0, 0),
        };
        // The verdict, the title, the heads and the foot have a line each.
        let rows = height.saturating_sub(4 + details + heading + events);
        Layout { details, rows, events }
    }
}
