//! What the service manager is told (sd_notify(3)) and what it handed over (sd_listen_fds(3)).
//!
//! Without a service manager, that is without `NOTIFY_SOCKET`, nothing happens. A message that can't be delivered is not
//! worth stopping for: it is logged, and if it mattered the manager notices its absence.

use crate::net::listen;
use sd_notify::NotifyState;
use socket2::Socket;
use std::time::Duration;

/// Everything listens.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&line(status))]);
}

/// A reload begins; [`ready`] says that it is over.
pub fn reloading() {
    // systemd 253 and later wants to know when, so as to tell two reloads apart.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => log::warn!("can't tell the service manager of the reload: {error}"),
    }
}

/// A drain begins.
pub fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(&line(status))]);
}

/// All is well.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
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

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::warn!("can't tell the service manager: {error}");
    }
}

/// A status is a line; another line would be another message.
fn line(status: &str) -> String {
    status.lines().next().unwrap_or_default().to_owned()
}
