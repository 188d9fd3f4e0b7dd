//! Certificates, and HTTPS before a server that speaks HTTP.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use testkit::{Server, fresh_loopback, need};

/// An authority, and what it signed: `server` for this IP address, `client`; also an authority that signed nothing.
pub struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    /// Makes them, with openssl.
    pub fn make(openssl: &Path, ip: &str) -> Certificates {
        let made = Certificates { folder: tempfile::tempdir().unwrap() };
        let config = "[req]\ndistinguished_name=dn\n[dn]\n[ca]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n";
        let of_peer = format!("[peer]\nbasicConstraints=CA:FALSE\nsubjectAltName=IP:{ip}\n");
        std::fs::write(made.path("config"), format!("{config}{of_peer}")).unwrap();
        for name in ["ca", "other", "server", "client"] {
            let mut command = Command::new(openssl);
            command.args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
            ]);
            command.args(["-subj", &format!("/CN={name}"), "-config", "config"]);
            command.args(["-out", &format!("{name}.pem"), "-keyout", &format!("{name}.key")]);
            match name {
                "server" | "client" => command.args(["-extensions", "peer", "-CA", "ca.pem", "-CAkey", "ca.key"]),
                _ => command.args(["-extensions", "ca"]),
            };
            testkit::run(command.current_dir(made.folder.path()));
        }
        made
    }

    /// A file of them, like `ca.pem`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A server that speaks HTTPS for a server of `fake::serve`, with a certificate for its address. `None`: openssl is missing.
pub fn before(to: SocketAddr) -> Option<(Server, Certificates)> {
    let (openssl, ip) = (need("openssl")?, fresh_loopback());
    let made = Certificates::make(&openssl, &ip.to_string());
    let chain = CertificateDer::pem_file_iter(made.path("server.pem")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(made.path("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap());
    let server = Server::start_on(ip, move |conn| {
        let secure = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
        pass(StreamOwned::new(secure, &conn), to)
    });
    Some((server, made))
}

/// Passes one call on. It has no body.
fn pass(mut client: impl Read + Write, to: SocketAddr) -> io::Result<()> {
    let (mut call, mut byte) = (Vec::new(), [0]);
    while !call.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        call.extend(byte);
    }
    let mut server = TcpStream::connect(to)?;
    server.write_all(&call)?;
    io::copy(&mut server, &mut client)?;
    client.flush()
}
