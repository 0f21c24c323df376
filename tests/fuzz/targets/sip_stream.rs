//! A stream of SIP messages: cut the same however it arrives. The first byte says in which pieces.

use eyeline::sip::stream::{Framed, Framer};

const LIMIT: usize = 4096;

fn cut(pieces: impl Iterator<Item = impl AsRef<[u8]>>) -> Vec<Framed> {
    let mut framer = Framer::new(LIMIT);
    let mut found = Vec::new();
    for piece in pieces {
        framer.push(piece.as_ref());
        loop {
            match framer.next() {
                Framed::Need => break,
                broken @ Framed::Broken(_) => {
                    found.push(broken);
                    return found;
                }
                framed => found.push(framed),
            }
        }
    }
    found
}

pub fn run(data: &[u8]) {
    let Some((size, stream)) = data.split_first() else { return };
    let whole = cut([stream].iter());
    assert_eq!(cut(stream.chunks(usize::from(*size).max(1))), whole);
    assert!(whole.iter().all(|framed| !matches!(framed, Framed::Message(bytes) if bytes.len() > LIMIT)));
}
