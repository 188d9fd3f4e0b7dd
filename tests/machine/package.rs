//! The Debian package, installed and used in a clean Debian that runs its own systemd.

use std::path::Path;
use std::process::Command;
use testkit::{need, need_root};

/// Runs a script of packaging/debian to its end, and returns the last line of its output.
#[track_caller]
fn script(name: &str, argument: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/debian").join(name);
    let output = Command::new(script).arg(argument).output().expect("the script starts");
    let printed = String::from_utf8_lossy(&output.stdout);
    println!("{printed}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "packaging/debian/{name} ended with {}", output.status);
    printed.lines().next_back().unwrap_or_default().to_owned()
}

#[test]
fn the_debian_package_installs_runs_upgrades_and_leaves_nothing() {
    let tools = ["cargo-deb", "lintian", "mmdebstrap", "systemd-nspawn"];
    if !need_root() || tools.iter().any(|tool| need(tool).is_none()) {
        return;
    }
    // cargo-deb prints where the package is.
    let package = script("build", env!("CARGO_BIN_EXE_tcplb"));
    script("test", &package);
}
