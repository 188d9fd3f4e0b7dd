//! A server that sends what a test gives it, and what the client makes of that.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use testkit::need;

/// When a test fails that waits for an answer: a mebibyte is read byte by byte, on a machine that may be busy.
const LONG: Duration = Duration::from_secs(120);

/// Serves one connection, on a thread: reads a request, and hands request and socket over. Returns its URL.
fn serve(answer: impl FnOnce(String, TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let (mut request, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let lower = line.to_ascii_lowercase();
            length = lower.strip_prefix("content-length: ").map_or(length, |text| text.trim().parse().unwrap());
            request.push_str(&line);
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        request.push_str(&String::from_utf8(body).unwrap());
        answer(request, stream);
    });
    url
}

/// A server that sends these bytes and closes.
fn sends(bytes: impl Into<Vec<u8>>) -> String {
    let bytes = bytes.into();
    // A client that has heard enough closes first.
    serve(move |_, mut stream| drop(stream.write_all(&bytes)))
}

/// A server that sends these bytes and says no more until the client leaves.
fn sends_and_stays(bytes: impl Into<Vec<u8>>) -> String {
    let bytes = bytes.into();
    serve(move |_, mut stream| {
        stream.write_all(&bytes).unwrap();
        let _ = stream.read(&mut [0]);
    })
}

