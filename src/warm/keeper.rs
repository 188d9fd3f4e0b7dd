//! The keeper's loop: one turn takes orders and events, ends what is due, and dials what is missing.

use super::{Adopt, ORDERS, Orders};
use crate::base::Tick;
use crate::base::slots::{Key, Slots};
use crate::clock;
use crate::config::model::HealthKind;
use crate::mailbox::Slot;
use crate::net::{Connecting, DialOptions, Idle, Socket, TcpTuning};
use crate::policy::warm::{DIALS_AT_ONCE, FAREWELL, Pause, SHORT_LIVED, lifetime, wanted};
use crate::pool::{Backend, BackendId, Member, Pool, Snapshot, WarmConnection, WarmPhase};
use crate::watchdog::Heartbeat;
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::collections::HashMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

/// The time between two turns, while a pool has warm connections. Workers take connections without a message to the keeper.
pub const TURN: Duration = Duration::from_millis(20);

/// Dials that one turn begins, over all backends.
pub const DIALS: usize = 64;

/// What can happen on a warm connection.
const INTEREST: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// The state of the thread.
pub struct Keeper {
    poll: Poll,
    orders: Arc<Slot<Orders>>,
    tuning: TcpTuning,
    /// The most connections, of all backends.
    most: u64,
    heartbeat: Heartbeat,
    /// The start of this turn, on [`clock`].
    now: Tick,
    /// The next one is due.
    turn_at: Tick,
    /// The process drains.
    draining: bool,
    kept: Slots<Kept>,
    by_id: HashMap<BackendId, Key>,
    /// Where the next turn begins, so that the bound on dials favours no backend.
    start: usize,
    next_id: u32,
    random: fastrand::Rng,
}

/// A backend with warm connections.
struct Kept {
    pool: Arc<Pool>,
    /// Its position in the pool's members.
    position: usize,
    backend: Arc<Backend>,
    limit: u32,
    pause: Pause,
}

/// How a warm connection ended without a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// After a life that was long enough.
    InTime,
    /// The dial failed, or the backend closed it at once.
    Early,
    /// The backend speaks first.
    Spoke,
}

impl Keeper {
    pub fn new(poll: Poll, orders: Arc<Slot<Orders>>, tuning: TcpTuning, most: u64, heartbeat: Heartbeat) -> Keeper {
        let now = clock::now();
        Keeper {
            poll,
            orders,
            tuning,
            most,
            heartbeat,
            now,
            turn_at: now,
            draining: false,
            kept: Slots::default(),
            by_id: HashMap::new(),
            start: 0,
            next_id: 0,
            random: fastrand::Rng::new(),
        }
    }

