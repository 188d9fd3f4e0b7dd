//! Every kind of address, on both sides.

use rustix::process::Signal;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixListener;
use std::process::Command;
use testkit::{At, Conn, Ending, Process, Server, Tcplb, fresh_loopback, need, peers, run, tcplb};

#[test]
fn ipv6_on_both_sides() {
    let server = Server::start_on(Ipv6Addr::LOCALHOST, peers::echo);
    let tcplb = Tcplb::new().listen("[::1]:0").backend(server.at()).start();
    assert!(tcplb.at().to_string().starts_with("[::1]:"));
    tcplb.connect().assert_echoes("six to six");
}

#[test]
fn ipv6_clients_reach_ipv4_backends_and_the_other_way_round() {
    let four = Server::start_on(Ipv4Addr::LOCALHOST, peers::named("four"));
    let six = Server::start_on(Ipv6Addr::LOCALHOST, peers::named("six"));
    let tcplb = Tcplb::new().listen("[::1]:0").backend(four.at()).start();
    assert_eq!(tcplb.name_of_next(), "four");
    let tcplb = Tcplb::new().backend(six.at()).start();
    assert_eq!(tcplb.name_of_next(), "six");
}

#[test]
fn a_bare_port_listens_on_every_interface_for_both_families() {
    let server = Server::start(peers::echo);
    let tcplb = Tcplb::new().listen(":0").backend(server.at()).start();
    Conn::to(&tcplb.at().on(Ipv4Addr::LOCALHOST)).assert_echoes("four");
    Conn::to(&tcplb.at().on(Ipv6Addr::LOCALHOST)).assert_echoes("six");
    Conn::to(&tcplb.at().on(fresh_loopback())).assert_echoes("another interface");
}

#[test]
fn several_listeners_serve_the_same_backends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("front.sock");
    let server = Server::start(peers::echo);
    let tcplb = Tcplb::new()
        .listen("127.0.0.1:0")
        .listen("[::1]:0")
        .listen(&format!("unix:{}", path.display()))
        .backend(server.at())
        .start();
    assert_eq!(tcplb.listening().len(), 3);
    for at in tcplb.listening() {
        Conn::to(at).assert_echoes("here too");
    }
}

#[test]
fn unix_sockets_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let (front, back) = (folder.path().join("front.sock"), folder.path().join("back.sock"));
    let server = Server::start_unix(&back, peers::answers_then_closes("unix"));
    let tcplb = Tcplb::new().listen(&format!("unix:{}", front.display())).backend(server.at()).start();
    assert_eq!(tcplb.at(), &At::Unix(front));
    for _ in 0..10 {
        let client = tcplb.connect();
        assert_eq!(client.hear_line(), "unix");
        assert_eq!(client.ending(), Ending::Fin);
    }
}

#[test]
fn a_unix_backend_that_is_gone_is_failed_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gone.sock");
    let server = Server::start(peers::echo);
    let tcplb = Tcplb::new().backend(&At::Unix(path)).backend(server.at()).unprobed().start();
    for _ in 0..10 {
        tcplb.connect().assert_echoes("no file, no matter");
    }
}

#[test]
fn a_stale_unix_socket_file_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("front.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a dead listener leaves its file");
    let server = Server::start(peers::echo);
    let tcplb = Tcplb::new().listen(&format!("unix:{}", path.display())).backend(server.at()).start();
    tcplb.connect().assert_echoes("in its place");
}

#[test]
fn a_restart_after_a_kill_finds_its_unix_socket_again() {
    let folder = tempfile::tempdir().unwrap();
    let listen = format!("unix:{}", folder.path().join("front.sock").display());
    let server = Server::start(peers::echo);
    for _ in 0..2 {
        // Killed at the end of each round.
        let tcplb = Tcplb::new().listen(&listen).backend(server.at()).start();
        tcplb.connect().assert_echoes("again");
    }
}

/// Runs tcplb where names mean what `hosts` says.
pub fn with_hosts(hosts: &str) -> Option<(tempfile::TempDir, Tcplb)> {
    need("unshare")?;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hosts");
    fs::write(&file, hosts).unwrap();
    let bind = format!("mount --bind {} /etc/hosts && exec \"$@\"", file.display());
    let unshare = ["unshare", "--mount", "--map-root-user"];
    let mut trial = Command::new(unshare[0]);
    trial.args(&unshare[1..]).args(["sh", "-c", &bind, "sh", "true"]);
    if !trial.status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: a process can't have a hosts file of its own on this system");
        return None;
    }
    let tcplb = Tcplb::new().wrapped(unshare.into_iter().chain(["sh", "-c", &bind, "sh"]));
    Some((folder, tcplb))
}

