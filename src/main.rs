//! dkc-server: a durable, exact key counter. Everything it does is in the library's `runtime`.

use std::process::ExitCode;

use dkc::runtime::config::Config;
use dkc::runtime::server;

fn main() -> ExitCode {
    match server::run(&Config::from_command_line()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dkc-server: {error}");
            ExitCode::FAILURE
        }
    }
}
