//! A scripted HTTP server, for fakes of registries. One call per connection.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use testkit::{Conn, Server};

/// A call.
pub struct Call {
    pub path: String,
    pub query: BTreeMap<String, String>,
    pub headers: BTreeMap<String, String>,
}

/// Serves calls on a fresh address until it is dropped.
pub fn serve(answer: impl Fn(&Call, &Conn) -> io::Result<()> + Send + Sync + 'static) -> Server {
    Server::start(move |conn| {
        let line = conn.line()?;
        let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let pair = |text: &str| {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            (key.to_owned(), value.to_owned())
        };
        let query = query.split('&').map(pair).collect();
        let mut headers = BTreeMap::new();
        loop {
            let line = conn.line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        // A body that is left unread would reset the connection.
        let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        io::copy(&mut (&conn).take(length), &mut io::sink())?;
        answer(&Call { path: path.to_owned(), query, headers }, &conn)
    })
}

/// Sends a whole answer.
pub fn respond(mut conn: &Conn, status: &str, headers: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let text = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}");
    conn.write_all(text.as_bytes())
}
