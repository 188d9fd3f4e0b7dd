//! The addresses of a listener: tcplb's `[::]` is IPv4 too, and addresses that cover each other stand once.

use super::access;
use super::model::Listener;
use crate::base::address::RANGE_MAX;
use crate::base::{Address, Listen};
use std::collections::HashSet;

/// Why a line is refused whose clients send a PROXY header, beside one whose clients send none. On an address without it, a header
/// would let a client claim any address. `section` is what has addresses in the dialect.
pub fn mixed(section: &str) -> String {
    format!("a listener expects a PROXY header on all addresses or on none; give this one a {section} of its own")
}

/// An address, or an address for each port of a range: `10.0.0.1:80`, `10.0.0.1:5000-5150`.
pub fn addresses(text: &str) -> Result<Vec<Listen>, String> {
    let all = Listen::parse_all(text)?;
    match all.first().is_some_and(Listen::asks_for_any_port) {
        true => Err(format!("expected a port from 1 to 65535, got `{text}`")),
        false => Ok(all),
    }
}

/// An address to listen on, and whether only IPv6 clients reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bind {
    listen: Listen,
    /// `v6only`, `ipv6only=on`.
    only_v6: bool,
}

/// What the lines of a listener bind.
#[derive(Debug, Default)]
pub struct Binds {
    all: Vec<Bind>,
    /// How many ports are from ranges.
    in_ranges: usize,
}

impl Binds {
    /// Adds an address, or those of a range of ports. The error says why tcplb can't bind them.
    pub fn add(&mut self, addresses: Vec<Listen>, only_v6: bool) -> Result<(), String> {
        if addresses.len() > 1 {
            self.in_ranges += addresses.len();
        }
        // A port of IPv4 and the same port of IPv6 become one.
        if self.in_ranges > 2 * RANGE_MAX {
            return Err(too_many(self.in_ranges));
        }
        self.all.extend(addresses.into_iter().map(|listen| Bind { listen, only_v6 }));
        Ok(())
    }

    /// Sets the addresses of the listener, and denies IPv4 clients where only IPv6 clients reach it. The error says why tcplb
    /// can't bind the addresses so.
    pub fn set(&self, listener: &mut Listener) -> Result<(), String> {
        let (bind, denies_v4) = self.bound()?;
        listener.bind = bind;
        if denies_v4 {
            listener.deny.push(access::every_v4().to_string());
        }
        Ok(())
    }

    /// The addresses without those that another one covers, and whether IPv4 clients of `[::]` have to be denied.
    fn bound(&self) -> Result<(Vec<Listen>, bool), String> {
        let ports = |of: &dyn Fn(&Bind) -> bool| -> HashSet<Option<u16>> {
            self.all.iter().filter(|bind| of(bind)).map(|bind| bind.listen.port()).collect()
        };
        let four = ports(&|bind| is_every(&bind.listen) && !is_v6(&bind.listen));
        let six = ports(&|bind| is_every(&bind.listen) && is_v6(&bind.listen));
        // `[::]` that takes IPv4 clients too.
        let both = ports(&|bind| is_every(&bind.listen) && is_v6(&bind.listen) && !bind.only_v6);
        let (mut addresses, mut known) = (Vec::new(), HashSet::new());
        let (mut denies_v4, mut takes_v4) = (false, false);
        for Bind { listen, only_v6 } in &self.all {
            let port = listen.port();
            let is_covered = match &listen.0 {
                _ if is_every(listen) => false,
                Address::Inet(_) if is_v6(listen) => six.contains(&port),
                Address::Inet(_) => four.contains(&port) || both.contains(&port),
                // Its addresses may be of both families.
                Address::Name(..) => both.contains(&port) || (four.contains(&port) && six.contains(&port)),
                Address::Any(_) | Address::Mapped(..) | Address::Unix(_) => false,
            };
            if is_covered {
                continue;
            }
            let written = match port {
                Some(port) if is_every(listen) && four.contains(&Some(port)) && six.contains(&Some(port)) => {
                    Listen(Address::Any(port))
                }
                _ => listen.clone(),
            };
            if port.is_some() && is_v6(&written) {
                denies_v4 |= is_every(&written) && *only_v6;
                takes_v4 |= is_every(&written) && !*only_v6;
            } else {
                takes_v4 |= port.is_some();
            }
            if known.insert(written.clone()) {
                addresses.push(written);
            }
        }
        if denies_v4 && takes_v4 {
            return Err(
                "[::] of tcplb takes IPv4 clients too, and another address of the listener needs them".to_owned()
            );
        }
        let alone = Listen::shown(&addresses).iter().filter(|text| Listen::parse(text).is_ok()).count();
        match addresses.len() - alone {
            in_ranges if in_ranges > RANGE_MAX => Err(too_many(in_ranges)),
            _ => Ok((addresses, denies_v4)),
        }
    }
}

