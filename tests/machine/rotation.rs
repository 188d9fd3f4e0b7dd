//! A name whose answers rotate: each has a part of its addresses.

use crate::lab::{Network, with_resolv_conf};
use crate::names::{Question, answer, serve};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use testkit::{Admin, Server, Tcplb, eventually, fresh_loopback, need, peers};

/// A name server at 127.0.0.1. Each question is answered with the next part of the addresses.
struct Rotating {
    parts: Mutex<Vec<Vec<Ipv4Addr>>>,
    /// Answers with addresses so far.
    answers: AtomicUsize,
}

impl Rotating {
    fn start(parts: Vec<Vec<Ipv4Addr>>) -> Arc<Rotating> {
        let server = Arc::new(Rotating { parts: Mutex::new(parts), answers: AtomicUsize::new(0) });
        let answering = server.clone();
        serve(move |query| answering.answer(query));
        server
    }

    fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        if !Question::read(query)?.is_ipv4 {
            return answer(query, Some(&[]));
        }
        let parts = self.parts.lock();
        answer(query, Some(&parts[self.answers.fetch_add(1, Ordering::Relaxed) % parts.len()]))
    }

    /// Waits for another answer.
    #[track_caller]
    fn wait(&self) {
        let before = self.answers.load(Ordering::Relaxed);
        eventually("there is another answer", || self.answers.load(Ordering::Relaxed) > before);
    }
}

#[test]
fn a_rotating_name_keeps_its_counters_and_its_connections() {
    let Some(network) = Network::new() else { return };
    if need("unshare").is_none() {
        return;
    }
    network.inside(|| {
        let first = Server::start(peers::named("0"));
        let elsewhere: SocketAddr = first.at().to_string().parse().expect("an address");
        let port = elsewhere.port();
        let others = [(); 3].map(|()| SocketAddr::new(fresh_loopback(), port));
        let _servers: Vec<Server> = (others.iter().zip(1..))
            .map(|(at, number)| Server::start_at_address(*at, peers::named(&number.to_string())))
            .collect();
        let ip = |at: &SocketAddr| at.ip().to_string().parse::<Ipv4Addr>().expect("IPv4");
        let [a, b, c] = others.each_ref().map(ip);
        let two = vec![vec![a, b], vec![b, c], vec![c, a]];
        let rotating = Rotating::start(two.clone());
        let directory = tempfile::tempdir().expect("a directory");
        let (file, resolv) = (directory.path().join("tcplb.toml"), directory.path().join("resolv.conf"));
        fs::write(&resolv, "nameserver 127.0.0.1\noptions timeout:2 attempts:1\n").expect("a file");
        let text = format!(
            "[global]\nadmin = '127.0.0.1:0'\n[[listener]]\nbind = ['127.0.0.1:0']\n[[pool]]\non_remove = 'reset'\n\
             [[pool.backend]]\nname = 'db'\naddress = 'db.test:{port}'\n",
        );
        fs::write(&file, text).expect("a file");
        let tcplb = with_resolv_conf(Tcplb::from_file(&file), &resolv).start();
        let admin = Admin::of(&tcplb);
        let backend = || admin.get("/v1/pools/default/backends").json(200)[0].clone();
        let places = || backend()["addresses"].as_array().map_or(0, Vec::len);
        let count = |value: &Value| value["connections_total"].as_u64().expect("a number");
        let served = || {
            let client = tcplb.connect();
            let name = client.hear_line();
            client.assert_echoes("served");
            (client, name)
        };
        let (client, _) = served();
        let another_answer = || {
            rotating.wait();
            client.assert_echoes("goes on");
        };
        for parts in [two, vec![vec![a], vec![b], vec![c]]] {
            *rotating.parts.lock() = parts;
            let before = count(&backend());
            let is_settled = (0..6).any(|_| {
                another_answer();
                places() == 3
            });
            assert!(is_settled, "all addresses are in use: {}", tcplb.output());
            (0..4).for_each(|_| another_answer());
            assert_eq!(places(), 3);
            assert!(before > 0 && count(&backend()) >= before, "its counters go on from {before}");
            let names: Vec<String> = (0..3).map(|_| served().1).collect();
            assert!(["1", "2", "3"].iter().all(|name| names.iter().any(|it| it == name)), "{names:?}");
            // A reload asks, too, and gets a part.
            admin.call("POST", "/v1/reload", "").json(200);
            client.assert_echoes("goes on");
        }
        // A move is none of it.
        *rotating.parts.lock() = vec![vec![ip(&elsewhere)]];
        eventually("new clients are served by another server", || served().1 == "0");
        eventually("that is all", || places() == 1);
        // Nor is a fail-over there and back.
        let leads_to = |all: &[SocketAddr]| {
            let shown = backend()["addresses"].as_array().map_or(Vec::new(), |them| {
                them.iter().map(|it| it["address"].as_str().expect("an address").parse().expect("an address")).collect()
            });
            let (shown, all): (BTreeSet<SocketAddr>, _) = (shown.into_iter().collect(), all.iter().copied().collect());
            shown == all
        };
        let there = others[0];
        for at in [there, elsewhere].repeat(2) {
            *rotating.parts.lock() = vec![vec![ip(&at)]];
            eventually("the other server alone is in use", || leads_to(&[at]));
        }
        *rotating.parts.lock() = vec![vec![ip(&elsewhere), a]];
        eventually("both are in use", || leads_to(&[elsewhere, there]));
        *rotating.parts.lock() = vec![vec![a]];
        eventually("a server that is removed leaves", || leads_to(&[there]));
    });
}
