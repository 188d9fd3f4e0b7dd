//! Clients whose first bytes have not decided their route go on in the new process.

use super::Upgradable;
use std::io::{Read, Write};
use testkit::{At, ConfigFile, Conn, Server, Tcplb, eventually, peers};

/// A ClientHello of openssl: it asks for db.example.com.
const HELLO: &[u8] = include_bytes!("../../data/sniff/openssl_tls13.bin");

const SSL_REQUEST: &[u8] = include_bytes!("../../data/sniff/psql_ssl_request.bin");

fn pool(name: &str, at: &At) -> String {
    format!("[[pool]]\nname = \"{name}\"\n[pool.health]\nkind = \"off\"\n[[pool.backend]]\naddress = \"{at}\"\n")
}

#[test]
fn clients_that_have_not_said_all_go_on_and_reach_their_pools() {
    let (named, own) = (Server::start(peers::named("named")), Server::start(peers::named("own")));
    let postgres = Server::start(|conn| {
        let mut request = [0; SSL_REQUEST.len()];
        (&conn).read_exact(&mut request)?;
        assert_eq!(request, SSL_REQUEST);
        (&conn).write_all(b"S")?;
        // Nothing may stand behind the answer before the hello has come.
        let mut hello = [0; HELLO.len()];
        (&conn).read_exact(&mut hello)?;
        (&conn).write_all(b"postgres\n")?;
        (&conn).write_all(&hello)?;
        peers::echo(conn)
    });
    let route = |conditions: &str, pool: &str| format!("[[listener.route]]\n{conditions}\npool = \"{pool}\"\n");
    let file = ConfigFile::of(format!(
        "[global]\nadmin = \"127.0.0.1:0\"\n\
         [[listener]]\nbind = [\"127.0.0.1:0\"]\npool = \"own\"\nsniff_timeout = \"10m\"\n{}{}{}{}{}",
        route("protocol = \"postgres\"", "postgres"),
        route("protocol = \"tls\"\nsni = [\"db.example.com\"]", "named"),
        pool("own", own.at()),
        pool("named", named.at()),
        pool("postgres", postgres.at())
    ));
    let tcplb = Upgradable::start_from(&Tcplb::from_file(&file.write()));
    let [silent, begun, answered, asked] = [0; 4].map(|_| tcplb.connect());
    begun.say(&HELLO[..100]);
    answered.say(SSL_REQUEST);
    assert_eq!(answered.hear(1), b"S");
    asked.say(SSL_REQUEST);
    assert_eq!(asked.hear(1), b"S");
    asked.say(&HELLO[..7]);
    for round in 0..2 {
        eventually("all of them are looked at", || {
            let connections = tcplb.get("/v1/connections");
            let states = connections.as_array().unwrap().iter().map(|connection| connection["state"].clone());
            states.filter(|state| state == "sniffing").count() == 4
        });
        let figures = tcplb.upgrade();
        assert_eq!((&figures["connections"], &figures["left"]), (&4.into(), &0.into()), "{figures}");
        // A part of the hello before each upgrade.
        begun.say(&HELLO[100 + round..=100 + round]);
    }
    begun.say(&HELLO[102..]);
    silent.say("anything");
    answered.say(HELLO);
    asked.say(&HELLO[7..]);
    let reached = |client: &Conn, name: &str, bytes: &[u8]| {
        assert_eq!(client.hear_line(), name);
        assert_eq!(client.hear(bytes.len()), bytes);
    };
    reached(&silent, "own", b"anything");
    reached(&begun, "named", HELLO);
    reached(&answered, "postgres", HELLO);
    reached(&asked, "postgres", HELLO);
}