#[test]
fn a_name_is_resolved() {
    let server = Server::start_on(Ipv4Addr::LOCALHOST, peers::echo);
    let tcplb =
        Tcplb::new().listen("localhost:0").args(["--backend", &format!("localhost:{}", server.at().port())]).start();
    tcplb.connect().assert_echoes("by name");
}

#[test]
fn a_name_with_several_addresses_is_tried_on_each_of_them() {
    let (dead, alive) = (fresh_loopback(), fresh_loopback());
    let Some((_folder, tcplb)) =
        with_hosts(&format!("{dead} four.test\n{alive} four.test\n::1 both.test\n{alive} both.test\n"))
    else {
        return;
    };
    let four = Server::start_on(alive, peers::named("four"));
    let six = Server::start_on(Ipv6Addr::LOCALHOST, peers::named("six"));
    let tcplb = tcplb
        // Its first address refuses.
        .args(["--backend", &format!("four.test:{}", four.at().port())])
        // It listens on only one of the two families.
        .args(["--backend", &format!("both.test:{}", six.at().port())])
        .start();
    for _ in 0..100 {
        let pair = [tcplb.name_of_next(), tcplb.name_of_next()];
        assert!(pair == ["four", "six"] || pair == ["six", "four"], "{pair:?}");
    }
}

#[test]
fn a_name_whose_server_listens_on_one_family_only_works_with_either() {
    for family in ["127.0.0.1", "::1"] {
        let Some((_folder, tcplb)) = with_hosts("127.0.0.1 both.test\n::1 both.test\n") else { return };
        let server = Server::start_on(family.parse::<IpAddr>().unwrap(), peers::echo);
        let tcplb = tcplb.args(["--backend", &format!("both.test:{}", server.at().port())]).start();
        // An address that always fails is no failure of the backend, however often.
        for _ in 0..200 {
            tcplb.connect().assert_echoes(family);
        }
    }
}

#[test]
fn an_abstract_socket_has_a_name_and_no_file_on_every_side() {
    let directory = tempfile::tempdir().unwrap();
    let name = |side: &str| format!("@tcplb-test-{}-{side}", std::process::id());
    let mut command = tcplb(&["backend", "--echo", "--listen", &format!("unix:{}", name("back"))]);
    let backend = Process::spawn(command.current_dir(directory.path()));
    backend.wait_for_line("listening on ");
    let (front, back) = (format!("unix:{}", name("front")), format!("unix:{}", name("back")));
    let mut command = tcplb(&["--listen", &front, "--backend", &back]);
    let mut running =
        Process::spawn(command.args(["--admin", &format!("unix:{}", name("admin"))]).current_dir(directory.path()));
    running.wait_for_line(&format!("listening on {front}"));
    running.wait_for_line("admin on ");
    Conn::to(&At::Unix(name("front").into())).assert_echoes("no file");
    let admin = Conn::to(&At::Unix(name("admin").into()));
    admin.say("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(admin.hear_line().contains(" 200 "));
    let status = ["status", "--admin", &format!("unix:{}", name("admin"))];
    run(&mut tcplb(&status));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "no file was made");
    running.signal(Signal::TERM);
    assert_eq!(running.wait_exit().code(), Some(0), "{}", running.output());
}

#[test]
fn an_abstract_backend_that_comes_later_is_refused_if_the_sandbox_cannot_reach_it() {
    let server = Server::start(peers::echo);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tcplb.toml");
    let write = |backend: &str| {
        let pool = format!("[[pool]]\n[pool.health]\nkind = \"off\"\n[[pool.backend]]\naddress = \"{backend}\"\n");
        fs::write(&file, format!("[[listener]]\nbind = [\"127.0.0.1:0\"]\n{pool}")).unwrap();
    };
    for (first, refused) in [(server.at().to_string(), true), ("unix:@tcplb-test-first".to_owned(), false)] {
        write(&first);
        let tcplb = Tcplb::from_file(&file).start();
        if tcplb.count_lines("no sandbox") > 0 {
            return;
        }
        write("unix:@tcplb-test-later");
        tcplb.signal(Signal::HUP);
        tcplb.wait_for_line("reload");
        assert_eq!(tcplb.count_lines("is an abstract socket, which the sandbox reaches only") > 0, refused);
    }
}
