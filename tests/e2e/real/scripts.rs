//! The scripts of docs/health.md against the servers that they are for.

use rustix::process::{Signal, geteuid};
use std::io::Write;
use std::process::Command;
use testkit::{At, ConfigFile, Postgres, Process, Server, free_address, need, peers, wait_until_it_listens};

/// The script of the page with this name.
#[track_caller]
fn script(name: &str) -> &'static str {
    let page = include_str!("../../../docs/health.md");
    let (_, rest) = page.split_once(&format!("# {name}\n[pool.health]\n")).expect("the page has it");
    rest.split_once("```").expect("it ends").0
}

/// The verdict on each server, as the log has it.
#[track_caller]
fn verdicts<const N: usize>(servers: [&At; N], script: &str) -> [String; N] {
    let file = ConfigFile::over(servers).health(&format!("initial = \"down\"\ninterval = \"1h\"\n{script}"));
    let tcplb = file.start();
    let verdict = |number: usize| {
        let name = format!(" b{} is ", number + 1);
        tcplb.wait_for_line(&name).split_once(&name).expect("it was waited for").1.to_owned()
    };
    std::array::from_fn(verdict)
}

const PASSED: &str = "up: every step of the script passed";

#[test]
fn a_mail_server_greets_on_one_line_or_several() {
    let one = Server::start(peers::smtp);
    let several = Server::start(|conn| {
        (&conn).write_all(b"220-mail.test\r\n220-no spam\r\n220 ready\r\n")?;
        assert_eq!(conn.line()?, "QUIT");
        (&conn).write_all(b"221 bye\r\n")?;
        conn.try_ending().map(drop)
    });
    let refuses = Server::start(|conn| {
        (&conn).write_all(b"554 no\r\n")?;
        conn.try_ending().map(drop)
    });
    let servers = [one.at(), several.at(), refuses.at()];
    assert_eq!(
        verdicts(servers, script("SMTP")),
        [PASSED, PASSED, "down: step 1: expected \"220\", got \"554 no\\r\\n\""]
    );
}

#[test]
fn a_postgresql_answers_whether_it_speaks_tls() {
    let Some(postgres) = Postgres::start() else { return };
    assert_eq!(verdicts([&At::Tcp(postgres.at)], script("PostgreSQL")), [PASSED]);
}

#[test]
fn a_mariadb_greets_and_takes_the_login_of_a_probe() {
    let Some(mariadb) = need("mariadbd") else { return };
    let (folder, at) = (tempfile::tempdir().unwrap(), free_address());
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let mut command = Command::new(mariadb);
    // Without tables of users it takes every login.
    command.args(["--no-defaults", "--skip-grant-tables", "--innodb=OFF", "--default-storage-engine=MyISAM"]);
    command.arg(format!("--datadir={}", data.display())).arg(format!("--socket={}", folder.path().join("s").display()));
    command.args([format!("--bind-address={}", at.ip()), format!("--port={}", at.port())]);
    if geteuid().is_root() {
        command.arg("--user=root");
    }
    let mut mariadb = Process::spawn(&mut command);
    wait_until_it_listens(at);
    assert_eq!(verdicts([&At::Tcp(at)], script("MySQL")), [PASSED]);
    // It logs a connection without a login when that ends: the one above, and the one that has waited for it.
    mariadb.wait_for_lines("without authentication", 2);
    assert_eq!(verdicts([&At::Tcp(at)], script("MySQL, with a login")), [PASSED]);
    mariadb.signal(Signal::TERM);
    mariadb.wait_exit();
    assert_eq!(mariadb.count_lines("without authentication"), 2, "{}", mariadb.output());
}