    /// Runs until a stop.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(256);
        loop {
            self.heartbeat.beat();
            match self.poll.poll(&mut events, self.sleep()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    // epoll_wait(2) has no other error that a retry would fix.
                    log::error!("there are no warm connections any more: {error}");
                    self.go_without();
                    break;
                }
            }
            self.now = clock::now();
            if let Some(orders) = self.orders.take() {
                if orders.end {
                    break;
                }
                self.carry_out(orders);
            }
            for event in &events {
                self.handle(event);
            }
            if self.turn_at <= self.now {
                self.turn_at = self.now + TURN;
                self.turn();
            }
        }
        self.close_all();
        self.heartbeat.end();
    }

    /// Takes orders until the end: control waits for those that it has given.
    fn go_without(&mut self) {
        self.close_all();
        while self.orders.take().is_none_or(|orders| !orders.end) {
            self.heartbeat.beat();
            thread::park_timeout(TURN);
        }
    }

    fn carry_out(&mut self, Orders { adopt, drain, .. }: Orders) {
        self.draining |= drain;
        match adopt {
            _ if self.draining => self.close_all(),
            Some(Adopt { snapshot, .. }) => self.adopt(&snapshot),
            None => {}
        }
    }

    fn sleep(&self) -> Option<Duration> {
        (!self.kept.is_empty()).then(|| self.turn_at - clock::now())
    }

    /// Keeps connections to the backends of this snapshot. Those that left, or whose pool has no warm connections any more, have
    /// none from now on.
    fn adopt(&mut self, snapshot: &Snapshot) {
        let mut known = std::mem::take(&mut self.by_id);
        for pool in &snapshot.pools {
            if pool.settings.warm_connections == 0 {
                // Once it has some again, its backends show again whether they speak first.
                pool.totals.speaks_first.store(false, Ordering::Relaxed);
                continue;
            }
            for (position, (member, settings)) in pool.members.iter().zip(&pool.settings.backends).enumerate() {
                let limit = settings.max_connections.unwrap_or(u32::MAX);
                let (id, backend) = (member.backend.id, &member.backend);
                backend.warm.keep(limit);
                let kept = known.remove(&id);
                let pause = kept.and_then(|key| self.kept.get(key)).map(|kept| kept.pause).unwrap_or_default();
                let next = Kept { pool: pool.clone(), position, backend: backend.clone(), limit, pause };
                let key = match kept {
                    Some(key) => self.kept.get_mut(key).map(|kept| *kept = next).map(|()| key),
                    None => self.kept.insert_with(|_| next),
                };
                self.by_id.extend(key.map(|key| (id, key)));
            }
        }
        for key in known.into_values() {
            if let Some(kept) = self.kept.remove(key) {
                kept.backend.warm.end();
            }
        }
        // What no longer fits the settings is closed before control goes on.
        self.turn_at = self.now;
        self.close_unwanted();
    }

    fn close_all(&mut self) {
        for key in self.kept.keys() {
            if let Some(kept) = self.kept.remove(key) {
                kept.backend.warm.end();
            }
        }
        self.by_id.clear();
    }

    /// An event may be of a connection that a worker has taken out meanwhile, or of an earlier one: then it finds nothing.
    fn handle(&mut self, event: &Event) {
        let Some((slot, id)) = decode(event.token()) else { return };
        let (now, random) = (self.now, self.random.u16(..));
        let Some(key) = self.kept.key_of(slot) else { return };
        let Some(kept) = self.kept.get_mut(key) else { return };
        let ended = kept.backend.warm.change(|table| {
            let at = table.iter().position(|connection| connection.id == id)?;
            let connection = &mut table[at];
            let end = connection.look(event.is_read_closed() || event.is_error(), now, random);
            end.inspect(|_| drop(table.remove(at)))
        });
        if let Some(end) = ended {
            kept.note(end, now);
        }
    }

    /// Ends what is due, and dials what is missing.
    fn turn(&mut self) {
        self.close_unwanted();
        let keys = self.kept.keys();
        if keys.is_empty() {
            return;
        }
        let open = keys.iter().filter_map(|key| self.kept.get(*key)).map(|kept| u64::from(kept.backend.warm.open()));
        let room = self.most.saturating_sub(open.sum());
        let mut dials = usize::try_from(room).map_or(DIALS, |room| room.min(DIALS));
        for step in 0..keys.len() {
            let key = keys[(self.start + step) % keys.len()];
            while dials > 0 && self.dial(key) {
                dials -= 1;
            }
            if dials == 0 {
                self.start = (self.start + step) % keys.len();
                return;
            }
        }
    }

    /// Closes connections whose time is over, and those that are not wanted any more.
    fn close_unwanted(&mut self) {
        let now = self.now;
        for key in self.kept.keys() {
            let Some(kept) = self.kept.get_mut(key) else { continue };
            if kept.usable().is_none() {
                // Failures from before it went down say nothing of it once it is up again.
                kept.pause = Pause::default();
            }
            if kept.backend.warm.open() == 0 {
                continue;
            }
            let mut ends = Vec::new();
            let serving = kept.serving();
            kept.backend.warm.change(|table| {
                table.retain(|connection| match connection.phase {
                    _ if !serving.contains(&connection.address) => false,
                    _ if now < connection.until => true,
                    WarmPhase::Connecting => {
                        ends.push(End::Early);
                        false
                    }
                    WarmPhase::Ready => {
                        ends.push(End::InTime);
                        false
                    }
                    WarmPhase::Spoke => {
                        ends.push(End::Spoke);
                        false
                    }
                });
                let most = kept.wanted();
                if table.len() > most {
                    // The oldest ones: the others stay usable for longer.
                    table.drain(..table.len() - most);
                }
            });
            ends.into_iter().for_each(|end| kept.note(end, now));
        }
    }

    /// Dials one more connection to a backend, if it lacks one.
    fn dial(&mut self, key: Key) -> bool {
        let Keeper { poll, tuning, next_id, now, kept, .. } = self;
        let now = *now;
        let Some(kept) = kept.get_mut(key) else { return false };
        if !kept.pause.is_over(now) || kept.backend.warm.open() as usize >= kept.wanted() {
            return false;
        }
        let until = now + kept.pool.settings.connect_timeout;
        let dialled = kept.backend.warm.change(|table| {
            let connecting = table.iter().filter(|connection| connection.phase == WarmPhase::Connecting).count();
            // Again under the lock: no lease may come in between.
            if table.len() >= kept.wanted() || connecting >= DIALS_AT_ONCE {
                return Ok(false);
            }
            let Some(address) = kept.address(table) else { return Ok(false) };
            let Some(to) = kept.backend.addresses.get(address) else { return Ok(false) };
            let how = DialOptions { from: kept.pool.dial_source(None), quietly: false, buffer: tuning.buffer };
            let Connecting { socket, source, .. } = Socket::dial_with(&to.endpoint, &how)?;
            let socket = socket.into_fd();
            *next_id = next_id.wrapping_add(1);
            let id = *next_id;
            // An event comes even if it is connected already.
            poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), encode(key.slot, id), INTEREST)?;
            let phase = WarmPhase::Connecting;
            table.push(WarmConnection { id, address, socket, source, phase, since: now, until });
            Ok(true)
        });
        dialled.unwrap_or_else(|error: io::Error| {
            log::debug!("can't dial a warm connection to {}: {error}", kept.backend.name);
            kept.note(End::Early, now);
            false
        })
    }
}

