//! What the balancer and the helper process say to each other, and messages of any length over a channel of short ones.
//!
//! A request is one or more messages of the channel, and so is its answer. The first byte of each says whether another
//! one follows. Both ends bound the whole by [`WHOLE_MAX`].

use super::super::change::Change;
use super::super::marks::Mark;
use super::super::table::Bind;
use super::super::tally::Count;
use crate::handover::Channel;
use crate::handover::channel::MESSAGE_MAX;
use crate::proto::conntrack::{Entry, TcpState};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// The longest request or answer: a choice map of 655,373 entries is a tenth of it, the listing of 100,000 backends a third.
pub(super) const WHOLE_MAX: usize = 64 * 1024 * 1024;

/// How often a thread that waits shows that it is alive.
const BEAT: Duration = Duration::from_secs(1);

const LAST: u8 = b'.';
const MORE: u8 = b'+';

/// What is sent of a value. One that is too large is refused before anything of it is sent.
pub(super) fn encode(value: &impl Serialize) -> Result<Vec<u8>, Failure> {
    let bytes = serde_json::to_vec(value).map_err(|error| Failure::Refused(error.to_string()))?;
    if bytes.len() > WHOLE_MAX {
        let [bytes, most] = [bytes.len(), WHOLE_MAX].map(|bytes| bytes.div_ceil(1024 * 1024));
        return Err(Failure::Refused(format!("a message of {bytes} MiB is larger than {most} MiB")));
    }
    Ok(bytes)
}

/// Sends an answer; that it is too large, if it is.
pub(super) fn answer<T: Serialize>(channel: &Channel, outcome: &Result<T, Failure>, until: Instant) -> io::Result<()> {
    let encoded = encode(outcome).or_else(|refused| encode(&Err::<(), _>(refused)));
    send(channel, &encoded.map_err(io::Error::other)?, until)
}

/// Sends what [`encode`] has made.
pub(super) fn send(channel: &Channel, bytes: &[u8], until: Instant) -> io::Result<()> {
    send_beating(channel, bytes, until, &|| {})
}

/// As [`send`]; calls `beat` each [`BEAT`] while it waits.
pub(super) fn send_beating(channel: &Channel, bytes: &[u8], until: Instant, beat: &dyn Fn()) -> io::Result<()> {
    let mut parts = bytes.chunks(MESSAGE_MAX - 1).peekable();
    while let Some(part) = parts.next() {
        let mut message = Vec::with_capacity(part.len() + 1);
        message.push(if parts.peek().is_some() { MORE } else { LAST });
        message.extend(part);
        beating(until, beat, |slice| channel.send(&message, &[], slice))?;
    }
    Ok(())
}

/// Does what may time out again and again, until then.
fn beating<T>(until: Instant, beat: &dyn Fn(), mut work: impl FnMut(Instant) -> io::Result<T>) -> io::Result<T> {
    loop {
        let slice = until.min(Instant::now() + BEAT);
        match work(slice) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut && slice < until => beat(),
            outcome => return outcome,
        }
    }
}

/// Receives a value; `None` once the other end is closed.
pub(super) fn receive<T: DeserializeOwned>(channel: &Channel, until: Instant) -> io::Result<Option<T>> {
    receive_beating(channel, until, &|| {})
}

/// As [`receive`]; calls `beat` each [`BEAT`] while it waits.
pub(super) fn receive_beating<T: DeserializeOwned>(
    channel: &Channel,
    until: Instant,
    beat: &dyn Fn(),
) -> io::Result<Option<T>> {
    let mut whole = Vec::new();
    loop {
        let Some(parcel) = beating(until, beat, |slice| channel.receive(slice))? else { return Ok(None) };
        let (first, part) = parcel.bytes.split_first().ok_or(io::ErrorKind::InvalidData)?;
        if whole.len() + part.len() > WHOLE_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too large"));
        }
        whole.extend(part);
        match *first {
            LAST => return Ok(Some(serde_json::from_slice(&whole)?)),
            MORE => {}
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// What is asked about the table.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum TableRequest {
    /// The listings of what is installed.
    Read,
    /// Changes, as one transaction.
    Apply(Vec<Change>),
    /// Whether another program may have changed the table.
    Look,
    /// This process is to be the only one that changes the table of this network namespace.
    Hold,
    /// Another process may be.
    Release,
}

/// As [`TableRequest`], without a copy of the changes.
#[derive(Debug, Serialize)]
#[serde(rename = "TableRequest")]
pub(super) enum TableRequestRef<'a> {
    Read,
    Apply(&'a [Change]),
    Look,
    Hold,
    Release,
}

/// The answers to them.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum TableAnswer {
    /// The outputs of nft; none: there is no table.
    Listings(Vec<String>),
    /// The changes are in force; how long nft took.
    Applied(Duration),
    /// No program has changed any rule since the last reading, change or look.
    Untouched,
    /// Some program has changed rules; the listing of `state`, if there is one.
    Touched(Option<String>),
    /// It is held, or released.
    Done,
}

