//! A server process under test.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use dkc::client::blocking::Connection;

/// How long anything may take before a test gives up. Generous: it bounds a hang, it measures nothing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A running `dkc-server`, killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
}

/// The command that starts a server on a free port of loopback with small log segments.
pub(crate) fn command(data_dir: &Path) -> Command {
    command_on(data_dir, "127.0.0.1:0")
}

fn command_on(data_dir: &Path, listen: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dkc-server"));
    command.arg("--data-dir").arg(data_dir).args(["--listen", listen, "--wal-segment", "16MiB"]);
    for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DKC_")) {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Server {
    /// Starts a server and waits until it serves.
    pub(crate) fn start(data_dir: &Path, args: &[&str]) -> Server {
        Server::await_ready(command(data_dir).args(args))
    }

    /// Starts a server where another one was, and waits until it serves.
    pub(crate) fn start_again(data_dir: &Path, address: &str, args: &[&str]) -> Server {
        Server::await_ready(command_on(data_dir, address).args(args))
    }

    fn await_ready(command: &mut Command) -> Server {
        let mut child = command.spawn().expect("the server's binary runs");
        let stdout = child.stdout.take().expect("standard output is piped");
        let mut stderr = child.stderr.take().expect("standard error is piped");
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(address) = line.strip_prefix("ready ") {
                    let _ = tell.send(address.to_string());
                }
            }
        });
        let log = std::thread::spawn(move || std::io::read_to_string(&mut stderr).unwrap_or_default());
        match told.recv_timeout(PATIENCE) {
            Ok(address) => Server { child, address },
            Err(_) => {
                let _ = child.kill();
                panic!("the server did not get ready; it said:\n{}", log.join().expect("the reader ends"));
            }
        }
    }

    /// A client connection to the server.
    pub(crate) fn connect(&self) -> Connection {
        Connection::connect(std::slice::from_ref(&self.address), PATIENCE).expect("the server answers")
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the server was running");
        self.child.wait().expect("a killed process ends");
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        self.signal();
        self.child.wait().expect("the process ends")
    }

    /// Sends SIGTERM.
    pub(crate) fn signal(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the server is running");
    }

    /// Waits for the end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("the process ends")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The path of the command line tool, built if it is not there: it belongs to another package of the workspace.
pub(crate) fn dkc() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_dkc-server")).with_file_name("dkc");
    if path.exists() { path } else { build_tool("dkc") }
}

/// Builds a package of the workspace that makes a program of the same name; returns the program's path.
pub(crate) fn build_tool(name: &str) -> PathBuf {
    let server = Path::new(env!("CARGO_BIN_EXE_dkc-server"));
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--package", name]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if server.parent().is_some_and(|folder| folder.ends_with("release")) {
        cargo.arg("--release");
    }
    assert!(cargo.status().expect("cargo runs").success(), "building {name} failed");
    server.with_file_name(name)
}

/// Runs `dkc-bench` against a server. It is built even if it is there, for nothing else would notice that it is out of date.
pub(crate) fn bench(server: &Server, args: &[&str]) -> Output {
    static PATH: LazyLock<PathBuf> = LazyLock::new(|| build_tool("dkc-bench"));
    Command::new(&*PATH).env("DKC_ENDPOINTS", &server.address).args(args).output().expect("dkc-bench runs")
}

/// Runs `dkc` against a server.
pub(crate) fn run_dkc(server: &Server, args: &[&str]) -> Output {
    Command::new(dkc()).args(["--endpoints", &server.address]).args(args).output().expect("dkc runs")
}

/// What a successful command printed.
pub(crate) fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text")
}
