//! The Redis protocol (RESP, version 2), as far as counting needs it.
//!
//! A request of several increments is a pipeline of `INCRBY`s that leave together; it is answered when the last of them
//! is. Redis answers in the order it was asked.

use crate::mix::Operation;
use crate::plan::Plan;
use crate::protocol::{Answer, Protocol, Request};
use crate::socket::{DialError, Socket};
use anyhow::{Context, bail};
use std::collections::VecDeque;
use std::io::Write;
use std::time::Instant;

/// Bytes received by one system call, at most: as many as for dkc.
const RECEIVE_BYTES: usize = 64 << 10;
/// A reply that is no number: texts, how many elements a list has, how deep lists are inside of each other.
const TEXT_BYTES_MAX: usize = 1 << 20;
const LIST_LENGTH_MAX: usize = 1_024;
const LIST_DEPTH_MAX: usize = 4;

/// One connection's side of the protocol.
#[derive(Debug)]
pub(crate) struct Redis {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    keys: usize,
    answered: usize,
}

/// What all commands for keys of one length begin with.
#[derive(Debug, Default)]
pub(crate) struct Header {
    key_bytes: usize,
    bytes: Vec<u8>,
}

impl Redis {
    fn new() -> Redis {
        Redis { buffer: vec![0; RECEIVE_BYTES], start: 0, end: 0, waiting: VecDeque::new() }
    }

    /// The next line, without its end.
    fn line(&mut self) -> Result<Option<&[u8]>, String> {
        let pending = &self.buffer[self.start..self.end];
        match pending.iter().position(|&byte| byte == b'\n') {
            Some(length) => {
                self.start += length + 1;
                let line = &pending[..length];
                Ok(Some(line.strip_suffix(b"\r").unwrap_or(line)))
            }
            None if pending.len() == self.buffer.len() => Err("a line of Redis without an end".to_owned()),
            None => Ok(None),
        }
    }
}

impl Protocol for Redis {
    type Writer = Header;

    fn open(_plan: &Plan, endpoint: &str, deadline: Instant) -> Result<(Socket, Redis), DialError> {
        Ok((Socket::dial(endpoint, deadline)?, Redis::new()))
    }

    fn write(&mut self, header: &mut Header, out: &mut Vec<u8>, id: u64, request: &Request<'_>) {
        assert!(request.operation == Operation::Increment, "the comparison asks Redis for nothing else");
        for (key, delta) in request.keys.iter().zip(request.deltas) {
            if key.len() != header.key_bytes {
                header.key_bytes = key.len();
                header.bytes = format!("*3\r\n$6\r\nINCRBY\r\n${}\r\n", key.len()).into_bytes();
            }
            out.extend_from_slice(&header.bytes);
            out.extend_from_slice(key);
            if *delta == 1 {
                out.extend_from_slice(b"\r\n$1\r\n1\r\n");
            } else {
                let delta = delta.to_string();
                write!(out, "\r\n${}\r\n{delta}\r\n", delta.len()).expect("a Vec takes everything");
            }
        }
        self.waiting.push_back(Waiting { id, keys: request.keys.len(), answered: 0 });
    }

    fn space(&mut self) -> &mut [u8] {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        &mut self.buffer[self.end..]
    }

    fn filled(&mut self, count: usize) {
        self.end += count;
    }

