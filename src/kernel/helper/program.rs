//! Runs nft: bounded in time and in what it may write.
//!
//! nft is looked for in [`PLACES`] only, and gets no environment but `LC_ALL=C`, so that its messages are known. A script is its
//! standard input: a file in memory, which is whole before nft runs. So nft never carries out a part of it, even if this process
//! ends meanwhile.

use super::wire::{Failure, WHOLE_MAX};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, MemfdFlags, access, memfd_create};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Where nft is looked for.
pub(super) const PLACES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// How long nft may run, and one second more for each megabyte of its script. A choice map of 655,373 entries is 14 MB, which
/// takes it two seconds of CPU.
const PATIENCE: Duration = Duration::from_secs(10);

/// How much of its messages is kept. They quote the line, which may be a megabyte.
const MESSAGES_MAX: usize = 4096;

/// The program.
#[derive(Clone, Debug)]
pub(super) struct Nft(PathBuf);

impl Nft {
    /// Looks for it.
    pub(super) fn find() -> Result<Nft, Failure> {
        let files = PLACES.iter().map(|place| Path::new(place).join("nft"));
        let runs = |file: &PathBuf| file.is_file() && access(file, Access::EXEC_OK).is_ok();
        files.into_iter().find(runs).map(Nft).ok_or(Failure::NoNft)
    }

    /// Runs a script, as one transaction.
    pub(super) fn run(&self, script: &str) -> Result<(), Failure> {
        self.output(&["-f", "-"], script).map(|_| ())
    }

    /// Checks a script against the kernel, and changes nothing.
    pub(super) fn check(&self, script: &str) -> Result<(), Failure> {
        self.output(&["-c", "-f", "-"], script).map(|_| ())
    }

    /// Lists a set or a map of our table, as JSON; `None`: it does not exist.
    pub(super) fn list(&self, kind: &str, name: &str) -> Result<Option<String>, Failure> {
        match self.output(&["-j", "list", kind, "inet", super::TABLE, name], "") {
            Ok(output) => Ok(Some(output)),
            Err(Failure::Nft(message)) if message.contains("No such file or directory") => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    fn output(&self, arguments: &[&str], input: &str) -> Result<String, Failure> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::TimedOut => Failure::TimedOut,
            _ => Failure::Nft(format!("{}: {error}", self.0.display())),
        };
        let mut command = Command::new(&self.0);
        command.args(arguments).env_clear().env("LC_ALL", "C").current_dir("/");
        command.stdin(script(input).map_err(failed)?).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A Ctrl-C is for the balancer.
        command.process_group(0);
        let mut process = command.spawn().map_err(failed)?;
        let more = Duration::from_secs(input.len() as u64 / 1_000_000);
        let outputs = outputs(&mut process, Instant::now() + PATIENCE + more);
        if outputs.is_err() {
            // It may have ended meanwhile.
            let _ = process.kill();
        }
        let status = process.wait().map_err(failed)?;
        let (output, messages) = outputs.map_err(failed)?;
        if status.success() {
            return String::from_utf8(output).map_err(|_| Failure::Nft("its output is not UTF-8".to_owned()));
        }
        Err(Failure::Nft(told(&messages, status)))
    }
}

/// The first error of its messages, in one line.
fn told(messages: &[u8], status: ExitStatus) -> String {
    let text = String::from_utf8_lossy(messages);
    let line = text.lines().find(|line| line.contains("Error: ")).or_else(|| text.lines().next());
    let line = line.map(|line| line.split_once("Error: ").map_or(line, |(_, message)| message));
    let shown: String = line.unwrap_or_default().chars().filter(|c| !c.is_control()).take(200).collect();
    if shown.is_empty() { status.to_string() } else { shown }
}

