//! Pools in which one server has a role that moves, with real servers and the presets.

mod postgres;
mod redis;
