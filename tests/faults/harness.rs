//! A tcplb between the peers of a scenario, with a canary, two backends that are unreachable, and counters that must add up.

use crossbeam_channel::{Receiver, unbounded};
use parking_lot::MutexGuard;
use serde_json::Value;
use std::cell::Cell;
use std::fs;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use testkit::{
    Admin, BlackHole, Conn, Ending, PATIENCE, Running, Server, Tcplb, eventually, heavy, peers, raise_descriptor_limit,
    refusing,
};

/// What two workers keep is no leak. Each keeps 16 empty pipes for the next bulk, of two descriptors, and two descriptors
/// held back for times of need. Sockets are counted exactly.
const KEPT: usize = 2 * (16 * 2 + 2);

/// On a busy machine a thread opens its own after the first look.
const LATE: usize = 8;

pub struct Harness {
    tcplb: Running,
    admin: Admin,
    accepted: Receiver<Conn>,
    /// Pairs that were connected.
    pairs: Cell<u64>,
    before: Descriptors,
    _servers: [Server; 2],
    _hole: BlackHole,
    _alone: MutexGuard<'static, ()>,
}

#[derive(Clone, Copy, Debug)]
struct Descriptors {
    sockets: usize,
    others: usize,
}

/// In the order of the file.
#[derive(Clone, Copy)]
enum Listener {
    Scenario,
    Canary,
    Refuses,
    BlackHole,
    NoBackend,
}

impl Harness {
    /// Starts it; only one runs at a time.
    pub fn start(relay: &str) -> Harness {
        let alone = heavy();
        raise_descriptor_limit();
        let (accept, accepted) = unbounded();
        let scenario = Server::start(move |conn| accept.send(conn).map_err(std::io::Error::other));
        let echo = Server::start(peers::echo);
        let hole = BlackHole::start();
        let (scenario_at, echo_at, hole_at, refusing) = (scenario.at(), echo.at(), hole.at(), refusing());
        let mut file = tempfile::NamedTempFile::new().expect("a file for the configuration");
        let mut text = format!("[global]\nworkers = 2\nrelay = \"{relay}\"\nadmin = \"127.0.0.1:0\"\n");
        for (name, first, second) in [
            ("scenario", scenario_at, None),
            ("canary", echo_at, None),
            ("refuses", &refusing, Some(echo_at)),
            ("black-hole", hole_at, Some(echo_at)),
            ("no-backend", &refusing, None),
        ] {
            text += &format!("[[listener]]\nname = \"{name}\"\nbind = [\"127.0.0.1:0\"]\npool = \"{name}\"\n");
            text += &format!("[[pool]]\nname = \"{name}\"\nconnect_timeout = \"700ms\"\nhealth.kind = \"off\"\n");
            text += &format!("[[pool.backend]]\nname = \"first\"\naddress = \"{first}\"\n");
            if let Some(second) = second {
                text += &format!("[[pool.backend]]\nname = \"second\"\naddress = \"{second}\"\nbackup = true\n");
            }
        }
        file.write_all(text.as_bytes()).expect("write the configuration");
        let tcplb = Tcplb::from_file(file.path()).start();
        let (admin, before) = (Admin::of(&tcplb), Descriptors { sockets: 0, others: 0 });
        let (_servers, pairs) = ([scenario, echo], Cell::new(0));
        let mut harness = Harness { tcplb, admin, accepted, pairs, before, _servers, _hole: hole, _alone: alone };
        harness.before = harness.descriptors();
        harness
    }

    pub fn tcplb(&self) -> &Running {
        &self.tcplb
    }

    /// A client and the backend's end of its connection. Nothing has been written yet.
    pub fn pair(&self) -> (Conn, Conn) {
        let client = self.client_of(Listener::Scenario);
        self.pairs.set(self.pairs.get() + 1);
        (client, self.accepted.recv_timeout(PATIENCE).expect("the client's connection reaches the backend"))
    }

    /// A client that is first sent to a backend that does not answer, unless that is known by now. Echoes.
    pub fn client_of_the_black_hole(&self) -> Conn {
        self.client_of(Listener::BlackHole)
    }

