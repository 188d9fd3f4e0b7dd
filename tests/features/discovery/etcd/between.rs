//! A relay before an etcd that sees each request before etcd does.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

/// Starts a relay; `hook` runs with the first bytes of each connection, before they are passed on.
pub fn relay(to: SocketAddr, hook: impl Fn(&str) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let hook = std::sync::Arc::new(hook);
    thread::spawn(move || {
        for client in listener.incoming() {
            let hook = hook.clone();
            thread::spawn(move || pass(client?, to, &*hook));
        }
    });
    url
}

fn pass(mut client: TcpStream, to: SocketAddr, hook: &dyn Fn(&str)) -> io::Result<()> {
    let mut first = vec![0; 16 * 1024];
    let count = client.read(&mut first)?;
    hook(&String::from_utf8_lossy(&first[..count]));
    let mut server = TcpStream::connect(to)?;
    server.write_all(&first[..count])?;
    let (mut from_server, mut to_client) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Both);
    });
    let _ = io::copy(&mut client, &mut server);
    let _ = server.shutdown(Shutdown::Both);
    Ok(())
}
