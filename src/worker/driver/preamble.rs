//! Preambles: reads the client's, and puts the backend's before the client's bytes.
//!
//! Both pass through what is held for the up direction. So nothing that a client sends behind its preamble is lost, whatever
//! happens to the dial in between. A backend that takes half a preamble gets the other half like any held bytes.
//!
//! A preamble costs no system call of its own: the client's is read with what follows it, the backend's is written with it.
//! Only the address that the client connected to costs one, where no header announced it.

use super::Net;
use super::sockets::Sockets;
use crate::proto::proxy::{self, Parsed};
use crate::relay::{self, RelayResources, TakenIn};
use crate::session::{BackendPreamble, Input, NoHeader, Side};

impl<S, P> Sockets<S, P> {
    /// Reads more of the client's preamble; the outcome once it is whole or invalid.
    pub(super) fn read_preamble(
        &mut self,
        net: &mut impl Net<Socket = S, Pipe = P>,
        shared: &mut RelayResources<P>,
    ) -> Option<Input<'static>> {
        let (client, buffer) = (&mut self.client.end, &mut self.up);
        while client.ready.readable {
            match relay::take_in(buffer, net, client, shared) {
                TakenIn::Bytes => {}
                TakenIn::Nothing => continue,
                TakenIn::Fin if buffer.holds() => return Some(Input::Header(Err(NoHeader::CutShort))),
                TakenIn::Fin => return Some(Input::Header(Err(NoHeader::Silence))),
                TakenIn::Failed(_) => return Some(Input::Reset(Side::Client)),
            }
            match proxy::parse(buffer.held()) {
                Parsed::More => {}
                Parsed::Header { consumed, header } => {
                    buffer.skip(consumed, shared);
                    return Some(Input::Header(Ok(Box::new(header))));
                }
                Parsed::Bad(bad) => {
                    log::debug!("bad PROXY header: {bad}");
                    return Some(Input::Header(Err(NoHeader::Bad)));
                }
            }
        }
        None
    }

    /// Holds the preamble for the backend, before every byte of the client.
    pub(super) fn hold_preamble(
        &mut self,
        preamble: &BackendPreamble<'_>,
        net: &mut impl Net<Socket = S, Pipe = P>,
        shared: &mut RelayResources<P>,
    ) -> Input<'static> {
        let bytes = preamble.bytes(|| net.local(&self.client.end.socket));
        self.up.precede(&bytes, shared);
        Input::Announced(bytes.len() as u64)
    }
}
