//! The figures of listeners and backends as people read them: one list of columns for the status page and the command line.

use super::api::{BackendAddress, BackendView, Connection, Listener};

/// One column.
pub struct Column<T> {
    /// Its name.
    pub head: &'static str,
    /// Where its text stands.
    pub align: Align,
    /// The text; `None` where there is nothing to show.
    pub cell: fn(&T) -> Option<String>,
}

/// Text to the left, numbers to the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// A number.
    Right,
}

const fn text<T>(head: &'static str, cell: fn(&T) -> Option<String>) -> Column<T> {
    Column { head, align: Align::Left, cell }
}

const fn number<T>(head: &'static str, cell: fn(&T) -> Option<String>) -> Column<T> {
    Column { head, align: Align::Right, cell }
}

/// Of a listener.
pub const LISTENERS: &[Column<Listener>] = &[
    text("listener", |listener| Some(listener.name.clone())),
    text("address", |listener| Some(listener.address.clone())),
    text("pool", |listener| Some(listener.pool.clone())),
    number("active", |listener| Some(listener.active_connections.to_string())),
    number("accepted", |listener| Some(listener.accepted_total.to_string())),
    number("refused", |listener| Some(listener.refused_total.to_string())),
];

/// Of a backend.
pub const BACKENDS: &[Column<BackendView>] = &[
    text("backend", |backend| Some(backend.name.clone())),
    text("address", |backend| Some(backend.address.clone())),
    text("state", |backend| Some(format!("{}{}", backend.state, if backend.backup { " (backup)" } else { "" }))),
    number("weight", |backend| Some(backend.weight.to_string())),
    number("active", |backend| Some(backend.active_connections.to_string())),
    number("total", |backend| Some(backend.connections_total.to_string())),
    number("failed", |backend| Some(backend.connect_failures_total.to_string())),
    number("to backend", |backend| Some(size(backend.bytes_to_backend_total))),
    number("to client", |backend| Some(size(backend.bytes_to_client_total))),
    number("connect p50/p99", |backend| {
        let connect = &backend.connect_ms;
        Some(format!("{:.1}/{:.1} ms", connect.p50?, connect.p99?))
    }),
    text("health", |backend| backend.health.last_result.clone()),
];

/// Of a connection. Narrow, so that a line of a terminal holds them.
pub const CONNECTIONS: &[Column<Connection>] = &[
    number("id", |connection| Some(connection.id.to_string())),
    text("client", |connection| connection.client.clone()),
    text("backend", |connection| connection.backend.clone()),
    text("state", |connection| Some(connection.state.clone())),
    number("age", |connection| Some(age(connection.age_seconds))),
    number("idle", |connection| Some(age(connection.idle_seconds))),
    number("in", |connection| Some(short_size(connection.bytes_to_backend))),
    number("out", |connection| Some(short_size(connection.bytes_to_client))),
    number("rtt", |connection| connection.rtt_ms.map(millis)),
];

/// What the column of this head shows of one address of a backend that has several.
pub fn of_address(head: &str, address: &BackendAddress) -> Option<String> {
    match head {
        "address" => Some(address.address.clone()),
        "state" => Some(address.state.clone()),
        "total" => Some(address.connections_total.to_string()),
        "health" => address.last_result.clone(),
        _ => Some(String::new()),
    }
}

/// Three digits and a unit are what a reader takes in at a glance.
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

/// The same in at most five letters.
fn short_size(bytes: u64) -> String {
    size(bytes).replace([' ', 'i', 'B'], "")
}

/// A time in at most four letters, up to 27 years.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Milliseconds in about five letters.
fn millis(time: f64) -> String {
    if time < 9.95 { format!("{time:.1}ms") } else { format!("{time:.0}ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_connections_are_narrow() {
        for (bytes, want) in [(0, "0"), (1023, "1023"), (1024, "1.0K"), (200 << 20, "200M"), (1_048_575, "1024K")] {
            assert_eq!(short_size(bytes), want);
        }
        for (seconds, want) in [(0, "0s"), (59, "59s"), (60, "1m"), (7_199, "1h"), (86_400, "1d"), (31_536_000, "365d")]
        {
            assert_eq!(age(seconds), want);
        }
        assert_eq!([0.04, 9.94, 9.96, 250.2].map(millis), ["0.0ms", "9.9ms", "10ms", "250ms"]);
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
