//! pgbench against PostgreSQL.

use rustix::process::Signal;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use testkit::{At, Process, Tcplb, account, free_address, heavy, need, run, wait_until_it_listens};

/// PostgreSQL refuses to run as root: there, it runs as its own account.
fn unprivileged(program: &Path, folder: &Path) -> Option<Command> {
    let mut command = Command::new(program);
    command.current_dir(folder);
    if rustix::process::geteuid().is_root() {
        let Some((user, group)) = account("postgres") else {
            eprintln!("skipped: run as root, and there is no account `postgres`");
            return None;
        };
        chown(folder, Some(user), Some(group)).unwrap();
        command.uid(user).gid(group);
    }
    Some(command)
}

#[test]
fn pgbench_meets_no_failed_transaction() {
    let (Some(initdb), Some(postgres), Some(pgbench)) = (need("initdb"), need("postgres"), need("pgbench")) else {
        return;
    };
    let _alone = heavy();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let Some(mut command) = unprivileged(&initdb, folder.path()) else { return };
    run(command.args(["--no-sync", "--auth=trust", "--username=bench", "--no-locale", "-D"]).arg(&data));

    let at = free_address();
    let mut command = unprivileged(&postgres, folder.path()).expect("the account that initdb had");
    command.arg("-D").arg(&data).arg("-k").arg(folder.path());
    command.args(["-c", &format!("listen_addresses={}", at.ip()), "-p", &at.port().to_string()]);
    command.args(["-c", "fsync=off", "-c", "shared_buffers=32MB"]);
    // SIGQUIT is its immediate shutdown; killed, it would leave its shared memory behind.
    let _postgres = Process::spawn(&mut command).farewell(Signal::QUIT);
    wait_until_it_listens(at);

    let tcplb = Tcplb::new().backend(&At::Tcp(at)).start();
    let bench = |options: &[&str]| {
        let port = tcplb.at().port().to_string();
        let mut command = Command::new(&pgbench);
        run(command.args(["-h", "127.0.0.1", "-p", &port, "-U", "bench"]).args(options).arg("postgres"))
    };
    bench(&["--initialize", "--scale=1", "--quiet"]);
    // Long-lived connections, then one for each transaction.
    for options in [&["-S", "-c8", "-T2"][..], &["-S", "-c4", "-T2", "--connect"]] {
        let said = bench(options);
        assert!(said.contains("number of failed transactions: 0 "), "{said}");
    }
}
