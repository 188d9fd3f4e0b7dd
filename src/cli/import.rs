//! `tcplb import FILE`: another balancer's configuration as one of tcplb, on stdout. Messages go to stderr, a line each.

use super::{COULD_NOT_RUN, config_file, done, refuse, report_error, terminal};
use crate::base::text::{Escaped, counted};
use crate::config::file;
use crate::import::{self, Dialect, Kind, Mistakes, Note};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `tcplb import`.
#[derive(Args, Debug)]
pub struct Import {
    /// An haproxy.cfg with sections of mode tcp, or an nginx.conf with a block stream
    ///
    /// Each message on stderr begins with FILE:LINE. "changed" is what differs now. "dropped" is what has no counterpart and needs
    /// none. "error" is what has none, and its loss would let clients in or send traffic elsewhere.
    ///
    /// Exit code 0: the configuration is on stdout. 1: there is an error, and nothing is on stdout. 2: FILE can't be read, or `tcplb check`
    /// refuses what it becomes.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Leave out what is an error, and print the rest, even if `tcplb check` refuses it
    #[arg(long)]
    pub force: bool,

    /// The balancer that the file is for [default: as its text shows]
    #[arg(long, value_name = "NAME")]
    pub from: Option<From>,
}

/// The balancers that `--from` knows.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum From {
    /// HAProxy
    Haproxy,
    /// nginx
    Nginx,
}

/// Runs `tcplb import`.
pub fn run(arguments: &Import) -> ExitCode {
    let name = arguments.file.display().to_string();
    let text = match config_file::text(&arguments.file, config_file::SIZE_MAX) {
        Ok(text) => text,
        Err(why) => return refuse(&[why]),
    };
    let dialect = match arguments.from {
        Some(From::Haproxy) => Some(Dialect::Haproxy),
        Some(From::Nginx) => Some(Dialect::Nginx),
        None => import::detect(&text),
    };
    let Some(dialect) = dialect else {
        let why = "expected an haproxy.cfg or an nginx.conf; --from haproxy or --from nginx says which it is";
        return refuse(&[format!("{name}: {why}")]);
    };
    let imported = match import::import(&text, &name, dialect) {
        Ok(imported) => imported,
        Err(Mistakes(mistakes)) => {
            let line = |(line, why): &(usize, String)| Escaped(&format!("{name}:{line}: {why}")).to_string();
            return refuse(&mistakes.iter().map(line).collect::<Vec<_>>());
        }
    };
    for note in &imported.notes {
        terminal::report(Escaped(&format!("{name}:{}", shown(note, arguments.force))));
    }
    let errors = imported.notes.iter().filter(|note| note.kind == Kind::Refused).count();
    if errors > 0 && !arguments.force {
        report_error(format_args!("{name}: {}; nothing is printed. --force leaves them out", counted(errors, "error")));
        return ExitCode::from(COULD_NOT_RUN);
    }
    if imported.listeners == 0 {
        report_error(format_args!("{name}: no listener of TCP came out; nothing is printed"));
        return ExitCode::from(COULD_NOT_RUN);
    }
    // Addresses of different listeners may overlap, and a name may be none of tcplb's.
    if let Err(file::Mistakes(mistakes)) = file::parse(&imported.toml, "the new file") {
        let line = |mistake: &String| Escaped(&format!("{name}: {mistake}")).to_string();
        let mut lines: Vec<String> = mistakes.iter().map(line).collect();
        if !arguments.force {
            lines.push(format!("{name}: the new file is wrong; nothing is printed. --force prints it all the same"));
        } else if let Err(error) = terminal::write(imported.toml.as_bytes()) {
            lines.push(format!("can't print: {error}"));
        }
        return refuse(&lines);
    }
    done(terminal::write(imported.toml.as_bytes()).map_err(|error| format!("can't print: {error}")))
}

/// The message. What is refused is dropped by `--force`.
fn shown(note: &Note, force: bool) -> String {
    match note.kind {
        Kind::Refused if force => {
            Note { kind: Kind::Dropped, text: format!("{} (by --force)", note.text), ..*note }.to_string()
        }
        _ => note.to_string(),
    }
}
