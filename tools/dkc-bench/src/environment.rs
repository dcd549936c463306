//! What a figure was measured on. A figure without it cannot be compared with another one.

use dkc::wire::client::Status;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::{env, fs, thread};

/// The machine of the load generator, and the two programs.
pub(crate) struct Environment {
    kernel: String,
    cpus: usize,
    cpu_model: String,
    memory_bytes: u64,
    /// Load averages of the machine, as the kernel prints them.
    load: String,
    /// `None` if it could not be asked.
    server: Option<Server>,
    command_line: Vec<String>,
}

/// What a server's status says that has a bearing on figures.
#[derive(Clone, Debug)]
struct Server {
    version: String,
    stores: usize,
    shards: usize,
    /// Whether all logs are written past the page cache.
    direct_io: bool,
    memory_bytes_max: u64,
    segment_bytes: u64,
}

impl Server {
    fn new(status: &Status) -> Server {
        let stores = &status.stores;
        Server {
            version: status.server_version.clone(),
            stores: stores.len(),
            shards: stores.iter().map(|store| store.shards.len()).sum(),
            direct_io: stores.iter().all(|store| store.direct_io),
            memory_bytes_max: stores.iter().map(|store| store.memory_bytes_max).sum(),
            segment_bytes: stores.iter().map(|store| store.segment_bytes).sum(),
        }
    }
}

impl Environment {
    /// What can be found out. What cannot is left empty: that is no reason to lose a measurement.
    pub(crate) fn new(status: Option<&Status>) -> Environment {
        let read = |path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let value = |text: &str, name| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'));
            line.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let memory = value(&read("/proc/meminfo"), "MemTotal");
        Environment {
            kernel: read("/proc/sys/kernel/osrelease"),
            cpus: thread::available_parallelism().map_or(0, usize::from),
            cpu_model: value(&read("/proc/cpuinfo"), "model name"),
            memory_bytes: memory.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10,
            load: read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
            server: status.map(Server::new),
            command_line: env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect(),
        }
    }

    /// A warning, if something else was under way when the run began.
    pub(crate) fn busy(&self) -> Option<String> {
        let load: f64 = self.load.split(' ').next()?.parse().ok()?;
        (load > self.cpus as f64 / 2.0).then(|| {
            format!(
                "the machine was busy before the run (load average {load} on {} CPUs): times of single requests are \
                 then mostly those of its scheduler",
                self.cpus
            )
        })
    }

    /// Prints two lines.
    ///
    /// # Errors
    /// Those of the writer.
    pub(crate) fn text(&self, out: &mut impl Write) -> io::Result<()> {
        match &self.server {
            Some(Server { version, stores, shards, direct_io, .. }) => {
                let writes = if *direct_io { "direct I/O" } else { "through the page cache" };
                writeln!(out, "server {version}: stores {stores}, shards {shards}, {writes}")?;
            }
            None => writeln!(out, "server: could not be asked")?,
        }
        let Environment { kernel, cpus, cpu_model, memory_bytes, load, .. } = self;
        let gib = *memory_bytes as f64 / f64::from(1u32 << 30);
        writeln!(out, "kernel {kernel}, {cpus} CPUs {cpu_model}, {gib:.1} GiB, load averages {load}")
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "kernel": self.kernel,
            "cpus": self.cpus,
            "cpu_model": self.cpu_model,
            "memory_bytes": self.memory_bytes,
            "load_averages": self.load,
            "busy": self.busy(),
            "bench_version": env!("CARGO_PKG_VERSION"),
            "command_line": self.command_line,
            "server": self.server.as_ref().map(|server| json!({
                "version": server.version,
                "stores": server.stores,
                "shards": server.shards,
                "direct_io": server.direct_io,
                "memory_bytes_max": server.memory_bytes_max,
                "segment_bytes": server.segment_bytes,
            })),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dkc::engine::status::{ShardStatus, StoreStatus};

    #[test]
    fn a_busy_machine_is_noticed() {
        let mut environment = Environment::new(None);
        let mut busy = |load: &str, cpus| {
            (environment.load, environment.cpus) = (load.to_owned(), cpus);
            environment.busy().is_some()
        };
        assert!(busy("4.45 4.20 3.03", 2) && !busy("0.99 4.20 3.03", 2) && !busy("4.45 4.20 3.03", 16) && !busy("", 2));
    }

    #[test]
    fn stores_and_shards_are_counted() {
        let store =
            |direct_io| StoreStatus { direct_io, shards: vec![ShardStatus::default(); 3], ..StoreStatus::default() };
        let status = Status { stores: vec![store(true), store(false)], ..Status::default() };
        let json = Environment::new(Some(&status)).json();
        let server = &json["server"];
        assert_eq!((&server["stores"], &server["shards"], &server["direct_io"]), (&json!(2), &json!(6), &json!(false)));
        assert!(json["memory_bytes"].as_u64() > Some(1 << 20), "{json}");
    }
}
