//! How threads communicate: a bounded channel with the waker of the receiver's poll loop, so that every send wakes.
//!
//! Each wait of a sender is bounded. A message that finds no room comes back ([`Mailbox::offer`]), or waits for a stated
//! time ([`Mailbox::send_within`]). Orders that must not be lost go into a [`Slot`], which always has room: an unread
//! order is merged with the next one.

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use mio::{Poll, Token, Waker};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The sending side; cheap to clone.
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
    /// A mailbox for the owner of `poll`, which sees `token` when messages arrive. At most `size` messages wait. mio
    /// allows one waker per poll.
    pub fn new(poll: &Poll, token: Token, size: usize) -> io::Result<(Mailbox<T>, Receiver<T>)> {
        let waker = Arc::new(Waker::new(poll.registry(), token)?);
        let (sender, receiver) = bounded(size);
        Ok((Mailbox { sender, waker }, receiver))
    }

    /// A slot for orders to the same owner, which sees the same token.
    pub fn slot<O: Merge>(&self) -> Slot<O> {
        Slot { waiting: Mutex::new(None), any: AtomicBool::new(false), waker: self.waker.clone() }
    }

    /// Sends without waiting. Returns the message if the mailbox is full or the owner is gone.
    pub fn offer(&self, message: T) -> Result<(), T> {
        self.sender.try_send(message).map_err(TrySendError::into_inner)?;
        self.wake();
        Ok(())
    }

    /// Sends, and waits at most this long for room. False if there was none or the owner is gone.
    pub fn send_within(&self, message: T, patience: Duration) -> bool {
        let sent = self.sender.send_timeout(message, patience).is_ok();
        self.wake();
        sent
    }

    /// How many messages wait.
    pub fn waiting(&self) -> usize {
        self.sender.len()
    }

    /// Wakes the owner without a message.
    pub fn wake(&self) {
        wake(&self.waker);
    }
}

/// Orders that can be merged into one.
pub trait Merge {
    /// Adds a later order. The result must stay bounded, however many are merged.
    fn merge(&mut self, later: Self);
}

/// Room for one order, until the owner takes it.
#[derive(Debug)]
pub struct Slot<O> {
    waiting: Mutex<Option<O>>,
    /// Whether there is an order, so that the owner locks only then.
    any: AtomicBool,
    waker: Arc<Waker>,
}

impl<O: Merge> Slot<O> {
    /// Adds an order without waiting for the owner.
    pub fn put(&self, order: O) {
        let mut waiting = self.waiting.lock();
        match &mut *waiting {
            Some(earlier) => earlier.merge(order),
            None => *waiting = Some(order),
        }
        self.any.store(true, Ordering::Release);
        drop(waiting);
        wake(&self.waker);
    }

    /// Takes all orders since the last call, merged; called by the owner.
    pub fn take(&self) -> Option<O> {
        if !self.any.swap(false, Ordering::Acquire) {
            return None;
        }
        self.waiting.lock().take()
    }
}

fn wake(waker: &Waker) {
    if let Err(error) = waker.wake() {
        log::error!("can't wake a thread: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Merge for Vec<u8> {
        fn merge(&mut self, later: Vec<u8>) {
            self.extend(later);
        }
    }

    #[test]
    fn a_full_mailbox_blocks_no_sender_and_a_slot_always_has_room() {
        let (mailbox, messages) = Mailbox::new(&Poll::new().unwrap(), Token(0), 1).unwrap();
        let slot: Slot<Vec<u8>> = mailbox.slot();
        assert_eq!((mailbox.offer(1), mailbox.offer(2)), (Ok(()), Err(2)));
        assert!(!mailbox.send_within(3, Duration::from_millis(1)));
        assert_eq!(slot.take(), None);
        (0..3).for_each(|order| slot.put(vec![order]));
        assert_eq!((slot.take(), slot.take()), (Some(vec![0, 1, 2]), None));
        assert_eq!(messages.try_iter().collect::<Vec<_>>(), [1]);
    }
}
