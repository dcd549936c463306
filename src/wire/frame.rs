//! Frames: how messages are cut out of a TCP stream. Bytes in, frames out; no I/O.
//!
//! A frame is a header of 24 bytes, little-endian, and a payload that only [`super::client`] looks into:
//!
//! ```text
//!  0        4         5      6        8             12           16           24
//! ┌────────┬─────────┬──────┬────────┬─────────────┬────────────┬────────────┬─────────┐
//! │ length │ version │ kind │ 0      │ payload crc │ header crc │ request id │ payload │
//! │ u32    │ u8 = 1  │ u8   │ u16    │ u32         │ u32        │ u64        │ length  │
//! └────────┴─────────┴──────┴────────┴─────────────┴────────────┴────────────┴─────────┘
//! ```
//!
//! Both checksums are CRC-32 (IEEE). The header's covers its other 20 bytes, and is checked as soon as they are
//! there: a damaged length is refused at once and can never make a reader wait for bytes that will not come, nor
//! allocate for them. The request id is chosen by the client and repeated in the answer.
//!
//! The first error ends the stream. There is no way to find the next frame behind a damaged one, so the decoder
//! stays failed and the connection has to be closed, after an error reply if [`FrameError::request_id`] knows to whom.

use crate::error::ErrorCode;
use crate::limits::FRAME_HEADER_BYTES;
use thiserror::Error;

/// The version of the header, and of the meaning of the kinds.
pub const FRAME_VERSION: u8 = 1;

/// What a frame's payload is. Requests are below 128, answers are 128 and above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The first frame of a client.
    Hello = 1,
    /// Add deltas to counts.
    Increment = 2,
    /// Read counts.
    Get = 3,
    /// Read the highest counts.
    TopK = 4,
    /// Ask what the server is doing.
    Status = 5,
    /// Open a session.
    OpenSession = 6,
    /// Take over a named session.
    AttachSession = 7,
    /// Leave a named session.
    CloseSession = 8,
    /// Ask what became of a request.
    Resolve = 9,
    /// Read all counters of a shard, piece by piece.
    Scan = 10,
    /// Answers `Hello`.
    Welcome = 129,
    /// Answers `Increment`.
    IncrementReply = 130,
    /// Answers `Get`.
    GetReply = 131,
    /// Answers `TopK`.
    TopKReply = 132,
    /// Answers `Status`.
    StatusReply = 133,
    /// Answers `OpenSession`.
    OpenSessionReply = 134,
    /// Answers `AttachSession`.
    AttachSessionReply = 135,
    /// Answers `CloseSession`.
    CloseSessionReply = 136,
    /// Answers `Resolve`.
    ResolveReply = 137,
    /// Answers `Scan`.
    ScanReply = 138,
    /// Answers any request that is refused as a whole.
    Error = 255,
}

impl Kind {
    const ALL: [Kind; 21] = [
        Kind::Hello,
        Kind::Increment,
        Kind::Get,
        Kind::TopK,
        Kind::Status,
        Kind::OpenSession,
        Kind::AttachSession,
        Kind::CloseSession,
        Kind::Resolve,
        Kind::Scan,
        Kind::Welcome,
        Kind::IncrementReply,
        Kind::GetReply,
        Kind::TopKReply,
        Kind::StatusReply,
        Kind::OpenSessionReply,
        Kind::AttachSessionReply,
        Kind::CloseSessionReply,
        Kind::ResolveReply,
        Kind::ScanReply,
        Kind::Error,
    ];

    /// The kind with this number, if this version knows it.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Kind> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// One frame, its checksums checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Number of the kind, raw: an unknown one can still be answered with `Unsupported`.
    pub kind: u8,
    /// Chosen by the client, repeated in the answer.
    pub request_id: u64,
    /// The flatbuffer. Intact, but written by a stranger.
    pub payload: &'a [u8],
}

/// Why a stream of frames cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// These are not the bytes of a header, or they were damaged.
    #[error("a frame header's checksum is wrong: the peer speaks another protocol, or bytes were damaged")]
    HeaderChecksum,
    /// The header is of a version this side does not know.
    #[error("the frame version is {version}, this side knows {FRAME_VERSION}")]
    Version {
        /// The version in the header.
        version: u8,
        /// Whom to answer.
        request_id: u64,
    },
    /// The header's reserved field is not zero.
    #[error("the reserved field of a frame header is {value}, not 0")]
    Reserved {
        /// What the field holds.
        value: u16,
        /// Whom to answer.
        request_id: u64,
    },
    /// The payload is longer than this side accepts.
    #[error("a frame's payload has {length} bytes, at most {length_max} are accepted")]
    TooLarge {
        /// Payload length in the header, bytes.
        length: u32,
        /// What is accepted, bytes.
        length_max: usize,
        /// Whom to answer.
        request_id: u64,
    },
    /// The payload was damaged.
    #[error("a frame payload's checksum is wrong: bytes were damaged")]
    PayloadChecksum {
        /// Whom to answer.
        request_id: u64,
    },
}

