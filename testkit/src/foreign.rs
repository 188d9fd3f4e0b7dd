//! HAProxy, nginx and other servers that are not ours, each in a folder of its own, ended with the test.

use crate::{eventually, need};
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A program that serves until it is dropped.
pub struct Foreign {
    child: Child,
    _folder: tempfile::TempDir,
}

impl Foreign {
    /// Starts `program` with `config` written to `file` in a folder of its own, where it also runs, and waits until it
    /// listens.
    #[track_caller]
    pub fn start(program: &Path, arguments: &[&str], config: &str, file: &str, listens: &[SocketAddr]) -> Foreign {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(file), config).expect("write the configuration");
        let mut command = Command::new(program);
        let output = folder.path().join("output");
        let said = File::create(&output).expect("a file for what it says");
        command.args(arguments).current_dir(folder.path()).stdin(Stdio::null()).stderr(said).stdout(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("start {}: {error}", program.display()));
        let mut server = Foreign { child, _folder: folder };
        for at in listens {
            eventually(&format!("something listens on {at}"), || {
                let ended = server.child.try_wait().expect("ask for its end");
                let said = || std::fs::read_to_string(&output).unwrap_or_default();
                assert!(ended.is_none(), "{} has ended:\n{config}\n{}", program.display(), said());
                TcpStream::connect(at).is_ok()
            });
        }
        server
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// HAProxy with the given sections; `None` where it is not installed.
#[track_caller]
pub fn haproxy(config: &str, listens: &[SocketAddr]) -> Option<Foreign> {
    let program = need("haproxy")?;
    let defaults = "defaults\n    timeout connect 10s\n    timeout client 60s\n    timeout server 60s\n";
    Some(Foreign::start(
        &program,
        &["-db", "-f", "haproxy.cfg"],
        &format!("{defaults}{config}\n"),
        "haproxy.cfg",
        listens,
    ))
}

/// nginx with the given blocks, behind the modules that they need; `None` where it is not installed.
#[track_caller]
pub fn nginx(modules: &[&Path], config: &str, listens: &[SocketAddr]) -> Option<Foreign> {
    let program = need("nginx")?;
    let load: String = modules.iter().map(|module| format!("load_module {};\n", module.display())).collect();
    // One process, so that killing it kills all of nginx; everything that it writes goes to its own folder.
    let config = format!(
        "{load}daemon off; master_process off; pid nginx.pid; error_log stderr; events {{ worker_connections 4000; }}\n{config}"
    );
    Some(Foreign::start(&program, &["-p", ".", "-c", "nginx.conf", "-e", "stderr"], &config, "nginx.conf", listens))
}
