//! `engine = "kernel"`: the kernel forwards, and tcplb keeps its rules. Clients, balancer and servers are machines of their own.

mod approximate;
mod changes;
mod figures;
mod forwards;
mod helper;
mod lab;
mod outlives;
mod refused;
