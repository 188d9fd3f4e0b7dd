//! pgbench against PostgreSQL.

use std::process::Command;
use testkit::{At, Postgres, Tcplb, heavy, need, run};

#[test]
fn pgbench_meets_no_failed_transaction() {
    let Some(pgbench) = need("pgbench") else { return };
    let _alone = heavy();
    let Some(postgres) = Postgres::start() else { return };
    let tcplb = Tcplb::new().backend(&At::Tcp(postgres.at)).start();
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
