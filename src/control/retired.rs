//! What is out of force: old snapshots, and those of their pools and listeners that have successors.
//!
//! The thread that drops the last reference frees them. A pool of 30 000 backends takes it a millisecond, and a worker would relay
//! nothing meanwhile. So control keeps a reference to each, and frees those that no other thread has any more. It keeps nothing
//! alive for longer than until its next look.

use crate::pool::Snapshot;
use std::any::Any;
use std::collections::HashSet;
use std::sync::Arc;

/// Snapshots, pools and listeners.
#[derive(Default)]
pub(super) struct Retired(Vec<Arc<dyn Any + Send + Sync>>);

impl Retired {
    /// `old` is out of force, and `new` is in its place.
    pub(super) fn add(&mut self, old: &Arc<Snapshot>, new: &Snapshot) {
        let pools: HashSet<_> = new.pools.iter().map(Arc::as_ptr).collect();
        let listeners: HashSet<_> = new.listeners.iter().map(Arc::as_ptr).collect();
        // A snapshot refers to the others, so it is looked at before them.
        self.0.push(old.clone());
        for pool in old.pools.iter().filter(|pool| !pools.contains(&Arc::as_ptr(pool))) {
            self.0.push(pool.clone());
        }
        for listener in old.listeners.iter().filter(|listener| !listeners.contains(&Arc::as_ptr(listener))) {
            self.0.push(listener.clone());
        }
    }

    /// Frees what no other thread has. A listener refers to its pool, and stands behind it: the pool is freed at the next look.
    pub(super) fn look(&mut self) {
        self.0.retain(|one| Arc::strong_count(one) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::{Global, Listener, Model, Pool};
    use crate::pool;
    use std::collections::HashMap;

    #[test]
    fn the_last_reference_is_dropped_by_control_and_only_what_others_have_is_kept() {
        let pools = ["kept", "changed"].map(|name| Pool { name: name.to_owned(), ..Pool::default() });
        let listener = Listener { name: "web".to_owned(), pool: "changed".to_owned(), ..Listener::default() };
        let mut model = Model { global: Global::default(), listeners: vec![listener], pools: pools.to_vec() };
        let old = Arc::new(pool::build(&model, &HashMap::new()));
        model.pools[1].max_queue += 1;
        let plan = pool::SnapshotPlan {
            model: &model,
            resolved: &HashMap::new(),
            addresses: &[],
            states: &[],
            now: crate::base::Tick(1),
        };
        let new = pool::next(Some(&old), &plan);
        let of_worker = (old.clone(), old.pools[1].clone(), Arc::downgrade(&old.pools[1]));
        let mut retired = Retired::default();
        retired.add(&old, &new);
        drop(old);
        retired.look();
        assert_eq!(retired.0.len(), 3, "the snapshot, the pool and the listener");
        let (snapshot, pool, freed) = of_worker;
        drop(snapshot);
        (0..2).for_each(|_| retired.look());
        assert_eq!(retired.0.len(), 1, "a connection has the pool");
        drop(pool);
        assert_eq!(freed.strong_count(), 1, "a worker frees nothing");
        retired.look();
        assert_eq!((retired.0.len(), freed.strong_count()), (0, 0));
    }
}
