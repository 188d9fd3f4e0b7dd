//! The man pages and the shells' completions, generated from the same definitions as `--help`.

use super::args::Arguments;
use super::terminal;
use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate};
use clap_mangen::Man;
use std::io;

/// tcplb itself, or one of its commands by name. The error names the commands there are.
pub fn find(name: Option<&str>) -> Result<Command, String> {
    let mut tcplb = Arguments::command();
    tcplb.build();
    let Some(name) = name else { return Ok(tcplb) };
    tcplb.find_subcommand(name).cloned().ok_or_else(|| {
        let commands: Vec<&str> = tcplb.get_subcommands().map(Command::get_name).collect();
        format!("man: expected one of {}, got `{name}`", commands.join(", "))
    })
}

/// Writes the man page of a command to stdout, as roff(7).
pub fn man(command: Command) -> Result<(), String> {
    let mut page = Vec::new();
    Man::new(command).render(&mut page).map_err(|error| error.to_string())?;
    write(&page)
}

/// Writes the completions for a shell to stdout.
pub fn completions(shell: Shell) -> Result<(), String> {
    let mut script = Vec::new();
    generate(shell, &mut Arguments::command(), "tcplb", &mut script);
    write(&script)
}

/// A reader that closed the pipe is no failure: `tcplb man | head`.
fn write(bytes: &[u8]) -> Result<(), String> {
    match terminal::write(bytes) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(format!("can't write to stdout: {error}")),
        _ => Ok(()),
    }
}
