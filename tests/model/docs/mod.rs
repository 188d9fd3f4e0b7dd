//! The pages are true as far as a program can check: each command parses, each link leads somewhere, each TOML block is valid, and
//! the tables hold every key, metric and call.

mod commands;
mod pages;
mod tables;
