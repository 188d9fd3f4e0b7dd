//! How long a choice takes: every algorithm over 10, 1 000 and 10 000 backends, all up and with every tenth down.
//!
//! Backends have weights from 1 to 5, a few dozen connections and different latencies, so that no scan ends early; the
//! clients come from 4 096 addresses, each seen before. Run with `cargo bench --bench choosing`.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tcplb::base::bits::WORD;
use tcplb::base::{AtomicBits, Tick};
use tcplb::policy::balance::{Client, LoadBlock, Member, REGISTRY, View};

const CLIENTS: usize = 4096;

fn choosing(bench: &mut Criterion) {
    for (group, down_every) in [("choosing", usize::MAX), ("choosing_with_a_tenth_down", 10)] {
        let mut group = bench.benchmark_group(group);
        for len in [10usize, 1_000, 10_000] {
            let mut random = fastrand::Rng::with_seed(len as u64);
            let members: Vec<Member> = (0..len)
                .map(|index| Member {
                    key: format!("10.{}.{}.1:80", index / 256, index % 256),
                    weight: 1 + index as u16 % 5,
                })
                .collect();
            let loads: Vec<Arc<LoadBlock>> = (0..len.div_ceil(WORD)).map(|_| Arc::default()).collect();
            let (up, limits) = (AtomicBits::new(len, true), vec![u32::MAX; len]);
            for index in 0..len {
                let block = &loads[index / WORD];
                block.active(index % WORD).store(random.u32(20..60), Ordering::Relaxed);
                block.answered(index % WORD, Duration::from_micros(random.u64(200..5_000)), Tick(1));
                up.set(index, index % down_every != 1);
            }
            let view = View { up: &up, group: None, loads: &loads, limits: &limits, tried: &[], now: Tick(1) };
            let clients: Vec<Client> =
                (0..CLIENTS).map(|_| Client { ip: Some(IpAddr::V4(random.u32(..).into())) }).collect();
            for row in REGISTRY {
                let balance = (row.build)(&members, 0);
                for &client in &clients {
                    black_box(balance.pick(client, &view, &mut random));
                }
                let mut turn = 0;
                group.bench_function(BenchmarkId::new(row.name, len), |bench| {
                    bench.iter(|| {
                        turn = (turn + 1) % CLIENTS;
                        black_box(balance.pick(clients[turn], &view, &mut random))
                    });
                });
            }
        }
    }
}

criterion_group!(benches, choosing);
criterion_main!(benches);
