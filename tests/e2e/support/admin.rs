//! What a tcplb under test says of itself by its admin API.

use super::{At, Conn, Process, eventually};
use std::net::SocketAddr;

/// An admin API.
#[derive(Clone, Copy)]
pub struct Admin(pub SocketAddr);

impl Admin {
    /// As it is announced.
    pub fn of(process: &Process) -> Admin {
        let line = process.wait_for_line("admin on http://");
        let (_, at) = line.split_once("http://").expect("it was waited for");
        Admin(at.trim().parse().expect("an address"))
    }

    /// A connection to it.
    pub fn connect(self) -> Conn {
        Conn::to(&At::Tcp(self.0))
    }

    /// What it answers: the status line and the rest.
    pub fn get(self, path: &str) -> (String, String) {
        self.call("GET", path, "")
    }

    /// The same for a call with a body.
    pub fn call(self, method: &str, path: &str, body: &str) -> (String, String) {
        let conn = self.connect();
        let length = body.len();
        conn.say(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"));
        let answer = String::from_utf8(conn.hear_all()).expect("text");
        let (status, rest) = answer.split_once("\r\n").unwrap_or((&answer, ""));
        (status.to_owned(), rest.to_owned())
    }

    /// The sum of all series of a metric that have these labels, each written as `name="value"`.
    pub fn metric(self, name: &str, labels: &[&str]) -> u64 {
        // In a crowd it says that there are too many calls, or hangs up.
        let mut answer = <(String, String)>::default();
        eventually("the admin API has room", || {
            answer = self.get("/metrics");
            !answer.0.is_empty() && !answer.0.contains(" 503 ")
        });
        let (status, text) = answer;
        assert!(status.contains(" 200 "), "{status}");
        let series = text.lines().filter_map(|line| line.strip_prefix(name));
        let series: Vec<&str> = series.filter(|rest| rest.starts_with(['{', ' '])).collect();
        assert!(!series.is_empty(), "no {name}: {text}");
        let wanted = series.iter().filter(|rest| labels.iter().all(|label| rest.contains(label)));
        let values = wanted.map(|line| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()));
        values.map(|value| value.expect("a number") as u64).sum()
    }
}
