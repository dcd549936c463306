//! `dkc-bench`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    dkc_bench::main()
}
