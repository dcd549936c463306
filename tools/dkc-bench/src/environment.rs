//! What a figure was measured on. A figure without it cannot be compared with another one.

use serde_json::{Value, json};
use std::{env, fs, thread};

/// The machine of the load generator, and the two programs.
pub(crate) struct Environment {
    pub(crate) kernel: String,
    pub(crate) cpus: usize,
    pub(crate) cpu_model: String,
    /// Load averages of the machine, as the kernel prints them.
    pub(crate) load: String,
    pub(crate) server_version: String,
    pub(crate) arguments: Vec<String>,
}

impl Environment {
    pub(crate) fn new(server_version: &str) -> Environment {
        // What cannot be found out is left empty: that is no reason to lose a measurement.
        let read = |path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Environment {
            kernel: read("/proc/sys/kernel/osrelease"),
            cpus: thread::available_parallelism().map_or(0, usize::from),
            cpu_model: model.map(|(_, model)| model.trim().to_owned()).unwrap_or_default(),
            load: read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
            server_version: server_version.to_owned(),
            arguments: env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "kernel": self.kernel,
            "cpus": self.cpus,
            "cpu_model": self.cpu_model,
            "load_averages": self.load,
            "server_version": self.server_version,
            "bench_version": env!("CARGO_PKG_VERSION"),
            "arguments": self.arguments,
        })
    }
}
