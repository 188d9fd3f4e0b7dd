//! Scripts for [`crate::Server`]: what a backend does with one connection. An error ends the script.

use crate::Conn;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// Sends back what comes, and a FIN after the last byte.
pub fn echo(conn: Conn) -> io::Result<()> {
    let mut stream = &conn;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            got => stream.write_all(&buffer[..got])?,
        }
    }
    conn.finish();
    Ok(())
}

/// Says its name on a line, then echoes.
pub fn named(name: &str) -> impl Fn(Conn) -> io::Result<()> + Send + Sync + 'static {
    let line = format!("{name}\n");
    move |conn| {
        (&conn).write_all(line.as_bytes())?;
        echo(conn)
    }
}

/// Says its name on a line and finishes first.
pub fn answers_then_closes(name: &str) -> impl Fn(Conn) -> io::Result<()> + Send + Sync + 'static {
    let line = format!("{name}\n");
    move |conn| {
        (&conn).write_all(line.as_bytes())?;
        conn.finish();
        conn.try_ending().map(drop)
    }
}

/// Resets every connection at once.
pub fn resets(conn: Conn) -> io::Result<()> {
    conn.reset();
    Ok(())
}

/// HTTP/1.1, one request a connection: answers any path with `status` and the name as the body.
pub fn http(name: &str, status: Arc<AtomicU16>) -> impl Fn(Conn) -> io::Result<()> + Send + Sync + 'static {
    let name = name.to_owned();
    move |conn| {
        while !conn.line()?.is_empty() {}
        let (status, length) = (status.load(Ordering::SeqCst), name.len());
        let head = format!("HTTP/1.1 {status} Whatever\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        (&conn).write_all(head.as_bytes())?;
        (&conn).write_all(name.as_bytes())?;
        conn.finish();
        conn.try_ending().map(drop)
    }
}

/// Just enough SMTP (RFC 5321): the server speaks first, and answers a message with its length.
pub fn smtp(conn: Conn) -> io::Result<()> {
    let mut stream = &conn;
    stream.write_all(b"220 mail.test ready\r\n")?;
    loop {
        let line = conn.line()?;
        match line.split(' ').next() {
            Some("HELO") => stream.write_all(b"250 mail.test\r\n")?,
            Some("MAIL" | "RCPT") => stream.write_all(b"250 OK\r\n")?,
            Some("DATA") => {
                stream.write_all(b"354 go ahead\r\n")?;
                let mut length = 0;
                loop {
                    match conn.line()?.as_str() {
                        "." => break,
                        line => length += line.len(),
                    }
                }
                stream.write_all(format!("250 {length} characters taken\r\n").as_bytes())?;
            }
            Some("QUIT") => {
                stream.write_all(b"221 bye\r\n")?;
                conn.finish();
                return conn.try_ending().map(drop);
            }
            _ => stream.write_all(b"500 what?\r\n")?,
        }
    }
}
