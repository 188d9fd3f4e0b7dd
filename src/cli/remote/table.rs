//! Tables for the terminal: columns as wide as their content, numbers aligned right.

use crate::admin::api::{BackendAddress, BackendView, Connection, Listener};
use crate::admin::figures::{self, Align, BACKENDS, CONNECTIONS, Column, LISTENERS, ORIGIN, ROUTES, TRAFFIC};
use std::fmt::Write;

/// A table of listeners.
pub fn listeners(listeners: &[Listener]) -> String {
    of(LISTENERS, listeners)
}

/// A table of backends. Each address of a backend that has several gets a line below the backend's.
pub fn backends(backends: &[BackendView]) -> String {
    let columns = with_origin(BACKENDS, backends);
    let of_address = |address: &BackendAddress| {
        let cell = |column: &Column<BackendView>| match figures::of_address(column.head, address) {
            Some(cell) if column.head == "address" => format!("  {cell}"),
            cell => figures::shown(cell),
        };
        columns.clone().map(cell).collect()
    };
    let mut rows: Vec<Vec<String>> = Vec::new();
    for backend in backends {
        rows.push(row(columns.clone(), backend));
        if backend.addresses.len() > 1 {
            rows.extend(backend.addresses.iter().map(of_address));
        }
    }
    table(&heads(columns), rows)
}

/// A table of connections that fits into 80 columns, unless clients have long IPv6 addresses or ask for long names. It cuts the
/// names of backends, and then leaves out columns. Routes and server names have columns where there are any.
pub fn connections(connections: &[Connection]) -> String {
    const WIDTH: usize = 80;
    /// A name is cut to no less than this, unless there is nothing left to leave out.
    const NAME: usize = 8;
    /// In this order.
    const LEFT_OUT: [&str; 3] = ["rtt", "in", "out"];
    let occurs =
        |column: &&Column<Connection>| connections.iter().any(|connection| (column.cell)(connection).is_some());
    let columns: Vec<_> = CONNECTIONS.iter().chain(ROUTES.iter().filter(occurs)).collect();
    let mut rows: Vec<Vec<String>> =
        connections.iter().map(|connection| row(columns.iter().copied(), connection)).collect();
    let mut heads = heads(columns);
    let mut left_out = LEFT_OUT.iter();
    loop {
        let column = |name: &str| heads.iter().position(|(head, _)| head.eq_ignore_ascii_case(name));
        let widths = widths(&heads, &rows);
        let Some(backend) = column("backend") else { return table(&heads, rows) };
        let others = widths.iter().sum::<usize>() + 2 * (widths.len() - 1) - widths[backend];
        let room = WIDTH.saturating_sub(others);
        let fits = room >= widths[backend].min(NAME);
        match left_out.next().and_then(|name| column(name)).filter(|_| !fits) {
            Some(out) => {
                heads.remove(out);
                rows.iter_mut().for_each(|row| drop(row.remove(out)));
            }
            None => {
                rows.iter_mut().for_each(|row| row[backend] = cut(&row[backend], room.max(NAME)));
                return table(&heads, rows);
            }
        }
    }
}

/// A text of at most so many letters.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// A table of what backends do. A line below a backend has the remarks on it.
pub fn traffic(backends: &[BackendView]) -> String {
    let text = of(with_origin(TRAFFIC, backends), backends);
    let mut lines = text.lines();
    let mut all: Vec<String> = lines.next().map(str::to_owned).into_iter().collect();
    for (line, backend) in lines.zip(backends) {
        all.push(line.to_owned());
        all.extend(figures::remarks(backend).into_iter().map(|remark| format!("  {remark}")));
    }
    all.join("\n")
}

/// These columns, and the origin where a backend does not come from the file.
fn with_origin(
    columns: &'static [Column<BackendView>],
    backends: &[BackendView],
) -> impl Iterator<Item = &'static Column<BackendView>> + Clone {
    let others = backends.iter().any(|backend| (ORIGIN.cell)(backend).is_some());
    columns.iter().chain(others.then_some(ORIGIN))
}

