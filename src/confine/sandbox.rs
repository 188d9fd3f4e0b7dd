//! Landlock (landlock(7)): the process gives up access to files that it does not need.
//!
//! | what | allowed |
//! |---|---|
//! | reading | the directories of the configuration file, of the lists it names and of the files of its sources, since editors replace files by renaming; the pod's service account, if a source reads it; the files of the resolver, its modules and the C library; /proc for the metrics; the number of cores |
//! | creating and removing unix sockets | the directories of the sockets it has at the start |
//! | writing and creating files | the directory of the access log, if there is one; if it is a FIFO or a device, only that |
//! | writing, creating and replacing files | the directory of the state file, if there is one |
//! | other access to files, starting programs | nowhere |
//! | signals, abstract unix sockets of others | none, except where `NOTIFY_SOCKET` or a backend is such a socket at the start |
//!
//! TCP is not restricted: a backend or a listener may be added on any port. Directories are opened at the start, so a
//! directory that replaces one of them later is not covered. An older kernel enforces a part of the rules, or none.

use super::directory;
use landlock::{
    ABI, Access, AccessFs, BitFlags, LandlockStatus, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetStatus, Scope, path_beneath_rules,
};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The version of Landlock's rules that this module was written for and tested with. Rights of later versions are not
/// handled.
const ABI_KNOWN: ABI = ABI::V6;

/// Paths that system libraries read; missing ones are left out.
const SYSTEM: &[&str] = &[
    // hosts, resolv.conf, nsswitch.conf, passwd, ld.so.cache. The whole directory, since they are replaced by renaming.
    "/etc",
    // resolv.conf is often a link to one of these.
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/run/nscd",
    // The C library loads modules of the resolver at the first look-up.
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/gnu/store",
    // For metrics. Landlock itself denies access to other processes' memory.
    "/proc",
    // The number of cores.
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
];

/// The rules in force, for hints in errors; unset without rules.
static ALLOWED: OnceLock<Allowed> = OnceLock::new();

#[derive(Debug)]
struct Allowed {
    read: Vec<PathBuf>,
    sockets: Vec<PathBuf>,
    logs: Vec<PathBuf>,
    state: Vec<PathBuf>,
    abstract_sockets: bool,
}

/// The files that a process opens again after it has given up the file system.
#[derive(Clone, Copy, Default)]
pub struct Files<'a> {
    /// Those that it reads.
    pub read: &'a [&'a Path],
    /// Its unix sockets.
    pub sockets: &'a [&'a Path],
    /// The access log.
    pub log: Option<&'a Path>,
    /// The state file.
    pub state: Option<&'a Path>,
}

/// Whether abstract sockets of other processes are out of reach. Kernels before Landlock's ABI 6 can't enforce it; such
/// sockets are refused there too, so that a configuration does not depend on the kernel.
pub fn shuts_out_abstract_sockets() -> bool {
    ALLOWED.get().is_some_and(|allowed| !allowed.abstract_sockets)
}

/// The rules, created but not in force.
pub struct SandboxRules {
    rules: RulesetCreated,
    allowed: Allowed,
}

impl SandboxRules {
    /// Rules for a process that opens these files again. With `abstract_backend` it may connect to abstract sockets of other
    /// processes.
    pub fn plan(files: &Files<'_>, abstract_backend: bool) -> Result<SandboxRules, String> {
        let mut allowed = Allowed::of(files);
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
            })
            .and_then(|rules| {
                // A file is replaced by renaming another one, and its directory is opened to sync it.
                let replacing = AccessFs::WriteFile | AccessFs::MakeReg | AccessFs::RemoveFile | AccessFs::ReadDir;
                rules.add_rules(path_beneath_rules(&allowed.state, replacing))
            });
        Ok(SandboxRules { rules: rules.map_err(|error| error.to_string())?, allowed })
    }

    /// Puts the rules in force. Returns the log's text on how far they are.
    pub fn enter(self) -> Result<String, String> {
        let status = self.rules.restrict_self().map_err(|error| error.to_string())?;
        if status.ruleset == RulesetStatus::NotEnforced {
            return Ok(description(&status, &self.allowed));
        }
        let text = description(&status, &self.allowed);
        // Set once per process: a second plan would only narrow the first.
        let _ = ALLOWED.set(self.allowed);
        Ok(text)
    }
}

impl Allowed {
    fn of(files: &Files<'_>) -> Allowed {
        let Files { sockets, log, .. } = *files;
        let mut read = Vec::new();
        for file in files.read {
            read.extend(real(directory(file)));
            // The file may be a link to another directory.
            read.extend(real(file).and_then(|file| Some(file.parent()?.to_owned())));
        }
        // The resolver's configuration, which every look-up reads, may be a link too.
        let resolver = real(Path::new("/etc/resolv.conf"));
        read.extend(resolver.and_then(|file| Some(file.parent()?.to_owned())));
        read.retain(|place| !beneath(place, SYSTEM.iter().map(Path::new)));
        read.sort();
        read.dedup();
        let mut sockets: Vec<PathBuf> = sockets.iter().filter_map(|socket| real(directory(socket))).collect();
        sockets.sort();
        sockets.dedup();
        // A device shares its directory with other devices, so it alone is writable.
        let logs = log.map_or(Vec::new(), |log| match real(log) {
            Some(file) if !file.is_file() => vec![file],
            file => [real(directory(log)), file.and_then(|file| Some(file.parent()?.to_owned()))]
                .into_iter()
                .flatten()
                .collect(),
        });
        let logs = logs.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        let state = files.state.and_then(|state| real(directory(state))).into_iter().collect();
        Allowed { read, sockets, logs, state, abstract_sockets: false }
    }
}

