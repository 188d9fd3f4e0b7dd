//! Which columns a table shows in a width, and how wide each is.

use super::super::rows::Row;
use crate::admin::figures::{Align, CANDIDATES, CONNECTIONS, Column, LISTENERS, LIVE, POOLS, ROUTES, TRAFFIC};

/// The head of the sparkline.
pub const SPARK: &str = "3 min";

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Its head.
    pub head: &'static str,
    /// Its least width.
    least: u16,
    /// Its greatest width; the columns share what is left in their order.
    most: u16,
    /// Columns with a small number get their room first.
    turn: u8,
}

const fn slot(head: &'static str, least: u16, most: u16, turn: u8) -> Slot {
    Slot { head, least, most, turn }
}

/// Of pools and backends.
pub const BACKENDS: &[Slot] = &[
    slot("backend", 10, 21, 0),
    slot("state", 20, 44, 0),
    slot("conns", 9, 11, 1),
    slot("conn/s", 6, 8, 2),
    slot("in/s", 6, 7, 6),
    slot("out/s", 6, 7, 5),
    slot("connect", 9, 11, 7),
    slot("first byte", 10, 11, 3),
    slot("failures", 8, 8, 4),
    slot(SPARK, 9, 36, 8),
];

/// Of connections.
pub const OF_CONNECTIONS: &[Slot] = &[
    slot("id", 8, 12, 6),
    slot("client", 21, 47, 0),
    slot("backend", 10, 24, 1),
    slot("state", 8, 12, 4),
    slot("age", 6, 7, 2),
    slot("idle", 6, 7, 3),
    slot("in", 6, 8, 5),
    slot("out", 6, 8, 5),
    slot("rtt", 7, 8, 7),
];

/// Of connections, where some have a route or a server name.
pub const OF_ROUTED_CONNECTIONS: &[Slot] = &[
    slot("id", 8, 12, 8),
    slot("client", 21, 47, 0),
    slot("backend", 10, 24, 1),
    slot("route", 6, 16, 4),
    slot("sni", 15, 48, 5),
    slot("state", 8, 12, 6),
    slot("age", 6, 7, 2),
    slot("idle", 6, 7, 3),
    slot("in", 6, 8, 7),
    slot("out", 6, 8, 7),
    slot("rtt", 7, 8, 9),
];

/// Of an explanation.
pub const OF_CANDIDATES: &[Slot] = &[
    slot("backend", 10, 24, 0),
    slot("usable", 6, 6, 1),
    slot("weight", 6, 6, 4),
    slot("active", 6, 8, 3),
    slot("share", 7, 7, 2),
    slot("why", 16, 200, 0),
];

/// Of listeners.
pub const OF_LISTENERS: &[Slot] = &[
    slot("listener", 10, 24, 0),
    slot("address", 14, 40, 4),
    slot("pool", 8, 20, 5),
    slot("conns", 9, 11, 1),
    slot("conn/s", 6, 8, 2),
    slot("accepted", 9, 12, 6),
    slot("refused", 8, 12, 3),
    slot(SPARK, 9, 36, 7),
];

/// The columns that fit into a width, each with its own.
pub fn fit(slots: &'static [Slot], width: u16) -> Vec<(&'static Slot, u16)> {
    let mut by_turn: Vec<usize> = (0..slots.len()).collect();
    by_turn.sort_by_key(|index| slots[*index].turn);
    let mut left = width;
    let mut widths = vec![None; slots.len()];
    for index in by_turn {
        // One more cell parts it from the next.
        let needed = slots[index].least + u16::from(index > 0);
        if needed > left {
            break;
        }
        left -= needed;
        widths[index] = Some(slots[index].least);
    }
    for (slot, width) in slots.iter().zip(&mut widths) {
        if let Some(width) = width {
            let more = left.min(slot.most - slot.least);
            *width += more;
            left -= more;
        }
    }
    slots.iter().zip(widths).filter_map(|(slot, width)| Some((slot, width?))).collect()
}