    /// The same for one that refuses.
    pub fn client_of_the_refusing(&self) -> Conn {
        self.client_of(Listener::Refuses)
    }

    /// How a client ends whose only backend refuses.
    pub fn ending_with_no_backend(&self) -> Ending {
        Conn::try_to(&self.tcplb.listening()[Listener::NoBackend as usize])
            .map_or(Ending::Reset, |client| client.ending())
    }

    fn client_of(&self, listener: Listener) -> Conn {
        Conn::to(&self.tcplb.listening()[listener as usize])
    }

    /// How many connects to the first backend of a pool have failed.
    pub fn failed_connects(&self, pool: &str) -> u64 {
        let status = self.ask();
        let pools = status["pools"].as_array().expect("pools");
        let pool = pools.iter().find(|named| named["name"] == pool).expect("a pool of that name");
        pool["backends"][0]["connect_failures_total"].as_u64().expect("a number")
    }

    /// The processor time that tcplb uses while `work` goes on, and how long that is.
    pub fn cpu_while(&self, work: impl FnOnce()) -> (Duration, Duration) {
        let (before, since) = (self.tcplb.cpu_ticks(), Instant::now());
        work();
        (Duration::from_millis(10 * (self.tcplb.cpu_ticks() - before)), since.elapsed())
    }

    /// Does `work` while a well-behaved client, on old and on new connections, must get all of its bytes back.
    pub fn with_canary(&self, work: impl FnOnce()) {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let at = &self.tcplb.listening()[Listener::Canary as usize];
            let canary = scope.spawn(|| {
                let (stays, mut rounds) = (Conn::to(at), 0);
                while !over.load(Ordering::Relaxed) {
                    stays.assert_echoes("still here?");
                    let comes = Conn::to(at);
                    comes.assert_echoes("a new client");
                    comes.finish();
                    assert_eq!(comes.ending(), Ending::Fin);
                    rounds += 1;
                }
                rounds
            });
            // The canary's loop ends with this, whatever becomes of the work.
            let stop = Stop(&over);
            work();
            drop(stop);
            assert!(canary.join().expect("the canary is served") > 0, "the canary came too late");
        });
    }

    /// All clients have left: nothing of them is open, and every connection is accounted for.
    pub fn close(mut self) {
        let idle = |status: &Value| {
            let all = |list: &Value| list.as_array().expect("a list").iter().all(|one| one["active_connections"] == 0);
            all(&status["listeners"])
                && status["pools"].as_array().expect("pools").iter().all(|pool| all(&pool["backends"]))
        };
        eventually("no connection is active", || idle(&self.ask()));
        let before = self.before;
        let back = |now: Descriptors| now.sockets <= before.sockets && now.others <= before.others + KEPT + LATE;
        eventually(&format!("descriptors are back to {before:?}"), || back(self.descriptors()));
        let status = self.ask();
        assert_eq!(status["listeners"][0]["accepted_total"], self.pairs.get(), "{status:#}");
        assert_eq!(status["pools"][0]["backends"][0]["connections_total"], self.pairs.get(), "{status:#}");
        assert_eq!(self.tcplb.count_lines("ERROR") + self.tcplb.count_lines("panicked"), 0, "{}", self.tcplb.output());
        self.tcplb.signal(rustix::process::Signal::TERM);
        assert_eq!(self.tcplb.wait_exit().code(), Some(0));
    }

    fn ask(&self) -> Value {
        self.admin.get("/v1/status").json(200)
    }

    fn descriptors(&self) -> Descriptors {
        let open = fs::read_dir(format!("/proc/{}/fd", self.tcplb.pid())).expect("list its descriptors");
        // One may be closed between being listed and being looked at.
        let kinds = open.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        let (sockets, others): (Vec<_>, Vec<_>) = kinds.partition(|kind| kind.to_string_lossy().starts_with("socket:"));
        Descriptors { sockets: sockets.len(), others: others.len() }
    }
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
