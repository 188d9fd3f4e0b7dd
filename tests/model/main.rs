//! What needs no network: the library under a seed and on every input that a fuzzer kept, and what the pages and the layers
//! promise, checked against the sources and the built program.
#![forbid(unsafe_code)]

mod corpora;
mod docs;
mod layers;
mod promises;
mod settings;
mod simulation;
