//! A connect that fails is the balancer's problem, not the client's.

use std::io::Write;
use std::time::{Duration, Instant};
use testkit::{
    Admin, BlackHole, ConfigFile, Conn, Ending, QUICK_PROBES, Running, Server, Tcplb, eventually, peers, receive,
    refusing, send, tally,
};

#[test]
fn a_refused_connect_goes_to_another_backend_with_no_byte_lost() {
    let server = Server::start(peers::echo);
    let tcplb = Tcplb::new().backend(&refusing()).backend(&refusing()).backend(server.at()).unprobed().start();
    for round in 0..50 {
        let client = tcplb.connect();
        // Sent before any backend is connected, perhaps; the FIN too.
        let sent = send(&client, round, 30_000).unwrap();
        client.finish();
        assert_eq!(receive(&client).unwrap(), (30_000, sent), "round {round}");
    }
}

#[test]
fn a_connect_that_gets_no_answer_goes_to_another_backend() {
    let (hole, server) = (BlackHole::start(), Server::start(peers::echo));
    let tcplb =
        Tcplb::new().backend(hole.at()).backend(server.at()).unprobed().args(["--connect-timeout", "300ms"]).start();
    for _ in 0..4 {
        tcplb.connect().assert_echoes("anybody there?");
    }
}

#[test]
fn a_client_that_leaves_during_the_connect_harms_no_other() {
    let (hole, server) = (BlackHole::start(), Server::start(peers::echo));
    let tcplb =
        Tcplb::new().backend(hole.at()).backend(server.at()).unprobed().args(["--connect-timeout", "500ms"]).start();
    let before = tcplb.fds_after_a_crowd();
    for round in 0..20 {
        let client = tcplb.connect();
        match round % 3 {
            0 => drop(client),
            1 => client.reset(),
            _ => {
                let _ = (&client).write_all(b"said and gone");
            }
        }
    }
    tcplb.connect().assert_echoes("still here");
    eventually("nothing of them is left", || tcplb.open_fds() <= before);
}

#[test]
fn with_every_backend_refusing_the_client_is_reset_at_once() {
    let tcplb = Tcplb::new().backend(&refusing()).backend(&refusing()).unprobed().start();
    for _ in 0..5 {
        assert_reset_at_once(&tcplb);
    }
}

#[test]
fn with_every_backend_down_the_client_is_reset_at_once() {
    let tcplb = Tcplb::new()
        .backend_with(&refusing(), "name=web1")
        .backend_with(&refusing(), "name=web2")
        .args(QUICK_PROBES)
        .start();
    tcplb.wait_for_line("web1 is down");
    tcplb.wait_for_line("web2 is down");
    for _ in 0..5 {
        assert_reset_at_once(&tcplb);
    }
}

/// At once: well before the connect timeout of five seconds.
#[track_caller]
fn assert_reset_at_once(tcplb: &Running) {
    let begun = Instant::now();
    assert_eq!(tcplb.ending_of_next(), Ending::Reset);
    assert!(begun.elapsed() < Duration::from_secs(4), "it hung for {:?}", begun.elapsed());
}

#[test]
fn one_of_three_is_killed_and_comes_back_while_no_connection_fails() {
    let mut servers = ["web1", "web2", "web3"].map(|name| Server::start(peers::answers_then_closes(name)));
    let tcplb = servers
        .iter()
        .zip(["name=web1", "name=web2", "name=web3"])
        .fold(Tcplb::new(), |tcplb, (server, name)| tcplb.backend_with(server.at(), name))
        .args(QUICK_PROBES)
        .start();
    // 200 short connections a second. One at a time, so that the killed server has none open: those an L4 balancer
    // can't save.
    let pace = crossbeam_channel::tick(Duration::from_millis(5));
    let next = || {
        pace.recv().unwrap();
        let client = tcplb.connect();
        let name = client.hear_line();
        assert_eq!(client.ending(), Ending::Fin);
        name
    };
    assert_eq!(tally((0..200).map(|_| next())).len(), 3);

    servers[1].stop();
    let without = tally((0..400).map(|_| next()));
    assert!(!without.contains_key("web2") && without.len() == 2, "{without:?}");
    let pair: Vec<&usize> = without.values().collect();
    assert!(pair[0].abs_diff(*pair[1]) <= 40, "its share is spread: {without:?}");

    servers[1].start_again();
    eventually("web2 serves again", || next() == "web2");
    tcplb.wait_for_line("web2 is up");
    assert_eq!(tally((0..300).map(|_| next())).into_values().collect::<Vec<usize>>(), [100, 100, 100]);
}

#[test]
fn a_backend_in_the_place_of_one_that_was_tried_is_tried() {
    let (hole, server) = (BlackHole::start(), Server::start(peers::named("c")));
    let text = format!(
        "[global]\nworkers = 1\nadmin = '127.0.0.1:0'\n[[listener]]\nbind = ['127.0.0.1:0']\npool = 'web'\n\
         [[pool]]\nname = 'web'\nconnect_timeout = '2s'\nhealth.kind = 'off'\n\
         [[pool.backend]]\nname = 'a'\naddress = '{}'\n[[pool.backend]]\nname = 'b'\naddress = '{}'\n",
        refusing(),
        hole.at()
    );
    let tcplb = ConfigFile::of(text).start();
    let admin = Admin::of(&tcplb);
    // The first one at least is refused by a, and then waits for b.
    let clients: Vec<Conn> = (0..4).map(|_| tcplb.connect()).collect();
    let refused = || admin.metric("tcplb_backend_connect_failures_total", &["backend=\"a\"", "reason=\"refused\""]);
    eventually("a has refused a client", || refused() >= 1);
    let backend = format!("{{\"name\": \"c\", \"address\": \"{}\"}}", server.at());
    for (method, path, body) in
        [("DELETE", "/v1/pools/web/backends/a", ""), ("POST", "/v1/pools/web/backends", &backend)]
    {
        let answer = admin.call(method, path, body);
        assert!((200..210).contains(&answer.status), "{method} {path}: {answer:?}");
    }
    for client in clients {
        assert_eq!(client.hear_line(), "c");
    }
}
