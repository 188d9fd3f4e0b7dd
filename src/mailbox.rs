//! How threads talk: a bounded channel and the waker of the receiver's poll loop, tied together, so that nobody can send
//! and forget to wake.

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use mio::{Poll, Token, Waker};
use std::io;
use std::sync::Arc;

/// The sending side; clone it freely.
#[derive(Debug)]
pub struct Mailbox<T> {
    sender: Sender<T>,
    waker: Arc<Waker>,
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Mailbox { sender: self.sender.clone(), waker: self.waker.clone() }
    }
}

impl<T> Mailbox<T> {
    /// A mailbox for the owner of `poll`, who sees `token` whenever mail has come. At most `size` letters wait.
    /// mio allows one waker per poll.
    pub fn new(poll: &Poll, token: Token, size: usize) -> io::Result<(Mailbox<T>, Receiver<T>)> {
        let waker = Arc::new(Waker::new(poll.registry(), token)?);
        let (sender, receiver) = bounded(size);
        Ok((Mailbox { sender, waker }, receiver))
    }

    /// Sends without waiting; gives the letter back when the box is full or its owner gone.
    pub fn offer(&self, letter: T) -> Result<(), T> {
        self.sender.try_send(letter).map_err(TrySendError::into_inner)?;
        self.wake();
        Ok(())
    }

    /// Sends, waiting for room: for the few letters that must not be lost. False if the owner is gone.
    pub fn send(&self, letter: T) -> bool {
        let sent = self.sender.send(letter).is_ok();
        self.wake();
        sent
    }

    /// Wakes the owner without a letter.
    pub fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            log::error!("can't wake a thread: {error}");
        }
    }
}