    fn next_answer(&mut self) -> Result<Option<(u64, Answer)>, String> {
        while let Some(line) = self.line()? {
            if line.first() != Some(&b':') {
                return Err(format!("Redis answers an increment with {:?}", String::from_utf8_lossy(line)));
            }
            let waiting = self.waiting.front_mut().ok_or("Redis answers more than it was asked")?;
            waiting.answered += 1;
            if waiting.answered == waiting.keys {
                let answer = (waiting.id, Answer::Acknowledged { keys: waiting.keys });
                self.waiting.pop_front();
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }
}

/// What has a bearing on a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) version: String,
    pub(crate) appendonly: String,
    pub(crate) appendfsync: String,
}

impl Facts {
    /// Asks a server.
    ///
    /// # Errors
    /// It cannot be reached, or answers something else than Redis does.
    pub(crate) fn ask(endpoint: &str, deadline: Instant) -> anyhow::Result<Facts> {
        let mut socket = Socket::dial(endpoint, deadline)?;
        let mut ask = |words: &[&str]| {
            let mut command = format!("*{}\r\n", words.len());
            words.iter().for_each(|word| command += &format!("${}\r\n{word}\r\n", word.len()));
            socket.push(&mut command.into_bytes());
            let (mut received, mut space) = (Vec::new(), vec![0; RECEIVE_BYTES]);
            loop {
                let count = socket.exchange(&mut space, deadline).map_err(anyhow::Error::msg)?;
                received.extend_from_slice(&space[..count]);
                if let Some((value, _)) = value(&received, LIST_DEPTH_MAX).context("an answer of Redis")? {
                    return anyhow::Ok(value);
                }
            }
        };
        let info = ask(&["INFO", "server"])?;
        let Value::Text(info) = info else { bail!("Redis does not say what it is: {info:?}") };
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or_default();
        let mut setting = |name| Ok::<_, anyhow::Error>(setting(&ask(&["CONFIG", "GET", name])?, name));
        let (appendonly, appendfsync) = (setting("appendonly")?, setting("appendfsync")?);
        Ok(Facts { version: version.to_owned(), appendonly, appendfsync })
    }

