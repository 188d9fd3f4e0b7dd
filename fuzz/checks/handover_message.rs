//! A message between the two processes of an upgrade. Packets of any content are a message or an error. A message that is read is
//! written as the same one, and arrives as the same one. A field of a later release changes nothing.

use std::time::{Duration, Instant};
use tcplb::app::Word;
use tcplb::handover::{Channel, Post};

/// Fails if a promise is broken.
pub fn check(bytes: &[u8]) {
    packets(bytes);
    let Ok(word) = serde_json::from_slice::<Word>(bytes) else { return };
    let text = serde_json::to_vec(&word).expect("it can be written");
    assert!(serde_json::from_slice::<Word>(&text).expect("it can be read") == word);
    arrives(&word);
    // The address of an IPv6 client has more bits than a number of this kind of value.
    let Ok(mut written) = serde_json::to_value(&word) else { return };
    let later = serde_json::json!([{ "any": "thing" }]);
    for part in written.as_object_mut().into_iter().flat_map(|message| message.values_mut()) {
        // A list is one of connections, or of sockets.
        for part in part.as_array_mut().map_or_else(Vec::new, |list| list.iter_mut().collect()) {
            part.as_object_mut().and_then(|part| part.insert("of_a_later_release".into(), later.clone()));
        }
        part.as_object_mut().and_then(|part| part.insert("of_a_later_release".into(), later.clone()));
    }
    assert!(serde_json::from_value::<Word>(written).expect("it can be read") == word);
}

fn posts() -> (Channel, Post) {
    let (one, other) = Channel::pair().expect("a pair of sockets");
    (one, Post::new(other))
}

/// The first byte is the length of the packets.
fn packets(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first() else { return };
    let (one, post) = posts();
    let until = Instant::now() + Duration::from_secs(10);
    // A queue that is not read holds some packets at least.
    for packet in rest.chunks(usize::from(*length).max(1)).take(16) {
        one.send(packet, &[], until).expect("a short packet can be sent");
    }
    drop(one);
    for _ in 0..16 {
        if !matches!(post.receive::<Word>(until), Ok(Some(_))) {
            return;
        }
    }
}

fn arrives(word: &Word) {
    let (one, post) = posts();
    let until = Instant::now() + Duration::from_secs(10);
    if serde_json::to_vec(word).expect("it can be written").len() > 100_000 {
        // More than a queue may hold.
        return;
    }
    Post::new(one).send(word, &[], until).expect("it can be sent");
    let letter = post.receive::<Word>(until).expect("it can be read").expect("it was sent");
    assert!(letter.message == *word && letter.descriptors.is_empty() && letter.missing == 0);
}
