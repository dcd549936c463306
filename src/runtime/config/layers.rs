//! Where the values of settings come from: flags over environment over file over defaults.
//!
//! There is one definition of each setting, its flag. The environment variable of `--data-dir` is `DKC_DATA_DIR`, its
//! key in the file `data_dir`. What environment and file say becomes the *default* of the flag; from there on the parser
//! of the command line does everything, and what was typed stands above it. Each of these values is tried as if it had been
//! typed first, so that one which is overridden has to be right too, and a mistake is told with the place it was made at.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use toml::{Spanned, Value};

/// The environment variable that names the file.
pub(super) const FILE_VARIABLE: &str = "DKC_CONFIG";
/// Arguments that are no settings.
const NOT_SETTINGS: [&str; 3] = ["config", "print_config", "verify"];

/// Where something was said outside of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Environment(String),
    File(PathBuf, usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Environment(variable) => f.write_str(variable),
            Place::File(path, line) => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// What environment and file say: by setting, the one that counts.
#[derive(Debug, Default)]
pub(super) struct Layers {
    said: BTreeMap<String, (OsString, Place)>,
}

impl Layers {
    /// Reads an environment, and the file if there is one.
    ///
    /// # Errors
    /// What is wrong with them, and where.
    pub(super) fn read(file: Option<&Path>, environment: impl Fn(&str) -> Option<OsString>) -> Result<Layers, String> {
        let mut said = file.map_or(Ok(BTreeMap::new()), read_file)?;
        for setting in settings(&super::command()) {
            let variable = format!("DKC_{}", setting.to_uppercase());
            if let Some(value) = environment(&variable) {
                let place = Place::Environment(variable);
                try_value(&setting, &value, &place)?;
                said.insert(setting, (value, place));
            }
        }
        Ok(Layers { said })
    }

    /// The command line above these layers.
    pub(super) fn under(&self, command: Command) -> Command {
        let lay = |command: Command, (setting, (value, _)): (&String, &(OsString, Place))| {
            command.mut_arg(setting, |arg| arg.default_value(value.clone()))
        };
        self.said.iter().fold(command, lay)
    }

    /// The configuration as a file that says where each setting came from. `chosen` are the settings that have no default
    /// of their own: the value (or nothing), and the reason. They stand in comments, for nobody has asked for them.
    pub(super) fn print(&self, matches: &ArgMatches, chosen: &[(&str, String, &str)]) -> String {
        let mut text = format!("# The configuration of dkc-server {}.\n", env!("CARGO_PKG_VERSION"));
        let mut print = |line: &str, source: &dyn fmt::Display| {
            writeln!(text, "{line:<40} # {source}").expect("text takes everything");
        };
        for setting in settings(&super::command()) {
            let value = matches.get_raw(&setting).and_then(|mut values| values.next());
            let Some(value) = value.map(|value| toml_of(&value.to_string_lossy())) else {
                for (_, value, reason) in chosen.iter().filter(|(chosen, ..)| *chosen == setting) {
                    print(format!("# {setting} = {value}").trim_end(), reason);
                }
                continue;
            };
            let line = format!("{setting} = {value}");
            match (matches.value_source(&setting), self.said.get(&setting)) {
                (Some(ValueSource::CommandLine), _) => print(&line, &"flag"),
                (_, Some((_, place @ Place::Environment(_)))) => print(&line, &format_args!("environment: {place}")),
                (_, Some((_, place @ Place::File(..)))) => print(&line, &format_args!("file: {place}")),
                (_, None) => print(&line, &"default"),
            }
        }
        text
    }
}

/// The names of all settings, in the order of their definition.
fn settings(command: &Command) -> Vec<String> {
    let ids = command.get_arguments().map(|argument| argument.get_id().to_string());
    ids.filter(|id| !NOT_SETTINGS.contains(&id.as_str())).collect()
}

fn read_file(path: &Path) -> Result<BTreeMap<String, (OsString, Place)>, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read the configuration file {}: {error}", path.display()))?;
    let place = |span: Range<usize>| {
        let line = text[..span.start].matches('\n').count() + 1;
        Place::File(path.to_path_buf(), line)
    };
    let content: BTreeMap<Spanned<String>, Value> = toml::from_str(&text)
        .map_err(|error| format!("{}: {}", place(error.span().unwrap_or_default()), error.message()))?;
    let known = settings(&super::command());
    let mut said = BTreeMap::new();
    for (setting, value) in content {
        let place = place(setting.span());
        let setting = setting.into_inner();
        if !known.contains(&setting) {
            return Err(format!("{place}: there is no setting {setting}; known are {}", known.join(", ")));
        }
        let value = match value {
            Value::String(text) => text,
            Value::Integer(number) => number.to_string(),
            Value::Boolean(truth) => truth.to_string(),
            _ => return Err(format!("{place}: {setting} has to be text, a whole number, true or false")),
        };
        try_value(&setting, value.as_ref(), &place)?;
        said.insert(setting, (value.into(), place));
    }
    Ok(said)
}

