//! Backends that can't be connected to: the next backend serves their clients, with every byte.

use crate::byte_pattern::BytePattern;
use crate::harness::Harness;
use testkit::{Conn, Ending};

const CLIENTS: usize = 12;
const LENGTH: usize = 40_000;

pub fn a_client_of_an_unreachable_backend_is_served_by_the_next(relay: &str) {
    let harness = Harness::start(relay);
    harness.with_canary(|| {
        for (listener, connect) in [
            ("refuses", Harness::client_of_the_refusing as fn(&Harness) -> Conn),
            ("black-hole", Harness::client_of_the_black_hole),
        ] {
            let clients: Vec<Conn> = (0..CLIENTS).map(|_| connect(&harness)).collect();
            for (number, client) in clients.iter().enumerate() {
                // While the first backend is still being dialled, perhaps; the end too.
                let mut bytes = vec![0; LENGTH];
                BytePattern::new(number, true).fill(0, &mut bytes);
                client.say(bytes);
                client.finish();
            }
            for (number, client) in clients.into_iter().enumerate() {
                if number % 3 == 0 {
                    // Leaves in the middle of it, and harms no other client.
                    client.reset();
                    continue;
                }
                let received = client.hear_all();
                assert_eq!(received.len(), LENGTH, "client {number} behind {listener}");
                assert_eq!(
                    BytePattern::new(number, true).first_difference(0, &received),
                    None,
                    "client {number} behind {listener}"
                );
            }
            assert!(harness.failed_connects(listener) > 0, "no client came to {listener}");
        }
        for _ in 0..CLIENTS {
            assert_eq!(harness.ending_with_no_backend(), Ending::Reset);
        }
    });
    harness.close();
}
