//! Ordered rules about addresses, of which the first match decides → decisions by prefix, of which the longest decides.
//!
//! A rule looks at sets of prefixes. Take all prefixes of all sets. The addresses of one of them that lie in no longer one
//! belong to the same sets. So the rules give them one decision, and asking once per prefix gives the whole answer.

use crate::config::settings::kinds;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::{BTreeMap, BTreeSet};

/// All IPv4 addresses.
pub fn every_v4() -> IpNet {
    IpNet::V4(Ipv4Net::default())
}

/// All IPv6 addresses.
pub fn every_v6() -> IpNet {
    IpNet::V6(Ipv6Net::default())
}

/// A prefix or a single address, as the new file has it. HAProxy also takes a mask: `10.0.0.0/255.0.0.0`.
pub fn prefix(text: &str) -> Option<IpNet> {
    let masked = || {
        let (address, mask) = text.split_once('/')?;
        Some(IpNet::with_netmask(address.parse().ok()?, mask.parse().ok()?).ok()?.trunc())
    };
    kinds::prefix(text).ok().or_else(masked)
}

/// The prefix and all wider ones that hold it. Looking these up keeps a list of thousands fast.
pub fn around(prefix: &IpNet) -> impl Iterator<Item = IpNet> {
    std::iter::successors(Some(*prefix), IpNet::supernet)
}

/// Whether one of the set covers the prefix.
pub fn covers(set: &BTreeSet<IpNet>, prefix: &IpNet) -> bool {
    around(prefix).any(|wider| set.contains(&wider))
}

/// The decision for each of these prefixes and for all addresses beyond them, without those that a wider prefix implies.
/// In the order of the prefixes, IPv4 first, wider ones first.
pub fn decisions<D: Clone + PartialEq, E>(
    prefixes: impl IntoIterator<Item = IpNet>,
    mut decide: impl FnMut(&IpNet) -> Result<D, E>,
) -> Result<Vec<(IpNet, D)>, E> {
    let mut all: Vec<IpNet> = prefixes.into_iter().chain([every_v4(), every_v6()]).collect();
    all.sort_by_key(|net| (net.addr().is_ipv6(), net.prefix_len(), net.addr()));
    all.dedup();
    let mut decided: BTreeMap<IpNet, D> = BTreeMap::new();
    let mut kept = Vec::new();
    for net in all {
        let decision = decide(&net)?;
        let around = around(&net).skip(1).find_map(|wider| decided.get(&wider));
        if around != Some(&decision) {
            kept.push((net, decision.clone()));
        }
        decided.insert(net, decision);
    }
    Ok(kept)
}

/// `allow` and `deny` of a listener.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lists {
    pub allow: Vec<String>,
    pub deny: Vec<String>,
}

/// The lists that admit the same addresses. An empty `allow` admits every address.
pub fn lists(decisions: &[(IpNet, bool)]) -> Lists {
    let of = |admitted: bool| decisions.iter().filter(move |(_, decision)| *decision == admitted).map(|(net, _)| *net);
    let is_root = |net: &IpNet| net.prefix_len() == 0;
    let written = |nets: &mut dyn Iterator<Item = IpNet>| nets.map(|net| shown(&net)).collect::<Vec<_>>();
    // All that stands in no list is admitted only without `allow`.
    let open = of(false).all(|net| !is_root(&net)) && of(true).all(|net| is_root(&net));
    if open {
        return Lists { allow: Vec::new(), deny: written(&mut of(false)) };
    }
    let allow = written(&mut of(true));
    if allow.is_empty() {
        return Lists { allow, deny: written(&mut of(false)) };
    }
    // With `allow`, the rest is denied.
    Lists { allow, deny: written(&mut of(false).filter(|net| !is_root(net))) }
}

