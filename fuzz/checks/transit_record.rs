//! The record of a connection that comes from another process. Whatever it says, it is refused or its session goes on. A record that
//! is read is written as the same record. A field of a later release changes nothing.

use std::sync::Arc;
use std::time::Duration;
use tcplb::base::{Address, Endpoint, Tick};
use tcplb::config::model::{self, Model};
use tcplb::pool::{self, Lease, Listener, Resolved};
use tcplb::session::{Direction, Fact, Input, Ledger, Moved, Route, Session, Side};
use tcplb::worker::driver::transit::{Incoming, Record};

/// The parts of a record that may have further fields.
const PARTS: [&str; 15] = [
    "",
    "/session",
    "/session/relay",
    "/session/relay/up",
    "/session/relay/failed",
    "/session/history",
    "/session/left",
    "/session/sniffing",
    "/session/first",
    "/session/first/sniffed",
    "/client",
    "/client/ready",
    "/client/watch",
    "/backend",
    "/up",
];

/// Fails if a promise is broken.
pub fn check(bytes: &[u8]) {
    let Ok(record) = serde_json::from_slice::<Record>(bytes) else { return };
    let mut written = serde_json::to_value(&record).expect("it can be written");
    assert_eq!(serde_json::from_value::<Record>(written.clone()).expect("it can be read"), record);
    for part in PARTS {
        if let Some(part) = written.pointer_mut(part).and_then(|part| part.as_object_mut()) {
            part.insert("of_a_later_release".into(), serde_json::json!([{ "any": "thing" }]));
        }
    }
    assert_eq!(serde_json::from_value::<Record>(written).expect("it can be read"), record);
    let backend = record.backend.map(|_| ());
    let pipe = |bytes: usize| (bytes > 0).then_some(());
    let (up, down) = (pipe(record.up.in_pipe), pipe(record.down.in_pipe));
    let incoming = Incoming { record, client: (), backend, up, down };
    if incoming.check().is_ok() {
        goes_on(&incoming.record);
    }
}

/// Takes no notice.
struct Silent;

impl Ledger for Silent {
    fn record(&mut self, _: Fact<'_>, _: Tick) {}
}

fn listener() -> Arc<Listener> {
    let at = ([10, 0, 0, 1], 80).into();
    let backends = vec![model::Backend { name: "b".into(), ..model::Backend::at(Address::Inet(at)) }];
    let resolved = Resolved::from([(("p".into(), "b".into()), vec![Endpoint::Inet(at)])]);
    let pools = vec![model::Pool { name: "p".into(), backends, ..model::Pool::default() }];
    let listeners = vec![model::Listener { pool: "p".into(), ..model::Listener::default() }];
    let model = Model { global: model::Global::default(), listeners, pools };
    pool::build(&model, &resolved).listeners[0].clone()
}

/// Its session is rebuilt, and takes what may come.
fn goes_on(record: &Record) {
    let listener = listener();
    let member = &listener.pool.members[0];
    let mut now = Tick(1 << 40);
    let lease = record.session.relay.as_ref().and_then(|_| Lease::take(&member.backend, member.slot, u32::MAX));
    let route = Route::Pool(listener.pool.clone());
    let restored = Session::restore(&record.session, record.id, listener.totals.clone(), route, lease, now);
    let mut session = restored.expect("its parts fit together");
    assert!(session.save(now).is_some() && session.live().is_some());
    let moved = Moved { read: 3, written: 5, ..Moved::default() };
    for input in [
        Input::Deadline,
        Input::Moved(Direction::Up, moved),
        Input::Moved(Direction::Down, moved),
        Input::Moved(Direction::Up, Moved { fin: true, ..moved }),
        Input::Unsent(1),
        Input::Deadline,
        Input::Reset(Side::Client),
        Input::Unsent(0),
        Input::Deadline,
    ] {
        session.handle(input, now, &mut Silent);
        session.report(now);
        now = now + Duration::from_millis(700);
    }
}
