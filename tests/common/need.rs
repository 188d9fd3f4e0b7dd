//! Other people's programs: found, or the test says that it skips.

use std::path::PathBuf;
use std::{env, fs};

/// The path of a program or module, or `None` after saying so. In CI all must be there: a skipped test proves nothing.
pub fn need(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = env::split_paths(&path).collect();
    // Debian keeps servers out of a user's PATH, and each PostgreSQL in a directory of its own.
    places.extend(["/usr/sbin", "/usr/local/sbin", "/usr/lib/nginx/modules"].map(PathBuf::from));
    if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
        places.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    let found = places.iter().map(|place| place.join(name)).find(|file| file.is_file());
    if found.is_none() {
        assert!(env::var_os("CI").is_none(), "{name} is not installed, and in CI no test may be skipped");
        eprintln!("skipped: {name} is not installed");
    }
    found
}
