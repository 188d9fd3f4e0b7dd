//! Landlock: the process gives up what it will not need of the file system (landlock(7)).
//!
//! | what | allowed |
//! |---|---|
//! | reading | the directories of the configuration file and of the lists it names, since editors and configuration managers replace files by renaming; what the resolver, its modules and the C library read; /proc for the metrics; the number of cores |
//! | making and removing unix sockets | the directories of the sockets it has at the start |
//! | writing and making files | the directory of the access log, if there is one; if it is a FIFO or a device, only that |
//! | everything else with files, starting programs | nowhere |
//! | signals, abstract unix sockets of others | none, except where `NOTIFY_SOCKET` or a backend is such a socket at the start |
//!
//! TCP is left alone: a backend may be added on any port, and a listener by a reload. Paths are opened now, so that a
//! directory which is replaced later is another one. Where the kernel knows less, less is in force; where it knows nothing,
//! nothing is.

use super::directory;
use landlock::{
    ABI, Access, AccessFs, BitFlags, LandlockStatus, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetStatus, Scope, path_beneath_rules,
};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// What is asked of the kernel: what this page was written for and tested with. Later rights would come unasked.
const ABI_KNOWN: ABI = ABI::V6;

/// What the system's own parts read; those that are missing are left out.
const SYSTEM: &[&str] = &[
    // hosts, resolv.conf, nsswitch.conf, passwd, ld.so.cache; all of it, since they are replaced by renaming.
    "/etc",
    // Where resolv.conf is a link to.
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/run/nscd",
    // Modules of the resolver are loaded when they are first asked.
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/gnu/store",
    // Metrics. Landlock itself keeps other processes' memory out of reach.
    "/proc",
    // How many cores there are.
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
];

/// What is allowed, for the hints. The process's, like the rules themselves; absent while there are none.
static ALLOWED: OnceLock<Allowed> = OnceLock::new();

#[derive(Debug)]
struct Allowed {
    read: Vec<PathBuf>,
    sockets: Vec<PathBuf>,
    logs: Vec<PathBuf>,
    abstract_sockets: bool,
}

/// Are abstract sockets of other processes out of reach? Kernels before Landlock's ABI 6 do not know how; what they would
/// allow is not asked for either, so that a configuration does not depend on the kernel.
pub fn shuts_out_abstract_sockets() -> bool {
    ALLOWED.get().is_some_and(|allowed| !allowed.abstract_sockets)
}

/// The rules, made but not in force.
pub struct SandboxRules {
    rules: RulesetCreated,
    allowed: Allowed,
}

impl SandboxRules {
    /// For a process that reads these files again, has these unix sockets, and opens this log again.
    /// With `abstract_backend` it connects to abstract sockets of other processes.
    pub fn plan(
        files: &[PathBuf],
        sockets: &[&Path],
        log: Option<&Path>,
        abstract_backend: bool,
    ) -> Result<SandboxRules, String> {
        let mut allowed = Allowed::of(files, sockets, log);
        let manager_is_abstract =
            std::env::var_os("NOTIFY_SOCKET").is_some_and(|at| at.as_encoded_bytes().starts_with(b"@"));
        let reaches_abstract = manager_is_abstract || abstract_backend;
        let scopes = match reaches_abstract {
            true => BitFlags::from(Scope::Signal),
            false => Scope::from_all(ABI_KNOWN),
        };
        allowed.abstract_sockets = reaches_abstract;
        let reading = AccessFs::ReadFile | AccessFs::ReadDir;
        let (system, files) = (SYSTEM.iter().map(PathBuf::from), allowed.read.clone());
        let rules = Ruleset::default()
            .handle_access(AccessFs::from_all(ABI_KNOWN))
            .and_then(|rules| rules.scope(scopes))
            .and_then(Ruleset::create)
            .and_then(|rules| rules.add_rules(path_beneath_rules(system.chain(files), reading)))
            .and_then(|rules| {
                rules.add_rules(path_beneath_rules(&allowed.sockets, AccessFs::MakeSock | AccessFs::RemoveFile))
            })
            .and_then(|rules| {
                rules.add_rules(path_beneath_rules(&allowed.logs, AccessFs::WriteFile | AccessFs::MakeReg))
            });
        Ok(SandboxRules { rules: rules.map_err(|error| error.to_string())?, allowed })
    }

    /// From here on they hold. Says how far.
    pub fn enter(self) -> Result<String, String> {
        let status = self.rules.restrict_self().map_err(|error| error.to_string())?;
        if status.ruleset == RulesetStatus::NotEnforced {
            return Ok(told(&status, &self.allowed));
        }
        let text = told(&status, &self.allowed);
        // Set once a process: a second plan would only narrow the first.
        let _ = ALLOWED.set(self.allowed);
        Ok(text)
    }
}

