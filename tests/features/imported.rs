//! What `tcplb import` makes of a configuration, beside the balancer that the configuration is for. Both lead the same 200 clients to
//! the same servers, or refuse them. Both announce the clients in the same way.

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use testkit::foreign::{Foreign, haproxy, nginx};
use testkit::{At, ConfigFile, Conn, Server, Started, free_address, fresh_loopback, need, peers, tally};

const CLIENTS: usize = 200;

/// `@front` is where clients connect, and `@NAME` is the server of this name.
const HAPROXY: &str = r"
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s

frontend front
    bind @front
    tcp-request inspect-delay 60s
    acl is_tls req.ssl_hello_type 1
    acl is_ssh payload(0,7) -m bin 5353482d322e30
    tcp-request content reject if { req.ssl_sni -i bad.example.com }
    tcp-request content accept if is_tls or is_ssh
    tcp-request content accept if HTTP
    tcp-request content reject
    use_backend bank if { req.ssl_sni -i bank.example.com db.example.com }
    use_backend api if { req.ssl_sni -i -m end .api.example.com } or { req.ssl_sni -i api.example.com }
    use_backend org if { req.ssl_sni -i -m reg ^(.*\.)?example\.org$ }
    use_backend shell if is_ssh !is_tls
    default_backend rest

backend bank
    server bank @bank send-proxy
backend api
    server api @api send-proxy-v2
backend org
    server org @org
backend shell
    server shell @shell
backend rest
    server rest @rest
";

/// The same for nginx.
const NGINX: &str = r#"
stream {
    map $ssl_preread_server_name $by_name {
        hostnames;
        bank.example.com        bank;
        db.example.com          bank;
        .api.example.com        api;
        *.example.net           org;
        ~*^(.*\.)?example\.org$ org;
        bad.example.com         "";
        default                 rest;
    }
    map $ssl_preread_protocol $target {
        ""      shell;
        default $by_name;
    }
    upstream bank { server @bank; }
    upstream api { server @api; }
    upstream org { server @org; }
    upstream shell { server @shell; }
    upstream rest { server @rest; }
    server {
        listen @front;
        ssl_preread on;
        preread_timeout 60s;
        proxy_protocol on;
        proxy_pass $target;
    }
}
"#;

const SERVERS: [&str; 5] = ["bank", "api", "org", "shell", "rest"];

const REFUSED: &str = "refused";

/// Answers with its name, and with the PROXY header that it gets.
fn server(name: &'static str) -> Server {
    Server::start(move |conn| {
        let mut first = [0; 5];
        (&conn).read_exact(&mut first)?;
        let header = match &first {
            b"PROXY" => "v1",
            b"\r\n\r\n\0" => "v2",
            _ => "none",
        };
        (&conn).write_all(format!("{name}, header {header}\n").as_bytes())?;
        conn.try_ending().map(drop)
    })
}

/// The hello of a client of rustls. Without a name it asks for an address.
fn hello(name: &str) -> Vec<u8> {
    let name = if name.is_empty() { "192.0.2.1" } else { name };
    let config = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into());
    let config = config.with_protocol_versions(rustls::ALL_VERSIONS).unwrap();
    let config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let mut bytes = Vec::new();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut bytes).unwrap();
    bytes
}

/// What a client sends, in segments.
struct Client {
    shown: String,
    says: Vec<Vec<u8>>,
}

/// The same clients in each run: names that the rules mention, their neighbours, and other protocols.
fn clients() -> Vec<Client> {
    const FRONTS: [&str; 5] = ["", "", "www.", "a.b.", "x"];
    const DOMAINS: [&str; 9] = [
        "bank.example.com",
        "db.example.com",
        "bad.example.com",
        "api.example.com",
        "example.com",
        "example.net",
        "example.org",
        "elsewhere.test",
        "",
    ];
    let mut random = fastrand::Rng::with_seed(15);
    let mut client = || {
        let plain = |shown: &str, bytes: &[u8]| Client { shown: shown.to_owned(), says: vec![bytes.to_vec()] };
        match random.u8(..12) {
            0 => plain("ssh", b"SSH-2.0-OpenSSH_9.2\r\n"),
            1 => plain("http", b"GET / HTTP/1.1\r\nHost: bank.example.com\r\n\r\n"),
            2 => plain("other", b"*1\r\n$4\r\nPING\r\nand more\r\n"),
            3 => plain("openssl for DB.Example.COM", include_bytes!("../data/sniff/openssl_upper_case.bin")),
            4 => plain("curl for an address", include_bytes!("../data/sniff/curl_address.bin")),
            _ => {
                let domain = DOMAINS[random.usize(..DOMAINS.len())];
                let front = if domain.is_empty() { "" } else { FRONTS[random.usize(..FRONTS.len())] };
                let name = format!("{front}{domain}");
                let hello = hello(&name);
                let (begin, end) = hello.split_at(random.usize(..hello.len()));
                let says = [begin, end].into_iter().filter(|bytes| !bytes.is_empty()).map(<[u8]>::to_vec).collect();
                Client { shown: format!("tls for `{name}`"), says }
            }
        }
    };
    (0..CLIENTS).map(|_| client()).collect()
}

/// What the client hears.
fn answer(at: &At, client: &Client) -> String {
    // One that is refused may be reset before it has noticed that it was connected.
    let conn = Conn::attempt(at);
    let said = client.says.iter().try_for_each(|bytes| (&conn).write_all(bytes));
    match said.and_then(|()| conn.line()) {
        Ok(line) => line,
        Err(error) if is_end(&error) => REFUSED.to_owned(),
        Err(error) => panic!("{}: {error}", client.shown),
    }
}

fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// tcplb with what `tcplb import` makes of a text.
fn imported(text: &str) -> Started {
    let file = ConfigFile::empty();
    let other = file.beside("other.conf", text);
    let imported = testkit::tcplb(&["import", other.to_str().unwrap()]).output().unwrap();
    assert_eq!(imported.status.code(), Some(0), "{}", String::from_utf8_lossy(&imported.stderr));
    file.whole(String::from_utf8(imported.stdout).unwrap()).start()
}

/// Starts the original, imports the same text for another address, and compares. `start` is `None` where a program is missing.
fn compare(text: &str, headers: &[&str], start: impl FnOnce(&str, SocketAddr) -> Option<Foreign>) {
    let servers = SERVERS.map(|name| (name, server(name)));
    let at = |front: SocketAddr| {
        let servers = servers.iter().map(|(name, server)| (*name, server.at().to_string()));
        let all = servers.chain([("front", front.to_string())]);
        all.fold(text.to_owned(), |text, (name, at)| text.replace(&format!("@{name}"), &at))
    };
    let front = free_address();
    let Some(_original) = start(&at(front), front) else { return };
    let tcplb = imported(&at(free_address()));
    let mut differ = Vec::new();
    let mut reached = Vec::new();
    for client in clients() {
        let (original, ours) = (answer(&At::Tcp(front), &client), answer(tcplb.at(), &client));
        if original != ours {
            differ.push(format!("{}: {original}; tcplb: {ours}", client.shown));
        }
        reached.push(original);
    }
    assert!(differ.is_empty(), "{} of {CLIENTS} differ:\n{}", differ.len(), differ.join("\n"));
    let reached: BTreeMap<String, usize> = tally(reached);
    println!("{reached:?}");
    let expected = SERVERS.iter().zip(headers).map(|(name, header)| format!("{name}, header {header}"));
    let expected: Vec<String> = expected.chain([REFUSED.to_owned()]).collect();
    assert!(expected.iter().all(|answer| reached.contains_key(answer)), "{reached:?}");
}

#[test]
fn an_imported_haproxy_cfg_leads_each_client_where_haproxy_leads_it() {
    compare(HAPROXY, &["v1", "v2", "none", "none", "none"], |text, front| haproxy(text, &[front]));
}

#[test]
fn an_imported_nginx_conf_leads_each_client_where_nginx_leads_it() {
    let Some(module) = need("ngx_stream_module.so") else { return };
    compare(NGINX, &["v1"; 5], |text, front| nginx(&[&module], text, &[front]));
}

/// `@front` is the address where clients connect, and `@server` that of a server on each of [`SERVED`].
const HAPROXY_PORTS: &str = r"
defaults
    mode tcp
    retries 0
    timeout connect 10s
    timeout client 60s
    timeout server 60s

frontend same
    bind @front:5000-5003,@front:5010-5011
    default_backend same
backend same
    server s @server

listen above
    bind @front:6000-6003
    server s @server:+1000

listen below
    bind @front:6500
    server s @server:-1500
";

const NGINX_PORTS: &str = r"
stream {
    map $server_port $by_port {
        7500 @server:5001;
        default @server:5000;
    }
    server {
        listen @front:5000-5003;
        listen @front:5010-5011;
        proxy_pass @server:$server_port;
    }
    server {
        listen @front:7000-7003;
        proxy_pass @server:$server_port;
    }
    server {
        listen @front:7500;
        proxy_pass $by_port;
    }
}
";

const SERVED: [u16; 8] = [5000, 5001, 5003, 5010, 7000, 7001, 7002, 7003];

/// Compares as [`compare`] does, with clients at these ports.
fn compare_ports(text: &str, ports: &[u16], start: impl FnOnce(&str, SocketAddr) -> Option<Foreign>) {
    let to = fresh_loopback();
    let serve = |port: u16| Server::start_at_address((to, port).into(), peers::named(&port.to_string()));
    let _servers = SERVED.map(serve);
    let at = |front: IpAddr| text.replace("@front", &front.to_string()).replace("@server", &to.to_string());
    let (front, ours) = (fresh_loopback(), fresh_loopback());
    let Some(_original) = start(&at(front), (front, 5_000).into()) else { return };
    let _tcplb = imported(&at(ours));
    let client = Client { shown: "a client".to_owned(), says: Vec::new() };
    let mut reached = Vec::new();
    let mut random = fastrand::Rng::with_seed(15);
    for _ in 0..CLIENTS {
        let port = ports[random.usize(..ports.len())];
        let [original, ours] = [front, ours].map(|ip| answer(&At::Tcp((ip, port).into()), &client));
        assert_eq!(original, ours, "port {port}");
        reached.push(original);
    }
    let reached: BTreeMap<String, usize> = tally(reached);
    println!("{reached:?}");
    assert!(reached.len() > 5 && reached.contains_key(REFUSED), "{reached:?}");
}

#[test]
fn an_imported_haproxy_cfg_leads_each_port_where_haproxy_leads_it() {
    let ports = [5_000, 5_001, 5_002, 5_003, 5_010, 5_011, 6_000, 6_001, 6_002, 6_003, 6_500];
    compare_ports(HAPROXY_PORTS, &ports, |text, front| haproxy(text, &[front]));
}

#[test]
fn an_imported_nginx_conf_leads_each_port_where_nginx_leads_it() {
    let Some(module) = need("ngx_stream_module.so") else { return };
    let ports = [5_000, 5_001, 5_002, 5_003, 5_010, 5_011, 7_000, 7_001, 7_002, 7_003, 7_500];
    compare_ports(NGINX_PORTS, &ports, |text, front| nginx(&[&module], text, &[front]));
}
