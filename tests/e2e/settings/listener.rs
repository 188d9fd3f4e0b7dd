//! `[[listener]]` and the flags that concern clients.

use super::{assert_next_is_reset, assert_second, assert_served, both, call, echo, named};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use testkit::{At, ConfigFile, Conn, Tcplb, account, fresh_loopback, need_root};

#[test]
fn a_listener_s_name_is_what_status_shows() {
    let server = echo();
    for name in ["web", "db"] {
        let file = ConfigFile::over([server.at()]).global("admin = \"127.0.0.1:0\"");
        let tcplb = file.listener(&format!("name = \"{name}\"")).start();
        let status = call(&tcplb, "GET /v1/status");
        assert!(status.contains(&format!("\"{name}\"")), "{status}");
    }
}

#[test]
fn bind_decides_where_clients_connect() {
    let server = echo();
    for ip in [fresh_loopback(), fresh_loopback()] {
        let by_file = ConfigFile::over([server.at()]).listener(&format!("bind = [\"{ip}:0\"]")).start();
        let by_flag = Tcplb::new().listen(&format!("{ip}:0")).backend(server.at()).unprobed().start();
        for tcplb in [&by_flag, &*by_file] {
            assert!(matches!(tcplb.at(), At::Tcp(at) if at.ip() == ip), "{}", tcplb.at());
            assert_served(&tcplb.connect());
        }
    }
}

#[test]
fn pool_decides_which_backends_serve_a_listener() {
    let (one, other) = (named("one"), named("other"));
    for pool in ["one", "other"] {
        let second = format!(
            "[[pool]]\nname = \"other\"\n[pool.health]\nkind = \"off\"\n[[pool.backend]]\naddress = \"{}\"\n",
            other.at()
        );
        let file =
            ConfigFile::over([one.at()]).pool("name = \"one\"").listener(&format!("pool = \"{pool}\"")).and(&second);
        assert_eq!(file.start().name_of_next(), pool);
    }
}

/// A header that announces 192.0.2.7.
const HEADER: &str = "PROXY TCP4 192.0.2.7 192.0.2.8 1000 2000\r\n";

#[test]
fn accept_proxy_takes_a_header_off() {
    let server = echo();
    for tcplb in both(&[server.at()], ConfigFile::listener, "accept_proxy = true", &["--accept-proxy"]) {
        let client = tcplb.connect();
        client.say(format!("{HEADER}hello\n"));
        assert_eq!(client.hear_line(), "hello");
    }
    for tcplb in both(&[server.at()], ConfigFile::listener, "accept_proxy = false", &[]) {
        let client = tcplb.connect();
        client.say(format!("{HEADER}hello\n"));
        assert_eq!(client.hear_line(), HEADER.trim_end());
    }
}

#[test]
fn trusted_proxies_may_send_a_header_and_others_may_not() {
    let server = echo();
    for (prefix, trusted) in [("127.0.0.0/8", true), ("10.0.0.0/8", false)] {
        let file = ConfigFile::over([server.at()]).listener("accept_proxy = true");
        let tcplb = file.listener(&format!("trusted_proxies = [\"{prefix}\"]")).start();
        if trusted {
            let client = tcplb.connect();
            client.say(format!("{HEADER}hello\n"));
            assert_eq!(client.hear_line(), "hello");
        } else {
            assert_next_is_reset(&tcplb);
        }
    }
}

#[test]
fn allow_and_deny_decide_by_prefix_wherever_they_stand() {
    let server = echo();
    for (key, covers_means_served) in [("allow", true), ("deny", false), ("allow_file", true), ("deny_file", false)] {
        for (prefix, covers) in [("127.0.0.0/8", true), ("10.0.0.0/8", false)] {
            let file = ConfigFile::over([server.at()]);
            let value = match key {
                "allow" | "deny" => format!("[\"{prefix}\"]"),
                _ => format!("\"{}\"", file.beside("prefixes.txt", prefix).display()),
            };
            let tcplb = file.listener(&format!("{key} = {value}")).start();
            if covers == covers_means_served {
                assert_served(&tcplb.connect());
            } else {
                assert_next_is_reset(&tcplb);
            }
        }
    }
}

#[test]
fn max_connections_of_a_listener_lets_further_clients_wait() {
    let server = echo();
    for limit in [1, 2] {
        let tcplb = ConfigFile::over([server.at()]).listener(&format!("max_connections = {limit}")).start();
        assert_second(&tcplb, limit == 2);
    }
}

