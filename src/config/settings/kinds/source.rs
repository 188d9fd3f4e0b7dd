//! `source` of a pool: where connections to its backends come from.

use super::{Kind, Values, list, text};
use crate::config::model::SourceAddress;
use std::net::IpAddr;

/// `client`, an address, or several.
pub const SOURCE_ADDRESS: Kind<SourceAddress> = Kind {
    values: Values::other("`\"client\"`, an address, or a list of addresses", "SOURCE", "[\"10.0.0.5\", \"10.0.0.6\"]"),
    read: |given| {
        if !given.is_list() {
            return given.text(|text| match text.trim() {
                word if word.eq_ignore_ascii_case("client") => Ok(SourceAddress::Client),
                _ => address(text, "client, or an address").map(|ip| SourceAddress::Of(vec![ip])),
            });
        }
        let addresses = given.list(|text| address(text, "an address"))?;
        if given.is_empty_list() {
            given.wrong("the list is empty: leave the key out to have the system choose the address");
        }
        if let Some(twice) = (1..addresses.len()).find(|number| addresses[..*number].contains(&addresses[*number])) {
            given.wrong(&format!("{} is given twice", addresses[twice]));
        }
        // Of a list without a good address the mistakes are noted.
        (!addresses.is_empty()).then_some(SourceAddress::Of(addresses))
    },
    write: |source| match source {
        SourceAddress::Client => text("client"),
        SourceAddress::System | SourceAddress::Of(_) => list(source.listed()),
    },
};

/// An address that a machine can have, and that needs no interface beside it.
fn address(text: &str, expected: &str) -> Result<IpAddr, String> {
    let parsed = text.parse::<IpAddr>().map(|ip| ip.to_canonical()).map_err(|_| None);
    let usable = parsed.and_then(|ip| match ip {
        _ if ip.is_unspecified() => Err(Some("it stands for every address")),
        _ if ip.is_multicast() => Err(Some("it is a multicast address")),
        IpAddr::V4(ip) if ip.is_broadcast() => Err(Some("it is the broadcast address")),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Err(Some("a link-local address needs an interface")),
        _ => Ok(ip),
    });
    usable.map_err(|why| {
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        format!("expected {expected} of this machine, like 10.0.0.5, got `{text}`{why}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file;

    /// What a pool with this line and a backend at `at` gives: its source, or the mistakes.
    fn read(line: &str, at: &str) -> Result<SourceAddress, String> {
        let text = format!("[[listener]]\nbind = [':80']\n[[pool]]\n{line}\n[[pool.backend]]\naddress = '{at}'\n");
        match file::parse(&text, "f") {
            Ok(mut parsed) => Ok(parsed.model.pools.remove(0).source),
            Err(mistakes) => Err(mistakes.to_string()),
        }
    }

    #[test]
    fn a_source_is_the_client_an_address_or_a_list() {
        let of = |addresses: &[&str]| Ok(SourceAddress::Of(addresses.iter().map(|ip| ip.parse().unwrap()).collect()));
        let at = "192.0.2.1:80";
        assert_eq!(read("", at), Ok(SourceAddress::System));
        assert_eq!(read("source = 'Client'", at), Ok(SourceAddress::Client));
        assert_eq!(read("source = '10.0.0.5'", at), of(&["10.0.0.5"]));
        assert_eq!(read("source = ['::ffff:10.0.0.5', '2001:db8::1']", at), of(&["10.0.0.5", "2001:db8::1"]));
    }

    #[test]
    fn what_is_no_source_or_does_not_fit_is_one_mistake_that_names_both() {
        for (line, at, want) in [
            ("source = 'clients'", "192.0.2.1:80", "expected client, or an address of this machine, like 10.0.0.5"),
            ("source = ['client']", "192.0.2.1:80", "expected an address of this machine, like 10.0.0.5, got `client`"),
            ("source = '10.0.0.5:0'", "192.0.2.1:80", "got `10.0.0.5:0`"),
            ("source = '0.0.0.0'", "192.0.2.1:80", "got `0.0.0.0`: it stands for every address"),
            ("source = ['fe80::1']", "192.0.2.1:80", "got `fe80::1`: a link-local address needs an interface"),
            ("source = []", "192.0.2.1:80", "source: the list is empty"),
            ("source = ['10.0.0.5', '10.0.0.5']", "192.0.2.1:80", "source: 10.0.0.5 is given twice"),
            ("source = 5", "192.0.2.1:80", "source: expected client, or an address"),
            (
                "source = '10.0.0.5'",
                "[2001:db8::1]:80",
                "source = 10.0.0.5 has no IPv6 address, but the backend is `[2001:db8::1]:80`",
            ),
            (
                "source = 'client'",
                "unix:/b",
                "source = client needs an IP address or a name, but the backend is `unix:/b`",
            ),
            (
                "source = 'client'\nwarm_connections = 2",
                "192.0.2.1:80",
                "warm_connections: expected 0 beside source = \"client\"",
            ),
        ] {
            let said = read(line, at).unwrap_err();
            assert!(said.contains(want) && said.lines().count() == 1, "{line}: {said}");
        }
        assert!(read("source = ['10.0.0.5']", "name.example:80").is_ok(), "a name may have an address of the family");
    }
}
