//! Many callers at once: silent ones, slow ones, and those that must get an answer nevertheless.

use crate::admin::support::{Answer, Balancer, PATIENCE, answer, ask, backend};
use serde_json::json;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::Barrier;
use std::sync::mpsc::channel;
use std::thread;
use tcplb::admin::calls::CALLS_MAX;
use tcplb::config::descriptors::AdminShare;

/// What a process with a large limit on open files grants its callers.
fn most() -> AdminShare {
    AdminShare::of(u64::MAX)
}

fn connect(balancer: &Balancer) -> TcpStream {
    let stream = TcpStream::connect(&balancer.admin).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

/// A call that is answered once the listener is gone: it registers a backend that accepts and says nothing.
fn slow_call(balancer: &Balancer, silent: &TcpListener) -> TcpStream {
    let mut stream = connect(balancer);
    let body = json!({ "address": silent.local_addr().expect("an address").to_string() }).to_string();
    let head = format!("POST /register HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).expect("it takes a request");
    stream
}

/// Takes up every thread that answers calls. They are free again when what is given is dropped.
fn occupied(balancer: &Balancer) -> (Vec<TcpStream>, TcpListener, Vec<TcpStream>) {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let calls = (0..CALLS_MAX).map(|_| slow_call(balancer, &silent)).collect();
    // Each call is at work now: its probe has connected.
    let probes = (0..CALLS_MAX).map(|_| silent.accept().expect("a probe").0).collect();
    (calls, silent, probes)
}

const SLOW_PROBES: [&str; 6] = ["--health", "http", "--health-timeout", "1h", "-t", "3600"];

#[track_caller]
fn assert_alive(balancer: &Balancer) {
    assert_eq!(balancer.get("/healthz").status, 200);
    assert_eq!(balancer.get("/readyz").status, 200);
    assert_eq!(balancer.get("/readyz?pool=default").status, 200);
}

#[test]
fn silent_callers_hold_up_no_other() {
    let balancer = Balancer::idle();
    let trickling: Vec<TcpStream> = (0..CALLS_MAX).map(|_| connect(&balancer)).collect();
    trickling.iter().for_each(|mut stream| stream.write_all(b"GET /v1/status HT").unwrap());
    let silent: Vec<TcpStream> = (0..most().reading + 20).map(|_| connect(&balancer)).collect();
    for _ in 0..20 {
        assert_alive(&balancer);
        balancer.status();
    }
    // The silent callers went first, the oldest before the others, with an answer. Callers that came before them stay.
    for stream in silent.into_iter().take(20) {
        let refused = answer(stream);
        refused.error(503);
        assert_eq!(refused.header("Retry-After"), Some("1"));
    }
    for mut stream in trickling {
        stream.write_all(b"TP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        answer(stream).json(200);
    }
}

#[test]
fn fifty_calls_at_once_are_all_answered() {
    let balancer = Balancer::idle();
    let (admin, at_once) = (balancer.admin.as_str(), Barrier::new(50));
    for _ in 0..5 {
        let statuses: Vec<u16> = thread::scope(|scope| {
            let call = || {
                at_once.wait();
                ask(admin, "GET", "/v1/status", &[], "").status
            };
            let calls: Vec<_> = (0..50).map(|_| scope.spawn(call)).collect();
            calls.into_iter().map(|call| call.join().expect("an answer")).collect()
        });
        assert_eq!(statuses, [200; 50]);
    }
}

#[test]
fn calls_beyond_the_limit_are_refused_and_clients_are_served() {
    let (_web1, at) = backend("web1", &[]);
    let balancer = Balancer::start(&[&["-b", &at], &SLOW_PROBES[..]].concat());
    let (calls, silent, probes) = occupied(&balancer);
    let (sender, answers) = channel::<Answer>();
    for _ in 0..most().queued + 8 {
        let (sender, admin) = (sender.clone(), balancer.admin.clone());
        // The test ends without those that it has no use for.
        thread::spawn(move || drop(sender.send(ask(&admin, "GET", "/v1/status", &[], ""))));
    }
    for _ in 0..8 {
        let refused = answers.recv_timeout(PATIENCE).expect("a call too many is refused at once");
        refused.error(503);
        assert_eq!(refused.header("Retry-After"), Some("1"));
    }
    assert_alive(&balancer);
    assert_eq!(balancer.request().unwrap(), "web1");
    assert!(answers.try_recv().is_err(), "the others wait for their turn");
    drop((silent, probes));
    for _ in 0..most().queued {
        answers.recv_timeout(PATIENCE).expect("a call that waited is answered").json(200);
    }
    for call in calls {
        answer(call).json(400);
    }
}

#[test]
fn readiness_can_be_asked_of_one_pool() {
    let (_web1, at) = backend("web1", &[]);
    let text = format!(
        "[global]\nworkers = 1\nadmin = '127.0.0.1:0'\n\
         [[listener]]\nbind = ['127.0.0.1:0']\npool = 'good'\n\
         [[pool]]\nname = 'good'\n[[pool.backend]]\naddress = '{at}'\n\
         [[pool]]\nname = 'bad/pool'\n[[pool.backend]]\naddress = '127.0.0.1:1'\n"
    );
    let balancer = Balancer::from_text(text);
    balancer.wait("down", |status| status["pools"][1]["backends"][0]["state"] == "down");
    for (path, status) in [
        ("/readyz", 200),
        ("/readyz?pool=good", 200),
        ("/readyz?pool=bad%2Fpool", 503),
        ("/readyz?pool=bad/pool", 503),
        ("/readyz?pool=none", 404),
        ("/readyz?pool=", 404),
        ("/readyz?pol=bad", 400),
        ("/readyz?pool=good&pool=bad%2Fpool", 400),
    ] {
        assert_eq!(balancer.get(path).status, status, "{path}");
    }
    assert!(balancer.get("/readyz?pool=none").error(404).contains("`none`"));
    assert_eq!(balancer.get("/readyz?pool=bad%2Fpool").body, "the pool has no usable backend\n");
    balancer.call("PATCH", &format!("/v1/pools/good/backends/{at}"), r#"{"state":"draining"}"#).json(200);
    assert_eq!((balancer.get("/readyz").status, balancer.get("/readyz?pool=good").status), (503, 503));
}
