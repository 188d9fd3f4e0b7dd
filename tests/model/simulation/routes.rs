//! Clients of a listener with routes: what they say first, and the pool that each must get by the definition of its routes.

use super::world::{Conn, World};
use std::time::Duration;
use tcplb::base::Endpoint;
use tcplb::config::model::Route;
use tcplb::policy::routes::Conditions;

/// The pool of the routes.
pub const ROUTED: &str = "routed";

/// The pool of silent clients.
pub const SILENT: &str = "silent";

/// How long a client may take to say what the routes ask for.
pub const SNIFF: Duration = Duration::from_secs(3);

/// The name that a route has, and a source that another one has.
const NAME: &str = "db.example.com";
const SOURCE: ([u8; 4], &str) = ([10, 1, 0, 0], "10.1.0.0/32");

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
}

macro_rules! captured {
    ($name:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/sniff/", $name, ".bin"))
    };
}

/// Hellos that clients have sent.
const HELLOS: [(Said, &[u8]); 7] = [
    (Said::Name, captured!("openssl_tls12")),
    (Said::Name, captured!("openssl_upper_case")),
    (Said::Name, captured!("openssl_tls13_resumed")),
    (Said::Hello, captured!("openssl_two_records")),
    (Said::Hello, captured!("openssl_no_name")),
    (Said::Hello, captured!("curl_http2")),
    // A handshake that begins with a ServerHello.
    (Said::Broken, &[22, 3, 1, 0, 4, 2]),
];

/// One by name, one by source.
pub fn routes() -> Vec<Route> {
    let name = Conditions { sni: vec![NAME.parse().expect("a name")], ..Conditions::default() };
    let source = Conditions { source: vec![SOURCE.1.parse().expect("a prefix")], ..Conditions::default() };
    [name, source].map(|conditions| Route { conditions, pool: ROUTED.into(), ..Route::default() }).into()
}

/// What a client says first.
pub fn random(random: &mut fastrand::Rng) -> (Said, &'static [u8]) {
    if random.bool() { HELLOS[random.usize(..HELLOS.len())] } else { (Said::Anything, &[]) }
}

impl World {
    /// Whether the driver has seen a byte behind the client's header.
    pub fn has_heard(&self, conn: &Conn) -> bool {
        conn.peeked > 0 || conn.client.is_some_and(|client| self.stream_read(client) > 0)
    }

    /// Whether it has seen enough for a choice.
    pub fn has_decided(&self, conn: &Conn) -> bool {
        let seen = conn.client.map_or(0, |client| self.stream_read(client)).max(conn.peeked);
        seen >= (conn.first.len() as u64).max(1)
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
        u8::from(conn.said == Said::Name || ip == Some(SOURCE.0.into()))
    }
}
