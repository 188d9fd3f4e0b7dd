//! Asks a backend of Postgres for TLS, for a client whose own request was answered here.
//!
//! The request leaves with the preamble, past the bytes that are held: the ClientHello may not follow before the answer. Its send
//! queue is empty, so it takes all of it or the attempt has failed. The answer is read together with what stands behind it, where
//! nothing may stand.

use super::Net;
use super::sockets::{Sockets, dialed};
use crate::proto::sniff::postgres::{Reply, SSL_REQUEST};
use crate::relay::{self, AfterBytes, RelayResources, TakenIn};
use crate::session::{BackendPreamble, Input};
use rustix::io::Errno;

impl<S, P> Sockets<S, P> {
    /// Sends the request; the answer, if it is there already.
    pub(super) fn request(
        &mut self,
        preamble: Option<BackendPreamble<'_>>,
        net: &mut impl Net<Socket = S, Pipe = P>,
        shared: &mut RelayResources<P>,
    ) -> Option<Input<'static>> {
        let header = preamble.map(|preamble| preamble.bytes(|| net.local(&self.client.end.socket)));
        let bytes = [header.as_deref().unwrap_or_default(), &SSL_REQUEST].concat();
        let backend = self.backend.as_ref()?;
        match net.send(&backend.end.socket, &bytes, AfterBytes::Bytes) {
            Ok(sent) if sent == bytes.len() => self.read_reply(net, shared),
            Ok(_) => Some(dialed(Err(Errno::CONNRESET.into()))),
            Err(error) => Some(dialed(Err(error))),
        }
    }

    /// Reads the backend's answer; `None`: it has not come.
    pub(super) fn read_reply(
        &mut self,
        net: &mut impl Net<Socket = S, Pipe = P>,
        shared: &mut RelayResources<P>,
    ) -> Option<Input<'static>> {
        let backend = &mut self.backend.as_mut()?.end;
        while backend.ready.readable {
            match relay::take_in(&mut self.down, net, backend, shared) {
                TakenIn::Nothing => {}
                TakenIn::Bytes => {
                    let reply = Reply::read(self.down.held());
                    self.down.discard(shared);
                    return Some(Input::Replied(reply));
                }
                // A backend that closes without an answer is of no more use than one that refuses the connection.
                TakenIn::Fin => return Some(dialed(Err(Errno::CONNRESET.into()))),
                TakenIn::Failed(error) => return Some(dialed(Err(error))),
            }
        }
        None
    }
}
