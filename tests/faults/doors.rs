//! Backends that can't be connected to: whoever is behind them is served by the next, with every byte.

use crate::house::House;
use crate::voice::Voice;
use testkit::{Conn, Ending};

const CLIENTS: usize = 12;
const LENGTH: usize = 40_000;

pub fn behind_a_closed_door_is_another(relay: &str) {
    let house = House::open(relay);
    house.with_a_guest(|| {
        for (door, knock) in
            [("refuses", House::client_of_the_refusing as fn(&House) -> Conn), ("hole", House::client_of_the_hole)]
        {
            let clients: Vec<Conn> = (0..CLIENTS).map(|_| knock(&house)).collect();
            for (number, client) in clients.iter().enumerate() {
                // While the first backend is still being dialled, perhaps; the end too.
                let mut said = vec![0; LENGTH];
                Voice::new(number, true).speak(0, &mut said);
                client.say(said);
                client.finish();
            }
            for (number, client) in clients.into_iter().enumerate() {
                if number % 3 == 0 {
                    // Leaves in the middle of it, and harms nobody.
                    client.reset();
                    continue;
                }
                let heard = client.hear_all();
                assert_eq!(heard.len(), LENGTH, "client {number} behind {door}");
                assert_eq!(Voice::new(number, true).differs(0, &heard), None, "client {number} behind {door}");
            }
            assert!(house.failed_connects(door) > 0, "nobody came to {door}");
        }
        for _ in 0..CLIENTS {
            assert_eq!(house.ending_with_no_backend(), Ending::Reset);
        }
    });
    house.close();
}
