//! The server's configuration: what was typed becomes a [`Config`] once, or is refused with a sentence that says why.
//!
//! Nothing behind this file looks at flags or environment variables again.

use std::ffi::OsString;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};
use tracing_subscriber::EnvFilter;

use super::{executors, memory};
use crate::limits::{
    SHARDS_MAX, STORES_MAX, WAL_BLOCK_BYTES, WAL_SEGMENT_BYTES_DEFAULT, WAL_SEGMENT_BYTES_MAX, WAL_SEGMENT_BYTES_MIN,
};

/// How much of the memory on offer is used for counters when nothing else is said, in percent.
const MEMORY_PERCENT_DEFAULT: u64 = 80;

/// A server's configuration, consistent in itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where everything durable lives.
    pub data_dir: PathBuf,
    /// Address of store 0. The other stores listen on the ports that follow; with port 0 each gets a free one.
    pub listen: SocketAddr,
    /// What clients are told to connect to; without it, the addresses listened on.
    pub advertise: Option<Advertise>,
    /// Shape of the node, as far as it was asked for. A formatted data directory must agree with it.
    pub shape: RequestedShape,
    /// Bytes of memory for counters, over all stores.
    pub memory_bytes_max: u64,
    /// Form of the log.
    pub log_format: LogFormat,
    /// What is logged, in the notation of `tracing`'s `EnvFilter`.
    pub log_level: String,
}

/// The shape of a node as asked for on the command line. What is `None` comes from the data directory, or is chosen
/// when it is formatted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestedShape {
    /// Number of stores.
    pub stores: Option<u16>,
    /// Number of shards, the meta shard not counted.
    pub shards: Option<u32>,
    /// Bytes of a log segment.
    pub segment_bytes: Option<u64>,
}

/// The shape a node is formatted with; it never changes after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Number of stores.
    pub stores: u16,
    /// Number of shards, the meta shard not counted.
    pub shards: u32,
    /// Bytes of a log segment.
    pub segment_bytes: u64,
}

impl RequestedShape {
    /// The shape of a new node: a store for each core this process may use, a shard for each store.
    #[must_use]
    pub fn or_default(self) -> Shape {
        let stores = self.stores.unwrap_or_else(|| executors::allowed_cores().len().clamp(1, STORES_MAX) as u16);
        Shape {
            stores,
            shards: self.shards.unwrap_or(u32::from(stores)),
            segment_bytes: self.segment_bytes.unwrap_or(WAL_SEGMENT_BYTES_DEFAULT),
        }
    }
}

/// A host, and the port of store 0 as clients see it, if it differs from the one listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertise {
    /// A name or an address; IPv6 in brackets.
    pub host: String,
    /// Port of store 0; the other stores follow.
    pub port: Option<u16>,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object a line.
    Json,
}

/// A distributed, durable, exact key counter: the server.
///
/// Without any option it serves on loopback and keeps its data in ./dkc-data, which it creates. Stop it with Ctrl-C:
/// it finishes what it has accepted; a second Ctrl-C stops it at once, and loses nothing that was acknowledged.
#[derive(Debug, Parser)]
#[command(name = "dkc-server", version, args_override_self = true)]
struct Flags {
    /// Directory of everything durable; created and formatted if it does not exist
    #[arg(long, value_name = "DIR", default_value = "dkc-data")]
    data_dir: PathBuf,

    /// Address of store 0; the other stores listen on the following ports. Port 0 picks free ports
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7400", value_parser = parse_listen)]
    listen: SocketAddr,

    /// Host (and port of store 0) that clients are told to connect to [default: the address listened on]
    #[arg(long, value_name = "HOST[:PORT]", value_parser = parse_advertise)]
    advertise: Option<Advertise>,

    /// Number of stores, fixed when the data directory is formatted [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=STORES_MAX as i64))]
    stores: Option<u16>,

    /// Number of shards, fixed when the data directory is formatted [default: one for each store]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=SHARDS_MAX as i64))]
    shards: Option<u32>,

    /// Memory for counters, over all stores, such as 512MiB or 8GiB [default: 80 % of what the machine or its cgroup offers]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory_max: Option<u64>,

    /// Size of a log segment file, fixed when the data directory is formatted [default: 64MiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_segment_size)]
    wal_segment: Option<u64>,

    /// Form of the log on standard error
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,