/// What is asked about tracked connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum EntryRequest {
    /// What has come since the last time.
    Figures,
    /// Those that a filter selects, up to a number.
    List(Filter, usize),
    /// Deletes those that a filter selects.
    Delete(Filter),
}

/// The answers to them.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum EntryAnswer {
    /// What has come.
    Figures(Figures),
    /// Entries.
    Listed(Listed),
    /// How many were deleted, and whether there may be more.
    Deleted(u64, bool),
}

/// What the connections of our marks came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// By backend and destination; a pair without a row has no active connection and nothing new.
    pub counts: Vec<Count>,
    /// Entries with a mark of ours.
    pub entries: u64,
    /// Entries of the whole system (nf_conntrack_count).
    pub table_entries: u64,
    /// The most that it takes (nf_conntrack_max).
    pub table_max: u64,
    /// Whether the system counts bytes (nf_conntrack_acct).
    pub accounting: bool,
    /// How often ends were lost since the last time, for lack of room.
    pub lost: u64,
    /// The CPU time of the dump.
    pub cpu: Duration,
}

/// Which entries with a mark of ours: all that is set must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// The marks of backends; an empty set selects none.
    pub marks: Option<BTreeSet<Mark>>,
    /// Single entries, by the client's address and the entry's number.
    pub entries: Option<BTreeSet<(SocketAddr, u32)>>,
    /// Where the client connected to.
    pub to: Option<BTreeSet<Bind>>,
    /// The network of the client's address: an address and the length of the prefix.
    pub client: Option<(IpAddr, u8)>,
    /// The client's port.
    pub client_port: Option<u16>,
    /// The entry's number.
    pub id: Option<u32>,
    /// The states.
    pub states: States,
}

/// Which states a filter selects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum States {
    /// All.
    #[default]
    Any,
    /// Those of connections that are open, or about to be.
    Active,
    /// That of a SYN that was not answered.
    SynSent,
}

impl Filter {
    /// Whether it selects this entry.
    pub fn selects(&self, entry: &Entry) -> bool {
        let Filter { marks, entries, to, client, client_port, id, states } = self;
        let has_its_mark =
            |marks: &BTreeSet<Mark>| Mark::of_value(entry.mark).is_some_and(|mark| marks.contains(&mark));
        marks.as_ref().is_none_or(has_its_mark)
            && entries.as_ref().is_none_or(|entries| entries.contains(&(entry.client, entry.id)))
            && to.as_ref().is_none_or(|to| Bind::all_of(entry.to).iter().any(|bind| to.contains(bind)))
            && client.is_none_or(|net| contains(net, entry.client.ip()))
            && client_port.is_none_or(|port| port == entry.client.port())
            && id.is_none_or(|id| id == entry.id)
            && match states {
                States::Any => true,
                States::Active => entry.state.is_active(),
                States::SynSent => entry.state == TcpState::SynSent,
            }
    }
}

/// Whether a network has this address. A prefix that is too long has none.
fn contains((address, prefix): (IpAddr, u8), ip: IpAddr) -> bool {
    ipnet::IpNet::new(address, prefix).is_ok_and(|net| net.contains(&ip))
}

/// Entries that a filter selects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The first ones.
    pub entries: Vec<Entry>,
    /// There are more.
    pub more: bool,
}

