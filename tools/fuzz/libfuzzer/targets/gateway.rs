//! libFuzzer's door to the target `gateway`.
#![no_main]

use dkc_fuzz::Fault;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static FAULT: LazyLock<Fault> = LazyLock::new(Fault::from_environment);

fuzz_target!(|input: &[u8]| dkc_fuzz::gateway(input, *FAULT));
