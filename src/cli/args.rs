//! The command line as clap sees it: names, help and grouping, nothing else.
//!
//! The balancer's flags stay text here. `flags` reads them, so that it can name every mistake at once where clap would
//! stop at the first; the flags of the small subcommands are read by clap.

use super::remote::args as remote;
use super::{backend, values};
use crate::base::{Listen, duration};
use crate::config::check;
use crate::config::model::defaults;
use crate::policy::balance;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
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
running tcplb also: 1 it refused, 4 nobody answers there, 5 --wait took too long.";

/// Everything that can be typed.
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
    /// What to do instead of balancing.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to balance.
    #[command(flatten)]
    pub balance: Balance,
}

/// What else the binary does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Says what is wrong with a configuration file and what a start would meet, and listens nowhere
    Check(Check),
    /// A test server: answers every HTTP request with its name
    Backend(Backend),
    /// A ten-second tour: three backends, one dies and comes back
    Demo(Demo),
    /// Shows what a running tcplb does
    Status(remote::Status),
    /// Lists, adds, drains, changes and removes backends of a running tcplb
    Backends(remote::Backends),
    /// Makes a running tcplb read its file again
    Reload(remote::Reload),
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

/// The balancer's flags, as typed.
#[derive(Args, Clone, Debug, Default)]
pub struct Balance {
    /// Where clients connect (repeatable)
    ///
    /// 127.0.0.1:80, [::1]:80, name:80, unix:/path, or :80 for every interface, IPv6 and IPv4. With port 0 the kernel
    /// picks one; start-up says which.
    #[arg(short, long, value_name = "ADDR", help_heading = "Who talks to whom")]
    pub listen: Vec<String>,

    /// A server, with its settings after commas (repeatable)
    ///
    /// ADDR[,weight=N][,name=S][,max-connections=N][,backup], like 10.0.0.1:80,name=web1,weight=5. weight, 0 to 65535, is its share relative to the others (1 if not given; 0 takes no new connections). name is
    /// what logs call it, else its address. max-connections limits the connections open to it at once. A backup serves
    /// only when no other backend can.
    #[arg(short, long, value_name = "ADDR[,…]", help_heading = "Who talks to whom")]
    pub backend: Vec<String>,

    /// Read all of it from a TOML file instead
    ///
    /// Listeners, pools, limits: config.example explains every key. Of the flags only --log-level goes with it. 'tcplb check
    /// FILE' tells what is wrong with a file.
    #[arg(short, long, value_name = "FILE", help_heading = "Who talks to whom")]
    pub config: Option<PathBuf>,