    /// What is logged: error, warn, info, debug, trace, or a filter such as info,dkc::runtime=debug
    #[arg(long, value_name = "FILTER", env = "DKC_LOG", default_value = "info", value_parser = parse_filter)]
    log_level: String,

    /// Listen on an address other machines can reach, although connections are neither encrypted nor authenticated
    #[arg(long)]
    insecure: bool,
}

impl Config {
    /// The configuration of this process. Prints help, version and mistakes by itself and exits then, with code 2
    /// after a mistake.
    #[must_use]
    pub fn from_command_line() -> Config {
        Config::parse(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// Reads a command line, the program's name first.
    ///
    /// # Errors
    /// What is wrong with it; also the texts of `--help` and `--version`.
    pub fn parse(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Config, clap::Error> {
        let flags = Flags::try_parse_from(arguments)?;
        flags.check().map_err(|text| Flags::command().error(ErrorKind::ValueValidation, text))?;
        Ok(Config {
            data_dir: flags.data_dir,
            listen: flags.listen,
            advertise: flags.advertise,
            shape: RequestedShape { stores: flags.stores, shards: flags.shards, segment_bytes: flags.wal_segment },
            memory_bytes_max: flags.memory_max.unwrap_or_else(|| memory::offered() / 100 * MEMORY_PERCENT_DEFAULT),
            log_format: flags.log_format,
            log_level: flags.log_level,
        })
    }
}

impl Flags {
    /// What no flag shows by itself.
    fn check(&self) -> Result<(), String> {
        if !self.listen.ip().is_loopback() && !self.insecure {
            return Err(format!(
                "--listen {} can be reached from other machines, and there is no TLS yet: anybody who reaches it can read \
                 and change every count. Listen on 127.0.0.1, or add --insecure if the network is trusted",
                self.listen
            ));
        }
        if self.listen.ip().is_unspecified() && self.advertise.is_none() {
            return Err(format!(
                "--listen {} is every address of this machine, so clients cannot be told which one to use; \
                 add --advertise HOST",
                self.listen
            ));
        }
        Ok(())
    }
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let mut addresses = text.to_socket_addrs().map_err(|error| format!("{error}; expected HOST:PORT"))?;
    addresses.next().ok_or_else(|| "the name has no address".into())
}

fn parse_advertise(text: &str) -> Result<Advertise, String> {
    let expected = || "expected HOST or HOST:PORT, an IPv6 address in brackets".to_string();
    // Colons inside the brackets of an IPv6 address separate no port.
    let host_end = if text.starts_with('[') { text.find(']').ok_or_else(expected)? + 1 } else { 0 };
    let (host, port) = match text[host_end..].find(':') {
        Some(colon) => (&text[..host_end + colon], Some(&text[host_end + colon + 1..])),
        None => (text, None),
    };
    let port = port.map(|port| port.parse().ok().filter(|&port| port > 0).ok_or_else(expected)).transpose()?;
    if host.is_empty() || (host_end > 0 && host_end != host.len()) {
        return Err(expected());
    }
    Ok(Advertise { host: host.into(), port })
}

fn parse_size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u32); 5] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40), ("B", 0)];
    let (number, shift) = UNITS
        .iter()
        .find_map(|(unit, shift)| text.strip_suffix(unit).map(|number| (number, *shift)))
        .unwrap_or((text, 0));
    let size = number.trim_end().parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    size.filter(|&size| size > 0)
        .ok_or_else(|| "expected a whole number of B, KiB, MiB, GiB or TiB, such as 512MiB".into())
}

fn parse_segment_size(text: &str) -> Result<u64, String> {
    let size = parse_size(text)?;
    if !(WAL_SEGMENT_BYTES_MIN..=WAL_SEGMENT_BYTES_MAX).contains(&size) || !size.is_multiple_of(WAL_BLOCK_BYTES as u64)
    {
        return Err(format!(
            "a log segment has between {} MiB and {} MiB, in steps of {} KiB",
            WAL_SEGMENT_BYTES_MIN >> 20,
            WAL_SEGMENT_BYTES_MAX >> 20,
            WAL_BLOCK_BYTES >> 10
        ));
    }
    Ok(size)
}

