//! Single values that only the file has: rates, prefixes, status ranges, words with a duration.

use crate::base::{Size, duration};
use crate::config::model::{NoBackend, OnDown, OnRemove, Rate, SendProxy};
use crate::config::words;
use crate::policy::limit::canonical;
use ipnet::{IpNet, Ipv6Net};
use std::net::IpAddr;
use std::time::Duration;

/// The bits in front of the IPv4 address in an IPv4-mapped one.
const MAPPED: u8 = 96;

/// `50/s`.
pub fn rate(text: &str) -> Result<Rate, String> {
    let per_second = text.strip_suffix("/s").filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    match per_second.and_then(|digits| digits.parse().ok()) {
        Some(per_second) if per_second > 0 => Ok(Rate { per_second }),
        _ => Err(format!("expected so many per second, like 50/s, got `{text}`")),
    }
}

/// `10.0.0.0/8`, `2001:db8::/32`, or a single address. Bits beyond the prefix don't count, so they are dropped. An IPv4-mapped
/// one (`::ffff:10.0.0.0/104`) is the IPv4 prefix, since clients are matched by their IPv4 address.
pub fn prefix(text: &str) -> Result<IpNet, String> {
    let single = || text.parse::<IpAddr>().map(IpNet::from);
    let net = text.parse::<IpNet>().or_else(|_| single()).map_err(|_| {
        format!("expected a prefix like 10.0.0.0/8 or 2001:db8::/32, or a single address, got `{text}`")
    })?;
    let short = |net: &Ipv6Net| net.prefix_len() < MAPPED && net.addr().to_ipv4_mapped().is_some();
    if matches!(&net, IpNet::V6(net) if short(net)) {
        return Err(format!(
            "expected /{MAPPED} or longer after an IPv4-mapped address, got `{text}`: write 0.0.0.0/0 for all IPv4 addresses, \
             ::/0 for all IPv6 addresses"
        ));
    }
    Ok(canonical(net.trunc()))
}

/// `200` or `200-299`.
pub fn status(text: &str) -> Result<(u16, u16), String> {
    let code = |text: &str| {
        let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|code| digits && (100..=599).contains(code))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (code(first.trim()), code(last.trim())) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => Err(format!("expected a status from 100 to 599 or a range, like \"200\" or \"200-299\", got `{text}`")),
    }
}

/// `2m`: what keepalive can do, which counts in seconds and not beyond nine hours of silence (tcp(7)).
pub fn dead_peer_timeout(text: &str) -> Result<Duration, String> {
    let time = duration::parse(text)?;
    let range = Duration::from_secs(2)..=Duration::from_secs(10 * 3600);
    range.contains(&time).then_some(time).ok_or_else(|| format!("expected a time from 2s to 10h, got `{text}`"))
}

/// `256KiB`. Less than a quarter of what is moved at once would only cost system calls; the upper end is far beyond what the
/// longest fat path fills.
pub fn socket_buffer(text: &str) -> Result<Size, String> {
    Size::parse(text, Size::kib(16), Size::mib(256))
}

/// `keep` or `reset`.
pub fn on_down(text: &str) -> Result<OnDown, String> {
    words::one_of(text, &[("keep", OnDown::Keep), ("reset", OnDown::Reset)])
}

/// `keep`, `reset` or `drain 30s`.
pub fn on_remove(text: &str) -> Result<OnRemove, String> {
    const EXAMPLE: Duration = Duration::from_secs(30);
    let words = [("keep", OnRemove::Keep), ("reset", OnRemove::Reset), ("drain 30s", OnRemove::Drain(EXAMPLE))];
    followed(text, "drain").map_or_else(|| words::one_of(text, &words), |time| time.map(OnRemove::Drain))
}

/// `reset` or `wait 3s`.
pub fn no_backend(text: &str) -> Result<NoBackend, String> {
    const EXAMPLE: Duration = Duration::from_secs(3);
    let words = [("reset", NoBackend::Reset), ("wait 3s", NoBackend::Wait(EXAMPLE))];
    followed(text, "wait").map_or_else(|| words::one_of(text, &words), |time| time.map(NoBackend::Wait))
}

/// `off`, `v1` or `v2`.
pub fn proxy(text: &str) -> Result<SendProxy, String> {
    words::one_of(text, &SendProxy::NAMES)
}

/// Zero, for which the key has a meaning of its own, or a duration that a timer can measure.
pub fn zero_or_more(text: &str) -> Result<Duration, String> {
    let time = duration::parse(text)?;
    if time.is_zero() { Ok(time) } else { duration::parse_positive(text) }
}

/// The duration after a word; `None` if the text does not begin with it.
fn followed(text: &str, word: &str) -> Option<Result<Duration, String>> {
    let (first, rest) = text.trim().split_once(char::is_whitespace).unwrap_or((text.trim(), ""));
    if !first.eq_ignore_ascii_case(word) {
        return None;
    }
    Some(duration::parse_positive(rest).map_err(|why| format!("after `{word}`: {why}")))
}

/// Permission bits as chmod(1) takes them, less those that a socket has no use for.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    let octal = (3..=4).contains(&text.len()).then(|| u32::from_str_radix(text, 8).ok()).flatten();
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    octal
        .filter(|mode| digits && *mode <= 0o777)
        .ok_or_else(|| format!("expected permissions in octal from 0000 to 0777, like 0660, got `{text}`"))
}

/// A user or a group, by name or number. Whether it exists is known where it is used.
pub(super) fn account(text: &str) -> Result<String, String> {
    let good = !text.is_empty() && !text.contains([' ', ':', '\0']);
    good.then(|| text.to_owned()).ok_or_else(|| format!("expected a name or a number, got `{text}`"))
}
