//! `tcplb backend --register etcd://HOST:PORT/KEY`: a key of an etcd that lives as long as the server does.
//!
//! The key belongs to a lease, which a thread of its own keeps alive. A server that ends takes the lease back, and of one that crashes
//! etcd removes the key after `--ttl`. If etcd has lost the lease or the key, the server registers again; while etcd does not answer,
//! the thread tries on.

use crate::base::text::Escaped;
use crate::base::{Endpoint, duration};
use crate::discovery::etcd::{Access, Failure, Gateway, encoded, number};
use crate::discovery::http::{self, Client, TlsFiles};
use crate::logger;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde::Deserialize;
use serde_json::{Value, json};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What `--ttl` may be. etcd counts whole seconds, and grants no lease shorter than its election takes.
const TTL: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(3600));
/// The longest pause after an error.
const RETRY: Duration = Duration::from_secs(1);
/// The time limit of a call.
const CALL: Duration = Duration::from_secs(5);

/// A key of an etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    server: String,
    key: String,
}

/// What is registered, and where.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The key.
    pub target: Target,
    /// How long it outlives a server that crashed.
    pub ttl: Duration,
    /// The weight; without one that of the balancer's configuration.
    pub weight: Option<u16>,
}

/// The thread that keeps a key.
pub struct Registrar {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

#[derive(Deserialize)]
struct Lease {
    #[serde(default, rename = "ID", deserialize_with = "number")]
    id: i64,
    #[serde(default, rename = "TTL", deserialize_with = "number")]
    ttl: i64,
}

#[derive(Deserialize)]
struct Done {
    #[serde(default)]
    succeeded: bool,
}

#[derive(Deserialize)]
struct Kept {
    result: Option<Lease>,
}

impl Target {
    /// Parses `etcd://HOST:PORT/KEY`. The slash before the key is a part of it.
    pub fn parse(text: &str) -> Result<Target, String> {
        let wrong = || {
            let got = Escaped(without_user(text));
            format!("expected etcd://HOST:PORT/KEY, like etcd://127.0.0.1:2379/tcplb/web/web1, got `{got}`")
        };
        let (host, key) = text.strip_prefix("etcd://").and_then(|rest| rest.split_once('/')).ok_or_else(wrong)?;
        let server = http::server(&format!("http://{host}")).map_err(|_| wrong())?;
        if key.is_empty() || key.ends_with('/') {
            return Err(wrong());
        }
        Ok(Target { server, key: format!("/{key}") })
    }
}

/// A target as a message may show it: what stands before an `@` may be a user with a password.
pub fn without_user(text: &str) -> String {
    text.rsplit_once('@').map_or_else(|| text.to_owned(), |(_, rest)| format!("…@{rest}"))
}

/// Parses `--ttl`.
pub fn ttl(text: &str) -> Result<Duration, String> {
    let time = duration::parse(text)?;
    if !(TTL.0..=TTL.1).contains(&time) {
        let (least, most) = (duration::written(TTL.0), duration::written(TTL.1));
        return Err(format!("expected a time from {least} to {most}, got `{text}`"));
    }
    Ok(time)
}

impl Registrar {
    /// Starts the thread for a server at this address. Fails if balancers can't reach it there.
    pub fn start(registration: Registration, at: &Endpoint) -> Result<Registrar, String> {
        if let Endpoint::Inet(at) = at
            && at.ip().is_unspecified()
        {
            return Err(format!(
                "--register needs an address that balancers reach: listen on one IP address, not on {at}"
            ));
        }
        let value = match registration.weight {
            Some(weight) => json!({"address": at.to_string(), "weight": weight}).to_string(),
            None => at.to_string(),
        };
        let Registration { target: Target { server, key }, ttl, .. } = registration;
        let client = Client::new(TlsFiles::default())?.within(CALL);
        let gateway = Gateway::new(Access { endpoints: vec![server], user: None, client })?;
        let (stop, stopped) = bounded(0);
        let mut work = Work { gateway, key, value, ttl, lease: None, registered: false, failing: false };
        let thread = thread::Builder::new().name("register".to_owned()).spawn(move || work.keep(&stopped));
        Ok(Registrar { stop, thread: thread.map_err(|error| format!("can't start a thread: {error}"))? })
    }