impl Allowed {
    fn of(files: &[PathBuf], sockets: &[&Path], log: Option<&Path>) -> Allowed {
        let mut read = Vec::new();
        for file in files {
            read.extend(real(directory(file)));
            // A link may lead elsewhere.
            read.extend(real(file).and_then(|file| Some(file.parent()?.to_owned())));
        }
        // The same for the file that every look-up begins with.
        let resolver = real(Path::new("/etc/resolv.conf"));
        read.extend(resolver.and_then(|file| Some(file.parent()?.to_owned())));
        read.retain(|place| !beneath(place, SYSTEM.iter().map(Path::new)));
        read.sort();
        read.dedup();
        let mut sockets: Vec<PathBuf> = sockets.iter().filter_map(|socket| real(directory(socket))).collect();
        sockets.sort();
        sockets.dedup();
        // A device is not alone in its directory, and what writes logs has no need for its neighbours.
        let logs = log.map_or(Vec::new(), |log| match real(log) {
            Some(file) if !file.is_file() => vec![file],
            file => [real(directory(log)), file.and_then(|file| Some(file.parent()?.to_owned()))]
                .into_iter()
                .flatten()
                .collect(),
        });
        let logs = logs.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        Allowed { read, sockets, logs, abstract_sockets: false }
    }
}

fn real(path: &Path) -> Option<PathBuf> {
    std::fs::canonicalize(path).ok()
}

/// What is in force, for the log.
fn told(status: &RestrictionStatus, allowed: &Allowed) -> String {
    let degree = match (&status.ruleset, &status.landlock) {
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => {
            return "no sandbox: Landlock is turned off".to_owned();
        }
        (RulesetStatus::NotEnforced, _) => return "no sandbox: there is no Landlock here".to_owned(),
        (RulesetStatus::PartiallyEnforced, _) => ", as far as this kernel has it",
        (RulesetStatus::FullyEnforced, _) => "",
    };
    let shown = |paths: &[PathBuf]| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    let reads = shown(&allowed.read);
    let reads = if reads.is_empty() { reads } else { format!(" and {reads}") };
    let sockets = match allowed.sockets.as_slice() {
        [] => String::new(),
        sockets => format!(" but sockets in {}", shown(sockets)),
    };
    let logs = match allowed.logs.as_slice() {
        [] => String::new(),
        logs => format!(" but logs in {}", shown(logs)),
    };
    let abi = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => effective_abi.min(ABI_KNOWN) as i32,
        _ => 0,
    };
    format!(
        "sandboxed by Landlock (ABI {abi}{degree}): reads what belongs to the system{reads}, writes nothing{sockets}{logs}, starts nothing"
    )
}

/// What to add to an error about reading this file: that it is we who locked ourselves out, if so.
pub fn hint_to_reading(path: &Path, error: &io::Error) -> &'static str {
    let inside = |allowed: &Allowed| {
        let places = SYSTEM.iter().map(Path::new).chain(allowed.read.iter().map(PathBuf::as_path));
        real(path).is_none_or(|path| beneath(&path, places))
    };
    blame(error, inside)
}

/// What to add to an error about binding this socket file: that the sandbox shuts it out, if so.
pub fn hint_to_binding_file(path: &Path, error: &io::Error) -> &'static str {
    let inside = |allowed: &Allowed| {
        let places = allowed.sockets.iter().map(PathBuf::as_path);
        real(directory(path)).is_none_or(|path| beneath(&path, places))
    };
    blame(error, inside)
}

fn beneath<'a>(path: &Path, mut places: impl Iterator<Item = &'a Path>) -> bool {
    places.any(|place| path.starts_with(place))
}

fn blame(error: &io::Error, inside: impl FnOnce(&Allowed) -> bool) -> &'static str {
    match ALLOWED.get() {
        Some(allowed) if error.kind() == io::ErrorKind::PermissionDenied && !inside(allowed) => {
            " (tcplb locked itself out of there when it started; a restart lets it in)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_s_directory_and_that_of_what_it_links_to_are_read() {
        let place = tempfile::tempdir().unwrap();
        let (here, there) = (place.path().join("here"), place.path().join("there"));
        std::fs::create_dir(&here).unwrap();
        std::fs::create_dir(&there).unwrap();
        std::fs::write(there.join("real.toml"), "").unwrap();
        std::os::unix::fs::symlink(there.join("real.toml"), here.join("tcplb.toml")).unwrap();
        let allowed = Allowed::of(&[here.join("tcplb.toml")], &[&here.join("a.sock"), &here.join("b.sock")], None);
        let real = |path: &Path| std::fs::canonicalize(path).unwrap();
        assert!(allowed.read.contains(&real(&here)) && allowed.read.contains(&real(&there)), "{allowed:?}");
        assert_eq!(allowed.sockets, [real(&here)]);
    }

    #[test]
    fn without_rules_nothing_is_blamed_on_them() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        assert_eq!(hint_to_reading(Path::new("/root/secret"), &denied), "");
        assert_eq!(hint_to_binding_file(Path::new("/root/a.sock"), &denied), "");
    }
}
