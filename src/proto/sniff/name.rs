//! Names of servers, as ClientHellos and routes have them.
//!
//! A name is compared in lower case and without the dot at its end. It consists of labels of letters, digits, `-` and `_`. That is
//! more than host names may have, and no more than clients send.

use std::fmt;
use std::net::IpAddr;

/// The longest name.
pub const NAME_MAX: usize = 253;

/// The longest label.
const LABEL_MAX: usize = 63;

/// Why bytes are not the name of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoName {
    /// An IP address. Clients do not send one as a name.
    Address,
    /// A byte that no name has.
    Byte,
    /// An empty label, or one of more than 63 bytes.
    Label,
    /// More than 253 bytes.
    TooLong,
}

/// The name in the form in which names are compared.
pub fn normalized(bytes: &[u8]) -> Result<Box<str>, NoName> {
    let bytes = bytes.strip_suffix(b".").unwrap_or(bytes);
    if bytes.len() > NAME_MAX {
        return Err(NoName::TooLong);
    }
    if std::str::from_utf8(bytes).is_ok_and(|text| text.parse::<IpAddr>().is_ok()) {
        return Err(NoName::Address);
    }
    if !bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte)) {
        return Err(NoName::Byte);
    }
    if bytes.split(|byte| *byte == b'.').any(|label| label.is_empty() || label.len() > LABEL_MAX) {
        return Err(NoName::Label);
    }
    Ok(bytes.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect())
}

impl fmt::Display for NoName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            NoName::Address => "it is an IP address, which no client sends as a name",
            NoName::Byte => "it contains other characters than letters, digits, `-`, `_` and `.`",
            NoName::Label => "one of its labels is empty or longer than 63 bytes",
            NoName::TooLong => "it is longer than 253 bytes",
        })
    }
}
