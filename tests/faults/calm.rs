//! Peers that stop in mid-stream: bounded memory, an idle processor, and every byte once they go on.

use crate::house::House;
use crate::script::Step::{Finish, Hear, Send, Stall, Urgent};
use crate::script::{ALL, Script};
use crate::stage::Stage;
use testkit::eventually;

/// More than all buffers on the way can hold.
const FLOOD: u64 = 40 << 20;

pub fn who_is_stalled_costs_nothing_and_loses_nothing(relay: &str) {
    let house = House::open(relay);
    let mut stage = Stage::default();
    let floods = Script::new("floods", &[Send(FLOOD)]);
    let stalls = Script::new("stalls", &[Send(10), Stall, Send(10)]);
    let floods_and_stalls = Script::new("floods and stalls", &[Send(1000), Stall, Send(100_000)]);
    let urgent = Script::new("says a word urgently", &[Send(10), Urgent, Hear(ALL)]);
    let listens = Script::new("only listens", &[Hear(ALL)]);
    let half = Script::new("finishes and listens", &[Finish, Hear(ALL)]);
    let before = house.tcplb().rss_kib();
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
        stage.add(house.pair(), client, backend);
    }
    stage.hold();
    stage.play_until("all who flood are blocked", |stage| stage.is_stuck() && stage.blocked() == 4);

    let grown = house.tcplb().rss_kib().saturating_sub(before);
    assert!(grown < 4096, "four stalled peers behind {FLOOD} bytes each cost {grown} KiB");
    // Meanwhile somebody waits for a backend that does not answer, for a known time.
    let (spent, time) = house.cpu_while(|| {
        let client = house.client_of_the_hole();
        client.assert_echoes("at last");
    });
    assert!(spent * 5 < time, "{spent:?} of processor time in {time:?} of nothing to do");

    stage.release();
    stage.play();
    eventually("memory is given back", || house.tcplb().rss_kib() < before + 4096);
    house.close();
}
