//! `[[listener]]`: where clients connect.

use super::kinds::{self, count, word};
use super::{COUNTS, Flag, READS, Section, Source, setting};
use crate::base::{Address, Listen};
use crate::config::model::Listener;

const PEERS: &str = "Addresses and balancing";

/// What gives clients an address, which access lists and limits per source compare.
pub(in crate::config) const ADDRESSES: &str = "an IP address in bind, or accept_proxy";

/// What makes a listener wait for a client's first bytes.
const FIRST_BYTES: &str = "a route with protocol, sni or alpn";

/// Whether clients have an address.
pub(in crate::config) fn has_addresses(listener: &Listener) -> bool {
    listener.accept_proxy || !listener.bind.iter().all(|listen| matches!(listen.0, Address::Unix(_)))
}

/// Whether each client has one. A proxy may announce the client of a unix socket.
pub(in crate::config) fn all_have_addresses(listener: &Listener) -> bool {
    !listener.accept_proxy && !listener.bind.iter().any(|listen| matches!(listen.0, Address::Unix(_)))
}

fn keeps_clients_out(listener: &Listener) -> bool {
    let lists = [&listener.allow, &listener.deny].iter().any(|list| !list.is_empty());
    let files = listener.allow_file.is_some() || listener.deny_file.is_some();
    lists || files || listener.max_connections_per_source.is_some() || listener.connection_rate_per_source.is_some()
}

