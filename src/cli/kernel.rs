//! `tcplb kernel`: what the kernel engine leaves behind.

use super::terminal;
use crate::base::text::counted;
use crate::kernel::helper::{self, Flushed, Options};
use clap::Subcommand;

/// Subcommands of `tcplb kernel`.
#[derive(Debug, Subcommand)]
pub enum Kernel {
    /// Removes the nftables table `inet tcplb`, and ends the connections that it has forwarded
    ///
    /// The kernel forwards connections also while no tcplb runs. This ends it. It changes no other table and ends no other connection.
    /// Stop tcplb before: one that runs restores the table. It needs CAP_NET_ADMIN.
    ///
    /// Exit code 0: nothing of it is left. 1: it could not be removed, or another program made the table.
    Flush,
}

/// Arguments of the helper process and of the one that starts it, which tcplb itself starts.
#[derive(clap::Args, Debug)]
pub struct Helper {
    /// The user to become
    #[arg(long)]
    user: Option<String>,
    /// The group
    #[arg(long)]
    group: Option<String>,
    /// Without the sandbox
    #[arg(long)]
    no_sandbox: bool,
}

/// Runs a subcommand.
pub fn run(command: &Kernel) -> Result<(), String> {
    match command {
        Kernel::Flush => {
            let flushed = helper::flush().map_err(|failure| format!("kernel flush: {failure}"))?;
            terminal::show(outcome(flushed)).map_err(|error| format!("can't print: {error}"))
        }
    }
}

/// Runs the helper process.
pub fn help(arguments: &Helper) -> Result<(), String> {
    let Helper { user, group, no_sandbox } = arguments;
    helper::run(user.as_deref(), group.as_deref(), !no_sandbox)
}

/// Runs the process that starts helpers.
pub fn start_helpers(arguments: &Helper) -> Result<(), String> {
    let Helper { user, group, no_sandbox } = arguments;
    helper::run_starter(&Options { user: user.as_deref(), group: group.as_deref(), sandbox: !no_sandbox })
}

fn outcome(flushed: Flushed) -> String {
    let connections = counted(flushed.entries, "connection");
    match flushed {
        Flushed { table: false, entries: 0 } => "there is no table `inet tcplb`, and no connection of it".to_owned(),
        Flushed { table: true, .. } => format!("removed the table `inet tcplb` and {connections}"),
        Flushed { table: false, .. } => format!("there is no table `inet tcplb`; removed {connections} of it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outcome_says_what_was_there() {
        let outcome = |table, entries| outcome(Flushed { table, entries });
        assert_eq!(outcome(true, 1), "removed the table `inet tcplb` and 1 connection");
        assert_eq!(outcome(false, 2), "there is no table `inet tcplb`; removed 2 connections of it");
        assert_eq!(outcome(false, 0), "there is no table `inet tcplb`, and no connection of it");
    }
}
