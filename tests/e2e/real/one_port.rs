//! One port for other people's clients and servers: curl, openssl, redis-cli and ssh, each led to its own server.
//!
//! The time for first bytes is an hour in these tests: a client that waited for it would never be served.

use crossbeam_channel::{Receiver, unbounded};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;
use testkit::foreign::{Foreign, nginx};
use testkit::{
    Admin, At, ConfigFile, PATIENCE, Process, Server, Started, free_address, need, run, wait_until_it_listens,
};

/// Servers and a tcplb with one port for all of them.
struct OnePort {
    tcplb: Started,
    /// The first lines that the server behind the route for SSH has heard.
    shells: Receiver<String>,
    _servers: (Foreign, Process, Process, Server),
    _folder: TempDir,
}

/// A self-signed certificate, and its key.
fn certificate(openssl: &Path, folder: &Path) -> (PathBuf, PathBuf) {
    let (certificate, key) = (folder.join("server.pem"), folder.join("server.key"));
    let mut command = Command::new(openssl);
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
    run(command.args(["-subj", "/CN=test", "-out"]).arg(&certificate).arg("-keyout").arg(&key));
    (certificate, key)
}

/// nginx with TLS at these addresses, whose answers are names.
fn web(servers: [(&str, SocketAddr); 3], certificate: &Path, key: &Path) -> Option<Foreign> {
    let of = |(name, at): (&str, SocketAddr)| {
        format!(
            "server {{ listen {at} ssl; ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {}; ssl_certificate_key {}; \
             location / {{ return 200 {name}; }} }}",
            certificate.display(),
            key.display()
        )
    };
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path tmp;"));
    let config = format!("http {{ access_log off; {} {} }}", temporary.concat(), servers.map(of).concat());
    nginx(&[], &config, &servers.map(|(_, at)| at))
}

impl OnePort {
    /// `None` where a tool is missing.
    fn start() -> Option<OnePort> {
        let (openssl, redis) = (need("openssl")?, need("redis-server")?);
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = certificate(&openssl, folder.path());
        let [www, api, own, cache, database] = [(); 5].map(|()| free_address());
        let nginx = web([("www", www), ("api", api), ("own", own)], &certificate, &key)?;
        let mut command = Command::new(redis);
        command.current_dir(folder.path()).args(["--bind", &cache.ip().to_string(), "--port", "0", "--save", ""]);
        command.args(["--tls-port", &cache.port().to_string(), "--tls-auth-clients", "no", "--tls-cert-file"]);
        command.arg(&certificate).arg("--tls-key-file").arg(&key).arg("--tls-ca-cert-file").arg(&certificate);
        let redis = Process::spawn(&mut command);
        // It sends each line back in reverse.
        let mut command = Command::new(openssl);
        command.args(["s_server", "-quiet", "-rev", "-alpn", "postgresql", "-accept", &database.to_string()]);
        let database_server = Process::spawn(command.arg("-cert").arg(&certificate).arg("-key").arg(&key));
        [cache, database].into_iter().for_each(wait_until_it_listens);
        let (report, shells) = unbounded();
        let shell = Server::start(move |conn| {
            report.send(conn.line()?).map_err(io::Error::other)?;
            (&conn).write_all(b"SSH-1.0-none\r\n")?;
            conn.finish();
            conn.try_ending().map(drop)
        });
        let route = |conditions: &str, pool: &str| format!("[[listener.route]]\n{conditions}\npool = \"{pool}\"\n");
        let pool = |name: &str, at: &At| {
            let probes = "[pool.health]\nkind = \"off\"";
            format!("[[pool]]\nname = \"{name}\"\n{probes}\n[[pool.backend]]\naddress = \"{at}\"\n")
        };
        let text = [
            "[global]\nadmin = \"127.0.0.1:0\"\n[[listener]]\nbind = [\"127.0.0.1:0\"]\npool = \"own\"\nsniff_timeout = \"1h\"\n"
                .to_owned(),
            route("sni = [\"www.example.com\"]", "www"),
            route("sni = [\"*.example.com\"]", "api"),
            route("sni = [\"cache.example.net\"]", "cache"),
            route("alpn = [\"postgresql\"]", "database"),
            route("protocol = \"ssh\"", "shell"),
            pool("www", &At::Tcp(www)),
            pool("api", &At::Tcp(api)),
            pool("own", &At::Tcp(own)),
            pool("cache", &At::Tcp(cache)),
            pool("database", &At::Tcp(database)),
            pool("shell", shell.at()),
        ];
        let tcplb = ConfigFile::of(text.concat()).start();
        Some(OnePort { tcplb, shells, _servers: (nginx, redis, database_server, shell), _folder: folder })
    }

