//! First bytes at their limits: hellos around 64 KiB, whole and in pieces, beside a neighbour.

use std::io::{self, Write};
use testkit::{Admin, ConfigFile, Conn, Ending, Server, Started, peers};

/// The longest hello, record headers included.
const MOST: usize = 64 * 1024;

/// A record's header, and the most bytes that follow one.
const HEADER: usize = 5;
const FRAGMENT: usize = 1 << 14;

/// A number of so many bytes, the greatest first.
fn number<const BYTES: usize>(value: usize) -> [u8; BYTES] {
    let bytes = value.to_be_bytes();
    std::array::from_fn(|index| bytes[bytes.len() - BYTES + index])
}

/// An extension of a hello.
fn extension(kind: usize, content: &[u8]) -> Vec<u8> {
    [&number::<2>(kind)[..], &number::<2>(content.len()), content].concat()
}

/// A ClientHello for db.example.com of this length, record headers included, with padding (RFC 7685) at its end.
fn hello(length: usize) -> Vec<u8> {
    let name = b"db.example.com";
    let entry = [&[0][..], &number::<2>(name.len()), name].concat();
    let server_name = extension(0, &[&number::<2>(entry.len())[..], &entry].concat());
    // Version, random, no session, one cipher suite, no compression.
    let begin = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0]].concat();
    let records = length.div_ceil(HEADER + FRAGMENT);
    let message = length - records * HEADER;
    let padding = message - 4 - begin.len() - 2 - server_name.len() - 4;
    let extensions = [server_name, extension(21, &vec![0; padding])].concat();
    let body = [begin, number::<2>(extensions.len()).to_vec(), extensions].concat();
    let message = [&[1][..], &number::<3>(body.len()), &body].concat();
    let record = |fragment: &[u8]| [&[22, 3, 1][..], &number::<2>(fragment.len()), fragment].concat();
    let hello = message.chunks(FRAGMENT).flat_map(record).collect::<Vec<u8>>();
    assert_eq!(hello.len(), length);
    hello
}

/// A listener with a route for db.example.com, and the servers of both pools.
fn start() -> (Started, [Server; 2]) {
    let servers = ["own", "db"].map(|name| Server::start(peers::named(name)));
    let [own, db] = servers.each_ref().map(Server::at);
    let route = "[[listener.route]]\nsni = [\"db.example.com\"]\npool = \"db\"";
    let second =
        format!("[[pool]]\nname = \"db\"\n[pool.health]\nkind = \"off\"\n[[pool.backend]]\naddress = \"{db}\"\n");
    let file = ConfigFile::over([own]).global("admin = \"127.0.0.1:0\"").pool("name = \"own\"");
    (file.listener(&format!("pool = \"own\"\nsniff_timeout = \"1h\"\n{route}")).and(&second).start(), servers)
}

/// Sends first bytes in pieces of this length.
fn say_in_pieces(client: &Conn, bytes: &[u8], length: usize) -> io::Result<()> {
    bytes.chunks(length).try_for_each(|piece| (&*client).write_all(piece))
}

#[test]
fn hellos_up_to_64_kib_are_routed_unchanged_and_a_longer_one_is_reset() {
    let (tcplb, _servers) = start();
    let neighbour = tcplb.connect();
    neighbour.say(hello(300));
    assert_eq!(neighbour.hear_line(), "db");
    neighbour.hear(300);
    let failed = || Admin::of(&tcplb).metric("tcplb_connections_refused_total", &["reason=\"sniff_failed\""]);
    let mut refused = 0;
    for pieces in [usize::MAX, FRAGMENT, 1000, 77] {
        for length in [1000, MOST - 1, MOST] {
            let (client, hello) = (tcplb.connect(), hello(length));
            say_in_pieces(&client, &hello, pieces).unwrap();
            assert_eq!(client.hear_line(), "db", "{length} in pieces of {pieces}");
            assert!(client.hear(length) == hello, "{length} in pieces of {pieces}");
        }
        let client = tcplb.connect();
        // The reset may come while it still sends; a write that reports it leaves none for a read.
        let ending = say_in_pieces(&client, &hello(MOST + 1), pieces).and_then(|()| client.try_ending());
        assert_eq!(ending.unwrap_or(Ending::Reset), Ending::Reset, "pieces of {pieces}");
        refused += 1;
        assert_eq!(failed(), refused);
        neighbour.assert_echoes("still here");
    }
}