fn real(path: &Path) -> Option<PathBuf> {
    std::fs::canonicalize(path).ok()
}

/// The log's text on the rules in force.
fn description(status: &RestrictionStatus, allowed: &Allowed) -> String {
    let degree = match (&status.ruleset, &status.landlock) {
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => {
            return "no sandbox: Landlock is turned off".to_owned();
        }
        (RulesetStatus::NotEnforced, _) => return "no sandbox: there is no Landlock here".to_owned(),
        (RulesetStatus::PartiallyEnforced, _) => ", as far as this kernel has it",
        (RulesetStatus::FullyEnforced, _) => "",
    };
    let reads = shown(&allowed.read);
    let reads = if reads.is_empty() { reads } else { format!(" and {reads}") };
    let abi = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => effective_abi.min(ABI_KNOWN) as i32,
        _ => 0,
    };
    format!(
        "sandboxed by Landlock (ABI {abi}{degree}): reads what belongs to the system{reads}, writes {}, starts nothing",
        writes(allowed)
    )
}

fn shown(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn writes(allowed: &Allowed) -> String {
    let kinds = [("sockets", &allowed.sockets), ("logs", &allowed.logs), ("the state file", &allowed.state)];
    let written = kinds.into_iter().filter(|(_, places)| !places.is_empty());
    let written: Vec<String> = written.map(|(kind, places)| format!("{kind} in {}", shown(places))).collect();
    if written.is_empty() { "nothing".to_owned() } else { format!("only {}", written.join(" and ")) }
}

/// The text to add to an error about reading this file, if the sandbox denies it.
pub fn hint_to_reading(path: &Path, error: &io::Error) -> &'static str {
    let inside = |allowed: &Allowed| {
        let places = SYSTEM.iter().map(Path::new).chain(allowed.read.iter().map(PathBuf::as_path));
        real(path).is_none_or(|path| beneath(&path, places))
    };
    explain(error, inside)
}

/// The text to add to an error about binding this socket file, if the sandbox denies it.
pub fn hint_to_binding_file(path: &Path, error: &io::Error) -> &'static str {
    let inside = |allowed: &Allowed| {
        let places = allowed.sockets.iter().map(PathBuf::as_path);
        real(directory(path)).is_none_or(|path| beneath(&path, places))
    };
    explain(error, inside)
}

fn beneath<'a>(path: &Path, mut places: impl Iterator<Item = &'a Path>) -> bool {
    places.any(|place| path.starts_with(place))
}

fn explain(error: &io::Error, inside: impl FnOnce(&Allowed) -> bool) -> &'static str {
    match ALLOWED.get() {
        Some(allowed) if error.kind() == io::ErrorKind::PermissionDenied && !inside(allowed) => {
            " (the sandbox of this process excludes that path; a restart includes it)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directories_of_a_file_and_of_its_link_target_are_readable() {
        let place = tempfile::tempdir().unwrap();
        let (here, there) = (place.path().join("here"), place.path().join("there"));
        std::fs::create_dir(&here).unwrap();
        std::fs::create_dir(&there).unwrap();
        std::fs::write(there.join("real.toml"), "").unwrap();
        std::os::unix::fs::symlink(there.join("real.toml"), here.join("tcplb.toml")).unwrap();
        let allowed = Allowed::of(&Files {
            read: &[&here.join("tcplb.toml")],
            sockets: &[&here.join("a.sock"), &here.join("b.sock")],
            ..Files::default()
        });
        let real = |path: &Path| std::fs::canonicalize(path).unwrap();
        assert!(allowed.read.contains(&real(&here)) && allowed.read.contains(&real(&there)), "{allowed:?}");
        assert_eq!(allowed.sockets, [real(&here)]);
    }

    #[test]
    fn the_log_names_what_the_process_writes() {
        let place = |path: &str| vec![PathBuf::from(path)];
        for (sockets, logs, state, want) in [
            (vec![], vec![], vec![], "nothing"),
            (place("/run"), vec![], vec![], "only sockets in /run"),
            (vec![], place("/var/log"), vec![], "only logs in /var/log"),
            (place("/run"), place("/var/log"), vec![], "only sockets in /run and logs in /var/log"),
            (place("/run"), vec![], place("/var/lib"), "only sockets in /run and the state file in /var/lib"),
        ] {
            assert_eq!(writes(&Allowed { read: vec![], sockets, logs, state, abstract_sockets: false }), want);
        }
    }

    #[test]
    fn without_rules_errors_get_no_hint() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        assert_eq!(hint_to_reading(Path::new("/root/secret"), &denied), "");
        assert_eq!(hint_to_binding_file(Path::new("/root/a.sock"), &denied), "");
    }
}
