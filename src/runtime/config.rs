//! The server's configuration: what was said becomes a [`Config`] once, or is refused with a sentence that says why.
//!
//! A setting is a field of `Flags`, and that is all of it: its flag, its environment variable, its key in the
//! configuration file, its parser, its default and its help follow from there (`layers`). Nothing behind this module
//! looks at flags, environment or file again.

mod layers;
mod values;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};

use super::{executors, memory};
use crate::engine::checkpoint::CheckpointConfig;
use crate::limits::{
    CONNECTION_TIMEOUT_MICROS_MAX, CONNECTION_TIMEOUT_MICROS_MIN, SESSION_AGE_MICROS_MAX, SESSION_AGE_MICROS_MIN,
    SHARDS_MAX, STORE_CONNECTIONS_MAX, STORES_MAX, WAL_SEGMENT_BYTES_DEFAULT,
};
use layers::Layers;
use values::{
    parse_advertise, parse_checkpoint_log, parse_checkpoint_rate, parse_duration, parse_filter, parse_listen,
    parse_segment_size, parse_size,
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
    /// Whether the kernel is asked for huge pages for the counters.
    pub huge_pages: bool,
    /// When checkpoints are made, and how fast.
    pub checkpoints: CheckpointConfig,
    /// How long a client's session lives at most.
    pub session_age_micros: u64,
    /// What a store allows its clients.
    pub clients: ClientLimits,
    /// Form of the log.
    pub log_format: LogFormat,
    /// What is logged, in the notation of `tracing`'s `EnvFilter`.
    pub log_level: String,
}

/// What a store allows its clients, as far as an operator may want it otherwise. The other limits stand in
/// [`crate::limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// Connections of a store.
    pub connections: usize,
    /// Time from a connection's beginning to its Hello.
    pub hello_micros: u64,
    /// Time from a frame's first byte to its last.
    pub frame_micros: u64,
    /// Time for which replies may wait without the client taking any of them.
    pub reply_micros: u64,
    /// Time for which a connection may stay without a request; `None` is for ever.
    pub idle_micros: Option<u64>,
}

/// The shape of a node as asked for. What is `None` comes from the data directory, or is chosen
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

/// Where settings come from, as the help shows it.
const SOURCES: &str = "\
Settings:
  Every option but --config, --print-config, --verify, --help and --version is a setting. It is looked for, in this order, among
  the options, in the environment (--data-dir is DKC_DATA_DIR), in the configuration file (data_dir = \"...\"), and has
  a default otherwise. The file is TOML, without tables; unknown settings in it are errors.";

/// A distributed, durable, exact key counter: the server.
///
/// Without any option it serves on loopback and keeps its data in ./dkc-data, which it creates. Stop it with Ctrl-C:
/// it finishes what it has accepted; a second Ctrl-C stops it at once, and loses nothing that was acknowledged.
#[derive(Debug, Parser)]
#[command(name = "dkc-server", version, args_override_self = true, after_help = SOURCES)]
struct Flags {
    /// Configuration file; the environment variable DKC_CONFIG names one too
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Print the effective configuration as a configuration file that says where each setting came from, and exit
    #[arg(long)]
    print_config: bool,

    /// Check the data directory without serving: read all logs and checkpoints as a start would, print what was found, change
    /// nothing, and exit with code 0, or 1 if something is damaged
    #[arg(long, conflicts_with = "print_config")]
    verify: bool,

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

    /// Ask the kernel for huge pages for the counters, where it leaves the choice to the program
    #[arg(
        long, value_name = "BOOL", default_value = "true", default_missing_value = "true", num_args = 0..=1,
        require_equals = true, action = clap::ArgAction::Set
    )]
    huge_pages: bool,

    /// Size of a log segment file, fixed when the data directory is formatted [default: 64MiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_segment_size)]
    wal_segment: Option<u64>,

    /// Log that a store writes from one checkpoint of a shard to the next, such as 1GiB: what a restart reads at most beside
    /// the checkpoint. More if the last checkpoint was larger
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse_checkpoint_log)]
    checkpoint_log: u64,

    /// What a store writes to checkpoints in a second, at most, such as 64MiB
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = parse_checkpoint_rate)]
    checkpoint_rate: u64,

    /// How long a client's session lives at most, such as 90m or 24h; retries of older ones are refused
    #[arg(
        long, value_name = "TIME", default_value = "24h",
        value_parser = |text: &str| parse_duration(text, SESSION_AGE_MICROS_MIN..=SESSION_AGE_MICROS_MAX)
    )]
    session_age: u64,

    /// Connections of each store; a further one is refused
    #[arg(
        long, value_name = "N", default_value_t = STORE_CONNECTIONS_MAX as u32,
        value_parser = clap::value_parser!(u32).range(1..=STORE_CONNECTIONS_MAX as i64)
    )]
    connections_max: u32,

    /// Time a new connection has to say Hello
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_timeout)]
    hello_timeout: u64,

    /// Time a client has from the first byte of a frame to its last
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_timeout)]
    frame_timeout: u64,

    /// Time a client has to take some of the replies that wait for it
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_timeout)]
    reply_timeout: u64,

    /// Time a connection may stay without a request; 0 is for ever
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_idle_timeout)]
    idle_timeout: u64,

    /// Form of the log on standard error
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,

    /// What is logged: error, warn, info, debug, trace, or a filter such as info,dkc::runtime=debug
    #[arg(long, value_name = "FILTER", default_value = "info", value_parser = parse_filter)]
    log_level: String,

    /// Listen on an address other machines can reach, although connections are neither encrypted nor authenticated
    #[arg(
        long, value_name = "BOOL", default_value = "false", default_missing_value = "true", num_args = 0..=1,
        require_equals = true, action = clap::ArgAction::Set
    )]
    insecure: bool,
}

