//! One port for several PostgreSQL, by the name that psql asks for behind its SSLRequest.

use std::process::Output;
use testkit::{ConfigFile, Postgres, Started, heavy};

/// Runs a query by way of tcplb.
fn psql(postgres: &Postgres, tcplb: &Started, host: &str, mode: &str) -> Output {
    let query = "SELECT current_setting('port'), ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let mut command = postgres.psql(tcplb.at().tcp(), query);
    // libpq asks for a name, and not for an address; it connects to the address all the same.
    command.args(["-h", host]).env("PGHOSTADDR", "127.0.0.1").env("PGSSLMODE", mode);
    command.output().expect("run psql")
}

#[test]
fn psql_with_tls_reaches_the_postgres_of_its_name() {
    let _alone = heavy();
    let (Some(one), Some(two)) = (Postgres::start_with_tls(), Postgres::start_with_tls()) else { return };
    let Some(plain) = Postgres::start() else { return };
    let pool = |name: &str, server: &Postgres| {
        let at = server.at;
        format!("[[pool]]\nname = \"{name}\"\n[pool.health]\nkind = \"off\"\n[[pool.backend]]\naddress = \"{at}\"\n")
    };
    let route = |name: &str| {
        format!("[[listener.route]]\nprotocol = \"postgres\"\nsni = [\"{name}.example\"]\npool = \"{name}\"\n")
    };
    let tcplb = ConfigFile::of(format!(
        "[[listener]]\nbind = [\"127.0.0.1:0\"]\npool = \"plain\"\n{}{}{}{}{}",
        route("one"),
        route("two"),
        pool("one", &one),
        pool("two", &two),
        pool("plain", &plain)
    ))
    .start();
    for (host, mode, server, is_encrypted) in [
        ("one.example", "require", &one, "t"),
        ("two.example", "require", &two, "t"),
        ("TWO.Example.", "require", &two, "t"),
        ("one.example", "disable", &plain, "f"),
    ] {
        let output = psql(&one, &tcplb, host, mode);
        let said = String::from_utf8_lossy(&output.stdout);
        let expected = format!("{}|{is_encrypted}\n", server.at.port());
        assert_eq!(said, expected, "{host}, {mode}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // Its server has no TLS, and the client was promised some.
    let output = psql(&one, &tcplb, "three.example", "require");
    assert!(!output.status.success() && output.stdout.is_empty());
    tcplb.wait_for_line("sniff_failed: the backend has no TLS");
}
