//! What the driver does about PROXY headers: reads the client's, puts the backend's before the client's bytes.
//!
//! Both pass through what the up way holds. So nothing that a client sends behind its header is lost, whatever happens to
//! the dial in between, and a backend that takes half a header gets the other half like any held bytes.
//!
//! A header costs no system call of its own: the client's is read with what follows it, the backend's is written with it.
//! Only the address that the client connected to has to be asked for, where no header told it.

use super::{Driver, Net, Observer};
use crate::base::slots::Key;
use crate::config::model::ProxyVersion;
use crate::proto::proxy::{self, Parsed};
use crate::relay::{self, TakenIn};
use crate::session::{Input, NoHeader, Side};

impl<N: Net, O: Observer> Driver<N, O> {
    /// Reads on in the client's header, and reports once it is whole or can't become one.
    pub(super) fn read_header(&mut self, key: Key) {
        let input = loop {
            let Some(connection) = self.connections.get_mut(key) else { return };
            if !connection.client.ready.readable {
                return self.arm(key);
            }
            let flow = &mut connection.up;
            match relay::take_in(flow, &mut self.net, &mut connection.client, &mut self.shared) {
                TakenIn::Bytes => {}
                TakenIn::Nothing => continue,
                TakenIn::Fin if flow.holds() => break Input::Header(Err(NoHeader::CutShort)),
                TakenIn::Fin => break Input::Header(Err(NoHeader::Silence)),
                TakenIn::Failed(_) => break Input::Reset(Side::Client),
            }
            match proxy::parse(flow.held()) {
                Parsed::More => {}
                Parsed::Header { consumed, header } => {
                    flow.skip(consumed, &mut self.shared);
                    break Input::Header(Ok(header));
                }
                Parsed::Bad(bad) => {
                    log::debug!("bad PROXY header: {bad}");
                    break Input::Header(Err(NoHeader::Bad));
                }
            }
        };
        self.feed(key, input);
    }

    /// Has the header for the backend held before everything of the client's; its length.
    pub(super) fn introduce(&mut self, key: Key, version: ProxyVersion) -> u64 {
        let Some(connection) = self.connections.get_mut(key) else { return 0 };
        let client = &connection.client.socket;
        let header = connection.session.introduction(|| self.net.local(client));
        let bytes = match version {
            ProxyVersion::V1 => header.v1(),
            ProxyVersion::V2 => header.v2(),
        };
        connection.up.precede(&bytes, &mut self.shared);
        bytes.len() as u64
    }
}
