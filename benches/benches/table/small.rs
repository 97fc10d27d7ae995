//! Small reads and operations of the master alone, beside bare replies and syncs.

use std::cell::Cell;

use sarsen_benches::cluster::Cluster;
use sarsen_benches::limits::{self, RoundTrips};
use sarsen_benches::measure::alternate;
use sarsen_benches::roles::Operation;
use sarsen_benches::table::Unit;

use super::Run;

/// Bytes of a checksum block, which is what a read of less brings.
const BLOCK_LEN: usize = sarsen_protocol::size::BLOCK_LEN as usize;

impl Run {
    pub(super) fn small_reads(&mut self) -> anyhow::Result<()> {
        if !self.wants("small reads") {
            return Ok(());
        }
        let (runs, source) = (self.options.runs, self.source());
        let cluster = Cluster::start(self.memory.path())?;
        cluster.put(&source, "/source", false)?;
        let read = Operation::Read {
            path: "/source".to_owned(),
            size: self.len,
            len: 4096,
        };
        let count = if self.options.quick { 500 } else { 5000 };
        let ask = |reply_len, crc, in_flight, count| {
            limits::round_trips(RoundTrips {
                reply_len,
                crc,
                on_tokio: true,
                in_flight,
                count,
            })
        };
        let bare = |in_flight, count| ask(4096, false, in_flight, count);
        let block = |in_flight, count| ask(BLOCK_LEN, true, in_flight, count);
        let all = alternate(
            runs,
            &mut [
                ("replies of 4 KiB, 1 in flight", &mut || bare(1, 4 * count)),
                ("replies of a block + CRC, 1 in flight", &mut || {
                    block(1, 2 * count)
                }),
                ("4 KiB reads, 1 in flight", &mut || {
                    cluster.many(&read, 1, 2 * count)
                }),
                ("replies of 4 KiB, 64 in flight", &mut || {
                    bare(64, 8 * count)
                }),
                ("replies of a block + CRC, 64 in flight", &mut || {
                    block(64, 4 * count)
                }),
                ("4 KiB reads, 64 in flight", &mut || {
                    cluster.many(&read, 64, 4 * count)
                }),
            ],
        )?;
        let [bare_1, block_1, read_1, bare_64, block_64, read_64] = all.as_slice() else {
            anyhow::bail!("a figure is missing");
        };
        let (bare, block) = ("request and reply on tokio", "replies of a block + CRC");
        let name = "4 KiB random reads, 1 in flight, p50";
        let unit = Unit::Microseconds;
        self.row(name, unit, read_1, (bare, bare_1), "<= 1.50 later");
        self.row(name, unit, read_1, (block, block_1), "");
        let name = "4 KiB random reads, 64 in flight";
        let unit = Unit::Operations;
        self.row(name, unit, read_64, (bare, bare_64), ">= 0.60 later");
        self.row(name, unit, read_64, (block, block_64), "");
        Ok(())
    }

    pub(super) fn metadata(&mut self) -> anyhow::Result<()> {
        if !self.wants("metadata") {
            return Ok(());
        }
        let (runs, disk) = (self.options.runs, self.disk.path().to_owned());
        let cluster = Cluster::start(&disk)?;
        let count = if self.options.quick { 200 } else { 3000 };
        // Every run makes its own folder, to make others in.
        let made = Cell::new(0);
        let make = |operation: fn(String) -> Operation, in_flight| {
            made.set(made.get() + 1);
            let parent = format!("/{}", made.get());
            make_folder(&cluster, &parent)?;
            cluster.many(&operation(parent), in_flight, count)
        };
        let folder = |parent| Operation::MakeFolder { parent };
        let file = |parent| Operation::Touch { parent };
        let stat = Operation::Stat {
            path: "/1".to_owned(),
        };
        let trip = |in_flight| {
            limits::round_trips(RoundTrips {
                reply_len: 64,
                crc: false,
                on_tokio: true,
                in_flight,
                count: 4 * count,
            })
        };
        let all = alternate(
            runs,
            &mut [
                ("4 KiB write + fdatasync", &mut || {
                    limits::sync_small(1, count, &disk)
                }),
                ("mkdir, 1 in flight", &mut || make(folder, 1)),
                ("mkdir, 64 in flight", &mut || make(folder, 64)),
                ("empty file, 1 in flight", &mut || make(file, 1)),
                ("empty file, 64 in flight", &mut || make(file, 64)),
                ("replies of 64 bytes, 1 in flight", &mut || trip(1)),
                ("stat, 1 in flight", &mut || {
                    cluster.many(&stat, 1, 4 * count)
                }),
                ("replies of 64 bytes, 64 in flight", &mut || trip(64)),
                ("stat, 64 in flight", &mut || {
                    cluster.many(&stat, 64, 4 * count)
                }),
            ],
        )?;
        let [
            sync,
            folder_1,
            folder_64,
            file_1,
            file_64,
            trip_1,
            stat_1,
            trip_64,
            stat_64,
        ] = all.as_slice()
        else {
            anyhow::bail!("a figure is missing");
        };
        let unit = Unit::Operations;
        let limit = ("4 KiB write + fdatasync, 1 party", sync);
        self.row("mkdir, 1 in flight, disk", unit, folder_1, limit, "");
        self.row("mkdir, 64 in flight, disk", unit, folder_64, limit, "");
        self.row("empty file, 1 in flight, disk", unit, file_1, limit, "");
        self.row("empty file, 64 in flight, disk", unit, file_64, limit, "");
        let limit = "request and reply on tokio";
        self.row("stat, 1 in flight", unit, stat_1, (limit, trip_1), "");
        self.row("stat, 64 in flight", unit, stat_64, (limit, trip_64), "");
        Ok(())
    }
}

fn make_folder(cluster: &Cluster, path: &str) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let client = cluster.connect().await?;
        client.make_folder(path, false).await?;
        client.close().await;
        Ok(())
    })
}