impl Kept {
    /// How many it is to have now.
    fn wanted(&self) -> usize {
        let Some(member) = self.usable().filter(|_| !self.pool.totals.speaks_first.load(Ordering::Relaxed)) else {
            return 0;
        };
        let room = if self.limit == u32::MAX { u32::MAX } else { self.limit.saturating_sub(self.backend.active()) };
        wanted(self.pool.settings.warm_connections, self.pool.share(member), room)
    }

    /// The backend in its pool, if it takes connections. One whose last probe failed has none kept: it may have vanished, and a
    /// warm connection to it would not show that.
    fn usable(&self) -> Option<&Member> {
        let member = self.pool.members.get(self.position);
        let fails = || self.backend.health.lock().transition.is_some_and(|transition| transition.up);
        member.filter(|member| member.weight > 0 && self.pool.is_usable(member) && !fails())
    }

    /// The addresses that may have warm connections, by their numbers. As for the backend as a whole, a failed probe is enough
    /// to leave one out.
    fn serving(&self) -> Vec<usize> {
        let probed = self.pool.settings.health.kind != HealthKind::Off;
        let health = self.backend.health.lock();
        let fails =
            |number: usize| probed && matches!(health.addresses.get(number), Some(Some(last)) if !last.passed());
        let addresses = self.backend.addresses.iter().enumerate();
        addresses.filter(|(number, at)| at.takes_warm() && !fails(*number)).map(|(number, _)| number).collect()
    }

    /// The number of the address with the fewest connections, of those that serve: clients use the addresses in turn.
    fn address(&self, table: &[WarmConnection]) -> Option<usize> {
        let has = |number: usize| table.iter().filter(|connection| connection.address == number).count();
        self.serving().into_iter().min_by_key(|number| has(*number))
    }

    fn note(&mut self, end: End, now: Tick) {
        match end {
            End::InTime => self.pause.succeeded(),
            End::Early => self.pause.failed(now),
            End::Spoke => {
                let (pool, backend) = (&self.pool.settings.name, &self.backend.name);
                if !self.pool.totals.speaks_first.swap(true, Ordering::Relaxed) {
                    log::warn!(
                        "pool {pool}: backend {backend} sends bytes before the client does: the pool keeps no warm \
                         connections. warm_connections is for protocols in which the client speaks first"
                    );
                }
            }
        }
    }
}

