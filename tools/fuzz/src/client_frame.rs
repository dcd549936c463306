//! Target `client_frame`: what a stranger sends, or a server that is none answers.
//!
//! ```text
//! u8 form │ u8 slice bytes │ form even: the stream
//!                          │ form odd:  frames to the end, each  u8 kind │ u16 bytes │ payload
//! ```
//!
//! Checksums keep a fuzzer out of what is behind them, so in the odd form the frames are made here, around payloads that
//! are the fuzzer's.

use dkc::engine::part::PackedKeys;
use dkc::error::ErrorCode;
use dkc::limits::{FLATBUFFER_TABLE_OVERHEAD_BYTES, FLATBUFFER_TABLES_MAX, FRAME_HEADER_BYTES, REQUEST_BYTES_MAX};
use dkc::wire::client::{Encoder, Keys, Reply, Request, decode_reply, decode_request};
use dkc::wire::frame::{Decoder, FrameError, Kind, push_frame};

use crate::allocator::peak_of;
use crate::script::Script;
use crate::{Fault, INPUT_BYTES_MAX};

/// Memory that reading a request may take, beside the request: it is read in place, so this is for the text of an error.
const REQUEST_MEMORY_BYTES_MAX: usize = 16 << 10;
/// Memory that a reply may take for each byte it has on the wire.
const REPLY_MEMORY_FACTOR: usize = 16;
/// Memory that a reply may take beside that: what its tables are, and what they may share.
const REPLY_MEMORY_BYTES_MAX: usize = FLATBUFFER_TABLES_MAX * 2 * FLATBUFFER_TABLE_OVERHEAD_BYTES;

/// Form of an input whose frames are made here.
pub(crate) const FRAMED: u8 = 1;

/// See the module.
pub fn client_frame(input: &[u8], fault: Fault) {
    if input.len() > INPUT_BYTES_MAX {
        return;
    }
    let mut script = Script::new(input);
    let (form, slice) = (script.byte(), 1 + usize::from(script.byte()));
    let stream = if form & FRAMED == 0 { script.rest().to_vec() } else { framed(&mut script) };
    let payload_bytes_max = if form & 2 == 0 { REQUEST_BYTES_MAX } else { 256 };
    let whole = frames(&stream, stream.len().max(1), payload_bytes_max);
    assert_eq!(frames(&stream, slice, payload_bytes_max), whole, "a slicing changes what is read");
    for (kind, payload) in &whole.0 {
        check_request(*kind, payload, fault);
        check_reply(*kind, payload);
    }
}

/// Frames of the script's payloads, of any kind, with checksums that are right.
fn framed(script: &mut Script<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    while !script.is_empty() {
        let kind = script.byte();
        let length = script.short();
        let start = stream.len();
        push_frame(&mut stream, Kind::Status, u64::from(kind) << 40, script.take(length));
        let header = &mut stream[start..start + FRAME_HEADER_BYTES];
        header[5] = kind;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&header[0..12]);
        hasher.update(&header[16..24]);
        header[12..16].copy_from_slice(&hasher.finalize().to_le_bytes());
    }
    stream
}

/// What a decoder makes of a stream that arrives in pieces.
fn frames(stream: &[u8], slice: usize, payload_bytes_max: usize) -> (Vec<(u8, Vec<u8>)>, Option<FrameError>) {
    let decode = || {
        let mut decoder = Decoder::new(payload_bytes_max);
        let mut frames = Vec::new();
        for piece in stream.chunks(slice) {
            decoder.space(piece.len())[..piece.len()].copy_from_slice(piece);
            decoder.filled(piece.len());
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => frames.push((frame.kind, frame.payload.to_vec())),
                    Ok(None) => break,
                    Err(error) => {
                        assert_eq!(decoder.next_frame(), Err(error), "a failed stream stays failed");
                        return (frames, Some(error));
                    }
                }
            }
        }
        (frames, None)
    };
    let (result, peak) = peak_of(decode);
    // The frames kept here, of which the smallest has no payload, and the decoder's buffer while it grows.
    let peak_max = 16 * (stream.len() + slice) + 1_024;
    assert!(peak <= peak_max, "{peak} bytes of memory for a stream of {}", stream.len());
    result
}

fn check_request(kind: u8, payload: &[u8], fault: Fault) {
    let (request, peak) = peak_of(|| decode_request(kind, payload));
    assert!(peak <= REQUEST_MEMORY_BYTES_MAX, "{peak} bytes of memory for a request of {}", payload.len());
    let request = match request {
        Ok(request) => request,
        Err(error) => return assert!(!error.text.contains('\n'), "the text of an error is one line"),
    };
    let mut bytes = Vec::new();
    encode_request(&mut bytes, &request, fault);
    let (kind_again, again) = only_frame(&bytes);
    assert_eq!(kind_again, kind, "a request changes its kind");
    check_same(&request, &decode_request(kind, &again).expect("what was encoded decodes"));
}

