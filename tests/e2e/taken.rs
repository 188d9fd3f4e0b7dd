//! tcplb takes no address that another process uses: exit code 1, and the message names the address.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use testkit::{Conn, Server, Tcplb, peers, refusing};

#[track_caller]
fn assert_refuses(listen: &str, named: &str) {
    let (status, said) = Tcplb::new().listen(listen).backend(&refusing()).start_in_vain();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(named), "the message names {named}: {said}");
}

#[test]
fn a_port_that_another_tcplb_has_is_taken() {
    let server = Server::start(peers::echo);
    let first = Tcplb::over([&server]);
    assert_refuses(&first.at().to_string(), &first.at().to_string());
    first.connect().assert_echoes("undisturbed");
}

#[test]
fn a_port_that_another_tcplb_has_on_every_interface_is_taken() {
    let server = Server::start(peers::echo);
    let first = Tcplb::new().listen(":0").backend(server.at()).start();
    let port = first.at().port();
    for listen in [format!(":{port}"), format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        assert_refuses(&listen, &format!(":{port}"));
    }
}

#[test]
fn a_port_that_any_program_has_is_taken() {
    let theirs = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = theirs.local_addr().unwrap().to_string();
    assert_refuses(&at, &at);
}

#[test]
fn a_unix_socket_with_a_listener_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("live.sock");
    let theirs = Server::start_unix(&path, peers::echo);
    assert_refuses(&theirs.at().to_string(), &path.display().to_string());
    Conn::to(theirs.at()).assert_echoes("undisturbed");
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("precious");
    fs::write(&path, "data").unwrap();
    assert_refuses(&format!("unix:{}", path.display()), &path.display().to_string());
    assert_eq!(fs::read_to_string(&path).unwrap(), "data");
}

#[test]
fn with_one_of_two_addresses_taken_none_is_served() {
    let theirs = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let taken = theirs.local_addr().unwrap().to_string();
    let (status, said) = Tcplb::new().listen("127.0.0.1:0").listen(&taken).backend(&refusing()).start_in_vain();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(&taken), "{said}");
}

#[test]
fn a_start_that_fails_leaves_no_socket_file() {
    let (place, beside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let theirs = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let taken = theirs.local_addr().unwrap();
    let path = |name: &str| format!("unix:{}", place.path().join(name).display());
    let (web, admin, config) = (path("web.sock"), path("admin.sock"), beside.path().join("tcplb.toml"));
    for (bind, global, backend, why) in [
        (format!("{web}\", \"{taken}"), format!("admin = \"{admin}\""), "127.0.0.1:1", "can't listen on"),
        (web.clone(), format!("admin = \"{taken}\""), "127.0.0.1:1", "can't serve the admin API"),
        (
            web.clone(),
            format!("admin = \"{admin}\"\naccess_log = \"/missing/log\""),
            "127.0.0.1:1",
            "can't open the access log",
        ),
        (
            web.clone(),
            format!("admin = \"{admin}\"\nnames = \"required\""),
            "nowhere.invalid:1",
            "can't resolve nowhere.invalid",
        ),
    ] {
        let text = format!(
            "[global]\n{global}\n[[listener]]\nname = \"web\"\nbind = [\"{bind}\"]\n[[pool]]\nname = \"app\"\n\
             [[pool.backend]]\nname = \"web1\"\naddress = \"{backend}\"\n"
        );
        fs::write(&config, text).unwrap();
        let (status, said) = Tcplb::from_file(&config).start_in_vain();
        assert!(status.code() == Some(1) && said.contains(why), "{why}: {said}");
        let left: Vec<_> = place.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.is_empty(), "{why}: {left:?}");
    }
}
