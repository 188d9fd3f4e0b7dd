//! etcd's JSON gateway: gRPC's messages as JSON, keys and values in Base64, 64-bit numbers as text.
//!
//! A call goes to one endpoint. [`Gateway::try_each`] makes a task of several calls go on at the next one.

use crate::discovery::entry;
use crate::discovery::http::{self, Answer, Client, Values};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use std::time::Duration;

/// The most keys of one page. An answer stays below the 4 MiB that the gateway takes from etcd.
pub const PAGE: usize = 1000;
/// gRPC's code of a call whose token is missing or not valid any more.
const UNAUTHENTICATED: i64 = 16;
/// gRPC's code of etcd's refusal to authenticate where authentication is not enabled.
const FAILED_PRECONDITION: i64 = 9;
/// gRPC's code of a call whose token is older than a change of users: etcd wants a new one. Also that of a wrong password.
const INVALID_ARGUMENT: i64 = 3;

/// Where etcd is, and how it is asked.
pub struct Access {
    /// URLs, at least one.
    pub endpoints: Vec<String>,
    /// User and password.
    pub user: Option<(String, String)>,
    /// Makes the calls.
    pub client: Client,
}

/// Makes calls, to one endpoint until it fails.
pub struct Gateway {
    access: Access,
    at: usize,
    token: Option<String>,
}

/// Why a call failed.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// etcd wants another token.
    Token(String),
    /// Anything else.
    Text(String),
}

/// An answer's head.
#[derive(Debug, Default, Deserialize)]
pub struct Header {
    #[serde(default, deserialize_with = "number")]
    pub revision: i64,
}

/// A page of keys.
#[derive(Debug, Deserialize)]
pub struct Page {
    /// With the revision that it is of.
    pub header: Header,
    /// The keys.
    #[serde(default, deserialize_with = "http::list::<PAGE, _, _>")]
    pub kvs: Vec<KeyValue>,
    /// There are more keys behind them.
    #[serde(default)]
    pub more: bool,
}

/// A key and its value, both in Base64; what is missing is empty.
#[derive(Debug, Default, Deserialize)]
pub struct KeyValue {
    #[serde(default)]
    pub key: String,
    #[serde(default)]
    pub value: String,
}

/// A value of a watch's stream.
#[derive(Debug, Deserialize)]
pub struct Watched {
    /// What has changed.
    pub result: Option<Changes>,
    /// Why the watch ends.
    pub error: Option<Refusal>,
}

/// What a watch reports.
#[derive(Debug, Deserialize)]
pub struct Changes {
    #[serde(default)]
    pub canceled: bool,
    #[serde(default)]
    pub cancel_reason: String,
    #[serde(default, deserialize_with = "number")]
    pub compact_revision: i64,
    #[serde(default)]
    pub events: Vec<Event>,
}

/// A change of a key: a PUT unless it says something else.
#[derive(Debug, Deserialize)]
pub struct Event {
    #[serde(default, rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub kv: KeyValue,
}

/// An error of etcd. Versions differ in its keys.
#[derive(Debug, Deserialize)]
pub struct Refusal {
    #[serde(default)]
    message: String,
    #[serde(default, alias = "grpc_code", deserialize_with = "number")]
    code: i64,
}

#[derive(Deserialize)]
struct Token {
    token: String,
}

impl Gateway {
    /// Begins at any endpoint, so that many clients of a cluster do not ask the same member.
    pub fn new(access: Access) -> Result<Gateway, String> {
        if access.endpoints.is_empty() {
            return Err("has no endpoint".to_owned());
        }
        let at = fastrand::usize(..access.endpoints.len());
        Ok(Gateway { access, at, token: None })
    }

    /// The endpoint that is asked.
    pub fn server(&self) -> &str {
        &self.access.endpoints[self.at]
    }

    /// How many endpoints there are.
    pub fn endpoints(&self) -> usize {
        self.access.endpoints.len()
    }

    /// Asks the next endpoint from now on.
    pub fn turn(&mut self) {
        self.at = (self.at + 1) % self.endpoints();
    }

    /// A failure of the endpoint that is asked.
    pub fn failure(&self, why: String) -> Failure {
        Failure::Text(format!("{}: {why}", self.server()))
    }

