//! Access lists: whether an address may connect.
//!
//! The most specific prefix that contains an address decides; of equal ones, deny wins. An address in no prefix is
//! allowed unless there is an allow list. IPv4 addresses and prefixes written as IPv6 (`::ffff:10.0.0.0/104`) are IPv4;
//! a wider IPv6 prefix, also `::/0`, does not cover IPv4.
//!
//! # Implementation
//!
//! All prefixes of a family are flattened once into the points where the result changes. A lookup is one binary search
//! in a sorted array, whatever the nesting: 100,000 prefixes are at most 200,000 points, 800 KB for IPv4. Unlike in a
//! trie, a lookup follows no pointers. `bench/limits.rs` measures it.

use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The lists of one listener, prepared for lookups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    v4: Changes<u32>,
    v6: Changes<u128>,
}

/// The addresses at which the result changes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Changes<T> {
    /// Whether the lowest address is allowed.
    first: bool,
    /// Sorted; each point inverts the result.
    at: Vec<T>,
}

/// A prefix as a range of numbers.
struct Range {
    first: u128,
    last: u128,
    length: u8,
    allowed: bool,
}

impl Default for Access {
    /// Allows every address.
    fn default() -> Self {
        Access::new(&[], &[])
    }
}

impl Access {
    /// Flattens the lists.
    pub fn new<'a>(allow: impl IntoIterator<Item = &'a IpNet>, deny: impl IntoIterator<Item = &'a IpNet>) -> Access {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        let mut otherwise = true;
        let allow = allow.into_iter().inspect(|_| otherwise = false).map(|net| (net, true));
        for (net, allowed) in allow.chain(deny.into_iter().map(|net| (net, false))) {
            match canonical(*net) {
                IpNet::V4(net) => v4.push(Range {
                    first: u32::from(net.network()).into(),
                    last: u32::from(net.broadcast()).into(),
                    length: net.prefix_len(),
                    allowed,
                }),
                IpNet::V6(net) => v6.push(Range {
                    first: net.network().into(),
                    last: net.broadcast().into(),
                    length: net.prefix_len(),
                    allowed,
                }),
            }
        }
        Access { v4: Changes::new(v4, otherwise), v6: Changes::new(v6, otherwise) }
    }

    /// Whether this address may connect.
    pub fn allows(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self.v4.allows(ip.into()),
            IpAddr::V6(ip) => self.v6.allows(ip.into()),
        }
    }
}

impl Access {
    /// The IPv4 addresses that may not connect: ranges from the first to the last one, in order.
    pub fn denied_v4(&self) -> Vec<(Ipv4Addr, Ipv4Addr)> {
        let ranges = self.v4.denied(|at| at - 1, 0, u32::MAX);
        ranges.into_iter().map(|(first, last)| (first.into(), last.into())).collect()
    }

    /// The IPv6 addresses that may not connect, likewise.
    pub fn denied_v6(&self) -> Vec<(Ipv6Addr, Ipv6Addr)> {
        let ranges = self.v6.denied(|at| at - 1, 0, u128::MAX);
        ranges.into_iter().map(|(first, last)| (first.into(), last.into())).collect()
    }
}

/// Converts an IPv4-mapped prefix to IPv4.
pub fn canonical(net: IpNet) -> IpNet {
    const MAPPED: u8 = 96;
    let IpNet::V6(v6) = net else { return net };
    let mapped = v6.prefix_len().checked_sub(MAPPED).zip(v6.network().to_ipv4_mapped());
    let v4 = mapped.and_then(|(length, at)| IpNet::new(at.into(), length).ok());
    v4.unwrap_or(net)
}

impl<T: Ord + TryFrom<u128>> Changes<T> {
    /// Walks the prefixes in order of their first address, the wider first, with the enclosing ones on a stack.
    fn new(mut ranges: Vec<Range>, otherwise: bool) -> Changes<T> {
        // Of equal prefixes the denying one sorts first and stays.
        ranges.sort_unstable_by_key(|range| (range.first, range.length, range.allowed));
        ranges.dedup_by_key(|range| (range.first, range.length));
        let mut points = vec![(0, otherwise)];
        let mut around: Vec<Range> = Vec::new();
        for range in ranges {
            while let Some(ended) = around.pop_if(|outer| outer.last < range.first) {
                resume_after(&mut points, &ended, &around, otherwise);
            }
            turn(&mut points, range.first, range.allowed);
            around.push(range);
        }
        while let Some(ended) = around.pop() {
            resume_after(&mut points, &ended, &around, otherwise);
        }
        let first = points.first().is_none_or(|point| point.1);
        // A point beyond the last address of the family is not needed.
        Changes { first, at: points.into_iter().skip(1).map_while(|(at, _)| T::try_from(at).ok()).collect() }
    }

    /// The ranges that are not allowed. A point that ends one is above 0.
    fn denied(&self, before: impl Fn(T) -> T, lowest: T, highest: T) -> Vec<(T, T)>
    where
        T: Copy,
    {
        let mut ranges = Vec::new();
        let mut begun = (!self.first).then_some(lowest);
        for &at in &self.at {
            match begun.take() {
                Some(first) => ranges.push((first, before(at))),
                None => begun = Some(at),
            }
        }
        ranges.extend(begun.map(|first| (first, highest)));
        ranges
    }

