//! Reserved descriptors, so that a client accepted with the last free one can still be connected to a backend.
//!
//! A connection takes two descriptors, one after the other. If none is left after the first, the client would be reset
//! at last; in the kernel's accept queue it could have waited. So each worker reserves some before it accepts, and
//! frees one when a dial fails for lack of descriptors. A client that goes to another worker takes one along: the reserve
//! there may be spent.

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;

/// One would suffice, but another thread may take a freed descriptor first.
const SPARES: usize = 2;

/// The reserved descriptors of one worker.
#[derive(Debug, Default)]
pub struct Spares(Vec<OwnedFd>);

impl Spares {
    /// Refills the reserve. Makes no system call if it is full. Fails if no descriptor is left.
    pub fn hold(&mut self) -> io::Result<()> {
        while self.0.len() < SPARES {
            self.0.push(eventfd(0, EventfdFlags::CLOEXEC)?);
        }
        Ok(())
    }

    /// One for a client that another worker will connect. `None` if no descriptor is left beside it.
    pub fn take(&mut self) -> Option<OwnedFd> {
        self.hold().ok()?;
        self.0.pop()
    }

    /// Adds one that came with a client, or closes it if the reserve is full.
    pub fn put(&mut self, spare: OwnedFd) {
        if self.0.len() < SPARES {
            self.0.push(spare);
        }
    }

    /// Calls `open`; while it fails for lack of descriptors, frees a reserved one and calls again.
    pub fn spend<T>(&mut self, mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        loop {
            match open() {
                Err(error) if is_lack(&error) && self.0.pop().is_some() => {}
                outcome => return outcome,
            }
        }
    }
}

/// Whether the error is a lack of descriptors, of the process or of the system.
fn is_lack(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_descriptors_uses_the_reserve_and_fails_once_it_is_empty() {
        let mut spares = Spares::default();
        spares.hold().unwrap();
        let mut lacking = SPARES;
        let opened = spares.spend(|| {
            lacking -= 1;
            if lacking > 0 { Err(Errno::MFILE.into()) } else { Ok("opened") }
        });
        assert_eq!((opened.unwrap(), spares.0.len()), ("opened", 1));
        let refused = spares.spend(|| Err::<(), _>(io::Error::from(Errno::CONNREFUSED)));
        assert_eq!((refused.unwrap_err().kind(), spares.0.len()), (io::ErrorKind::ConnectionRefused, 1));
        assert!(is_lack(&spares.spend(|| Err::<(), _>(io::Error::from(Errno::NFILE))).unwrap_err()));
        assert!(spares.0.is_empty());
        spares.hold().unwrap();
        assert_eq!(spares.0.len(), SPARES);
    }

    #[test]
    fn a_client_takes_one_along_to_a_worker_with_an_empty_reserve() {
        let (mut from, mut to) = (Spares::default(), Spares::default());
        for clients in 1..=2 * SPARES {
            let spare = from.take().expect("a descriptor is left");
            to.put(spare);
            assert_eq!((from.0.len(), to.0.len()), (SPARES - 1, clients.min(SPARES)));
        }
    }
}
