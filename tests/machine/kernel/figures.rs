//! What is counted, listed, closed and explained.

use super::lab::{AT, Lab, config};
use std::io::{Read, Write};
use testkit::eventually;

#[test]
fn connections_and_bytes_are_those_that_were_sent() {
    let Some(lab) = Lab::new() else { return };
    let _servers = [2, 3].map(|last| lab.server(last));
    let kernel = lab.start(&config(&format!("'{AT}'"), "", &[2, 3]));
    kernel.wait_for("up", &["s2", "s3"]);
    let clients: Vec<_> = (0..6).map(|_| lab.connect(AT)).collect();
    clients.iter().for_each(|client| drop(client.hear_line()));
    let total = |name: &str| kernel.metric(name, &["pool=\"pool\""]);
    eventually("they are counted", || {
        total("tcplb_backend_connections_active") == 6 && total("tcplb_backend_connections_total") == 6
    });
    assert_eq!(kernel.metric("tcplb_connections_accepted_total", &["listener=\"web\""]), 6);
    assert_eq!(kernel.metric("tcplb_connections_active", &["listener=\"web\""]), 6);
    assert_eq!(kernel.metric("tcplb_listener_engine", &["engine=\"kernel\""]), 1);
    assert!(kernel.metric("tcplb_kernel_table_max", &[]) > 0 && kernel.metric("tcplb_kernel_entries", &[]) >= 6);
    assert_eq!(kernel.get("/v1/status")["process"]["ports_used"], 0, "none is dialled here");
    const SENT: usize = 1 << 20;
    let (mut client, mut heard) = (&clients[0], vec![0; SENT]);
    std::thread::scope(|scope| {
        scope.spawn(|| client.write_all(&vec![7; SENT]).unwrap());
        let mut other = &clients[0];
        other.read_exact(&mut heard).unwrap();
    });
    let bytes = |direction: &str| kernel.metric("tcplb_backend_bytes_total", &["pool=\"pool\"", direction]);
    let both = ["direction=\"to_backend\"", "direction=\"to_client\""];
    // The headers of packets count too.
    let is_right = |bytes: u64| (SENT as u64..SENT as u64 * 12 / 10).contains(&bytes);
    eventually("the bytes are counted", || both.iter().all(|direction| is_right(bytes(direction))));
    drop(clients);
    eventually("they have ended", || total("tcplb_backend_connections_active") == 0);
    assert_eq!(kernel.metric("tcplb_connections_active", &["listener=\"web\""]), 0);
    assert_eq!(total("tcplb_backend_connections_total"), 6);
}

#[test]
fn connections_are_listed_and_closed_by_number_and_by_backend() {
    let Some(lab) = Lab::new() else { return };
    let _servers = [2, 3].map(|last| lab.server(last));
    let kernel = lab.start(&config(&format!("'{AT}'"), "", &[2, 3]));
    kernel.wait_for("up", &["s2", "s3"]);
    let clients: Vec<_> = (0..4).map(|_| lab.connect(AT)).map(|client| (client.hear_line(), client)).collect();
    let list = |query: &str| kernel.get(&format!("/v1/connections{query}")).as_array().unwrap().clone();
    eventually("all are listed", || list("").len() == 4);
    let row = list("?backend=s2")[0].clone();
    assert_eq!((&row["engine"], &row["listener"], &row["pool"]), (&"kernel".into(), &"web".into(), &"pool".into()));
    assert_eq!((&row["backend"], &row["state"]), (&"s2".into(), &"relaying".into()));
    let its = clients.iter().find(|(_, client)| row["client"] == client.local().to_string()).expect("its client");
    let id = row["id"].as_u64().unwrap();
    assert_eq!(kernel.get(&format!("/v1/connections/{id}"))["client"], row["client"]);
    assert_eq!(kernel.call("DELETE", &format!("/v1/connections/{id}"), "").status, 200);
    eventually("the next bytes of its client are answered with a reset", || (&its.1).write_all(b"x").is_err());
    eventually("it is gone", || list("?backend=s2").len() == 1);
    let answer = kernel.call("DELETE", "/v1/connections?backend=s3", "");
    assert!(answer.body.contains("\"closed\":2"), "{answer:?}");
    eventually("they are gone", || list("?backend=s3").is_empty());
    for (query, others) in [("listener=web", "client=192.0.2.0/24"), ("client=10.9.1.0/24", "listener=web&backend=s3")]
    {
        let clients: Vec<_> = (0..3).map(|_| lab.connect(AT)).inspect(|client| drop(client.hear_line())).collect();
        eventually("all are listed", || list(&format!("?{query}")).len() >= 3);
        let close =
            |query: &str| kernel.call("DELETE", &format!("/v1/connections?{query}"), "").json(200)["closed"].clone();
        let of_others = list(&format!("?{others}")).len();
        assert_eq!(close(others), of_others);
        assert!(close(query).as_u64().unwrap() + of_others as u64 >= 3);
        eventually("they are gone", || list("").is_empty());
        clients.iter().for_each(|mut client| drop(client.write_all(b"x")));
    }
}

#[test]
fn explain_gives_the_backend_that_the_kernel_chooses() {
    let Some(lab) = Lab::new() else { return };
    let _servers = [2, 3, 4].map(|last| lab.server(last));
    for algorithm in ["maglev", "random", "round-robin"] {
        let kernel = lab.start(&config(&format!("'{AT}'"), &format!("algorithm = '{algorithm}'"), &[2, 3, 4]));
        kernel.wait_for("up", &["s2", "s3", "s4"]);
        let explained = |client: &str| kernel.get(&format!("/v1/explain?client={client}"));
        for _ in 0..10 {
            let client = lab.connect(AT);
            let (name, at) = (client.hear_line(), client.local().to_string());
            let explained = explained(&at);
            match algorithm {
                "round-robin" => assert!(explained["pick"].is_null(), "{explained}"),
                _ => assert_eq!(explained["pick"], name.as_str(), "{explained}"),
            }
        }
        let shares = explained("10.9.1.2");
        let shares: Vec<f64> =
            shares["candidates"].as_array().unwrap().iter().filter_map(|it| it["share"].as_f64()).collect();
        match algorithm {
            "maglev" => assert_eq!(shares.len(), 0),
            _ => assert!(shares.len() == 3 && shares.iter().all(|share| (0.33..0.34).contains(share)), "{shares:?}"),
        }
        kernel.end(rustix::process::Signal::TERM);
    }
}

#[test]
fn what_the_system_lacks_is_a_finding_and_one_line_of_the_log() {
    let Some(lab) = Lab::new() else { return };
    let _servers = [2, 3].map(|last| lab.server(last));
    let kernel = lab.start(&config(&format!("'{AT}'"), "", &[2, 3]));
    kernel.wait_for("up", &["s2", "s3"]);
    let findings = || kernel.get("/v1/status")["findings"].to_string();
    let set = |key: &str, value: &str| {
        lab.balancer.inside(|| std::fs::write(format!("/proc/sys/net/{key}"), value).expect("set it"));
    };
    for (key, says) in [("netfilter/nf_conntrack_acct", "nf_conntrack_acct = 1"), ("ipv4/ip_forward", "ip_forward = 1")]
    {
        set(key, "0");
        eventually("it is found", || findings().contains(says));
        set(key, "1");
        eventually("it is not found any more", || !findings().contains(says));
        assert_eq!(kernel.process.count_lines(says), 1);
    }
}
