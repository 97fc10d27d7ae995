//! Files that go up and down, beside the same bytes moved by programs that do nothing else.

use std::path::Path;

use sarsen_benches::cluster::{self, Cluster};
use sarsen_benches::limits::{self, Download, HOPS, Relay};
use sarsen_benches::measure::{Sample, alternate};
use sarsen_benches::place;
use sarsen_benches::table::Unit;
use sarsen_client::STREAMS_DEFAULT as STREAMS;

use super::Run;

/// Clients that use a cluster at once.
const CLIENTS: u64 = 4;

/// Bytes of a chunk.
const CHUNK_LEN: u64 = sarsen_protocol::size::CHUNK_LEN_MAX as u64;

impl Run {
    pub(super) fn uploads_in_memory(&mut self) -> anyhow::Result<()> {
        if !self.wants("upload at memory") {
            return Ok(());
        }
        let (runs, len, source) = (self.options.runs, self.len, self.source());
        let memory = self.memory.path().to_owned();
        let cluster = Cluster::start(&memory)?;
        let relay = |kind, streams| limits::relay(kind, HOPS, streams, len, &memory);
        let all = alternate(
            runs,
            &mut [
                ("three-hop relay, 1 stream", &mut || relay(Relay::Bare, 1)),
                ("three-hop relay", &mut || relay(Relay::Bare, STREAMS)),
                ("relay + write", &mut || relay(Relay::Write, STREAMS)),
                ("relay + write + CRC, 1 stream", &mut || {
                    relay(Relay::WriteCrc, 1)
                }),
                ("relay + write + CRC", &mut || {
                    relay(Relay::WriteCrc, STREAMS)
                }),
                ("upload at memory, tmpfs", &mut || {
                    put(&cluster, &source, false)
                }),
            ],
        )?;
        let [bare_1, bare, write, crc_1, crc, ours] = all.as_slice() else {
            anyhow::bail!("a figure is missing");
        };
        let unit = Unit::Megabytes;
        self.refer("three-hop relay, 1 stream", unit, Some(1200.0), bare_1);
        self.refer("three-hop relay", unit, Some(1200.0), bare);
        self.refer("relay + write, tmpfs", unit, None, write);
        self.refer(
            "relay + write + CRC, tmpfs, 1 stream",
            unit,
            Some(600.0),
            crc_1,
        );
        self.refer("relay + write + CRC, tmpfs", unit, Some(600.0), crc);
        let name = "upload at memory, tmpfs";
        self.row(name, unit, ours, ("relay + write", write), ">= 0.60, 0.85");
        self.row(
            name,
            unit,
            ours,
            ("relay + write + CRC", crc),
            ">= 0.95 later",
        );
        Ok(())
    }

    pub(super) fn uploads_on_disk(&mut self) -> anyhow::Result<()> {
        if !self.wants("upload at disk") {
            return Ok(());
        }
        let (runs, len, source) = (self.options.runs, self.len, self.source());
        let disk = self.disk.path().to_owned();
        let cluster = Cluster::start(&disk)?;
        let all = alternate(
            runs,
            &mut [
                ("written and synced three times", &mut || {
                    place::settle(&disk)?;
                    limits::write_synced(len, &disk)
                }),
                ("upload at disk", &mut || {
                    place::settle(&disk)?;
                    put(&cluster, &source, true)
                }),
            ],
        )?;
        let [limit, ours] = all.as_slice() else {
            anyhow::bail!("a figure is missing");
        };
        let limit = ("written and synced three times by one program", limit);
        self.row(
            "upload at disk, disk",
            Unit::Megabytes,
            ours,
            limit,
            ">= 0.90 later",
        );
        Ok(())
    }