impl FrameError {
    /// The request the error can be answered to, if the header was intact.
    #[must_use]
    pub fn request_id(&self) -> Option<u64> {
        match *self {
            FrameError::HeaderChecksum => None,
            FrameError::Version { request_id, .. }
            | FrameError::Reserved { request_id, .. }
            | FrameError::TooLarge { request_id, .. }
            | FrameError::PayloadChecksum { request_id } => Some(request_id),
        }
    }

    /// The code of the error reply.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            FrameError::HeaderChecksum | FrameError::Reserved { .. } | FrameError::PayloadChecksum { .. } => {
                ErrorCode::Malformed
            }
            FrameError::Version { .. } => ErrorCode::Unsupported,
            FrameError::TooLarge { .. } => ErrorCode::TooLarge,
        }
    }
}

/// Appends one frame.
///
/// # Panics
/// If the payload does not fit in a `u32` length; the limits of [`crate::limits`] are far below.
pub fn push_frame(out: &mut Vec<u8>, kind: Kind, request_id: u64, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("a payload is at most REPLY_BYTES_MAX long");
    let mut header = [0; FRAME_HEADER_BYTES];
    header[0..4].copy_from_slice(&length.to_le_bytes());
    header[4] = FRAME_VERSION;
    header[5] = kind as u8;
    header[8..12].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
    header[16..24].copy_from_slice(&request_id.to_le_bytes());
    let checksum = header_checksum(&header);
    header[12..16].copy_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(payload);
}

fn header_checksum(header: &[u8; FRAME_HEADER_BYTES]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[0..12]);
    hasher.update(&header[16..24]);
    hasher.finalize()
}

/// A header that was checked.
struct Header {
    kind: u8,
    request_id: u64,
    length: usize,
    payload_checksum: u32,
}

impl Header {
    fn parse(bytes: &[u8; FRAME_HEADER_BYTES], length_max: usize) -> Result<Header, FrameError> {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if header_checksum(bytes) != u32_at(12) {
            return Err(FrameError::HeaderChecksum);
        }
        let request_id = u64::from(u32_at(16)) | u64::from(u32_at(20)) << 32;
        if bytes[4] != FRAME_VERSION {
            return Err(FrameError::Version { version: bytes[4], request_id });
        }
        let reserved = u16::from_le_bytes([bytes[6], bytes[7]]);
        if reserved != 0 {
            return Err(FrameError::Reserved { value: reserved, request_id });
        }
        let length = u32_at(0);
        if length as usize > length_max {
            return Err(FrameError::TooLarge { length, length_max, request_id });
        }
        Ok(Header { kind: bytes[5], request_id, length: length as usize, payload_checksum: u32_at(8) })
    }
}

/// The request id of a frame of which these are the first bytes, if its header is among them and intact.
#[must_use]
pub fn request_id_of(bytes: &[u8]) -> Option<u64> {
    let header = bytes.first_chunk()?;
    Header::parse(header, u32::MAX as usize).ok().map(|header| header.request_id)
}

/// Cuts a stream of bytes, arriving in any slicing, into frames.
///
/// The shell reads into [`space`](Self::space), says how much with [`filled`](Self::filled), and takes frames until
/// there are none; only then it asks for space again. Under that rule the decoder holds at most one frame and one
/// read, memory grows with the bytes that arrived rather than with the length a peer claims, and each byte is moved
/// a constant number of times: the partial frame at the end goes to the front once, and doublings are paid for by
/// what arrived since.
#[derive(Debug)]
pub struct Decoder {
    /// Zeroed memory; the bytes that arrived and are not yet consumed are `start..end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    payload_bytes_max: usize,
    failed: Option<FrameError>,
}

impl Decoder {
    /// A decoder that refuses payloads of more than `payload_bytes_max` bytes.
    #[must_use]
    pub fn new(payload_bytes_max: usize) -> Decoder {
        Decoder { buffer: Vec::new(), start: 0, end: 0, payload_bytes_max, failed: None }
    }

