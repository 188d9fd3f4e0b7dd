//! An OpenSSH client and its server, behind a port that also serves TLS by name and HTTP. The route for SSH leads to the server, and
//! so does `silent_pool` for a client that waits for the server.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use testkit::foreign::{Foreign, nginx};
use testkit::{Admin, ConfigFile, Process, Started, free_address, need, run, wait_until_it_listens};

/// What the client calls the server, whatever the address.
const HOST: &str = "shell.test";

/// An OpenSSH server with keys of its own.
struct Sshd {
    at: SocketAddr,
    client: PathBuf,
    user: String,
    folder: TempDir,
    _process: Process,
}

impl Sshd {
    /// `None` where a tool is missing.
    fn start() -> Option<Sshd> {
        let (server, client, keygen) = (need("sshd")?, need("ssh")?, need("ssh-keygen")?);
        let (folder, at) = (tempfile::tempdir().unwrap(), free_address());
        let file = |name: &str| folder.path().join(name);
        for name in ["host", "user"] {
            run(Command::new(&keygen).args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file(name)));
        }
        fs::copy(file("user.pub"), file("authorized_keys")).unwrap();
        let key = fs::read_to_string(file("host.pub")).unwrap();
        fs::write(file("known_hosts"), format!("{HOST} {key}")).unwrap();
        let config = format!(
            "ListenAddress {at}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\nStrictModes no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n",
            file("host").display(),
            file("authorized_keys").display()
        );
        fs::write(file("sshd_config"), config).unwrap();
        if rustix::process::geteuid().is_root() {
            // A start of the system makes it. A process without connections changes its root directory to it.
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let user = run(Command::new("id").arg("-un")).trim().to_owned();
        let process = Process::spawn(Command::new(server).args(["-D", "-e", "-f"]).arg(file("sshd_config")));
        wait_until_it_listens(at);
        Some(Sshd { at, client, user, folder, _process: process })
    }

    /// Logs in at this address, gives `cat` there these bytes, and returns what comes back.
    fn through(&self, at: SocketAddr, bytes: &[u8]) -> Vec<u8> {
        let known = format!("UserKnownHostsFile={}", self.folder.path().join("known_hosts").display());
        let mut command = Command::new(&self.client);
        command.args([
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "StrictHostKeyChecking=yes",
        ]);
        command.args(["-o", &known, "-o", &format!("HostKeyAlias={HOST}"), "-o", "ConnectTimeout=60", "-i"]);
        command.arg(self.folder.path().join("user")).args(["-p", &at.port().to_string()]);
        command.args([&format!("{}@{}", self.user, at.ip()), "cat"]);
        let mut ssh = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut input = ssh.stdin.take().unwrap();
        let output = thread::scope(|scope| {
            // A refused login closes it early, and the exit code reports that.
            scope.spawn(move || drop(input.write_all(bytes)));
            ssh.wait_with_output().unwrap()
        });
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
}

/// nginx with TLS at one address, and clear text at the other one.
fn web(openssl: &Path, folder: &Path, tls: SocketAddr, clear: SocketAddr) -> Option<Foreign> {
    let (certificate, key) = (folder.join("server.pem"), folder.join("server.key"));
    let mut command = Command::new(openssl);
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
    run(command.args(["-subj", "/CN=test", "-out"]).arg(&certificate).arg("-keyout").arg(&key));
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path tmp;"));
    let config = format!(
        "http {{ access_log off; {} server {{ listen {tls} ssl; ssl_certificate {}; ssl_certificate_key {}; \
         location / {{ return 200 tls; }} }} server {{ listen {clear}; location / {{ return 200 clear; }} }} }}",
        temporary.concat(),
        certificate.display(),
        key.display()
    );
    nginx(&[], &config, &[tls, clear])
}

/// One port for nginx and for the server of SSH, and what runs behind it.
struct OnePort {
    tcplb: Started,
    sshd: Sshd,
    curl: PathBuf,
    _web: Foreign,
    _folder: TempDir,
}

impl OnePort {
    /// `listener` are further lines of the listener, and the rest of its routes. `None` where a tool is missing.
    fn start(listener: &str) -> Option<OnePort> {
        let (curl, openssl, folder) = (need("curl")?, need("openssl")?, tempfile::tempdir().unwrap());
        let sshd = Sshd::start()?;
        let (tls, clear) = (free_address(), free_address());
        let web = web(&openssl, folder.path(), tls, clear)?;
        let pool = |name: &str, at: SocketAddr| {
            format!("[[pool]]\nname = \"{name}\"\nhealth.kind = \"off\"\n[[pool.backend]]\naddress = \"{at}\"\n")
        };
        let text = [
            "[global]\nadmin = \"127.0.0.1:0\"\n[[listener]]\nbind = [\"127.0.0.1:0\"]\npool = \"rest\"\n",
            listener,
            "[[listener.route]]\nname = \"www\"\nsni = [\"www.example.com\"]\npool = \"tls\"\n",
            "[[listener.route]]\nname = \"web\"\nprotocol = \"http\"\npool = \"clear\"\n",
            "[[pool]]\nname = \"rest\"\n",
            &pool("tls", tls),
            &pool("clear", clear),
            &pool("shell", sshd.at),
        ];
        Some(OnePort { tcplb: ConfigFile::of(text.concat()).start(), sshd, curl, _web: web, _folder: folder })
    }

