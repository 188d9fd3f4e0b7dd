//! The kernel's table of tracked connections (conntrack) as netlink messages: requests to bytes, datagrams to entries. Pure.
//!
//! The format is that of linux/netlink.h, nfnetlink.h and nfnetlink_conntrack.h. The header of a message and of an attribute has the
//! machine's byte order; the values of conntrack have the network's. [`crate::net::conntrack`] has the socket.
//!
//! Only the fields of [`Entry`] are read. The kept crate for this format (netlink-packet-netfilter 0.4) reads neither byte
//! counters nor mark masks, and allocates per attribute; a dump has 200 000 entries.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A tracked TCP connection. The client's packets go from `client` to `to`, and the backend's from `backend` to `reply_to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its mark (`ct mark`); 0 without one.
    pub mark: u32,
    /// The state of the connection as conntrack follows it.
    pub state: TcpState,
    /// Whether a connection was established: the client acknowledged the backend's answer.
    pub assured: bool,
    /// The client's address.
    pub client: SocketAddr,
    /// Where the client connected to.
    pub to: SocketAddr,
    /// Where its packets go instead.
    pub backend: SocketAddr,
    /// Where the backend's packets go: the client, or the address that the client's packets have towards the backend.
    pub reply_to: SocketAddr,
    /// The bytes of the client's packets, with their IP headers; 0 where the system does not count them.
    pub from_client: u64,
    /// The bytes of the backend's packets.
    pub to_client: u64,
    /// Its number: entries that follow each other at the same addresses have different ones.
    pub id: u32,
    /// The conntrack zone.
    pub zone: u16,
    /// Seconds until the entry ends without a further packet.
    pub timeout: u32,
}

/// The states of linux/netfilter/nf_conntrack_tcp.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TcpState {
    /// No packet yet, or a state that is not known here.
    None,
    /// The client sent a SYN.
    SynSent,
    /// The backend answered it.
    SynReceived,
    /// Both ends are connected.
    Established,
    /// One end sent a FIN.
    FinWait,
    /// The other end acknowledged it.
    CloseWait,
    /// Both ends sent a FIN.
    LastAck,
    /// Both are closed; late packets may come.
    TimeWait,
    /// The connection was reset.
    Close,
    /// Both ends sent a SYN.
    SynSent2,
}

impl TcpState {
    fn of(number: u8) -> TcpState {
        match number {
            1 => TcpState::SynSent,
            2 => TcpState::SynReceived,
            3 => TcpState::Established,
            4 => TcpState::FinWait,
            5 => TcpState::CloseWait,
            6 => TcpState::LastAck,
            7 => TcpState::TimeWait,
            8 => TcpState::Close,
            9 => TcpState::SynSent2,
            _ => TcpState::None,
        }
    }

    /// Whether the connection is open, or about to be.
    pub fn is_active(self) -> bool {
        !matches!(self, TcpState::None | TcpState::TimeWait | TcpState::Close)
    }
}

/// One message of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A TCP entry that exists.
    Entry(Entry),
    /// A TCP entry that has ended.
    Destroyed(Entry),
    /// A request is answered: 0, or the error's number.
    Answer {
        /// The number of the request.
        sequence: u32,
        /// 0, or an errno(3).
        error: i32,
    },
    /// A dump is complete: 0, or the number of the error that ended it.
    Done {
        /// 0, or an errno(3).
        error: i32,
    },
    /// Something else: an entry of another protocol, or a message that is not known here.
    Other,
}

/// A datagram, or a part of it, is not what the kernel sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The size of a netlink header.
const HEADER: usize = 16;
/// The header of netfilter behind it: family, version, number.
const FAMILY_HEADER: usize = 4;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NEW: u16 = 0x0100;
const GET: u16 = 0x0101;
const DELETE: u16 = 0x0102;

const REQUEST: u16 = 0x0001;
const ACKNOWLEDGE: u16 = 0x0004;
const DUMP: u16 = 0x0300;

const NESTED: u16 = 0x8000;
/// Of an attribute's type; the rest are flags.
const TYPE: u16 = 0x3fff;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOCOL_INFO: u16 = 4;
const TIMEOUT: u16 = 7;
const MARK: u16 = 8;
const COUNTERS_ORIGINAL: u16 = 9;
const COUNTERS_REPLY: u16 = 10;
const ID: u16 = 12;
const ZONE: u16 = 18;
const MARK_MASK: u16 = 21;

