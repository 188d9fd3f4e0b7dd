//! Tests that need no network. They run the library under a seed and on every input that a fuzzer kept. They check the
//! promises of the pages and the layers against the sources and the built program.
#![forbid(unsafe_code)]

mod agreement;
mod bounded;
mod corpora;
mod docs;
mod english;
mod layers;
mod monitoring;
mod packages;
mod promises;
mod settings;
mod simulation;
