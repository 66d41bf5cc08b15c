//! The framing in which an engine sends both outputs of a command over one connection.
//!
//! Eight bytes before each piece: which output, three of nothing, the length in network order. A
//! piece is handed on as it arrives, so that its length bounds nothing here.

use bytes::{Buf as _, Bytes, BytesMut};

/// Which output a piece belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Stdout,
    Stderr,
}

/// The engine sent something that is not its framing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotFramed(pub(crate) u8);

/// Takes what comes over the connection apart.
#[derive(Debug, Default)]
pub(crate) struct Multiplex {
    unread: BytesMut,
    /// The piece that is arriving, with the bytes that are missing of it.
    open: Option<(Side, usize)>,
}

const HEADER: usize = 8;

impl Multiplex {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
    }

    /// The next part of a piece; `None` when more must arrive first.
    pub(crate) fn next(&mut self) -> Result<Option<(Side, Bytes)>, NotFramed> {
        loop {
            if let Some((side, left)) = self.open {
                if left == 0 {
                    self.open = None;
                    continue;
                }
                if self.unread.is_empty() {
                    return Ok(None);
                }
                let part = self.unread.split_to(left.min(self.unread.len())).freeze();
                self.open = Some((side, left - part.len()));
                return Ok(Some((side, part)));
            }
            if self.unread.len() < HEADER {
                return Ok(None);
            }
            let side = match self.unread[0] {
                // Some engines name standard output 0.
                0 | 1 => Side::Stdout,
                2 => Side::Stderr,
                other => return Err(NotFramed(other)),
            };
            self.unread.advance(4);
            let length = self.unread.get_u32() as usize;
            self.open = Some((side, length));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(side: u8, text: &[u8]) -> Vec<u8> {
        let length = u32::try_from(text.len()).expect("short").to_be_bytes();
        [&[side, 0, 0, 0][..], &length, text].concat()
    }

    #[test]
    fn pieces_come_out_whole_however_they_are_cut() {
        let wire =
            [piece(1, b"out"), piece(2, b""), piece(2, b"err\x01"), piece(1, b"end")].concat();
        for step in 1..=wire.len() {
            let mut multiplex = Multiplex::default();
            let (mut out, mut err) = (Vec::new(), Vec::new());
            for part in wire.chunks(step) {
                multiplex.push(part);
                while let Some((side, bytes)) = multiplex.next().expect("framed") {
                    match side {
                        Side::Stdout => out.extend_from_slice(&bytes),
                        Side::Stderr => err.extend_from_slice(&bytes),
                    }
                }
            }
            assert_eq!((&out[..], &err[..]), (&b"outend"[..], &b"err\x01"[..]), "cut at {step}");
        }
    }

    #[test]
    fn what_is_not_framed_is_an_error() {
        let mut multiplex = Multiplex::default();
        multiplex.push(b"HTTP/1.1 500");
        assert_eq!(multiplex.next(), Err(NotFramed(b'H')));
    }
}
