//! A file that lists backends: every way in which programs replace one, and everything that may stand there instead.

use super::source::Source;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};
use tcplb::discovery::Value;
use testkit::let_pass;

fn start(path: &Path) -> Source {
    Source::start("file", &[("path", Value::File(path.to_owned()))])
}

/// A list of backends at `10.0.0.N:80`.
fn list(numbers: &[u8]) -> String {
    let entry = |number: &u8| format!("[[backend]]\nname = 'b{number}'\naddress = '10.0.0.{number}:80'\n");
    numbers.iter().map(entry).collect()
}

#[test]
fn every_way_to_replace_a_file_is_seen() {
    let place = tempfile::tempdir().unwrap();
    let (path, new) = (place.path().join("backends.toml"), place.path().join("new"));
    fs::write(&path, list(&[1])).unwrap();
    let mut source = start(&path);
    source.wait_for(&["b1"]);
    fs::write(&path, list(&[1, 2])).unwrap();
    source.wait_for(&["b1", "b2"]);
    fs::write(&new, list(&[2])).unwrap();
    fs::rename(&new, &path).unwrap();
    source.wait_for(&["b2"]);
    // As editors do: the old file is moved away first.
    fs::rename(&path, place.path().join("backends.toml~")).unwrap();
    fs::write(&path, r#"{"backend": [{"name": "b3", "address": "10.0.0.3:80"}]}"#).unwrap();
    source.wait_for(&["b3"]);
    fs::remove_file(&path).unwrap();
    fs::write(&new, list(&[4])).unwrap();
    fs::hard_link(&new, &path).unwrap();
    source.wait_for(&["b4"]);
}

#[test]
fn the_links_of_a_config_map_are_followed() {
    // As the kubelet writes a volume: https://kubernetes.io/docs/concepts/configuration/configmap/
    let place = tempfile::tempdir().unwrap();
    let volume = place.path();
    let publish = |version: &str, numbers: &[u8]| {
        fs::create_dir(volume.join(version)).unwrap();
        fs::write(volume.join(version).join("backends.toml"), list(numbers)).unwrap();
        symlink(version, volume.join("..data_tmp")).unwrap();
        fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    };
    publish("..2026_01", &[1]);
    symlink("..data/backends.toml", volume.join("backends.toml")).unwrap();
    let mut source = start(&volume.join("backends.toml"));
    source.wait_for(&["b1"]);
    for round in 2..5 {
        publish(&format!("..2026_0{round}"), &[round, round + 1]);
        fs::remove_dir_all(volume.join(format!("..2026_0{}", round - 1))).unwrap();
        source.wait_for(&[&format!("b{round}"), &format!("b{}", round + 1)]);
    }
}

#[test]
fn a_link_into_another_directory_is_followed_there() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (link, first, second) = (here.path().join("link"), there.path().join("first"), there.path().join("second"));
    fs::write(&first, list(&[1])).unwrap();
    fs::write(&second, list(&[2])).unwrap();
    symlink(&first, &link).unwrap();
    let mut source = start(&link);
    source.wait_for(&["b1"]);
    fs::write(&first, list(&[1, 3])).unwrap();
    source.wait_for(&["b1", "b3"]);
    symlink(&second, here.path().join("new")).unwrap();
    fs::rename(here.path().join("new"), &link).unwrap();
    source.wait_for(&["b2"]);
    fs::write(&second, list(&[4])).unwrap();
    source.wait_for(&["b4"]);
}

#[test]
fn half_of_a_file_removes_no_backend() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("backends.toml");
    fs::write(&path, list(&[1, 2])).unwrap();
    let mut source = start(&path);
    source.wait_for(&["b1", "b2"]);
    // The first half is a list of its own.
    let mut writer = File::create(&path).unwrap();
    writer.write_all(list(&[1]).as_bytes()).unwrap();
    let_pass(Duration::from_secs(1));
    assert_eq!(source.names(), ["b1", "b2"]);
    writer.write_all(list(&[3]).as_bytes()).unwrap();
    drop(writer);
    source.wait_for(&["b1", "b3"]);
    assert_eq!(source.standing().errors, 0);
}