/// Why the helper can't do something. A failed change changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// The process lacks CAP_NET_ADMIN; the text names its account.
    Privilege(String),
    /// There is no nft.
    NoNft,
    /// Another program made a table of our name.
    Foreign,
    /// The table is ours, but not as this tcplb writes it; the text says how to go on.
    Damaged(String),
    /// The kernel does not track connections, or does not let us ask; the text says why.
    NoConntrack(String),
    /// nft refused; the text is its message.
    Nft(String),
    /// nft refused the rules of these listeners, each with its message.
    Listeners(Vec<(String, String)>),
    /// Another tcplb keeps the table of this network namespace.
    Held,
    /// Another program changed or removed the table.
    Changed,
    /// nft took too long.
    TimedOut,
    /// The request was refused; the text says why.
    Refused(String),
    /// The helper has ended; the text says why. All further calls fail.
    Gone(String),
    /// There is no helper, and none can be started; the text says why.
    Lost(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Privilege(account) => write!(
                out,
                "it needs CAP_NET_ADMIN, which {account} lacks: AmbientCapabilities= in a service, `setcap \
                 cap_net_admin,cap_net_bind_service=+ep` on the binary, or a start as root with `user`"
            ),
            Failure::NoNft => write!(out, "it needs nft, which is in none of {}: install nftables", super::program::PLACES.join(", ")),
            Failure::Foreign => out.write_str(
                "the nftables table `inet tcplb` exists, and tcplb did not make it: rename it, or remove it with `nft delete table \
                 inet tcplb`",
            ),
            Failure::Damaged(what) => out.write_str(what),
            Failure::NoConntrack(why) => {
                write!(out, "it needs the kernel's connection tracking with NAT (nf_conntrack, nft_nat): {why}")
            }
            Failure::Nft(message) => write!(out, "nft refused: {message}"),
            Failure::Listeners(listeners) => {
                for (number, (name, message)) in listeners.iter().enumerate() {
                    let separator = if number > 0 { "; " } else { "" };
                    write!(out, "{separator}nft refused the new ones of listener {name}: {message}")?;
                }
                Ok(())
            }
            Failure::Held => write!(
                out,
                "another tcplb keeps the nftables table `inet tcplb` of this network namespace: stop that one first; \
                 `ss -xlp` shows it at @{}",
                super::hold::NAME
            ),
            Failure::Changed => {
                out.write_str("another program changed or removed the nftables table `inet tcplb`; tcplb writes it again")
            }
            Failure::TimedOut => out.write_str("nft did not end in time"),
            Failure::Refused(why) => write!(out, "the helper refused: {why}"),
            Failure::Gone(why) => write!(out, "the helper of the kernel engine is gone: {why}"),
            Failure::Lost(why) => write!(out, "no helper of the kernel engine can be started: {why}"),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::super::super::table::{ChoiceId, Family, Number, PoolId};
    use super::*;
    use std::thread;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[test]
    fn a_transaction_of_any_size_arrives_as_one() {
        let pool = PoolId { pool: Number::new(3).unwrap(), family: Family::V4 };
        let mark = Mark::of_value(0x7400_0001).unwrap();
        let fill = Change::Fill(ChoiceId { pool, size: 65_537 }, 0, vec![mark; 65_537]);
        let (one, other) = Channel::pair().unwrap();
        let sent = vec![fill];
        thread::scope(|scope| {
            scope.spawn(|| send(&one, &encode(&TableRequestRef::Apply(&sent)).unwrap(), soon()).unwrap());
            match receive(&other, soon()).unwrap() {
                Some(TableRequest::Apply(changes)) => assert!(changes == sent),
                answer => panic!("{answer:?}"),
            }
        });
        send(&one, &encode(&TableRequestRef::Read).unwrap(), soon()).unwrap();
        assert!(matches!(receive(&other, soon()).unwrap(), Some(TableRequest::Read)));
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let (one, other) = Channel::pair().unwrap();
        for bytes in [&b"."[..], b"!\"Read\"", b".\"Write\"", b".{\"Delete\":[1,2]}"] {
            one.send(bytes, &[], soon()).unwrap();
            assert!(receive::<TableRequest>(&other, soon()).is_err(), "{bytes:?}");
        }
        drop(one);
        assert!(receive::<TableRequest>(&other, soon()).unwrap().is_none());
    }

    #[test]
    fn an_answer_that_is_too_large_is_a_refusal() {
        let (one, other) = Channel::pair().unwrap();
        let listings = TableAnswer::Listings(vec!["x".repeat(WHOLE_MAX)]);
        answer(&one, &Ok(listings), soon()).unwrap();
        let outcome: Option<Result<TableAnswer, Failure>> = receive(&other, soon()).unwrap();
        assert!(
            matches!(outcome, Some(Err(Failure::Refused(why))) if why == "a message of 65 MiB is larger than 64 MiB")
        );
    }

    #[test]
    fn a_message_without_an_end_is_given_up() {
        let (one, other) = Channel::pair().unwrap();
        thread::scope(|scope| {
            scope.spawn(move || {
                let part = vec![MORE; MESSAGE_MAX];
                while one.send(&part, &[], soon()).is_ok() {}
            });
            let error = receive::<TableRequest>(&other, soon()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            drop(other);
        });
    }

    #[test]
    fn a_wait_shows_that_the_thread_is_alive() {
        let (one, other) = Channel::pair().unwrap();
        let beats = std::cell::Cell::new(0);
        let beat = || {
            beats.set(beats.get() + 1);
            if beats.get() == 2 {
                answer(&other, &Ok(1_u8), soon()).unwrap();
            }
        };
        let answered: Option<Result<u8, Failure>> = receive_beating(&one, soon(), &beat).unwrap();
        assert_eq!((answered, beats.get()), (Some(Ok(1)), 2));
        let late: io::Result<Option<u8>> = receive_beating(&one, Instant::now(), &|| beats.set(0));
        assert_eq!((late.unwrap_err().kind(), beats.get()), (io::ErrorKind::TimedOut, 2));
    }

    fn marks<const N: usize>(values: [u32; N]) -> BTreeSet<Mark> {
        values.into_iter().filter_map(Mark::of_value).collect()
    }

    #[test]
    fn a_filter_selects_what_matches_all_of_it() {
        let client: SocketAddr = "10.0.0.1:5".parse().unwrap();
        let to: SocketAddr = "10.0.0.2:80".parse().unwrap();
        let (mark, id) = (0x7400_0001, 9);
        let (state, assured, backend, reply_to) = (TcpState::SynSent, false, to, client);
        let (from_client, to_client, zone, timeout) = (0, 0, 0, 0);
        let entry =
            Entry { mark, state, assured, client, to, backend, reply_to, from_client, to_client, id, zone, timeout };
        let all = Filter {
            marks: Some(marks([mark, 0x7400_0002])),
            entries: Some(BTreeSet::from([(client, 9)])),
            to: Some(BTreeSet::from([Bind::Address(to)])),
            client: Some((client.ip(), 8)),
            client_port: Some(5),
            id: Some(9),
            states: States::SynSent,
        };
        assert!(all.selects(&entry) && Filter::default().selects(&entry));
        let active = Filter { states: States::Active, ..all.clone() };
        assert!(active.selects(&entry));
        let of_port = Filter { to: Some(BTreeSet::from([Bind::Port(Family::V4, 80)])), ..all.clone() };
        assert!(of_port.selects(&entry));
        let others = [
            Filter { marks: Some(marks([0x7400_0002])), ..all.clone() },
            Filter { marks: Some(BTreeSet::new()), ..all.clone() },
            Filter { entries: Some(BTreeSet::from([(client, 8), (to, 9)])), ..all.clone() },
            Filter { to: Some(BTreeSet::from([Bind::Address(client), Bind::Port(Family::V6, 80)])), ..all.clone() },
            Filter { client: Some((to.ip(), 32)), ..all.clone() },
            Filter { client: Some((client.ip(), 33)), ..all.clone() },
            Filter { client_port: Some(6), ..all.clone() },
            Filter { id: Some(8), ..all.clone() },
        ];
        assert!(others.iter().all(|filter| !filter.selects(&entry)));
        let established = Entry { state: TcpState::Established, ..entry };
        assert!(active.selects(&established) && !all.selects(&established));
        assert!(!active.selects(&Entry { state: TcpState::TimeWait, ..entry }));
    }
}