fn too_many(ports: usize) -> String {
    format!("expected at most {RANGE_MAX} ports in the ranges of a listener, got {ports}")
}

/// Whether it is each address of its family.
fn is_every(listen: &Listen) -> bool {
    matches!(&listen.0, Address::Inet(at) if at.ip().is_unspecified())
}

/// Whether it is an address of IPv6 alone. A name may be of both families; one with an interface is link-local.
fn is_v6(listen: &Listen) -> bool {
    match &listen.0 {
        Address::Inet(at) => at.is_ipv6(),
        Address::Name(host, _) => host.contains('%'),
        Address::Any(_) | Address::Mapped(..) | Address::Unix(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(binds: &[(&str, bool)]) -> Result<(Vec<String>, bool), String> {
        let mut all = Binds::default();
        for (text, only_v6) in binds {
            all.add(addresses(text)?, *only_v6)?;
        }
        all.bound().map(|(bind, denies_v4)| (Listen::shown(&bind), denies_v4))
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
            (&[("[::]:80", true), ("[2001:db8::1]:80", false)], &["[::]:80"], true),
            (&[("[::]:80", false), ("10.0.0.1:80", false), ("web:80", false)], &["[::]:80"], false),
            (&[("0.0.0.0:80", false), ("web:80", false)], &["0.0.0.0:80", "web:80"], false),
            (&[("0.0.0.0:5000-5150", false), ("[::]:5000-5150", true)], &[":5000-5150"], false),
            (
                &[("0.0.0.0:5001", false), ("10.0.0.1:5000-5003", false)],
                &["0.0.0.0:5001", "10.0.0.1:5000", "10.0.0.1:5002", "10.0.0.1:5003"],
                false,
            ),
        ] {
            let want = want.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(of(binds), Ok((want, denies)), "{binds:?}");
        }
    }

    #[test]
    fn what_tcplb_can_t_bind_so_is_an_error() {
        for (binds, why) in [
            (&[("[::]:80", true), ("0.0.0.0:81", false)][..], "takes IPv4 clients too"),
            // The address is of IPv4, and `[::]` alone would deny its clients.
            (&[("[::]:80", true), ("10.0.0.1:80", false)], "takes IPv4 clients too"),
            (&[("0.0.0.0:0", false)], "expected a port from 1 to 65535, got `0.0.0.0:0`"),
            (&[("0.0.0.0:1-5000", false)], "more than 4096 ports"),
            (
                &[("0.0.0.0:1-4000", false), ("0.0.0.0:4001-5000", false)],
                "expected at most 4096 ports in the ranges of a listener, got 5000",
            ),
            (&[("0.0.0.0:1-4000", false), ("[::]:4001-8000", false), ("web:1-4000", false)], "got 12000"),
        ] {
            let said = of(binds).unwrap_err();
            assert!(said.contains(why), "{binds:?}: {said}");
        }
    }
}
