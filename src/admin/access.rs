//! Decides which calls are allowed: checks the token, or the request's `Host` and `Origin`.
//!
//! The read token permits calls that change nothing, the admin token all calls.
//!
//! Without a token the API listens on loopback only, where every local user is trusted. A browser is not: any page can
//! make it send requests to 127.0.0.1, with an `Origin` that is not ours. A page whose host name resolves to 127.0.0.1
//! (DNS rebinding) can also read the answers; its `Host` is not ours.

use super::http::Response;
use super::incoming::Request;
use crate::base::Endpoint;
use crate::config::check::TOKEN_MAX;
use crate::small_file;
use std::fmt;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The mode bit that lets other users read a file (`S_IROTH`).
const OTHERS_READ: u32 = 0o004;

/// The credentials that calls need.
#[derive(Default)]
pub struct Access {
    token: Option<Token>,
    /// Only beside `token`.
    read_token: Option<Token>,
}

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Everything.
    Change,
    /// Calls that change nothing.
    Read,
}

/// A secret, so it has no `Debug`.
struct Token(Vec<u8>);

impl Access {
    /// Reads the tokens that calls must send as `Authorization: Bearer …`. Without the first file, calls need none.
    pub fn new(token_file: Option<&Path>, read_token_file: Option<&Path>) -> Result<Access, String> {
        let token = token_file.map(|path| Token::read(path, "admin token")).transpose()?;
        let read_token = read_token_file.map(|path| Token::read(path, "read token")).transpose()?;
        if let (Some(Token(token)), Some(Token(read))) = (&token, &read_token)
            && token == read
        {
            return Err("expected a read token that differs from the admin token".to_owned());
        }
        Ok(Access { token, read_token })
    }

    /// Whether calls need a token.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// What the caller may do, or the refusal. `inet`: the call came by TCP, as a browser's would.
    pub fn permission(&self, request: &Request, inet: bool) -> Result<Permission, Response> {
        if let Some(token) = &self.token {
            let brought = request.authorization.as_deref().and_then(bearer).unwrap_or_default();
            if same(brought, &token.0) {
                return Ok(Permission::Change);
            }
            if self.read_token.as_ref().is_some_and(|token| same(brought, &token.0)) {
                return Ok(Permission::Read);
            }
            let answer = Response::error(401, "expected the header `Authorization: Bearer TOKEN` with the right token");
            return Err(answer.with("WWW-Authenticate", "Bearer realm=\"tcplb\""));
        }
        let host = request.host.as_deref().unwrap_or_default();
        if inet && !host.is_empty() && !is_ours(host) {
            return Err(Response::error(
                403,
                "expected an IP address or localhost as Host: without a token, names are refused",
            ));
        }
        let foreign = |origin: &str| origin.split_once("://").is_none_or(|(_, authority)| authority != host);
        if request.origin.as_deref().is_some_and(foreign) {
            return Err(Response::error(403, "a web page of another origin may not call this"));
        }
        Ok(Permission::Change)
    }
}

impl Token {
    fn read(path: &Path, what: &str) -> Result<Token, String> {
        let bad = |why: &dyn fmt::Display| format!("can't take the {what} from {}: {why}", path.display());
        let text = small_file::read(path, TOKEN_MAX).map_err(|error| bad(&error))?;
        let token = small_file::token(&text).map_err(|why| bad(&why))?;
        if path.metadata().is_ok_and(|found| found.permissions().mode() & OTHERS_READ != 0) {
            log::warn!("every user of this machine can read the {what}: chmod o-r {}", path.display());
        }
        Ok(Token(token.to_vec()))
    }
}

/// Whether the endpoint is reachable from this machine only, so that it needs no token.
pub fn is_local(endpoint: &Endpoint) -> bool {
    endpoint.ip().is_none_or(|ip| ip.is_loopback())
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.trim_ascii().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token.trim_ascii())
}

/// Compares in a time that depends on the lengths only, so that timing does not reveal the token.
fn same(brought: &[u8], wanted: &[u8]) -> bool {
    let mut different = u8::from(brought.len() != wanted.len());
    for (index, byte) in wanted.iter().enumerate() {
        different |= byte ^ brought.get(index).unwrap_or(&0);
        // Keeps the compiler from leaving the loop at the first difference.
        different = std::hint::black_box(different);
    }
    different == 0
}

