//! Other people's clients and servers, with tcplb in between. Each test skips if its tools are not installed.

mod haproxy;
mod iperf;
mod nginx;
mod one_port;
mod postgres;
mod redis;
mod routes;
mod scripts;