/// The text under a head, and where it stands.
pub fn cell(row: &Row<'_>, head: &str) -> Option<(String, Align)> {
    fn of<T>(columns: &[Column<T>], item: &T, head: &str) -> Option<(String, Align)> {
        let column = columns.iter().find(|column| column.head == head)?;
        Some((column.text(item), column.align))
    }
    match row {
        Row::Pool(pool) => of(POOLS, *pool, head),
        Row::Backend(_, backend) => of(LIVE, *backend, head).or_else(|| of(TRAFFIC, *backend, head)),
        Row::Listener(listener) => of(LISTENERS, *listener, head),
        Row::Connection(connection) => of(CONNECTIONS, *connection, head).or_else(|| of(ROUTES, *connection, head)),
        Row::Candidate(candidate) => of(CANDIDATES, *candidate, head),
        Row::Source(..) | Row::More(..) | Row::Event(_) | Row::Finding(_) => None,
    }
}

/// Where the head of a column stands.
pub fn align(head: &str) -> Align {
    fn of<T>(columns: &[Column<T>], head: &str) -> Option<Align> {
        columns.iter().find(|column| column.head == head).map(|column| column.align)
    }
    let found = of(POOLS, head).or_else(|| of(LISTENERS, head)).or_else(|| of(CONNECTIONS, head));
    found.or_else(|| of(CANDIDATES, head)).unwrap_or(Align::Left)
}

/// A sparkline, one character per five seconds, the newest to the right.
pub fn spark(history: &[f64], width: u16, highest: f64) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let width = usize::from(width);
    let shown = &history[history.len().saturating_sub(width)..];
    let level = |value: &f64| {
        let part = if highest > 0.0 { (value / highest).clamp(0.0, 1.0) } else { 0.0 };
        LEVELS[(part * 7.0).ceil() as usize]
    };
    std::iter::repeat_n(' ', width - shown.len()).chain(shown.iter().map(level)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_has_its_figures() {
        let heads = |slots: &'static [Slot]| slots.iter().map(|slot| slot.head).filter(|head| *head != SPARK);
        for head in heads(BACKENDS) {
            assert!(TRAFFIC.iter().chain(LIVE).any(|column| column.head == head), "{head}");
            assert!(POOLS.iter().any(|column| column.head == head), "{head}");
        }
        let of_connections = |head| CONNECTIONS.iter().any(|column| column.head == head);
        assert!(heads(OF_CONNECTIONS).all(of_connections));
        let of_routes = |head| ROUTES.iter().any(|column| column.head == head);
        assert!(heads(OF_ROUTED_CONNECTIONS).all(|head| of_connections(head) || of_routes(head)));
        assert!(heads(OF_CANDIDATES).all(|head| CANDIDATES.iter().any(|column| column.head == head)));
        assert!(heads(OF_LISTENERS).all(|head| LISTENERS.iter().any(|column| column.head == head)));
    }

    #[test]
    fn columns_never_exceed_the_width() {
        for slots in [BACKENDS, OF_CONNECTIONS, OF_ROUTED_CONNECTIONS, OF_CANDIDATES, OF_LISTENERS] {
            for width in 58..400 {
                let fitting = fit(slots, width);
                let total: u16 = fitting.iter().map(|(_, width)| width + 1).sum::<u16>() - 1;
                assert!(total <= width, "{total} in {width}");
                assert!(fitting.len() >= 3, "{width}");
            }
        }
    }

    #[test]
    fn a_sparkline_shows_the_newest_values() {
        assert_eq!(spark(&[0.0, 5.0, 10.0], 5, 10.0), "  ▁▅█");
        assert_eq!(spark(&[9.0, 0.0, 10.0], 2, 10.0), "▁█");
        assert_eq!(spark(&[0.0], 1, 0.0), "▁");
    }
}