#[test]
fn max_connections_per_source_resets_further_clients() {
    let server = echo();
    for limit in [1, 2] {
        let tcplb = ConfigFile::over([server.at()]).listener(&format!("max_connections_per_source = {limit}")).start();
        let first = tcplb.connect();
        assert_served(&first);
        if limit == 2 {
            assert_served(&tcplb.connect());
        } else {
            assert_next_is_reset(&tcplb);
        }
    }
}

#[test]
fn connection_rate_per_source_resets_the_second_client() {
    let server = echo();
    for (rate, served) in [("1000/s", 5), ("1/s", 1)] {
        let tcplb =
            ConfigFile::over([server.at()]).listener(&format!("connection_rate_per_source = \"{rate}\"")).start();
        // Another source each time, so that a slow machine earns no second token in between.
        let source = fresh_loopback();
        let clients = (0..5).map(|_| Conn::from_source(source, tcplb.at()));
        let echoes = clients.filter(|client| {
            client.as_ref().is_ok_and(|client| {
                let mut stream = client;
                std::io::Write::write_all(&mut stream, b"served\n").is_ok() && client.line().is_ok()
            })
        });
        let count = echoes.count();
        assert!(if served == 5 { count == 5 } else { count < 5 }, "{rate}: {count} of 5");
    }
}

#[test]
fn limits_enforces_or_only_counts() {
    let server = echo();
    for mode in ["enforce", "count"] {
        let file = ConfigFile::over([server.at()]).listener("deny = [\"127.0.0.0/8\"]");
        let tcplb = file.listener(&format!("limits = \"{mode}\"")).start();
        if mode == "count" {
            assert_served(&tcplb.connect());
        } else {
            assert_next_is_reset(&tcplb);
        }
    }
}

#[test]
fn every_address_of_bind_is_served() {
    let server = echo();
    let (first, second) = (fresh_loopback(), fresh_loopback());
    let file = ConfigFile::over([server.at()]).listener(&format!("bind = [\"{first}:0\", \"{second}:0\"]"));
    let tcplb = Tcplb::from_file(&file.write()).start();
    tcplb.listening().iter().for_each(|at| assert_served(&Conn::to(at)));
    let ips: BTreeSet<String> = tcplb.listening().iter().map(|at| at.to_string()).collect();
    assert_eq!(ips.len(), 2, "{ips:?}");
}

/// A listener at a socket file with this line: its mode, owner and group.
fn socket_file(line: &str) -> (u32, u32, u32) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("web.sock");
    let server = echo();
    let bind = format!("bind = [\"unix:{}\"]\n{line}", path.display());
    let tcplb = ConfigFile::over([server.at()]).listener(&bind).start();
    assert_served(&tcplb.connect());
    let found = fs::metadata(&path).unwrap();
    (found.mode() & 0o777, found.uid(), found.gid())
}

#[test]
fn mode_decides_which_users_may_connect_to_a_socket_file() {
    for mode in ["0600", "0666", "0770"] {
        let (found, ..) = socket_file(&format!("mode = \"{mode}\""));
        assert_eq!(format!("{found:04o}"), mode);
    }
}

#[test]
fn owner_and_group_of_a_socket_file_go_by_name_or_number() {
    if !need_root() {
        return;
    }
    for (owner, uid) in [("daemon", account("daemon").unwrap().0), ("4321", 4321)] {
        assert_eq!(socket_file(&format!("owner = \"{owner}\"")).1, uid);
    }
    for (group, gid) in [("daemon", account("daemon").unwrap().1), ("4321", 4321)] {
        let line = format!("group = \"{group}\"\nmode = \"0660\"");
        assert_eq!(socket_file(&line), (0o660, 0, gid));
    }
    let server = echo();
    let file = ConfigFile::over([server.at()]).listener("bind = [\"unix:/nowhere/a\"]\nowner = \"no-such-user\"");
    let (status, said) = Tcplb::from_file(&file.write()).start_in_vain();
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("owner: there is no user called `no-such-user`"), "{said}");
}

