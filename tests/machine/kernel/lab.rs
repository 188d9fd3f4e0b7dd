//! Clients, a balancer and servers, each on a machine of their own, and a tcplb whose listener has the kernel's engine.

use crate::lab::Network;
use rustix::process::{Pid, Signal};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::{Admin, Answer, At, Conn, Process, Server, eventually, need, peers, tally, tcplb};

/// Where clients connect. No interface has the second one.
pub const AT: &str = "10.9.1.1:80";
pub const AT6: &str = "[fd09:1::1]:80";
/// The servers are at `10.9.2.2`, `10.9.2.3` and so on, on this port, and at `fd09:2::2` and so on.
pub const PORT: u16 = 8080;

/// The three machines.
pub struct Lab {
    pub clients: Network,
    pub balancer: Network,
    pub servers: Network,
    pub place: tempfile::TempDir,
}

impl Lab {
    /// New ones, or `None` where that is not possible.
    pub fn new() -> Option<Lab> {
        need("nft")?;
        let (clients, balancer, servers) = (Network::new()?, Network::new()?, Network::new()?);
        clients.connect(("wire", "10.9.1.2/24"), &balancer, ("left", "10.9.1.1/24"));
        servers.connect(("wire", "10.9.2.2/24"), &balancer, ("right", "10.9.2.1/24"));
        clients.inside(|| {
            ip(&["-6", "addr", "add", "fd09:1::2/64", "dev", "wire", "nodad"]);
            ip(&["route", "add", "default", "via", "10.9.1.1"]);
            ip(&["-6", "route", "add", "default", "via", "fd09:1::1"]);
        });
        servers.inside(|| {
            for last in 3..=9 {
                ip(&["addr", "add", &format!("10.9.2.{last}/24"), "dev", "wire"]);
            }
            for last in 2..=9 {
                ip(&["-6", "addr", "add", &format!("fd09:2::{last}/64"), "dev", "wire", "nodad"]);
            }
            ip(&["route", "add", "default", "via", "10.9.2.1"]);
            ip(&["-6", "route", "add", "default", "via", "fd09:2::1"]);
        });
        balancer.inside(|| {
            ip(&["-6", "addr", "add", "fd09:1::1/64", "dev", "left", "nodad"]);
            ip(&["-6", "addr", "add", "fd09:2::1/64", "dev", "right", "nodad"]);
            for (key, value) in [
                ("net/ipv4/ip_forward", "1"),
                ("net/ipv6/conf/all/forwarding", "1"),
                // The file exists once the module is there, which the first rule of nat loads.
                ("net/netfilter/nf_conntrack_acct", "1"),
            ] {
                let _ = fs::write(format!("/proc/sys/{key}"), value);
            }
        });
        Some(Lab { clients, balancer, servers, place: tempfile::tempdir().expect("a directory") })
    }

    /// The server with this last part of its address, which says its name and echoes.
    pub fn server(&self, last: u8) -> Server {
        let at = SocketAddr::from(([10, 9, 2, last], PORT));
        self.servers.inside(|| Server::start_at_address(at, peers::named(&format!("s{last}"))))
    }

    /// The same by IPv6.
    pub fn server6(&self, last: u8) -> Server {
        let at = format!("[fd09:2::{last}]:{PORT}").parse().expect("an address");
        self.servers.inside(|| Server::start_at_address(at, peers::named(&format!("six{last}"))))
    }

    /// A client that has connected there.
    pub fn connect(&self, to: &str) -> Conn {
        let to = At::parse(to);
        self.clients.inside(|| Conn::to(&to))
    }

    /// The same, if it is let in.
    pub fn try_connect(&self, to: &str) -> io::Result<Conn> {
        let to = At::parse(to);
        self.clients.inside(|| Conn::try_to(&to))
    }

    /// The names that so many clients hear. One that is not let in hears none.
    pub fn names(&self, to: &str, clients: usize) -> BTreeMap<String, usize> {
        let to = At::parse(to);
        let name = || {
            let client = Conn::try_to(&to)?;
            let name = client.line()?;
            client.finish();
            client.try_ending().map(|_| name)
        };
        let names = || tally((0..clients).map(|_| name().unwrap_or_else(|error: io::Error| error.kind().to_string())));
        self.clients.inside(names)
    }

