//! Other people's programs: found, or the test says that it skips.

use crate::{Process, eventually};
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

/// The path of a program or module, or `None` after saying so. In CI all must be there: a skipped test proves nothing.
pub fn need(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = env::split_paths(&path).collect();
    // Debian keeps servers out of a user's PATH, and each PostgreSQL in a directory of its own.
    places.extend(["/usr/sbin", "/usr/local/sbin", "/usr/lib/nginx/modules"].map(PathBuf::from));
    if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
        places.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    let found = places.iter().map(|place| place.join(name)).find(|file| file.is_file());
    if found.is_none() {
        assert!(env::var_os("CI").is_none(), "{name} is not installed, and in CI no test may be skipped");
        eprintln!("skipped: {name} is not installed");
    }
    found
}

/// Runs a tool to its end, shows its output, and fails unless the tool succeeds.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let shown = format!("{command:?}");
    let mut process = Process::spawn(command);
    let status = process.wait_exit();
    let output = process.output();
    println!("$ {shown}\n{output}\n");
    assert!(status.success(), "{shown} ended with {status}");
    output
}

/// Is this root, the only user that can become another one? Prints a message if not. In CI it must be.
pub fn need_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || env::var_os("CI").is_none(), "this is not root, and in CI no test may be skipped");
    if !root {
        eprintln!("skipped: only root can become another user");
    }
    root
}

/// The user and group id of an account, for a server that refuses to run as root.
pub fn account(name: &str) -> Option<(u32, u32)> {
    let accounts = fs::read_to_string("/etc/passwd").ok()?;
    let line = accounts.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Waits until something accepts connections there.
#[track_caller]
pub fn wait_until_it_listens(at: std::net::SocketAddr) {
    eventually(&format!("something listens on {at}"), || std::net::TcpStream::connect(at).is_ok());
}
