//! The thread: sheets out, the file opened again when somebody wishes it.

use super::{Lines, Target, count, lose};
use crate::base::Seldom;
use crate::pool::{LogTotals, clock};
use crossbeam_channel::{Receiver, select_biased};

/// Runs until no worker is left that could send a sheet. `wishes` must stay connected meanwhile.
pub fn run(mut target: Target, sheets: &Receiver<Lines>, wishes: &Receiver<()>, totals: &LogTotals) {
    let mut failure = Seldom::default();
    loop {
        select_biased! {
            recv(wishes) -> _ => match target.reopen() {
                Ok(()) => {
                    log::info!("access log {target} reopened");
                    failure.forget();
                }
                Err(error) => log::error!("can't reopen the access log {target}: {error}; the file that is open stays in use"),
            },
            recv(sheets) -> sheet => {
                let Ok(lines) = sheet else { return };
                let Err((rest, error)) = target.write(&lines) else { continue };
                if failure.is_due(clock::now()) {
                    log::error!("can't write the access log {target}: {error}");
                }
                lose(totals, count(rest));
            }
        }
    }
}
