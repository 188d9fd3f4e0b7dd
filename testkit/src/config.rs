//! A configuration file, written line by line.

use crate::{At, Running, Tcplb};
use std::fs;
use std::ops::Deref;
use std::path::PathBuf;
use tempfile::TempDir;

/// A configuration file with one listener and one pool without probes, and the lines that a test adds.
pub struct ConfigFile {
    directory: TempDir,
    global: Vec<String>,
    listener: Vec<String>,
    pool: Vec<String>,
    health: Vec<String>,
    backends: Vec<String>,
    rest: String,
}

/// A tcplb with the directory of its file, which lasts as long.
pub struct Started {
    /// The process and where it listens.
    pub running: Running,
    _directory: Option<TempDir>,
}

impl From<Running> for Started {
    fn from(running: Running) -> Started {
        Started { running, _directory: None }
    }
}

impl Deref for Started {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.running
    }
}

impl ConfigFile {
    /// Without a backend.
    pub fn empty() -> ConfigFile {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let none = Vec::new;
        let (global, listener, pool, health, backends) = (none(), none(), none(), none(), none());
        ConfigFile { directory, global, listener, pool, health, backends, rest: String::new() }
    }

    /// With these backends, named b1, b2 and so on.
    pub fn over<'a>(backends: impl IntoIterator<Item = &'a At>) -> ConfigFile {
        backends.into_iter().fold(ConfigFile::empty(), |file, at| file.backend(at, ""))
    }

    /// A line of `[global]`.
    pub fn global(mut self, line: &str) -> ConfigFile {
        self.global.push(line.to_owned());
        self
    }

    /// A line of `[[listener]]`, which binds a free port of 127.0.0.1 unless a line binds another.
    pub fn listener(mut self, line: &str) -> ConfigFile {
        self.listener.push(line.to_owned());
        self
    }

    /// A line of `[[pool]]`.
    pub fn pool(mut self, line: &str) -> ConfigFile {
        self.pool.push(line.to_owned());
        self
    }

    /// A line of `[pool.health]`, which has `kind = "off"` unless a test writes something there.
    pub fn health(mut self, line: &str) -> ConfigFile {
        self.health.push(line.to_owned());
        self
    }

    /// A backend, with further lines of its section; it is named by its number unless a line names it.
    pub fn backend(mut self, at: &At, line: &str) -> ConfigFile {
        let name =
            if line.contains("name =") { String::new() } else { format!("name = \"b{}\"\n", self.backends.len() + 1) };
        self.backends.push(format!("{name}address = \"{at}\"\n{line}"));
        self
    }

    /// Text behind everything else.
    pub fn and(mut self, text: &str) -> ConfigFile {
        self.rest.push_str(text);
        self
    }

    /// The path of a file beside it with this text.
    pub fn beside(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, text).expect("a file in a directory of our own");
        path
    }

    /// Writes it; its path.
    pub fn write(&self) -> PathBuf {
        let bind =
            if self.listener.iter().any(|line| line.starts_with("bind")) { "" } else { "bind = [\"127.0.0.1:0\"]\n" };
        let health = if self.health.is_empty() { "kind = \"off\"".to_owned() } else { self.health.join("\n") };
        let mut text = format!(
            "[global]\n{}\n[[listener]]\n{bind}{}\n[[pool]]\n{}\n[pool.health]\n{health}\n",
            self.global.join("\n"),
            self.listener.join("\n"),
            self.pool.join("\n"),
        );
        self.backends.iter().for_each(|backend| text.push_str(&format!("[[pool.backend]]\n{backend}\n")));
        self.beside("tcplb.toml", &(text + &self.rest))
    }

    /// Writes it and starts a tcplb with it.
    #[track_caller]
    pub fn start(self) -> Started {
        let running = Tcplb::from_file(&self.write(), 1).start();
        Started { running, _directory: Some(self.directory) }
    }
}
