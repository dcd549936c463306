//! dkc-server: a durable, exact key counter. Everything it does is in the library's `runtime`.

use std::process::ExitCode;

use dkc::runtime::config::Config;
use dkc::runtime::server;

fn main() -> ExitCode {
    // A panic would end one store's thread and leave the others running. Crash-only: the log is what survives.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("dkc-server: internal error, stopping: {panic}");
        std::process::abort();
    }));
    match server::run(&Config::of_this_process()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dkc-server: {error}");
            ExitCode::FAILURE
        }
    }
}