/// A table with these columns, and a row for each item.
pub fn of<'a, T: 'a>(columns: impl IntoIterator<Item = &'a Column<T>> + Clone, items: &[T]) -> String {
    table(&heads(columns.clone()), items.iter().map(|item| row(columns.clone(), item)).collect())
}

fn heads<'a, T: 'a>(columns: impl IntoIterator<Item = &'a Column<T>>) -> Vec<(String, Align)> {
    columns.into_iter().map(|column| (column.head.to_uppercase(), column.align)).collect()
}

fn row<'a, T: 'a>(columns: impl IntoIterator<Item = &'a Column<T>>, of: &T) -> Vec<String> {
    columns.into_iter().map(|column| column.text(of)).collect()
}

fn widths(heads: &[(String, Align)], rows: &[Vec<String>]) -> Vec<usize> {
    let letters = |cell: &String| cell.chars().count();
    let width = |(column, (head, _)): (usize, &(String, Align))| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.chain([head]).map(letters).max().unwrap_or(0)
    };
    heads.iter().enumerate().map(width).collect()
}

fn table(heads: &[(String, Align)], rows: Vec<Vec<String>>) -> String {
    let widths = widths(heads, &rows);
    let first: Vec<String> = heads.iter().map(|(head, _)| head.clone()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(first).chain(rows).collect();
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

    fn connection(id: u64, client: &str, backend: &str, state: &str) -> Connection {
        Connection {
            id,
            listener: "web".to_owned(),
            pool: "app".to_owned(),
            backend: Some(backend.to_owned()),
            backend_port: None,
            client: Some(client.to_owned()),
            engine: "proxy".into(),
            age_seconds: Some(7_300),
            idle_seconds: Some(59),
            bytes_to_backend: 1_047_000,
            bytes_to_client: 5 << 30,
            state: state.to_owned(),
            protocol: None,
            sni: None,
            route: None,
            rtt_ms: Some(12.3),
        }
    }

    #[test]
    fn connections_fit_into_eighty_columns() {
        let all = [connection(4097, "192.0.2.7:40312", "web1", "relaying")];
        let row = "4097  192.0.2.7:40312  web1     relaying   2h   59s  1022K  5.0G  12ms";
        assert_eq!(connections(&all).lines().nth(1), Some(row));
        let long = "a-backend-with-a-long-name.example.com:8080";
        for (id, client, state, columns) in [
            (4_097, "192.0.2.7:40312", "relaying", 9),
            (1_234_567_890_123, "255.255.255.255:65535", "relaying", 8),
            (1_234_567_890_123, "255.255.255.255:65535", "half_closed", 7),
        ] {
            let text = connections(&[connection(id, client, long, state), connection(1, "-", "b", "waiting")]);
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
            assert!(text.contains(client) && text.contains("a-backe") && text.contains('…'), "{text}");
            assert_eq!(text.lines().next().unwrap().split_whitespace().count(), columns, "{text}");
        }
        let v6 = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535";
        assert!(connections(&[connection(1, v6, "web1", "relaying")]).contains(v6));
        assert!(connections(&[]).starts_with("ID  CLIENT"));
    }

    #[test]
    fn routes_and_server_names_have_columns_where_there_are_any() {
        let plain = connection(2, "192.0.2.8:1", "web1", "relaying");
        assert!(!connections(std::slice::from_ref(&plain)).contains("ROUTE"));
        let (sni, route) = (Some("db.example.com".to_owned()), Some("db".to_owned()));
        let text = connections(&[Connection { sni, route, ..connection(1, "192.0.2.7:1", "db1", "relaying") }, plain]);
        assert!(text.lines().next().unwrap().ends_with("ROUTE  SNI"), "{text}");
        assert!(text.contains("db     db.example.com\n") && text.ends_with("-      -"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn columns_are_aligned() {
        let heads = [("A".to_owned(), Align::Left), ("B".to_owned(), Align::Right)];
        let rows = vec![vec!["long".to_owned(), "1".to_owned()], vec!["é".to_owned(), "100".to_owned()]];
        assert_eq!(table(&heads, rows), "A       B\nlong    1\né     100");
    }
}
