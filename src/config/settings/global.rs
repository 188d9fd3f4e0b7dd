//! `[global]`: what concerns the process.

use super::kinds::{self, count, number, word};
use super::{Flag, Section, Source, setting};
use crate::config::check::{self, WORKERS_MAX};
use crate::config::model::{Global, LogEvents, LogFormat};
use crate::config::words::{self, Words};

const LIMITS: &str = "Limits";
const PROCESS: &str = "Process";

/// The table.
pub static GLOBAL: Section<Global> = Section {
    name: "global",
    many: false,
    doc: "What concerns the process.",
    within: &[],
    defaults: Global::default,
    settings: &[
        setting!(
            Global.workers: number::<usize, 1, { WORKERS_MAX as u64 }>(),
            "Event-loop threads."
        )
        .more("More threads than cores gain nothing.")
        .absent("one per core")
        .example("2")
        .restart()
        .flag_as(Flag { long: "workers", short: Some('w'), alias: None, heading: PROCESS }),
        setting!(Global.max_connections: count::<usize>(), "Clients at once, over all proxy listeners.")
            .more("Further clients wait in the kernel's backlog until one leaves.")
            .absent("from the limit on open files")
            .example("10000")
            .restart()
            .flag("max-connections", LIMITS),
        setting!(
            Global.shutdown_delay: kinds::TIME_OR_ZERO,
            "After SIGTERM listeners stay open for this long, while `/readyz` answers 503."
        )
        .more(
            "Then the drain begins. The delay gives a balancer in front the time to notice. A second SIGTERM ends the \
             process at once.",
        ),
        setting!(Global.shutdown_timeout: kinds::TIME_OR_ZERO, "How long a drain may take.")
            .more(
                "A drain begins with SIGTERM or Ctrl-C, after `shutdown_delay`. Connections that are open after it are \
                 reset. A second signal ends tcplb at once.",
            )
            .flag("shutdown-timeout", LIMITS),
        setting!(
            Global.dead_peer_timeout: kinds::DEAD_PEER_TIME,
            "The time within which tcplb finds a peer that vanished without a FIN or a reset."
        )
        .more(
            "It holds on both sides: idle, with bytes unacknowledged, or with a closed window. A peer that acknowledges is \
             alive, however long it reads nothing. Keepalive of an idle backend begins 5 s after the connect, or sooner where \
             this is below `\"10s\"`.",
        )
        .see("timeouts.md")
        .restart(),
        setting!(Global.socket_buffer: kinds::BUFFER_SIZE, "The most that each socket buffer of the kernel holds.")
            .more(
                "Each TCP socket has one buffer for sending and one for receiving, so a connection has four. Buffers that \
                 the kernel tunes grow up to net.ipv4.tcp_rmem and tcp_wmem. That is fast on long paths, and takes megabytes \
                 for each receiver that stalls. The kernel adds as much again for its bookkeeping. It grants at most \
                 net.core.rmem_max and wmem_max; the start warns where that is less. A stream gets at most one buffer per \
                 round trip: 256KiB over 20 ms are 13 MB/s.",
            )
            .absent("the kernel's tuning")
            .see("socket-buffers.md")
            .restart(),
        setting!(Global.relay: word(), "How bytes are moved.")
            .more("`adaptive` copies small messages and splices bulk. `copy` and `splice` force one of the two.")
            .restart()
            .flag("relay", PROCESS),
        setting!(Global.names: word(), "What becomes of a backend whose name cannot be resolved.")
            .more(
                "This holds at the start and at a reload. `later`: the backend is down until the name resolves; tcplb tries \
                 the name again after a second, then less and less often, at least every 30 s. `required`: the start, or the \
                 reload, is refused. A backend that was resolved before keeps its addresses. While tcplb runs, names are looked up \
                 again once their time to live is over.",
            ),
        setting!(Global.admin: kinds::LISTEN, "The address of the admin API, the metrics and the status page.")
            .more(
                "A caller of the API can remove backends, so an address that other machines can reach needs a token. Only \
                 its owner may connect to a unix socket.",
            )
            .absent("off")
            .see("admin-api.md")
            .restart()
            .flag("admin", PROCESS),
        setting!(Global.admin_token_file: kinds::PATH, "A file with the token that admin calls must carry.")
            .more(
                "The header is \"Authorization: Bearer TOKEN\"; /healthz, /readyz and the page without its data need none. \
                 The token is required where other machines can reach the API. Only tcplb should be able to read the file.",
            )
            .absent("no token")
            .needs("admin", |global| global.admin.is_some())
            .restart()
            .flag("admin-token-file", PROCESS),
        setting!(
            Global.admin_read_token_file: kinds::PATH,
            "A file with a token that admin calls may carry instead, and that permits no change."
        )
        .more("It suits Prometheus, dashboards and readers of the status page. It stands beside `admin_token_file`.")
        .absent("no such token")
        .example("\"/etc/tcplb/read-token\"")
        .needs("admin", |global| global.admin.is_some())
        .see("admin-api.md#access")
        .restart(),
        setting!(Global.user: kinds::ACCOUNT, "The user that tcplb becomes once everything is bound, by name or number.")
            .more(
                "This needs a start as root. tcplb keeps the right to bind ports below 1024, so that a reload may add one, and \
                 no other right. The user must be able to read the configuration file, or reloads fail.",
            )
            .absent("unchanged")
            .example("\"nobody\"")
            .see("security.md")
            .restart()
            .flag("user", PROCESS),
        setting!(Global.group: kinds::ACCOUNT, "The group that goes with the user, by name or number.")
            .more("The process is also in the groups that the system lists for the user.")
            .absent("the user's own")
            .example("\"nogroup\"")
            .restart()
            .flag("group", PROCESS),
        setting!(
            Global.sandbox: word(),
            "Whether tcplb gives up the file system once everything is bound."
        )
        .more(
            "`auto` does so by Landlock, as far as the kernel has it. tcplb then reads the directories of the configuration \
             file and of the lists it names, and what the system's resolver and libraries need. It writes nothing but the \
             access log and the `state_file`, starts no program, and makes unix sockets only in directories that have one.",
        )
        .see("security.md")
        .restart()
        .flag("sandbox", PROCESS),
        setting!(Global.upgrade: word(), "Whether `tcplb upgrade` can start a new process that takes over.")
            .more(
                "With `on`, a second process (`launcher`) waits with the privileges of the start. It starts the file at the path \
                 of its own start, and nothing else. With `off` there is none, and SIGUSR2 is logged and ignored.",
            )
            .see("operations.md#upgrade")
            .restart()
            .flag("upgrade", PROCESS),
        setting!(
            Global.take_over: kinds::SOCKET_PATH,
            "A unix socket at which a process started with `--take-over` takes over from this one."
        )
        .more(
            "The socket has mode 0600. Processes of root, of the user of tcplb and of the user of its start may take over. `--take-over` \
             itself makes tcplb listen at its path, where this key is absent.",
        )
        .absent("that of `--take-over`, or none")
        .see("operations.md#take-over-from-outside")
        .restart(),
        setting!(Global.keep_connections: word(), "Whether open connections outlast a restart by the service manager.")
            .more(
                "With `restart`, SIGTERM ends no connection that is open once no byte moves, or at the end of `shutdown_timeout`. Its \
                 sockets go to the service manager's descriptor store, and the next start goes on with them. The unit needs \
                 FileDescriptorStoreMax=. A plain stop ends them at once.",
            )
            .see("operations.md#restart")
            .restart(),
        setting!(Global.state_file: kinds::PATH, "A file that keeps what the API changes over a restart.")
            .more(
                "tcplb writes it after each change, and reads it at the start. The sandbox lets tcplb write to the directory of \
                 the file, so give it one of its own, which the user may write to. A restart treats the changes as a reload does.",
            )
            .absent("changes end with the process")
            .example("\"/var/lib/tcplb/state.toml\"")
            .needs("admin", |global| global.admin.is_some())
            .see("operations.md#the-state-file")
            .restart(),
        setting!(Global.access_log: kinds::LOG_TO, "A file for one line per connection, when it ends; `-` is stdout.")
            .more(
                "After a rename SIGUSR1 opens a new file. The sandbox lets tcplb write to the directory of the file, so give \
                 it one of its own.",
            )
            .absent("off")
            .see("operations.md#the-access-log")
            .restart()
            .flag("access-log", PROCESS),
        setting!(Global.log_format: word(), "The format of that line.")
            .more("`json` has the same names as keys. `haproxy` is the line of HAProxy's `option tcplog`, for its parsers.")
            .see("operations.md#the-access-log")
            .needs("access_log", |global| global.access_log.is_some())
            .restart()
            .flag("log-format", PROCESS),
        setting!(Global.log_events: kinds::LOG_EVENTS, "Which events of a connection leave a line.")
            .more(
                "`close`: it has ended. `open`: a backend is connected. `interval 60s`: so much time has passed, at least \
                 `1s`; for connections that live for days. `open` and `interval` need `log_format = \"json\"`.",
            )
            .see("operations.md#connections-that-live-for-days")
            .needs("access_log", |global| global.access_log.is_some())
            .restart(),
        setting!(Global.metrics_per_backend: kinds::SWITCH, "Whether `/metrics` has series for each backend.")
            .more(
                "With `false` the same metrics hold the sums of each pool, without the label \"backend\". That is for pools \
                 of thousands of backends, whose series would be too many for Prometheus.",
            )
            .see("metrics.md#many-backends")
            .needs("admin", |global| global.admin.is_some()),
    ],
};

