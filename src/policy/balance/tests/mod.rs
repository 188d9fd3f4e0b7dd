//! Properties of the algorithms, of all and one by one. This file has the pool state that the tests use.

mod by_address;
mod by_load;
mod every;
mod in_turn;
mod paper;
mod previews;

use super::*;

/// The state of a pool that tests change.
pub struct World {
    pub up: AtomicBits,
    pub loads: Vec<Arc<LoadBlock>>,
    pub limits: Vec<u32>,
    pub tried: Vec<u32>,
    pub now: Tick,
}

impl World {
    /// All backends up, idle, without limits or measurements.
    pub fn new(len: usize) -> World {
        World {
            up: AtomicBits::new(len, true),
            loads: (0..len.div_ceil(WORD)).map(|_| Arc::default()).collect(),
            limits: vec![u32::MAX; len],
            tried: Vec::new(),
            now: Tick(1),
        }
    }

    pub fn view(&self) -> View<'_> {
        View { up: &self.up, group: None, loads: &self.loads, limits: &self.limits, tried: &self.tried, now: self.now }
    }

    pub fn take_down(&self, indexes: &[usize]) {
        indexes.iter().for_each(|&index| self.up.set(index, false));
    }

    pub fn set_active(&self, index: usize, active: u32) {
        self.loads[index / WORD].active(index % WORD).store(active, Ordering::Relaxed);
    }

    pub fn set_latency(&self, index: usize, latency_us: u32) {
        let block = &self.loads[index / WORD];
        if latency_us > 0 {
            block.answered(index % WORD, std::time::Duration::from_micros(latency_us.into()), self.now);
        }
    }
}

/// Members with these weights, each with its own address.
pub fn members(weights: &[u16]) -> Vec<Member> {
    let key = |index| format!("10.0.{}.{}:8080", index / 256, index % 256);
    weights.iter().enumerate().map(|(index, &weight)| Member { key: key(index), weight }).collect()
}

/// One of many clients, by number.
pub fn client(number: u32) -> Client {
    Client { ip: Some(IpAddr::V4(number.into())) }
}

/// An algorithm built for members with these weights.
pub fn built(name: &str, weights: &[u16]) -> Box<dyn Balance> {
    (find(name).unwrap().build)(&members(weights), 0)
}

/// How often each of `len` backends is chosen by `clients` different clients, whose connections stay open.
pub fn counts(balance: &dyn Balance, world: &World, len: usize, clients: u32) -> Vec<u32> {
    let (mut counts, mut random) = (vec![0; len], fastrand::Rng::with_seed(7));
    for number in 0..clients {
        let index = balance.pick(client(number), &world.view(), &mut random).unwrap();
        counts[index] += 1;
        world.set_active(index, counts[index]);
    }
    counts
}