    pub(super) fn downloads(&mut self) -> anyhow::Result<()> {
        if !self.wants("download") {
            return Ok(());
        }
        let (runs, len, source) = (self.options.runs, self.len, self.source());
        let memory = self.memory.path().to_owned();
        let cluster = Cluster::start(&memory)?;
        cluster.put(&source, "/source", false)?;
        let target = memory.join("target");
        let file = |kind, streams| limits::download(kind, streams, len, &source, &memory);
        let null = Path::new("/dev/null");
        let all = alternate(
            runs,
            &mut [
                ("sendfile + discard, 1 stream", &mut || {
                    file(Download::Discard, 1)
                }),
                ("sendfile + discard", &mut || {
                    file(Download::Discard, STREAMS)
                }),
                ("sendfile + CRC, 1 stream", &mut || file(Download::Crc, 1)),
                ("sendfile + CRC", &mut || file(Download::Crc, STREAMS)),
                ("download to /dev/null", &mut || {
                    cluster.get("/source", null)
                }),
                ("sendfile + CRC + write, 1 stream", &mut || {
                    file(Download::CrcWrite, 1)
                }),
                ("sendfile + CRC + write", &mut || {
                    file(Download::CrcWrite, STREAMS)
                }),
                ("download to a file", &mut || {
                    let sample = cluster.get("/source", &target);
                    std::fs::remove_file(&target)?;
                    sample
                }),
            ],
        )?;
        let [
            discard_1,
            discard,
            crc_1,
            crc,
            to_null,
            write_1,
            write,
            to_file,
        ] = all.as_slice()
        else {
            anyhow::bail!("a figure is missing");
        };
        let unit = Unit::Megabytes;
        self.refer(
            "sendfile + discard, 1 stream",
            unit,
            Some(4000.0),
            discard_1,
        );
        self.refer("sendfile + discard", unit, Some(4000.0), discard);
        self.refer("sendfile + CRC, 1 stream", unit, Some(3000.0), crc_1);
        self.refer("sendfile + CRC", unit, Some(3000.0), crc);
        self.refer(
            "sendfile + CRC + write, tmpfs, 1 stream",
            unit,
            Some(1200.0),
            write_1,
        );
        self.refer("sendfile + CRC + write, tmpfs", unit, Some(1200.0), write);
        let limit = ("sendfile + CRC", crc);
        self.row(
            "download to /dev/null, tmpfs",
            unit,
            to_null,
            limit,
            ">= 0.60, 0.90",
        );
        let limit = ("sendfile + CRC + write", write);
        self.row(
            "download to a file, tmpfs",
            unit,
            to_file,
            limit,
            ">= 0.90 later",
        );
        Ok(())
    }

    /// Several clients at once against one, each with its share of the bytes.
    pub(super) fn many_clients(&mut self) -> anyhow::Result<()> {
        if !self.wants("clients at once") {
            return Ok(());
        }
        let (runs, len, source) = (self.options.runs, self.len, self.source());
        let memory = self.memory.path().to_owned();
        let part = memory.join("part");
        place::make_file(&part, len / CLIENTS)?;
        let cluster = Cluster::start(&memory)?;
        let paths: Vec<String> = (0..CLIENTS)
            .map(|number| format!("/part-{number}"))
            .collect();
        for path in &paths {
            cluster.put(&part, &format!("{path}-down"), false)?;
        }
        cluster.put(&source, "/source-down", false)?;
        let stay = HOPS * usize::try_from(2 * len.div_ceil(CHUNK_LEN))?;
        // Memory that is free for some seconds may go back from a virtual machine to its host, and what
        // comes first after the downloads would be the one to get it again.
        let touch = || place::touch_memory(&memory, HOPS as u64 * len);
        let mut up = || {
            touch()?;
            let puts: Vec<_> = paths
                .iter()
                .map(|it| cluster::put(&part, it, false))
                .collect();
            let sample = cluster.bulk(&puts)?;
            paths.iter().try_for_each(|path| purge(&cluster, path))?;
            cluster.wait_for_space(stay)?;
            Ok(sample)
        };
        let null = Path::new("/dev/null");
        let mut down = || {
            let gets = paths
                .iter()
                .map(|it| cluster::get(&format!("{it}-down"), null));
            cluster.bulk(&gets.collect::<Vec<_>>())
        };
        let mut up_alone = || {
            touch()?;
            let sample = cluster.put(&source, "/source", false)?;
            purge(&cluster, "/source")?;
            cluster.wait_for_space(stay)?;
            Ok(sample)
        };
        let all = alternate(
            runs,
            &mut [
                ("1 client up", &mut up_alone),
                ("4 clients up", &mut up),
                ("1 client down", &mut || cluster.get("/source-down", null)),
                ("4 clients down", &mut down),
            ],
        )?;
        let [up_alone, up, down_alone, down] = all.as_slice() else {
            anyhow::bail!("a figure is missing");
        };
        let (unit, goal) = (Unit::Megabytes, ">= 0.95 later");
        self.row(
            "4 clients up, memory, tmpfs",
            unit,
            up,
            ("1 client", up_alone),
            goal,
        );
        self.row(
            "4 clients down, tmpfs",
            unit,
            down,
            ("1 client", down_alone),
            goal,
        );
        Ok(())
    }
}

/// Uploads a file, and clears it away when the time was taken.
pub(super) fn put(cluster: &Cluster, source: &Path, durable: bool) -> anyhow::Result<Sample> {
    let sample = cluster.put(source, "/upload", durable)?;
    purge(cluster, "/upload")?;
    cluster.wait_for_space(0)?;
    Ok(sample)
}

fn purge(cluster: &Cluster, path: &str) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let client = cluster.connect().await?;
        client.remove(path, false, true).await?;
        client.close().await;
        Ok(())
    })
}
