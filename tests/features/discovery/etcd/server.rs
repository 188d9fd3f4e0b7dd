//! A real etcd, of one member or several, in a folder of its own: killed, wiped and started again by the test.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;
use testkit::{Answer, Process, ask, eventually, free_address, need};

/// A member.
pub struct Etcd {
    program: PathBuf,
    name: String,
    folder: TempDir,
    /// Where tests give orders, without TLS and before authentication is enabled without a user.
    pub client: SocketAddr,
    peer: SocketAddr,
    arguments: Vec<String>,
    process: Option<Process>,
}

impl Etcd {
    /// One member alone; `None` where etcd is not installed.
    #[track_caller]
    pub fn start() -> Option<Etcd> {
        Etcd::start_with(&[], free_address())
    }

    /// The same with further arguments.
    #[track_caller]
    pub fn start_with(arguments: &[String], client: SocketAddr) -> Option<Etcd> {
        let mut etcd = Etcd::new("one", client)?;
        etcd.arguments.push(format!("--initial-cluster=one=http://{}", etcd.peer));
        etcd.arguments.extend_from_slice(arguments);
        etcd.run();
        etcd.wait();
        Some(etcd)
    }

    /// Three members of a cluster.
    #[track_caller]
    pub fn cluster() -> Option<Vec<Etcd>> {
        let members: Option<Vec<Etcd>> =
            ["a", "b", "c"].into_iter().map(|name| Etcd::new(name, free_address())).collect();
        let mut members = members?;
        let peers: Vec<String> =
            members.iter().map(|member| format!("{}=http://{}", member.name, member.peer)).collect();
        for member in &mut members {
            member.arguments.push(format!("--initial-cluster={}", peers.join(",")));
            member.run();
        }
        members.iter().for_each(Etcd::wait);
        Some(members)
    }

    fn new(name: &str, client: SocketAddr) -> Option<Etcd> {
        let folder = tempfile::Builder::new().prefix("etcd-").tempdir().unwrap();
        let (program, name, peer) = (need("etcd")?, name.to_owned(), free_address());
        let mut etcd = Etcd { program, name, folder, client, peer, arguments: Vec::new(), process: None };
        etcd.arguments = vec![
            format!("--name={}", etcd.name),
            "--data-dir=data".to_owned(),
            "--log-level=error".to_owned(),
            "--logger=zap".to_owned(),
            format!("--listen-peer-urls=http://{peer}"),
            format!("--initial-advertise-peer-urls=http://{peer}"),
            format!("--advertise-client-urls=http://{client}"),
            // A later argument of the same name replaces it.
            format!("--listen-client-urls=http://{client}"),
        ];
        Some(etcd)
    }

    fn run(&mut self) {
        let mut command = Command::new(&self.program);
        self.process = Some(Process::spawn(command.args(&self.arguments).current_dir(self.folder.path())));
    }

    /// Waits until it answers, with a leader.
    #[track_caller]
    pub fn wait(&self) {
        eventually("etcd answers", || {
            std::net::TcpStream::connect(self.client).is_ok()
                && self.try_call("/v3/kv/range", &json!({"key": "MA=="})).status == 200
        });
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.run();
        self.wait();
    }

    /// Starts it again without waiting for a leader.
    pub fn run_again(&mut self) {
        self.run();
    }

    /// Removes its data; it must be dead.
    pub fn wipe(&self) {
        std::fs::remove_dir_all(self.folder.path().join("data")).unwrap();
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.client)
    }

    /// A call that may be refused.
    pub fn try_call(&self, path: &str, body: &Value) -> Answer {
        ask(&self.client.to_string(), "POST", path, &["Connection: close"], &body.to_string())
    }

    /// A call.
    #[track_caller]
    pub fn call(&self, path: &str, body: Value) -> Value {
        let answer = self.try_call(path, &body);
        assert_eq!(answer.status, 200, "{path} {body}: {answer:?}");
        serde_json::from_str(&answer.body).unwrap()
    }

    /// Writes a key; returns the revision.
    #[track_caller]
    pub fn put(&self, key: &str, value: impl AsRef<[u8]>) -> u64 {
        let answer = self.call("/v3/kv/put", json!({"key": text(key), "value": text(value)}));
        answer["header"]["revision"].as_str().unwrap().parse().unwrap()
    }

    /// Writes many keys.
    #[track_caller]
    pub fn put_all(&self, pairs: impl IntoIterator<Item = (String, String)>) {
        let puts: Vec<Value> = pairs
            .into_iter()
            .map(|(key, value)| json!({"requestPut": {"key": text(key), "value": text(value)}}))
            .collect();
        for puts in puts.chunks(100) {
            // The answer comes in chunks, which testkit does not put together.
            assert_eq!(self.try_call("/v3/kv/txn", &json!({ "success": puts })).status, 200);
        }
    }

    /// Removes a key.
    #[track_caller]
    pub fn delete(&self, key: &str) {
        self.call("/v3/kv/deleterange", json!({"key": text(key)}));
    }

    /// Forgets the history before a revision.
    #[track_caller]
    pub fn compact(&self, revision: u64) {
        self.call("/v3/kv/compaction", json!({"revision": revision, "physical": true}));
    }

    /// The value of a key, if it exists.
    #[track_caller]
    pub fn value(&self, key: &str) -> Option<String> {
        let answer = self.call("/v3/kv/range", json!({"key": text(key)}));
        let value = answer["kvs"][0]["value"].as_str()?;
        Some(String::from_utf8(STANDARD.decode(value).unwrap()).unwrap())
    }

    /// Whether this member leads.
    #[track_caller]
    pub fn leads(&self) -> bool {
        let status = self.call("/v3/maintenance/status", json!({}));
        status["leader"] == status["header"]["member_id"]
    }
}

/// Bytes as the gateway takes them.
pub fn text(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}