#[test]
fn a_reload_changes_the_mode_of_a_socket_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("web.sock");
    let server = echo();
    let file = directory.path().join("tcplb.toml");
    let write = |mode: &str| {
        let listener = format!("[[listener]]\nbind = [\"unix:{}\"]\n{mode}\n", path.display());
        let pool =
            format!("[[pool]]\n[pool.health]\nkind = \"off\"\n[[pool.backend]]\naddress = \"{}\"\n", server.at());
        fs::write(&file, listener + &pool).unwrap();
    };
    write("mode = \"0600\"");
    let tcplb = Tcplb::from_file(&file).start();
    write("mode = \"0666\"");
    tcplb.signal(Signal::HUP);
    tcplb.wait_for_line("mode 0600 → 0666");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o666);
    write("");
    tcplb.signal(Signal::HUP);
    tcplb.wait_for_line("reload refused: listener default: mode can't be taken out while it runs");
    assert_served(&tcplb.connect());
}

#[test]
fn a_file_that_another_process_puts_in_place_of_a_socket_file_stays_as_it_is() {
    let place = tempfile::tempdir().unwrap();
    let (path, file, server) = (place.path().join("web.sock"), place.path().join("tcplb.toml"), echo());
    let mode = || fs::symlink_metadata(&path).unwrap().mode() & 0o777;
    let text = |mode: &str| {
        let listener = format!("bind = [\"unix:{}\"]\nmode = \"{mode}\"", path.display());
        fs::read_to_string(ConfigFile::over([server.at()]).listener(&listener).write()).unwrap()
    };
    let socket = || drop(UnixListener::bind(&path).unwrap());
    let plain = || fs::write(&path, "not a socket").unwrap();
    let link = || std::os::unix::fs::symlink(&file, &path).unwrap();
    for put in [&socket as &dyn Fn(), &plain, &link] {
        fs::write(&file, text("0600")).unwrap();
        let tcplb = Tcplb::from_file(&file).start();
        fs::remove_file(&path).unwrap();
        put();
        let (before, target) = (mode(), fs::metadata(&file).unwrap().mode());
        fs::write(&file, text("0606")).unwrap();
        tcplb.signal(Signal::HUP);
        tcplb.wait_for_line("web.sock: another file has taken its place");
        tcplb.signal(Signal::TERM);
        tcplb.wait_for_line("web.sock in place: it is not the file that tcplb made");
        tcplb.wait_for_line("stopped: ");
        assert_eq!((mode(), fs::metadata(&file).unwrap().mode()), (before, target));
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_reload_that_lacks_the_right_to_change_a_socket_file_says_that_a_restart_applies_it() {
    if !need_root() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let (path, file) = (place.path().join("web.sock"), place.path().join("tcplb.toml"));
    let write = |mode: &str| {
        let listener = format!("bind = [\"unix:{}\"]\nmode = \"{mode}\"\nowner = \"daemon\"", path.display());
        let text = format!(
            "[global]\nuser = \"nobody\"\n[[listener]]\n{listener}\n[[pool]]\n[[pool.backend]]\naddress = \"127.0.0.1:1\"\n"
        );
        fs::write(&file, text).unwrap();
    };
    write("0600");
    let tcplb = Tcplb::from_file(&file).start();
    write("0666");
    tcplb.signal(Signal::HUP);
    let line = tcplb.wait_for_line("reload refused: listener default: can't change ");
    assert!(
        line.ends_with("(tcplb has no right to change it any more: a restart as root applies the setting)"),
        "{line}"
    );
}

#[test]
fn a_reload_that_fails_at_one_socket_file_changes_the_mode_of_none() {
    let directory = tempfile::tempdir().unwrap();
    let paths = ["a.sock", "b.sock"].map(|name| directory.path().join(name));
    let file = directory.path().join("tcplb.toml");
    let write = |mode: &str| {
        let listener = |path: &PathBuf| {
            let (name, path) = (path.file_stem().unwrap().display(), path.display());
            format!("[[listener]]\nname = \"{name}\"\nbind = [\"unix:{path}\"]\nmode = \"{mode}\"\n")
        };
        let pool = "[[pool]]\n[pool.health]\nkind = \"off\"\n[[pool.backend]]\naddress = \"127.0.0.1:1\"\n";
        fs::write(&file, paths.iter().map(listener).collect::<String>() + pool).unwrap();
    };
    let mode = || fs::metadata(&paths[0]).unwrap().mode() & 0o777;
    write("0600");
    let tcplb = Tcplb::from_file(&file).start();
    fs::remove_file(&paths[1]).unwrap();
    write("0666");
    tcplb.signal(Signal::HUP);
    tcplb.wait_for_line(&format!("reload refused: listener b: can't change {}", paths[1].display()));
    assert_eq!(mode(), 0o600);
}
