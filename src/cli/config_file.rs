//! `--config FILE` and `tcplb check FILE`: from a path to a model, or to every mistake.
//!
//! A file that can't be read counts as a mistake in the configuration: nothing was started, and another file is the remedy.

use super::args::Balance;
use super::flags::{self, Asked, Mistakes};
use crate::base::text::counted;
use crate::config::file::{self, place::Lines};
use crate::config::model::{Listener, Model};
use crate::confine;
use crate::preflight;
use crate::small_file::{self, ReadError};
use log::LevelFilter;
use std::path::Path;

/// The largest configuration: several times what 30 000 backends take. The parser needs up to 80 bytes of memory for each
/// byte of a file. A mistaken path (a disk, a log) must not fill the memory.
pub const SIZE_MAX: u64 = 8 << 20;

/// The largest list of prefixes: about a million.
const LIST_SIZE_MAX: u64 = 16 << 20;

/// What some editors put before a text in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The configuration in the file. Of the flags only `--log-level` and `--take-over` go with it.
pub fn read(path: &Path, balance: &Balance, cores: usize) -> Result<Asked, Mistakes> {
    let mut mistakes = Vec::new();
    let given: Vec<String> = balance.typed.flags().map(|flag| format!("--{flag}")).collect();
    if !given.is_empty() {
        let (given, path) = (given.join(", "), path.display());
        mistakes.push(format!(
            "--config: `{path}` holds the whole configuration: leave out {given}, or put it into the file"
        ));
    }
    let log_level = flags::log_level(balance).map_err(|why| mistakes.push(why)).unwrap_or(LevelFilter::Info);
    let take_over = flags::take_over(balance).map_err(|why| mistakes.push(why)).unwrap_or_default();
    match load(path, cores, take_over.as_deref()) {
        Ok(model) if mistakes.is_empty() => Ok(Asked { model, log_level, take_over }),
        Ok(_) => Err(Mistakes(mistakes)),
        Err(Mistakes(more)) => Err(Mistakes([mistakes, more].concat())),
    }
}

/// Reads a file and the lists of prefixes that it names, opening no other file. `take_over` is the path of `--take-over`.
pub fn load(path: &Path, cores: usize, take_over: Option<&Path>) -> Result<Model, Mistakes> {
    load_with_text(path, cores, take_over).map(|(model, _)| model)
}

/// The same, with the text of the file.
pub fn load_with_text(path: &Path, cores: usize, take_over: Option<&Path>) -> Result<(Model, String), Mistakes> {
    let text = text(path, SIZE_MAX).map_err(|why| Mistakes(vec![why]))?;
    let name = path.display().to_string();
    let parsed = file::parse(&text, &name).map_err(|mistakes| Mistakes(mistakes.0))?;
    let mut model = parsed.on(cores);
    let mut mistakes = Vec::new();
    for (number, listener) in model.listeners.iter_mut().enumerate() {
        let place = |key: &str| match file::line_in_listener(&text, number, key) {
            Some(line) => format!("{name}:{line}"),
            None => name.clone(),
        };
        mistakes.extend(read_lists(listener, place));
    }
    if let (None, Some(path)) = (&model.global.take_over, take_over) {
        model.global.take_over = Some(path.to_owned());
        let binds = model.listeners.iter().flat_map(|listener| &listener.bind);
        mistakes.extend(flags::take_over_overlaps(&model.global, binds));
    }
    let lines = Lines::new(&text, &name);
    mistakes.extend(preflight::mistakes(&model).iter().map(|mistake| lines.located(mistake)));
    if mistakes.is_empty() {
        Ok((model, text))
    } else {
        Err(Mistakes(file::readable(mistakes, &path.display().to_string(), false)))
    }
}

/// Fills in the listener's lists of prefixes; returns their mistakes. `place` is where the file has a key.
fn read_lists(listener: &mut Listener, place: impl Fn(&str) -> String) -> Vec<String> {
    let mut mistakes = Vec::new();
    for (key, file) in [("allow_file", &mut listener.allow_file), ("deny_file", &mut listener.deny_file)] {
        let Some(file) = file else { continue };
        let path = file.path.display().to_string();
        match text(&file.path, LIST_SIZE_MAX)
            .map_err(|why| vec![format!("{}: {key}: {why}", place(key))])
            .and_then(|text| file::list::prefixes(&text, &path).map_err(|mistakes| mistakes.0))
        {
            Ok(prefixes) if prefixes.is_empty() && key == "allow_file" => mistakes.push(format!(
                "{path}: expected at least one prefix, since a listener with an allow_file denies every other client"
            )),
            Ok(prefixes) => file.prefixes = prefixes,
            Err(more) => mistakes.extend(more),
        }
    }
    mistakes
}

/// What `tcplb check` prints for a valid file.
pub fn summary(path: &Path, model: &Model) -> String {
    let backends: usize = model.pools.iter().map(|pool| pool.backends.len()).sum();
    let (listeners, pools) = (counted(model.listeners.len(), "listener"), counted(model.pools.len(), "pool"));
    format!("{}: ok, {listeners}, {pools}, {}", path.display(), counted(backends, "backend"))
}

/// The text of a file of at most `most` bytes.
pub fn text(path: &Path, most: u64) -> Result<String, String> {
    let shown = path.display();
    let mut bytes = small_file::read(path, most).map_err(|error| {
        let hint = if let ReadError::Io(error) = &error { confine::hint_to_reading(path, error) } else { "" };
        format!("can't read {shown}: {error}{hint}")
    })?;
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = error.as_bytes().iter().take(good).filter(|byte| **byte == b'\n').count() + 1;
        format!("{shown}:{line}: not a text in UTF-8")
    })
}
