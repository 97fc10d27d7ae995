//! This build beside another one.

use std::path::Path;

use sarsen_benches::cluster::Cluster;
use sarsen_benches::measure::{Series, alternate};
use sarsen_benches::roles::Operation;
use sarsen_benches::table::Unit;

use super::Run;
use super::bulk::put;

impl Run {
    /// Uploads and downloads, those of another build in place of their limits.
    pub(super) fn against(&mut self, other: &Path) -> anyhow::Result<()> {
        let (runs, source, null) = (self.options.runs, self.source(), Path::new("/dev/null"));
        let (memory, disk) = (self.memory.path().to_owned(), self.disk.path().to_owned());
        let target = memory.join("target");
        let path = "/source";
        for (name, folder, durable) in [
            ("upload at memory, tmpfs", &memory, false),
            ("upload at disk, disk", &disk, true),
        ] {
            if !self.wants(name) {
                continue;
            }
            let (ours, theirs) = (Cluster::start(folder)?, Cluster::start_from(other, folder)?);
            let all = alternate(
                runs,
                &mut [
                    ("the other", &mut || put(&theirs, &source, durable)),
                    ("this", &mut || put(&ours, &source, durable)),
                ],
            )?;
            self.compare(name, Unit::Megabytes, &all);
        }
        for (name, target) in [
            ("download to /dev/null, tmpfs", null),
            ("download to a file, tmpfs", &target),
        ] {
            if !self.wants(name) {
                continue;
            }
            let (ours, theirs) = (
                Cluster::start(&memory)?,
                Cluster::start_from(other, &memory)?,
            );
            ours.put(&source, path, false)?;
            theirs.put(&source, path, false)?;
            let get = |cluster: &Cluster| {
                let sample = cluster.get(path, target);
                if target != null {
                    std::fs::remove_file(target)?;
                }
                sample
            };
            let all = alternate(
                runs,
                &mut [
                    ("the other", &mut || get(&theirs)),
                    ("this", &mut || get(&ours)),
                ],
            )?;
            self.compare(name, Unit::Megabytes, &all);
        }
        self.appends_against(other)?;
        self.small_reads_against(other)
    }

    fn small_reads_against(&mut self, other: &Path) -> anyhow::Result<()> {
        if !self.wants("small reads") {
            return Ok(());
        }
        let memory = self.memory.path();
        let (ours, theirs) = (Cluster::start(memory)?, Cluster::start_from(other, memory)?);
        for cluster in [&ours, &theirs] {
            cluster.put(&self.source(), "/source", false)?;
        }
        let read = Operation::Read {
            path: "/source".to_owned(),
            size: self.len,
            len: 4096,
        };
        for (name, in_flight, unit) in [
            (
                "4 KiB random reads, 1 in flight, p50",
                1,
                Unit::Microseconds,
            ),
            ("4 KiB random reads, 64 in flight", 64, Unit::Operations),
        ] {
            let many = |cluster: &Cluster| cluster.many(&read, in_flight, 20_000);
            let all = alternate(
                self.options.runs,
                &mut [
                    ("the other", &mut || many(&theirs)),
                    ("this", &mut || many(&ours)),
                ],
            )?;
            self.compare(name, unit, &all);
        }
        Ok(())
    }

    pub(super) fn compare(&mut self, name: &str, unit: Unit, all: &[Series]) {
        if let [theirs, ours] = all {
            self.row(name, unit, ours, ("the other build", theirs), "");
        }
    }
}
