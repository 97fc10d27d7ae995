//! Record append, beside records that three hops only pass on, and beside a sync.

use std::path::Path;

use sarsen_benches::cluster::Cluster;
use sarsen_benches::limits::{self, HOPS, Records};
use sarsen_benches::measure::{Sample, alternate};
use sarsen_benches::table::Unit;

use super::Run;

/// Bytes of a record's payload.
const RECORD_LEN: usize = 1024;

/// Clients where there are many.
const CLIENTS: usize = 64;

/// Records of each of them that are on their way at a time, where it is more than one.
const IN_FLIGHT: usize = 16;

/// What of appends is measured, with the records of a run.
#[derive(Clone, Copy)]
struct Figure {
    name: &'static str,
    durable: bool,
    clients: usize,
    in_flight: usize,
    count: u64,
    unit: Unit,
}

/// At `memory` on tmpfs, at `disk` on the disk.
const FIGURES: [Figure; 6] = [
    figure("append at memory, 1 client, p50", false, 1, 1, 10_000),
    figure("append at memory, 64 clients", false, CLIENTS, 1, 60_000),
    figure(
        "append at memory, 64 clients x 16",
        false,
        CLIENTS,
        IN_FLIGHT,
        300_000,
    ),
    figure("append at disk, 1 client, p50", true, 1, 1, 3_000),
    figure("append at disk, 64 clients", true, CLIENTS, 1, 30_000),
    figure(
        "append at disk, 64 clients x 16",
        true,
        CLIENTS,
        IN_FLIGHT,
        300_000,
    ),
];

const fn figure(
    name: &'static str,
    durable: bool,
    clients: usize,
    in_flight: usize,
    count: u64,
) -> Figure {
    let unit = match clients {
        1 => Unit::Microseconds,
        _ => Unit::Operations,
    };
    Figure {
        name,
        durable,
        clients,
        in_flight,
        count,
        unit,
    }
}

impl Run {
    /// Records of a figure in one run.
    fn records(&self, figure: &Figure) -> Records {
        Records {
            clients: figure.clients,
            in_flight: figure.in_flight,
            count: figure.count / if self.options.quick { 20 } else { 1 },
            len: RECORD_LEN,
        }
    }

    pub(super) fn appends(&mut self) -> anyhow::Result<()> {
        if !self.wants("append") {
            return Ok(());
        }
        let (runs, disk) = (self.options.runs, self.disk.path().to_owned());
        let in_memory = Cluster::start(self.memory.path())?;
        let on_disk = Cluster::start(&disk)?;
        let [one, many, more, one_durable, many_durable, more_durable] =
            FIGURES.map(|figure| self.records(&figure));
        let syncs = one_durable.count;
        let all = alternate(
            runs,
            &mut [
                ("three hops, 1 client", &mut || limits::records(one)),
                (FIGURES[0].name, &mut || in_memory.append(one, false)),
                ("three hops, 64 clients", &mut || limits::records(many)),
                (FIGURES[1].name, &mut || in_memory.append(many, false)),
                ("three hops, 64 clients x 16", &mut || limits::records(more)),
                (FIGURES[2].name, &mut || in_memory.append(more, false)),
                ("three hops, and a sync", &mut || {
                    hops_and_sync(one_durable, syncs, &disk)
                }),
                (FIGURES[3].name, &mut || on_disk.append(one_durable, true)),
                (FIGURES[4].name, &mut || on_disk.append(many_durable, true)),
                (FIGURES[5].name, &mut || on_disk.append(more_durable, true)),
            ],
        )?;
        let [
            hops_1,
            one,
            hops_64,
            many,
            hops_more,
            more,
            sync,
            one_durable,
            many_durable,
            more_durable,
        ] = all.as_slice()
        else {
            anyhow::bail!("a figure is missing");
        };
        let hops = "three hops";
        for ((figure, ours), (limit, goal)) in FIGURES
            .into_iter()
            .zip([one, many, more, one_durable, many_durable, more_durable])
            .zip([
                ((hops, hops_1), "<= 2.00"),
                ((hops, hops_64), ">= 0.50"),
                ((hops, hops_more), ">= 150,000/s"),
                (("three hops + a sync of three", sync), "<= 1.50"),
                (("the same at memory", many), ""),
                (("the same at memory", more), ">= 0.50"),
            ])
        {
            self.row(figure.name, figure.unit, ours, limit, goal);
        }
        Ok(())
    }

    /// The same of another build, in place of the limits.
    pub(super) fn appends_against(&mut self, other: &Path) -> anyhow::Result<()> {
        let (memory, disk) = (self.memory.path().to_owned(), self.disk.path().to_owned());
        for figure in FIGURES {
            if !self.wants(figure.name) {
                continue;
            }
            let folder = if figure.durable { &disk } else { &memory };
            let (ours, theirs) = (Cluster::start(folder)?, Cluster::start_from(other, folder)?);
            let records = self.records(&figure);
            let all = alternate(
                self.options.runs,
                &mut [
                    ("the other", &mut || theirs.append(records, figure.durable)),
                    ("this", &mut || ours.append(records, figure.durable)),
                ],
            )?;
            self.compare(figure.name, figure.unit, &all);
        }
        Ok(())
    }
}

/// What a record at `disk` can't do without: the way down and up, and one sync while three parties
/// sync. Their median times together.
fn hops_and_sync(records: Records, syncs: u64, disk: &Path) -> anyhow::Result<Sample> {
    let hops = limits::records(records)?;
    let sync = limits::sync_small(HOPS, syncs, disk)?;
    let p50 = hops.p50.zip(sync.p50).map(|(hops, sync)| hops + sync);
    Ok(Sample { p50, ..hops })
}
