//! Messages to the service manager (sd_notify(3)), and the sockets that it handed over (sd_listen_fds(3)).
//!
//! Without a service manager, that is without `NOTIFY_SOCKET`, nothing happens. No message makes a thread wait: one that
//! finds the manager's queue full is kept, and [`retry`] delivers it later. A newer state takes the place of the one that
//! is kept. Any other failure is logged, and the manager notices that the message is missing.

use crate::net::listen;
use parking_lot::Mutex;
use sd_notify::NotifyState;
use socket2::Socket;
use std::env;
use std::ffi::OsStr;
use std::fmt::Write;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The newest state that the manager's queue had no room for.
static KEPT: Mutex<Option<String>> = Mutex::new(None);

/// Everything listens.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&line(status))]);
}

/// A reload begins; [`ready`] says that it is over.
pub fn reloading() {
    // systemd 253 and later wants to know when, so as to tell two reloads apart.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => log::warn!("can't notify the service manager of the reload: {error}"),
    }
}

/// A drain begins.
pub fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(&line(status))]);
}

/// All is well. A beat that finds no room is left out: the next one says the same.
pub fn alive() {
    retry();
    if KEPT.lock().is_none() {
        log_failure(send(&text(&[NotifyState::Watchdog])).map(drop));
    }
}

/// Delivers the state that found no room, if there is room now. Called every few seconds.
pub fn retry() {
    let mut kept = KEPT.lock();
    let Some(state) = kept.as_ref() else { return };
    let sent = send(state);
    if !matches!(sent, Ok(false)) {
        *kept = None;
    }
    drop(kept);
    log_failure(sent.map(drop));
}

/// How often the manager wants to hear [`alive`]; `None`: not at all.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}

/// Takes the listening sockets that were handed over; whoever binds their addresses gets them. Once, at the very start of the
/// process: it changes the environment, which no other thread may be reading.
pub fn take_sockets() -> Result<(), String> {
    let mut handed = listenfd::ListenFd::from_env();
    for index in 0..handed.len() {
        let tcp = handed.take_tcp_listener(index).map(|socket| socket.map(Socket::from));
        let socket = tcp.or_else(|_| handed.take_unix_listener(index).map(|socket| socket.map(Socket::from)));
        let wrong = |error| format!("can't use the socket number {index} of LISTEN_FDS: {error}");
        if let Some(socket) = socket.map_err(wrong)? {
            listen::inherit(socket).map_err(wrong)?;
        }
    }
    Ok(())
}

/// Sends a state, or keeps it for [`retry`].
fn tell(state: &[NotifyState<'_>]) {
    let state = text(state);
    let mut kept = KEPT.lock();
    let sent = send(&state);
    let had = kept.is_some();
    *kept = matches!(sent, Ok(false)).then_some(state);
    if kept.is_some() && !had {
        log::warn!("the service manager does not read its notifications: it gets the newest state once it does");
    }
    drop(kept);
    log_failure(sent.map(drop));
}

fn text(state: &[NotifyState<'_>]) -> String {
    let mut text = String::new();
    for line in state {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{line}");
    }
    text
}

/// Sends a message without waiting. False if there is no room for it.
fn send(message: &str) -> io::Result<bool> {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else { return Ok(true) };
    let to = address(&path)?;
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    match socket.send_to_addr(message.as_bytes(), &to) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// A leading `@` stands for the zero byte that an abstract address begins with.
fn address(path: &OsStr) -> io::Result<SocketAddr> {
    match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(path),
    }
}

fn log_failure(outcome: io::Result<()>) {
    if let Err(error) = outcome {
        log::warn!("can't notify the service manager: {error}");
    }
}

/// A status is a line; another line would be another message.
fn line(status: &str) -> String {
    status.lines().next().unwrap_or_default().to_owned()
}
