//! Each script as a client with each script as a backend, all at once.

use crate::harness::Harness;
use crate::scenario::Scenario;
use crate::script::all_scripts;

pub fn every_script_plays_with_every_script(relay: &str) {
    let harness = Harness::start(relay);
    harness.with_canary(|| {
        let mut scenario = Scenario::default();
        for client in all_scripts() {
            for backend in all_scripts() {
                scenario.add(harness.pair(), &client, &backend);
            }
        }
        scenario.play();
    });
    harness.close();
}
