//! How long it takes to decide whether a client is admitted. It measures access lists of 100, 10 000 and 100 000 prefixes,
//! and the table of sources with 200 000 of them in it.
//!
//! A third of the prefixes nest in others; the addresses asked are random, so that the search finds nothing in the cache that
//! it would not find in life. Run with `cargo bench --bench limits`.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::hint::black_box;
use std::net::IpAddr;
use tcplb::base::Tick;
use tcplb::policy::limit::{Access, Enforcement, Rules, Sources};

const ASKED: usize = 65_536;

fn prefix(v6: bool, random: &mut fastrand::Rng) -> IpNet {
    if v6 {
        IpNet::V6(Ipv6Net::new_assert(random.u128(..).into(), random.u8(20..65)))
    } else {
        IpNet::V4(Ipv4Net::new_assert(random.u32(..).into(), random.u8(8..33)))
    }
}

fn access(bench: &mut Criterion) {
    let mut group = bench.benchmark_group("access");
    for (family, v6) in [("ipv4", false), ("ipv6", true)] {
        for prefixes in [100usize, 10_000, 100_000] {
            let mut random = fastrand::Rng::with_seed(prefixes as u64);
            let mut list = |count| (0..count).map(|_| prefix(v6, &mut random)).collect::<Vec<_>>();
            let (allow, deny) = (list(prefixes / 2), list(prefixes / 2));
            let access = Access::new(&allow, &deny);
            let ip = |random: &mut fastrand::Rng| match v6 {
                true => IpAddr::V6(random.u128(..).into()),
                false => IpAddr::V4(random.u32(..).into()),
            };
            let asked: Vec<IpAddr> = (0..ASKED).map(|_| ip(&mut random)).collect();
            let mut turn = 0;
            group.bench_function(BenchmarkId::new(family, prefixes), |bench| {
                bench.iter(|| {
                    turn = (turn + 1) % ASKED;
                    black_box(access.allows(asked[turn]))
                });
            });
            group.bench_function(BenchmarkId::new(format!("{family}_build"), prefixes), |bench| {
                bench.iter(|| black_box(Access::new(&allow, &deny)));
            });
        }
    }
}

fn sources(bench: &mut Criterion) {
    let sources = Sources::new(Rules { connections: Some(100), per_second: Some(1_000_000) });
    let ip = |number: u32| IpAddr::V4(number.wrapping_mul(2_654_435_761).into());
    let _held: Vec<_> = (0..200_000).map(|number| sources.enter(ip(number), Tick(1), Enforcement::Enforced)).collect();
    let mut number = 0;
    bench.bench_function("source_enter_and_leave", |bench| {
        bench.iter(|| {
            number = (number + 7_919) % 200_000;
            let admitted = sources.enter(ip(number), Tick(1), Enforcement::Enforced);
            admitted.into_iter().filter_map(|admitted| admitted.source).for_each(|source| sources.leave(source));
        });
    });
}

criterion_group!(benches, access, sources);
criterion_main!(benches);