    fn port(&self) -> String {
        self.tcplb.at().port().to_string()
    }

    /// How many clients have taken a route.
    fn took(&self, route: &str) -> u64 {
        Admin::of(&self.tcplb).metric("tcplb_route_connections_total", &[&format!("route=\"{route}\"")])
    }
}

/// What a program answers to this input, whatever its exit code.
fn answer(command: &mut Command, input: &str) -> String {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = piped.spawn().unwrap();
    child.stdin.as_ref().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    println!("{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn curl_and_openssl_reach_nginx_by_name_whatever_the_version_of_tls() {
    let (Some(curl), Some(openssl)) = (need("curl"), need("openssl")) else { return };
    let Some(one) = OnePort::start() else { return };
    let port = one.port();
    for version in ["1.2", "1.3"] {
        for (name, server) in [
            ("www.example.com", "www"),
            ("WWW.Example.COM", "www"),
            ("a.b.example.com", "api"),
            ("example.com", "own"),
            ("127.0.0.1", "own"),
        ] {
            let resolve = format!("{name}:{port}:127.0.0.1");
            let url = format!("https://{name}:{port}/");
            let mut command = Command::new(&curl);
            command.args(["-sk", "--max-time", "60", "--tls-max", version, "--resolve", &resolve]);
            let tls = format!("--tlsv{version}");
            assert_eq!(answer(command.args([&tls, &url]), ""), server, "curl {version} {name}");
            let mut command = Command::new(&openssl);
            let version = format!("-tls{}", version.replace('.', "_"));
            command.args(["s_client", "-quiet", &version, "-connect", &format!("127.0.0.1:{port}")]);
            match name {
                "127.0.0.1" => command.arg("-noservername"),
                name => command.args(["-servername", name]),
            };
            let said = answer(&mut command, "GET / HTTP/1.0\r\n\r\n");
            assert!(said.ends_with(&format!("\r\n\r\n{server}")), "openssl {version} {name}: {said}");
        }
    }
    assert_eq!(["1", "2", "none"].map(|route| one.took(route)), [8, 4, 8]);
}

#[test]
fn redis_with_tls_direct_tls_of_postgres_and_ssh_share_the_port() {
    let (Some(cli), Some(openssl), Some(ssh)) = (need("redis-cli"), need("openssl"), need("ssh")) else { return };
    let Some(one) = OnePort::start() else { return };
    let port = one.port();
    let mut command = Command::new(cli);
    command.args(["--tls", "--insecure", "--sni", "cache.example.net", "-h", "127.0.0.1", "-p", &port]);
    assert_eq!(answer(command.args(["SET", "key", "value"]), ""), "OK\n");
    let mut command = Command::new(openssl);
    command.args(["s_client", "-quiet", "-alpn", "postgresql", "-servername", "db.example.org"]);
    // The second line ends the connection.
    let said = answer(command.args(["-connect", &format!("127.0.0.1:{port}")]), "startup\nCLOSE\n");
    assert_eq!(said, "putrats\n");
    let mut command = Command::new(ssh);
    command.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-p", &port, "a@127.0.0.1"]);
    answer(&mut command, "");
    let heard = one.shells.recv_timeout(PATIENCE).unwrap();
    assert!(heard.starts_with("SSH-2.0-OpenSSH"), "{heard}");
    assert_eq!(["3", "4", "5"].map(|route| one.took(route)), [1, 1, 1]);
}
