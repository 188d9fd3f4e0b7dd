//! The pages are true as far as a program can check. Each command parses, each link leads somewhere, and each TOML block is valid.
//! The tables hold every key, metric and call.

pub mod commands;
mod pages;
mod tables;
