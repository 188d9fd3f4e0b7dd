//! Peers that stop in mid-stream: bounded memory, an idle processor, and every byte once they go on.

use crate::harness::Harness;
use crate::scenario::Scenario;
use crate::script::Step::{Finish, Receive, Send, Stall, Urgent};
use crate::script::{ALL, Script};
use testkit::eventually;

/// More than all buffers on the way can hold.
const FLOOD: u64 = 40 << 20;

pub fn a_stalled_peer_costs_no_cpu_or_memory_and_loses_no_byte(relay: &str) {
    let harness = Harness::start(relay);
    let mut scenario = Scenario::default();
    let floods = Script::new("floods", &[Send(FLOOD)]);
    let stalls = Script::new("stalls", &[Send(10), Stall, Send(10)]);
    let floods_and_stalls = Script::new("floods and stalls", &[Send(1000), Stall, Send(100_000)]);
    let urgent = Script::new("sends urgent bytes", &[Send(10), Urgent, Receive(ALL)]);
    let listens = Script::new("only reads", &[Receive(ALL)]);
    let half = Script::new("finishes and reads", &[Finish, Receive(ALL)]);
    let before = harness.tcplb().rss_kib();
    for (client, backend) in [
        (&floods, &stalls),
        (&stalls, &floods),
        (&floods, &floods_and_stalls),
        (&floods_and_stalls, &floods),
        (&urgent, &listens),
        (&listens, &urgent),
        (&urgent, &urgent),
        (&listens, &half),
        (&half, &listens),
    ] {
        scenario.add(harness.pair(), client, backend);
    }
    scenario.hold();
    scenario.play_until("all that flood are blocked", |scenario| scenario.is_stuck() && scenario.blocked() == 4);

    let grown = harness.tcplb().rss_kib().saturating_sub(before);
    assert!(grown < 4096, "four stalled peers behind {FLOOD} bytes each cost {grown} KiB");
    // Meanwhile a client waits for a backend that does not answer, for a known time.
    let (spent, time) = harness.cpu_while(|| {
        let client = harness.client_of_the_black_hole();
        client.assert_echoes("at last");
    });
    assert!(spent * 5 < time, "{spent:?} of processor time in {time:?} of nothing to do");

    scenario.release();
    scenario.play();
    eventually("memory is given back", || harness.tcplb().rss_kib() < before + 4096);
    harness.close();
}