    /// Does a task at the first endpoint where it works; the error names all of them. A refused token is renewed once.
    pub fn try_each<T>(&mut self, mut task: impl FnMut(&mut Gateway) -> Result<T, Failure>) -> Result<T, String> {
        let mut errors = vec![String::new(); self.endpoints()];
        for _ in 0..self.endpoints() {
            let mut outcome = task(self);
            if let Err(Failure::Token(_)) = outcome {
                self.token = None;
                outcome = task(self);
            }
            match outcome {
                Ok(done) => return Ok(done),
                Err(Failure::Token(why) | Failure::Text(why)) => errors[self.at] = why,
            }
            self.turn();
        }
        Err(errors.join("; "))
    }

    /// Makes a call.
    pub fn ask<T: DeserializeOwned>(&mut self, path: &str, body: &Value) -> Result<T, Failure> {
        let answer = self.send(None, path, body)?;
        answer.json().map_err(Failure::Text)
    }

    /// Begins a watch that ends after `stay`.
    pub fn watch(&mut self, stay: Duration, body: &Value) -> Result<Values<Watched>, String> {
        let client = self.access.client.within(stay);
        match self.send(Some(&client), "/v3/watch", body) {
            Ok(answer) => Ok(answer.values()),
            Err(Failure::Token(why)) => {
                self.token = None;
                Err(why)
            }
            Err(Failure::Text(why)) => Err(why),
        }
    }

    fn send(&mut self, client: Option<&Client>, path: &str, body: &Value) -> Result<Answer, Failure> {
        if self.token.is_none()
            && let Some((name, password)) = &self.access.user
        {
            self.token = self.token(name, password)?;
        }
        let mut call = client.unwrap_or(&self.access.client).post(self.server(), path, body);
        if let Some(token) = self.token.as_ref().filter(|token| !token.is_empty()) {
            call = call.header("Authorization", token).hiding(token.clone());
        }
        // A watch of a member without a leader ends instead of being silent.
        let answer = call.header("Grpc-Metadata-hasleader", "true").send().map_err(Failure::Text)?;
        if answer.is_success() {
            return Ok(answer);
        }
        let (code, text) = refused(self.server(), answer);
        match code {
            UNAUTHENTICATED | INVALID_ARGUMENT if self.token.is_some() => Err(Failure::Token(text)),
            _ => Err(Failure::Text(text)),
        }
    }

    /// A new token; an empty one where authentication is not enabled. What etcd says to it is not shown, since that may have the
    /// password.
    fn token(&self, name: &str, password: &str) -> Result<Option<String>, Failure> {
        let body = json!({"name": name, "password": password});
        let answer =
            self.access.client.post(self.server(), "/v3/auth/authenticate", &body).send().map_err(Failure::Text)?;
        if answer.is_success() {
            let token: Option<Token> = serde_json::from_slice(&answer.bytes().map_err(Failure::Text)?).ok();
            let token = token.map(|Token { token }| Some(token));
            return token.ok_or_else(|| self.failure("the answer to the password has no token".to_owned()));
        }
        let status = answer.status;
        match refused(self.server(), answer).0 {
            FAILED_PRECONDITION => Ok(Some(String::new())),
            INVALID_ARGUMENT => {
                let user = entry::shown(name);
                Err(self.failure(format!("user `{user}`: authentication failed, invalid user ID or password")))
            }
            code => Err(self.failure(format!("authentication failed: HTTP {status}, code {code}"))),
        }
    }
}

/// The code and the text of an answer without success.
fn refused(server: &str, answer: Answer) -> (i64, String) {
    let status = answer.status;
    let body = answer.refusal();
    match serde_json::from_slice::<Refusal>(&body) {
        Ok(refusal) => (refusal.code, refusal.text(server)),
        Err(_) => (0, format!("{server}: HTTP {status}: {}", entry::shown(String::from_utf8_lossy(&body).trim()))),
    }
}

impl Refusal {
    /// For people.
    pub fn text(&self, server: &str) -> String {
        format!("{server}: {}", entry::shown(&self.message))
    }
}

/// As the gateway takes bytes.
pub fn encoded(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The bytes of a text of the gateway.
pub fn decoded(text: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(text).map_err(|_| "the answer is not understood: a key or a value is not in Base64".to_owned())
}

/// A number, or the text of one.
pub fn number<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Plain(i64),
        Text(String),
    }
    match Number::deserialize(from)? {
        Number::Plain(number) => Ok(number),
        Number::Text(text) => text.parse().map_err(|_| serde::de::Error::custom("expected a number")),
    }
}