fn parse_timeout(text: &str) -> Result<u64, String> {
    parse_duration(text, CONNECTION_TIMEOUT_MICROS_MIN..=CONNECTION_TIMEOUT_MICROS_MAX)
}

/// 0 is a word for "never" here.
fn parse_idle_timeout(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { parse_timeout(text) }
}

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A server.
    Serve(Box<Config>),
    /// A look at what a server with this configuration would start from.
    Verify(Box<Config>),
    /// This text, the effective configuration.
    Print(String),
}

/// The definition of the command line, for those who describe it.
#[must_use]
pub fn command() -> clap::Command {
    Flags::command()
}

impl Config {
    /// What the command line, the environment and the configuration file of this process ask for. Prints help, version and mistakes by
    /// itself and exits then, with code 2 after a mistake.
    #[must_use]
    pub fn of_this_process() -> Wanted {
        let wanted = Config::parse(std::env::args_os(), |variable| std::env::var_os(variable));
        wanted.unwrap_or_else(|error| error.exit())
    }

    /// Reads a command line, the program's name first, an environment, and the file that one of them names.
    ///
    /// # Errors
    /// What is wrong with them; also the texts of `--help` and `--version`.
    pub fn parse(
        arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Wanted, clap::Error> {
        let refused = |text| Flags::command().error(ErrorKind::ValueValidation, text);
        let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
        // What was typed comes first: it may ask for help, or name the file.
        let typed = Flags::try_parse_from(&arguments)?;
        let file = typed.config.or_else(|| environment(layers::FILE_VARIABLE).map(PathBuf::from));
        let layers = Layers::read(file.as_deref(), environment).map_err(refused)?;
        let matches = layers.under(Flags::command()).try_get_matches_from(&arguments)?;
        let flags = Flags::from_arg_matches(&matches)?;
        flags.check().map_err(refused)?;
        let (print, verify) = (flags.print_config, flags.verify);
        let config = Config::from(flags);
        Ok(match (print, verify) {
            (true, _) => Wanted::Print(layers.print(&matches, &config.chosen())),
            (false, true) => Wanted::Verify(Box::new(config)),
            (false, false) => Wanted::Serve(Box::new(config)),
        })
    }

    /// What the server chooses where nothing is said and the default is not one value for all machines. A formatted data
    /// directory knows its own shape, whatever would be chosen for a new one.
    fn chosen(&self) -> Vec<(&'static str, String, &'static str)> {
        const SHAPE: &str = "default for a new data directory; an existing one keeps its own";
        let shape = self.shape.or_default();
        vec![
            ("advertise", String::new(), "default: the address listened on"),
            ("stores", shape.stores.to_string(), SHAPE),
            ("shards", shape.shards.to_string(), SHAPE),
            ("memory_max", self.memory_bytes_max.to_string(), "default: 80 % of what the machine or its cgroup offers"),
            ("wal_segment", shape.segment_bytes.to_string(), SHAPE),
        ]
    }
}

impl From<Flags> for Config {
    fn from(flags: Flags) -> Config {
        Config {
            data_dir: flags.data_dir,
            listen: flags.listen,
            advertise: flags.advertise,
            shape: RequestedShape { stores: flags.stores, shards: flags.shards, segment_bytes: flags.wal_segment },
            memory_bytes_max: flags.memory_max.unwrap_or_else(|| memory::offered() / 100 * MEMORY_PERCENT_DEFAULT),
            huge_pages: flags.huge_pages,
            checkpoints: CheckpointConfig { log_bytes: flags.checkpoint_log, bytes_per_second: flags.checkpoint_rate },
            session_age_micros: flags.session_age,
            clients: ClientLimits {
                connections: flags.connections_max as usize,
                hello_micros: flags.hello_timeout,
                frame_micros: flags.frame_timeout,
                reply_micros: flags.reply_timeout,
                idle_micros: (flags.idle_timeout > 0).then_some(flags.idle_timeout),
            },
            log_format: flags.log_format,
            log_level: flags.log_level,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<Config, clap::Error> {
        match Config::parse(std::iter::once(&"dkc-server").chain(flags), |_| None)? {
            Wanted::Serve(config) => Ok(*config),
            other => panic!("{other:?}"),
        }
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
        assert_eq!(config.listen, "127.0.0.1:7400".parse::<SocketAddr>().expect("an address"));
        assert_eq!(config.advertise, None);
        assert_eq!(config.shape, RequestedShape::default());
        assert!(config.memory_bytes_max > 0);
        assert_eq!(config.session_age_micros, 24 * 3_600_000_000);
        assert_eq!(config.checkpoints, CheckpointConfig::default());
        assert_eq!(config.clients.idle_micros, Some(600_000_000));
        assert_eq!(config.clients.connections, STORE_CONNECTIONS_MAX);
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
            "--session-age=90m",
            "--checkpoint-log=1GiB",
            "--checkpoint-rate=5MiB",
            "--connections-max=7",
            "--hello-timeout=1s",
            "--frame-timeout=2s",
            "--reply-timeout=3s",
            "--idle-timeout=0",
        ])
        .expect("valid");
        assert_eq!(config.listen, "[::1]:0".parse::<SocketAddr>().expect("an address"));
        assert_eq!(config.advertise, Some(Advertise { host: "counts.example".into(), port: Some(9_000) }));
        let shape = Shape { stores: 3, shards: 7, segment_bytes: 128 << 20 };
        assert_eq!(config.shape.or_default(), shape);
        assert_eq!(config.memory_bytes_max, 8 << 30);
        assert_eq!(config.log_format, LogFormat::Json);
        assert_eq!(config.log_level, "warn,dkc=debug");
        assert_eq!(config.session_age_micros, 5_400_000_000);
        assert_eq!(config.checkpoints, CheckpointConfig { log_bytes: 1 << 30, bytes_per_second: 5 << 20 });
        let clients = ClientLimits {
            connections: 7,
            hello_micros: 1_000_000,
            frame_micros: 2_000_000,
            reply_micros: 3_000_000,
            idle_micros: None,
        };
        assert_eq!(config.clients, clients);
    }

