//! Two PostgreSQL, of which one replicates the other, with stand-ins for the REST API of Patroni. The primary's role moves under
//! pgbench.

use parking_lot::Mutex;
use rustix::process::Signal;
use std::io::Write;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;
use testkit::{ConfigFile, Conn, Postgres, Process, Server, Started, eventually, heavy, need};

/// The path that Patroni answers with 200. On any other it answers with 503.
type Role = &'static str;
const PRIMARY: Role = "/primary";
const REPLICA: Role = "/replica";
const NEITHER: Role = "/neither";

/// A server with its Patroni.
struct Node {
    postgres: Postgres,
    role: Arc<Mutex<Role>>,
    patroni: Server,
}

impl Node {
    /// Patroni listens at the address of its server, on `port`; 0 is any.
    fn new(postgres: Postgres, role: Role, port: u16) -> Node {
        let role = Arc::new(Mutex::new(role));
        let now = role.clone();
        let patroni = Server::start_at_address(SocketAddr::new(postgres.at.ip(), port), move |conn: Conn| {
            let request = conn.line()?;
            while !conn.line()?.is_empty() {}
            let status =
                if request.split(' ').nth(1) == Some(*now.lock()) { "200 OK" } else { "503 Service Unavailable" };
            (&conn).write_all(format!("HTTP/1.0 {status}\r\nServer: BaseHTTP/0.6\r\n\r\n").as_bytes())?;
            conn.finish();
            conn.try_ending().map(drop)
        });
        Node { postgres, role, patroni }
    }

    fn becomes(&self, role: Role) {
        *self.role.lock() = role;
    }

    /// What a query about writers counts.
    #[track_caller]
    fn count(&self, query: &str) -> u64 {
        self.postgres.sql(query).parse().unwrap()
    }

    /// Sessions of writers.
    #[track_caller]
    fn sessions(&self) -> u64 {
        self.count("SELECT count(*) FROM pg_stat_activity WHERE usename = 'writer'")
    }

    /// Sessions of writers since it was started.
    #[track_caller]
    fn logins(&self) -> usize {
        self.postgres.count_lines("authorized: user=writer")
    }

    /// Writes that it has taken itself, as far as `seen_by` knows.
    #[track_caller]
    fn writes(&self, seen_by: &Node) -> u64 {
        seen_by.count(&format!("SELECT count(*) FROM writes WHERE node = {}", self.postgres.at.port()))
    }

    #[track_caller]
    fn takes_writes(&self) {
        let before = self.writes(self);
        eventually("it takes writes", || self.writes(self) > before + 100);
    }
}

const TABLES: &str = "
    CREATE ROLE writer LOGIN;
    CREATE TABLE writes (node int DEFAULT inet_server_port(), client int);
    CREATE TABLE totals (client int PRIMARY KEY, writes int);
    INSERT INTO totals SELECT generate_series(0, 9), 0;
    GRANT ALL ON writes, totals TO writer";

const TRANSACTION: &str = "
    BEGIN;
    INSERT INTO writes (client) VALUES (:client_id);
    UPDATE totals SET writes = writes + 1 WHERE client = :client_id;
    END;";

/// pgbench, started again whenever it ends, as it does when it loses its connections.
const AGAIN: &str = r#"trap 'kill $!; exit' TERM; while :; do "$@" & wait $!; done"#;

/// Clients that write, with `options` of pgbench.
fn writers(file: &ConfigFile, at: SocketAddr, options: &[&str]) -> Option<Process> {
    let script = file.beside("transaction.sql", TRANSACTION);
    let (ip, port) = (at.ip().to_string(), at.port().to_string());
    let mut command = Command::new("sh");
    command.args(["-c", AGAIN, "writers"]).arg(need("pgbench")?).args(options).arg("-f").arg(script);
    // A rate keeps the machine free for the rest.
    command.args(["-n", "-T600", "--rate=200", "-h", &ip, "-p", &port, "-U", "writer", "postgres"]);
    Some(Process::spawn(&mut command).farewell(Signal::TERM))
}