    /// Memory for at least `at_least` further bytes. With nothing pending it is given anew in that size, so an
    /// idle connection does not keep what its largest frame needed.
    pub fn space(&mut self, at_least: usize) -> &mut [u8] {
        let pending = self.end - self.start;
        if pending == 0 {
            self.start = 0;
            self.end = 0;
            self.buffer.truncate(at_least);
            self.buffer.shrink_to_fit();
        }
        if self.buffer.len() - self.end < at_least && self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.start = 0;
            self.end = pending;
        }
        if self.buffer.len() - self.end < at_least {
            let length_max = FRAME_HEADER_BYTES + self.payload_bytes_max + at_least;
            let length = (pending + pending.max(at_least)).min(length_max.max(pending + at_least));
            self.buffer.reserve_exact(length - self.buffer.len());
            self.buffer.resize(length, 0);
        }
        &mut self.buffer[self.end..]
    }

    /// The bytes that arrived and belong to no frame that was taken.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Forgets what arrived and was not taken; the memory stays. A failed decoder stays failed.
    pub fn clear(&mut self) {
        self.start = self.end;
    }

    /// Bytes of memory in use.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Whether every byte that arrived belonged to a frame that was taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Says that `count` bytes were read into [`space`](Self::space).
    ///
    /// # Panics
    /// If that is more than was offered.
    pub fn filled(&mut self, count: usize) {
        assert!(count <= self.buffer.len() - self.end, "more bytes filled than offered");
        if self.failed.is_none() {
            self.end += count;
        }
    }

    /// The next frame, or `None` until more bytes arrive.
    ///
    /// # Errors
    /// The stream is damaged, or not of this protocol. The same error is returned ever after.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        match self.scan() {
            Ok(None) => Ok(None),
            Ok(Some(header)) => {
                let payload_start = self.start + FRAME_HEADER_BYTES;
                self.start = payload_start + header.length;
                let payload = &self.buffer[payload_start..self.start];
                Ok(Some(Frame { kind: header.kind, request_id: header.request_id, payload }))
            }
            Err(error) => {
                self.failed = Some(error);
                self.start = self.end;
                Err(error)
            }
        }
    }

    /// The header of the frame at `start`, if the whole frame is there and intact.
    fn scan(&self) -> Result<Option<Header>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let Some((header, rest)) = self.buffer[self.start..self.end].split_first_chunk() else {
            return Ok(None);
        };
        let header = Header::parse(header, self.payload_bytes_max)?;
        let Some(payload) = rest.get(..header.length) else {
            return Ok(None);
        };
        if crc32fast::hash(payload) != header.payload_checksum {
            return Err(FrameError::PayloadChecksum { request_id: header.request_id });
        }
        Ok(Some(header))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn feed(decoder: &mut Decoder, bytes: &[u8]) {
        decoder.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        decoder.filled(bytes.len());
    }

    type Owned = (u8, u64, Vec<u8>);

    fn drain(decoder: &mut Decoder, frames: &mut Vec<Owned>) -> Result<(), FrameError> {
        while let Some(frame) = decoder.next_frame()? {
            frames.push((frame.kind, frame.request_id, frame.payload.to_vec()));
        }
        Ok(())
    }

    #[test]
    fn the_bytes_of_a_frame_are_pinned() {
        let mut out = Vec::new();
        push_frame(&mut out, Kind::Get, 0x1122_3344_5566_7788, b"123456789");
        // 0xcbf43926 is the published check value of CRC-32 for "123456789".
        let expected: [u8; 33] = [
            9, 0, 0, 0, 1, 3, 0, 0, 0x26, 0x39, 0xf4, 0xcb, 0x21, 0x19, 0x74, 0xb7, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33,
            0x22, 0x11, b'1', b'2', b'3', b'4', b'5', b'6', b'7', b'8', b'9',
        ];
        assert_eq!(out, expected);
    }

    #[test]
    fn numbers_and_kinds_agree() {
        for number in 0..=u8::MAX {
            if let Some(kind) = Kind::from_u8(number) {
                assert_eq!(kind as u8, number);
            }
        }
        assert_eq!((0..=u8::MAX).filter_map(Kind::from_u8).count(), Kind::ALL.len());
    }

    #[test]
    fn every_bit_flip_is_an_error_at_the_earliest_byte() {
        let mut intact = Vec::new();
        push_frame(&mut intact, Kind::Increment, 7, b"payload");
        for bit in 0..intact.len() * 8 {
            let mut bytes = intact.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let mut decoder = Decoder::new(1_024);
            let mut frames = Vec::new();
            feed(&mut decoder, &bytes[..FRAME_HEADER_BYTES]);
            let early = drain(&mut decoder, &mut frames);
            if bit / 8 < FRAME_HEADER_BYTES {
                assert_eq!(early, Err(FrameError::HeaderChecksum), "bit {bit}");
                feed(&mut decoder, &intact);
                assert_eq!(drain(&mut decoder, &mut frames), Err(FrameError::HeaderChecksum), "stays failed");
            } else {
                assert_eq!(early, Ok(()));
                feed(&mut decoder, &bytes[FRAME_HEADER_BYTES..]);
                let late = drain(&mut decoder, &mut frames);
                assert_eq!(late, Err(FrameError::PayloadChecksum { request_id: 7 }), "bit {bit}");
            }
            assert!(frames.is_empty());
        }
    }

    #[test]
    fn an_intact_header_with_foreign_fields_is_refused_with_its_request_id() {
        let refusal = |change: fn(&mut [u8; FRAME_HEADER_BYTES])| {
            let mut bytes = Vec::new();
            push_frame(&mut bytes, Kind::Get, 9, b"");
            let mut header: [u8; FRAME_HEADER_BYTES] = bytes.try_into().expect("no payload");
            change(&mut header);
            let checksum = header_checksum(&header);
            header[12..16].copy_from_slice(&checksum.to_le_bytes());
            let mut decoder = Decoder::new(100);
            feed(&mut decoder, &header);
            let error = decoder.next_frame().expect_err("foreign");
            assert_eq!(error.request_id(), Some(9));
            (error, error.code())
        };
        let version = FrameError::Version { version: 2, request_id: 9 };
        assert_eq!(refusal(|h| h[4] = 2), (version, ErrorCode::Unsupported));
        let reserved = FrameError::Reserved { value: 256, request_id: 9 };
        assert_eq!(refusal(|h| h[7] = 1), (reserved, ErrorCode::Malformed));
        let large = FrameError::TooLarge { length: 101, length_max: 100, request_id: 9 };
        assert_eq!(refusal(|h| h[0] = 101), (large, ErrorCode::TooLarge));
    }

    #[test]
    fn part_of_a_frame_can_be_taken_to_another_decoder() {
        let mut bytes = Vec::new();
        push_frame(&mut bytes, Kind::Get, 41, b"first");
        push_frame(&mut bytes, Kind::Get, 42, b"second");
        for cut in 30..bytes.len() {
            let mut decoder = Decoder::new(100);
            feed(&mut decoder, &bytes[..cut]);
            assert_eq!(decoder.next_frame().expect("intact").expect("whole").request_id, 41);
            let pending = decoder.pending().to_vec();
            assert_eq!(pending, bytes[29..cut]);
            assert_eq!(request_id_of(&pending), (pending.len() >= FRAME_HEADER_BYTES).then_some(42));
            decoder.clear();
            assert!(decoder.is_empty());
            feed(&mut decoder, &bytes[..29]);
            assert_eq!(decoder.next_frame().expect("intact").expect("whole").request_id, 41, "it starts anew");
            let mut other = Decoder::new(100);
            feed(&mut other, &pending);
            feed(&mut other, &bytes[cut..]);
            assert_eq!(other.next_frame().expect("intact").expect("whole").payload, b"second");
        }
    }

    #[test]
    fn memory_follows_what_arrived_and_is_given_back() {
        let payload_bytes_max = 1 << 20;
        let mut bytes = Vec::new();
        push_frame(&mut bytes, Kind::Get, 1, &vec![3; payload_bytes_max]);
        let mut decoder = Decoder::new(payload_bytes_max);
        let mut arrived = 0;
        for piece in bytes.chunks(1_000) {
            feed(&mut decoder, piece);
            arrived += piece.len();
            assert!(decoder.buffer.len() <= 2 * arrived);
            if arrived < bytes.len() {
                assert_eq!(decoder.next_frame(), Ok(None));
            }
        }
        assert!(decoder.buffer.capacity() <= FRAME_HEADER_BYTES + payload_bytes_max + 1_000);
        assert_eq!(decoder.next_frame().expect("intact").expect("complete").payload.len(), payload_bytes_max);
        assert_eq!(decoder.space(1_000).len(), 1_000);
        assert!(decoder.buffer.capacity() < 2_000);
    }

    proptest! {
        #[test]
        fn any_slicing_gives_the_same_frames(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..8),
            slices in prop::collection::vec(1_usize..100, 1..100),
        ) {
            let mut bytes = Vec::new();
            let mut expected = Vec::new();
            for (payload, id) in payloads.iter().zip(1_u64 << 40..) {
                push_frame(&mut bytes, Kind::Increment, id, payload);
                expected.push((Kind::Increment as u8, id, payload.clone()));
            }
            let mut decoder = Decoder::new(200);
            let mut frames = Vec::new();
            let mut rest = bytes.as_slice();
            for &length in slices.iter().cycle() {
                let (piece, after) = rest.split_at(length.min(rest.len()));
                feed(&mut decoder, piece);
                prop_assert_eq!(drain(&mut decoder, &mut frames), Ok(()));
                prop_assert!(decoder.buffer.len() <= FRAME_HEADER_BYTES + 200 + 100);
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(frames, expected);
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut decoder = Decoder::new(200);
            feed(&mut decoder, &bytes);
            let result = drain(&mut decoder, &mut Vec::new());
            prop_assert_eq!(result.is_err(), bytes.len() >= FRAME_HEADER_BYTES);
        }
    }
}