    fn allows(&self, address: T) -> bool {
        let turns = self.at.partition_point(|at| *at <= address);
        self.first ^ (turns % 2 == 1)
    }
}

/// After the end of a prefix, the result of the enclosing one applies again.
fn resume_after(points: &mut Vec<(u128, bool)>, ended: &Range, around: &[Range], otherwise: bool) {
    if let Some(next) = ended.last.checked_add(1) {
        turn(points, next, around.last().map_or(otherwise, |outer| outer.allowed));
    }
}

/// From `at` on the result is `allowed`; this replaces an earlier point at `at`.
fn turn(points: &mut Vec<(u128, bool)>, at: u128, allowed: bool) {
    points.pop_if(|last| last.0 == at);
    if points.last().is_none_or(|last| last.1 != allowed) {
        points.push((at, allowed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().unwrap()).collect()
    }

    fn allowed(access: &Access, ip: &str) -> bool {
        access.allows(ip.parse().unwrap())
    }

    #[test]
    fn the_most_specific_prefix_wins_and_deny_on_equal_ones() {
        let access =
            Access::new(&nets(&["10.0.0.0/8", "10.1.2.0/24", "10.9.0.0/16"]), &nets(&["10.1.0.0/16", "10.9.0.0/16"]));
        for (ip, want) in [
            ("10.0.0.1", true),
            ("10.1.0.1", false),
            ("10.1.2.3", true),
            ("10.1.3.0", false),
            ("10.2.0.0", true),
            ("10.9.1.1", false),
            ("11.0.0.0", false),
            ("9.255.255.255", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(allowed(&access, ip), want, "{ip}");
        }
    }

    #[test]
    fn without_an_allow_list_only_denied_addresses_are_refused() {
        let access = Access::new(&[], &nets(&["192.0.2.0/24", "2001:db8::/32", "255.255.255.255/32"]));
        assert!(!allowed(&access, "192.0.2.200") && allowed(&access, "192.0.3.0") && allowed(&access, "::1"));
        assert!(!allowed(&access, "2001:db8:ffff::") && allowed(&access, "2001:db9::"));
        assert!(!allowed(&access, "255.255.255.255") && allowed(&access, "255.255.255.254"));
        assert!(allowed(&Access::default(), "192.0.2.200"));
    }

    #[test]
    fn mapped_addresses_and_prefixes_are_ipv4() {
        let access = Access::new(&nets(&["::ffff:10.0.0.0/104", "::/0"]), &nets(&["10.1.0.0/16"]));
        assert!(allowed(&access, "10.2.0.1") && allowed(&access, "::ffff:10.2.0.1"));
        assert!(!allowed(&access, "::ffff:10.1.0.1") && !allowed(&access, "192.0.2.1"));
        assert!(allowed(&access, "2001:db8::1"));
    }

    #[test]
    fn bits_behind_the_prefix_do_not_matter() {
        assert_eq!(Access::new(&nets(&["10.1.2.3/8"]), &[]), Access::new(&nets(&["10.0.0.0/8"]), &[]));
    }

    /// The definition, without flattening.
    fn by_definition(allow: &[IpNet], deny: &[IpNet], ip: IpAddr) -> bool {
        let longest = |nets: &[IpNet]| nets.iter().filter(|net| net.contains(&ip)).map(IpNet::prefix_len).max();
        match (longest(allow), longest(deny)) {
            (None, None) => allow.is_empty(),
            (by_allow, by_deny) => by_allow > by_deny,
        }
    }

    /// Prefixes within a few bits, so that they nest and touch, at both ends of the address space.
    fn net() -> impl Strategy<Value = IpNet> {
        let v4 = (address(), 0u8..=32).prop_map(|(ip, length)| IpNet::new(ip, length).unwrap());
        let v6 =
            (address_v6(), prop_oneof![0u8..=10, 120u8..=128]).prop_map(|(ip, length)| IpNet::new(ip, length).unwrap());
        prop_oneof![3 => v4, 1 => v6]
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        let bits = prop_oneof![0u32..64, (u32::MAX - 64)..=u32::MAX, any::<u32>()];
        bits.prop_map(|bits| IpAddr::V4(bits.into()))
    }

    fn address_v6() -> impl Strategy<Value = IpAddr> {
        let bits = prop_oneof![0u128..64, (u128::MAX - 64)..=u128::MAX];
        bits.prop_map(|bits| IpAddr::V6(Ipv6Addr::from(bits)))
    }

    proptest! {
        #[test]
        fn flattening_changes_no_answer(
            allow in prop::collection::vec(net(), 0..12),
            deny in prop::collection::vec(net(), 0..12),
            asked in prop::collection::vec(prop_oneof![address(), address_v6()], 1..40),
        ) {
            let access = Access::new(&allow, &deny);
            for ip in asked {
                prop_assert_eq!(access.allows(ip), by_definition(&allow, &deny, ip), "{}", ip);
                let denied = match ip {
                    IpAddr::V4(ip) => access.denied_v4().iter().any(|(first, last)| (first..=last).contains(&&ip)),
                    IpAddr::V6(ip) => access.denied_v6().iter().any(|(first, last)| (first..=last).contains(&&ip)),
                };
                let is_v4 = ip.to_canonical().is_ipv4();
                prop_assert!(denied != access.allows(ip) || ip.is_ipv6() && is_v4, "{}", ip);
            }
        }
    }
}
