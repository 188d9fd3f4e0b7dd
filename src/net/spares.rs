//! Descriptors held back, so that a client which was accepted with the last one can still be connected to a backend.
//!
//! A connection takes two descriptors, one after the other. Out of them after the first, its client would wait inside, for
//! somebody else to leave, and in the end be reset; in the kernel's backlog it could have waited for as long as it likes.
//! So each worker holds a few back before it accepts, and lets go of one when a dial finds none.

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;

/// One would do if there were nobody else: another thread may be quicker to take what is let go of.
const SPARES: usize = 2;

/// What one worker holds back.
#[derive(Debug, Default)]
pub struct Spares(Vec<OwnedFd>);

impl Spares {
    /// Holds back as many as it should. No system call if it has them.
    pub fn hold(&mut self) -> io::Result<()> {
        while self.0.len() < SPARES {
            self.0.push(eventfd(0, EventfdFlags::CLOEXEC)?);
        }
        Ok(())
    }

    /// Does `open`, and again if that failed for want of a descriptor, as long as there is one to let go of.
    pub fn spend<T>(&mut self, mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        loop {
            match open() {
                Err(error) if is_lack(&error) && self.0.pop().is_some() => {}
                outcome => return outcome,
            }
        }
    }
}

/// Is it the descriptors, of the process or of the system, that lack?
fn is_lack(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_is_met_with_what_was_held_back_and_told_when_that_is_spent() {
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
}
