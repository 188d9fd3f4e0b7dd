//! Clients of a listener with routes: what they say first, and the pool that each must get by the definition of its routes.

use super::world::{Conn, World};
use std::time::Duration;
use tcplb::base::Endpoint;
use tcplb::config::model::Route;
use tcplb::policy::routes::Conditions;
use tcplb::proto::sniff::Protocol;
use tcplb::proto::sniff::postgres::SSL_REQUEST;

/// The pool of the routes.
pub const ROUTED: &str = "routed";

/// The pool of silent clients.
pub const SILENT: &str = "silent";

/// How long a client may take to say what the routes ask for.
pub const SNIFF: Duration = Duration::from_secs(3);

/// The name that a route has, and a source that another one has.
const NAME: &str = "db.example.com";
const SOURCE: ([u8; 4], &str) = ([10, 1, 0, 0], "10.1.0.0/32");

/// The answer to a request of TLS that is agreed to.
pub const YES: &[u8] = b"S";

/// What the first bytes of a client are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Said {
    /// Not those of TLS, which the first one shows.
    #[default]
    Anything,
    /// A hello that asks for [`NAME`].
    Name,
    /// A hello that does not.
    Hello,
    /// A hello that is none, which its last byte shows.
    Broken,
    /// A hello behind a request of Postgres.
    Postgres,
}

macro_rules! captured {
    ($name:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/sniff/", $name, ".bin"))
    };
}

/// Hellos that clients have sent.
const HELLOS: [(Said, &[u8]); 9] = [
    (Said::Name, captured!("openssl_tls12")),
    (Said::Name, captured!("openssl_upper_case")),
    (Said::Name, captured!("openssl_tls13_resumed")),
    (Said::Hello, captured!("openssl_two_records")),
    (Said::Hello, captured!("openssl_no_name")),
    (Said::Hello, captured!("curl_http2")),
    // A handshake that begins with a ServerHello.
    (Said::Broken, &[22, 3, 1, 0, 4, 2]),
    (Said::Postgres, captured!("psql_hello")),
    (Said::Postgres, captured!("psql_hello")),
];

/// One by name, one by source, one by protocol.
pub fn routes() -> Vec<Route> {
    let name = Conditions { sni: vec![NAME.parse().expect("a name")], ..Conditions::default() };
    let source = Conditions { source: vec![SOURCE.1.parse().expect("a prefix")], ..Conditions::default() };
    let postgres = Conditions { protocol: Some(Protocol::Postgres), ..Conditions::default() };
    [name, source, postgres].map(|conditions| Route { conditions, pool: ROUTED.into(), ..Route::default() }).into()
}

/// A client that says something first. Of the backends that are asked for TLS, most agree.
pub fn speaks(random: &mut fastrand::Rng, is_routed: bool, conn: Conn) -> Conn {
    let (said, first) = if random.bool() { HELLOS[random.usize(..HELLOS.len())] } else { (Said::Anything, &[][..]) };
    let request: &[u8] = if said == Said::Postgres && is_routed { &SSL_REQUEST } else { &[] };
    let reply = if random.u8(..4) == 0 { *random.choice(b"NEX").unwrap_or(&0) } else { YES[0] };
    Conn { said, first: first.to_vec(), request, reply, ..conn }
}

impl World {
    /// Whether the driver has seen a byte behind the client's header.
    pub fn has_heard(&self, conn: &Conn) -> bool {
        self.seen(conn) > 0
    }

    /// Whether it has seen enough for a choice.
    pub fn has_decided(&self, conn: &Conn) -> bool {
        self.seen(conn) >= ((conn.request.len() + conn.first.len()) as u64).max(1)
    }

    /// How many bytes behind its header.
    fn seen(&self, conn: &Conn) -> u64 {
        let read = conn.client.map_or(0, |client| self.socks[client].read);
        read.saturating_sub(conn.header.len() as u64).max(conn.peeked)
    }

    /// The number of the pool that a client must get, now that one is chosen for it.
    pub fn pool_of(&self, conn: &Conn) -> u8 {
        if !self.is_routed {
            return 0;
        }
        if !self.has_heard(conn) {
            assert!(self.has_silent_pool && self.now - conn.accepted >= SNIFF, "a choice without first bytes");
            return 2;
        }
        assert!(self.has_decided(conn), "a choice before its time");
        assert_ne!(conn.said, Said::Broken, "a choice for a hello that is none");
        let ip = conn.at.as_ref().and_then(Endpoint::ip);
        u8::from(matches!(conn.said, Said::Name | Said::Postgres) || ip == Some(SOURCE.0.into()))
    }
}
