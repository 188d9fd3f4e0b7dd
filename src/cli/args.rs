//! The command line as clap sees it: names, help and grouping, nothing else.
//!
//! The balancer's flags stay text here. `flags` reads them, so that it can name every mistake at once where clap would
//! stop at the first; the flags of the small subcommands are read by clap.

use super::backend::register::{self, Registration, Target};
use super::remote::args as remote;
use super::{backend, backend_spec, import, kernel};
use crate::base::{Listen, duration};
use crate::config::check;
use crate::config::settings::kinds::Values;
use crate::config::settings::{BACKEND, Flag, GLOBAL, HEALTH, LISTENER, POOL, Row, Typed, reference};
use crate::config::words::alternatives;
use crate::kernel::helper;
use crate::launcher;
use crate::policy::balance;
use clap::{Arg, ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, value_parser};
use clap_complete::Shell;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

const USAGE: &str = "tcplb --listen ADDR --backend ADDR [OPTIONS]\n       tcplb --config FILE\n       tcplb <COMMAND>";

const EXAMPLES: &str = "\
Examples:
  tcplb --listen :8080 --backend 127.0.0.1:8081 --backend 127.0.0.1:8082
  tcplb -l :80 -b 10.0.0.1:80,name=web1,weight=5 -b 10.0.0.2:80,name=web2 --health-path /up
  tcplb --config tcplb.toml
  tcplb demo

