//! Figures of the process and its limits, from /proc (proc(5)). A figure that can't be read is absent.

use crate::net::local_ports;
use rustix::process::{Resource, getrlimit};
use std::fs;

/// What /proc reports about this process.
#[derive(Debug, Default)]
pub struct Process {
    /// User and system CPU time, in seconds.
    pub cpu_seconds: Option<f64>,
    /// Open file descriptors.
    pub open_fds: Option<f64>,
    /// The limit on open file descriptors (RLIMIT_NOFILE).
    pub max_fds: Option<f64>,
    /// Virtual memory, in bytes.
    pub virtual_bytes: Option<f64>,
    /// The limit on virtual memory (RLIMIT_AS), in bytes; -1 if there is none.
    pub max_virtual_bytes: Option<f64>,
    /// Resident memory, in bytes.
    pub resident_bytes: Option<f64>,
    /// Start time, in seconds since the Unix epoch.
    pub started: Option<f64>,
}

impl Process {
    /// Reads the figures now.
    pub fn read() -> Process {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The second field is a name in parentheses that may hold anything; the third follows the last parenthesis.
        let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let booted = fs::read_to_string("/proc/stat").ok();
        let booted = booted.as_deref().and_then(|text| text.lines().find_map(|line| line.strip_prefix("btime ")));
        let booted = booted.and_then(|seconds| seconds.trim().parse::<f64>().ok());
        let limit = |resource| getrlimit(resource).current.map_or(f64::INFINITY, |limit| limit as f64);
        Process {
            cpu_seconds: field(14).zip(field(15)).map(|(user, system)| (user + system) / ticks),
            open_fds: open_fds().map(|count| count as f64),
            max_fds: Some(limit(Resource::Nofile)).filter(|limit| limit.is_finite()),
            virtual_bytes: field(23),
            max_virtual_bytes: Some(limit(Resource::As)).map(|limit| if limit.is_finite() { limit } else { -1.0 }),
            resident_bytes: field(24).map(|pages| pages * rustix::param::page_size() as f64),
            started: field(22).zip(booted).map(|(after_boot, booted)| booted + after_boot / ticks),
        }
    }
}

/// The number of open file descriptors and their limit (RLIMIT_NOFILE).
pub fn descriptors() -> (Option<u64>, Option<u64>) {
    (open_fds(), getrlimit(Resource::Nofile).current)
}

/// The number of local ports that the kernel gives to connections. A port serves one connection to each remote address.
pub fn local_ports() -> Option<u64> {
    local_ports::range().map(|range| range.len() as u64)
}

/// Since Linux 6.2 the directory's size is the count. Counting entries takes long with a hundred thousand of them.
fn open_fds() -> Option<u64> {
    let size = fs::metadata("/proc/self/fd").ok()?.len();
    if size > 0 {
        return Some(size);
    }
    // One of the entries is the descriptor of this read.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_of_local_ports_is_read() {
        assert!((1..=65_536).contains(&local_ports().unwrap()));
    }

    #[test]
    fn every_figure_is_there_and_plausible() {
        let process = Process::read();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(process.cpu_seconds.unwrap() >= 0.0);
        assert!(process.open_fds.unwrap() >= 3.0 && process.open_fds < process.max_fds, "{process:?}");
        assert!(process.resident_bytes.unwrap() > 1e5 && process.virtual_bytes > process.resident_bytes, "{process:?}");
        let age = now - process.started.unwrap();
        assert!((-2.0..3600.0).contains(&age), "started {age} s ago");
    }
}
