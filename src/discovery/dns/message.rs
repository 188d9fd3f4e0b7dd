//! Queries and answers as bytes. Pure.
//!
//! An answer counts only if it has the id of the query, is an answer, and repeats the question. The case of its letters is ignored.
//! Everything else is skipped, and the resolver goes on waiting (RFC 5452, section 9.1).

use simple_dns::rdata::{OPT, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// The largest answer over UDP that a query asks for: it passes most networks unfragmented.
const UDP_MAX: u16 = 1232;
/// The bytes of the header.
const HEADER: usize = 12;
/// The most aliases (CNAME) from a name to its records.
pub const ALIASES_MAX: usize = 16;

/// The records that a query asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Services.
    Srv,
}

/// A query, and its bytes.
#[derive(Clone, Debug)]
pub struct Query {
    /// The name asked for, as [`normal`] makes it.
    name: String,
    wanted: Wanted,
    /// The message.
    bytes: Vec<u8>,
    /// Where the question ends in it.
    question: usize,
}

/// The host and port of a service (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// Lower is preferred.
    pub priority: u16,
    /// The share among those of one priority.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host, as [`normal`] makes it; empty: the service does not exist.
    pub target: String,
}

/// What a message means for the query.
#[derive(Debug, PartialEq, Eq)]
pub enum Reading {
    /// It is not the answer to this query.
    NotOurs,
    /// The answer was cut: TCP has it whole.
    Truncated,
    /// The server does not understand the query's options (RFC 6891, section 7).
    NoOptions,
    /// The server has failed.
    Failed(String),
    /// The answer.
    Answer(Answer),
}

/// An answer of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// IP addresses, in the order of the message.
    pub addresses: Vec<IpAddr>,
    /// Services, in the order of the message.
    pub services: Vec<Service>,
    /// The smallest time to live on the path; of an answer without records that of RFC 2308, if the server says one.
    pub ttl: Option<Duration>,
    /// The name is an alias of this one, whose records must be asked for.
    pub alias: Option<String>,
}

impl Query {
    /// A query with this id. `options`: it says that it takes large answers. Fails if the name can't be one.
    pub fn new(name: &str, wanted: Wanted, id: u16, options: bool) -> Result<Query, String> {
        let bad = |error| format!("{name} is not a name: {error}");
        let mut packet = Packet::new_query(id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let wire_name = Name::new(name).map_err(bad)?;
        let kind = match wanted {
            Wanted::A => TYPE::A,
            Wanted::Aaaa => TYPE::AAAA,
            Wanted::Srv => TYPE::SRV,
        };
        packet.questions.push(Question::new(wire_name, QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN), false));
        let question = packet.build_bytes_vec().map_err(bad)?.len();
        if options {
            *packet.opt_mut() = Some(OPT { opt_codes: Vec::new(), udp_packet_size: UDP_MAX, version: 0 });
        }
        Ok(Query { name: normal(name), wanted, bytes: packet.build_bytes_vec().map_err(bad)?, question })
    }

    /// The message.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What a received message means for this query.
    pub fn read(&self, message: &[u8]) -> Reading {
        let Some(header) = message.first_chunk::<HEADER>() else { return Reading::NotOurs };
        let [id @ .., flags, code, q1, q0, _, _, _, _, _, _] = *header;
        let is_ours = self.bytes.starts_with(&id) && flags & 0xf8 == 0x80;
        let questions = u16::from_be_bytes([q1, q0]);
        let asked = self.bytes.get(HEADER..self.question).unwrap_or_default();
        let repeats = questions == 1
            && message.get(HEADER..self.question).is_some_and(|question| question.eq_ignore_ascii_case(asked));
        // Some servers leave the question out when they refuse to answer.
        let refuses = questions == 0 && !matches!(code & 0xf, 0 | 3);
        if !is_ours || !(repeats || refuses) {
            return Reading::NotOurs;
        }
        match code & 0xf {
            1 | 4 if self.bytes.len() > self.question => return Reading::NoOptions,
            0 | 3 if flags & 0x02 != 0 => return Reading::Truncated,
            0 | 3 => {}
            code => return Reading::Failed(format!("answered {}", code_name(code))),
        }
        match Packet::parse(message) {
            Err(error) => Reading::Failed(format!("sent an answer that is not understood: {error}")),
            Ok(packet) if !matches!(packet.rcode(), RCODE::NoError | RCODE::NameError) => {
                Reading::Failed(format!("answered {:?}", packet.rcode()))
            }
            Ok(packet) => match self.follow(&packet) {
                Ok(answer) => Reading::Answer(answer),
                Err(why) => Reading::Failed(why),
            },
        }
    }