const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IP_SOURCES: [u16; 2] = [1, 3];
const IP_DESTINATIONS: [u16; 2] = [2, 4];
const PROTOCOL_NUMBER: u16 = 1;
const PORT_SOURCE: u16 = 2;
const PORT_DESTINATION: u16 = 3;
const INFO_TCP: u16 = 1;
const INFO_TCP_STATE: u16 = 1;
const COUNTER_BYTES: u16 = 2;

/// The bit of an established connection in the status.
const ASSURED: u32 = 1 << 2;

const TCP: u8 = 6;
const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The messages of a datagram. It ends after the first [`Malformed`].
pub fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<Message, Malformed>> {
    let mut left = datagram;
    std::iter::from_fn(move || {
        if left.is_empty() {
            return None;
        }
        let read = cut(left).and_then(|(message, rest)| Ok((read(message)?, rest)));
        left = read.as_ref().map_or(&[], |(_, rest)| rest);
        Some(read.map(|(message, _)| message))
    })
}

/// The first message, and what follows it.
fn cut(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let length = bytes.get(..4).and_then(|length| length.try_into().ok()).map(u32::from_ne_bytes).ok_or(Malformed)?;
    let length = usize::try_from(length).map_err(|_| Malformed)?;
    let message = bytes.get(..length).filter(|message| message.len() >= HEADER).ok_or(Malformed)?;
    Ok((message, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn read(message: &[u8]) -> Result<Message, Malformed> {
    let kind = number::<2>(message, 4).map(u16::from_ne_bytes)?;
    match kind {
        NEW | DELETE => {
            let attributes = message.get(HEADER + FAMILY_HEADER..).ok_or(Malformed)?;
            Ok(match (entry(attributes)?, kind) {
                (Some(entry), NEW) => Message::Entry(entry),
                (Some(entry), _) => Message::Destroyed(entry),
                (None, _) => Message::Other,
            })
        }
        NLMSG_ERROR => {
            let error = number::<4>(message, HEADER).map(i32::from_ne_bytes)?;
            let sequence = number::<4>(message, 8).map(u32::from_ne_bytes)?;
            Ok(Message::Answer { sequence, error: error.saturating_neg() })
        }
        NLMSG_DONE => {
            // A kernel may leave the number out.
            let error = number::<4>(message, HEADER).map_or(0, i32::from_ne_bytes);
            Ok(Message::Done { error: error.saturating_neg() })
        }
        _ => Ok(Message::Other),
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Malformed> {
    bytes.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).ok_or(Malformed)
}

/// An attribute's type without flags, and its value.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), Malformed>> {
    let mut left = bytes;
    std::iter::from_fn(move || {
        if left.is_empty() {
            return None;
        }
        let cut = attribute(left);
        left = cut.as_ref().map_or(&[], |(_, _, rest)| rest);
        Some(cut.map(|(kind, value, _)| (kind, value)))
    })
}

fn attribute(bytes: &[u8]) -> Result<(u16, &[u8], &[u8]), Malformed> {
    let length = usize::from(number::<2>(bytes, 0).map(u16::from_ne_bytes)?);
    let kind = number::<2>(bytes, 2).map(u16::from_ne_bytes)? & TYPE;
    let value = bytes.get(4..length).ok_or(Malformed)?;
    Ok((kind, value, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The value of an attribute among these.
fn find(bytes: &[u8], wanted: u16) -> Result<Option<&[u8]>, Malformed> {
    for attribute in attributes(bytes) {
        let (kind, value) = attribute?;
        if kind == wanted {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// `None`: it is not a TCP connection.
fn entry(bytes: &[u8]) -> Result<Option<Entry>, Malformed> {
    let (mut original, mut reply) = (None, None);
    let (mut mark, mut id, mut zone, mut timeout) = (0, 0, 0, 0);
    let (mut from_client, mut to_client, mut state, mut status) = (0, 0, TcpState::None, 0);
    for attribute in attributes(bytes) {
        let (kind, value) = attribute?;
        match kind {
            TUPLE_ORIGINAL | TUPLE_REPLY => {
                let Some(found) = tuple(value)? else { return Ok(None) };
                *(if kind == TUPLE_ORIGINAL { &mut original } else { &mut reply }) = Some(found);
            }
            PROTOCOL_INFO => {
                let tcp = find(value, INFO_TCP)?.unwrap_or_default();
                let number = find(tcp, INFO_TCP_STATE)?.and_then(|value| value.first());
                state = number.map_or(TcpState::None, |number| TcpState::of(*number));
            }
            STATUS => status = number::<4>(value, 0).map(u32::from_be_bytes)?,
            TIMEOUT => timeout = number::<4>(value, 0).map(u32::from_be_bytes)?,
            MARK => mark = number::<4>(value, 0).map(u32::from_be_bytes)?,
            ID => id = number::<4>(value, 0).map(u32::from_be_bytes)?,
            ZONE => zone = number::<2>(value, 0).map(u16::from_be_bytes)?,
            COUNTERS_ORIGINAL => from_client = counted(value)?,
            COUNTERS_REPLY => to_client = counted(value)?,
            _ => {}
        }
    }
    let ((client, to), (backend, reply_to)) = original.zip(reply).ok_or(Malformed)?;
    let assured = status & ASSURED != 0;
    Ok(Some(Entry { mark, state, assured, client, to, backend, reply_to, from_client, to_client, id, zone, timeout }))
}

fn counted(value: &[u8]) -> Result<u64, Malformed> {
    let bytes = find(value, COUNTER_BYTES)?;
    bytes.map_or(Ok(0), |bytes| number::<8>(bytes, 0).map(u64::from_be_bytes))
}

/// Source and destination; `None`: they are not of TCP.
fn tuple(value: &[u8]) -> Result<Option<(SocketAddr, SocketAddr)>, Malformed> {
    let (mut ips, mut ports, mut protocol) = ([None; 2], [None; 2], None);
    for attribute in attributes(value) {
        let (kind, value) = attribute?;
        for inner in attributes(match kind {
            TUPLE_IP | TUPLE_PROTOCOL => value,
            _ => &[],
        }) {
            let (inner, value) = inner?;
            match (kind, inner) {
                (TUPLE_IP, which) if IP_SOURCES.contains(&which) => ips[0] = Some(ip(value)?),
                (TUPLE_IP, which) if IP_DESTINATIONS.contains(&which) => ips[1] = Some(ip(value)?),
                (TUPLE_PROTOCOL, PROTOCOL_NUMBER) => protocol = value.first().copied(),
                (TUPLE_PROTOCOL, PORT_SOURCE) => ports[0] = Some(number::<2>(value, 0).map(u16::from_be_bytes)?),
                (TUPLE_PROTOCOL, PORT_DESTINATION) => ports[1] = Some(number::<2>(value, 0).map(u16::from_be_bytes)?),
                _ => {}
            }
        }
    }
    if protocol != Some(TCP) {
        return protocol.map(|_| None).ok_or(Malformed);
    }
    let [Some(source), Some(destination)] = ips else { return Err(Malformed) };
    let [Some(from), Some(to)] = ports else { return Err(Malformed) };
    Ok(Some((SocketAddr::new(source, from), SocketAddr::new(destination, to))))
}

fn ip(value: &[u8]) -> Result<IpAddr, Malformed> {
    match value.len() {
        4 => number::<4>(value, 0).map(|bytes| IpAddr::V4(Ipv4Addr::from(bytes))),
        16 => number::<16>(value, 0).map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes))),
        _ => Err(Malformed),
    }
}

/// Asks for all entries whose mark, under the mask, is this one.
pub fn dump(sequence: u32, mark: u32, mask: u32) -> Vec<u8> {
    let mut request = Request::new(GET, REQUEST | DUMP, sequence, AF_UNSPEC);
    request.attribute(MARK, &mark.to_be_bytes());
    request.attribute(MARK_MASK, &mask.to_be_bytes());
    request.done()
}

/// Deletes the entry with these addresses, if it still has this number.
pub fn delete(sequence: u32, entry: &Entry) -> Vec<u8> {
    about(DELETE, REQUEST | ACKNOWLEDGE, sequence, entry, |_| {})
}

/// A request about one entry.
fn about(kind: u16, flags: u16, sequence: u32, entry: &Entry, more: impl FnOnce(&mut Request)) -> Vec<u8> {
    let family = if entry.client.is_ipv4() { AF_INET } else { AF_INET6 };
    let mut request = Request::new(kind, flags, sequence, family);
    request.tuple(TUPLE_ORIGINAL, entry.client, entry.to);
    if entry.id != 0 {
        request.attribute(ID, &entry.id.to_be_bytes());
    }
    if entry.zone != 0 {
        request.attribute(ZONE, &entry.zone.to_be_bytes());
    }
    more(&mut request);
    request.done()
}

/// A message that is being written.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: u16, sequence: u32, family: u8) -> Request {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        // The kernel fills in the sender's number.
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend([family, 0, 0, 0]);
        Request(bytes)
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Request)) {
        let mut inner = Request(Vec::with_capacity(64));
        fill(&mut inner);
        self.attribute(kind | NESTED, &inner.0);
    }

    fn tuple(&mut self, kind: u16, source: SocketAddr, destination: SocketAddr) {
        self.nested(kind, |tuple| {
            tuple.nested(TUPLE_IP, |ips| {
                for (kinds, address) in [(IP_SOURCES, source), (IP_DESTINATIONS, destination)] {
                    match address.ip() {
                        IpAddr::V4(ip) => ips.attribute(kinds[0], &ip.octets()),
                        IpAddr::V6(ip) => ips.attribute(kinds[1], &ip.octets()),
                    }
                }
            });
            tuple.nested(TUPLE_PROTOCOL, |protocol| {
                protocol.attribute(PROTOCOL_NUMBER, &[TCP]);
                protocol.attribute(PORT_SOURCE, &source.port().to_be_bytes());
                protocol.attribute(PORT_DESTINATION, &destination.port().to_be_bytes());
            });
        });
    }

    fn done(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX).to_ne_bytes();
        self.0[..4].copy_from_slice(&length);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: &[u8] = include_bytes!("../../fuzz/corpus/conntrack/three_protocols");
    const ENDED: &[u8] = include_bytes!("../../fuzz/corpus/conntrack/end_of_established");
    const NONE: &[u8] = include_bytes!("../../fuzz/corpus/conntrack/no_such_entry");
    const DONE: &[u8] = include_bytes!("../../fuzz/corpus/conntrack/end_of_dump");

    fn all(datagram: &[u8]) -> Vec<Message> {
        messages(datagram).collect::<Result<_, _>>().unwrap()
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_dump_of_a_kernel_gives_its_tcp_entries() {
        let messages = all(THREE);
        let entries: Vec<Entry> = messages
            .iter()
            .filter_map(|message| match message {
                Message::Entry(entry) => Some(*entry),
                _ => None,
            })
            .collect();
        let others = messages.iter().filter(|message| **message == Message::Other).count();
        assert_eq!((entries.len(), others), (2, 2), "TCP beside UDP and ICMP: {messages:?}");
        let six = entries.iter().find(|entry| entry.client.is_ipv6()).unwrap();
        assert_eq!((six.client, six.to), (at("[fd00::1]:1000"), at("[fd00::2]:80")));
        assert_eq!((six.mark, six.state, six.assured), (0x7400_0008, TcpState::SynSent, false));
        let four = entries.iter().find(|entry| entry.client.is_ipv4()).unwrap();
        assert_eq!((four.to, four.backend, four.reply_to), (at("127.0.0.1:7777"), four.to, four.client));
        assert_eq!((four.mark, four.state, four.assured), (0x7400_0007, TcpState::Established, true));
        assert!(four.from_client > 1000 && four.to_client > 5000 && four.id != 0, "{four:?}");
    }

    #[test]
    fn an_end_has_the_last_counters() {
        let messages = all(ENDED);
        let [Message::Destroyed(entry)] = messages[..] else { panic!("{messages:?}") };
        assert_eq!((entry.mark, entry.to, entry.assured), (0x7400_0007, at("127.0.0.1:7777"), true));
        assert!(entry.from_client > 1000 && entry.to_client > 5000, "{entry:?}");
    }

    #[test]
    fn answers_say_which_request_failed_and_how() {
        const ENOENT: i32 = 2;
        assert_eq!(all(NONE), [Message::Answer { sequence: 10, error: ENOENT }]);
        assert_eq!(all(DONE), [Message::Done { error: 0 }]);
    }

    #[test]
    fn a_deletion_names_the_entry_as_the_kernel_does() {
        let [Message::Destroyed(entry)] = all(ENDED)[..] else { panic!("one entry") };
        let request = delete(5, &entry);
        // The tuple of the kernel's own message, whose length stands in its first two bytes.
        let tuple = &ENDED[HEADER + FAMILY_HEADER..][..0x34];
        assert_eq!(&request[HEADER + FAMILY_HEADER..][..0x34], tuple);
        assert_eq!(&request[HEADER + FAMILY_HEADER + 0x34..], [8, 0, 12, 0, 0x28, 0xa3, 0x0d, 0xdc]);
        assert_eq!(request[8..12], 5_u32.to_ne_bytes());
    }

    #[test]
    fn no_bytes_make_it_panic_or_last() {
        for original in [THREE, ENDED, NONE, DONE] {
            for cut in 0..original.len() {
                assert!(messages(&original[..cut]).count() <= cut.div_ceil(HEADER));
            }
            for place in 0..original.len() {
                for value in [0, 1, 3, 4, 0x7f, 0x80, 0xff] {
                    let mut changed = original.to_vec();
                    changed[place] = value;
                    assert!(messages(&changed).count() <= changed.len().div_ceil(HEADER));
                }
            }
        }
    }
}
