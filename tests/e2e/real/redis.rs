//! redis-benchmark against redis-server.

use std::process::Command;
use testkit::{At, Redis, Tcplb, heavy, need, run};

#[test]
fn redis_benchmark_runs_clean() {
    let Some(benchmark) = need("redis-benchmark") else { return };
    let _alone = heavy();
    let Some(redis) = Redis::start() else { return };
    let tcplb = Tcplb::new().backend(&At::Tcp(redis.at)).start();
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
