//! Time jumps: the machine's clock is set, or the balancer itself is stopped for a while.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use testkit::{Admin, Conn, Ending, QUICK_PROBES, Server, Tcplb, eventually, let_pass, need, peers};

/// The library that changes what a program takes for the time of day.
fn libfaketime() -> Option<PathBuf> {
    need("faketime")?;
    let library = |place: PathBuf| place.join("faketime/libfaketimeMT.so.1");
    let architectures = fs::read_dir("/usr/lib").expect("libraries").flatten().map(|entry| entry.path());
    let mut found = architectures.chain(["/usr/lib".into(), "/usr/local/lib".into()]).map(library);
    Some(found.find(|file| file.is_file()).expect("its library came with the tool"))
}

#[test]
fn setting_the_clock_changes_nothing() {
    let Some(library) = libfaketime() else { return };
    let directory = tempfile::tempdir().unwrap();
    let clock = directory.path().join("clock");
    // Replaced as a whole: never read half-written.
    let set = |offset: &str| {
        let next = directory.path().join("next");
        fs::write(&next, offset).unwrap();
        fs::rename(&next, &clock).unwrap();
    };
    set("+0d");
    let preload = format!("LD_PRELOAD={}", library.display());
    let file = format!("FAKETIME_TIMESTAMP_FILE={}", clock.display());
    // The monotonic clock is the kernel's: no process can set it.
    let wrapper =
        ["env", &preload, &file, "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1"];
    let mut server = Server::start(peers::named("web1"));
    let tcplb = Tcplb::new()
        .backend_with(server.at(), "name=web1")
        .args(QUICK_PROBES)
        // The library that sets the clock reads a file all the time, which the sandbox does not let it.
        .args(["--idle-timeout", "4s", "--sandbox", "off"])
        .wrapped(wrapper)
        .start();
    let client = tcplb.connect();
    client.hear_line();
    for (times, offset) in [(1, "+500d"), (2, "-3000d"), (3, "+0d")] {
        set(offset);
        // Its log shows that it has seen the jump.
        server.stop_listening();
        println!("{}", tcplb.wait_for_lines("web1 is down", times).remove(times - 1));
        client.assert_echoes("going on");
        server.start_again();
        tcplb.wait_for_lines("web1 is up", times);
        client.assert_echoes("still");
        assert_eq!(tcplb.connect().hear_line(), "web1");
    }
    let dates: Vec<String> = tcplb.wait_for_lines("web1 is down", 3);
    let year = |line: &String| line.trim_start_matches('[').get(..4).and_then(|year| year.parse::<i32>().ok());
    let years: Vec<i32> = dates.iter().filter_map(year).collect();
    assert!(years.len() == 3 && years[0] > years[2] && years[1] < years[2] - 5, "no jump was seen: {dates:?}");
    // A time-out that was set before still comes, and not before its time.
    let silent = Instant::now();
    set("+1000d");
    assert_eq!(client.ending(), Ending::Fin);
    assert!(silent.elapsed() > Duration::from_secs(2), "its silence was cut short by the clock");
}

/// More clients than one batch of events holds.
const CLIENTS: usize = 700;

#[test]
fn after_a_stop_busy_clients_stay_and_silent_ones_time_out() {
    const IDLE: Duration = Duration::from_secs(5);
    let server = Server::start(peers::named("web1"));
    let tcplb = Tcplb::new()
        .backend_with(server.at(), "name=web1")
        // Little else is done between two batches: all of them are due in the first one.
        .args(["-w", "1", "--idle-timeout", "5s", "--admin", "127.0.0.1:0", "--health-fall", "2"])
        .args(QUICK_PROBES)
        .start();
    let clients: Vec<Conn> = (0..CLIENTS).map(|_| tcplb.connect()).collect();
    clients.iter().for_each(|client| assert_eq!(client.hear_line(), "web1"));
    let (speaking, silent) = clients.split_at(CLIENTS - 50);
    clients.iter().for_each(|client| client.assert_echoes("hello"));

    let admin = Admin::of(&tcplb);
    let count = || admin.metric("tcplb_health_probes_total", &[]);
    let before = count();
    tcplb.freeze();
    speaking.iter().for_each(|client| client.say("while it stood still"));
    // The kernel accepts clients that connect now.
    let newcomers: Vec<Conn> = (0..20).map(|_| tcplb.connect()).collect();
    newcomers.iter().for_each(|client| client.say("new"));
    let_pass(IDLE + Duration::from_secs(1));
    tcplb.thaw();
    let went_on = Instant::now();

    for client in speaking {
        assert_eq!(client.hear(20), b"while it stood still");
    }
    for client in &newcomers {
        assert_eq!(client.hear_line(), "web1");
        assert_eq!(client.hear(3), b"new");
    }
    for client in silent {
        assert_eq!(client.ending(), Ending::Fin);
    }
    assert_eq!(tcplb.count_lines("is down"), 0);
    speaking.iter().for_each(|client| client.assert_echoes("and on"));
    // Timers that were due are not lost: clients that fall silent now end too.
    eventually("the rest times out", || admin.metric("tcplb_connections_active", &[]) == 0);
    // Probes that were missed are not made up for; one takes its turn every 300 ms, less some chance.
    let (probes, took) = (count() - before, went_on.elapsed());
    println!("{probes} probes in the {took:?} after it");
    assert!((1..=took.as_millis() / 200 + 3).contains(&u128::from(probes)), "{probes} probes in {took:?}");
}
