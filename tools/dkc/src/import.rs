//! `dkc import`: adds the counts of a file that `dkc export` wrote, or another program.
//!
//! Always under a named session, so that what was interrupted goes on where it was and counts nothing twice. The name is that of the
//! file's content unless another is given.

use crate::args::{FileFormat, ImportArgs};
use crate::count::{Input, Outcome, Resumed, Sink, Stopped, advice, progress, report};
use crate::keys::unescape;
use crate::warn;
use anyhow::{Context, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dkc::client::blocking::Client;
use dkc::limits::KEY_BYTES_MAX;
use serde_json::Value;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::time::Instant;
use xxhash_rust::xxh3::Xxh3;

const COUNT: &str = "a count is a whole number of 64 bits with sign";
/// Bytes of one read.
const CHUNK_BYTES: usize = 256 << 10;
/// A line of JSON: a key in base64 or with every byte escaped, a count, and what stands around them.
const LINE_BYTES_MAX: usize = 8 * KEY_BYTES_MAX + 4_096;

/// Adds the counts of a file; returns the exit code.
///
/// # Errors
/// The file cannot be read. What the cluster says is reported.
pub(crate) fn run(client: &mut Client, args: &ImportArgs) -> anyhow::Result<u8> {
    let started = Instant::now();
    let (path, is_file) = (args.file.as_path(), args.file != Path::new("-"));
    let name = match &args.session {
        Some(name) => name.clone(),
        None if is_file => name_of(path)?,
        None => bail!(
            "standard input has no name of its own: give it one with --session, to be used again if it has to be run again"
        ),
    };
    let source: Box<dyn Read> = if is_file { Box::new(open(path)?) } else { Box::new(io::stdin().lock()) };
    let mut input = Input::new(progress(std::slice::from_ref(&args.file)), true);
    let (outcome, stopped) = match client.open(name.as_bytes()) {
        Ok(named) => {
            let mut sink = Resumed::new(client, &name, &named);
            let source = Counted { source, input: &mut input };
            let read = read(BufReader::with_capacity(CHUNK_BYTES, source), args.format(), &mut sink);
            if let Err(Trouble::Input(error)) = &read {
                input.note(&format!("{}: {error:#}", path.display()));
            }
            (sink.finish(read.is_ok()), read.is_err())
        }
        Err(error) => {
            let advice = advice(&name, 0, &error);
            (Outcome { error: Some(error), advice, ..Outcome::default() }, true)
        }
    };
    input.finish();
    if outcome.is_all_before() {
        warn(
            "nothing was counted: this was imported before, under the same session; to add it again, name another with --session",
        );
    }
    Ok(report(&input, &outcome, stopped, started.elapsed()))
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| path.display().to_string())
}

/// The session of a file: the same for the same content, wherever it lies.
fn name_of(path: &Path) -> anyhow::Result<String> {
    let (mut file, mut hasher, mut chunk) = (open(path)?, Xxh3::new(), vec![0; CHUNK_BYTES]);
    loop {
        match file.read(&mut chunk).with_context(|| path.display().to_string())? {
            0 => return Ok(format!("import-{:032x}", hasher.digest128())),
            count => hasher.update(&chunk[..count]),
        }
    }
}

/// Tells how much was read.
struct Counted<'a, R> {
    source: R,
    input: &'a mut Input,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.source.read(buffer).inspect(|&count| self.input.advance(count))
    }
}

/// Why not all was read.
enum Trouble {
    /// What went wrong is with the sink.
    Stopped,
    Input(anyhow::Error),
}

impl From<Stopped> for Trouble {
    fn from(_: Stopped) -> Trouble {
        Trouble::Stopped
    }
}

impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Trouble {
        Trouble::Input(error)
    }
}

fn read(mut source: impl BufRead, format: FileFormat, sink: &mut impl Sink) -> Result<(), Trouble> {
    if format == FileFormat::Csv {
        return read_csv(source, sink);
    }
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let mut limited = (&mut source).take(LINE_BYTES_MAX as u64);
        let count = limited.read_until(b'\n', &mut line).with_context(|| format!("line {number}"))?;
        if count == 0 {
            break;
        }
        if line.pop_if(|last| *last == b'\n').is_none() && count == LINE_BYTES_MAX {
            return Err(anyhow!("line {number} has over {LINE_BYTES_MAX} bytes").into());
        }
        if line.is_empty() {
            continue;
        }
        let parsed = if format == FileFormat::Json { json(&line) } else { text(&line) };
        let (key, count) = parsed.with_context(|| format!("line {number}"))?;
        add(sink, &key, count, number)?;
    }
    Ok(())
}

