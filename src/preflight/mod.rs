//! Checks what otherwise only a start or a reload finds out: names, ports, files, users, the limit on open files.
//!
//! `tcplb check` and a dry-run reload show the results as warnings: each may change until the start. Nothing listens or
//! connects: a port is tried by a bind without a listen, which clients can't notice.
//!
//! One result is an error: a backend that is a listener of this tcplb ([`mistakes`]).
//!
//! | file | what |
//! |---|---|
//! | `names` | resolves names, in bounded time |
//! | `places` | checks whether an address can be bound |

mod names;
mod places;

use crate::base::{Address, Listen, duration};
use crate::config::check::{self, OwnListeners, TOKEN_MAX};
use crate::config::file::place::{Remark, Within};
use crate::config::model::{Global, Listener, LogTo, Model};
use crate::config::{advice, descriptors};
use crate::confine;
use crate::net::local_ports::LocalPorts;
use crate::net::source;
use crate::small_file::{self, ReadError};
use crate::state_file;
use names::Names;
use rustix::fs::{Access, access};
use rustix::process::{Resource, getrlimit};
use socket2::{Domain, Socket, Type};
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// The operation that the checks precede.
pub enum Before<'a> {
    /// A start with this file.
    Start {
        /// The path of the file.
        file: &'a Path,
    },
    /// A reload of a tcplb that runs.
    Reload {
        /// The running model.
        running: &'a Model,
    },
}

/// Everything that would fail now, one a line.
pub fn warnings(model: &Model, before: &Before<'_>) -> Vec<Remark> {
    let names = Names::of(model);
    let mut warnings = Vec::new();
    for pool in &model.pools {
        for backend in &pool.backends {
            if let Address::Name(host, _) = &backend.address
                && let Err(why) = names.addresses(host)
            {
                let place = Within::Backend(pool.name.clone(), backend.name.clone()).key("address");
                let what = format!("pool {}: can't resolve {}: {why}", pool.name, backend.address);
                warnings.push(Remark::new(place, what));
            }
        }
    }
    // The kernel forwards from an address that this machine may not even have.
    let of_kernel: HashSet<&Listen> = model.kernel_listeners().flat_map(|listener| &listener.bind).collect();
    for (owner, listen) in listens(model).filter(|(_, listen)| !before.is_bound(listen)) {
        let why = match of_kernel.contains(listen) {
            true => places::taken(listen, &names),
            false => places::try_bind(listen, &names).err(),
        };
        if let Some(why) = why {
            warnings.push(owner.remark(&format!("can't listen on {listen} now: {why}")));
        }
    }
    let take_over = model.global.take_over_address().filter(|_| !before.has_take_over_of(&model.global));
    if let Some(why) = take_over.and_then(|listen| places::try_bind(&listen, &names).err()) {
        warnings.push(on_global("take_over", &format!("can't listen there now: {why}")));
    }
    warnings.extend(overlaps(model, &names));
    warnings.extend(of_this_machine(model));
    for listener in &model.listeners {
        let owners = confine::owners(&listener.socket_file);
        let within = Within::Listener(listener.name.clone());
        warnings.extend(owners.err().map(|why| Remark::new(within, format!("listener {}: {why}", listener.name))));
    }
    for (place, source, path) in model.source_files() {
        if let Err(error) = small_file::check(path) {
            let hint = if let ReadError::Io(error) = &error { confine::hint_to_reading(path, error) } else { "" };
            warnings.push(Remark::new(place, format!("{source}: can't read {}: {error}{hint}", path.display())));
        }
    }
    // The start raises the soft limit to the hard one.
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    match descriptors::divide(limit, model, descriptors::listening_sockets(model)) {
        Ok(share) => warnings.extend(descriptors::beyond(share, model)),
        Err(why) => warnings.push(Remark::new(Within::Global.key("max_connections"), why)),
    }
    if let Before::Start { file } = before {
        warnings.extend(files(model));
        let confined = confine::Confinement::new(model, Some(file)).err();
        warnings.extend(confined.map(|why| Remark::new(Within::Global.key("user"), why)));
    }
    advice::readable(warnings)
}

/// What `tcplb check`, the start and a reload warn of by a look at this machine.
pub fn of_this_machine(model: &Model) -> Vec<Remark> {
    sources(model)
        .into_iter()
        .chain(LocalPorts::read().map(|ports| local_ports(model, &ports)).unwrap_or_default())
        .collect()
}

/// Every listener with a range whose ports the kernel may give to a connection: a start cannot listen there then. A single port is
/// common, and seldom met.
fn local_ports(model: &Model, ports: &LocalPorts) -> Vec<Remark> {
    let mut warnings = Vec::new();
    for Listener { name, bind, .. } in &model.listeners {
        let ranges = Listen::rows(bind).filter(|row| row.len() > 2).flatten();
        let met: Vec<Listen> = ranges.filter(|listen| listen.port().is_some_and(|it| ports.has(it))).cloned().collect();
        if !met.is_empty() {
            let met = Listen::shown(&met).join(", ");
            let what = format!(
                "listener {name}: the kernel may give ports of {met} to connections, and then a start can't listen there: add them \
                 to net.ipv4.ip_local_reserved_ports"
            );
            warnings.push(Remark::new(Within::Listener(name.clone()).key("bind"), what));
        }
    }
    warnings
}

