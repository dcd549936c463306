//! dkc-server: a durable, exact key counter. Everything it does is in the library's `runtime`.

use std::process::ExitCode;

use dkc::runtime::config::{Config, Wanted};
use dkc::runtime::{server, verify};

fn main() -> ExitCode {
    // A panic would end one store's thread and leave the others running. Crash-only: the log is what survives.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("dkc-server: internal error, stopping: {panic}");
        std::process::abort();
    }));
    let done = match Config::of_this_process() {
        Wanted::Serve(config) => server::run(&config),
        Wanted::Verify(config) => verify::run(&config),
        Wanted::Print(text) => {
            // Whoever closes the pipe has seen enough.
            let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dkc-server: {error}");
            ExitCode::FAILURE
        }
    }
}
