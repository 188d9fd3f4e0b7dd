//! `[[pool.backend]]`: a server. Its flags are the settings behind the commas of `--backend`.

use super::kinds::{self, count, number, word};
use super::{COUNTS, Section, Source, setting};
use crate::base::Address;
use crate::config::check;
use crate::config::model::{Backend, SendProxy};

/// What stands in the place of an address until it is read.
const NO_ADDRESS: Address = Address::Any(0);

/// The table.
pub static BACKEND: Section<Backend> = Section {
    name: "pool.backend",
    many: true,
    doc: "A server. A pool may have none: the API can add some, and until then its clients are treated as `no_backend` says.",
    within: &[],
    defaults: || Backend::at(NO_ADDRESS),
    settings: &[
        setting!(Backend.name: kinds::NAME, "Its name in logs, metrics and API.")
            .more("Two backends of a pool cannot share a name.")
            .absent("its address")
            .set("\"web1\"")
            .makes_another()
            .flag("name", ""),
        setting!(Backend.address: kinds::BACKEND_ADDRESS, "Where it listens.")
            .more(
                "With `10.0.0.1:same` its port is the one that the client connected to, with `10.0.0.1:+1000` one that is 1000 \
                 higher. Probes then need `health.port`.",
            )
            .see("operations.md#port-ranges")
            .absent("required")
            .set("\"127.0.0.1:8081\""),
        setting!(
            Backend.weight: number::<u16, 0, { u16::MAX as u64 }>(),
            "Its share relative to the others; 0 takes no new connections."
        )
        .example("5")
        .flag("weight", ""),
        setting!(Backend.max_connections: count::<u32>(), "Connections at once to it; a full backend is passed over.")
            .absent("no limit")
            .example("200")
            .flag("max-connections", "")
.proxy_only(COUNTS),
        setting!(Backend.backup: kinds::SWITCH, "A backup serves only when no other backend can.").flag("backup", ""),
        setting!(Backend.send_proxy: word::<SendProxy>(), "Overrides the pool's `send_proxy`.")
            .absent("the pool's")
            .example("\"off\""),
    ],
};

/// Reads the section; `None` if it has no good address. Every key is read in any case: all mistakes at once.
pub fn read(source: &Source<'_>) -> Option<Backend> {
    let mut backend = Backend::at(NO_ADDRESS);
    let taken = BACKEND.read(source, &mut backend);
    if !taken.has("name") {
        backend.name = backend.address.to_string();
        // The path of a unix socket may hold white space.
        if let (true, false, Err(why)) = (taken.has("address"), source.has("name"), check::name(&backend.name)) {
            source.wrong("address", format!("without a name the backend is called by its address, but {why}"));
        }
    }
    taken.has("address").then_some(backend)
}
