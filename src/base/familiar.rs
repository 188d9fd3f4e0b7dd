//! Words of HAProxy, nginx, Envoy and Traefik, and tcplb's words for them.
//!
//! docs/from-haproxy.md and docs/from-nginx.md cover whole configurations. This table has only words that an operator
//! may type where tcplb expects its own.

/// A word of another balancer and tcplb's words for it, the most likely first. A word may stand for different keys or
/// values in different places; the first one that is accepted in the place counts.
const WORDS: &[(&str, &[&str])] = &[
    // Ways to choose a backend.
    ("leastconn", &["least-connections"]),
    ("least_conn", &["least-connections"]),
    ("least_request", &["least-connections"]),
    ("static-rr", &["weighted-round-robin"]),
    ("wrr", &["weighted-round-robin"]),
    ("source", &["source-hash"]),
    ("ip_hash", &["source-hash"]),
    ("hash", &["source-hash"]),
    ("ring_hash", &["source-hash"]),
    ("consistent", &["source-hash"]),
    ("balance", &["algorithm"]),
    ("lb_policy", &["algorithm"]),
    // Sections.
    ("frontend", &["listener", "listen"]),
    ("listen", &["listener", "bind"]),
    ("entrypoint", &["listener", "listen"]),
    ("entrypoints", &["listener"]),
    ("bind", &["listen"]),
    ("upstream", &["pool"]),
    ("cluster", &["pool"]),
    ("clusters", &["pool"]),
    ("backend", &["pool"]),
    ("backends", &["backend", "pool"]),
    ("services", &["pool"]),
    ("server", &["backend", "listener"]),
    ("servers", &["backend"]),
    ("endpoints", &["backend"]),
    ("proxy_pass", &["pool"]),
    ("default_backend", &["pool"]),
    ("use_backend", &["route", "pool"]),
    ("check", &["health"]),
    ("healthcheck", &["health"]),
    ("health_check", &["health"]),
    ("health_checks", &["health"]),
    ("defaults", &["pool"]),
    // Probes that do more than connect.
    ("agent_check", &["agent", "health"]),
    ("agent_port", &["port"]),
    ("agent_inter", &["interval"]),
    ("tcp_check", &["script", "health"]),
    ("httpchk", &["http", "health"]),
    // Backends that something else lists.
    ("server_template", &["discover"]),
    ("resolvers", &["discover"]),
    ("resolver", &["discover"]),
    ("resolve", &["discover"]),
    // Routes.
    ("req_ssl_sni", &["sni"]),
    ("hostsni", &["sni"]),
    ("server_names", &["sni"]),
    ("source_ip", &["source"]),
    ("routers", &["route"]),
    ("filter_chains", &["route"]),
    ("inspect_delay", &["sniff_timeout"]),
    ("preread_timeout", &["sniff_timeout"]),
    // Settings.
    ("maxconn", &["max_connections", "max-connections"]),
    ("max_conns", &["max_connections", "max-connections"]),
    ("limit_conn", &["max_connections_per_source", "max_connections"]),
    ("worker_connections", &["max_connections"]),
    ("nbthread", &["workers"]),
    ("worker_processes", &["workers"]),
    ("threads", &["workers"]),
    ("concurrency", &["workers"]),
    ("slowstart", &["slow_start"]),
    ("inter", &["interval", "health-interval"]),
    ("uri", &["path"]),
    ("retries", &["connect_attempts"]),
    ("proxy_next_upstream_tries", &["connect_attempts"]),
    ("timeout_connect", &["connect_timeout", "connect-timeout"]),
    ("proxy_connect_timeout", &["connect_timeout", "connect-timeout"]),
    ("timeout_client", &["idle_timeout", "idle-timeout"]),
    ("timeout_server", &["idle_timeout", "idle-timeout"]),
    ("timeout_tunnel", &["idle_timeout", "idle-timeout"]),
    ("proxy_timeout", &["idle_timeout", "idle-timeout"]),
    ("timeout_queue", &["no_backend"]),
    ("hard_stop_after", &["shutdown_timeout", "shutdown-timeout"]),
    ("worker_shutdown_timeout", &["shutdown_timeout", "shutdown-timeout"]),
    ("proxy_protocol", &["accept_proxy", "send_proxy", "accept-proxy"]),
    ("proxyprotocol", &["accept_proxy", "send_proxy"]),
    ("set_real_ip_from", &["trusted_proxies"]),
    ("stats", &["admin"]),
    ("src", &["allow"]),
];

/// All words of other balancers, with tcplb's words for them.
pub fn words() -> &'static [(&'static str, &'static [&'static str])] {
    WORDS
}

/// tcplb's word among `candidates` for another balancer's `word`. Ignores case, and treats `-` as `_`.
pub fn ours<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let same = |theirs: &str| {
        let fold = |byte: u8| if byte == b'-' { b'_' } else { byte.to_ascii_lowercase() };
        theirs.bytes().map(fold).eq(word.bytes().map(fold))
    };
    let (_, ours) = WORDS.iter().find(|(theirs, _)| same(theirs))?;
    let rank = |candidate: &str| ours.iter().position(|word| *word == candidate);
    candidates.into_iter().filter(|candidate| rank(candidate).is_some()).min_by_key(|candidate| rank(candidate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_another_balancer_maps_to_ours_where_it_is_accepted() {
        let keys = ["name", "max_connections", "max_connections_per_source", "bind"];
        assert_eq!(ours("maxconn", keys), Some("max_connections"));
        assert_eq!(ours("MaxConn", keys), Some("max_connections"));
        assert_eq!(ours("limit-conn", keys), Some("max_connections_per_source"));
        assert_eq!(ours("leastconn", keys), None, "an algorithm is not a key");
        assert_eq!(ours("name", keys), None);
        assert_eq!(ours("", keys), None);
    }

    #[test]
    fn no_word_is_in_the_table_twice() {
        let mut seen = std::collections::HashSet::new();
        for (theirs, ours) in WORDS {
            assert!(seen.insert(theirs.replace('-', "_")), "{theirs}");
            assert!(!ours.is_empty() && !ours.contains(theirs), "{theirs}");
        }
    }
}
