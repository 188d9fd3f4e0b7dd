//! Many backends: what grows with their number, and what must not grow faster.

use crate::admin::support::Balancer;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};
use testkit::{ConfigFile, free_address};

/// Far beyond what an operator has, so that work that is not proportional stands out.
const MANY: usize = 40_000;

/// A configuration with so many backends, spread evenly over so many pools.
fn file(admin: SocketAddr, backends: usize, pools: usize) -> String {
    let mut text =
        format!("[global]\nworkers = 1\nadmin = \"{admin}\"\n[[listener]]\nbind = [\"127.0.0.1:0\"]\npool = \"p0\"\n");
    let mut number = 0_u32;
    for pool in 0..pools {
        write!(text, "[[pool]]\nname = \"p{pool}\"\n[pool.health]\nkind = \"off\"\n").expect("a string takes all");
        for _ in 0..backends / pools {
            let [_, high, middle, low] = number.to_be_bytes();
            let address = format!("10.{high}.{middle}.{low}:80");
            write!(text, "[[pool.backend]]\nname = \"b{number}\"\naddress = \"{address}\"\nweight = 1\n")
                .expect("a string takes all");
            number += 1;
        }
    }
    text
}

/// Starts with a file of this text.
fn start(admin: SocketAddr, text: &str) -> Balancer {
    let process = ConfigFile::of(text).start();
    // Among many thousand lines at once, the log may lose the one with the address of the admin API.
    Balancer { listen: process.at().to_string(), admin: admin.to_string(), process }
}

#[test]
fn a_reload_of_many_backends_takes_no_more_cpu_than_a_start_does() {
    for pools in [1, MANY] {
        let admin = free_address();
        let text = file(admin, MANY, pools);
        let balancer = start(admin, &text);
        // In hundredths of a second: what else the machine does does not count.
        let started = balancer.process.cpu_ticks();
        // Both read, check, build and publish everything once. A search per backend costs twenty times as much.
        let most = started.max(20) * 6;
        let reload = |text: &str, expected: usize| {
            let before = balancer.process.cpu_ticks();
            let answer = balancer.reload(text).json(200);
            assert_eq!(answer["changes"].as_array().unwrap().len(), expected);
            balancer.process.cpu_ticks() - before
        };
        let took = reload(&text, 0);
        assert!(took < most, "{pools} pools: a start took {started} ticks, but a reload {took}");
        let took = reload(&text.replace("weight = 1", "weight = 2"), MANY);
        assert!(took < most, "{pools} pools: a start took {started} ticks, but new weights {took}");
        println!("{pools} pools: a start takes {started} ticks of CPU, new weights {took}");
    }
}

#[test]
fn clients_are_served_at_once_while_two_thousand_backends_start_slowly() {
    // One server, which every address of 127.0.0.0/8 leads to.
    let server = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = server.local_addr().unwrap().port();
    // A request is read before the answer, or closing would reset the connection.
    let serve = |mut client: TcpStream| client.read(&mut [0; 1024]).and_then(|_| client.write_all(b"served\n"));
    thread::spawn(move || server.incoming().flatten().for_each(|client| drop(serve(client))));
    for algorithm in ["source-hash", "maglev", "round-robin"] {
        let text = |backends: u32| {
            let mut text = format!(
                "[global]\nworkers = 1\nadmin = '127.0.0.1:0'\n[[listener]]\nbind = ['127.0.0.1:0']\n\
                 [[pool]]\nname = 'p'\nalgorithm = '{algorithm}'\nslow_start = '10h'\n[pool.health]\nkind = 'off'\n"
            );
            for number in 0..backends {
                let [_, _, high, low] = number.to_be_bytes();
                write!(text, "[[pool.backend]]\naddress = '127.1.{high}.{low}:{port}'\n").unwrap();
            }
            text
        };
        let balancer = Balancer::from_text(text(1));
        assert_eq!(balancer.reload(&text(2_001)).json(200)["changes"].as_array().unwrap().len(), 2_000);
        // The one that is warm leaves: all others have just begun.
        balancer.call("PATCH", &format!("/v1/pools/p/backends/127.1.0.0:{port}"), r#"{"state":"disabled"}"#).json(200);
        let begun = Instant::now();
        for _ in 0..40 {
            assert_eq!(balancer.request().unwrap(), "served");
        }
        // A choice took half a second and more.
        assert!(begun.elapsed() < Duration::from_secs(15), "{algorithm}: {:?}", begun.elapsed());
    }
}
