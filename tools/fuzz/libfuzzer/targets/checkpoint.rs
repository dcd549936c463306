//! libFuzzer's door to the target `checkpoint`.
#![no_main]
#![allow(clippy::disallowed_types, reason = "libFuzzer's macro can write a file")]

use dkc_fuzz::Fault;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static FAULT: LazyLock<Fault> = LazyLock::new(Fault::from_environment);

fuzz_target!(|input: &[u8]| dkc_fuzz::checkpoint(input, *FAULT));
