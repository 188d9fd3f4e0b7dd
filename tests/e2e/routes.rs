//! Routes by first bytes, beyond what each setting does: hellos in pieces, and Postgres with TLS.

use std::io::{self, Read, Write};
use testkit::{Admin, ConfigFile, Conn, Ending, Server, Started, eventually, peers};

/// A ClientHello of openssl: it asks for db.example.com.
const HELLO: &[u8] = include_bytes!("../data/sniff/openssl_tls13.bin");

const SSL_REQUEST: &[u8] = include_bytes!("../data/sniff/psql_ssl_request.bin");

/// A tcplb whose clients of this name, or of Postgres with TLS, go to `server`, and the others to `other`.
fn routed(server: &Server, other: &Server, conditions: &str) -> Started {
    routed_with("", server, other, conditions)
}

/// The same with these settings of the listener.
fn routed_with(settings: &str, server: &Server, other: &Server, conditions: &str) -> Started {
    let pool = |name: &str, server: &Server| {
        let at = server.at();
        format!("[[pool]]\nname = \"{name}\"\n[pool.health]\nkind = \"off\"\n[[pool.backend]]\naddress = \"{at}\"\n")
    };
    ConfigFile::of(format!(
        "[global]\nadmin = \"127.0.0.1:0\"\n[[listener]]\nbind = [\"127.0.0.1:0\"]\npool = \"other\"\n\
         {settings}\n[[listener.route]]\n{conditions}\npool = \"named\"\n{}{}",
        pool("named", server),
        pool("other", other)
    ))
    .start()
}

fn refused(tcplb: &Started) -> u64 {
    Admin::of(tcplb).metric("tcplb_connections_refused_total", &[r#"reason="sniff_failed""#])
}

#[test]
fn a_hello_in_any_pieces_reaches_the_server_of_its_name_unchanged() {
    let (server, other) = (Server::start(peers::named("named")), Server::start(peers::named("other")));
    let tcplb = routed(&server, &other, "sni = [\"db.example.com\"]");
    for pieces in [1, 2, 7, HELLO.len()] {
        let client = tcplb.connect();
        for piece in HELLO.chunks(HELLO.len().div_ceil(pieces)) {
            client.say(piece);
        }
        client.say("and more");
        assert_eq!(client.hear_line(), "named");
        assert_eq!(client.hear(HELLO.len() + 8), [HELLO, b"and more"].concat());
    }
}

#[test]
fn a_hello_that_is_none_is_reset_and_counted() {
    let (server, other) = (Server::start(peers::named("named")), Server::start(peers::named("other")));
    let tcplb = routed(&server, &other, "sni = [\"db.example.com\"]");
    let client = tcplb.connect();
    client.say([22, 3, 1, 0, 4, 2]);
    assert_eq!(client.ending(), Ending::Reset);
    assert_eq!(refused(&tcplb), 1);
    assert_eq!((server.accepted(), other.accepted()), (0, 0));
}

#[test]
fn a_reload_applies_to_clients_whose_first_bytes_are_awaited() {
    let (server, other) = (Server::start(peers::named("named")), Server::start(peers::named("other")));
    let (tls, http) = ("sni = [\"db.example.com\"]", "protocol = \"http\"");
    let (postgres, get) = ("protocol = \"postgres\"", &b"GET / HTTP/1.1\r\n\r\n"[..]);
    for (before, after, said, more, pool) in [
        (tls, Some(http), &b""[..], get, "named"),
        (tls, Some(http), &HELLO[..40], &[], "other"),
        (postgres, Some(tls), &[], SSL_REQUEST, "other"),
        (tls, None, &[], &[], "other"),
        (tls, None, &HELLO[..40], &HELLO[40..], "other"),
    ] {
        let tcplb = routed_with("sniff_timeout = \"1h\"", &server, &other, before);
        let admin = Admin::of(&tcplb);
        let client = tcplb.connect();
        client.say(said);
        let is_sniffing = || admin.get("/v1/connections").json(200)[0]["state"] == "sniffing";
        eventually("its first bytes are awaited", is_sniffing);
        let text = tcplb.file().text();
        let text = match after {
            Some(after) => text.replace(before, after),
            None => text.replace(&format!("[[listener.route]]\n{before}\npool = \"named\"\n"), ""),
        };
        tcplb.file().rewrite(&text);
        admin.call("POST", "/v1/reload", "").json(200);
        // The worker answers this after it has taken the new routes.
        admin.get("/v1/connections").json(200);
        client.say(more);
        let all = [said, more].concat();
        assert_eq!((client.hear_line(), client.hear(all.len())), (pool.to_owned(), all), "{before} → {after:?}");
    }
}

/// A server of Postgres that answers an SSLRequest with this, and then echoes.
fn answers(reply: &'static [u8]) -> impl Fn(Conn) -> io::Result<()> + Send + Sync + 'static {
    move |conn| {
        let mut request = [0; 8];
        (&conn).read_exact(&mut request)?;
        assert_eq!(request, SSL_REQUEST);
        (&conn).write_all(reply)?;
        peers::echo(conn)
    }
}

#[test]
fn a_client_of_postgres_is_answered_and_its_hello_follows_a_request_of_our_own() {
    let (server, other) = (Server::start(answers(b"S")), Server::start(peers::named("other")));
    let tcplb = routed(&server, &other, "protocol = \"postgres\"\nsni = [\"db.example.com\"]");
    for pieces in [1, 3] {
        let client = tcplb.connect();
        for piece in SSL_REQUEST.chunks(SSL_REQUEST.len().div_ceil(pieces)) {
            client.say(piece);
        }
        assert_eq!(client.hear(1), b"S");
        for piece in HELLO.chunks(HELLO.len().div_ceil(pieces)) {
            client.say(piece);
        }
        assert_eq!(client.hear(HELLO.len()), HELLO);
        client.assert_echoes("encrypted\n");
    }
}

#[test]
fn behind_an_answer_nothing_goes_on_in_clear_text() {
    for (reply, cause) in [
        (&b"N"[..], "the backend has no TLS"),
        (b"E", "the backend answers the SSLRequest with an error"),
        (b"SX", "the backend answers the SSLRequest with something else"),
    ] {
        let (server, other) = (Server::start(answers(reply)), Server::start(peers::named("other")));
        let tcplb = routed(&server, &other, "protocol = \"postgres\"");
        let client = tcplb.connect();
        client.say(SSL_REQUEST);
        assert_eq!(client.hear(1), b"S");
        client.say(HELLO);
        assert_eq!(client.ending(), Ending::Reset, "{reply:?}");
        assert_eq!(refused(&tcplb), 1);
        tcplb.wait_for_line(&format!("sniff_failed: {cause} (pool named, backend {})", server.at()));
    }
    // What comes together with a request, and what is no hello.
    let (server, other) = (Server::start(answers(b"S")), Server::start(peers::named("other")));
    let tcplb = routed(&server, &other, "protocol = \"postgres\"");
    let client = tcplb.connect();
    client.say([SSL_REQUEST, HELLO].concat());
    assert_eq!(client.ending(), Ending::Reset);
    let client = tcplb.connect();
    client.say(SSL_REQUEST);
    assert_eq!(client.hear(1), b"S");
    client.say(SSL_REQUEST);
    assert_eq!(client.ending(), Ending::Reset);
    assert_eq!((refused(&tcplb), server.accepted()), (2, 0));
}