/// A prefix; a single address without its length.
pub fn shown(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn nets(texts: &[&str]) -> BTreeSet<IpNet> {
        texts.iter().map(|text| prefix(text).unwrap()).collect()
    }

    /// What ordered rules give for a prefix; without a match `last`.
    fn first_match(rules: &[(bool, BTreeSet<IpNet>)], net: &IpNet, last: bool) -> bool {
        rules.iter().find(|(_, set)| covers(set, net)).map_or(last, |(accept, _)| *accept)
    }

    fn lists_of(rules: &[(bool, &[&str])], last: bool) -> Lists {
        let rules: Vec<(bool, BTreeSet<IpNet>)> = rules.iter().map(|(accept, set)| (*accept, nets(set))).collect();
        let all: Vec<IpNet> = rules.iter().flat_map(|(_, set)| set.clone()).collect();
        let decided = decisions(all, |net| Ok::<_, ()>(first_match(&rules, net, last)));
        lists(&decided.unwrap())
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn rules_in_order_become_lists() {
        let both = ["0.0.0.0/0", "::/0"];
        for (rules, last, allow, deny) in [
            (&[(false, &["10.0.0.0/8"][..])][..], true, &[][..], &["10.0.0.0/8"][..]),
            (&[(true, &["10.0.0.0/8"])], false, &["10.0.0.0/8"], &[]),
            (&[(false, &["10.1.0.0/16"]), (true, &["10.0.0.0/8"])], false, &["10.0.0.0/8"], &["10.1.0.0/16"]),
            // The wider rule stands first, so the longer one never decides.
            (&[(true, &["10.0.0.0/8"]), (false, &["10.1.0.0/16"])], false, &["10.0.0.0/8"], &[]),
            // An exception to a denied prefix, and all else is admitted.
            (
                &[(true, &["10.1.2.3"]), (false, &["10.0.0.0/8"])],
                true,
                &["0.0.0.0/0", "10.1.2.3", "::/0"],
                &["10.0.0.0/8"],
            ),
            (&[], false, &[], &both),
            (&[(false, &["0.0.0.0/0"])], true, &["::/0"], &[]),
            (&[], true, &[], &[]),
        ] {
            assert_eq!(lists_of(rules, last), Lists { allow: strings(allow), deny: strings(deny) }, "{rules:?} {last}");
        }
    }

    #[test]
    fn masks_and_bits_beyond_the_prefix_are_understood() {
        assert_eq!(prefix("10.1.2.3/255.0.0.0"), prefix("10.0.0.0/8"));
        assert_eq!(prefix("10.1.2.3/8"), prefix("10.0.0.0/8"));
        // Clients are matched by their IPv4 address.
        assert_eq!(prefix("::ffff:10.1.2.3"), prefix("10.1.2.3"));
        assert_eq!(prefix("web"), None);
    }

    /// What tcplb does with lists: the longest prefix decides, on equal ones `deny`.
    fn admitted(lists: &Lists, at: Ipv4Addr) -> bool {
        let longest = |list: &[String]| {
            let nets = list.iter().filter_map(|text| prefix(text)).filter(|net| net.contains(&IpAddr::V4(at)));
            nets.map(|net| i16::from(net.prefix_len())).max().unwrap_or(-1)
        };
        let (allow, deny) = (longest(&lists.allow), longest(&lists.deny));
        if allow < 0 && deny < 0 { lists.allow.is_empty() } else { allow > deny }
    }

    proptest! {
        #[test]
        fn lists_admit_what_the_rules_admit(
            rules in prop::collection::vec((any::<bool>(), prop::collection::vec((0u8..4, 0u8..4, 0u8..=32), 0..4)), 0..6),
            last: bool,
            clients in prop::collection::vec((0u8..4, 0u8..4), 8),
        ) {
            let net = |(a, b, length)| IpNet::new(Ipv4Addr::new(a << 6, b << 6, 0, 0).into(), length).unwrap().trunc();
            let rules: Vec<(bool, BTreeSet<IpNet>)> =
                rules.into_iter().map(|(accept, set)| (accept, set.into_iter().map(net).collect())).collect();
            let all: Vec<IpNet> = rules.iter().flat_map(|(_, set)| set.clone()).collect();
            let decided = decisions(all, |net| Ok::<_, ()>(first_match(&rules, net, last))).unwrap();
            let lists = lists(&decided);
            for (a, b) in clients {
                let client = Ipv4Addr::new(a << 6, b << 6, 0, 0);
                let want = first_match(&rules, &IpNet::from(IpAddr::V4(client)), last);
                prop_assert_eq!(admitted(&lists, client), want, "{} {:?}", client, lists);
            }
        }
    }
}