#[test]
fn what_is_no_list_keeps_the_backends_and_is_reported() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("backends.toml");
    let mut source = start(&path);
    source.wait_for_error("No such file or directory");
    fs::write(&path, list(&[1])).unwrap();
    source.wait_for(&["b1"]);
    fs::write(&path, "").unwrap();
    source.wait_for_error("backends.toml: expected `backend = […]`, but there is no `backend`");
    fs::remove_file(&path).unwrap();
    source.wait_for_error("No such file or directory");
    assert_eq!(source.names(), ["b1"]);
    fs::write(&path, list(&[2])).unwrap();
    source.wait_for(&["b2"]);
    assert!(source.standing().is_well());
}

#[test]
fn an_entry_of_garbage_keeps_what_its_name_had_and_harms_no_other() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("backends.toml");
    fs::write(&path, list(&[1, 2])).unwrap();
    let mut source = start(&path);
    source.wait_for(&["b1", "b2"]);
    let garbage = "[[backend]]\nname = 'b2'\naddress = 'nowhere'\n[[backend]]\nweight = 5\n";
    fs::write(&path, list(&[3]) + garbage).unwrap();
    // The last entry may be b1.
    source.wait_for(&["b1", "b2", "b3"]);
    assert_eq!((source.standing().misunderstood, source.standing().errors), (2, 2));
    let left_out: Vec<String> = source.standing().left_out().cloned().collect();
    assert_eq!(left_out[1], "entry 3: the address is missing", "{left_out:?}");
    fs::write(&path, list(&[3])).unwrap();
    source.wait_for(&["b3"]);
}

#[test]
fn an_entry_whose_name_can_not_be_read_does_not_remove_its_backend() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("backends.json");
    fs::write(&path, list(&[1, 2])).unwrap();
    let mut source = start(&path);
    source.wait_for(&["b1", "b2"]);
    for (garbage, entry) in [
        (r#"{"nmae": "b2", "address": "10.0.0.2:80"}"#, "unknown key `nmae`"),
        (r#""10.0.0.2:80""#, "expected a table with an address"),
        (r#"{"name": 5, "address": "10.0.0.2:80"}"#, "name: expected a text"),
    ] {
        fs::write(&path, format!(r#"{{"backend": [{{"name": "b1", "address": "10.0.0.1:80"}}, {garbage}]}}"#)).unwrap();
        source.wait_for_error(&format!("entry 2: {entry}"));
        source.wait_for_an_answer();
        assert_eq!(source.names(), ["b1", "b2"]);
    }
    fs::write(&path, list(&[1])).unwrap();
    source.wait_for(&["b1"]);
}

#[test]
fn a_corrected_file_is_read_at_once() {
    let place = tempfile::tempdir().unwrap();
    let (path, new) = (place.path().join("backends.toml"), place.path().join("new"));
    let replace = |text: &str| {
        fs::write(&new, text).unwrap();
        fs::rename(&new, &path).unwrap();
    };
    let begun = Instant::now();
    let mut source = start(&path);
    for number in 1..7 {
        replace(&format!("garbage {number}"));
        source.wait_for_error("line 1: ");
        replace(&list(&[number]));
        source.wait_for(&[&format!("b{number}")]);
    }
    // The pauses between the reads of a file that does not change would be 35 s.
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
}

#[test]
fn an_empty_list_removes_the_last_backend_where_that_is_allowed() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("backends.toml");
    fs::write(&path, list(&[1])).unwrap();
    let mut keeps = start(&path);
    let mut clears = Source::clearing("file", &[("path", Value::File(path.clone()))]);
    keeps.wait_for(&["b1"]);
    clears.wait_for(&["b1"]);
    let before = keeps.standing().last_success;
    fs::write(&path, "backend = []").unwrap();
    clears.wait_for(&[]);
    testkit::eventually("the other one has read it too", || keeps.standing().last_success != before);
    assert_eq!(keeps.names(), ["b1"]);
}
