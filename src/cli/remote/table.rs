//! Tables for the terminal: columns as wide as their content, numbers aligned right.

use crate::admin::api::{BackendAddress, BackendView, Listener};
use std::fmt::Write;

/// The alignment of a column.
#[derive(Clone, Copy)]
enum Align {
    Left,
    Right,
}

/// A table of listeners.
pub fn listeners(listeners: &[Listener]) -> String {
    use Align::{Left, Right};
    let heads = [
        ("LISTENER", Left),
        ("ADDRESS", Left),
        ("POOL", Left),
        ("ACTIVE", Right),
        ("ACCEPTED", Right),
        ("REFUSED", Right),
    ];
    let row = |listener: &Listener| {
        let Listener { name, address, pool, active_connections, accepted_total, refused_total } = listener;
        let counts = [active_connections, accepted_total, refused_total].map(u64::to_string);
        [name, address, pool].map(String::clone).into_iter().chain(counts).collect()
    };
    table(&heads, listeners.iter().map(row).collect())
}

/// A table of backends.
pub fn backends(backends: &[BackendView]) -> String {
    use Align::{Left, Right};
    let heads = [
        ("BACKEND", Left),
        ("ADDRESS", Left),
        ("STATE", Left),
        ("WEIGHT", Right),
        ("ACTIVE", Right),
        ("TOTAL", Right),
        ("FAILED", Right),
        ("TO BACKEND", Right),
        ("TO CLIENT", Right),
        ("CONNECT P50/P99", Right),
        ("HEALTH", Left),
    ];
    // Each address of a backend that has several gets a line below the backend's.
    let addresses = |backend: &BackendView| {
        let several = if backend.addresses.len() > 1 { &backend.addresses[..] } else { &[] };
        let row = |one: &BackendAddress| {
            let (total, result) = (one.connections_total.to_string(), one.last_result.clone());
            let mut row = vec![String::new(); heads.len()];
            for (head, cell) in [
                ("ADDRESS", format!("  {}", one.address)),
                ("STATE", one.state.clone()),
                ("TOTAL", total),
                ("HEALTH", result.unwrap_or_else(|| "-".to_owned())),
            ] {
                let cells = heads.iter().zip(&mut row).filter(|((name, _), _)| *name == head);
                cells.for_each(|(_, place)| place.clone_from(&cell));
            }
            row
        };
        several.iter().map(row).collect::<Vec<_>>()
    };
    let row = |backend: &BackendView| {
        let millis = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
        let connect = match backend.connect_ms.p50 {
            None => "-".to_owned(),
            some => format!("{}/{} ms", millis(some), millis(backend.connect_ms.p99)),
        };
        vec![
            backend.name.clone(),
            backend.address.clone(),
            format!("{}{}", backend.state, if backend.backup { " (backup)" } else { "" }),
            backend.weight.to_string(),
            backend.active_connections.to_string(),
            backend.connections_total.to_string(),
            backend.connect_failures_total.to_string(),
            size(backend.bytes_to_backend_total),
            size(backend.bytes_to_client_total),
            connect,
            backend.health.last_result.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    };
    table(&heads, backends.iter().flat_map(|backend| std::iter::once(row(backend)).chain(addresses(backend))).collect())
}

/// Shows three digits and a unit.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" || value >= 100.0 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

fn table(heads: &[(&str, Align)], rows: Vec<Vec<String>>) -> String {
    let first: Vec<String> = heads.iter().map(|(head, _)| (*head).to_owned()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(first).chain(rows).collect();
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let mut row = String::new();
        for ((cell, (_, align)), width) in line.iter().zip(heads).zip(&widths) {
            // A name has no control characters: the configuration refuses them. Writing to a string can't fail.
            let _ = match align {
                Align::Left => write!(row, "{cell:<width$}  "),
                Align::Right => write!(row, "{cell:>width$}  "),
            };
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let heads = [("A", Align::Left), ("B", Align::Right)];
        let rows = vec![vec!["long".to_owned(), "1".to_owned()], vec!["é".to_owned(), "100".to_owned()]];
        assert_eq!(table(&heads, rows), "A       B\nlong    1\né     100");
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, want) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 30, "5.0 GiB"), (200 << 20, "200 MiB")]
        {
            assert_eq!(size(bytes), want);
        }
        assert_eq!(size(u64::MAX), "16384 PiB");
    }
}