/// A standard input with this text.
fn script(text: &str) -> io::Result<Stdio> {
    if text.is_empty() {
        return Ok(Stdio::null());
    }
    let flags = MemfdFlags::CLOEXEC;
    let file = memfd_create(c"nft", flags | MemfdFlags::NOEXEC_SEAL).or_else(|error| match error {
        // Linux before 6.3 does not know the flag.
        Errno::INVAL => memfd_create(c"nft", flags),
        error => Err(error),
    })?;
    let mut file = File::from(file);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file.into())
}

/// Reads what comes, until both outputs end.
fn outputs(process: &mut Child, until: Instant) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let unblocked = |end: OwnedFd| rustix::io::ioctl_fionbio(&end, true).map(|()| File::from(end));
    let mut stdout = process.stdout.take().map(|end| unblocked(end.into())).transpose()?;
    let mut stderr = process.stderr.take().map(|end| unblocked(end.into())).transpose()?;
    let (mut output, mut messages) = (Vec::new(), Vec::new());
    loop {
        drain(&mut stdout, |part| {
            output.extend(part);
            if output.len() > WHOLE_MAX { Err(io::Error::other("its output is too long")) } else { Ok(()) }
        })?;
        drain(&mut stderr, |part| {
            let room = MESSAGES_MAX.saturating_sub(messages.len());
            messages.extend(part.iter().take(room));
            Ok(())
        })?;
        if stdout.is_none() && stderr.is_none() {
            return Ok((output, messages));
        }
        let open = [&stdout, &stderr].into_iter().filter_map(|end| Some(PollFd::new(end.as_ref()?, PollFlags::IN)));
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut open.collect::<Vec<_>>(), Some(&left)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes what is there; the end closes at its end.
fn drain(end: &mut Option<File>, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    while let Some(file) = end.as_ref() {
        match rustix::io::read(file, &mut buffer) {
            Ok(0) => *end = None,
            Ok(read) => take(&buffer[..read])?,
            Err(Errno::AGAIN) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    fn program(path: &str) -> Nft {
        Nft(PathBuf::from(path))
    }

    #[test]
    fn the_first_error_is_shown_in_one_line_without_the_text_that_it_quotes() {
        let messages =
            b"/dev/stdin:1:1-5: Error: Could not process rule: File exists\ncreate table inet tcplb\n^^^^^\n";
        let status = ExitStatus::from_raw(256);
        assert_eq!(told(messages, status), "Could not process rule: File exists");
        assert_eq!(told(b"netlink: Error: cache initialization failed: Operation not permitted\n", status), {
            "cache initialization failed: Operation not permitted"
        });
        assert_eq!(told(b"", status), "exit status: 1");
        assert_eq!(told("\u{1b}[31mé".repeat(300).as_bytes(), status).chars().count(), 200);
    }

    #[test]
    fn a_large_script_and_a_large_output_pass_at_once() {
        let script = "x".repeat(3 * 1024 * 1024);
        assert_eq!(program("/bin/cat").output(&["-"], &script).map(|output| output.len()), Ok(script.len()));
    }

    #[test]
    fn a_program_that_fails_to_start_or_leaves_its_input_unread_is_an_error_or_its_own_answer() {
        assert!(matches!(program("/nonexistent/nft").run(""), Err(Failure::Nft(_))));
        assert_eq!(program("/bin/true").run(&"x".repeat(1 << 20)), Ok(()));
        assert_eq!(program("/bin/false").run("x"), Err(Failure::Nft("exit status: 1".to_owned())));
    }

    #[test]
    fn a_program_that_does_not_end_is_given_up() {
        let mut command = Command::new("/bin/sleep");
        command.arg("1000").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let given_up = outputs(&mut process, Instant::now() + Duration::from_millis(50));
        assert_eq!(given_up.unwrap_err().kind(), io::ErrorKind::TimedOut);
        process.kill().unwrap();
        process.wait().unwrap();
    }

    #[test]
    fn an_output_without_an_end_is_given_up() {
        let why = program("/usr/bin/yes").output(&[], "").unwrap_err();
        assert_eq!(why, Failure::Nft("/usr/bin/yes: its output is too long".to_owned()));
    }
}
