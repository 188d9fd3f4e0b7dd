use super::*;
use simple_dns::rdata::{A, CNAME, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, RCODE, ResourceRecord};
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;

fn servers(at: Vec<SocketAddr>) -> Servers {
    Servers { at, timeout: Duration::from_secs(20), attempts: 1, until: Instant::now() + Duration::from_secs(20) }
}

/// A server that answers the first query by these messages, in turn.
fn script(answers: impl FnOnce(Packet<'_>) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut query = [0; 512];
        let (count, from) = socket.recv_from(&mut query).unwrap();
        let query = Packet::parse(&query[..count]).unwrap();
        answers(query.into_reply()).iter().for_each(|answer| drop(socket.send_to(answer, from)));
    });
    at
}

fn with_address(mut reply: Packet<'_>) -> Packet<'_> {
    let name = reply.questions[0].qname.clone();
    reply.answers.push(ResourceRecord::new(name, CLASS::IN, 7, RData::A(A { address: 0x0a00_0001 })));
    reply
}

fn failing(mut reply: Packet<'_>) -> Vec<Vec<u8>> {
    *reply.rcode_mut() = RCODE::ServerFailure;
    vec![reply.build_bytes_vec().unwrap()]
}

fn right(reply: Packet<'_>) -> Vec<Vec<u8>> {
    vec![with_address(reply).build_bytes_vec().unwrap()]
}

#[test]
fn an_answer_is_taken_only_if_it_is_that_of_the_query() {
    let at = script(|reply| {
        let right = with_address(reply.clone()).build_bytes_vec().unwrap();
        let mut wrong_id = with_address(reply.clone());
        wrong_id.set_id(!reply.id());
        let mut spoofed = with_address(reply);
        spoofed.questions[0].qname = Name::new("evil.example").unwrap();
        let junk = vec![0xff; 9000];
        vec![wrong_id.build_bytes_vec().unwrap(), spoofed.build_bytes_vec().unwrap(), junk, Vec::new(), right]
    });
    let answer = servers(vec![at]).ask("web.example", Wanted::A).unwrap();
    assert_eq!((answer.addresses.len(), answer.ttl), (1, Some(Duration::from_secs(7))));
}

#[test]
fn a_server_that_fails_is_followed_by_the_next_one_which_is_then_asked_first() {
    let (failing, right) = (script(failing), script(right));
    let mut servers = servers(vec![failing, right]);
    assert_eq!(servers.ask("web.example", Wanted::A).unwrap().addresses.len(), 1);
    assert_eq!(servers.at, [right, failing]);
}

#[test]
fn the_error_names_each_server_and_its_cause() {
    let failing = script(failing);
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent = (silent.local_addr().unwrap(), silent);
    let mut servers = servers(vec![failing, silent.0]);
    servers.timeout = Duration::from_millis(300);
    let why = servers.ask("web.example", Wanted::A).unwrap_err();
    assert_eq!(why, format!("name server {failing}: answered SERVFAIL; name server {}: no answer", silent.0));
    assert_eq!(
        super::super::Resolver::of_servers(Vec::new(), Instant::now()).addresses("web").unwrap_err(),
        "there is no name server"
    );
}

#[test]
fn an_answer_that_is_cut_is_asked_for_by_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let udp = UdpSocket::bind(at).unwrap();
    let (sender, asked) = mpsc::channel();
    thread::spawn(move || {
        let mut query = [0; 512];
        let (count, from) = udp.recv_from(&mut query).unwrap();
        let mut reply = Packet::parse(&query[..count]).unwrap().into_reply();
        reply.set_flags(PacketFlag::TRUNCATION);
        udp.send_to(&reply.build_bytes_vec().unwrap(), from).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut query = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut query).unwrap();
        let mut reply = Packet::parse(&query).unwrap().into_reply();
        let name = reply.questions[0].qname.clone();
        for address in 0..4000 {
            reply.answers.push(ResourceRecord::new(name.clone(), CLASS::IN, 7, RData::A(A { address })));
        }
        let answer = reply.build_bytes_vec_compressed().unwrap();
        let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
        // In pieces.
        stream.write_all(&length[..1]).unwrap();
        stream.write_all(&[&length[1..], &answer[..100]].concat()).unwrap();
        stream.write_all(&answer[100..]).unwrap();
        sender.send(()).unwrap();
    });
    let answer = servers(vec![at]).ask("web.example", Wanted::A).unwrap();
    assert_eq!(answer.addresses.len(), 4000);
    asked.recv().unwrap();
}

#[test]
fn aliases_that_need_further_queries_end() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((count, from)) = socket.recv_from(&mut query) {
            let mut reply = Packet::parse(&query[..count]).unwrap().into_reply();
            let name = reply.questions[0].qname.clone();
            let target = if name.to_string() == "a.example" { "b.example" } else { "a.example" };
            let alias = RData::CNAME(CNAME(Name::new(target).unwrap()));
            reply.answers.push(ResourceRecord::new(name, CLASS::IN, 7, alias));
            let _ = socket.send_to(&reply.build_bytes_vec().unwrap(), from);
        }
    });
    let why = servers(vec![at]).ask("a.example", Wanted::A).unwrap_err();
    assert!(why.ends_with("more than 16 aliases lead to each other"), "{why}");
}