    #[test]
    fn a_look_is_asked_for_by_a_flag_and_by_nothing_else() {
        let parse = |flags: &[&str], variable: &str| {
            let said = |name: &str| (name == variable).then(|| "true".into());
            Config::parse(std::iter::once(&"dkc-server").chain(flags), said).expect("valid")
        };
        assert!(matches!(parse(&["--verify", "--data-dir=x"], ""), Wanted::Verify(config) if config.data_dir == *"x"));
        assert!(matches!(parse(&[], "DKC_VERIFY"), Wanted::Serve(_)), "it is no setting");
        refusal(&["--verify", "--print-config"]);
    }

    #[test]
    fn shards_follow_the_stores_that_were_asked_for() {
        assert_eq!(parse(&["--stores=5"]).expect("valid").shape.or_default().shards, 5);
    }

    #[test]
    fn other_machines_need_a_deliberate_word() {
        let text = refusal(&["--listen=192.0.2.7:7400"]);
        assert!(text.contains("--insecure") && text.contains("no TLS"), "{text}");
        for said in ["--insecure", "--insecure=true"] {
            assert!(parse(&["--listen=192.0.2.7:7400", said]).is_ok());
        }
        refusal(&["--listen=192.0.2.7:7400", "--insecure=false"]);
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
            ["--session-age=1ms"],
            ["--checkpoint-log=1MiB"],
            ["--checkpoint-rate=1KiB"],
            ["--session-age=9999d"],
            ["--hello-timeout=0"],
            ["--idle-timeout=never"],
            ["--connections-max=0"],
            ["--connections-max=1000000"],
        ] {
            refusal(&flags);
        }
    }
}
