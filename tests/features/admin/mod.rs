//! The admin API from outside: every call and every way to refuse one, over HTTP to the real process; the command line's
//! clients; the messages to the service manager.

mod advice;
mod bounds;
mod calls;
mod clients;
mod connections;
mod crowd;
mod discovered;
mod events;
mod exact;
mod explain;
mod exposition;
mod findings;
mod follow;
mod metrics;
mod probe;
mod prometheus;
mod routes;
mod scale;
mod schema;
mod state_file;
mod support;
mod systemd;
