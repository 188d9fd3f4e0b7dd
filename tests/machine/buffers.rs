//! `socket_buffer`: what the kernel keeps of connections whose receivers stall, seen from outside by `ss`.

use crate::lab::Configured;
use std::io::Write;
use std::process::Command;
use std::thread;
use testkit::{At, Conn, Server, eventually, need};

/// Clients that read nothing, and the same number of backends' ends.
const STALLED: usize = 8;

/// In the file, in bytes, and doubled as the kernel does.
const CAP: (&str, u64) = ("64KiB", 64 * 1024);
const DOUBLED: u64 = 2 * CAP.1;

/// What `ss -m` says of one socket.
#[derive(Debug)]
struct Memory {
    receive_limit: u64,
    send_limit: u64,
    /// Received and not read, written and not acknowledged, with the kernel's bookkeeping.
    held: u64,
}

/// Memory of tcplb's sockets with that port on their own side, or on the other.
fn memory(own: &str, port: u16) -> Vec<Memory> {
    let filter = format!("{own} = :{port}");
    let output = Command::new("ss").args(["-tnmH", "state", "established", &filter]).output().expect("run ss");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let fields = |line: &str| -> Option<Memory> {
        let (_, fields) = line.split_once("skmem:(")?;
        let value = |key: &str| {
            let field = fields.split([',', ')']).find_map(|field| field.strip_prefix(key)?.parse::<u64>().ok());
            field.unwrap_or_else(|| panic!("{key} in {line}"))
        };
        Some(Memory { receive_limit: value("rb"), send_limit: value("tb"), held: value("r") + value("w") })
    };
    text.lines().filter_map(fields).collect()
}

/// Sends for as long as anything is taken, to clients that read nothing.
fn floods(conn: Conn) -> std::io::Result<()> {
    let conn = conn.patient();
    loop {
        (&conn).write_all(&[b'x'; 64 * 1024])?;
    }
}

/// Both ends of stalled connections of a tcplb with these settings: the clients' and the backends'.
fn stalled(settings: &str) -> (Vec<Memory>, Vec<Memory>) {
    let server = Server::start(floods);
    let text = format!(
        "{settings}\n[[listener]]\nbind = ['127.0.0.1:0']\n[[pool]]\n[pool.health]\nkind = 'off'\n\
         [[pool.backend]]\naddress = '{}'\n",
        server.at()
    );
    let tcplb = Configured::start(&text, &[]);
    let at: &At = &tcplb.at[0];
    let clients: Vec<Conn> = (0..STALLED).map(|_| Conn::to(at)).collect();
    thread::scope(|scope| clients.iter().for_each(|client| drop(scope.spawn(|| client.flood()))));
    let measured = (memory("sport", at.port()), memory("dport", server.at().port()));
    assert_eq!((measured.0.len(), measured.1.len()), (STALLED, STALLED));
    // They go on: what was held comes.
    clients.iter().for_each(|client| assert_eq!(client.hear(1 << 20), vec![b'x'; 1 << 20]));
    measured
}

#[test]
fn socket_buffer_caps_what_the_kernel_holds_for_clients_and_backends() {
    if need("ss").is_none() {
        return;
    }
    let (clients, backends) = stalled(&format!("socket_buffer = '{}'", CAP.0));
    for socket in clients.iter().chain(&backends) {
        assert_eq!((socket.receive_limit, socket.send_limit), (DOUBLED, DOUBLED), "{socket:?}");
        // A buffer takes one more packet, of up to 64 KiB, once it has any room.
        assert!(socket.held <= 2 * (DOUBLED + 3 * CAP.1), "{socket:?}");
    }
    let (default_clients, default_backends) = stalled("");
    let sum = |sockets: &[Memory]| sockets.iter().map(|socket| socket.held).sum::<u64>() >> 10;
    let per_connection = |clients: &[Memory], backends| (sum(clients) + sum(backends)) / STALLED as u64;
    let (capped, default) = (per_connection(&clients, &backends), per_connection(&default_clients, &default_backends));
    println!("a stalled connection holds {capped} KiB of the kernel's with {}, {default} KiB without", CAP.0);
    assert!(default_clients.iter().all(|socket| socket.send_limit > 2 * DOUBLED), "{default_clients:?}");
    assert!(capped < default, "{capped} KiB with, {default} KiB without");
}

#[test]
fn a_kernel_that_grants_less_than_socket_buffer_is_reported() {
    let limits = ["rmem_max", "wmem_max"].map(|name| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/core/{name}")).expect("every Linux has it");
        (name, text.trim().parse::<u64>().expect("a number"))
    });
    let text = "socket_buffer = '256MiB'\n[[listener]]\nbind = ['127.0.0.1:0']\n[[pool]]\n\
                [[pool.backend]]\naddress = '127.0.0.1:1'\n";
    let tcplb = Configured::start(text, &[]);
    for (name, limit) in limits {
        let warning = format!("instead of 256MiB: raise net.core.{name}");
        if limit < 256 << 20 {
            tcplb.process.wait_for_line(&warning);
        }
    }
    // The cap that is granted is no error: it serves.
    eventually("it serves", || tcplb.admin.get("/healthz").status == 200);
}
