//! A FIN and a reset after any number of bytes, from either side, to a peer that reads and to a peer that floods.

use crate::harness::Harness;
use crate::scenario::Scenario;
use crate::script::Step::{AwaitDelivery, Receive, Reset, Send, ShrinkWindow, Stall};
use crate::script::{ALL, Script};

/// Where buffers, turns and pipes begin and end.
const EDGES: [u64; 6] = [4 << 10, 16 << 10, 64 << 10, 128 << 10, 256 << 10, 1 << 20];

pub fn a_fin_or_reset_after_any_byte_arrives(relay: &str) {
    let mut random = random();
    let harness = Harness::start(relay);
    harness.with_canary(|| {
        let mut scenario = Scenario::default();
        for (client, backend) in pairs(&mut random) {
            scenario.add(harness.pair(), &client, &backend);
        }
        scenario.play();
    });
    harness.close();
}

/// Prints how to get the same random places again.
pub fn random() -> fastrand::Rng {
    let seed = std::env::var("FAULTS_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().expect("a number"));
    println!("again with FAULTS_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// Clients and backends.
pub fn pairs(random: &mut fastrand::Rng) -> Vec<(Script, Script)> {
    let mut places = vec![0, 1, 2];
    places.extend(EDGES.iter().flat_map(|edge| [edge - 1, *edge, edge + 1]));
    places.extend((0..8).map(|_| random.u64(3..2 << 20)));
    let listens = Script::new("only reads", &[Receive(ALL)]);
    let floods = Script::new("floods", &[Send(600_000)]);
    let slow = Script::new("reads slowly", &[ShrinkWindow, Stall, Receive(ALL)]);
    let mut pairs = Vec::new();
    let mut both_ways = |one: &Script, other: &Script| {
        pairs.push((one.clone(), other.clone()));
        pairs.push((other.clone(), one.clone()));
    };
    for place in places {
        let cut = |name: &str, steps: &[_]| Script::new(format!("{name} after {place}"), steps);
        let abrupt = cut("resets", &[Send(place), Reset]);
        let received = cut("resets once all is delivered", &[Send(place), AwaitDelivery, Reset]);
        let fin = cut("finishes", &[Send(place)]);
        for (one, other) in [(&abrupt, &listens), (&abrupt, &floods), (&received, &listens), (&fin, &floods)] {
            both_ways(one, other);
        }
    }
    // More than the sockets hold: the end has come when the last bytes still wait for room.
    for length in (0..24).map(|_| random.u64(3 << 20..6 << 20)) {
        let fin = Script::new(format!("finishes after {length}"), &[Send(length)]);
        both_ways(&fin, &slow);
    }
    pairs
}
