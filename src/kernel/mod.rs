//! The kernel engine: the kernel forwards the packets of a listener, and one nftables table of ours decides where to.
//!
//! All state that outlasts this process is in that table, `inet tcplb`, and in the kernel's table of connections
//! (conntrack). A snapshot gives the wanted table. Its difference to the installed one is a list of typed changes, which
//! become one transaction of `nft`.
//!
//! | file | what |
//! |---|---|
//! | `table` | what the nftables table holds: wanted, and as installed |
//! | `digest` | digests of what the table holds |
//! | `marks` | the marks by which conntrack names a backend |
//! | [`plan`](Planner) | makes the wanted table from listeners and pools |
//! | [`mod@change`] | a change of the table, and the changes that make one table of another: one transaction or several |
//! | [`engine`] | thread: keeps the rules as the newest snapshot wants them |
//! | `rules` | reads the rules and makes them what is wanted, by way of the helper |
//! | `wanted` | what a snapshot and the health bits want |
//! | `approximation` | weights that follow loads, for pools with `approximate` |
//! | `entries` | thread: counts, lists and deletes the entries of connections |
//! | `directory` | what marks and addresses of entries stand for |
//! | `lacks` | what the system lacks |
//! | [`nft`] | changes as a script of `nft`; what is installed, from its listings |
//! | [`helper`] | the process that keeps CAP_NET_ADMIN: it runs `nft`, and asks conntrack |
//! | `tally` | connections and bytes of each backend, from what conntrack shows |

mod approximation;
pub mod change;
mod digest;
mod directory;
pub mod engine;
mod entries;
pub mod helper;
mod lacks;
mod marks;
pub mod nft;
mod plan;
mod rules;
mod table;
mod tally;
mod wanted;

pub use change::{Change, Difference, difference, difference_but, installed_but};
pub use digest::Digest;
pub use marks::{Mark, Marks, PREFIX, PREFIX_MASK};
pub use plan::{Planner, Wanted, WantedListener, WantedMember, WantedPool};
pub use table::{
    Bind, Chain, ChainId, Choice, ChoiceId, Denied, FORMAT, Family, Installed, InstalledChain, InstalledChoice,
    InstalledSource, Label, Limits, Number, Pick, PoolId, Rules, SourceChain, SourceLimit, StateKey, TABLE, Table,
    Target,
};