    /// How a backend is chosen [default: weighted-round-robin]
    #[arg(short, long, visible_alias = "algo", value_name = "NAME", help_heading = "Who talks to whom",
        long_help = algorithms())]
    pub algorithm: Option<String>,

    /// Tell backends who the client is, by a PROXY header: v1 or v2
    ///
    /// Each connection to a backend begins with the header, which the backend must expect. v1 is a line of text, v2 is
    /// binary and passes on what came with a client's own header.
    #[arg(long, value_name = "VERSION", help_heading = "Who talks to whom")]
    pub send_proxy: Option<String>,

    /// Clients are proxies: each begins with a PROXY header, v1 or v2
    ///
    /// The header says who the client is. A connection without one, or with one that is not whole within 5 s, is reset.
    /// Anyone who can connect may send it: only for listeners that no one but proxies can reach.
    #[arg(long, help_heading = "Who talks to whom")]
    pub accept_proxy: bool,

    /// What a health probe does: tcp, http or off [default: tcp]
    ///
    /// tcp connects; http connects and sends GET, and only a 200 counts as a success. With off no probe is sent; a
    /// backend that refuses a connection is left out for a moment.
    #[arg(long, value_name = "KIND", help_heading = "Health")]
    pub health: Option<String>,

    /// The path http probes ask for; implies --health http [default: /]
    #[arg(long, value_name = "PATH", help_heading = "Health")]
    pub health_path: Option<String>,

    /// Time between probes; a plain number is seconds [default: 2s]
    #[arg(short = 't', long, value_name = "TIME", help_heading = "Health")]
    pub health_interval: Option<String>,

    /// How long a probe may take [default: 1s]
    ///
    /// At most the interval. If only the interval is given and it is shorter than a second, so is the timeout.
    #[arg(long, value_name = "TIME", help_heading = "Health")]
    pub health_timeout: Option<String>,

    /// Successes in a row that bring a backend back [default: 2]
    #[arg(long, value_name = "N", help_heading = "Health")]
    pub health_rise: Option<String>,

    /// Failures in a row that take a backend out [default: 3]
    ///
    /// The first result after the start decides at once.
    #[arg(long, value_name = "N", help_heading = "Health")]
    pub health_fall: Option<String>,

    /// How long an attempt to reach a backend may take [default: 5s]
    #[arg(long, value_name = "TIME", help_heading = "Limits")]
    pub connect_timeout: Option<String>,

    /// Close a connection after this much silence [default: 1h]
    ///
    /// Silence is no byte either way.
    #[arg(long, value_name = "TIME", help_heading = "Limits")]
    pub idle_timeout: Option<String>,

    /// How long a drain may take [default: 30s]
    ///
    /// After SIGTERM or Ctrl-C open connections may go on for this long; what is left then is reset. A second signal
    /// ends tcplb at once.
    #[arg(long, value_name = "TIME", help_heading = "Limits")]
    pub shutdown_timeout: Option<String>,

    /// Clients at once [default: from the limit on open files]
    ///
    /// More wait in the kernel's backlog until one leaves.
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub max_connections: Option<String>,

    /// Event-loop threads [default: one per core]
    #[arg(short, long, value_name = "N", help_heading = "Process")]
    pub workers: Option<String>,

    /// How bytes are moved: copy, splice or adaptive [default: adaptive]
    ///
    /// Adaptive copies small messages and splices bulk, each way on its own. The other two force one of them.
    #[arg(long, value_name = "ENGINE", help_heading = "Process")]
    pub relay: Option<String>,

    /// Where the admin API, metrics and status page are [default: off]
    ///
    /// An address of this machine only, like 127.0.0.1:9900 or unix:/run/tcplb/admin.sock (then only its owner may connect),
    /// unless there is an --admin-token-file.
    #[arg(long, value_name = "ADDR", help_heading = "Process")]
    pub admin: Option<String>,

    /// Admin calls must bring the token in this file
    ///
    /// As the header `Authorization: Bearer TOKEN`. /healthz and /readyz need none.
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    pub admin_token_file: Option<PathBuf>,

    /// Become this user once everything is bound; needs root
    ///
    /// A name or a number. The right to bind ports below 1024 is kept, and no other.
    #[arg(long, value_name = "USER", help_heading = "Process")]
    pub user: Option<String>,

    /// The group that goes with --user [default: the user's own]
    #[arg(long, value_name = "GROUP", help_heading = "Process")]
    pub group: Option<String>,

    /// Give up the file system once everything is bound: auto or off [default: auto]
    ///
    /// By Landlock, as far as the kernel has it. What the resolver and a reload read stays readable; nothing but the access
    /// log can be written and no program started.
    #[arg(long, value_name = "MODE", help_heading = "Process")]
    pub sandbox: Option<String>,

    /// A line per connection, when it ends, into this file; - is stdout [default: off]
    ///
    /// time listener client pool backend attempts connect_ms duration_ms bytes_to_backend bytes_to_client close. SIGUSR1 opens
    /// the file again after it was renamed.
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    pub access_log: Option<PathBuf>,

    /// How such a line looks: text or json [default: text]
    #[arg(long, value_name = "FORMAT", help_heading = "Process")]
    pub log_format: Option<String>,

    /// off, error, warn, info, debug or trace [default: info]
    ///
    /// The environment variable RUST_LOG, if set, wins over it.
    #[arg(long, value_name = "LEVEL", help_heading = "Process")]
    pub log_level: Option<String>,
}

/// What is to be checked.
#[derive(Args, Debug)]
pub struct Check {
    /// The file
    ///
    /// Exit code 0: it is good. 2: it is not, or can't be read; every mistake is told with its line.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
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
    /// What the server is told.
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
}

fn name(text: &str) -> Result<String, String> {
    check::name(text).map(|()| text.to_owned())
}

fn algorithms() -> String {
    let width = balance::REGISTRY.iter().map(|row| row.name.len()).max().unwrap_or(0);
    let mut help = String::from("How a backend is chosen; names and short forms ignore case\n");
    for row in balance::REGISTRY {
        let short = values::alternatives(row.short);
        let short = if short.is_empty() { short } else { format!(" ({short})") };
        help.push_str(&format!("\n  {:width$}  {}{short}", row.name, row.picks));
    }
    help.push_str(&format!("\n\n[default: {}]", defaults::ALGORITHM));
    help
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_long_help_lists_every_algorithm() {
        let help = Arguments::command().render_long_help().to_string();
        for row in balance::REGISTRY {
            assert!(help.contains(row.name) && help.contains(row.picks), "{help}");
        }
    }
}
