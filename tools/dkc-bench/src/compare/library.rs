//! The client library, as an application uses it: one increment after another, each awaited.
//!
//! Unlike the generator, which keeps to its one connection, the library sends a request to the store that owns its key.

use crate::tally::{histogram, record};
use anyhow::Context;
use dkc::client::blocking::Client;
use hdrhistogram::Histogram;
use std::time::{Duration, Instant};

/// An application with one client.
pub(crate) struct Library {
    client: Client,
    prefix: String,
    keys: u64,
    increments: u64,
}

impl Library {
    /// Connects. The keys are `prefix` and a number below `keys`, 16 bytes with a prefix of 8.
    ///
    /// # Errors
    /// No endpoint answers.
    pub(crate) fn connect(endpoints: &[String], timeout: Duration, prefix: &str, keys: u64) -> anyhow::Result<Library> {
        let client = Client::connect(endpoints, timeout).context("the library's client")?;
        Ok(Library { client, prefix: prefix.to_owned(), keys, increments: 0 })
    }

    /// Increments for so long.
    ///
    /// # Errors
    /// An increment failed.
    pub(crate) fn measure(&mut self, duration: Duration) -> anyhow::Result<Histogram<u64>> {
        let mut times = histogram();
        let start = Instant::now();
        while start.elapsed() < duration {
            // A multiplicative walk: every key is met, in an order that jumps.
            let key = self.increments.wrapping_mul(0x9E37_79B9_7F4A_7C15) % self.keys;
            self.increments += 1;
            let key = format!("{}{key:08x}", self.prefix);
            let before = Instant::now();
            self.client.increment(&key, 1).context("the library's client")?;
            record(&mut times, before.elapsed());
        }
        Ok(times)
    }
}
