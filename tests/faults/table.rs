//! Each script as a client with each script as a backend, all at once.

use crate::house::House;
use crate::script::everybody;
use crate::stage::Stage;

pub fn everybody_with_everybody(relay: &str) {
    let house = House::open(relay);
    house.with_a_guest(|| {
        let mut stage = Stage::default();
        for client in everybody() {
            for backend in everybody() {
                stage.add(house.pair(), &client, &backend);
            }
        }
        stage.play();
    });
    house.close();
}