/// Every source address that no connection can come from now. It may come later, as that of a failover does.
fn sources(model: &Model) -> Vec<Remark> {
    let listed = model.pools.iter().flat_map(|pool| pool.source.listed().iter().map(move |ip| (&pool.name, *ip)));
    let failing = listed.filter_map(|(pool, ip)| Some((pool, ip, source::try_bind(SocketAddr::new(ip, 0)).err()?)));
    let remark = |(pool, ip, error): (&String, IpAddr, io::Error)| {
        let what = format!("pool {pool}: source: can't connect from {ip} now: {error}");
        Remark::new(Within::Pool(pool.clone()).key("source"), what)
    };
    failing.map(remark).collect()
}

/// Every backend that is a listener or another socket of this model, on an address of this machine. The file's parser
/// has refused the cases that need no look at this machine's addresses.
pub fn mistakes(model: &Model) -> Vec<Remark> {
    let binds = model
        .listeners
        .iter()
        .flat_map(|listener| listener.bind.iter().map(move |listen| (listener.name.as_str(), listen)));
    let take_over = model.global.take_over_address();
    let own = OwnListeners::new(binds).with_pools(Listener::pairs(&model.listeners));
    let own = own.with_admin(&model.global.admin).with_take_over(&take_over);
    let mut mistakes = Vec::new();
    for pool in &model.pools {
        for backend in &pool.backends {
            if let Err(why) = own.refuse(&pool.name, &backend.address, is_ours) {
                let place = Within::Backend(pool.name.clone(), backend.name.clone()).key("address");
                mistakes.push(Remark::new(place, format!("pool {}: backend {}: {why}", pool.name, backend.name)));
            }
        }
    }
    mistakes
}

/// Every name to listen on that resolves to the address of another listener. The file's parser compares the others.
fn overlaps(model: &Model, names: &Names) -> Vec<Remark> {
    let listens: Vec<(Owner<'_>, &Listen, Vec<Listen>)> = listens(model)
        .map(|(owner, listen)| {
            let resolved = match &listen.0 {
                Address::Name(host, port) => {
                    let found = names.addresses(host).unwrap_or_default().iter();
                    found.map(|at| Listen(Address::Inet(SocketAddr::new(at.ip(), *port)))).collect()
                }
                _ => Vec::new(),
            };
            (owner, listen, resolved)
        })
        .collect();
    let mut warnings = Vec::new();
    for (number, (owner, listen, resolved)) in listens.iter().enumerate() {
        let clash = resolved.iter().find_map(|at| {
            let other = listens.iter().enumerate().find(|(other, (_, given, others))| match given.0 {
                Address::Name(..) => *other < number && others.iter().any(|other| check::overlap(at, other)),
                _ => check::overlap(at, given),
            });
            other.map(|(_, (_, given, _))| (at, given))
        });
        if let Some((at, other)) = clash {
            warnings.push(owner.remark(&format!("{listen} is {at}, which overlaps {other}")));
        }
    }
    warnings
}

impl Before<'_> {
    /// Whether the process listens there for processes that take over.
    fn has_take_over_of(&self, global: &Global) -> bool {
        matches!(self, Before::Reload { running } if running.global.take_over == global.take_over)
    }

    /// Whether the process has bound it already, and keeps it.
    fn is_bound(&self, listen: &Listen) -> bool {
        match self {
            Before::Start { .. } => false,
            Before::Reload { running } => listens(running).any(|(_, bound)| bound == listen),
        }
    }
}

/// What listens at an address.
#[derive(Clone, Copy)]
enum Owner<'a> {
    Listener(&'a str),
    Admin,
}

impl Owner<'_> {
    /// About its address.
    fn remark(self, what: &str) -> Remark {
        match self {
            Owner::Listener(name) => {
                Remark::new(Within::Listener(name.to_owned()).key("bind"), format!("listener {name}: {what}"))
            }
            Owner::Admin => on_global("admin", what),
        }
    }
}

/// About a key of the process.
fn on_global(key: &'static str, what: &str) -> Remark {
    Remark::new(Within::Global.key(key), format!("{key}: {what}"))
}

/// All addresses that a model listens on.
fn listens(model: &Model) -> impl Iterator<Item = (Owner<'_>, &Listen)> {
    let of_clients = model
        .listeners
        .iter()
        .flat_map(|listener| listener.bind.iter().map(move |listen| (Owner::Listener(&listener.name), listen)));
    of_clients.chain(model.global.admin.iter().map(|listen| (Owner::Admin, listen)))
}

