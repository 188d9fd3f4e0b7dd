//! What a tcplb under test says of itself by its admin API.

use crate::http::{Answer, ask, try_ask};
use crate::{At, Conn, Process, eventually_some};
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

    /// Its answer to a GET.
    #[track_caller]
    pub fn get(self, path: &str) -> Answer {
        self.call("GET", path, "")
    }

    /// Its answer to a call with a body.
    #[track_caller]
    pub fn call(self, method: &str, path: &str, body: &str) -> Answer {
        ask(&self.0.to_string(), method, path, &[], body)
    }

    /// The sum of all series of a metric that have these labels, each written as `name="value"`.
    #[track_caller]
    pub fn metric(self, name: &str, labels: &[&str]) -> u64 {
        // In a crowd it says that there are too many calls, or hangs up.
        let answer = eventually_some("the admin API has room", || {
            try_ask(&self.0.to_string(), "GET", "/metrics").filter(|answer| answer.status != 503)
        });
        assert_eq!(answer.status, 200, "{answer:?}");
        let series = answer.body.lines().filter_map(|line| line.strip_prefix(name));
        let series: Vec<&str> = series.filter(|rest| rest.starts_with(['{', ' '])).collect();
        assert!(!series.is_empty(), "no {name}: {}", answer.body);
        let wanted = series.iter().filter(|rest| labels.iter().all(|label| rest.contains(label)));
        let values = wanted.map(|line| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()));
        values.map(|value| value.expect("a number") as u64).sum()
    }
}
