"""MooseFS: a master, three chunkservers, and mfsmount."""

import os
import shutil
import subprocess

import machine
from mounted import Mounted

EMPTY = "/var/lib/mfs/metadata.mfs.empty"


class MooseFS(Mounted):
    name = "MooseFS"
    programs = ("mfsmaster", "mfschunkserver", "mfsmount")
    differs = (
        "goal 3, trash time 0. By default nothing is synced (tmpfs); on the disk chunkservers have "
        "HDD_FSYNC_BEFORE_CLOSE=1, and the master's changelog is as by default. Its client is a FUSE "
        "file system, which checks the CRC of every block; cp and cat use it."
    )

    def start(self):
        os.makedirs(self.mount_point)
        self.begin("mfsmaster", "master", {
            "EXPORTS_FILENAME": self.file("exports", "* / rw,alldirs,maproot=0\n"),
            "MATOML_LISTEN_HOST": machine.ADDRESS,
            "MATOCS_LISTEN_HOST": machine.ADDRESS,
            "MATOCL_LISTEN_HOST": machine.ADDRESS,
            # Deleted chunks are freed as soon as it can be had, not within many minutes.
            "CHUNKS_LOOP_MIN_TIME": 60,
            "CHUNKS_SOFT_DEL_LIMIT": 1000,
            "CHUNKS_HARD_DEL_LIMIT": 2000,
        })
        machine.wait_until("the master listens", lambda: count_sockets(9420, "0A") == 1)
        for number in (1, 2, 3):
            self.chunkserver(number)
        machine.wait_until("chunkservers are there", lambda: count_sockets(9420, "01") == 3)
        self.mount()
        machine.run("mfssetgoal", "3", self.mount_point)
        machine.run("mfssettrashtime", "0", self.mount_point)
        machine.wait_until("files have three copies", self.has_three_copies)

    def chunkserver(self, number):
        store = os.path.join(self.folder, f"store-{number}")
        os.mkdir(store)
        self.begin("mfschunkserver", f"chunkserver-{number}", {
            "HDD_CONF_FILENAME": self.file(f"hdd-{number}", f"{store}\n"),
            "HDD_FSYNC_BEFORE_CLOSE": {"tmpfs": 0, "disk": 1}[self.storage],
            "MASTER_HOST": machine.ADDRESS,
            "CSSERV_LISTEN_HOST": machine.ADDRESS,
            "CSSERV_LISTEN_PORT": 9430 + number,
        })

    def begin(self, program, name, settings):
        data = os.path.join(self.folder, name)
        os.makedirs(data)
        if program == "mfsmaster":
            shutil.copy(EMPTY, os.path.join(data, "metadata.mfs"))
        settings = {"WORKING_USER": "root", "WORKING_GROUP": "root", "DATA_PATH": data, **settings}
        lines = (f"{key} = {value}\n" for key, value in settings.items())
        config = self.file(f"{name}.cfg", "".join(lines))
        self.daemons.append(self.here.start(f"moosefs-{name}", program, "-f", "-c", config, "start"))

    def file(self, name, text):
        path = os.path.join(self.folder, name)
        os.makedirs(self.folder, exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def mount(self):
        machine.run("mfsmount", "-H", machine.ADDRESS, self.mount_point)

    def has_three_copies(self):
        """Writes a file, which goes to fewer while a chunkserver is not ready yet."""
        path = self.path("probe")
        with open(path, "wb") as file:
            file.write(b"probe")
        said = subprocess.run(["mfsfileinfo", path], capture_output=True, text=True, check=False)
        os.remove(path)
        return said.stdout.count("copy ") == 3

    def stop(self):
        self.unmount()
        while self.daemons:
            self.here.end(self.daemons.pop())


def count_sockets(port, state):
    """Sockets of a server's port in a state, as /proc/net/tcp writes it: 0A listens, 01 is connected."""
    with open("/proc/net/tcp", encoding="ascii") as file:
        fields = [line.split() for line in file]
    return sum(it[1].endswith(f":{port:04X}") and it[3] == state for it in fields[1:])