/// Whether no foreign domain can have this name. Takes `host`, `host:port` and `[v6]:port`.
fn is_ours(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(host: &str, origin: Option<&str>, authorization: Option<&str>) -> Request {
        Request {
            host: Some(host.to_owned()),
            origin: origin.map(str::to_owned),
            authorization: authorization.map(|text| text.as_bytes().to_vec()),
            ..Request::default()
        }
    }

    fn status(access: &Access, request: &Request) -> Option<u16> {
        access.permission(request, true).err().map(|response| response.status)
    }

    #[test]
    fn only_the_right_token_is_accepted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "s3cret-token\n").unwrap();
        let access = Access::new(Some(&path), None).unwrap();
        assert!(access.has_token());
        for (header, want) in [
            (Some("Bearer s3cret-token"), None),
            (Some("bearer  s3cret-token "), None),
            (None, Some(401)),
            (Some("Bearer "), Some(401)),
            (Some("Bearer s3cret-toke"), Some(401)),
            (Some("Bearer s3cret-token1"), Some(401)),
            (Some("Bearer S3cret-token"), Some(401)),
            (Some("Basic s3cret-token"), Some(401)),
            (Some(""), Some(401)),
        ] {
            assert_eq!(status(&access, &request("anything.example", None, header)), want, "{header:?}");
        }
        for (content, why) in
            [("", "empty"), (" \n", "empty"), ("two words", "one word"), (&"x".repeat(5000), "at most 4 KiB")]
        {
            std::fs::write(&path, content).unwrap();
            let message = Access::new(Some(&path), None).err().unwrap();
            assert!(message.contains(why) && message.contains("token"), "{message}");
        }
        assert!(Access::new(Some(&directory.path().join("none")), None).is_err());
    }

    #[test]
    fn the_read_token_permits_reading_and_differs_from_the_admin_token() {
        let directory = tempfile::tempdir().unwrap();
        let [token, read] = ["token", "read"].map(|name| directory.path().join(name));
        std::fs::write(&token, "s3cret-token").unwrap();
        std::fs::write(&read, "r3ad-token").unwrap();
        let access = Access::new(Some(&token), Some(&read)).unwrap();
        for (header, want) in [
            ("Bearer s3cret-token", Some(Permission::Change)),
            ("Bearer r3ad-token", Some(Permission::Read)),
            ("Bearer r3ad-toke", None),
            ("Bearer ", None),
        ] {
            let allowed = access.permission(&request("a", None, Some(header)), true).ok();
            assert_eq!(allowed, want, "{header}");
        }
        std::fs::write(&read, "s3cret-token\n").unwrap();
        assert!(Access::new(Some(&token), Some(&read)).err().unwrap().contains("differs"));
        std::fs::write(&read, "").unwrap();
        assert!(Access::new(Some(&token), Some(&read)).err().unwrap().contains("read token from"));
    }

    #[test]
    fn without_a_token_foreign_web_pages_are_refused() {
        let access = Access::default();
        for (host, origin, want) in [
            ("127.0.0.1:9900", None, None),
            ("localhost:9900", None, None),
            ("[::1]:9900", None, None),
            ("10.0.0.1", None, None),
            ("127.0.0.1:9900", Some("http://127.0.0.1:9900"), None),
            ("127.0.0.1:9900", Some("http://127.0.0.1:8080"), Some(403)),
            ("127.0.0.1:9900", Some("https://evil.example"), Some(403)),
            ("127.0.0.1:9900", Some("null"), Some(403)),
            ("evil.example:9900", None, Some(403)),
            ("127.0.0.1.evil.example", None, Some(403)),
        ] {
            assert_eq!(status(&access, &request(host, origin, None)), want, "{host} {origin:?}");
        }
        assert_eq!(status(&access, &Request::default()), None, "HTTP/1.0 has no Host");
        assert_eq!(
            access.permission(&request("tcplb", None, None), false),
            Ok(Permission::Change),
            "over a unix socket every Host is accepted"
        );
    }
}
