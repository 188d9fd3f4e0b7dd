//! What the system lacks for connections that it forwards. tcplb changes no setting of the system, and reports it.

use super::directory::Directory;
use super::table::Family;
use crate::preflight;
use std::fs;
use std::net::SocketAddr;

/// What is lacking, each a sentence. `counts_bytes`: the kernel does.
pub(super) fn of(directory: &Directory, counts_bytes: bool) -> Vec<String> {
    let mut lacks = Vec::new();
    if !counts_bytes {
        lacks.push("the kernel counts no bytes of its connections: set net.netfilter.nf_conntrack_acct = 1".to_owned());
    }
    for (family, key, file) in [
        (Family::V4, "net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"),
        (Family::V6, "net.ipv6.conf.all.forwarding", "/proc/sys/net/ipv6/conf/all/forwarding"),
    ] {
        // A file that can't be read says nothing.
        let is_off = fs::read_to_string(file).is_ok_and(|text| text.trim() == "0");
        if !is_off {
            continue;
        }
        let mut addresses: Vec<SocketAddr> = directory.marks().map(|(_, marked)| marked.address).collect();
        addresses.retain(|at| Family::of(at.ip()) == family);
        // The same one each time, so that the log has it once.
        addresses.sort_unstable();
        if let Some(at) = addresses.into_iter().find(|at| !preflight::is_ours(at.ip())) {
            lacks.push(format!("the kernel forwards no packets to backends like {at}: set {key} = 1"));
        }
    }
    lacks
}
