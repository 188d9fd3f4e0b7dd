//! What these tests need beside the helpers of the end-to-end tests. They need namespaces, root, a configured tcplb with
//! its admin API, and how much of a core it uses.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use testkit::{Admin, At, Process, Tcplb, let_pass, need, need_root, tcplb};

/// More than this share of a core, in percent, is spinning.
pub const CALM: f64 = 10.0;

/// Has it started under a limit of `ulimit`, like `-n 1024`.
pub fn limited(tcplb: Tcplb, limit: &str) -> Tcplb {
    tcplb.wrapped(["sh", "-c", &format!("ulimit {limit}; exec \"$@\""), "sh"])
}

/// Has it started with this file as `/etc/resolv.conf`.
pub fn with_resolv_conf(tcplb: Tcplb, file: &Path) -> Tcplb {
    let script = "mount --bind \"$1\" /etc/resolv.conf && shift && exec \"$@\"";
    let file = file.to_str().expect("a path in UTF-8");
    tcplb.wrapped(["unshare", "--mount", "sh", "-c", script, "sh", file])
}

/// How much of a core the process uses, in percent, over `time`. `beside` is what goes on meanwhile, ten times a second.
pub fn cpu_percent(process: &Process, time: Duration, mut beside: impl FnMut()) -> f64 {
    let (ticks, begun) = (process.cpu_ticks(), Instant::now());
    while begun.elapsed() < time {
        beside();
        let_pass(Duration::from_millis(100));
    }
    // A tick is a hundredth of a second.
    (process.cpu_ticks() - ticks) as f64 / begun.elapsed().as_secs_f64()
}

/// A network of its own, with a loopback and what is put into it. It ends with its last process and socket.
pub struct Network {
    holder: Process,
}

impl Network {
    /// A new one, or `None` where that is not possible.
    pub fn new() -> Option<Network> {
        need_root().then_some(())?;
        need("ip")?;
        need("unshare")?;
        let script = "ip link set lo up && echo ready && exec tail -f /dev/null";
        let holder = Process::spawn(Command::new("unshare").args(["--net", "sh", "-c", script]));
        holder.wait_for_line("ready");
        Some(Network { holder })
    }

    /// A cable from this network to another one; at each end an interface with that name and address.
    pub fn connect(&self, (name, address): (&str, &str), other: &Network, (their_name, theirs): (&str, &str)) {
        let (pid, their_pid) = (self.holder.pid().to_string(), other.holder.pid().to_string());
        ip(&["link", "add", name, "netns", &pid, "type", "veth", "peer", "name", their_name, "netns", &their_pid]);
        for (network, name, address) in [(self, name, address), (other, their_name, theirs)] {
            network.inside(|| {
                ip(&["addr", "add", address, "dev", name]);
                ip(&["link", "set", name, "up"]);
            });
        }
    }

    /// Cuts the link: nothing arrives any more, and no peer gets a FIN or a reset.
    pub fn unplug(&self, name: &str) {
        self.inside(|| ip(&["link", "set", name, "down"]));
    }

    /// The machine behind that interface is gone, though the cable and what is at its other end seem fine. Packets leave
    /// without an error, and nothing comes back.
    pub fn vanish(&self, name: &str) {
        self.inside(|| ip(&["addr", "flush", "dev", name]));
    }

    /// Does `work` on a thread inside it. Sockets that are opened, processes and threads that are started there, belong
    /// to it, wherever they are used later.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let network = File::open(format!("/proc/{}/ns/net", self.holder.pid())).expect("its network");
        let work = || {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).expect("enter the network");
            work()
        };
        thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("run ip");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Restricts the local ports that this thread's network gives to sockets that don't ask for one.
pub fn set_local_ports(first: u16, last: u16) {
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", format!("{first} {last}")).expect("set the range of ports");
}

/// A tcplb with a configuration file and an admin API.
pub struct Configured {
    pub process: Process,
    /// Where its listeners are, in the order of the file.
    pub at: Vec<At>,
    pub admin: Admin,
}

impl Configured {
    /// Starts it. `text` says nothing of `admin`; flags come after the file.
    pub fn start(text: &str, flags: &[&str]) -> Configured {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        write!(file, "[global]\nadmin = '127.0.0.1:0'\n{text}").expect("write the file");
        let mut command = tcplb(&["--config"]);
        command.arg(file.path()).args(flags);
        let process = Process::spawn(&mut command);
        let admin = Admin::of(&process);
        // It says where it listens before it says where admin is.
        let lines = process.wait_for_lines("listening on ", 1);
        let at = lines.iter().filter_map(|line| line.split_once("listening on "));
        let at = at.map(|(_, rest)| At::parse(rest.split_whitespace().next().expect("an address"))).collect();
        Configured { process, at, admin }
    }
}