    /// Removes the key. It waits for etcd, in bounded time.
    pub fn withdraw(self) {
        drop(self.stop);
        // A panic has been reported already.
        let _ = self.thread.join();
    }
}

struct Work {
    gateway: Gateway,
    key: String,
    value: String,
    ttl: Duration,
    lease: Option<i64>,
    /// The key was written with this lease.
    registered: bool,
    failing: bool,
}

impl Work {
    fn keep(&mut self, stopped: &Receiver<()>) {
        let period = self.ttl / 3;
        loop {
            let pause = match self.renew() {
                Ok(()) => {
                    self.failing = false;
                    period
                }
                Err(Failure::Token(why) | Failure::Text(why)) => {
                    // An outage is one line.
                    if !std::mem::replace(&mut self.failing, true) {
                        log::warn!("can't keep {} registered: {why}; it tries again", self.key);
                    }
                    period.min(RETRY)
                }
            };
            if !matches!(stopped.recv_timeout(pause), Err(RecvTimeoutError::Timeout)) {
                return self.withdraw();
            }
        }
    }

    /// Keeps the lease and the key; what etcd has lost, or another client has removed, is made again.
    fn renew(&mut self) -> Result<(), Failure> {
        if let Some(id) = self.lease {
            let Kept { result } = self.gateway.ask("/v3/lease/keepalive", &json!({"ID": id.to_string()}))?;
            if result.is_none_or(|lease| lease.ttl <= 0) {
                (self.lease, self.registered) = (None, false);
            }
        }
        let id = match self.lease {
            Some(id) => id,
            None => self.grant()?,
        };
        // A put that is refused is tried again with the same lease.
        self.lease = Some(id);
        let key = encoded(self.key.as_bytes());
        let put = json!({"key": key, "value": encoded(self.value.as_bytes()), "lease": id.to_string()});
        if self.registered {
            let missing = json!({"target": "CREATE", "result": "EQUAL", "key": key, "create_revision": "0"});
            let put = json!({"compare": [missing], "success": [{"request_put": put}]});
            let Done { succeeded } = self.gateway.ask("/v3/kv/txn", &put)?;
            if !succeeded {
                if self.failing {
                    log::info!("{} is still registered", self.key);
                }
                return Ok(());
            }
        } else {
            // The key may be that of an earlier run, whose lease ends.
            self.gateway.ask::<Value>("/v3/kv/put", &put)?;
            self.registered = true;
        }
        log::info!(target: logger::ALWAYS, "registered {} as {} at {}", self.value, self.key, self.gateway.server());
        Ok(())
    }

    fn grant(&mut self) -> Result<i64, Failure> {
        let seconds = self.ttl.as_secs() + u64::from(self.ttl.subsec_nanos() > 0);
        let Lease { id, .. } = self.gateway.ask("/v3/lease/grant", &json!({"TTL": seconds.to_string()}))?;
        // With the lease 0 a key would stay for ever.
        if id == 0 { Err(self.gateway.failure("granted no lease".to_owned())) } else { Ok(id) }
    }

    fn withdraw(&mut self) {
        let Some(id) = self.lease.take() else { return };
        match self.gateway.ask::<Value>("/v3/lease/revoke", &json!({"ID": id.to_string()})) {
            Ok(_) => log::info!("{} is no longer registered", self.key),
            Err(Failure::Token(why) | Failure::Text(why)) => {
                log::warn!("{} stays registered for up to {}: {why}", self.key, duration::written(self.ttl));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_an_etcd_and_a_key() {
        let target = Target::parse("etcd://127.0.0.1:2379/tcplb/web/web1").unwrap();
        assert_eq!((target.server.as_str(), target.key.as_str()), ("http://127.0.0.1:2379", "/tcplb/web/web1"));
        for bad in [
            "",
            "etcd://",
            "etcd://a:1",
            "etcd://a:1/",
            "etcd://a:1/w/",
            "http://a:1/w",
            "etcd://a:0/w",
            "etcd://u@a:1/w",
        ] {
            let why = Target::parse(bad).unwrap_err();
            assert!(why.contains("expected etcd://HOST:PORT/KEY"), "{why}");
        }
        let why = Target::parse("etcd://root:hunter2@a:1/w").unwrap_err();
        assert!(why.ends_with("got `…@a:1/w`"), "{why}");
    }

    #[test]
    fn a_ttl_is_one_that_etcd_grants() {
        assert_eq!(ttl("10s"), Ok(Duration::from_secs(10)));
        for bad in ["1s", "0", "2h", "10"] {
            assert!(ttl(bad).unwrap_err().contains("expected"));
        }
    }

    #[test]
    fn every_interface_is_no_address_to_register() {
        let target = Target::parse("etcd://127.0.0.1:1/w").unwrap();
        let registration = Registration { target, ttl: Duration::from_secs(10), weight: None };
        let why = Registrar::start(registration, &Endpoint::Inet("0.0.0.0:80".parse().unwrap())).err().unwrap();
        assert!(why.contains("not on 0.0.0.0:80"), "{why}");
    }
}
