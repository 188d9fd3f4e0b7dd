//! A balancer in this process, where a test can look inside and edit its file.

use parking_lot::Mutex;
use std::net::IpAddr;
use std::sync::Arc;
use tcplb::admission::ListenerAdmission;
use tcplb::app::{self, Changes, Remote, Running};
use tcplb::base::Address;
use tcplb::config::file::parse;
use tcplb::config::model::{self, Model};
use tcplb::pool::{Backend, Pool, Published};
use testkit::{At, ConfigFile, Conn};

/// What a reload reads.
struct File {
    model: Model,
    mistakes: Vec<String>,
}

/// A balancer that ends at once when it is dropped.
pub struct Balancer {
    running: Option<Running>,
    pub remote: Remote,
    pub published: Arc<Published>,
    file: Arc<Mutex<File>>,
}

impl Balancer {
    #[track_caller]
    pub fn start(model: Model) -> Balancer {
        let file = Arc::new(Mutex::new(File { model: model.clone(), mistakes: Vec::new() }));
        let read = file.clone();
        let loader = move || {
            let file = read.lock();
            if file.mistakes.is_empty() { Ok(file.model.clone()) } else { Err(file.mistakes.clone()) }
        };
        let running = app::start_with(model, Some(Arc::new(loader))).unwrap();
        Balancer { remote: running.remote(), published: running.published(), running: Some(running), file }
    }

    /// With two workers.
    #[track_caller]
    pub fn of(file: &ConfigFile) -> Balancer {
        Balancer::start(parse(&file.text(), "tcplb.toml").unwrap_or_else(|mistakes| panic!("{mistakes}")).on(2))
    }

    /// Edits the file.
    pub fn edit(&self, edit: impl FnOnce(&mut Model)) {
        let mut file = self.file.lock();
        edit(&mut file.model);
        file.mistakes.clear();
    }

    /// Gives the file these mistakes, until it is edited.
    pub fn break_file(&self, mistakes: &[&str]) {
        self.file.lock().mistakes = mistakes.iter().map(ToString::to_string).collect();
    }

    /// Edits the file and has it read again.
    #[track_caller]
    pub fn reload(&self, edit: impl FnOnce(&mut Model)) -> Changes {
        self.edit(edit);
        self.remote.reload(false).unwrap()
    }

    /// Where the first listener listens.
    pub fn at(&self) -> At {
        At::parse(&self.published.snapshot().listeners[0].addresses[0].endpoint.to_string())
    }

    /// Where this listener listens.
    #[track_caller]
    pub fn at_listener(&self, name: &str) -> At {
        At::parse(&self.published.snapshot().listener(name).unwrap().addresses[0].endpoint.to_string())
    }

    /// A client of the first listener.
    #[track_caller]
    pub fn connect(&self) -> Conn {
        Conn::to(&self.at())
    }

    /// A client of the first listener, which may be reset before it has noticed that it was connected.
    pub fn client_from(&self, ip: impl Into<IpAddr>) -> Conn {
        Conn::attempt_from(ip, &self.at())
    }

    /// The admission of the first listener.
    pub fn admission(&self) -> Arc<ListenerAdmission> {
        self.published.snapshot().listeners[0].admission.clone()
    }

    /// The first pool.
    pub fn pool(&self) -> Arc<Pool> {
        self.published.snapshot().pools[0].clone()
    }

    #[track_caller]
    pub fn backend(&self, pool: &str, name: &str) -> Arc<Backend> {
        let snapshot = self.published.snapshot();
        let mut members = snapshot.pool(pool).unwrap().members.iter();
        members.find(|member| member.backend.name == name).unwrap().backend.clone()
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn wait(mut self) {
        self.running.take().expect("it runs").wait().unwrap();
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            self.remote.stop();
            self.remote.stop();
            let ended = running.wait();
            assert!(ended.is_ok() || std::thread::panicking(), "{ended:?}");
        }
    }
}

/// A backend of the model.
pub fn backend(name: &str, at: &At) -> model::Backend {
    model::Backend { name: name.to_owned(), ..model::Backend::at(Address::Inet(at.tcp())) }
}
