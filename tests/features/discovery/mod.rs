//! Sources of backends: what each kind finds, and what no source ever does. `source` runs one source without a balancer.

mod etcd;
mod file;
mod source;