    /// Why a comparison with a server that is durable before it answers is not fair, if it is not.
    pub(crate) fn unfair(&self) -> Option<String> {
        let Facts { appendonly, appendfsync, .. } = self;
        (appendonly != "yes" || appendfsync != "always").then(|| {
            format!(
                "Redis runs with appendonly {appendonly} and appendfsync {appendfsync}, so it answers before anything \
                 is durable; a fair comparison needs yes and always"
            )
        })
    }
}

/// What `CONFIG GET` says of a setting.
fn setting(answer: &Value, name: &str) -> String {
    match answer {
        Value::List(list) => match list.as_slice() {
            [Value::Text(key), Value::Text(value)] if key == name => value.clone(),
            _ => "unknown".to_owned(),
        },
        Value::Error(text) => format!("unknown ({text})"),
        Value::Text(_) => "unknown".to_owned(),
    }
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    /// A line, a number, a text or nothing.
    Text(String),
    Error(String),
    List(Vec<Value>),
}

/// The value at the beginning of `bytes`, and what follows it; `None` until it is complete.
fn value(bytes: &[u8], depth: usize) -> anyhow::Result<Option<(Value, &[u8])>> {
    let Some(length) = bytes.iter().position(|&byte| byte == b'\n') else {
        anyhow::ensure!(bytes.len() <= TEXT_BYTES_MAX, "a line without an end");
        return Ok(None);
    };
    let (line, rest) = (String::from_utf8_lossy(&bytes[..length]), &bytes[length + 1..]);
    let line = line.trim_end_matches('\r');
    let (kind, text) = line.split_at_checked(1).context("an empty line")?;
    let number = |max: usize| -> anyhow::Result<usize> {
        match text {
            "-1" => Ok(0),
            text => text.parse().ok().filter(|number| *number <= max).context("a length that is none"),
        }
    };
    match kind {
        "+" | ":" => Ok(Some((Value::Text(text.to_owned()), rest))),
        "-" => Ok(Some((Value::Error(text.to_owned()), rest))),
        "$" if text == "-1" => Ok(Some((Value::Text(String::new()), rest))),
        "$" => {
            let length = number(TEXT_BYTES_MAX)?;
            let Some((text, rest)) = rest.split_at_checked(length + 2) else { return Ok(None) };
            Ok(Some((Value::Text(String::from_utf8_lossy(&text[..length]).into_owned()), rest)))
        }
        "*" => {
            anyhow::ensure!(depth > 0, "lists too deep inside of each other");
            let (mut list, mut rest) = (Vec::new(), rest);
            for _ in 0..number(LIST_LENGTH_MAX)? {
                let Some((element, after)) = value(rest, depth - 1)? else { return Ok(None) };
                list.push(element);
                rest = after;
            }
            Ok(Some((Value::List(list), rest)))
        }
        _ => bail!("a reply of an unknown kind: {line:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dkc::engine::part::PackedKeys;

    fn feed(redis: &mut Redis, bytes: &[u8]) -> Vec<(u64, Answer)> {
        redis.space()[..bytes.len()].copy_from_slice(bytes);
        redis.filled(bytes.len());
        std::iter::from_fn(|| redis.next_answer().expect("valid")).collect()
    }

    fn ask(redis: &mut Redis, id: u64, keys: &[&[u8]], deltas: &[i64]) -> Vec<u8> {
        let (mut packed, mut out) = (PackedKeys::default(), Vec::new());
        keys.iter().for_each(|key| packed.push(key));
        let request =
            Request { operation: Operation::Increment, keys: &packed, deltas, want_values: false, top_keys: 0 };
        redis.write(&mut Header::default(), &mut out, id, &request);
        out
    }

    #[test]
    fn a_pipeline_is_answered_with_its_last_increment() {
        let mut redis = Redis::new();
        let bytes = ask(&mut redis, 7, &[b"ab", b"\r\n\0"], &[1, -25]);
        let commands: [&[u8]; 2] =
            [b"*3\r\n$6\r\nINCRBY\r\n$2\r\nab\r\n$1\r\n1\r\n", b"*3\r\n$6\r\nINCRBY\r\n$3\r\n\r\n\0\r\n$3\r\n-25\r\n"];
        assert_eq!(bytes, commands.concat());
        ask(&mut redis, 8, &[b"c"], &[1]);
        assert_eq!(feed(&mut redis, b":1\r\n:"), []);
        let (first, second) = (Answer::Acknowledged { keys: 2 }, Answer::Acknowledged { keys: 1 });
        assert_eq!(feed(&mut redis, b"-24\r\n:1\r\n"), [(7, first), (8, second)]);
    }

    #[test]
    fn what_is_no_number_is_an_error() {
        for (bytes, asked) in [(&b"-ERR no\r\n"[..], true), (b":1\r\n", false), (&[b'x'; RECEIVE_BYTES], true)] {
            let mut redis = Redis::new();
            if asked {
                ask(&mut redis, 1, &[b"a"], &[1]);
            }
            redis.space()[..bytes.len()].copy_from_slice(bytes);
            redis.filled(bytes.len());
            assert!(redis.next_answer().is_err());
        }
    }

    #[test]
    fn settings_are_understood_and_judged() {
        let answer = b"*2\r\n$10\r\nappendonly\r\n$3\r\nyes\r\n";
        assert!((0..answer.len()).all(|cut| value(&answer[..cut], 4).expect("so far so good").is_none()));
        let (answer, rest) = value(answer, 4).expect("valid").expect("complete");
        assert_eq!((setting(&answer, "appendonly"), rest), ("yes".to_owned(), &b""[..]));
        assert_eq!(setting(&answer, "appendfsync"), "unknown");
        assert_eq!(setting(&Value::Error("ERR no".to_owned()), "appendonly"), "unknown (ERR no)");
        for hostile in [&b"$99999999999\r\n"[..], b"*99999\r\n", b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n", b"!\r\n", b"\r\n"] {
            assert!(value(hostile, 4).is_err(), "{hostile:?}");
        }
        let facts = |appendonly: &str, appendfsync: &str| Facts {
            version: String::new(),
            appendonly: appendonly.to_owned(),
            appendfsync: appendfsync.to_owned(),
        };
        assert_eq!(facts("yes", "always").unfair(), None);
        assert!(facts("yes", "everysec").unfair().is_some() && facts("no", "always").unfair().is_some());
        assert!(facts("unknown", "unknown").unfair().is_some());
    }
}