fn client() -> Client {
    Client::new(TlsFiles::default()).unwrap().within(LONG)
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

const STREAM: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn a_call_sends_its_headers_and_body_and_returns_status_headers_and_body() {
    let server = serve(|request, mut stream| {
        let body = json!({ "request": request }).to_string();
        let head = format!("HTTP/1.1 201 Created\r\nX-Index: 7\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    });
    let client = client();
    let answer = client.post(&server, "/v3/a", &json!({"a": 1})).header("Authorization", "secret").send().unwrap();
    assert!(answer.is_success());
    assert_eq!((answer.status, answer.header("x-index"), answer.header("x-none")), (201, Some("7"), None));
    let sent = answer.json::<Value>().unwrap()["request"].as_str().unwrap().to_lowercase();
    assert!(sent.starts_with("post /v3/a http/1.1\r\n") && sent.ends_with("\r\n\r\n{\"a\":1}"), "{sent}");
    for line in ["authorization: secret", "content-type: application/json", "user-agent: tcplb/"] {
        assert!(sent.contains(&format!("\r\n{line}")), "{sent}");
    }
}

#[test]
fn a_status_is_no_error_and_a_redirect_is_not_followed() {
    let client = client();
    for (status, headers) in [("500 No", ""), ("307 There", "Location: http://127.0.0.1:1/\r\n"), ("404 None", "")] {
        let server = sends(format!("HTTP/1.1 {status}\r\n{headers}Content-Length: 5\r\n\r\nw\u{1b}hy\n"));
        let answer = client.get(&server, "/").send().unwrap();
        assert!(!answer.is_success());
        assert_eq!(answer.failure(), format!("{server}: HTTP {}: w\\u{{1b}}hy", &status[..3]));
    }
    let server = sends("HTTP/1.1 503 Full\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.get(&server, "/").send().unwrap().failure(), format!("{server}: HTTP 503"));
}

#[test]
fn a_secret_that_the_server_echoes_is_cut_out() {
    let server = serve(|request, mut stream| {
        let head = format!("HTTP/1.1 403 No\r\nContent-Length: {}\r\n\r\n", request.len());
        stream.write_all(format!("{head}{request}").as_bytes()).unwrap();
    });
    let call = client();
    let call = call.get(&server, "/").header("Authorization", "Bearer hunter2").hiding("hunter2".to_owned());
    let text = call.send().unwrap().failure();
    assert!(text.contains("Bearer …") && !text.contains("hunter2"), "{text}");
}

#[test]
fn an_error_names_the_server_and_the_cause() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let quick = client().within(Duration::from_millis(50));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let plain = format!("http://{}", listener.local_addr().unwrap());
    // A server without TLS does not read what it does not understand.
    thread::spawn(move || listener.accept().unwrap().0.write_all(b"HTTP/1.1 400 No\r\n\r\n").unwrap());
    let endless = serve(|_, mut stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        while stream.write_all(&[b' '; 65536]).is_ok() {}
    });
    for (server, why) in [
        (format!("http://{free}"), "connection refused"),
        ("http://name.invalid:80".to_owned(), ""),
        (sends(""), "the connection ended within the answer; does the server want https://?"),
        (sends("220 mail\r\n\r\n"), "the answer is no HTTP: "),
        // As a server of TLS answers what is no TLS: an alert.
        (sends(b"\x15\x03\x01\x00\x02\x02\x46"), "the answer is no HTTP: "),
        (format!("https{}", plain.strip_prefix("http").unwrap()), "received corrupt message"),
        (sends("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"), "the connection ended within the answer"),
        (sends("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhalf"), "the answer is not understood: expected"),
        (endless, "the answer has more than 64 MiB"),
    ] {
        let answer = client().get(&server, "/").send().and_then(Answer::json::<Value>);
        let text = answer.unwrap_err();
        assert!(text.starts_with(&format!("{server}: {why}")) && !text.contains("os error"), "{text}");
    }
    for bytes in ["", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"] {
        let server = sends_and_stays(bytes);
        let answer = quick.get(&server, "/").send().and_then(Answer::bytes);
        assert_eq!(answer.unwrap_err(), format!("{server}: no answer within 50ms"));
    }
}

#[test]
fn a_stream_yields_each_value_as_it_comes_and_its_end() {
    let (say, said) = mpsc::channel::<String>();
    let server = serve(move |_, mut stream| {
        stream.write_all(STREAM.as_bytes()).unwrap();
        said.iter().for_each(|text| stream.write_all(chunk(&text).as_bytes()).unwrap());
        stream.write_all(b"0\r\n\r\n").unwrap();
    });
    let client = client();
    let mut values = client.get(&server, "/").send().unwrap().values::<Value>();
    for number in 0..3 {
        // The next one is sent once this one was read.
        say.send(json!({"n": number}).to_string()).unwrap();
        assert_eq!(values.wait(), Ok(Next::Value(json!({"n": number}))));
    }
    drop(say);
    assert_eq!(values.wait(), Ok(Next::Ended));
}

#[test]
fn a_silent_stream_ends_with_its_time() {
    let server = sends_and_stays(format!("{STREAM}{}", chunk("{\"n\":1}{\"n\":")));
    let client = client().within(Duration::from_millis(300));
    let mut values = client.get(&server, "/").send().unwrap().values::<Value>();
    assert_eq!(values.wait(), Ok(Next::Value(json!({"n": 1}))));
    assert_eq!(values.wait(), Ok(Next::TimeOver));
}

#[test]
fn a_broken_a_wrong_and_an_endless_value_are_errors() {
    for (body, why) in [
        (chunk("{\"n\":"), "the connection ended within the answer"),
        (chunk("{]"), "the answer is not understood"),
        (format!("{}0\r\n\r\n", chunk("{\"n\":")), "the answer is not understood"),
        ("zz\r\n".to_owned(), ""),
        (chunk(&format!("\"{}\"", "a".repeat(VALUE_MAX))), "a value has more than 1 MiB"),
        (chunk(&" ".repeat(VALUE_MAX + 1)), "a value has more than 1 MiB"),
    ] {
        let server = sends(format!("{STREAM}{body}"));
        let client = client();
        let text = client.get(&server, "/").send().unwrap().values::<Value>().wait().unwrap_err();
        assert!(text.starts_with(&format!("{server}: {why}")), "{text}");
    }
}

#[test]
fn a_value_as_large_as_the_bound_is_taken_and_so_is_the_next() {
    let value = format!("\"{}\"", "a".repeat(VALUE_MAX - 2));
    let server = sends(format!("{STREAM}{}{}0\r\n\r\n", chunk(&value), chunk(&value)));
    let client = client();
    let mut values = client.get(&server, "/").send().unwrap().values::<String>();
    for _ in 0..2 {
        assert!(matches!(values.wait(), Ok(Next::Value(text)) if text.len() == VALUE_MAX - 2));
    }
    assert_eq!(values.wait(), Ok(Next::Ended));
}

#[test]
fn the_url_of_a_server_has_a_scheme_a_host_and_a_port() {
    for good in ["http://127.0.0.1:2379", "https://etcd.internal", "http://[::1]:2379", "https://[::1]"] {
        assert_eq!(server(good), Ok(good.to_owned()));
        assert_eq!(server(&format!("{good}/")), Ok(good.to_owned()));
    }
    for (bad, why) in [
        ("127.0.0.1:2379", "it does not begin with http:// or https://"),
        ("etcd://a:1", "it does not begin with http:// or https://"),
        ("", "it is no URL"),
        ("http://", "it is no URL"),
        ("http://a b", "it is no URL"),
        ("http://a:0", "the port is not a number"),
        ("http://a:", "the port is not a number"),
        ("http://a:65536", "the port is not a number"),
        ("http://a:1/v3", "there is a path behind the host"),
        ("http://a:1?b", "there is a path behind the host"),
    ] {
        let text = server(bad).unwrap_err();
        assert!(text.contains("expected http://HOST:PORT") && text.contains(why) && text.contains(bad), "{text}");
    }
    let text = server("http://root:hunter2@a:1").unwrap_err();
    assert!(text.contains("without user and password") && !text.contains("hunter2"), "{text}");
}

#[test]
fn files_for_tls_are_checked_before_any_call() {
    let Some(openssl) = need("openssl") else { return };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["one", "two"] {
        let (cert, key) = (at(&format!("{name}.pem")), at(&format!("{name}.key")));
        let mut make = Command::new(&openssl);
        make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=a"]);
        let made = make.arg("-out").arg(cert).arg("-keyout").arg(key).output().unwrap();
        assert!(made.status.success(), "{made:?}");
    }
    std::fs::write(at("garbage"), "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").unwrap();
    std::fs::write(at("empty"), "").unwrap();
    let of = |ca: Option<&str>, cert: Option<&str>, key: Option<&str>| {
        let files = [ca, cert, key].map(|name| name.map(at));
        let [ca, cert, key] = files.each_ref().map(|path| path.as_deref());
        Client::new(TlsFiles { ca, cert, key }).err()
    };
    assert_eq!(of(Some("one.pem"), Some("one.pem"), Some("one.key")), None);
    for (files, names, why) in [
        ((Some("none"), None, None), "none", "No such file"),
        ((Some("empty"), None, None), "empty", "expected certificates in PEM, found none"),
        ((Some("one.key"), None, None), "one.key", "expected certificates in PEM, found none"),
        ((Some("garbage"), None, None), "garbage", ""),
        ((None, Some("one.pem"), None), "one.pem", "a certificate and its key are needed together"),
        ((None, None, Some("one.key")), "one.key", "a certificate and its key are needed together"),
        ((None, Some("one.pem"), Some("one.pem")), "one.pem", "expected a private key in PEM, found none"),
        ((None, Some("one.pem"), Some("two.key")), "two.key", "it is no key for"),
    ] {
        let text = of(files.0, files.1, files.2).unwrap();
        assert!(text.starts_with(&format!("{}: {why}", at(names).display())), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_stream_may_be_cut_anywhere(
        values in proptest::collection::vec("[a-z\"\\\\{}\\[\\]é]{0,9}", 0..8),
        cuts in proptest::collection::vec(1usize..9, 1..20),
    ) {
        let text: String = values.iter().map(|value| format!("{}\n", json!({"v": value}))).collect();
        let (mut bytes, mut rest, mut cuts) = (STREAM.as_bytes().to_vec(), text.as_bytes(), cuts.iter().cycle());
        while !rest.is_empty() {
            let (piece, left) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            bytes.extend(format!("{:x}\r\n", piece.len()).into_bytes().into_iter().chain(piece.iter().copied()));
            bytes.extend(b"\r\n");
            rest = left;
        }
        bytes.extend(b"0\r\n\r\n");
        let server = sends(bytes);
        let client = client();
        let mut stream = client.get(&server, "/").send().unwrap().values::<Value>();
        for value in values {
            prop_assert_eq!(stream.wait(), Ok(Next::Value(json!({"v": value}))));
        }
        prop_assert_eq!(stream.wait(), Ok(Next::Ended));
    }

    #[test]
    fn the_url_of_a_server_never_panics(text in "(http|https|x)?(://)?[a-z@:/?#\\[\\]0-9]{0,12}") {
        if let Ok(url) = server(&text) {
            prop_assert!(url.parse::<Uri>().is_ok());
        }
    }
}