    /// The file of the configuration.
    pub fn file(&self) -> PathBuf {
        self.place.path().join("tcplb.toml")
    }

    pub fn write(&self, text: &str) {
        fs::write(self.file(), text).expect("write the file");
    }

    /// Starts tcplb with this configuration.
    pub fn start(&self, text: &str) -> Kernel<'_> {
        self.write(text);
        self.start_again()
    }

    /// Starts it with the configuration of before.
    pub fn start_again(&self) -> Kernel<'_> {
        let process = self.balancer.inside(|| {
            let mut command = tcplb(&["--log-level", "debug", "--config"]);
            Process::spawn_group(command.arg(self.file()))
        });
        let admin = Admin::of(&process);
        Kernel { lab: self, process, admin }
    }

    /// Starts it with this configuration and with a `nft` that waits or refuses on demand.
    pub fn start_with_nft(&self, text: &str, environment: &[(&str, &str)]) -> Kernel<'_> {
        self.write(text);
        let place = self.place.path();
        let real = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/bin/nft"].iter().find(|it| Path::new(it).is_file());
        if !place.join("nft").exists() {
            fs::copy(real.expect("nft"), place.join("nft")).expect("copy nft");
        }
        fs::write(place.join("fake"), FAKE.replace("PLACE", place.to_str().expect("text"))).expect("write a script");
        fs::set_permissions(place.join("fake"), fs::Permissions::from_mode(0o755)).expect("make it a program");
        let process = self.balancer.inside(|| {
            let asked = tcplb(&["--log-level", "debug", "--config"]);
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", REPLACE, "sh"]).arg(place.join("fake")).arg(asked.get_program());
            command.args(asked.get_args()).arg(self.file()).envs(environment.iter().copied());
            Process::spawn_group(&mut command)
        });
        let admin = Admin::of(&process);
        Kernel { lab: self, process, admin }
    }

    /// nft waits as long as this.
    pub fn hold_nft(&self, hold: bool) {
        let file = self.place.path().join("hold");
        if hold { fs::write(file, "").expect("write a file") } else { fs::remove_file(file).expect("remove it") }
    }

    /// Another program removes all rules while the table is read the next time.
    pub fn tear(&self) {
        fs::write(self.place.path().join("tear"), "").expect("write a file");
    }

    /// nft refuses scripts with a line that this matches; `None`: none.
    pub fn refuse(&self, lines: Option<&str>) {
        let file = self.place.path().join("refuse");
        match lines {
            Some(lines) => fs::write(file, lines).expect("write a file"),
            None => fs::remove_file(file).expect("remove it"),
        }
    }

    /// Starts it in vain: what it says.
    pub fn start_in_vain(&self, wrapper: &[&str], text: &str) -> String {
        self.write(text);
        let mut asked = tcplb(&["--config"]);
        asked.arg(self.file());
        let mut command = Command::new(wrapper.first().map_or_else(|| asked.get_program(), AsRef::as_ref));
        if let Some((_, rest)) = wrapper.split_first() {
            command.args(rest).arg(asked.get_program());
        }
        command.args(asked.get_args());
        let mut process = self.balancer.inside(|| Process::spawn(&mut command));
        let status = process.wait_exit();
        assert!(!status.success(), "{}", process.output());
        process.output()
    }

    /// What nft says on the balancer.
    pub fn nft(&self, arguments: &[&str]) -> String {
        self.balancer.inside(|| output("nft", arguments))
    }

    /// What a command of tcplb says there.
    pub fn run(&self, arguments: &[&str]) -> String {
        let command = tcplb(arguments);
        let arguments: Vec<&str> = command.get_args().map(|it| it.to_str().expect("text")).collect();
        self.balancer.inside(|| output(command.get_program().to_str().expect("text"), &arguments))
    }
}

