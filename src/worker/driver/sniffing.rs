//! Looks at a client's first bytes, for the routes of its listener.
//!
//! The first look takes nothing: a peek at what is there. Most clients have sent by then all that decides. Their bytes stay in the
//! kernel, and the check for bytes that a dial makes is saved. So a client of a listener with routes costs no call more than
//! another one.
//!
//! Where no PROXY header comes first, the first look follows the accept at once. A client's first bytes mostly arrive right behind
//! its handshake, and its dial then waits for no event.
//!
//! Where the first look finds nothing, or does not decide, the bytes are taken. They are held for the up direction, as those behind a
//! PROXY header are. After a look that found nothing, this saves the call that would read them later. To peek again would also copy all
//! of them again for each segment: 2 GiB for a client that sends 64 KiB byte by byte. Either way the backend gets them unchanged and in order.
//!
//! What is held here is bounded by [`HELLO_MAX`], which is a chunk.

use super::Net;
use super::sockets::Sockets;
use crate::proto::sniff::{Answer, Failure, HELLO_MAX, Negotiated, Protocols, Sniff, Sniffer};
use crate::relay::{self, AfterBytes, CHUNK, RelayResources, TakenIn};
use crate::session::{Input, NoAnswer, Side};
use std::io::ErrorKind;

/// A look needs no more than is held.
const _: () = assert!(HELLO_MAX <= CHUNK);

/// A look at first bytes that is under way.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) sniffer: Sniffer,
    /// How many of the held bytes it has seen.
    seen: usize,
    /// It has found nothing: what comes is taken.
    is_late: bool,
}

impl Look {
    pub(super) fn new(sniffer: Sniffer) -> Look {
        Look { sniffer, seen: 0, is_late: false }
    }
}

impl<S, P> Sockets<S, P> {
    /// Begins to look for these protocols, or goes on. If the routes now ask for others, it looks again at all bytes. If they ask
    /// for none, nothing is looked for, unless the client has been answered: then its hello is still ours to read.
    pub(super) fn begin_sniffing(
        &mut self,
        wanted: Protocols,
        net: &mut impl Net<Socket = S, Pipe = P>,
        shared: &mut RelayResources<P>,
    ) -> Option<Input<'static>> {
        let look = self.look.get_or_insert_with(|| Box::new(Look::new(Sniffer::new(wanted))));
        let negotiated = look.sniffer.negotiated();
        if wanted.is_empty() && negotiated == Negotiated::Nothing {
            self.look = None;
            return Some(Input::Sniffed(Ok(None)));
        }
        if look.sniffer.wanted() != wanted {
            **look = Look::new(Sniffer::resume(wanted, negotiated));
        }
        self.sniff(net, shared)
    }

    /// Looks at what has come; the outcome, or that something has come. `None`: nothing has.
    pub(super) fn sniff(
        &mut self,
        net: &mut impl Net<Socket = S, Pipe = P>,
        shared: &mut RelayResources<P>,
    ) -> Option<Input<'static>> {
        let look = self.look.as_mut()?;
        let (client, held) = (&mut self.client.end, self.up.held());
        if held.len() > look.seen {
            look.seen = held.len();
            let sniff = look.sniffer.sniff(held);
            return Some(self.looked(sniff, net, shared));
        }
        if !client.ready.readable {
            return None;
        }
        if held.is_empty() && !look.is_late {
            let scratch = shared.scratch();
            match net.peek(&client.socket, scratch) {
                Ok(0) => return Some(Input::Sniffed(Err(NoAnswer::Fin))),
                Ok(there) => match look.sniffer.sniff(&scratch[..there]) {
                    Sniff::NeedMore { .. } => {}
                    sniff => {
                        self.has_spoken = true;
                        return Some(self.looked(sniff, net, shared));
                    }
                },
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    (client.ready.readable, look.is_late) = (false, true);
                    return None;
                }
                Err(_) => return Some(Input::Reset(Side::Client)),
            }
        }
        match relay::take_in(&mut self.up, net, client, shared) {
            TakenIn::Bytes => Some(Input::Heard),
            TakenIn::Nothing => None,
            TakenIn::Fin => Some(Input::Sniffed(Err(NoAnswer::Fin))),
            TakenIn::Failed(_) => Some(Input::Reset(Side::Client)),
        }
    }

    /// What a look means to the session.
    fn looked(
        &mut self,
        sniff: Sniff,
        net: &mut impl Net<Socket = S, Pipe = P>,
        shared: &mut RelayResources<P>,
    ) -> Input<'static> {
        let outcome = match sniff {
            Sniff::NeedMore { .. } => return Input::Heard,
            Sniff::Answer(answer) => return self.answer(answer, net, shared),
            Sniff::Found(sniffed) => Ok(Some(Box::new(sniffed))),
            Sniff::Unknown => Ok(None),
            Sniff::Failed(failure) => Err(NoAnswer::Failed(failure)),
        };
        self.look = None;
        Input::Sniffed(outcome)
    }

    /// Takes a request of the client, and sends it the byte that it waits for. Bytes that have come behind the request are refused.
    fn answer(
        &mut self,
        Answer { consumed, reply }: Answer,
        net: &mut impl Net<Socket = S, Pipe = P>,
        shared: &mut RelayResources<P>,
    ) -> Input<'static> {
        // None of it was taken, if this is the first look.
        while self.up.held().len() < consumed {
            let taken = relay::take_in(&mut self.up, net, &mut self.client.end, shared);
            if !matches!(taken, TakenIn::Bytes) {
                return Input::Reset(Side::Client);
            }
        }
        if self.up.held().len() > consumed {
            return Input::Sniffed(Err(NoAnswer::Failed(Failure::BehindRequest)));
        }
        self.up.skip(consumed, shared);
        self.has_spoken = false;
        self.look.iter_mut().for_each(|look| look.seen = 0);
        // The send queue is empty: one byte has room, unless the client is gone.
        match net.send(&self.client.end.socket, &[reply], AfterBytes::Bytes) {
            Ok(1) => Input::Heard,
            _ => Input::Reset(Side::Client),
        }
    }
}