    fn at(&self) -> SocketAddr {
        self.tcplb.at().tcp()
    }

    /// What curl gets at this URL, which ends with a colon for the port.
    fn get(&self, url: &str) -> String {
        let port = self.at().port();
        let resolve = format!("www.example.com:{port}:127.0.0.1");
        let mut command = Command::new(&self.curl);
        run(command.args(["-sk", "--max-time", "60", "--resolve", &resolve, &format!("{url}{port}/")]))
    }

    fn assert_serves_the_web(&self) {
        assert_eq!(self.get("https://www.example.com:").trim(), "tls");
        assert_eq!(self.get("http://www.example.com:").trim(), "clear");
    }

    /// How many clients have taken a route.
    fn took(&self, route: &str) -> u64 {
        Admin::of(&self.tcplb).metric("tcplb_route_connections_total", &[&format!("route=\"{route}\"")])
    }
}

fn megabyte() -> Vec<u8> {
    (0..1 << 20).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn an_openssh_client_logs_in_by_the_route_for_ssh() {
    // A client that waits for the time of first bytes is never served.
    let shell = "sniff_timeout = \"1h\"\n[[listener.route]]\nname = \"shell\"\nprotocol = \"ssh\"\npool = \"shell\"\n";
    let Some(one) = OnePort::start(shell) else { return };
    one.assert_serves_the_web();
    let sent = megabyte();
    assert!(one.sshd.through(one.at(), &sent) == sent, "all bytes both ways");
    assert_eq!(["www", "web", "shell", "none"].map(|route| one.took(route)), [1, 1, 1, 0]);
}

/// A port that leads one client on, and holds its bytes back until the server has spoken.
fn waits_for_the_server(to: SocketAddr) -> (SocketAddr, thread::JoinHandle<io::Result<Duration>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let relay = thread::spawn(move || {
        let (client, _) = listener.accept()?;
        let (begun, server) = (Instant::now(), TcpStream::connect(to)?);
        let mut first = [0; 256];
        let length = (&server).read(&mut first)?;
        let waited = begun.elapsed();
        assert!(first.starts_with(b"SSH-2.0-OpenSSH"), "{:?}", String::from_utf8_lossy(&first[..length]));
        (&client).write_all(&first[..length])?;
        thread::scope(|scope| {
            scope.spawn(|| drop(io::copy(&mut &client, &mut &server).and_then(|_| server.shutdown(Shutdown::Write))));
            io::copy(&mut &server, &mut &client)?;
            client.shutdown(Shutdown::Write)
        })?;
        Ok(waited)
    });
    (at, relay)
}

#[test]
fn a_client_that_waits_for_the_server_of_ssh_reaches_it_as_a_silent_one() {
    let Some(one) = OnePort::start("sniff_timeout = \"300ms\"\nsilent_pool = \"shell\"\n") else { return };
    let (at, relay) = waits_for_the_server(one.at());
    let sent = megabyte();
    assert!(one.sshd.through(at, &sent) == sent, "all bytes both ways");
    let waited = relay.join().unwrap().unwrap();
    assert!(waited >= Duration::from_millis(300), "{waited:?}");
    one.assert_serves_the_web();
    assert_eq!(["silent", "www", "web", "none"].map(|route| one.took(route)), [1, 1, 1, 0]);
}