Exit codes: 0 stopped cleanly, 1 could not start or run, 2 wrong usage or configuration. Of commands that talk to a
running tcplb also: 1 it refused, 4 no tcplb answers there, 5 --wait took too long. Of config diff also: 3 something
differs.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "tcplb",
    version,
    about = "A Layer-4 TCP connection balancer",
    override_usage = USAGE,
    after_help = "More with --help.",
    after_long_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    allow_negative_numbers = true,
    max_term_width = 110
)]
pub struct Arguments {
    /// The subcommand; without one tcplb balances.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The balancer's flags.
    #[command(flatten)]
    pub balance: Balance,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Checks a configuration file and what a start needs, and opens no socket
    Check(Check),
    /// Shows what a configuration file may hold, what runs, and how that differs from the file
    #[command(subcommand)]
    Config(Config),
    /// Prints the configuration of HAProxy or nginx as one of tcplb
    Import(import::Import),
    /// A test server: answers every HTTP request with its name
    Backend(Backend),
    /// A ten-second tour: three backends, one dies and comes back
    Demo(Demo),
    /// Shows what a running tcplb does
    Status(remote::Status),
    /// Shows the same live in the terminal, worst first, down to single connections
    Top(remote::Top),
    /// Shows where a running tcplb would send a client now, and why
    Explain(remote::Explain),
    /// Probes a backend of a running tcplb now, and shows what was sent and received
    ///
    /// The probe does not change the health state of the backend. Where health is off, it only connects. Exit code 0: an address
    /// passed. 1: none did.
    Probe(remote::Probe),
    /// Lists, adds, drains, changes and removes backends of a running tcplb
    Backends(remote::Backends),
    /// Lists the open connections of a running tcplb, and closes some
    Connections(remote::Connections),
    /// Shows what changed in a running tcplb, and follows what changes
    Events(remote::Events),
    /// Makes a running tcplb read its file again
    Reload(remote::Reload),
    /// Makes a running tcplb hand over to a new process, and waits for that
    Upgrade(remote::Upgrade),
    /// Removes what the kernel engine leaves behind
    #[command(subcommand)]
    Kernel(kernel::Kernel),
    /// Started by tcplb itself
    #[command(hide = true, name = helper::COMMAND)]
    KernelHelper(kernel::Helper),
    /// Started by tcplb itself
    #[command(hide = true, name = helper::STARTER)]
    KernelStarter(kernel::Helper),
    /// Started by tcplb itself
    #[command(hide = true, name = launcher::COMMAND)]
    Launcher {
        /// The file to start
        path: PathBuf,
        /// Its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Prints a man page: of tcplb, or of one of its commands
    Man {
        /// The command; without it the page of tcplb itself
        command: Option<String>,
    },
    /// Prints the completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// The balancer's flags, as typed. Those that are settings come from the tables of `config::settings`.
#[derive(Clone, Debug, Default)]
pub struct Balance {
    /// The file that replaces the other flags.
    pub config: Option<PathBuf>,
    /// How much to log.
    pub log_level: Option<String>,
    /// The socket of the tcplb to take over from.
    pub take_over: Option<String>,
    /// All others.
    pub typed: Typed,
}

const PEERS: &str = "Addresses and balancing";

/// The settings that have a flag.
fn settings() -> impl Iterator<Item = (Flag, Row)> {
    let sections = [LISTENER.listed(), POOL.listed(), HEALTH.listed(), GLOBAL.listed()].into_iter();
    sections.flat_map(|section| section.rows).filter_map(|row| Some((row.about.flag?, row)))
}

fn flag(flag: &Flag, row: &Row) -> Arg {
    let (values, repeated) = (row.values, row.values.is_list());
    let doc = reference::plain(row.about.doc.trim_end_matches('.'));
    let doc = format!("{doc}{}{}", values.few_words(&doc), if repeated { " (repeatable)" } else { "" });
    let default = match (&row.default, row.about.absent) {
        (Some(default), "") if !matches!(values, Values::Switch) => {
            format!(" [default: {}]", default.trim_matches('"'))
        }
        (_, "" | "required") => String::new(),
        (_, absent) => format!(" [default: {}]", reference::plain(absent)),
    };
    let more = if row.about.key == "algorithm" { algorithms() } else { reference::plain(row.about.more) };
    let more = if more.is_empty() { more } else { format!("\n\n{more}") };
    let arg = Arg::new(flag.long).long(flag.long).short(flag.short).help_heading(flag.heading);
    let arg = arg.help(format!("{doc}{default}")).long_help(format!("{doc}{default}{more}"));
    let arg = arg.visible_aliases(flag.alias);
    match values {
        Values::Switch => arg.action(ArgAction::SetTrue),
        _ => arg.value_name(values.placeholder()).action(if repeated { ArgAction::Append } else { ArgAction::Set }),
    }
}

impl Args for Balance {
    fn augment_args(command: clap::Command) -> clap::Command {
        let backend = Arg::new("backend")
            .short('b')
            .long("backend")
            .value_name("ADDR[,…]")
            .action(ArgAction::Append)
            .help_heading(PEERS)
            .help("A server, with its settings behind commas (repeatable)")
            .long_help(format!(
                "A server, with its settings behind commas (repeatable)\n\nADDR[,{}], like \
                 10.0.0.1:80,name=web1,weight=5.{}",
                backend_spec::accepted().join("][,"),
                backend_settings()
            ));
        let config = Arg::new("config")
            .short('c')
            .long("config")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help_heading(PEERS)
            .help("Read all of it from a TOML file instead")
            .long_help(
                "Read all of it from a TOML file instead\n\nOf the flags only --log-level and --take-over go with it. 'tcplb \
                 config reference' explains every key, 'tcplb check FILE' reports what is wrong with a file.",
            );
        let log_level = Arg::new("log-level")
            .long("log-level")
            .value_name("LEVEL")
            .help_heading("Process")
            .help("off, error, warn, info, debug or trace [default: info]")
            .long_help(
                "off, error, warn, info, debug or trace [default: info]\n\nThe environment variable RUST_LOG, if set, wins \
                 over it.",
            );
        let take_over = Arg::new("take-over")
            .long("take-over")
            .value_name("SOCKET")
            .help_heading("Process")
            .help("Take over from the tcplb that listens on this unix socket, and listen there for the next one")
            .long_help(
                "Take over from the tcplb that listens on this unix socket, and listen there for the next one\n\nListening sockets \
                 and open connections move, as with 'tcplb upgrade'. Without a tcplb there, this one starts anew. \
                 Where the file has 'take_over', tcplb listens there instead.",
            );
        let mut settings: Vec<Arg> = settings().map(|(name, row)| flag(&name, &row)).collect();
        let rest = settings.split_off(1);
        command.args(settings).args([backend, config]).args(rest).args([take_over, log_level])
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Balance {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let texts = |name: &'static str| {
            let texts = matches.get_many::<String>(name)?;
            Some((name, texts.cloned().collect()))
        };
        let of_setting = |(flag, row): (Flag, Row)| match row.values {
            Values::Switch => matches.get_flag(flag.long).then(|| (flag.long, Vec::new())),
            _ => texts(flag.long),
        };
        let mut typed: Vec<(&'static str, Vec<String>)> = settings().filter_map(of_setting).collect();
        // As in the help.
        let behind = typed.iter().filter(|(name, _)| *name == "listen").count();
        typed.splice(behind..behind, texts("backend"));
        Ok(Balance {
            config: matches.get_one("config").cloned(),
            log_level: matches.get_one("log-level").cloned(),
            take_over: matches.get_one("take-over").cloned(),
            typed: Typed::new("--", typed),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Every flag, in Markdown.
pub fn reference() -> String {
    let mut page = String::from("| flag | meaning | default |\n|---|---|---|\n");
    let mut command = Arguments::command();
    // That adds --help and --version.
    command.build();
    for arg in command.get_arguments() {
        let row = settings().find(|(flag, _)| flag.long == arg.get_id().as_str());
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let (meaning, default) = help.split_once(" [default: ").unwrap_or((&help, ""));
        let value = arg.get_value_names().and_then(|names| names.first()).filter(|_| arg.get_action().takes_values());
        let value = value.map(|name| format!(" {name}")).unwrap_or_default().replace('|', "\\|");
        let short = arg.get_short().map(|letter| format!("-{letter}, ")).unwrap_or_default();
        let alias = arg.get_visible_aliases().unwrap_or_default().into_iter().map(|name| format!(", `--{name}`"));
        page.push_str(&format!(
            "| `{short}--{}{value}`{} | {} | {} |\n",
            arg.get_long().unwrap_or_default(),
            alias.collect::<String>(),
            reference::seen(meaning, row.map_or("", |(_, row)| row.about.see)),
            default.trim_end_matches(']')
        ));
    }
    page
}

/// The settings behind the commas of `--backend`, a sentence each.
fn backend_settings() -> String {
    let rows = BACKEND.listed().rows.into_iter().filter_map(|row| Some((row.about.flag?.long, row)));
    rows.map(|(name, row)| format!("\n\n{name}: {}", reference::plain(row.about.doc))).collect()
}

/// Arguments of `tcplb check`.
#[derive(Args, Debug)]
pub struct Check {
    /// The file
    ///
    /// Exit code 0: it is valid. 2: it is not, or can't be read; every mistake is reported with its line.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// Subcommands of `tcplb config`.
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Prints every flag and every key, in Markdown: its meaning, its default, and what a reload does with it
    Reference,
    /// Prints what a running tcplb has in force, as a file: its own file with the changes at run time
    Show(remote::ConfigShow),
    /// Prints what a running tcplb has in force and its file does not say: what the API changed, and what needs a restart
    Diff(remote::ConfigDiff),
}

/// The test server's flags.
#[derive(Args, Debug)]
pub struct Backend {
    /// Where to listen; port 0 lets the kernel pick
    #[arg(short, long, value_name = "ADDR", value_parser = Listen::parse)]
    pub listen: Listen,

    /// What it answers with [default: its address]
    #[arg(short, long, value_name = "NAME", value_parser = name)]
    pub name: Option<String>,

    /// Wait this long before each answer
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub latency: Option<Duration>,

    /// Keep a core busy for this long before each answer
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub work: Option<Duration>,

    /// Answer 503 instead of 200; SIGUSR1 switches between the two
    #[arg(long)]
    pub fail_health: bool,

    /// Be a raw TCP echo server instead
    #[arg(long, conflicts_with_all = ["latency", "work", "fail_health", "name"])]
    pub echo: bool,

    /// Register the server as this key of an etcd, for as long as it runs: etcd://HOST:PORT/KEY
    #[arg(long, value_name = "URL", value_parser = Target::parse)]
    pub register: Option<Target>,

    /// How long the key stays if the server crashes
    #[arg(long, value_name = "TIME", default_value = "10s", requires = "register", value_parser = register::ttl)]
    pub ttl: Duration,

    /// The weight to register [default: none, so the balancer's configuration counts]
    #[arg(long, value_name = "N", requires = "register")]
    pub weight: Option<u16>,
}

/// The demo's flags.
#[derive(Args, Debug)]
pub struct Demo {
    /// End after the tour: exit code 0 if no request failed, else 1
    #[arg(long)]
    pub once: bool,

    /// Where the balancer listens; port 0 lets the kernel pick
    #[arg(short, long, value_name = "ADDR", default_value = "127.0.0.1:0", value_parser = Listen::parse)]
    pub listen: Listen,
}

impl Backend {
    /// The server's options.
    pub fn options(&self) -> backend::Options {
        backend::Options {
            listen: self.listen.clone(),
            name: self.name.clone(),
            latency: self.latency.unwrap_or_default(),
            work: self.work.unwrap_or_default(),
            failing: self.fail_health,
            echo: self.echo,
        }
    }

    /// What it registers, if it does.
    pub fn registration(&self) -> Option<Registration> {
        let target = self.register.clone()?;
        Some(Registration { target, ttl: self.ttl, weight: self.weight })
    }
}

fn name(text: &str) -> Result<String, String> {
    check::name(text).map(|()| text.to_owned())
}

fn algorithms() -> String {
    let width = balance::REGISTRY.iter().map(|row| row.name.len()).max().unwrap_or(0);
    let mut help = String::from("Names and short forms ignore case.\n");
    for row in balance::REGISTRY {
        let short = alternatives(row.short);
        let short = if short.is_empty() { short } else { format!(" ({short})") };
        help.push_str(&format!("\n  {:width$}  {}{short}", row.name, row.picks));
    }
    help
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_long_help_lists_every_algorithm() {
        // Terminals are narrower than the longest line.
        let help = Arguments::command().max_term_width(0).term_width(0).render_long_help().to_string();
        for row in balance::REGISTRY {
            assert!(help.contains(row.name) && help.contains(row.picks), "{help}");
        }
    }
}