/// A `nft` that waits while there is a file `hold`, and refuses scripts with a line that the file `refuse` describes. With a file
/// `tear`, another program removes all rules while the table is read.
const FAKE: &str = "#!/bin/sh
while [ -e PLACE/hold ]; do sleep 0.05; done
if [ \"$*\" = '-j list map inet tcplb listeners4' ] && [ -e PLACE/tear ]; then
    rm PLACE/tear
    PLACE/nft flush ruleset
fi
if [ \"$*\" = '-f -' ] && [ -e PLACE/refuse ] && grep -q -f PLACE/refuse /dev/stdin; then
    echo '/dev/stdin:1:1-5: Error: Could not process rule: Not supported' >&2
    exit 1
fi
exec PLACE/nft \"$@\"
";

/// Starts a program where this file is nft.
const REPLACE: &str = "fake=$1; shift; for nft in /usr/sbin/nft /sbin/nft /usr/bin/nft /bin/nft; do \
                       if [ -e $nft ]; then mount --bind $fake $nft; fi; done; exec \"$@\"";

/// A tcplb on the balancer's machine.
pub struct Kernel<'a> {
    lab: &'a Lab,
    pub process: Process,
    pub admin: Admin,
}

impl Kernel<'_> {
    pub fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        self.lab.balancer.inside(|| self.admin.call(method, path, body))
    }

    pub fn get(&self, path: &str) -> Value {
        serde_json::from_str(&self.call("GET", path, "").body).expect("JSON")
    }

    pub fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        self.lab.balancer.inside(|| self.admin.metric(name, labels))
    }

    /// Waits until each of these backends is in this state.
    #[track_caller]
    pub fn wait_for<S: AsRef<str>>(&self, state: &str, backends: &[S]) {
        let backends: Vec<&str> = backends.iter().map(AsRef::as_ref).collect();
        eventually(&format!("{backends:?} are {state}"), || {
            let status = self.get("/v1/status");
            let pools = status["pools"].as_array().expect("pools").iter();
            let all = pools.flat_map(|pool| pool["backends"].as_array().expect("backends"));
            let of_state = all
                .filter(|it| it["state"] == state)
                .filter(|it| backends.contains(&it["name"].as_str().expect("a name")));
            of_state.count() == backends.len()
        });
    }

    /// The backend of this name.
    pub fn backend(&self, name: &str) -> Value {
        let status = self.get("/v1/status");
        let pools = status["pools"].as_array().expect("pools").iter();
        let mut all = pools.flat_map(|pool| pool["backends"].as_array().expect("backends").clone());
        all.find(|it| it["name"] == name).expect("the backend")
    }

    /// The processes of the helper: the one that starts it, and itself.
    pub fn helper(&self) -> (Pid, Option<Pid>) {
        let children = |of: Pid| -> Vec<Pid> {
            let of = of.as_raw_nonzero();
            let children = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
            children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
        };
        let own = Pid::from_raw(self.process.pid().cast_signed()).expect("a process");
        let is_starter = |pid: &Pid| {
            let line = fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_nonzero()));
            line.is_ok_and(|line| line.contains("kernel-starter"))
        };
        let starter = children(own).into_iter().find(is_starter).expect("the process that starts helpers");
        (starter, children(starter).into_iter().next())
    }

    /// Reads the file again.
    #[track_caller]
    pub fn reload(&self, text: &str) {
        self.lab.write(text);
        let answer = self.call("POST", "/v1/reload", "");
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// Ends the process by this signal.
    pub fn end(mut self, signal: Signal) -> String {
        self.process.signal(signal);
        self.process.wait_exit();
        self.process.output()
    }
}

/// A configuration: a listener at these addresses, over servers by these last parts.
pub fn config(bind: &str, pool: &str, servers: &[u8]) -> String {
    let backends = servers.iter().map(|last| backend(*last, ""));
    format!(
        "[global]\nadmin = '127.0.0.1:0'\n[[listener]]\nname = 'web'\nbind = [{bind}]\nengine = 'kernel'\n\
         [[pool]]\nname = 'pool'\n{pool}\n[pool.health]\ninterval = '100ms'\nfall = 1\nrise = 1\n{}",
        backends.collect::<String>()
    )
}

/// A backend of a file.
pub fn backend(last: u8, more: &str) -> String {
    format!("[[pool.backend]]\nname = 's{last}'\naddress = '10.9.2.{last}:{PORT}'\n{more}\n")
}

/// The same by IPv6.
pub fn backend6(last: u8) -> String {
    format!("[[pool.backend]]\nname = 'six{last}'\naddress = '[fd09:2::{last}]:{PORT}'\n")
}

pub fn ip(arguments: &[&str]) {
    output("ip", arguments);
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}