impl WarmConnection {
    /// Takes an event. `closed`: the peer has closed it, or it has failed. The end, if it has ended.
    fn look(&mut self, closed: bool, now: Tick, random: u16) -> Option<End> {
        let idle = Socket::look(&self.socket);
        match (self.phase, idle) {
            (WarmPhase::Connecting, Idle::Silent) => {
                (self.phase, self.since) = (WarmPhase::Ready, now);
                self.until = now + lifetime(random);
                None
            }
            (WarmPhase::Connecting, Idle::Closed(_)) => Some(End::Early),
            (_, Idle::Closed(_)) => Some(self.closed(now)),
            (_, Idle::Spoke) if closed => Some(self.closed(now)),
            (WarmPhase::Connecting | WarmPhase::Ready, Idle::Spoke) => {
                (self.phase, self.until) = (WarmPhase::Spoke, now + FAREWELL);
                None
            }
            (WarmPhase::Ready, Idle::Silent) | (WarmPhase::Spoke, _) => None,
        }
    }

    fn closed(&self, now: Tick) -> End {
        if now - self.since < SHORT_LIVED { End::Early } else { End::InTime }
    }
}

/// The slot of a backend and the number of its connection, in one number. 64-bit only, as the whole of tcplb is.
fn encode(slot: u32, id: u32) -> Token {
    Token((u64::from(slot) << 32 | u64::from(id)) as usize)
}

/// `None`: it is not of a connection.
fn decode(token: Token) -> Option<(u32, u32)> {
    let bits = token.0 as u64;
    (token != ORDERS).then_some(((bits >> 32) as u32, bits as u32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Address, Endpoint};
    use crate::config::model::{self, Model};
    use crate::policy::health::Outcome;
    use crate::pool;
    use std::fs::File;
    use std::os::fd::OwnedFd;

    #[test]
    fn a_token_names_backend_and_connection() {
        for (slot, id) in [(0, 0), (0, 1), (7, u32::MAX), (u32::MAX - 1, u32::MAX)] {
            assert_eq!(decode(encode(slot, id)), Some((slot, id)));
        }
        assert_eq!(decode(ORDERS), None);
    }

    #[test]
    fn connections_to_an_address_that_fails_are_closed_and_the_others_stay() {
        let backends =
            vec![model::Backend { name: "b".into(), ..model::Backend::at(Address::parse_backend("a:1").unwrap()) }];
        let pool = model::Pool { name: "web".into(), warm_connections: 4, backends, ..model::Pool::default() };
        let model = Model { global: model::Global::default(), listeners: Vec::new(), pools: vec![pool] };
        let endpoints = [1, 2].map(|host| Endpoint::Inet(([10, 0, 0, host], 80).into()));
        let snapshot = pool::build(&model, &[(("web".to_owned(), "b".to_owned()), endpoints.to_vec())].into());
        let backend = snapshot.pools[0].members[0].backend.clone();
        let (poll, orders) = (Poll::new().unwrap(), crate::warm::prepare().unwrap().access().orders);
        let mut keeper = Keeper::new(poll, orders, TcpTuning::of(&model.global), 100, Heartbeat::default());
        keeper.adopt(&snapshot);
        let (since, until) = (keeper.now, keeper.now + Duration::from_secs(60));
        let mut left = || {
            backend.warm.change(|table| {
                table.clear();
                for (id, address) in [(0, 0), (1, 1), (2, 0), (3, 1)] {
                    let socket = OwnedFd::from(File::open("/dev/null").unwrap());
                    table.push(WarmConnection {
                        id,
                        address,
                        socket,
                        source: None,
                        phase: WarmPhase::Ready,
                        since,
                        until,
                    });
                }
            });
            keeper.close_unwanted();
            let next = keeper.kept.get(keeper.kept.keys()[0]).unwrap().address(&[]);
            backend.warm.change(|table| (table.iter().map(|it| it.id).collect::<Vec<_>>(), next))
        };
        assert_eq!(left(), (vec![0, 1, 2, 3], Some(0)));
        // One failed probe, while the address still counts as up and the other one passes.
        backend.health.lock().addresses = vec![Some(Outcome::TimedOut(SHORT_LIVED)), Some(Outcome::Connected)];
        assert_eq!(left(), (vec![1, 3], Some(1)));
        backend.health.lock().addresses[0] = Some(Outcome::Connected);
        assert_eq!(left(), (vec![0, 1, 2, 3], Some(0)));
        backend.addresses.get(1).unwrap().set_up(false);
        assert_eq!(left(), (vec![0, 2], Some(0)));
        backend.addresses.get(1).unwrap().set_up(true);
        backend.addresses.failed(0, since);
        assert_eq!(left(), (vec![1, 3], Some(1)));
    }
}
