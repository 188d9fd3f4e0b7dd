//! A backend goes away while many connects to it are pending, and its refusals arrive in the same moment. A batch of events then
//! holds the order to dial again and, behind it, events of the sockets that the order replaced. Those events must not reach
//! the new sockets: every client gets its whole answer from the next backend.
//!
//! The backend that goes away is a raw socket. It sees each SYN and answers with a reset when the test says so. The kernel
//! itself does not answer, because a listening socket with a full backlog holds the port.

use crate::lab::{Configured, Network};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use testkit::{At, Conn, PATIENCE, Server, heavy, raise_descriptor_limit};

/// Clients of the first pool. Their refusals keep a worker busy, so that the next batch of events is long.
const BUSY: usize = 600;

/// The other pools, whose backends go away meanwhile, and the clients of each.
const POOLS: usize = 8;
const CLIENTS: usize = 30;

const GONE: Ipv4Addr = Ipv4Addr::new(127, 9, 0, 1);

/// The first part of an answer, and the rest, which the client asks for when it has the first part.
const ANSWER: [usize; 2] = [10, 1_000];

/// How the backend goes away.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Away {
    /// Failed connects mark it down, and its pool says `on_down = "reset"`.
    Down,
    /// An operator deletes it with force.
    Deleted,
}

/// A port of [`GONE`] where the kernel drops every SYN: its backlog is full.
struct SilentPort {
    at: SocketAddrV4,
    _listening: Socket,
    _queued: Conn,
}

impl SilentPort {
    fn open() -> SilentPort {
        let listening = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listening.bind(&SocketAddrV4::new(GONE, 0).into()).expect("bind a port");
        // The kernel queues one more than it is asked to.
        listening.listen(0).expect("listen");
        let at = listening.local_addr().expect("its address").as_socket_ipv4().expect("IPv4");
        SilentPort { at, _listening: listening, _queued: Conn::to(&At::Tcp(at.into())) }
    }
}

/// A connect that waits for an answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Syn {
    from: SocketAddrV4,
    to: u16,
    sequence: u32,
}

/// Sees every packet that comes to [`GONE`].
struct Refuser(Socket);

impl Refuser {
    fn start() -> Refuser {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)).expect("a raw socket");
        socket.bind(&SocketAddrV4::new(GONE, 0).into()).expect("bind the raw socket");
        socket.set_recv_buffer_size(1 << 20).expect("set SO_RCVBUF");
        socket.set_read_timeout(Some(PATIENCE)).expect("set the read timeout");
        Refuser(socket)
    }

    /// Waits for so many connects to a port.
    fn syns(&self, port: u16, count: usize) -> Vec<Syn> {
        let mut syns = BTreeMap::new();
        let mut packet = [0; 2048];
        while syns.len() < count {
            let length = (&self.0).read(&mut packet).expect("a packet to the backend");
            if let Some(syn) = Syn::parse(&packet[..length]).filter(|syn| syn.to == port) {
                syns.insert(syn.from, syn);
            }
        }
        syns.into_values().collect()
    }

    fn reset(&self, syns: &[Syn]) {
        for syn in syns {
            self.0.send_to(&syn.reset(), &SocketAddrV4::new(*syn.from.ip(), 0).into()).expect("send a reset");
        }
    }
}

impl Syn {
    /// From an IPv4 packet (RFC 791, 9293).
    fn parse(packet: &[u8]) -> Option<Syn> {
        let header = usize::from(packet.first()? & 15) * 4;
        let from = Ipv4Addr::from(*packet.get(12..)?.first_chunk::<4>()?);
        let [s0, s1, d0, d1, n0, n1, n2, n3, _, _, _, _, _, flags] = *packet.get(header..)?.first_chunk()?;
        let (from, to) = (SocketAddrV4::new(from, u16::from_be_bytes([s0, s1])), u16::from_be_bytes([d0, d1]));
        let (syn, ack) = (2, 16);
        (flags & (syn | ack) == syn).then_some(Syn { from, to, sequence: u32::from_be_bytes([n0, n1, n2, n3]) })
    }

    /// The segment that refuses it: RST and ACK.
    fn reset(&self) -> [u8; 20] {
        let mut segment = [0; 20];
        segment[..2].copy_from_slice(&self.to.to_be_bytes());
        segment[2..4].copy_from_slice(&self.from.port().to_be_bytes());
        segment[8..12].copy_from_slice(&self.sequence.wrapping_add(1).to_be_bytes());
        segment[12..14].copy_from_slice(&[5 << 4, 20]);
        let checked = [&GONE.octets()[..], &self.from.ip().octets(), &[0, 6, 0, 20], &segment].concat();
        let mut sum: u32 = checked.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        segment[16..18].copy_from_slice(&(!sum as u16).to_be_bytes());
        segment
    }
}

/// A backend that answers in two parts.
fn answer(conn: Conn) -> io::Result<()> {
    for part in ANSWER {
        conn.line()?;
        (&conn).write_all(&vec![b'x'; part])?;
    }
    conn.finish();
    conn.try_ending().map(drop)
}