/// The two pools of docs/health.md, behind two listeners: the primary, the replicas.
fn balancer([a, b]: [&Node; 2]) -> Started {
    let port = a.patroni.at().port();
    let parts = ["primary", "replica"].map(|role| {
        format!(
            "[[listener]]\nname = \"{role}\"\nbind = [\"127.0.0.1:0\"]\npool = \"{role}\"\n\
             [[pool]]\nname = \"{role}\"\npreset = \"patroni-{role}\"\n\
             [pool.health]\nport = {port}\ninterval = \"1s\"\n\
             [[pool.backend]]\nname = \"a\"\naddress = \"{}\"\n\
             [[pool.backend]]\nname = \"b\"\naddress = \"{}\"\n",
            a.postgres.at, b.postgres.at
        )
    });
    ConfigFile::of(parts.concat()).start()
}

#[test]
fn the_role_of_the_primary_moves_under_pgbench() {
    let _alone = heavy();
    let Some(primary) = Postgres::start() else { return };
    primary.sql(TABLES);
    let Some(standby) = Postgres::standby_of(&primary) else { return };
    let mut a = Node::new(primary, PRIMARY, 0);
    let mut b = Node::new(standby, REPLICA, a.patroni.at().port());
    let tcplb = balancer([&a, &b]);
    let [write, read] = [0, 1].map(|listener| tcplb.listening()[listener].tcp());
    let reader = |node: &Node| node.postgres.psql(read, "SELECT inet_server_port()").output().unwrap().stdout;
    let port = |node: &Node| format!("{}\n", node.postgres.at.port()).into_bytes();

    let Some(_lasting) = writers(tcplb.file(), write, &["-c4"]) else { return };
    let Some(_short) = writers(tcplb.file(), write, &["-c2", "--connect"]) else { return };
    a.takes_writes();
    eventually("all of the lasting ones have their session", || a.sessions() >= 4);
    assert_eq!((reader(&b), b.logins()), (port(&b), 0));

    // A loses the role and goes on as if it had it: it takes all that comes to it. Only the balancer keeps the writers away.
    let (lost, before) = (Instant::now(), a.writes(&a));
    a.becomes(NEITHER);
    eventually("the last writer has left the old primary", || a.sessions() == 0);
    let (left, late) = (lost.elapsed(), a.writes(&a) - before);
    b.postgres.catch_up(&a.postgres);
    let (taken, logins) = (a.writes(&a), a.logins());
    assert_eq!(b.logins(), 0, "a writer came to the standby");
    b.postgres.promote();
    b.becomes(PRIMARY);
    b.takes_writes();
    let served = lost.elapsed();
    let wrong = a.writes(&a) - taken;
    println!(
        "a failover: the last writer left the old primary after {left:.1?}, {late} writes after it had lost the role; the new one \
         took writes after {served:.1?}; writes that reached the wrong node: {wrong}"
    );
    assert_eq!((wrong, a.logins(), a.sessions()), (0, logins, 0));
    assert_eq!(a.writes(&b), taken, "all that the old primary took");

    // It returns as a standby, which serves the readers.
    a.postgres.stop();
    a.postgres.rejoin(&b.postgres);
    a.becomes(REPLICA);
    eventually("it serves the readers", || reader(&a) == port(&a));

    // B gives the role up in order: it stops, and A has all that it has written.
    let lost = Instant::now();
    b.becomes(NEITHER);
    let before = a.writes(&a);
    b.postgres.stop();
    let left = lost.elapsed();
    assert_eq!(a.logins(), 0, "a writer came to the standby");
    a.postgres.promote();
    a.becomes(PRIMARY);
    eventually("the new primary takes writes", || a.writes(&a) > before + 100);
    let served = lost.elapsed();
    b.postgres.rejoin(&a.postgres);
    b.becomes(REPLICA);
    eventually("it serves the readers", || reader(&b) == port(&b));
    a.takes_writes();
    let wrong = b.logins();
    println!(
        "a switchover: the last writer left the old primary after {left:.1?}; the new one took writes after {served:.1?}; \
         writers that reached the wrong node: {wrong}"
    );
    assert_eq!(wrong, 0);
}
