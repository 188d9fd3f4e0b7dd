//! A configuration file, given as a text or line by line, and the tcplb that is started with it.

use crate::{At, Running, Tcplb};
use rustix::process::Signal;
use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use tempfile::TempDir;

/// A configuration file in a directory of its own. Both are gone when it is dropped.
pub struct ConfigFile {
    directory: TempDir,
    /// The text, if it was given as a whole.
    text: Option<String>,
    global: Vec<String>,
    listener: Vec<String>,
    pool: Vec<String>,
    health: Vec<String>,
    backends: Vec<String>,
    rest: String,
}

/// A tcplb with its file, if it was started with one.
pub struct Started {
    running: Running,
    file: Option<ConfigFile>,
}

impl From<Running> for Started {
    fn from(running: Running) -> Started {
        Started { running, file: None }
    }
}

impl ConfigFile {
    /// With one listener and one pool without probes and without a backend.
    pub fn empty() -> ConfigFile {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let none = Vec::new;
        let (global, listener, pool, health, backends) = (none(), none(), none(), none(), none());
        ConfigFile { directory, text: None, global, listener, pool, health, backends, rest: String::new() }
    }

    /// With these backends, named b1, b2 and so on.
    pub fn over<'a>(backends: impl IntoIterator<Item = &'a At>) -> ConfigFile {
        backends.into_iter().fold(ConfigFile::empty(), |file, at| file.backend(at, ""))
    }

    /// With this text.
    pub fn of(text: impl Into<String>) -> ConfigFile {
        ConfigFile::empty().whole(text)
    }

    /// With this text instead of lines, where the text names paths beside the file.
    pub fn whole(mut self, text: impl Into<String>) -> ConfigFile {
        self.text = Some(text.into());
        self
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

    /// The path of a file beside it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The path of a file beside it with this text.
    pub fn beside(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("a file in a directory of our own");
        path
    }

    /// What stands in it.
    pub fn text(&self) -> String {
        if let Some(text) = &self.text {
            return text.clone();
        }
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
        text + &self.rest
    }

    /// Writes it; its path.
    pub fn write(&self) -> PathBuf {
        self.rewrite(&self.text())
    }

    /// Writes another text into it; its path.
    pub fn rewrite(&self, text: &str) -> PathBuf {
        self.beside("tcplb.toml", text)
    }

    /// Writes it and starts a tcplb with it.
    #[track_caller]
    pub fn start(self) -> Started {
        Started { running: Tcplb::from_file(&self.write()).start(), file: Some(self) }
    }
}

impl Started {
    /// Its file.
    #[track_caller]
    pub fn file(&self) -> &ConfigFile {
        self.file.as_ref().expect("it was started with a file")
    }

    /// Writes another text into its file and has the file read again, by SIGHUP.
    #[track_caller]
    pub fn reload(&self, text: &str) {
        self.file().rewrite(text);
        self.running.signal(Signal::HUP);
    }
}

impl Deref for Started {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.running
    }
}

impl DerefMut for Started {
    fn deref_mut(&mut self) -> &mut Running {
        &mut self.running
    }
}
