//! Any datagram as one of the kernel's conntrack. It gives at most a message per header, and nothing behind what is malformed. A cut
//! datagram gives the same messages first. The deletion of an entry is one message of a bounded size.

use tcplb::proto::conntrack::{Malformed, Message, delete, messages};

/// The size of a netlink header.
const HEADER: usize = 16;

/// Fails if a promise is broken.
pub fn check(bytes: &[u8]) {
    let whole: Vec<Result<Message, Malformed>> = messages(bytes).collect();
    assert!(whole.len() <= bytes.len().div_ceil(HEADER));
    for (number, message) in whole.iter().enumerate() {
        match message {
            Ok(Message::Entry(entry) | Message::Destroyed(entry)) => {
                let request = delete(7, entry);
                let length: [u8; 4] = request[..4].try_into().expect("a header");
                assert_eq!(u32::from_ne_bytes(length) as usize, request.len());
                assert!(request.len().is_multiple_of(4) && request.len() <= 160, "{} bytes", request.len());
            }
            Ok(Message::Answer { .. } | Message::Done { .. } | Message::Other) => {}
            Err(Malformed) => assert_eq!(number + 1, whole.len(), "more behind what is malformed"),
        }
    }
    for cut in [bytes.len() / 2, bytes.len().saturating_sub(1)] {
        let part: Vec<_> = messages(&bytes[..cut]).collect();
        let first = part.split_last().map_or(&[][..], |(_, first)| first);
        assert_eq!(first, &whole[..first.len()], "another message in a part");
    }
}
