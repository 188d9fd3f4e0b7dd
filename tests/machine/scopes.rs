//! Link-local addresses with the name of their interface.

use super::lab::Network;
use std::process::Command;
use testkit::{At, Conn, Process, Tcplb, run};

#[test]
fn a_link_local_address_is_reached_through_the_interface_that_it_names() {
    let Some(network) = Network::new() else { return };
    network.inside(|| {
        run(Command::new("ip").args(["-6", "addr", "add", "fe80::1/64", "dev", "lo", "nodad"]));
        let backend = Process::start(&["backend", "--listen", "[fe80::1%lo]:0", "--name", "web1"]);
        let line = backend.wait_for_line("listening on ");
        let port = line.rsplit_once(':').expect("a port").1.to_owned();

        let address = format!("[fe80::1%lo]:{port}");
        let tcplb = Tcplb::new().listen("[fe80::1%lo]:0").args(["-b", &address]).start();
        tcplb.wait_for_line(&format!("backend {address} weight 1"));
        assert!(matches!(tcplb.at(), At::Tcp(at) if at.to_string().starts_with("[fe80::1%1]:")), "{:?}", tcplb.at());
        let client = Conn::to(tcplb.at());
        client.say("GET / HTTP/1.0\r\n\r\n");
        assert!(String::from_utf8_lossy(&client.hear_all()).ends_with("web1\n"));

        let (_, said) = Tcplb::new().listen("[fe80::1%nowhere]:0").args(["-b", &address]).start_in_vain();
        assert!(said.contains("can't listen on [fe80::1%nowhere]:0"), "{said}");
    });
}
