//! The standard `process_*` figures, from /proc (proc(5)). What can't be read is left out.

use rustix::process::{Resource, getrlimit};
use std::fs;

/// The figures.
#[derive(Debug, Default)]
pub struct Process {
    /// User and system time.
    pub cpu_seconds: Option<f64>,
    /// Open file descriptors.
    pub open_fds: Option<f64>,
    /// The limit on them.
    pub max_fds: Option<f64>,
    /// Virtual memory.
    pub virtual_bytes: Option<f64>,
    /// The limit on it.
    pub max_virtual_bytes: Option<f64>,
    /// Resident memory.
    pub resident_bytes: Option<f64>,
    /// Seconds since the epoch.
    pub started: Option<f64>,
}

impl Process {
    /// The figures as they are now.
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
            open_fds: open_fds(),
            max_fds: Some(limit(Resource::Nofile)).filter(|limit| limit.is_finite()),
            virtual_bytes: field(23),
            max_virtual_bytes: Some(limit(Resource::As)).map(|limit| if limit.is_finite() { limit } else { -1.0 }),
            resident_bytes: field(24).map(|pages| pages * rustix::param::page_size() as f64),
            started: field(22).zip(booted).map(|(after_boot, booted)| booted + after_boot / ticks),
        }
    }
}

/// Since Linux 6.2 the directory's size says it; counting takes long with a hundred thousand of them.
fn open_fds() -> Option<f64> {
    let size = fs::metadata("/proc/self/fd").ok()?.len();
    if size > 0 {
        return Some(size as f64);
    }
    // One of them is the directory that is being read.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

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
