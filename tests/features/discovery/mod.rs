//! Sources of backends: what each kind finds, and what no source ever does. `source` runs one source without a balancer; `fake`
//! serves what can't be installed here, and `secure` has certificates.

mod built;
mod consul;
mod control;
mod dns;
mod etcd;
mod fake;
mod file;
mod kubernetes;
mod secure;
mod source;
