//! Frames of which only a part has come: where that part waits for the rest, and how much memory all of them may take.
//!
//! A store has one decoder to receive with. A small part of a frame is copied out of it, and back when more arrives, so a
//! client that sends half a header holds a few bytes and not a receive buffer. A larger part takes the decoder along, for
//! copying it again and again would make a client that sends byte by byte expensive.
//!
//! When all of them together take too much, the oldest goes first: honest frames are whole again within moments, so it is
//! the slowest sender that pays, never whoever comes next.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::gateway::ConnectionId;
use crate::ids::Micros;
use crate::limits::{CONNECTION_RECEIVE_BYTES, HALF_FRAME_BYTES_COPIED, REQUEST_BYTES_MAX, STORE_HALF_FRAME_BYTES_MAX};
use crate::wire::frame::{Decoder, request_id_of};

/// What a connection has received and the gateway has not taken.
#[derive(Debug, Default)]
pub(super) enum Unfinished {
    #[default]
    Nothing,
    Few(Box<[u8]>),
    Many(Decoder),
}

impl Unfinished {
    fn memory_bytes(&self) -> usize {
        match self {
            Unfinished::Nothing => 0,
            Unfinished::Few(bytes) => bytes.len(),
            Unfinished::Many(decoder) => decoder.memory_bytes(),
        }
    }

    /// The id of the request that is not whole, if as much of it has come.
    pub(super) fn request_id(&self) -> Option<u64> {
        match self {
            Unfinished::Nothing => None,
            Unfinished::Few(bytes) => request_id_of(bytes),
            Unfinished::Many(decoder) => request_id_of(decoder.pending()),
        }
    }
}

/// Lends decoders to connections for as long as they are read.
#[derive(Default)]
pub(super) struct Reception {
    decoder: Option<Decoder>,
}

impl Reception {
    /// A decoder that goes on where the connection has left off.
    pub(super) fn resume(&mut self, unfinished: Unfinished) -> Decoder {
        let bytes = match unfinished {
            Unfinished::Many(decoder) => return decoder,
            Unfinished::Few(bytes) => bytes,
            Unfinished::Nothing => Box::default(),
        };
        let mut decoder = self.decoder.take().unwrap_or_else(|| Decoder::new(REQUEST_BYTES_MAX));
        if !bytes.is_empty() {
            decoder.space(CONNECTION_RECEIVE_BYTES)[..bytes.len()].copy_from_slice(&bytes);
            decoder.filled(bytes.len());
        }
        decoder
    }

    /// What is left in the decoder, for the connection to keep. A decoder that has failed may not come back here.
    pub(super) fn suspend(&mut self, mut decoder: Decoder) -> Unfinished {
        let pending = decoder.pending();
        if pending.len() > HALF_FRAME_BYTES_COPIED {
            return Unfinished::Many(decoder);
        }
        let unfinished = if pending.is_empty() { Unfinished::Nothing } else { Unfinished::Few(pending.into()) };
        decoder.clear();
        self.decoder = Some(decoder);
        unfinished
    }
}

/// All that is unfinished in a store, by age.
#[derive(Default)]
pub(super) struct HalfFrames {
    oldest_first: BTreeSet<(Micros, ConnectionId)>,
    noted: BTreeMap<ConnectionId, (Micros, usize)>,
    memory_bytes: usize,
}

impl HalfFrames {
    /// Notes what a connection has unfinished, and since when.
    pub(super) fn note(&mut self, id: ConnectionId, since: Micros, unfinished: &Unfinished) {
        if self.noted.is_empty() && matches!(unfinished, Unfinished::Nothing) {
            return;
        }
        self.forget(id);
        let memory_bytes = unfinished.memory_bytes();
        if memory_bytes > 0 {
            self.noted.insert(id, (since, memory_bytes));
            self.oldest_first.insert((since, id));
            self.memory_bytes += memory_bytes;
        }
    }

    /// The connection has nothing unfinished any more.
    pub(super) fn forget(&mut self, id: ConnectionId) {
        if let Some((since, memory_bytes)) = self.noted.remove(&id) {
            self.oldest_first.remove(&(since, id));
            self.memory_bytes -= memory_bytes;
        }
    }

    /// The connection to be closed, if there is too much.
    pub(super) fn oldest_in_excess(&self) -> Option<ConnectionId> {
        let is_too_much = self.memory_bytes > STORE_HALF_FRAME_BYTES_MAX;
        self.oldest_first.first().filter(|_| is_too_much).map(|&(_, id)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{Kind, push_frame};

    fn receive(decoder: &mut Decoder, bytes: &[u8]) {
        decoder.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        decoder.filled(bytes.len());
    }

    #[test]
    fn one_decoder_serves_many_connections_that_stop_anywhere() {
        let mut reception = Reception::default();
        let mut frames = [Vec::new(), Vec::new()];
        for (id, frame) in frames.iter_mut().enumerate() {
            push_frame(frame, Kind::Get, id as u64, &vec![id as u8; 3 * HALF_FRAME_BYTES_COPIED]);
        }
        for cut in [0, 1, 23, 24, 25, HALF_FRAME_BYTES_COPIED, HALF_FRAME_BYTES_COPIED + 1, frames[0].len() - 1] {
            let mut unfinished = frames.each_ref().map(|frame| {
                let mut decoder = reception.resume(Unfinished::Nothing);
                receive(&mut decoder, &frame[..cut]);
                assert_eq!(decoder.next_frame(), Ok(None));
                reception.suspend(decoder)
            });
            for (id, (frame, unfinished)) in frames.iter().zip(&mut unfinished).enumerate() {
                assert_eq!(unfinished.request_id(), (cut >= 24).then_some(id as u64));
                let held = unfinished.memory_bytes();
                assert!(held <= 2 * cut && held >= cut, "{held} bytes are held for {cut}");
                let mut decoder = reception.resume(std::mem::take(unfinished));
                receive(&mut decoder, &frame[cut..]);
                let whole = decoder.next_frame().expect("intact").expect("whole");
                assert_eq!((whole.request_id, whole.payload), (id as u64, &frame[24..]));
                assert!(matches!(reception.suspend(decoder), Unfinished::Nothing));
            }
        }
    }

    #[test]
    fn the_oldest_pays_when_all_together_are_too_much() {
        let unfinished = |bytes: usize| Unfinished::Few(vec![0; bytes].into());
        let mut half_frames = HalfFrames::default();
        let third = STORE_HALF_FRAME_BYTES_MAX / 3;
        for (id, since) in [(1, 30), (2, 10), (3, 20)] {
            half_frames.note(ConnectionId(id), Micros(since), &unfinished(third));
        }
        assert_eq!(half_frames.oldest_in_excess(), None);
        half_frames.note(ConnectionId(4), Micros(40), &unfinished(3));
        assert_eq!(half_frames.oldest_in_excess(), Some(ConnectionId(2)));
        // What has grown whole is young again.
        half_frames.note(ConnectionId(2), Micros(50), &unfinished(third));
        assert_eq!(half_frames.oldest_in_excess(), Some(ConnectionId(3)));
        half_frames.note(ConnectionId(3), Micros(60), &Unfinished::Nothing);
        assert_eq!(half_frames.oldest_in_excess(), None);
        (1..=4).for_each(|id| half_frames.forget(ConnectionId(id)));
        assert_eq!((half_frames.memory_bytes, half_frames.oldest_first.len()), (0, 0));
    }
}
