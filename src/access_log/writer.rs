//! The thread: sheets out, the file opened again when somebody wishes it.

use super::{Lines, Target, count, lose};
use crate::pool::LogTotals;
use crossbeam_channel::{Receiver, select_biased};
use std::time::{Duration, Instant};

/// How often an error that lasts is told.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Runs until no worker is left that could send a sheet. `wishes` must stay connected meanwhile.
pub fn run(mut target: Target, sheets: &Receiver<Lines>, wishes: &Receiver<()>, totals: &LogTotals) {
    let mut told: Option<Instant> = None;
    loop {
        select_biased! {
            recv(wishes) -> _ => match target.reopen() {
                Ok(()) => {
                    log::info!("access log {target} reopened");
                    told = None;
                }
                Err(error) => log::error!("can't reopen the access log {target}: {error}; the file that is open stays in use"),
            },
            recv(sheets) -> sheet => {
                let Ok(lines) = sheet else { return };
                let Err((rest, error)) = target.write(&lines) else { continue };
                if told.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
                    told = Some(Instant::now());
                    log::error!("can't write the access log {target}: {error}");
                }
                lose(totals, count(rest));
            }
        }
    }
}
