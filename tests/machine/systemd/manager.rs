//! A systemd of the test's own: a user manager in a control group of its own, which knows only the units of the test.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use testkit::{Process, eventually, let_pass, need, need_root};

/// Where distributions have it: it is not in the PATH.
const SYSTEMD: [&str; 2] = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];

/// What it starts at first: nothing.
const TARGET: &str = "idle.target";

/// Enters the control group, and has systemd find what a system has that it has booted.
const START: &str = "mkdir -p /run/systemd && mount -t tmpfs tmpfs /run/systemd && mkdir /run/systemd/system \
                     && echo $$ >\"$0/cgroup.procs\" && exec \"$@\"";

/// A running systemd. All its services are killed when it is dropped.
pub struct Manager {
    _process: Process,
    directory: TempDir,
    group: ControlGroup,
}

impl Manager {
    /// Starts one; `None`, after saying so, where that is not possible.
    pub fn start() -> Option<Manager> {
        need_root().then_some(())?;
        need("systemctl")?;
        need("unshare")?;
        let systemd = SYSTEMD.iter().find(|path| Path::new(path).is_file()).expect("systemd comes with systemctl");
        let group = ControlGroup::new()?;
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["units", "run"] {
            fs::create_dir(directory.path().join(name)).expect("make a directory");
        }
        fs::write(directory.path().join("units").join(TARGET), "[Unit]\nDescription=Nothing\n").expect("write a unit");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", START]).arg(&group.path);
        command.args([systemd, "--user"]).arg(format!("--unit={TARGET}"));
        let process = Process::spawn(environment(&mut command, directory.path()));
        let manager = Manager { _process: process, directory, group };
        eventually("systemd runs", || manager.systemctl(&["is-active", TARGET]).status.success());
        Some(manager)
    }

    /// Puts a unit in place, and has it read.
    pub fn add(&self, unit: &str, text: &str) {
        fs::write(self.directory.path().join("units").join(unit), text).expect("write a unit");
        self.call(&["daemon-reload"]);
    }

    /// Runs `systemctl`.
    pub fn systemctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("systemctl");
        command.arg("--user").args(arguments);
        environment(&mut command, self.directory.path()).output().expect("run systemctl")
    }

    /// Runs `systemctl`, which must succeed. What it prints.
    #[track_caller]
    pub fn call(&self, arguments: &[&str]) -> String {
        let output = self.systemctl(arguments);
        let printed = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "systemctl {arguments:?}: {printed}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// A property of a unit.
    #[track_caller]
    pub fn show(&self, unit: &str, property: &str) -> String {
        self.call(&["show", "--value", "--property", property, unit])
    }

    /// The processes of a service, one a line.
    pub fn processes(&self, unit: &str) -> String {
        let group = self.group.path.join("app.slice").join(unit);
        // The group of a service that has ended is gone.
        fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default()
    }
}

/// It sees nothing of the system's own manager.
fn environment<'a>(command: &'a mut Command, directory: &Path) -> &'a mut Command {
    command.env_clear().env("PATH", env::var_os("PATH").unwrap_or_default()).env("HOME", directory);
    command.env("XDG_RUNTIME_DIR", directory.join("run")).env("SYSTEMD_UNIT_PATH", directory.join("units"))
}

/// A control group of version 2. Its processes are killed when it is dropped.
struct ControlGroup {
    path: PathBuf,
    /// systemd makes it in the hierarchy of version 1 as well, where there is one.
    places: Vec<PathBuf>,
}

impl ControlGroup {
    fn new() -> Option<ControlGroup> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("tcplb-test-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let own = fs::read_to_string("/proc/self/cgroup").expect("the control groups of this process");
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().to_owned();
        let mounts = fs::read_to_string("/proc/self/mounts").expect("what is mounted");
        let hierarchies = |kind: &str| -> Vec<PathBuf> {
            let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
            let of_kind = fields.filter(|fields| fields[2] == kind);
            of_kind.map(|fields| Path::new(fields[1]).join(&own).join(&name)).collect()
        };
        let path = hierarchies("cgroup2").into_iter().next();
        let made = path.as_ref().is_some_and(|path| fs::create_dir(path).is_ok());
        let Some(path) = path.filter(|_| made) else {
            eprintln!("skipped: no control group of version 2 can be made here");
            return None;
        };
        Some(ControlGroup { places: hierarchies("cgroup").into_iter().chain([path.clone()]).collect(), path })
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        // A group can be removed once its last process is gone.
        for _ in 0..100 {
            self.places.iter().for_each(|place| remove(place));
            if !self.path.exists() {
                return;
            }
            let_pass(Duration::from_millis(50));
        }
        eprintln!("{} stays behind", self.path.display());
    }
}

/// Removes a group and those below it.
fn remove(group: &Path) {
    let below = fs::read_dir(group).into_iter().flatten().flatten().map(|entry| entry.path());
    below.filter(|path| path.is_dir()).for_each(|path| remove(&path));
    let _ = fs::remove_dir(group);
}
