//! Tables for the terminal: columns as wide as their content, numbers aligned right.

use crate::admin::api::{BackendAddress, BackendView, Listener};
use crate::admin::figures::{self, Align, BACKENDS, Column, LISTENERS};
use std::fmt::Write;

/// A table of listeners.
pub fn listeners(listeners: &[Listener]) -> String {
    table(&heads(LISTENERS), listeners.iter().map(|listener| row(LISTENERS, listener)).collect())
}

/// A table of backends. Each address of a backend that has several gets a line below the backend's.
pub fn backends(backends: &[BackendView]) -> String {
    let of_address = |address: &BackendAddress| {
        let cell = |column: &Column<BackendView>| match figures::of_address(column.head, address) {
            Some(cell) if column.head == "address" => format!("  {cell}"),
            cell => shown(cell),
        };
        BACKENDS.iter().map(cell).collect()
    };
    let mut rows: Vec<Vec<String>> = Vec::new();
    for backend in backends {
        rows.push(row(BACKENDS, backend));
        if backend.addresses.len() > 1 {
            rows.extend(backend.addresses.iter().map(of_address));
        }
    }
    table(&heads(BACKENDS), rows)
}

fn heads<T>(columns: &[Column<T>]) -> Vec<(String, Align)> {
    columns.iter().map(|column| (column.head.to_uppercase(), column.align)).collect()
}

fn row<T>(columns: &[Column<T>], of: &T) -> Vec<String> {
    columns.iter().map(|column| shown((column.cell)(of))).collect()
}

fn shown(cell: Option<String>) -> String {
    cell.unwrap_or_else(|| "-".to_owned())
}

/// A table with these heads.
pub fn table(heads: &[(String, Align)], rows: Vec<Vec<String>>) -> String {
    let first: Vec<String> = heads.iter().map(|(head, _)| head.clone()).collect();
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
        let heads = [("A".to_owned(), Align::Left), ("B".to_owned(), Align::Right)];
        let rows = vec![vec!["long".to_owned(), "1".to_owned()], vec!["é".to_owned(), "100".to_owned()]];
        assert_eq!(table(&heads, rows), "A       B\nlong    1\né     100");
    }
}
