//! A real PostgreSQL in a folder of its own: a primary or a standby, stopped and started again by the test.

use crate::{Process, account, eventually, free_address, need, run};
use rustix::process::{Signal, geteuid};
use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use tempfile::TempDir;

/// The superuser of each.
const ADMIN: &str = "bench";

/// A server. It ends when it is dropped.
pub struct Postgres {
    postgres: PathBuf,
    psql: PathBuf,
    folder: TempDir,
    /// Where it listens.
    pub at: SocketAddr,
    process: Option<Process>,
}

impl Postgres {
    /// A primary that runs; `None` where PostgreSQL is not installed.
    #[track_caller]
    pub fn start() -> Option<Postgres> {
        let initdb = need("initdb")?;
        let mut server = Postgres::new()?;
        let auth = ["--no-sync", "--auth=trust", "--no-locale", "--data-checksums", "--username", ADMIN, "-D", "data"];
        run(server.command(&initdb)?.args(auth));
        server.start_again();
        Some(server)
    }

    /// The same, and it offers TLS. Its certificate is for no name, which its clients do not check.
    #[track_caller]
    pub fn start_with_tls() -> Option<Postgres> {
        let openssl = need("openssl")?;
        let mut server = Postgres::start()?;
        server.stop();
        let files = ["-keyout", "data/server.key", "-out", "data/server.crt"];
        let certificate = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=postgres"];
        run(server.command(&openssl)?.args(certificate).args(files));
        let settings = server.folder.path().join("data/postgresql.conf");
        let mut settings = OpenOptions::new().append(true).open(settings).expect("its settings");
        writeln!(settings, "ssl = on").expect("one more setting");
        server.start_again();
        Some(server)
    }

    /// A standby that runs, streaming from `primary`.
    #[track_caller]
    pub fn standby_of(primary: &Postgres) -> Option<Postgres> {
        let basebackup = need("pg_basebackup")?;
        let mut server = Postgres::new()?;
        let from = format!("host={} port={} user={ADMIN}", primary.at.ip(), primary.at.port());
        let options = ["--no-sync", "--checkpoint=fast", "--write-recovery-conf", "-D", "data", "-d", &from];
        run(server.command(&basebackup)?.args(options));
        server.start_again();
        Some(server)
    }

    fn new() -> Option<Postgres> {
        let (postgres, psql) = (need("postgres")?, need("psql")?);
        let folder = tempfile::Builder::new().prefix("postgres-").tempdir().expect("a folder");
        Some(Postgres { postgres, psql, folder, at: free_address(), process: None })
    }

    /// `program` in its folder. PostgreSQL refuses to run as root: there, it runs as its own account.
    fn command(&self, program: &Path) -> Option<Command> {
        let mut command = Command::new(program);
        command.current_dir(self.folder.path());
        if geteuid().is_root() {
            let Some((user, group)) = account("postgres") else {
                assert!(std::env::var_os("CI").is_none(), "no account `postgres`, and in CI no test may be skipped");
                eprintln!("skipped: this is root, and there is no account `postgres`");
                return None;
            };
            chown(self.folder.path(), Some(user), Some(group)).expect("give it its folder");
            command.uid(user).gid(group);
        }
        Some(command)
    }

    /// Starts it with the data that it has, and waits until it answers.
    #[track_caller]
    pub fn start_again(&mut self) {
        let mut command = self.command(&self.postgres).expect("the account that made its data");
        let (ip, port) = (self.at.ip().to_string(), self.at.port().to_string());
        command.args(["-D", "data", "-k", "", "-h", &ip, "-p", &port]);
        // pg_rewind reads the log back to the last common checkpoint.
        for setting in ["fsync=off", "shared_buffers=32MB", "log_connections=on", "wal_keep_size=256MB"] {
            command.args(["-c", setting]);
        }
        // SIGQUIT is its immediate shutdown; killed, it would leave its shared memory behind.
        let process = self.process.insert(Process::spawn(&mut command).farewell(Signal::QUIT));
        process.wait_for_line("database system is ready to accept");
    }

    /// Ends it as `pg_ctl stop --mode=fast` does: it closes all sessions, and its standbys get all that it has written.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("it runs");
        process.signal(Signal::INT);
        process.wait_exit()
    }

    /// Starts it, after [`Postgres::stop`], as a standby of `primary`: without what it alone has written.
    #[track_caller]
    pub fn rejoin(&mut self, primary: &Postgres) {
        // pg_rewind reads the timeline of the primary from its last checkpoint.
        primary.sql("CHECKPOINT");
        let rewind = need("pg_rewind").expect("it comes with postgres");
        let from = format!("host={} port={} user={ADMIN} dbname=postgres", primary.at.ip(), primary.at.port());
        let options = ["--no-sync", "--write-recovery-conf", "-D", "data", "--source-server", &from];
        run(self.command(&rewind).expect("the account that made its data").args(options));
        self.start_again();
    }

    /// Has a standby become the primary.
    #[track_caller]
    pub fn promote(&self) {
        assert_eq!(self.sql("SELECT pg_promote()"), "t");
    }

    /// Waits until it has replayed all that `primary` has written so far.
    #[track_caller]
    pub fn catch_up(&self, primary: &Postgres) {
        let written = primary.sql("SELECT pg_current_wal_lsn()");
        let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
        eventually("the standby has replayed it", || self.sql(&replayed) == "t");
    }

    /// The rows of an answer, past any balancer.
    #[track_caller]
    pub fn sql(&self, text: &str) -> String {
        let answer = self.psql(self.at, text).output().expect("run psql");
        assert!(answer.status.success(), "{text}: {}", String::from_utf8_lossy(&answer.stderr));
        String::from_utf8_lossy(&answer.stdout).trim_end().to_owned()
    }

    /// psql as its superuser, by way of `at`.
    pub fn psql(&self, at: SocketAddr, text: &str) -> Command {
        let mut command = Command::new(&self.psql);
        let (ip, port) = (at.ip().to_string(), at.port().to_string());
        command.args(["-XAtqw", "-h", &ip, "-p", &port, "-U", ADMIN, "-d", "postgres", "-c", text]);
        command
    }

    /// How many lines of its log, since it was started last, have `text` in them.
    #[track_caller]
    pub fn count_lines(&self, text: &str) -> usize {
        self.process.as_ref().expect("it runs").count_lines(text)
    }
}
