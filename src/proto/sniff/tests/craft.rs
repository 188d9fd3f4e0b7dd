//! ClientHellos made by hand, byte by byte.

/// A hello under construction.
#[derive(Clone, Debug)]
pub struct Craft {
    pub session_id: Vec<u8>,
    pub ciphers: Vec<u16>,
    pub extensions: Vec<(u16, Vec<u8>)>,
}

/// The two bytes of a length.
fn u16_of(length: usize) -> [u8; 2] {
    u16::try_from(length).expect("a short list").to_be_bytes()
}

/// Bytes behind their length in two bytes.
fn sized(bytes: &[u8]) -> Vec<u8> {
    [&u16_of(bytes.len())[..], bytes].concat()
}

impl Craft {
    /// What every server accepts, without a name.
    pub fn new() -> Craft {
        let groups = sized(&[0, 0x1d, 0, 0x17]);
        let signatures = sized(&[0x04, 0x03, 0x08, 0x04]);
        let extensions = vec![(10, groups), (13, signatures), (43, vec![4, 3, 4, 3, 3])];
        Craft { session_id: vec![7; 32], ciphers: vec![0x1301, 0xc02f], extensions }
    }

    pub fn with(mut self, kind: u16, content: impl Into<Vec<u8>>) -> Craft {
        self.extensions.push((kind, content.into()));
        self
    }

    /// With a list of host names.
    pub fn named(self, names: &[&[u8]]) -> Craft {
        let entries: Vec<(u8, &[u8])> = names.iter().map(|name| (0, *name)).collect();
        self.with(0, name_list(&entries))
    }

    pub fn alpn(self, protocols: &[&[u8]]) -> Craft {
        let list: Vec<u8> = protocols.iter().flat_map(|name| [&[name.len() as u8], *name].concat()).collect();
        self.with(16, sized(&list))
    }

    /// With a key share of X25519MLKEM768, which alone is larger than a segment.
    pub fn post_quantum(self) -> Craft {
        let share = [&[0x11, 0xec][..], &sized(&[9; 1216]), &[0, 0x1d], &sized(&[5; 32])].concat();
        self.with(51, sized(&share))
    }

    /// The values of RFC 8701, in front and at the end.
    pub fn greased(mut self) -> Craft {
        self.ciphers.insert(0, 0x5a5a);
        self.extensions.insert(0, (0x2a2a, Vec::new()));
        self.with(0xfafa, [0])
    }

    /// With an encrypted hello: suite, key, its encapsulation and the payload.
    pub fn encrypted(self) -> Craft {
        let content = [&[0, 0, 1, 0, 1, 9][..], &sized(&[2; 32]), &sized(&[8; 144])].concat();
        self.with(0xfe0d, content)
    }

    pub fn padded(self, length: usize) -> Craft {
        self.with(21, vec![0; length])
    }

    /// With a ticket of TLS 1.2, and with the mark of an early key of TLS 1.3, which stands last.
    pub fn resumed(self) -> Craft {
        let identity = [sized(&[3; 200]), vec![0, 0, 1, 0]].concat();
        let binder = [&[32][..], &[4; 32]].concat();
        self.with(35, vec![6; 180]).with(45, [1, 1]).with(41, [sized(&identity), sized(&binder)].concat())
    }

    /// The handshake message.
    pub fn message(&self) -> Vec<u8> {
        let ciphers: Vec<u8> = self.ciphers.iter().flat_map(|cipher| cipher.to_be_bytes()).collect();
        let extensions: Vec<u8> = self
            .extensions
            .iter()
            .flat_map(|(kind, content)| [kind.to_be_bytes().to_vec(), sized(content)].concat())
            .collect();
        let mut body = vec![3, 3];
        body.extend([0xab; 32]);
        body.push(self.session_id.len() as u8);
        body.extend(&self.session_id);
        body.extend(sized(&ciphers));
        body.extend([1, 0]);
        body.extend(sized(&extensions));
        message_of(1, &body)
    }

    /// In one record where it fits, else in full ones.
    pub fn bytes(&self) -> Vec<u8> {
        records(&self.message(), &[1 << 14])
    }
}

/// A handshake message of any type.
pub fn message_of(kind: u8, body: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = (body.len() as u32).to_be_bytes();
    [&[kind][..], &length, body].concat()
}

/// The content of a server name extension: types and names.
pub fn name_list(entries: &[(u8, &[u8])]) -> Vec<u8> {
    let list: Vec<u8> = entries.iter().flat_map(|(kind, name)| [vec![*kind], sized(name)].concat()).collect();
    sized(&list)
}

/// A message in records with fragments of these lengths, over and over.
pub fn records(message: &[u8], lengths: &[usize]) -> Vec<u8> {
    let (mut rest, mut bytes) = (message, Vec::new());
    let mut lengths = lengths.iter().cycle();
    while !rest.is_empty() {
        let (fragment, next) = rest.split_at(rest.len().min(*lengths.next().expect("a length")));
        bytes.extend([22, 3, 1]);
        bytes.extend(sized(fragment));
        rest = next;
    }
    bytes
}
