//! The hash that all tcplb instances and versions share. It has no seed: two instances with the same backends must hash
//! a client alike. A change here moves nearly every client, once.
//!
//! FNV-1a (Fowler, Noll, Vo) over bytes and the finaliser of SplitMix64 (Steele, Lea, Flood, "Fast Splittable
//! Pseudorandom Number Generators", 2014) over numbers. Each takes a few instructions and spreads clients well
//! enough. Neither resists an attacker: a client that chooses its address can choose its backend, as with any hash
//! that instances share.

use super::Member;
use crate::policy::slow_start::GROUPS;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;

/// Spreads a number over all 64 bits, one to one.
pub fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The `nth` of many independent hashes derived from `hash`, with SplitMix64's step.
pub fn nth(hash: u64, nth: u64) -> u64 {
    mix(hash.wrapping_add(nth.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// Reduces a hash to `0..range`, evenly, by its upper bits (Lemire, "Fast Random Integer Generation in an Interval",
/// 2019).
pub fn reduce(hash: u64, range: usize) -> usize {
    ((u128::from(hash) * range as u128) >> 64) as usize
}

/// A client's address as a number. IPv4 becomes its IPv4-mapped IPv6 address, so that the kind of listener does not
/// matter.
pub fn address(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// A client's hash. All clients without an address share one.
pub fn client(ip: Option<IpAddr>) -> u64 {
    let bits = ip.map_or(0, address);
    mix(mix((bits >> 64) as u64).wrapping_add(bits as u64))
}

/// The slow-start group of a client's choices.
pub fn group(ip: Option<IpAddr>) -> usize {
    reduce(nth(client(ip), u64::MAX), GROUPS)
}

/// The identity of each member: the hash of its key, whatever its index. Members with the same key (two names for one
/// address) are numbered, the heaviest first. A number by index would depend on the order that an instance learnt them in.
pub fn identities(members: &[Member]) -> Vec<u64> {
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_by_key(|&index| Reverse(members[index].weight));
    let mut seen: HashMap<&str, u64> = HashMap::new();
    let mut identities = vec![0; members.len()];
    for index in order {
        let key = &members[index].key;
        let before = seen.entry(key).or_default();
        identities[index] = nth(bytes(key.as_bytes()), *before);
        *before += 1;
    }
    identities
}

/// FNV-1a over bytes. Its upper bits are weak, so [`mix`] it.
fn bytes(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::super::tests::members;
    use super::*;

    #[test]
    fn values_are_fixed_for_ever() {
        // Published values: FNV-1a's of "" and "foobar", and SplitMix64's first output for seed 0.
        assert_eq!(bytes(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(bytes(b"foobar"), 0x8594_4171_f739_67e8);
        assert_eq!(nth(0, 1), 0xe220_a839_7b1d_cdaf);
        assert_eq!(client("192.0.2.1".parse().ok()), client("::ffff:192.0.2.1".parse().ok()));
        assert_ne!(client("192.0.2.1".parse().ok()), client("192.0.2.2".parse().ok()));
    }

    #[test]
    fn members_of_one_address_have_different_identities() {
        let mut members = members(&[1, 1, 1]);
        members[2].key = members[0].key.clone();
        let identities = identities(&members);
        assert_ne!(identities[0], identities[2]);
        assert_eq!(identities[0], mix(bytes(members[0].key.as_bytes())));
    }

    #[test]
    fn reducing_is_even_and_stays_in_range() {
        let mut counts = [0; 7];
        (0..7000).for_each(|number| counts[reduce(mix(number), 7)] += 1);
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
        assert_eq!((reduce(u64::MAX, 7), reduce(0, 7)), (6, 0));
    }
}
