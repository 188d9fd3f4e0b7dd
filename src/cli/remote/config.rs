//! `tcplb config show` and `tcplb config diff`: what runs, and how it differs from the file.

use super::args::{ConfigDiff, ConfigShow};
use super::client::Client;
use super::{DIFFERS, done, get, read, show, show_json};
use std::process::ExitCode;

/// Runs `tcplb config show`.
pub fn show_config(arguments: &ConfigShow) -> ExitCode {
    done(|| {
        let client = Client::new(&arguments.reach)?;
        show(String::from_utf8_lossy(&get(&client, "GET", "/v1/config", None)?).trim_end())
    })
}

/// Runs `tcplb config diff`.
pub fn diff(arguments: &ConfigDiff) -> ExitCode {
    let mut differs = false;
    let code = done(|| {
        let client = Client::new(&arguments.reach)?;
        let body = get(&client, "GET", "/v1/config/diff", None)?;
        let changes: Vec<String> = read(&body)?;
        differs = !changes.is_empty();
        if arguments.json {
            return show_json::<Vec<String>>(&body);
        }
        changes.iter().try_for_each(show)
    });
    if differs { ExitCode::from(DIFFERS) } else { code }
}
