//! Messages to the service manager (sd_notify(3)), the sockets that it passes (sd_listen_fds(3)), and its [`store`].
//!
//! Without a service manager, that is without `NOTIFY_SOCKET`, nothing is sent. No message blocks a thread: a state
//! that finds the manager's queue full is kept, and [`retry`] sends it later. A newer state replaces a kept one. Other
//! failures are logged.

pub mod store;

use crate::net::listen;
use parking_lot::Mutex;
use rustix::net::sockopt::socket_acceptconn;
use rustix::net::{AddressFamily, SocketType};
use sd_notify::NotifyState;
use socket2::Socket;
use std::env;
use std::ffi::OsStr;
use std::fmt::Write;
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::thread;
use std::time::{Duration, Instant};

/// The pause before a kept state is tried again.
const AGAIN: Duration = Duration::from_millis(50);

/// The newest state that did not fit into the manager's queue.
static KEPT: Mutex<Option<String>> = Mutex::new(None);

/// Whether a service manager has started this process.
pub fn is_there() -> bool {
    env::var_os("NOTIFY_SOCKET").is_some()
}

/// Reports that all listeners serve (READY=1).
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(&line(status))]);
}

/// Reports that a reload begins (RELOADING=1); [`ready`] ends it.
pub fn reloading() {
    // systemd 253 and later needs the time, to match READY=1 to a reload.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => log::warn!("can't notify the service manager of the reload: {error}"),
    }
}

/// Reports that a drain begins (STOPPING=1).
pub fn stopping(status: &str) {
    notify(&[NotifyState::Stopping, NotifyState::Status(&line(status))]);
}

/// Reports that another process is the main one from now on (MAINPID=), which has taken over. That it has done so shows that it is alive:
/// upgrades that follow each other faster than beats must not look like a hang.
pub fn main_process(pid: i32) {
    // A process number is positive.
    notify(&[NotifyState::MainPid(pid.unsigned_abs()), NotifyState::Watchdog]);
}

/// Reports that no thread is stuck (WATCHDOG=1). A message that finds no room is dropped, since the next one replaces
/// it.
pub fn alive() {
    retry();
    if KEPT.lock().is_none() {
        log_failure(send(&text(&[NotifyState::Watchdog])).map(drop));
    }
}

/// Sends the kept state, if there is room now. Called every few seconds.
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

/// Waits until the kept state is sent, at most for this time.
pub fn flush(time: Duration) {
    let until = Instant::now() + time;
    while KEPT.lock().is_some() && Instant::now() < until {
        thread::sleep(AGAIN);
        retry();
    }
}

/// How often the manager expects [`alive`]; `None`: never.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}

/// The time by a clock that outlasts the process.
pub fn monotonic() -> io::Result<Duration> {
    match NotifyState::monotonic_usec_now()? {
        NotifyState::MonotonicUsec(micros) => Ok(Duration::from_micros(u64::try_from(micros).unwrap_or(0))),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Takes what the manager passes. Listeners on their addresses get listening sockets; the ends of socket pairs that the process before
/// has put into the [`store`] are returned. Call it once, before any other thread runs: it changes the environment.
pub fn take_sockets() -> Result<Vec<OwnedFd>, String> {
    let (unix, pair) = (i32::from(AddressFamily::UNIX.as_raw()), SocketType::SEQPACKET.as_raw().cast_signed());
    let mut handed = listenfd::ListenFd::from_env();
    let mut stored = Vec::new();
    for index in 0..handed.len() {
        let wrong = |error: io::Error| format!("can't use the socket number {index} of LISTEN_FDS: {error}");
        if let Ok(end) = handed.take_custom::<OwnedFd>(index, unix, pair, "end of a socket pair") {
            if end.as_ref().map_or(Ok(false), socket_acceptconn).map_err(|error| wrong(error.into()))? {
                let why = "it listens for SOCK_SEQPACKET: expected a listening stream socket (ListenStream=)";
                return Err(wrong(io::Error::other(why)));
            }
            stored.extend(end);
            continue;
        }
        let tcp = handed.take_tcp_listener(index).map(|socket| socket.map(Socket::from));
        let socket = tcp.or_else(|_| handed.take_unix_listener(index).map(|socket| socket.map(Socket::from)));
        if let Some(socket) = socket.map_err(wrong)? {
            listen::inherit(socket).map_err(wrong)?;
        }
    }
    Ok(stored)
}

/// Sends a state, or keeps it for [`retry`].
fn notify(state: &[NotifyState<'_>]) {
    let state = text(state);
    let mut kept = KEPT.lock();
    let sent = send(&state);
    let had = kept.is_some();
    *kept = matches!(sent, Ok(false)).then_some(state);
    if kept.is_some() && !had {
        log::warn!("the service manager does not read its notifications; the newest state is sent later");
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

/// Sends a message without blocking. False if there is no room for it.
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

/// A leading `@` stands for the zero byte of an abstract address.
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

/// A status is one line; a second line would be another message.
fn line(status: &str) -> String {
    status.lines().next().unwrap_or_default().to_owned()
}