fn files(model: &Model) -> Vec<Remark> {
    let mut warnings = Vec::new();
    let Global { admin_token_file, admin_read_token_file, .. } = &model.global;
    for (key, file) in [("admin_token_file", admin_token_file), ("admin_read_token_file", admin_read_token_file)] {
        let Some(path) = file else { continue };
        let shown = path.display();
        match small_file::read(path, TOKEN_MAX) {
            Err(error) => warnings.push(on_global(key, &format!("can't read {shown}: {error}"))),
            Ok(text) => {
                let wrong = small_file::token(&text).err();
                warnings.extend(wrong.map(|why| on_global(key, &format!("can't take the token from {shown}: {why}"))));
            }
        }
    }
    if let Some(path) = &model.global.state_file {
        let unreadable = state_file::read(path).err().unwrap_or_default();
        warnings.extend(unreadable.lines().map(|why| Remark::new(Within::Global.key("state_file"), why)));
        // It is replaced: that takes a directory in which files can be created.
        if let Err(error) = access(confine::directory(path), Access::WRITE_OK | Access::EXEC_OK) {
            let why = io::Error::from(error);
            warnings.push(on_global("state_file", &format!("can't write {}: {why}", path.display())));
        }
    }
    if let Some(LogTo::File(log)) = &model.global.access_log
        && let Err(error) = can_write(log)
    {
        warnings.push(on_global("access_log", &format!("can't write {}: {error}", log.display())));
    }
    warnings
}

/// Whether the file can be opened for writing or created. Opening it would create it.
fn can_write(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    match access(path, Access::WRITE_OK) {
        Err(rustix::io::Errno::NOENT) => access(confine::directory(path), Access::WRITE_OK | Access::EXEC_OK)?,
        outcome => outcome?,
    }
    Ok(())
}

/// Whether it is an address of this machine: then a socket connected to it has it as its local address too. A UDP
/// socket sends nothing on connect.
pub fn is_ours(ip: IpAddr) -> bool {
    let to = SocketAddr::new(ip, 1);
    let from = || {
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM.cloexec(), None)?;
        socket.connect(&to.into())?;
        socket.local_addr()
    };
    from().is_ok_and(|from| from.as_socket().is_some_and(|from| from.ip() == ip))
}

/// The error text of a lookup without an answer.
fn no_answer(time: std::time::Duration) -> String {
    format!("no answer within {}", duration::written(time))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file;

    #[test]
    fn addresses_of_this_machine_are_recognized() {
        assert!(is_ours("127.0.0.1".parse().unwrap()));
        assert!(!is_ours("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn a_file_of_a_source_that_can_t_be_read_is_warned_of() {
        let place = tempfile::tempdir().unwrap();
        let (absent, there) = (place.path().join("absent"), place.path().join("there"));
        std::fs::write(&there, "").unwrap();
        let source = |path: &Path| format!("[[pool.discover]]\nkind = 'file'\npath = '{}'\n", path.display());
        let sources = [source(&there), source(&absent), source(place.path())].concat();
        let text = format!("[[listener]]\nbind = ['127.0.0.1:0']\n[[pool]]\n{sources}");
        let model = file::parse(&text, "f").unwrap().model;
        let source =
            |label: &str, path: &Path| format!("pool default: discovery by {label}: can't read {}: ", path.display());
        let warnings =
            |before: &Before<'_>| -> Vec<String> { warnings(&model, before).iter().map(Remark::to_string).collect() };
        let reload = warnings(&Before::Reload { running: &model });
        let warnings = warnings(&Before::Start { file: &there });
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].starts_with(&(source("file-2", &absent) + "No such file")), "{warnings:?}");
        assert!(warnings[1].starts_with(&(source("file-3", place.path()))), "{warnings:?}");
        assert_eq!(reload, warnings);
    }

    #[test]
    fn a_listener_of_the_kernel_where_another_program_listens_is_warned_of() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = other.local_addr().unwrap();
        let text = format!(
            "[[listener]]\nbind = ['{at}']\nengine = 'kernel'\n[[pool]]\n[[pool.backend]]\naddress = '127.0.0.1:1'\n"
        );
        let model = file::parse(&text, "f").unwrap().model;
        let file = Path::new("f");
        let is_warned_of = || {
            let warnings = warnings(&model, &Before::Start { file });
            warnings
                .iter()
                .any(|it| it.to_string().contains(&format!("can't listen on {at} now: Address already in use")))
        };
        assert!(is_warned_of());
        drop(other);
        assert!(!is_warned_of());
    }

    #[test]
    fn checking_a_file_does_not_create_it() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("access.log");
        assert!(can_write(&path).is_ok() && !path.exists());
        assert!(can_write(place.path()).is_err());
        assert!(can_write(&path.join("below")).is_err());
    }
}
