//! How the values of settings are written: addresses, sizes, times, filters.

use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;

use tracing_subscriber::EnvFilter;

use super::Advertise;
use crate::limits::{
    CHECKPOINT_LOG_BYTES_MIN, CHECKPOINT_RATE_MIN, WAL_BLOCK_BYTES, WAL_SEGMENT_BYTES_MAX, WAL_SEGMENT_BYTES_MIN,
};

pub(super) fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let mut addresses = text.to_socket_addrs().map_err(|error| format!("{error}; expected HOST:PORT"))?;
    addresses.next().ok_or_else(|| "the name has no address".into())
}

pub(super) fn parse_advertise(text: &str) -> Result<Advertise, String> {
    let expected = || "expected HOST or HOST:PORT, an IPv6 address in brackets".to_string();
    // Colons inside the brackets of an IPv6 address separate no port.
    let host_end = if text.starts_with('[') { text.find(']').ok_or_else(expected)? + 1 } else { 0 };
    let (host, port) = match text[host_end..].find(':') {
        Some(colon) => (&text[..host_end + colon], Some(&text[host_end + colon + 1..])),
        None => (text, None),
    };
    let port = port.map(|port| port.parse().ok().filter(|&port| port > 0).ok_or_else(expected)).transpose()?;
    if host.is_empty() || (host_end > 0 && host_end != host.len()) {
        return Err(expected());
    }
    Ok(Advertise { host: host.into(), port })
}

pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u32); 5] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40), ("B", 0)];
    let (number, shift) = UNITS
        .iter()
        .find_map(|(unit, shift)| text.strip_suffix(unit).map(|number| (number, *shift)))
        .unwrap_or((text, 0));
    let size = number.trim_end().parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    size.filter(|&size| size > 0)
        .ok_or_else(|| "expected a whole number of B, KiB, MiB, GiB or TiB, such as 512MiB".into())
}

pub(super) fn parse_segment_size(text: &str) -> Result<u64, String> {
    let size = parse_size(text)?;
    if !(WAL_SEGMENT_BYTES_MIN..=WAL_SEGMENT_BYTES_MAX).contains(&size) || !size.is_multiple_of(WAL_BLOCK_BYTES as u64)
    {
        return Err(format!(
            "a log segment has between {} MiB and {} MiB, in steps of {} KiB",
            WAL_SEGMENT_BYTES_MIN >> 20,
            WAL_SEGMENT_BYTES_MAX >> 20,
            WAL_BLOCK_BYTES >> 10
        ));
    }
    Ok(size)
}

pub(super) fn parse_checkpoint_log(text: &str) -> Result<u64, String> {
    at_least(parse_size(text)?, CHECKPOINT_LOG_BYTES_MIN)
}

pub(super) fn parse_checkpoint_rate(text: &str) -> Result<u64, String> {
    at_least(parse_size(text)?, CHECKPOINT_RATE_MIN)
}

fn at_least(size: u64, least: u64) -> Result<u64, String> {
    if size < least { Err(format!("expected at least {} MiB", least >> 20)) } else { Ok(size) }
}

pub(super) fn parse_filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.into()).map_err(|error| error.to_string())
}

/// Units of time, in microseconds, the longest first.
const TIME_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000)];

/// A time in microseconds: a whole number and its unit.
pub(super) fn parse_duration(text: &str, allowed: RangeInclusive<u64>) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = TIME_UNITS.iter().find(|(name, _)| *name == unit);
    let micros = unit.and_then(|(_, micros)| number.parse::<u64>().ok()?.checked_mul(*micros));
    let micros = micros.ok_or("expected a whole number of ms, s, m, h or d, such as 90s or 24h")?;
    if !allowed.contains(&micros) {
        return Err(format!(
            "expected a time from {} to {}",
            show_duration(*allowed.start()),
            show_duration(*allowed.end())
        ));
    }
    Ok(micros)
}

/// In the largest unit that leaves a whole number.
fn show_duration(micros: u64) -> String {
    let (name, unit) = TIME_UNITS.iter().find(|(_, unit)| micros.is_multiple_of(*unit)).unwrap_or(&("µs", 1));
    format!("{}{name}", micros / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        for (text, size) in [("1", 1), ("17B", 17), ("1KiB", 1_024), ("512MiB", 512 << 20), ("2 GiB", 2 << 30)] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for text in ["", "0", "1.5GiB", "1GB", "-1", "MiB", "99999999999TiB", "1kib"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn advertised_hosts_may_have_ports() {
        let parsed = |text| parse_advertise(text).map(|a| (a.host, a.port));
        assert_eq!(parsed("db1"), Ok(("db1".into(), None)));
        assert_eq!(parsed("db1:80"), Ok(("db1".into(), Some(80))));
        assert_eq!(parsed("[2001:db8::1]"), Ok(("[2001:db8::1]".into(), None)));
        assert_eq!(parsed("[2001:db8::1]:80"), Ok(("[2001:db8::1]".into(), Some(80))));
        for text in ["", ":80", "db1:", "db1:0", "db1:70000", "2001:db8::1", "[::1", "[::1]x"] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_have_units_and_bounds() {
        let parsed = |text| parse_duration(text, 1_000..=100 * 86_400_000_000);
        for (text, micros) in [
            ("1ms", 1_000),
            ("90s", 90_000_000),
            ("15m", 900_000_000),
            ("24h", 86_400_000_000),
            ("100d", 8_640_000_000_000),
        ] {
            assert_eq!(parsed(text), Ok(micros), "{text}");
            assert_eq!(parse_duration(&show_duration(micros), 0..=u64::MAX), Ok(micros), "{text}");
        }
        for text in ["", "s", "1", "0s", "0ms", "-1s", "1.5h", "1 s", "101d", "99999999999999999999d", "1w", "1S"] {
            assert!(parsed(text).is_err(), "{text}");
        }
        assert_eq!(parsed("101d"), Err("expected a time from 1ms to 100d".into()));
    }
}