    /// Follows the aliases of the message to the records.
    fn follow(&self, packet: &Packet<'_>) -> Result<Answer, String> {
        let mut answer = Answer::default();
        let mut name = self.name.clone();
        let records = || packet.answers.iter().filter(|record| record.class == CLASS::IN);
        for _ in 0..=ALIASES_MAX {
            let mut alias = None;
            for record in records() {
                let is_record = matches!(
                    (&record.rdata, self.wanted),
                    (RData::CNAME(_), _)
                        | (RData::A(_), Wanted::A)
                        | (RData::AAAA(_), Wanted::Aaaa)
                        | (RData::SRV(_), Wanted::Srv)
                );
                if !is_record || text(&record.name) != name {
                    continue;
                }
                let ttl = Duration::from_secs(lifetime(record.ttl).into());
                answer.ttl = Some(answer.ttl.map_or(ttl, |known| known.min(ttl)));
                match &record.rdata {
                    RData::A(a) => answer.addresses.push(Ipv4Addr::from(a.address).into()),
                    RData::AAAA(aaaa) => answer.addresses.push(Ipv6Addr::from(aaaa.address).into()),
                    RData::SRV(srv) => answer.services.push(Service {
                        priority: srv.priority,
                        weight: srv.weight,
                        port: srv.port,
                        target: text(&srv.target),
                    }),
                    RData::CNAME(target) => alias = Some(text(&target.0)),
                    _ => {}
                }
            }
            if !answer.addresses.is_empty() || !answer.services.is_empty() {
                return Ok(answer);
            }
            let Some(target) = alias else {
                // The end of the aliases that the message has. Without a word on that name, it must be asked for.
                let negative = self.negative(packet);
                if name != self.name && packet.rcode() == RCODE::NoError && negative.is_none() {
                    answer.alias = Some(name);
                } else {
                    answer.ttl = negative.into_iter().chain(answer.ttl).min();
                }
                return Ok(answer);
            };
            name = target;
        }
        Err(format!("{}: more than {ALIASES_MAX} aliases lead to each other", self.name))
    }

    /// How long the absence of records holds (RFC 2308, section 5).
    fn negative(&self, packet: &Packet<'_>) -> Option<Duration> {
        packet.name_servers.iter().find_map(|record| match &record.rdata {
            RData::SOA(soa) => Some(Duration::from_secs(lifetime(record.ttl).min(lifetime(soa.minimum)).into())),
            _ => None,
        })
    }
}

/// A name in the form that all names here have: lower case, without the dot at the end.
pub fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn text(name: &Name<'_>) -> String {
    normal(&name.to_string())
}

/// A value with the highest bit counts as zero (RFC 2181, section 8).
fn lifetime(ttl: u32) -> u32 {
    if ttl > i32::MAX.cast_unsigned() { 0 } else { ttl }
}

fn code_name(code: u8) -> String {
    match code {
        1 => "FORMERR".to_owned(),
        2 => "SERVFAIL".to_owned(),
        4 => "NOTIMP".to_owned(),
        5 => "REFUSED".to_owned(),
        9 => "NOTAUTH".to_owned(),
        _ => format!("with the error code {code}"),
    }
}

#[cfg(test)]
mod tests;