fn read_csv(source: impl BufRead, sink: &mut impl Sink) -> Result<(), Trouble> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(source);
    let mut record = csv::ByteRecord::new();
    while reader.read_byte_record(&mut record).context("not CSV")? {
        let line = record.position().map_or(0, csv::Position::line);
        let (Some(key), Some(count), 2) = (record.get(0), record.get(1), record.len()) else {
            return Err(anyhow!("line {line}: key,count is expected, not {} fields", record.len()).into());
        };
        let key = unescape(key).map_err(|error| anyhow!("line {line}: {error}"))?;
        add(sink, &key, number(count).with_context(|| format!("line {line}"))?, line)?;
    }
    Ok(())
}

fn add(sink: &mut impl Sink, key: &[u8], count: i64, line: u64) -> Result<(), Trouble> {
    match key.len() {
        1..=KEY_BYTES_MAX => Ok(sink.add(key, count)?),
        length => Err(anyhow!("line {line}: a key of {length} bytes; 1 to {KEY_BYTES_MAX} are allowed").into()),
    }
}

/// `key<TAB>count`, the key in its escaped form.
fn text(line: &[u8]) -> anyhow::Result<(Vec<u8>, i64)> {
    let tab = line.iter().rposition(|&byte| byte == b'\t').context("a key, a tab and a count are expected")?;
    let key = unescape(&line[..tab]).map_err(|error| anyhow!("{error}"))?;
    Ok((key, number(&line[tab + 1..])?))
}

/// An object as `dkc export` and `dkc top` print it.
fn json(line: &[u8]) -> anyhow::Result<(Vec<u8>, i64)> {
    let object: Value = serde_json::from_slice(line)?;
    let key = match (object["key"].as_str(), object["key_base64"].as_str()) {
        (Some(key), None) => key.as_bytes().to_vec(),
        (None, Some(key)) => STANDARD.decode(key).context("key_base64")?,
        _ => bail!("one of key and key_base64 is expected, and text"),
    };
    Ok((key, object["count"].as_i64().context(COUNT)?))
}

fn number(text: &[u8]) -> anyhow::Result<i64> {
    let text = str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    text.context(COUNT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Format;

    #[derive(Default)]
    struct Kept(Vec<(Vec<u8>, i64)>);

    impl Sink for Kept {
        fn add(&mut self, key: &[u8], delta: i64) -> Result<(), Stopped> {
            self.0.push((key.to_vec(), delta));
            Ok(())
        }

        fn finish(self, _: bool) -> Outcome {
            Outcome::default()
        }
    }

    fn read_all(format: FileFormat, text: &[u8]) -> Result<Vec<(Vec<u8>, i64)>, String> {
        let mut kept = Kept::default();
        match read(text, format, &mut kept) {
            Ok(()) => Ok(kept.0),
            Err(Trouble::Input(error)) => Err(format!("{error:#}")),
            Err(Trouble::Stopped) => unreachable!("it takes everything"),
        }
    }

    #[test]
    fn every_format_is_read_as_it_is_written() {
        let expected = vec![(b"a,b\"c".to_vec(), 7), (b"two\nlines \\".to_vec(), -3), (b"\xff".to_vec(), 0)];
        for (format, written) in
            [(FileFormat::Csv, Format::Csv), (FileFormat::Json, Format::Json), (FileFormat::Text, Format::Text)]
        {
            let mut out = Vec::new();
            for (key, count) in &expected {
                let row = crate::output::Row { key, count: Some(*count) };
                crate::output::write_line(&mut out, written, &row).expect("a Vec takes everything");
            }
            assert_eq!(read_all(format, &out).as_ref(), Ok(&expected), "{}", String::from_utf8_lossy(&out));
        }
        assert_eq!(read_all(FileFormat::Csv, b"\"a\nb\",1"), Ok(vec![(b"a\nb".to_vec(), 1)]));
    }

    #[test]
    fn what_is_no_key_and_count_is_refused_with_its_line() {
        for (format, text, expected) in [
            (FileFormat::Csv, &b"a,1\nb\n"[..], "line 2: key,count"),
            (FileFormat::Csv, b"a,1\nb,x\n", "line 2: a count"),
            (FileFormat::Csv, b"a,1\n,1\n", "line 2: a key of 0 bytes"),
            (FileFormat::Csv, b"\\q,1\n", "line 1: a backslash"),
            (FileFormat::Text, b"a\t1\n\nb 1\n", "line 3: a key, a tab"),
            (FileFormat::Json, b"{\"key\":\"a\",\"count\":1}\n{\"count\":1}\n", "line 2: one of key"),
            (FileFormat::Json, b"{\"key\":\"a\",\"count\":9223372036854775808}\n", "line 1: "),
        ] {
            let error = read_all(format, text).expect_err("not well formed");
            assert!(error.contains(expected), "{error}");
        }
        let long = [b"a".repeat(LINE_BYTES_MAX), b"\t1\n".to_vec()].concat();
        assert!(read_all(FileFormat::Text, &long).expect_err("too long").contains("line 1 has over"));
    }
}
