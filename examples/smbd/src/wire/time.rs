//! FILETIME: 100 ns intervals since 1601-01-01 UTC ([MS-DTYP] 2.3.3).

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds between 1601-01-01 and 1970-01-01.
const EPOCH_DISTANCE: i128 = 11_644_473_600;

/// A FILETIME from seconds and nanoseconds since 1970.
///
/// Instants before 1601 become 0, which means "not known" on the wire.
pub fn filetime(seconds: i64, nanoseconds: u32) -> u64 {
    let ticks = (i128::from(seconds) + EPOCH_DISTANCE) * 10_000_000 + i128::from(nanoseconds / 100);
    // A FILETIME is signed for its readers; the year 30828 is far enough.
    ticks.clamp(0, i128::from(i64::MAX)) as u64
}

/// Seconds and nanoseconds since 1970 of a FILETIME.
pub fn unix_time(filetime: u64) -> (i64, u32) {
    let ticks = i128::from(filetime) - EPOCH_DISTANCE * 10_000_000;
    let seconds = ticks.div_euclid(10_000_000);
    let nanoseconds = ticks.rem_euclid(10_000_000) as u32 * 100;
    (i64::try_from(seconds).unwrap_or(i64::MAX), nanoseconds)
}

/// The present instant.
pub fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    filetime(
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        since.subsec_nanos(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants() {
        assert_eq!(filetime(0, 0), 116_444_736_000_000_000);
        assert_eq!(filetime(-11_644_473_600, 200), 2);
        assert_eq!(unix_time(2), (-11_644_473_600, 200));
        assert_eq!(unix_time(filetime(-2, 900)), (-2, 900));
        assert_eq!(filetime(i64::MIN, 0), 0);
        assert_eq!(filetime(i64::MAX, 999_999_999), i64::MAX as u64);
    }
}
