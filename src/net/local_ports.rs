//! The ports that the kernel gives to connections, and does not ask tcplb about (ip(7)).
//!
//! A connection that goes out from a port keeps a listener from being bound there. The kernel passes over ports where a socket
//! listens already, and reserved ones.

use std::fs;
use std::ops::RangeInclusive;

/// The range of these ports, and the ports that are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPorts {
    range: RangeInclusive<u16>,
    reserved: Vec<RangeInclusive<u16>>,
}

impl LocalPorts {
    /// Those of this process's network; `None` if they can't be read.
    pub fn read() -> Option<LocalPorts> {
        let reserved = fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default();
        Some(LocalPorts { range: range()?, reserved: reserved.trim().split(',').filter_map(reserved_part).collect() })
    }

    /// May the kernel give this port to a connection?
    pub fn has(&self, port: u16) -> bool {
        self.range.contains(&port) && !self.reserved.iter().any(|part| part.contains(&port))
    }
}

/// The first and the last of these ports, reserved ones included.
pub fn range() -> Option<RangeInclusive<u16>> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut ends = text.split_whitespace().map(|end| end.parse().ok());
    Some(ends.next()??..=ends.next()??)
}

/// A port, or a range of ports.
fn reserved_part(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_are_left_out() {
        let reserved = "40000,41000-41002,".split(',').filter_map(reserved_part).collect();
        let ports = LocalPorts { range: 32_768..=60_999, reserved };
        let given: Vec<u16> = [32_767, 32_768, 39_999, 40_000, 40_001, 41_000, 41_002, 41_003, 60_999, 61_000]
            .into_iter()
            .filter(|port| ports.has(*port))
            .collect();
        assert_eq!(given, [32_768, 39_999, 40_001, 41_003, 60_999]);
        assert!(LocalPorts::read().is_some());
    }
}
