//! redis-benchmark against redis-server.

use std::process::Command;
use testkit::{At, Process, Tcplb, free_address, heavy, need, run, wait_until_it_listens};

#[test]
fn redis_benchmark_runs_clean() {
    let (Some(server), Some(benchmark)) = (need("redis-server"), need("redis-benchmark")) else { return };
    let _alone = heavy();
    let folder = tempfile::tempdir().unwrap();
    let at = free_address();
    let _redis = Process::spawn(
        Command::new(server)
            .current_dir(folder.path())
            .args(["--bind", &at.ip().to_string(), "--port", &at.port().to_string()])
            .args(["--save", "", "--appendonly", "no", "--protected-mode", "no"]),
    );
    wait_until_it_listens(at);
    let tcplb = Tcplb::new().backend(&At::Tcp(at)).start();
    for options in [
        &["-c", "50", "-n", "20000"][..],
        &["-c", "50", "-n", "100000", "-P", "16"],
        &["-c", "1", "-n", "200", "-d", "1000000"],
    ] {
        let said = run(Command::new(&benchmark)
            .args(["-h", "127.0.0.1", "-p", &tcplb.at().port().to_string(), "-q", "-t", "set,get"])
            .args(options));
        assert_eq!(said.matches("requests per second").count(), 2, "{said}");
        assert!(!said.contains("rror"), "{said}");
    }
}
