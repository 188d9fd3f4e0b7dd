//! The addresses of a listener: tcplb's `[::]` is IPv4 too, and addresses that cover each other stand once.

use std::collections::BTreeSet;

/// An address to listen on, and whether only IPv6 clients reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// As tcplb writes it.
    pub address: String,
    /// `v6only`, `ipv6only=on`.
    pub only_v6: bool,
}

/// What a listener binds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// Its addresses.
    pub addresses: Vec<String>,
    /// IPv4 clients of `[::]` have to be denied.
    pub denies_v4: bool,
}

/// The addresses without those that another one covers. The error says why tcplb can't bind them so.
pub fn bound(binds: &[Bind]) -> Result<Bound, String> {
    let ports =
        |host: &str| -> BTreeSet<&str> { binds.iter().filter_map(|bind| bind.address.strip_prefix(host)).collect() };
    let (four, six) = (ports("0.0.0.0:"), ports("[::]:"));
    let mut addresses: Vec<String> = Vec::new();
    let (mut denies_v4, mut takes_v4) = (false, false);
    for Bind { address, only_v6 } in binds {
        let port = address.rsplit(':').next().unwrap_or_default();
        let inet = !address.starts_with("unix:");
        let is_every = address.starts_with("0.0.0.0:") || address.starts_with("[::]:");
        let written = match is_every {
            true if six.contains(port) && four.contains(port) => format!(":{port}"),
            false if inet && (six.contains(port) || (four.contains(port) && !address.starts_with('['))) => continue,
            _ => address.clone(),
        };
        if written.starts_with("[::]:") && *only_v6 {
            denies_v4 = true;
        } else {
            takes_v4 |= inet && (written.starts_with("[::]:") || !written.starts_with('['));
        }
        if !addresses.contains(&written) {
            addresses.push(written);
        }
    }
    if denies_v4 && takes_v4 {
        return Err("tcplb's [::] takes IPv4 clients too, and another address of the listener needs them".to_owned());
    }
    Ok(Bound { addresses, denies_v4 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(binds: &[(&str, bool)]) -> Result<Bound, String> {
        let bind = |(address, only_v6): &(&str, bool)| Bind { address: (*address).to_owned(), only_v6: *only_v6 };
        bound(&binds.iter().map(bind).collect::<Vec<_>>())
    }

    #[test]
    fn addresses_that_cover_each_other_stand_once() {
        for (binds, want, denies) in [
            (&[("0.0.0.0:80", false)][..], &["0.0.0.0:80"][..], false),
            (&[("0.0.0.0:80", false), ("[::]:80", true)], &[":80"], false),
            (&[("[::]:80", false)], &["[::]:80"], false),
            (&[("[::]:80", true)], &["[::]:80"], true),
            (
                &[("0.0.0.0:80", false), ("10.0.0.1:80", false), ("10.0.0.1:81", false)],
                &["0.0.0.0:80", "10.0.0.1:81"],
                false,
            ),
            (&[("[::]:80", true), ("unix:/a", false)], &["[::]:80", "unix:/a"], true),
        ] {
            let want = Bound { addresses: want.iter().map(|text| (*text).to_owned()).collect(), denies_v4: denies };
            assert_eq!(of(binds), Ok(want), "{binds:?}");
        }
        assert!(of(&[("[::]:80", true), ("0.0.0.0:81", false)]).is_err());
    }
}