/// How much of an answer a client gets, and what ends it.
fn outcome(client: &Conn) -> (usize, String) {
    let (mut heard, mut asked, mut stream) = (0, false, client);
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (heard, "FIN".to_owned()),
            Ok(count) => heard += count,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return (heard, "reset".to_owned()),
            Err(error) => return (heard, error.to_string()),
        }
        if heard >= ANSWER[0] && !asked {
            asked = true;
            // Fails where the connection is over, which reading shows.
            let _ = stream.write_all(b"more\n");
        }
    }
}

fn every_client_is_answered_by_the_next_backend(away: Away, workers: usize) {
    let Some(network) = Network::new() else { return };
    let _alone = heavy();
    network.inside(|| {
        raise_descriptor_limit();
        let next = Server::start(answer);
        let probed = Server::start_on(Ipv4Addr::UNSPECIFIED, |_| Ok(()));
        let ports: Vec<SilentPort> = (0..=POOLS).map(|_| SilentPort::open()).collect();
        // On a delete, half of the clients are dialled again, to a backend that does not answer, and after that to the next one.
        let dead = SilentPort::open();
        let settings = match away {
            Away::Down => "on_down = 'reset'\nconnect_timeout = '20s'".to_owned(),
            Away::Deleted => format!(
                "connect_timeout = '2s'\n[[pool.backend]]\nname = 'dead'\naddress = '{}'\nbackup = true",
                dead.at
            ),
        };
        let mut text = format!("workers = {workers}\n");
        for (pool, port) in ports.iter().enumerate() {
            text += &format!(
                "[[listener]]\nname = 'l{pool}'\nbind = ['127.0.0.1:0']\npool = 'p{pool}'\n\
                 [[pool]]\nname = 'p{pool}'\nhealth = {{ port = {}, interval = '1m', fall = 1 }}\n{settings}\n\
                 [[pool.backend]]\nname = 'gone'\naddress = '{}'\n\
                 [[pool.backend]]\nname = 'next'\naddress = '{}'\nbackup = true\n",
                probed.at().port(),
                port.at,
                next.at()
            );
        }
        let refuser = Refuser::start();
        let tcplb = Configured::start(&text, &[]);
        let (mut clients, mut syns) = (Vec::new(), Vec::new());
        for (pool, port) in ports.iter().enumerate() {
            let new: Vec<Conn> =
                (0..if pool == 0 { BUSY } else { CLIENTS }).map(|_| Conn::to(&tcplb.at[pool])).collect();
            new.iter().for_each(|client| client.say("first\n"));
            syns.push(refuser.syns(port.at.port(), new.len()));
            clients.extend(new);
        }
        let busy = syns.remove(0);
        // While a worker handles the first pool's refusals, an order arrives. Refusals by the backend that it concerns follow.
        match away {
            Away::Down => {
                for ((pool, pending), busy) in (1..).zip(&syns).zip(busy.chunks(BUSY / POOLS)) {
                    refuser.reset(&pending[..1]);
                    refuser.reset(busy);
                    tcplb.process.wait_for_line(&format!("gone is down: connection refused (pool p{pool})"));
                    refuser.reset(&pending[1..]);
                }
            }
            Away::Deleted => {
                let delete = |pool| {
                    let call = tcplb.admin.connect();
                    let path = format!("/v1/pools/p{pool}/backends/gone?force=true");
                    call.say(format!("DELETE {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
                    call
                };
                let calls: Vec<Conn> = (1..=POOLS).map(delete).collect();
                refuser.reset(&busy);
                for (call, pending) in calls.iter().zip(&syns) {
                    let answer = String::from_utf8(call.hear_all()).expect("text");
                    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
                    refuser.reset(pending);
                }
            }
        }
        let whole = (ANSWER.iter().sum(), "FIN".to_owned());
        let mut outcomes = BTreeMap::new();
        for client in &clients {
            let outcome = outcome(client);
            // A client without an end costs all of the patience there is.
            let is_over = ["FIN", "reset"].contains(&outcome.1.as_str());
            *outcomes.entry(outcome).or_default() += 1;
            if !is_over {
                break;
            }
        }
        assert_eq!(outcomes, BTreeMap::from([(whole, clients.len())]), "bytes and end of each answer");
    });
}

#[test]
fn no_answer_is_cut_when_a_backend_goes_down() {
    every_client_is_answered_by_the_next_backend(Away::Down, 1);
}

#[test]
fn no_answer_is_cut_when_a_backend_goes_down_with_two_workers() {
    every_client_is_answered_by_the_next_backend(Away::Down, 2);
}

#[test]
fn no_answer_is_cut_when_a_backend_is_deleted() {
    every_client_is_answered_by_the_next_backend(Away::Deleted, 1);
}

#[test]
fn no_answer_is_cut_when_a_backend_is_deleted_with_two_workers() {
    every_client_is_answered_by_the_next_backend(Away::Deleted, 2);
}