/// Reads the section. How many workers there are without the key is for the caller.
pub fn read(source: &Source<'_>) -> Global {
    let mut global = Global::default();
    let taken = GLOBAL.read(source, &mut global);
    if let Some(admin) =
        global.admin.as_ref().filter(|admin| !check::is_local(admin) && !source.has("admin_token_file"))
    {
        let token = source.name("admin_token_file");
        source.wrong(
            "admin",
            format!(
                "`{admin}` can be reached from elsewhere, so it needs an {token}; without one expected an address of this \
                 machine only, like 127.0.0.1:9900 or unix:/run/tcplb/admin.sock"
            ),
        );
    }
    if taken.has("admin_read_token_file") && !taken.has("admin_token_file") {
        source.wrong(
            "admin_read_token_file",
            "expected an admin_token_file beside it: without one, every local caller may change everything",
        );
    }
    let LogEvents { open, interval, .. } = global.log_events;
    let format_is_known = taken.has("log_format") || !source.has("log_format");
    if (open || interval.is_some()) && global.log_format != LogFormat::Json && format_is_known {
        let format = words::of(&global.log_format, LogFormat::NAMES);
        source.wrong(
            "log_events",
            format!(
                "only JSON has lines of open connections: expected log_format = \"json\" beside it, got `{format}`"
            ),
        );
    }
    if taken.has("group") && !source.has("user") {
        source.wrong("group", check::GROUP_ALONE);
    }
    global
}
