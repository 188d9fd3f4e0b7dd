//! The arguments of `tcplb status`, `tcplb top`, `tcplb probe`, `tcplb backends`, `tcplb connections`, `tcplb events` and `tcplb reload`.

use crate::base::duration;
use crate::inspect::Sort;
use clap::builder::PossibleValuesParser;
use clap::{ArgGroup, Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// How to reach the running tcplb.
#[derive(Args, Clone, Debug)]
pub struct Reach {
    /// The admin address of the running tcplb: 127.0.0.1:9900, http://host:9900 or unix:/path
    #[arg(long, value_name = "ADDR", env = "TCPLB_ADMIN", default_value = "127.0.0.1:9900", global = true)]
    pub admin: String,

    /// A file with the API's token [default: the variable TCPLB_TOKEN holds the token itself]
    #[arg(long, value_name = "FILE", global = true)]
    pub token_file: Option<PathBuf>,
}

/// `tcplb status`.
#[derive(Args, Debug)]
pub struct Status {
    /// Only this pool
    #[arg(value_name = "POOL")]
    pub pool: Option<String>,

    /// Prints the API's JSON instead of tables
    #[arg(long)]
    pub json: bool,

    /// How to reach it.
    #[command(flatten)]
    pub reach: Reach,
}

/// `tcplb events`.
#[derive(Args, Debug)]
pub struct Events {
    /// Goes on with each event as it happens, until Ctrl-C
    #[arg(short, long)]
    pub follow: bool,

    /// Only events of this last while, like 30m or 1h
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub since: Option<Duration>,

    /// Only events of this pool
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,

    /// Prints the API's JSON instead of lines; with --follow, an event a line
    #[arg(long)]
    pub json: bool,

    /// How to reach it.
    #[command(flatten)]
    pub reach: Reach,
}

/// `tcplb top`.
#[derive(Args, Debug)]
pub struct Top {
    /// How to reach it.
    #[command(flatten)]
    pub reach: Reach,
}

/// `tcplb reload`.
#[derive(Args, Debug)]
pub struct Reload {
    /// Only reports what would change
    #[arg(long)]
    pub dry_run: bool,

    /// How to reach it.
    #[command(flatten)]
    pub reach: Reach,
}

/// `tcplb upgrade`.
#[derive(Args, Debug)]
pub struct Upgrade {
    /// How to reach it.
    #[command(flatten)]
    pub reach: Reach,
}

/// `tcplb config show`.
#[derive(Args, Debug)]
pub struct ConfigShow {
    /// How to reach it.
    #[command(flatten)]
    pub reach: Reach,
}

/// `tcplb config diff`.
///
/// Exit code 0: no difference. 3: there are some.
#[derive(Args, Debug)]
pub struct ConfigDiff {
    /// Prints the API's JSON instead of lines
    #[arg(long)]
    pub json: bool,

    /// How to reach it.
    #[command(flatten)]
    pub reach: Reach,
}

/// `tcplb explain`.
#[derive(Args, Debug)]
pub struct Explain {
    /// The client's address, as the log has it; the port plays no part
    #[arg(long, value_name = "IP[:PORT]")]
    pub client: String,

    /// The listener that it connects to; needed where there are several
    #[arg(long, value_name = "NAME")]
    pub listener: Option<String>,

    /// The protocol of its first bytes: tls, postgres, http or ssh; tls beside --sni or --alpn
    #[arg(long, value_name = "NAME")]
    pub protocol: Option<String>,

    /// The server name that its ClientHello asks for; routes may depend on it
    #[arg(long, value_name = "NAME")]
    pub sni: Option<String>,

    /// A protocol that its ClientHello offers, like h2
    #[arg(long, value_name = "PROTOCOL")]
    pub alpn: Option<String>,

    /// Prints the API's JSON instead of a table
    #[arg(long)]
    pub json: bool,

    /// How to reach it.
    #[command(flatten)]
    pub reach: Reach,
}

/// `tcplb probe`.
#[derive(Args, Debug)]
pub struct Probe {
    /// The backend.
    #[command(flatten)]
    pub which: Which,

    /// Prints the API's JSON instead of lines
    #[arg(long)]
    pub json: bool,

    /// How to reach it.
    #[command(flatten)]
    pub reach: Reach,
}

/// `tcplb backends`.
#[derive(Args, Debug)]
pub struct Backends {
    /// The action; without one, the backends are listed.
    #[command(subcommand)]
    pub what: Option<What>,

    /// How to reach it.
    #[command(flatten)]
    pub reach: Reach,
}

/// The actions on backends.
#[derive(Debug, Subcommand)]
pub enum What {
    /// Lists the backends of a pool, or of all pools
    List {
        /// The pool
        pool: Option<String>,
        /// Prints the API's JSON instead of tables
        #[arg(long)]
        json: bool,
    },
    /// Adds a backend
    Add {
        /// The pool
        pool: String,
        /// The backend's address
        address: String,
        /// Its weight [default: 1]
        #[arg(long, value_name = "N")]
        weight: Option<u16>,
        /// Its name [default: its address]
        #[arg(long)]
        name: Option<String>,
        /// Most connections at once
        #[arg(long, value_name = "N")]
        max_connections: Option<u32>,
        /// Serves only when no primary can
        #[arg(long)]
        backup: bool,
    },
    /// Stops new connections to a backend; open ones go on
    Drain {
        /// The backend
        #[command(flatten)]
        which: Which,
        /// How long to wait.
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Enables a backend again, as its health allows
    Enable {
        /// The backend
        #[command(flatten)]
        which: Which,
    },
    /// Stops new connections to a backend, and its probes
    Disable {
        /// The backend
        #[command(flatten)]
        which: Which,
    },
    /// Changes a backend's weight
    Weight {
        /// The backend
        #[command(flatten)]
        which: Which,
        /// The weight, 0 to 65535; 0 takes no new connections
        weight: u16,
    },
    /// Removes a backend; the pool's on_remove decides on its connections
    Remove {
        /// The backend
        #[command(flatten)]
        which: Which,
        /// Also closes its connections
        #[arg(long, conflicts_with = "wait")]
        force: bool,
        /// How long to wait.
        #[command(flatten)]
        waiting: Waiting,
    },
}

/// `tcplb connections`.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("chosen").args(["id", "listener", "pool", "backend", "client"]).multiple(true)))]
pub struct Connections {
    /// Only the connection with this number
    #[arg(conflicts_with_all = ["listener", "pool", "backend", "client", "sort", "limit", "watch"])]
    pub id: Option<u64>,

    /// Only those of this listener
    #[arg(long, value_name = "NAME")]
    pub listener: Option<String>,

    /// Only those of this pool
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,

    /// Only those with this backend
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,

    /// Only those of this IP address, or of addresses with this prefix
    #[arg(long, value_name = "IP")]
    pub client: Option<String>,

    /// Which come first: the oldest, those that moved the most bytes, or the longest silent [default: age]
    #[arg(long, value_name = "ORDER", value_parser = PossibleValuesParser::new(Sort::NAMES.map(|(word, _)| word)))]
    pub sort: Option<String>,

    /// The most connections to list [default: 1000]
    #[arg(long, value_name = "N")]
    pub limit: Option<u32>,

    /// Lists them again each second, until Ctrl-C
    #[arg(long, conflicts_with = "json")]
    pub watch: bool,

    /// Resets them on both sides; asks first on a terminal. Needs a filter or a number
    #[arg(long, requires = "chosen", conflicts_with_all = ["watch", "sort", "limit"])]
    pub kill: bool,

    /// Does not ask
    #[arg(short, long, requires = "kill")]
    pub yes: bool,

    /// Prints the API's JSON instead of tables
    #[arg(long)]
    pub json: bool,

    /// How to reach it.
    #[command(flatten)]
    pub reach: Reach,
}

/// A backend of a pool.
#[derive(Args, Clone, Debug)]
pub struct Which {
    /// The pool
    pub pool: String,
    /// The backend's name; without one, its address
    pub backend: String,
}

/// Options that wait for the last connection.
#[derive(Args, Clone, Debug)]
pub struct Waiting {
    /// First drains the backend, and returns when its last connection has ended
    #[arg(long)]
    pub wait: bool,
    /// Waits no longer than this, then exits with code 5
    #[arg(long, value_name = "TIME", value_parser = duration::parse, requires = "wait")]
    pub timeout: Option<Duration>,
}
