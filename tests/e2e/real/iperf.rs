//! iperf3, both ways.

use std::process::Command;
use testkit::{At, Process, Tcplb, free_address, heavy, need, run};

#[test]
fn iperf3_runs_both_ways() {
    let Some(iperf) = need("iperf3") else { return };
    let _alone = heavy();
    let at = free_address();
    let (ip, port) = (at.ip().to_string(), at.port().to_string());
    let server = Process::spawn(Command::new(&iperf).args(["-s", "--forceflush", "-B", &ip, "-p", &port]));
    // It takes any connection for the beginning of a test: no probes.
    let tcplb = Tcplb::new().backend(&At::Tcp(at)).unprobed().start();
    for (runs, direction) in [&[][..], &["-R"], &["--bidir", "-P", "2"]].into_iter().enumerate() {
        // After each run it closes its socket and listens again.
        server.wait_for_lines("Server listening", runs + 1);
        let port = tcplb.at().port().to_string();
        let said = run(Command::new(&iperf).args(["-c", "127.0.0.1", "-p", &port, "-t", "1"]).args(direction));
        assert!(said.contains("iperf Done."), "{said}");
    }
}
