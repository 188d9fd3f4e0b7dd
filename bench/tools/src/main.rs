//! Tools of the benchmarks: a load generator that sends at fixed times, and a relay that does nothing but relay.

mod answer;
mod arguments;
mod floor;
mod load;
mod report;

use std::process::ExitCode;

const USAGE: &str = "\
tcplb-bench load ADDRESS --kind kept|short|flood --connections N --rate N --seconds N [--warm-up N]
    sends requests at fixed times: prints `begins` when it starts, then what became of the requests as JSON
tcplb-bench floor LISTEN=BACKEND... [--threads N] [--splice true]
    relays connections; with LISTEN=close it accepts and closes them";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let done = match words.next().as_deref() {
        Some("load") => arguments::plan(words).and_then(|plan| load::run(&plan)).map(|report| println!("{report}")),
        Some("floor") => arguments::routes(words).and_then(|routes| floor::run(&routes)),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tcplb-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
