"""The rows: what every system is asked to do, in turn."""

import os
import shlex
import shutil
from dataclasses import dataclass

import machine
from table import Row, Sample

GIB = 1 << 30
CLIENTS = 4
SMALL_LEN = 4096
AT_ONCE = (1, 16)


@dataclass
class Sizes:
    file: int
    small_files: int
    operations: int

    @staticmethod
    def full():
        return Sizes(file=GIB, small_files=10_000, operations=10_000)

    @staticmethod
    def quick():
        return Sizes(file=64 << 20, small_files=200, operations=200)


class Work:
    """All rows on one kind of storage. Each is taken round by round, each system in each round; the
    round before the first touches memory and opens connections, and does not count."""

    def __init__(self, here, storage, systems, sizes, runs, only):
        self.here, self.storage, self.systems = here, storage, systems
        self.sizes, self.runs, self.only = sizes, runs, only

    def rows(self):
        self.make_sources()
        found = []
        for row in (self.upload, self.download, self.many_up, self.many_down,
                    self.small_up, self.small_down, self.metadata):
            name = row.__name__.replace("_", " ")
            if self.only is None or self.only in name:
                self.here.log(f"{name}, {self.storage}")
                found += row()
        return found

    def make_sources(self):
        work, size = self.here.work, self.sizes.file
        self.source, self.part = os.path.join(work, "source"), os.path.join(work, "part")
        self.small = os.path.join(work, "small")
        if os.path.exists(self.source):
            return
        for path, length in ((self.source, size), (self.part, size // CLIENTS)):
            with open(path, "wb") as file:
                for _ in range(length >> 20):
                    file.write(os.urandom(1 << 20))
        os.mkdir(self.small)
        for number in range(self.sizes.small_files):
            with open(os.path.join(self.small, str(number)), "wb") as file:
                file.write(os.urandom(SMALL_LEN))

    def upload(self):
        def up(system):
            sample = self.measure(system, [system.put(self.source, "up")], self.sizes.file)
            system.remove("up")
            return sample

        limits = {"the disk": self.disk_itself} if self.storage == "disk" else {}
        return [self.row("1 GiB up", "MB/s", up, limits=limits)]

    def disk_itself(self):
        """The limit on one disk: three programs, each of which writes the same 64 MiB files and
        syncs every one of them. The rate is that of one copy."""
        folder = os.path.join(self.here.folder(self.storage), "itself")
        os.mkdir(folder)
        files = self.sizes.file >> 26
        script = (
            f"for i in $(seq 0 {files - 1}); do dd if={shlex.quote(self.source)} skip=$((i * 64)) "
            "count=64 bs=1M conv=fdatasync status=none of={}-$i || exit; done"
        )
        copies = [shlex.quote(os.path.join(folder, str(copy))) for copy in range(3)]
        seconds, cpu = machine.timed([["sh", "-c", script.replace("{}", it)] for it in copies])
        shutil.rmtree(folder)
        return Sample(self.sizes.file, seconds, cpu)

    def download(self):
        for system in self.systems:
            machine.run(*system.put(self.source, "down"))
            system.fresh()
            check = f"{shlex.join(system.to_stdout('down'))} | cmp - {shlex.quote(self.source)}"
            machine.run("sh", "-c", check)

        def down(system):
            system.fresh()
            return self.measure(system, [system.get("down")], self.sizes.file)

        row = self.row("1 GiB down", "MB/s", down)
        for system in self.systems:
            system.remove("down")
        return [row]

    def many_up(self):
        def up(system):
            names = [f"up-{number}" for number in range(CLIENTS)]
            puts = [system.put(self.part, name) for name in names]
            sample = self.measure(system, puts, self.sizes.file)
            for name in names:
                system.remove(name)
            return sample

        return [self.row(f"{CLIENTS} clients up, 1 GiB in all", "MB/s", up)]

    def many_down(self):
        names = [f"down-{number}" for number in range(CLIENTS)]
        for system in self.systems:
            for name in names:
                machine.run(*system.put(self.part, name))

        def down(system):
            system.fresh()
            return self.measure(system, [system.get(name) for name in names], self.sizes.file)

        row = self.row(f"{CLIENTS} clients down, 1 GiB in all", "MB/s", down)
        for system in self.systems:
            for name in names:
                system.remove(name)
        return [row]

    def small_up(self):
        rounds = {}

        # Each round's folder stays: deleting would be done beside what is measured next.
        def up(system):
            number = rounds[system] = rounds.get(system, 0) + 1
            put = system.put_folder(self.small, f"small-up-{number}")
            return self.measure(system, [put], self.sizes.small_files)

        return [self.row("files of 4 KiB up", "/s", up)]

    def small_down(self):
        target = os.path.join(self.here.work, "small-down")
        for system in self.systems:
            machine.run(*system.put_folder(self.small, "small-down"))

        def down(system):
            system.fresh()
            get = system.get_folder("small-down", target)
            sample = self.measure(system, [get], self.sizes.small_files)
            arrived = len(os.listdir(target))
            if arrived != self.sizes.small_files:
                raise RuntimeError(f"{system.name}: {arrived} files came down")
            shutil.rmtree(target)
            return sample

        return [self.row("files of 4 KiB down", "/s", down)]

    def metadata(self):
        rows = []
        for at_once in AT_ONCE:
            folders = {}
            for operation in ("create", "stat", "delete"):
                def act(system, operation=operation, folders=folders):
                    # Each operation goes through the same folders: one a round.
                    number = folders[operation, system] = folders.get((operation, system), 0) + 1
                    name = f"metadata-{at_once}-{number}"
                    if operation == "create":
                        system.make_folder(name)
                    system.fresh()
                    command = system.operations(operation, name, self.sizes.operations, at_once)
                    return self.measure(system, [command], self.sizes.operations)

                rows.append(self.row(f"{operation} empty files, {at_once} at a time", "/s", act))
        return rows

    def measure(self, system, commands, amount):
        """Runs commands at once; what their processes and the system's daemons used."""
        if self.storage == "disk":
            # What was written before is no part of it.
            os.sync()
        before = machine.cpu_of(system.programs)
        seconds, cpu = machine.timed(commands)
        return Sample(amount, seconds, cpu + machine.cpu_of(system.programs) - before)

    def row(self, name, unit, act, limits=None):
        """Takes a figure of every system, in turn, and of the limits beside it."""
        ways = {system.name: lambda system=system: act(system) for system in self.systems}
        ways.update(limits or {})
        row = Row(name, self.storage, unit)
        for number in range(self.runs + 1):
            for who, way in ways.items():
                self.here.wait_for_room(self.storage, 5 * self.sizes.file)
                if unit == "MB/s":
                    # Peers keep what was deleted for a while, so that each round would get memory
                    # that nobody has touched before.
                    self.here.touch_memory(4 * self.sizes.file)
                sample = way()
                self.here.log(f"  {who:<10} {sample.shown(unit)}{'' if number else '  first touch'}")
                if number:
                    row.add(who, sample)
        return row
