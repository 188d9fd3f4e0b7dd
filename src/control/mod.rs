//! The control thread: the only one that changes what the others do.
//!
//! Every change, whatever its source, is a [`Command`]. For now there is one: stop.
//!
//! | state | command or event | what follows |
//! |---|---|---|
//! | running | `Stop` | workers drain: they take in who waits, close their listeners, let connections finish |
//! | draining | last worker has ended | over |
//! | draining | `Stop` again, or `shutdown_timeout` is over | workers reset what is left, reason `shutdown` |
//! | any | a worker ended with an error | the others are stopped at once; the error is what [`Control::wait`] gives |

use crossbeam_channel::{Receiver, Sender, after, bounded, never, select};
use std::io;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Commands that may wait; who finds no room waits.
const QUEUE: usize = 64;

/// A change that somebody wants.
#[derive(Debug)]
pub enum Command {
    /// Begin to drain; the second time: end now.
    Stop,
}

/// What all workers are told. Threads do not know each other: whoever puts them together carries it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// No new connections; end with the last one.
    Drain,
    /// End now.
    Stop,
}

/// How anybody sends commands. Clone it freely.
#[derive(Clone, Debug)]
pub struct Remote(Sender<Command>);

/// The thread.
#[derive(Debug)]
pub struct Control {
    thread: JoinHandle<Result<(), String>>,
    remote: Remote,
}

/// What a worker thread tells when it ends.
pub type Ended = (usize, io::Result<()>);

impl Remote {
    /// Begins to drain; the second call ends at once. Does nothing if it is over already.
    pub fn stop(&self) {
        let _ = self.0.send(Command::Stop);
    }
}

impl Control {
    /// Starts the thread for `workers` workers. `tell` gives an order to all of them; `ended` receives one message from
    /// each.
    pub fn spawn(
        workers: usize,
        tell: impl Fn(Order) + Send + 'static,
        ended: Receiver<Ended>,
        shutdown_timeout: Duration,
    ) -> io::Result<Control> {
        let (sender, commands) = bounded(QUEUE);
        let control = move || run(workers, tell, commands, &ended, shutdown_timeout);
        let thread = thread::Builder::new().name("control".into()).spawn(control)?;
        Ok(Control { thread, remote: Remote(sender) })
    }

    /// For those who send commands.
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }

    /// Waits for the end; the error of a worker that failed.
    pub fn wait(self) -> Result<(), String> {
        drop(self.remote);
        self.thread.join().unwrap_or_else(|_| Err("the control thread panicked".into()))
    }
}

fn run(
    workers: usize,
    tell: impl Fn(Order),
    mut commands: Receiver<Command>,
    ended: &Receiver<Ended>,
    shutdown_timeout: Duration,
) -> Result<(), String> {
    let mut deadline = never();
    let mut draining = false;
    let mut outcome = Ok(());
    let mut left = workers;
    while left > 0 {
        select! {
            recv(commands) -> command => match command {
                Ok(Command::Stop) if !draining => {
                    draining = true;
                    log::info!("draining: no new connections, {shutdown_timeout:?} for those that are open");
                    deadline = after(shutdown_timeout);
                    tell(Order::Drain);
                }
                Ok(Command::Stop) => {
                    log::info!("stopping now");
                    tell(Order::Stop);
                }
                // Every remote is gone: nothing can stop us but a worker's failure.
                Err(_) => commands = never(),
            },
            recv(deadline) -> _ => {
                log::warn!("the drain took longer than {shutdown_timeout:?}: what is left is reset");
                deadline = never();
                tell(Order::Stop);
            }
            recv(ended) -> message => {
                left -= 1;
                let failure = match message {
                    Ok((_, Ok(()))) => continue,
                    Ok((worker, Err(error))) => format!("worker {worker} failed: {error}"),
                    Err(_) => "a worker panicked".to_owned(),
                };
                log::error!("{failure}");
                outcome = Err(failure);
                tell(Order::Stop);
            }
        }
    }
    outcome
}