fn parse_filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.into()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<Config, clap::Error> {
        Config::parse(std::iter::once(&"dkc-server").chain(flags))
    }

    fn refusal(flags: &[&str]) -> String {
        let error = parse(flags).expect_err("must be refused");
        assert_eq!(error.exit_code(), 2, "{flags:?}");
        error.to_string()
    }

    #[test]
    fn the_command_line_is_consistent_in_itself() {
        Flags::command().debug_assert();
    }

    #[test]
    fn nothing_need_be_said() {
        let config = parse(&[]).expect("defaults");
        assert_eq!(config.data_dir, PathBuf::from("dkc-data"));
        assert_eq!(config.listen, "127.0.0.1:7400".parse().expect("an address"));
        assert_eq!(config.advertise, None);
        assert_eq!(config.shape, RequestedShape::default());
        assert!(config.memory_bytes_max > 0);
        let shape = config.shape.or_default();
        assert_eq!(u32::from(shape.stores), shape.shards, "one shard for each store");
        assert_eq!(shape.segment_bytes, WAL_SEGMENT_BYTES_DEFAULT);
    }

    #[test]
    fn everything_can_be_said() {
        let config = parse(&[
            "--data-dir=/tmp/x",
            "--listen=[::1]:0",
            "--advertise=counts.example:9000",
            "--stores=3",
            "--shards=7",
            "--memory-max=8GiB",
            "--wal-segment=128MiB",
            "--log-format=json",
            "--log-level=warn,dkc=debug",
        ])
        .expect("valid");
        assert_eq!(config.listen, "[::1]:0".parse().expect("an address"));
        assert_eq!(config.advertise, Some(Advertise { host: "counts.example".into(), port: Some(9_000) }));
        let shape = Shape { stores: 3, shards: 7, segment_bytes: 128 << 20 };
        assert_eq!(config.shape.or_default(), shape);
        assert_eq!(config.memory_bytes_max, 8 << 30);
        assert_eq!(config.log_format, LogFormat::Json);
        assert_eq!(config.log_level, "warn,dkc=debug");
    }

    #[test]
    fn shards_follow_the_stores_that_were_asked_for() {
        assert_eq!(parse(&["--stores=5"]).expect("valid").shape.or_default().shards, 5);
    }

    #[test]
    fn other_machines_need_a_deliberate_word() {
        let text = refusal(&["--listen=192.0.2.7:7400"]);
        assert!(text.contains("--insecure") && text.contains("no TLS"), "{text}");
        assert!(parse(&["--listen=192.0.2.7:7400", "--insecure"]).is_ok());
        for local in ["127.0.0.1:1", "127.8.9.1:1", "[::1]:1"] {
            assert!(parse(&["--listen", local]).is_ok(), "{local}");
        }
    }

    #[test]
    fn an_address_nobody_can_connect_to_is_not_advertised() {
        let text = refusal(&["--listen=0.0.0.0:7400", "--insecure"]);
        assert!(text.contains("--advertise"), "{text}");
        assert!(parse(&["--listen=0.0.0.0:7400", "--insecure", "--advertise=db1"]).is_ok());
    }

    #[test]
    fn sizes_have_binary_units() {
        for (text, size) in [("1", 1), ("17B", 17), ("1KiB", 1_024), ("512MiB", 512 << 20), ("2 GiB", 2 << 30)] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for text in ["", "0", "1.5GiB", "1GB", "-1", "MiB", "99999999999TiB", "1kib"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn limits_are_limits() {
        for flags in [
            ["--stores=0"],
            ["--stores=257"],
            ["--shards=0"],
            ["--shards=4097"],
            ["--wal-segment=1MB"],
            ["--wal-segment=8MiB"],
            ["--wal-segment=2GiB"],
            ["--wal-segment=67108865"],
            ["--listen=127.0.0.1"],
            ["--log-level=loud=louder=loudest"],
            ["--log-format=xml"],
            ["--unknown"],
        ] {
            refusal(&flags);
        }
    }

    #[test]
    fn advertised_hosts_may_have_ports() {
        let parsed = |text| parse_advertise(text).map(|a| (a.host, a.port));
        assert_eq!(parsed("db1"), Ok(("db1".into(), None)));
        assert_eq!(parsed("db1:80"), Ok(("db1".into(), Some(80))));
        assert_eq!(parsed("[2001:db8::1]"), Ok(("[2001:db8::1]".into(), None)));
        assert_eq!(parsed("[2001:db8::1]:80"), Ok(("[2001:db8::1]".into(), Some(80))));
        for text in ["", ":80", "db1:", "db1:0", "db1:70000", "2001:db8::1", "[::1", "[::1]x"] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }
}
