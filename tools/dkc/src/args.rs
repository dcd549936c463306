//! The command line's arguments.

use clap::{Parser, Subcommand, ValueEnum};
use dkc::client::request_id::RequestId;
use dkc::limits::{SESSION_NAME_BYTES_MAX, TOP_KEYS_MAX};
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// What the exit codes mean, as the help shows it.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  some input was skipped, files are damaged, or another failure
  2  wrong usage
  3  no server could be reached; nothing was sent
  4  refused by the server; what was refused was not applied
  5  unknown outcome: sent but not answered in time, so it may have been applied; `dkc resolve` tells

Keys:
  Any 1 to 1,024 bytes. In text and CSV, a byte that is not part of printable UTF-8 is shown as \\xNN and a backslash
  as \\\\; with --escaped, keys given as arguments are read the same way. In JSON, a key that is not UTF-8 is
  `key_base64` instead of `key`.";

/// Command line for a DistributedKeyCounter cluster.
#[derive(Debug, Parser)]
#[command(name = "dkc", version, after_help = EXIT_CODES)]
pub struct Args {
    /// Servers to try, in this order
    #[arg(
        long,
        global = true,
        env = "DKC_ENDPOINTS",
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        value_parser = parse_endpoint,
        default_value = "127.0.0.1:7400"
    )]
    pub endpoints: Vec<String>,

    /// How results are printed
    #[arg(short = 'o', long, global = true, env = "DKC_OUTPUT", value_enum, default_value_t = Format::Text)]
    pub output: Format,

    /// How long to try: requests are sent again, and counted once, until they are answered or this time is over
    #[arg(
        long, global = true, env = "DKC_TIMEOUT", value_name = "SECONDS", value_parser = parse_timeout, default_value = "15"
    )]
    pub timeout: Duration,

    /// Without a command, on a terminal: a prompt
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// A line of the prompt.
#[derive(Debug, Parser)]
#[command(name = "", no_binary_name = true, disable_help_flag = true, override_usage = "COMMAND [ARGUMENTS]")]
pub struct Line {
    #[command(subcommand)]
    pub command: Command,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people: a bare number for one key, else a line `key<TAB>count` for each
    Text,
    /// One line: an object for one key, an array of objects for several
    Json,
    /// A line `key,count` for each key, without a header (RFC 4180)
    Csv,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Add DELTA to the count of KEY, and print the new count
    ///
    /// Counted exactly once, however often it has to be sent. If no answer comes in time, the exit code is 5, and the id that is
    /// printed tells `dkc resolve` what to ask for.
    Incr {
        key: OsString,
        /// What to add; negative numbers subtract, 0 creates the key
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        delta: i64,
        /// KEY contains escapes: \xNN, \\
        #[arg(long)]
        escaped: bool,
    },
    /// Print the counts of keys; 0 for a key that does not exist (JSON: "found" is false)
    Get {
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<OsString>,
        /// The keys contain escapes: \xNN, \\
        #[arg(long)]
        escaped: bool,
    },
    /// Print the keys with the highest counts, highest first, equal counts by key
    Top {
        /// How many keys
        #[arg(short, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=TOP_KEYS_MAX as i64))]
        k: u32,
    },
    /// Find out what became of a request whose outcome is unknown
    ///
    /// And end it: what was not applied by now never will be. Without keys, every shard is asked.
    Resolve {
        /// The id that was printed with the unknown outcome
        id: RequestId,
        /// The keys of the request
        #[arg(value_name = "KEY")]
        keys: Vec<OsString>,
        /// The keys contain escapes: \xNN, \\
        #[arg(long)]
        escaped: bool,
    },
    /// Count the lines or words of files, or of standard input: each occurrence adds 1 to its key
    ///
    /// Each is counted exactly once, whatever connections break on the way. With --session, that holds even if this program dies: run
    /// again with the same name and the same input, it goes on where it was. Once it is through, the session is closed, and
    /// running it again counts nothing.
    ///
    /// Each line without its newline is a key; empty lines are skipped. Keys over 1,024 bytes are reported by their
    /// line number and skipped. Prints nothing to standard output; totals go to standard error.
    Count(CountArgs),
    /// Write every key and its count, a line each
    ///
    /// Those of each shard are as they were at one moment, which goes to standard error; increments may go on meanwhile. With -o json, each
    /// line is an object.
    Export(ExportArgs),
    /// Add the counts of a file that was exported, or is like one
    ///
    /// Each is added exactly once, even if it is interrupted and run again: that goes on where it was. So to import a file that was
    /// imported before adds nothing, unless another --session is named.
    Import(ImportArgs),
    /// Print what the server is doing (CSV: one line for each shard: node, store, shard, role, term, last, committed
    /// and applied index, keys, bytes of memory)
    Status,
    /// Look into the files of a server, without one: what they hold, and whether they are whole
    ///
    /// Nothing is changed, and no server is asked. The exit code is 1 if something is damaged. While a server runs on the files, the end
    /// of its log may look torn. To check all that a start needs, with the configuration: `dkc-server --verify`.
    #[command(subcommand)]
    Inspect(Inspect),
}

