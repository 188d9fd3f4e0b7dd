//! wrk against nginx.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;
use testkit::{At, Process, Running, Tcplb, free_address, heavy, need, wait_until_it_listens};
use testkit::{QUICK_PROBES, run};

/// One nginx that answers every request with its name.
struct Nginx {
    program: PathBuf,
    at: SocketAddr,
    folder: TempDir,
    process: Option<Process>,
}

impl Nginx {
    fn start(program: PathBuf, name: &str) -> Nginx {
        let (at, folder) = (free_address(), tempfile::tempdir().unwrap());
        // One process, so that killing it kills all of nginx; everything that it writes goes to its own folder.
        let config = format!(
            "daemon off; master_process off; pid nginx.pid; error_log stderr;
            events {{ worker_connections 1000; }}
            http {{
                access_log off; keepalive_requests 1000000;
                client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
                server {{ listen {at} backlog=1000; location / {{ return 200 {name}; }} }}
            }}"
        );
        fs::write(folder.path().join("nginx.conf"), config).unwrap();
        let mut nginx = Nginx { program, at, folder, process: None };
        nginx.start_again();
        nginx
    }

    fn start_again(&mut self) {
        let prefix = self.folder.path();
        let mut command = Command::new(&self.program);
        command.arg("-p").arg(prefix).arg("-c").arg(prefix.join("nginx.conf")).args(["-e", "stderr"]);
        self.process = Some(Process::spawn(&mut command));
        wait_until_it_listens(self.at);
    }

    fn kill(&mut self) {
        self.process = None;
    }
}

fn wrk(program: &PathBuf, tcplb: &Running, options: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(options).arg(format!("http://{}/", tcplb.at()));
    command
}

#[test]
fn wrk_meets_no_error() {
    let (Some(program), Some(nginx)) = (need("wrk"), need("nginx")) else { return };
    let _alone = heavy();
    let nginx = Nginx::start(nginx, "web1");
    let tcplb = Tcplb::new().backend(&At::Tcp(nginx.at)).start();
    for options in [&["-t1", "-c64", "-d2s"][..], &["-t1", "-c32", "-d2s", "-H", "Connection: close"]] {
        let said = run(&mut wrk(&program, &tcplb, options));
        assert!(said.contains("Requests/sec") && !said.contains(" 0 requests"), "{said}");
        assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
    }
}

#[test]
fn one_of_three_nginx_is_killed_and_comes_back_under_wrk() {
    let (Some(program), Some(nginx)) = (need("wrk"), need("nginx")) else { return };
    let _alone = heavy();
    let mut servers = ["web1", "web2", "web3"].map(|name| Nginx::start(nginx.clone(), name));
    let tcplb = servers
        .iter()
        .zip(["name=web1", "name=web2", "name=web3"])
        .fold(Tcplb::new(), |tcplb, (server, name)| tcplb.backend_with(&At::Tcp(server.at), name))
        .args(QUICK_PROBES)
        .start();
    let mut load = Process::spawn(&mut wrk(&program, &tcplb, &["-t1", "-c30", "-d6s", "-H", "Connection: close"]));
    let ask = || {
        let client = tcplb.connect();
        client.say("GET / HTTP/1.0\r\n\r\n");
        String::from_utf8(client.hear_all()).unwrap()
    };
    testkit::eventually("web2 serves", || ask().ends_with("web2"));
    servers[1].kill();
    tcplb.wait_for_line("web2 is down");
    servers[1].start_again();
    tcplb.wait_for_line("web2 is up");
    testkit::eventually("web2 serves again", || ask().ends_with("web2"));

    assert!(load.wait_exit().success());
    let said = load.output();
    println!("{said}");
    assert!(said.contains("Requests/sec") && !said.contains("Non-2xx"), "{said}");
    // Connections that were open to it when it was killed break, and are at most all of wrk's; none after that fails.
    if let Some(errors) = said.lines().find(|line| line.contains("Socket errors")) {
        let numbers: Vec<u32> = errors.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
        let [connect, read, write, timeout] = numbers[..] else { panic!("{errors}") };
        assert!(connect == 0 && timeout == 0 && read + write <= 30, "{errors}");
    }
}