fn check_reply(kind: u8, payload: &[u8]) {
    let (reply, peak) = peak_of(|| decode_reply(kind, payload));
    let peak_max = REPLY_MEMORY_FACTOR * payload.len() + REPLY_MEMORY_BYTES_MAX;
    assert!(peak <= peak_max, "{peak} bytes of memory for a reply of {}", payload.len());
    let Ok(reply) = reply else { return };
    let mut bytes = Vec::new();
    encode_reply(&mut bytes, &reply);
    let (kind_again, again) = only_frame(&bytes);
    assert_eq!(kind_again, kind, "a reply changes its kind");
    assert_eq!(decode_reply(kind, &again), Ok(reply), "a reply changes by being encoded");
}

fn only_frame(bytes: &[u8]) -> (u8, Vec<u8>) {
    match frames(bytes, bytes.len(), bytes.len()) {
        (mut frames, None) if frames.len() == 1 => frames.remove(0),
        other => panic!("not one frame: {other:?}"),
    }
}

fn packed(keys: &Keys<'_>) -> PackedKeys {
    let mut packed = PackedKeys::default();
    keys.iter().for_each(|key| packed.push(key));
    packed
}

fn encode_request(out: &mut Vec<u8>, request: &Request<'_>, fault: Fault) {
    let mut encoder = Encoder::new();
    match request {
        Request::Hello(hello) => encoder.hello(out, 1, hello),
        Request::Increment(increment) => {
            let deltas: Vec<i64> = increment.deltas().collect();
            encoder.increment(
                out,
                1,
                &packed(&increment.keys),
                &deltas,
                increment.want_values,
                increment.stamp.as_ref(),
            );
        }
        Request::Get(get) => encoder.get(out, 1, &packed(&get.keys)),
        // The planted fault: a large k becomes a smaller one.
        Request::TopK { k } if fault.is_planted() => encoder.top_k(out, 1, (*k).min(64)),
        Request::TopK { k } => encoder.top_k(out, 1, *k),
        Request::Status => encoder.status(out, 1),
        Request::OpenSession { name } => encoder.open_session(out, 1, *name),
        Request::AttachSession(credentials) => encoder.attach_session(out, 1, credentials),
        Request::CloseSession { credentials, progress } => encoder.close_session(out, 1, credentials, *progress),
        Request::Scan(scan) => encoder.scan(out, 1, scan),
        Request::Resolve { stamp, keys } => encoder.resolve(out, 1, stamp, keys.as_ref().map(packed).as_ref()),
    }
}

fn check_same(one: &Request<'_>, other: &Request<'_>) {
    let keys = |keys: &Keys<'_>| keys.iter().map(<[u8]>::to_vec).collect::<Vec<_>>();
    match (one, other) {
        (Request::Hello(one), Request::Hello(other)) => assert_eq!(one, other),
        (Request::Increment(one), Request::Increment(other)) => {
            assert_eq!(keys(&one.keys), keys(&other.keys));
            assert!(one.deltas().eq(other.deltas()), "deltas change by being encoded");
            assert_eq!((one.want_values, one.stamp, one.digest()), (other.want_values, other.stamp, other.digest()));
            assert_eq!(one.deltas().len(), one.keys.len(), "one delta for each key");
        }
        (Request::Get(one), Request::Get(other)) => assert_eq!(keys(&one.keys), keys(&other.keys)),
        (Request::TopK { k: one }, Request::TopK { k: other }) => assert_eq!(one, other),
        (Request::Status, Request::Status) => {}
        (Request::OpenSession { name: one }, Request::OpenSession { name: other }) => assert_eq!(one, other),
        (Request::AttachSession(one), Request::AttachSession(other)) => assert_eq!(one, other),
        (
            Request::CloseSession { credentials: one, progress },
            Request::CloseSession { credentials: other, progress: progress_again },
        ) => assert_eq!((one, progress), (other, progress_again)),
        (Request::Scan(one), Request::Scan(other)) => assert_eq!(one, other),
        (Request::Resolve { stamp: one, keys: some }, Request::Resolve { stamp: other, keys: others }) => {
            assert_eq!((one, some.as_ref().map(keys)), (other, others.as_ref().map(keys)));
        }
        _ => panic!("{one:?} becomes {other:?}"),
    }
}

fn encode_reply(out: &mut Vec<u8>, reply: &Reply) {
    let mut encoder = Encoder::new();
    match reply {
        Reply::Welcome(welcome) => encoder.welcome(out, 1, welcome),
        Reply::Increment(reply) => {
            for position in 0..reply.len() {
                assert_eq!(
                    reply.outcome(position) == ErrorCode::Ok,
                    reply.outcomes.get(position).is_none_or(|&o| o == 0)
                );
            }
            encoder.increment_reply(out, 1, reply);
        }
        Reply::Get(reply) => encoder.get_reply(out, 1, reply),
        Reply::TopK(reply) => encoder.top_k_reply(out, 1, reply),
        Reply::Status(status) => encoder.status_reply(out, 1, status),
        Reply::OpenSession(opened) => encoder.open_session_reply(out, 1, opened),
        Reply::AttachSession(reply) => encoder.attach_session_reply(out, 1, reply),
        Reply::CloseSession => encoder.close_session_reply(out, 1),
        Reply::Resolve(reply) => encoder.resolve_reply(out, 1, reply),
        Reply::Scan(reply) => encoder.scan_reply(out, 1, reply),
        Reply::Error { code, text } => encoder.error(out, 1, *code, text),
    }
}