/// The table.
pub static LISTENER: Section<Listener> = Section {
    name: "listener",
    many: true,
    doc: "Where clients connect; as many as you like.",
    within: &["route"],
    defaults: Listener::default,
    settings: &[
        setting!(Listener.name: kinds::NAME, "Its name in logs, metrics and API.")
            .more("Two listeners cannot share a name.")
            .set("\"web\"")
            .makes_another(),
        setting!(Listener.bind: kinds::LISTENS, "The addresses where clients connect; at least one.")
            .more(
                "Like 127.0.0.1:80, [::1]:80, name:80, unix:/path, or :80 for every interface, IPv6 and IPv4. `:5000-5150` is a \
                 range of ports, at most 4096 in all. With port 0 the \
                 kernel picks a port, and the log names it. Two listeners, or a listener and the admin API, cannot have the \
                 same port of the same interface.",
            )
            .see("operations.md#port-ranges")
            .absent("required")
            .set("[\":8080\"]")
            .flag_as(Flag { long: "listen", short: Some('l'), alias: None, heading: PEERS }),
        setting!(Listener.engine: word(), "What carries its connections.")
            .more(
                "`proxy` relays them in tcplb's workers. `kernel` has the kernel forward them by the table `inet tcplb` of \
                 nftables, and backends see the client's own address. It needs nft, connection tracking and CAP_NET_ADMIN at the start. \
                 What only a proxy can do is refused by the key's name.",
            )
            .see("operations.md#the-kernel-engine"),
        setting!(Listener.pool: kinds::NAME, "The pool that serves it.")
            .absent("the only pool")
            .set("\"web\""),
        setting!(
            Listener.sniff_timeout: kinds::TIME,
            "How long a client may take to say what the routes ask for, from its PROXY header on if it sends one."
        )
        .more(
            "A client that has said nothing by then goes to `silent_pool`, or is reset without one. A client whose first \
             message is not whole by then is reset.",
        )
        .see("routes.md#servers-that-speak-first")
        .needs(FIRST_BYTES, Listener::reads_first_bytes)
.proxy_only(READS),
        setting!(Listener.silent_pool: kinds::NAME, "The pool of clients that say nothing within `sniff_timeout`.")
            .more("For protocols in which the server speaks first, like MySQL and SMTP.")
            .absent("they are reset")
            .needs(FIRST_BYTES, Listener::reads_first_bytes)
            .example("\"db\"")
.proxy_only(READS),
        setting!(
            Listener.accept_proxy: kinds::SWITCH,
            "Every client must begin with a PROXY header, version 1 or 2, which holds the client's address."
        )
        .more(
            "The address in the header is the client's everywhere else. A connection without a header, or with one that is \
             longer than 4112 bytes or not whole within 5 s, is reset. Every peer can claim any address by it, so set it only behind a proxy.",
        )
        .see("operations.md#the-clients-address-proxy-protocol")
        .flag("accept-proxy", PEERS)
.proxy_only(READS),
        setting!(Listener.trusted_proxies: kinds::PREFIXES, "The socket addresses that may send such a header.")
            .absent("any")
            .needs("accept_proxy", |listener| listener.accept_proxy)
            .example("[\"10.0.0.0/8\"]")
.proxy_only(READS),
        setting!(Listener.allow: kinds::PREFIXES, "The clients that may connect: prefixes or single addresses.")
            .more(
                "With it, a client that matches no prefix is denied. Of `allow` and `deny` the most specific prefix decides, \
                 on equal ones `deny`. In every list an IPv4-mapped prefix (::ffff:10.0.0.0/104) means the IPv4 prefix; an \
                 IPv6 prefix, ::/0 too, matches no IPv4 client. A client of a unix socket has no address, so no list \
                 denies it, unless a PROXY header announces one.",
            )
            .absent("every address")
            .needs(ADDRESSES, has_addresses),
        setting!(Listener.deny: kinds::PREFIXES, "The clients that may not.")
            .absent("no address")
            .needs(ADDRESSES, has_addresses)
            .example("[\"192.0.2.0/24\"]"),
        setting!(Listener.allow_file: kinds::PREFIX_FILE, "More of `allow`, from a file of its own.")
            .more(
                "A line holds a prefix or an address; a comment begins with \"#\". The start and each reload read the file.",
            )
            .absent("none")
            .needs(ADDRESSES, has_addresses)
            .example("\"/etc/tcplb/allow.txt\""),
        setting!(Listener.deny_file: kinds::PREFIX_FILE, "More of `deny`, likewise.")
            .absent("none")
            .needs(ADDRESSES, has_addresses)
            .example("\"/etc/tcplb/deny.txt\""),
        setting!(Listener.max_connections: count::<u32>(), "Clients at once on this listener.")
            .more("Further clients wait in the kernel's backlog.")
            .absent("the global limit")
            .example("5000")
.proxy_only(COUNTS),
        setting!(Listener.max_connections_per_source: count::<u32>(), "Connections at once from one source.")
            .more(
                "A source is an IPv4 address or an IPv6 /64. A client of a unix socket has none, so this limit and the next \
                 leave it alone. Further connections are refused. The listener remembers 262144 \
                 sources. If all of them are connected, further sources are admitted uncounted (the metric \
                 tcplb_connections_untracked_total), bounded by `max_connections`.",
            )
            .absent("no limit")
            .needs(ADDRESSES, has_addresses)
            .example("100"),
        setting!(
            Listener.connection_rate_per_source: kinds::RATE,
            "New connections per second from one source, with a burst of one second's worth."
        )
        .more("Further connections are refused.")
        .absent("no limit")
        .needs(ADDRESSES, has_addresses),
        setting!(Listener.limits: word(), "What becomes of clients that the lists and the limits per source keep out.")
            .more(
                "`enforce` refuses them. `count` admits every client and counts those that `enforce` would refuse: for \
                 limits that are new. `max_connections` holds in any case.",
            )
            .needs("a list or a limit per source", keeps_clients_out)
.proxy_only(COUNTS),
        setting!("mode", Listener.socket_file.mode: kinds::MODE, "The permissions of its socket file.")
            .more(
                "A client needs the right to write to the file. Only a listener at a file, like unix:/run/tcplb/web.sock, has \
                 permissions, an owner and a group. They are set before the first client can connect. A reload can \
                 change `mode`, `owner` and `group`, but cannot take one out: that needs a restart.",
            )
            .absent("as the system makes a file"),
        setting!("owner", Listener.socket_file.owner: kinds::ACCOUNT, "The owner of its socket file.")
            .absent("the user of the process")
            .example("\"tcplb\""),
        setting!("group", Listener.socket_file.group: kinds::ACCOUNT, "The group of its socket file.")
            .absent("the group of the process"),
    ],
};

/// Reads the section.
pub fn read(source: &Source<'_>) -> Listener {
    let mut listener = Listener::default();
    let taken = LISTENER.read(source, &mut listener);
    for (key, why) in [
        ("bind", "say where clients connect, like [\":8080\"]"),
        ("trusted_proxies", "leave the key out to trust every peer"),
        ("allow", "leave the key out to admit every client"),
    ] {
        if source.given(key).is_some_and(|given| given.is_empty_list()) {
            source.wrong(key, format!("the list is empty: {why}"));
        }
    }
    if !listener.bind.is_empty() && listener.socket_files().next().is_none() {
        for key in ["mode", "owner", "group"].into_iter().filter(|key| taken.has(key)) {
            let addresses = listener.bind.iter().map(Listen::to_string).collect::<Vec<_>>().join(", ");
            source.wrong(key, format!("only a socket file (unix:/path) has one, and this listener binds {addresses}"));
        }
    }
    listener
}
