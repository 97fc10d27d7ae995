//! What the machine can do by itself.

use sarsen_benches::limits::{self, Relay, RoundTrips};
use sarsen_benches::measure::alternate;
use sarsen_benches::table::Unit;

use super::Run;

impl Run {
    /// The loops that no single figure is held against.
    pub(super) fn references(&mut self) -> anyhow::Result<()> {
        if !self.wants("reference loops") {
            return Ok(());
        }
        let (runs, len) = (self.options.runs, self.len);
        let (memory, disk) = (self.memory.path().to_owned(), self.disk.path().to_owned());
        let bytes = [
            ("copy", Some(8400.0)),
            ("CRC", Some(8800.0)),
            ("loopback, one stream", Some(2400.0)),
            ("64 MiB write + fdatasync, 1 party", Some(440.0)),
            ("64 MiB write + fdatasync, 3 parties", Some(440.0)),
        ];
        let all = alternate(
            runs,
            &mut [
                (bytes[0].0, &mut || Ok(limits::copy(4 * len))),
                (bytes[1].0, &mut || Ok(limits::crc(4 * len))),
                (bytes[2].0, &mut || {
                    limits::relay(Relay::Bare, 1, 1, len, &memory)
                }),
                (bytes[3].0, &mut || limits::sync_large(1, 6, &disk)),
                (bytes[4].0, &mut || limits::sync_large(3, 2, &disk)),
            ],
        )?;
        for ((name, known), series) in bytes.into_iter().zip(&all) {
            self.refer(name, Unit::Megabytes, known, series);
        }
        let operations = [
            ("4 KiB write + fdatasync, 1 party", Some(7800.0)),
            ("4 KiB write + fdatasync, 3 parties", None),
            ("round trip of 64 bytes", None),
        ];
        let count = if self.options.quick { 500 } else { 5000 };
        let plain = RoundTrips {
            reply_len: 64,
            crc: false,
            on_tokio: false,
            in_flight: 1,
            count: 4 * count,
        };
        let all = alternate(
            runs,
            &mut [
                (operations[0].0, &mut || limits::sync_small(1, count, &disk)),
                (operations[1].0, &mut || limits::sync_small(3, count, &disk)),
                (operations[2].0, &mut || limits::round_trips(plain)),
            ],
        )?;
        for ((name, known), series) in operations.into_iter().zip(&all) {
            self.refer(name, Unit::Operations, known, series);
        }
        Ok(())
    }
}