/// Whether the value could have been typed.
fn try_value(setting: &str, value: &std::ffi::OsStr, place: &Place) -> Result<(), String> {
    let mut typed = OsString::from(format!("--{}=", setting.replace('_', "-")));
    typed.push(value);
    let tried = super::command().no_binary_name(true).try_get_matches_from([typed]);
    tried.map(drop).map_err(|error| {
        let text = error.to_string();
        let reason = text.split("\n\n").next().unwrap_or_default();
        format!("{place}: {}", reason.trim_start_matches("error: "))
    })
}

/// A value as TOML: bare if it is a number or a truth, else quoted.
fn toml_of(value: &str) -> String {
    let is_bare = value.parse::<bool>().is_ok() || value.parse::<i64>().is_ok_and(|number| number.to_string() == value);
    if is_bare { value.into() } else { Value::from(value).to_string() }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Wanted};
    use super::*;
    use std::net::SocketAddr;

    struct Said {
        file: tempfile::NamedTempFile,
        environment: Vec<(&'static str, String)>,
        flags: Vec<&'static str>,
    }

    fn said(file: &str, environment: &[(&'static str, &str)], flags: &[&'static str]) -> Said {
        let said = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(said.path(), file).expect("written");
        let path = said.path().to_str().expect("text").to_owned();
        let mut environment: Vec<_> = environment.iter().map(|&(name, value)| (name, value.to_owned())).collect();
        environment.push((FILE_VARIABLE, path));
        Said { file: said, environment, flags: flags.to_vec() }
    }

    impl Said {
        fn wanted(&self) -> Result<Wanted, String> {
            let arguments = std::iter::once(&"dkc-server").chain(&self.flags);
            let environment = |name: &str| {
                let found = self.environment.iter().find(|(variable, _)| *variable == name);
                found.map(|(_, value)| value.into())
            };
            Config::parse(arguments, environment).map_err(|error| {
                assert_eq!(error.exit_code(), 2);
                error.to_string()
            })
        }

        fn config(&self) -> Config {
            match self.wanted() {
                Ok(Wanted::Serve(config)) => *config,
                other => panic!("{other:?}"),
            }
        }

        fn printed(&self) -> String {
            match self.wanted() {
                Ok(Wanted::Print(text)) => text,
                other => panic!("{other:?}"),
            }
        }

        fn refusal(&self) -> String {
            self.wanted().expect_err("must be refused")
        }

        fn path(&self) -> String {
            self.file.path().display().to_string()
        }
    }

    #[test]
    fn flags_stand_over_environment_over_file_over_defaults() {
        let file = "stores = 3\nlisten = '127.0.0.1:1'\nmemory_max = \"1GiB\"\nwal_segment = 33554432\n";
        let environment = [("DKC_LISTEN", "127.0.0.1:2"), ("DKC_MEMORY_MAX", "2GiB")];
        let config = said(file, &environment, &["--memory-max=3GiB"]).config();
        assert_eq!(config.memory_bytes_max, 3 << 30, "flag");
        assert_eq!(config.listen, SocketAddr::from(([127, 0, 0, 1], 2)), "environment");
        assert_eq!((config.shape.stores, config.shape.segment_bytes), (Some(3), Some(32 << 20)), "file");
        assert_eq!(config.data_dir, PathBuf::from("dkc-data"), "default");
    }

    #[test]
    fn a_flag_may_take_back_what_the_file_allows() {
        let file = "insecure = true\nlisten = '192.0.2.7:1'\n";
        said(file, &[], &[]).config();
        assert!(said(file, &[], &["--insecure=false"]).refusal().contains("--insecure"));
        assert!(said(file, &[("DKC_INSECURE", "false")], &[]).refusal().contains("--insecure"));
    }

    #[test]
    fn a_flag_names_the_file_rather_than_the_environment() {
        let other = said("stores = 5\n", &[], &[]);
        let mut this = said("stores = 3\n", &[], &[]);
        let flag: &'static str = Box::leak(format!("--config={}", other.path()).into_boxed_str());
        this.flags = vec![flag];
        assert_eq!(this.config().shape.stores, Some(5));
        this.flags = vec!["--config=/nowhere/dkc.toml"];
        assert!(this.refusal().contains("cannot read the configuration file /nowhere/dkc.toml"));
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        for (file, line, what) in [
            ("stores = 3\n\nmemory_mx = 1\n", 3, "there is no setting memory_mx"),
            ("data-dir = 'x'\n", 1, "there is no setting data-dir"),
            ("config = 'x'\n", 1, "there is no setting config"),
            ("# heading\nstores = 0\n", 2, "invalid value '0' for '--stores <N>'"),
            ("stores = 'three'\n", 1, "invalid value 'three'"),
            ("log_format = 'xml'\n", 1, "[possible values: text, json]"),
            ("session_age = '1y'\n", 1, "such as 90s or 24h"),
            ("stores = 1.5\n", 1, "stores has to be text, a whole number"),
            ("stores = 1\n[limits]\nx = 1\n", 2, "there is no setting limits"),
            ("stores = 1\nstores = 2\n", 2, "duplicate key"),
            ("stores = 1\nlisten =\n", 2, ""),
        ] {
            let said = said(file, &[], &["--stores=1"]);
            let (text, place) = (said.refusal(), format!("{}:{line}: ", said.path()));
            assert!(text.contains(&place) && text.contains(what), "{file:?}: {text}");
        }
        let text = said("", &[("DKC_STORES", "none")], &["--stores=1"]).refusal();
        assert!(text.contains("DKC_STORES: invalid value 'none' for '--stores <N>'"), "{text}");
    }

    #[test]
    fn what_is_printed_says_where_it_came_from() {
        let file = "stores = 3\nlisten = '127.0.0.1:1'\n";
        let said = said(file, &[("DKC_SESSION_AGE", "90m")], &["--print-config", "--memory-max", "3GiB"]);
        let text = said.printed();
        let file = said.path();
        for (line, source) in [
            ("data_dir = \"dkc-data\"", "default"),
            ("listen = \"127.0.0.1:1\"", &format!("file: {file}:2")),
            ("# advertise =", "default: the address listened on"),
            ("stores = 3", &format!("file: {file}:1")),
            ("# shards = 3", "default for a new data directory; an existing one keeps its own"),
            ("memory_max = \"3GiB\"", "flag"),
            ("session_age = \"90m\"", "environment: DKC_SESSION_AGE"),
            ("idle_timeout = \"10m\"", "default"),
            ("insecure = false", "default"),
        ] {
            let wanted = format!("{line:<40} # {source}\n");
            assert!(text.contains(&wanted), "{wanted} is not in\n{text}");
        }
    }

    #[test]
    fn what_is_printed_is_a_file_that_says_the_same() {
        let flags = [
            "--print-config",
            "--data-dir=/a \"quoted\\ path\"",
            "--listen=[::1]:0",
            "--advertise=db1",
            "--shards=4",
            "--memory-max=8GiB",
            "--idle-timeout=0",
            "--insecure",
        ];
        let first = said("", &[], &flags);
        let printed = first.printed();
        let again = said(&printed, &[], &[]).config();
        let first = said("", &[], &flags[1..]).config();
        assert_eq!(again, first);
        let every = settings(&super::super::command());
        let missing: Vec<_> = every.iter().filter(|setting| !printed.contains(&format!("{setting} ="))).collect();
        assert!(missing.is_empty(), "{missing:?} are not in\n{printed}");
    }
}
