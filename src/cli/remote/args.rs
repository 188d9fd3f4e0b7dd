//! What can be typed after `tcplb status`, `tcplb backends` and `tcplb reload`.

use crate::base::duration;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// Where the running tcplb is.
#[derive(Args, Clone, Debug)]
pub struct Reach {
    /// The admin address of the running tcplb: 127.0.0.1:9900, http://host:9900 or unix:/path
    #[arg(long, value_name = "ADDR", env = "TCPLB_ADMIN", default_value = "127.0.0.1:9900", global = true)]
    pub admin: String,

    /// The file with its token [or the token itself in TCPLB_TOKEN]
    #[arg(long, value_name = "FILE", global = true)]
    pub token_file: Option<PathBuf>,
}

/// `tcplb status`.
#[derive(Args, Debug)]
pub struct Status {
    /// What the API says, instead of tables
    #[arg(long)]
    pub json: bool,

    /// Where it is.
    #[command(flatten)]
    pub reach: Reach,
}

/// `tcplb reload`.
#[derive(Args, Debug)]
pub struct Reload {
    /// Only say what would change
    #[arg(long)]
    pub dry_run: bool,

    /// Where it is.
    #[command(flatten)]
    pub reach: Reach,
}

/// `tcplb backends`.
#[derive(Args, Debug)]
pub struct Backends {
    /// What to do with them; without it they are listed.
    #[command(subcommand)]
    pub what: Option<What>,

    /// Where it is.
    #[command(flatten)]
    pub reach: Reach,
}

/// What can be done with backends.
#[derive(Debug, Subcommand)]
pub enum What {
    /// Shows the backends of a pool, or of all
    List {
        /// The pool
        pool: Option<String>,
        /// What the API says, instead of tables
        #[arg(long)]
        json: bool,
    },
    /// Adds a backend
    Add {
        /// The pool
        pool: String,
        /// Where the backend is
        address: String,
        /// Its share
        #[arg(long, value_name = "N")]
        weight: Option<u16>,
        /// What to call it, if not by its address
        #[arg(long)]
        name: Option<String>,
        /// Most connections at once
        #[arg(long, value_name = "N")]
        max_connections: Option<u32>,
        /// Serves only when no other can
        #[arg(long)]
        backup: bool,
    },
    /// Gives a backend no new connections; those it has go on
    Drain {
        /// Which one
        #[command(flatten)]
        which: Which,
        /// How long to wait
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Uses a backend again, as its health allows
    Enable {
        /// Which one
        #[command(flatten)]
        which: Which,
    },
    /// Gives a backend no new connections and no probes
    Disable {
        /// Which one
        #[command(flatten)]
        which: Which,
    },
    /// Gives a backend another share
    Weight {
        /// Which one
        #[command(flatten)]
        which: Which,
        /// The share, 0 to 65535; 0 takes no new connections
        weight: u16,
    },
    /// Takes a backend out; what becomes of its connections is the pool's on_remove
    Remove {
        /// Which one
        #[command(flatten)]
        which: Which,
        /// Close its connections, too
        #[arg(long, conflicts_with = "wait")]
        force: bool,
        /// How long to wait
        #[command(flatten)]
        waiting: Waiting,
    },
}

/// A backend of a pool.
#[derive(Args, Clone, Debug)]
pub struct Which {
    /// The pool
    pub pool: String,
    /// The backend's name, which is its address if it has no other
    pub backend: String,
}

/// For the last connection.
#[derive(Args, Clone, Debug)]
pub struct Waiting {
    /// Drain it first, and return when its last connection is gone
    #[arg(long)]
    pub wait: bool,
    /// Wait no longer than this; exit code 5 then
    #[arg(long, value_name = "TIME", value_parser = duration::parse, requires = "wait")]
    pub timeout: Option<Duration>,
}