/// What is looked into.
#[derive(Debug, Subcommand)]
pub enum Inspect {
    /// Print segments and records of a write-ahead log, and where it ends and why
    ///
    /// Keys are not printed unless asked for. As CSV, a line for each record: lsn, segment, offset of its write, kind, shard, term, index,
    /// commit index, bytes, what it says, increments; with --keys a line for each increment, with key and delta at the end. As JSON, an
    /// object a line: "type" is log, segment, record or end.
    Wal(InspectWalArgs),
    /// Print what checkpoints hold, and whether the log names them
    ///
    /// Every checksum is checked. As CSV, a line for each: file, shard, number, standing (newest, older, unnamed or unknown), index and term
    /// of A, index and term of B, pages, counters, bytes, damage. As JSON, an object each.
    Checkpoint(InspectCheckpointArgs),
}

#[derive(clap::Args, Debug)]
pub struct CountArgs {
    /// Count maximal runs of ASCII letters, in the case they have, instead of lines
    #[arg(long)]
    pub words: bool,
    /// Count under the session of this name, which outlives this program; the input has to be the same each time
    #[arg(long, value_name = "NAME", value_parser = parse_session)]
    pub session: Option<String>,
    /// Files to read; `-`, or none: standard input
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

#[derive(clap::Args, Debug)]
pub struct ExportArgs {
    /// File to write, under its name only once it is whole; `-`, or none: standard output
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}

#[derive(clap::Args, Debug)]
pub struct ImportArgs {
    /// What each line is [default: csv or json for a file that is named so, else text]
    #[arg(long, value_enum)]
    pub format: Option<FileFormat>,
    /// Add under the session of this name, which outlives this program [default: one that names the file's content]
    #[arg(long, value_name = "NAME", value_parser = parse_session)]
    pub session: Option<String>,
    /// File to read; `-`: standard input, which needs --session
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

impl ImportArgs {
    /// What each line is: as said, or as the file's name says.
    #[must_use]
    pub fn format(&self) -> FileFormat {
        let named = || match self.file.extension().and_then(|extension| extension.to_str()) {
            Some("csv") => FileFormat::Csv,
            Some("json" | "jsonl" | "ndjson") => FileFormat::Json,
            _ => FileFormat::Text,
        };
        self.format.unwrap_or_else(named)
    }
}

#[derive(clap::Args, Debug)]
pub struct InspectWalArgs {
    /// Read and check everything, but print no records
    #[arg(long, conflicts_with = "keys")]
    pub verify: bool,
    /// Print keys and what is added to them
    #[arg(long)]
    pub keys: bool,
    /// A segment, the directory of a log or of a store, or a data directory
    #[arg(value_name = "FILE|DIR")]
    pub path: PathBuf,
}

#[derive(clap::Args, Debug)]
pub struct InspectCheckpointArgs {
    /// Make a state of each as a start would, which takes the memory of its counters
    #[arg(long)]
    pub verify: bool,
    /// A checkpoint, the directory of checkpoints or of a store, or a data directory
    #[arg(value_name = "FILE|DIR")]
    pub path: PathBuf,
}

/// How a file of counts is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FileFormat {
    /// `key,count`, as -o csv writes it (RFC 4180); in the key, \xNN stands for a byte and \\ for a backslash
    Csv,
    /// An object with `key` or `key_base64`, and `count`, as -o json writes it
    Json,
    /// `key<TAB>count`, as -o text writes it; the key as in CSV
    Text,
}

/// An argument that clap cannot check.
#[derive(Debug)]
pub struct UsageError(pub String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

fn parse_session(text: &str) -> Result<String, String> {
    match text.len() {
        1..=SESSION_NAME_BYTES_MAX => Ok(text.to_owned()),
        length => Err(format!("a name of 1 to {SESSION_NAME_BYTES_MAX} bytes is expected, not of {length}")),
    }
}

/// A host and a port. Whether there is such a host shows when it is connected to.
fn parse_endpoint(text: &str) -> Result<String, String> {
    const EXPECTED: &str = "HOST:PORT is expected, an IPv6 address in brackets";
    let (host, port) = text.rsplit_once(':').ok_or(EXPECTED)?;
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
    let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match inside {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "[]:/@".contains(c)),
    };
    if is_port && is_host { Ok(text.to_owned()) } else { Err(EXPECTED.to_owned()) }
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    const RANGE: &str = "a number of seconds from 0.001 to 86400 is expected";
    let seconds: f64 = text.parse().map_err(|_| RANGE.to_owned())?;
    if !(0.001..=86_400.0).contains(&seconds) {
        return Err(RANGE.to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
        Line::command().debug_assert();
    }

    #[test]
    fn deltas_may_be_negative() {
        let args = Args::parse_from(["dkc", "incr", "k", "-5"]);
        assert!(matches!(args.command, Some(Command::Incr { delta: -5, .. })));
        let args = Args::parse_from(["dkc", "incr", "k", "-9223372036854775808", "-o", "json"]);
        assert!(matches!(args.command, Some(Command::Incr { delta: i64::MIN, .. })));
        let args = Args::parse_from(["dkc", "incr", "k"]);
        assert!(matches!(args.command, Some(Command::Incr { delta: 1, .. })));
        assert!(Args::try_parse_from(["dkc", "incr", "k", "9223372036854775808"]).is_err());
    }

    #[test]
    fn endpoints_are_a_host_and_a_port() {
        for good in ["a:1", "db1.example:65535", "127.0.0.1:7400", "[::1]:7400", "a:1,[2001:db8::1]:2"] {
            assert!(Args::try_parse_from(["dkc", "--endpoints", good, "status"]).is_ok(), "{good}");
        }
        for bad in
            ["foo", "", ":1", "a:", "a:0", "a:65536", "a:+1", "::1", "::1:7400", "[::1]", "[a]:1", "http://a:1", "a:1,"]
        {
            let error = Args::try_parse_from(["dkc", "--endpoints", bad, "status"]).expect_err(bad);
            assert_eq!(error.exit_code(), 2, "{bad}");
        }
    }

    #[test]
    fn options_are_checked() {
        let args = Args::parse_from(["dkc", "top", "-k", "100", "--endpoints", "a:1,b:2", "--timeout", "0.5"]);
        assert_eq!(args.endpoints, ["a:1", "b:2"]);
        assert_eq!(args.timeout, Duration::from_millis(500));
        for bad in [["top", "-k", "0"], ["top", "-k", "10001"], ["top", "--timeout", "0"], ["top", "--timeout", "NaN"]]
        {
            assert!(Args::try_parse_from(["dkc"].iter().chain(&bad)).is_err(), "{bad:?}");
        }
        assert!(Args::try_parse_from(["dkc", "get"]).is_err());
    }
}
