//! A real Redis in a folder of its own.

use crate::{Process, free_address, need, wait_until_it_listens};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// A server. It ends when it is dropped.
pub struct Redis {
    cli: PathBuf,
    /// Where it listens.
    pub at: SocketAddr,
    _folder: TempDir,
    _process: Process,
}

impl Redis {
    /// A primary that runs; `None` where Redis is not installed.
    #[track_caller]
    pub fn start() -> Option<Redis> {
        let (server, cli) = (need("redis-server")?, need("redis-cli")?);
        let (folder, at) = (tempfile::tempdir().expect("a folder"), free_address());
        let mut command = Command::new(server);
        command.current_dir(folder.path()).args(["--bind", &at.ip().to_string(), "--port", &at.port().to_string()]);
        command.args(["--save", "", "--appendonly", "no", "--protected-mode", "no"]);
        // A replica gets its copy at once, and is known by the address at which it listens.
        command.args(["--repl-diskless-sync-delay", "0", "--replica-announce-ip", &at.ip().to_string()]);
        let process = Process::spawn(&mut command);
        wait_until_it_listens(at);
        Some(Redis { cli, at, _folder: folder, _process: process })
    }

    /// Its answer to a command, past any balancer.
    #[track_caller]
    pub fn call(&self, words: &[&str]) -> String {
        let (ip, port) = (self.at.ip().to_string(), self.at.port().to_string());
        let answer =
            Command::new(&self.cli).args(["-h", &ip, "-p", &port]).args(words).output().expect("run redis-cli");
        assert!(answer.status.success(), "{words:?}: {}", String::from_utf8_lossy(&answer.stderr));
        String::from_utf8_lossy(&answer.stdout).into_owned()
    }
}
