"""GlusterFS: glusterd, three bricks of one replicated volume, and its FUSE client."""

import os

import machine
from mounted import Mounted, succeeds

# Folders that glusterd has by its build; each run has its own, in memory.
STATE = ("/var/lib/glusterd", "/var/log/glusterfs", "/run/gluster")
VOLUME = "peers"


class GlusterFS(Mounted):
    name = "GlusterFS"
    # All are one program, called by several names.
    programs = ("glusterd", "glusterfsd", "glusterfs")
    differs = (
        "one volume with `replica 3`, else as by default: nothing is synced (tmpfs); on the disk the "
        "writer syncs each file (`sync FILE`). Its client is a FUSE file system, which checks no CRC; "
        "cp and cat use it."
    )

    def __init__(self, here, storage):
        super().__init__(here, storage)
        self.fsync = storage == "disk"

    def start(self):
        os.makedirs(self.mount_point)
        for folder in STATE:
            os.makedirs(folder, exist_ok=True)
            machine.run("mount", "-t", "tmpfs", "peers", folder)
        self.daemons.append(self.here.start(
            "glusterd", "glusterd", "--no-daemon", "--log-level", "WARNING",
            "--log-file", os.path.join(self.here.logs, "glusterd.log"),
        ))
        machine.wait_until("glusterd answers", lambda: succeeds("gluster", "volume", "list"))
        bricks = [os.path.join(self.folder, f"brick-{number}") for number in (1, 2, 3)]
        for brick in bricks:
            os.makedirs(brick)
        names = [f"{machine.ADDRESS}:{brick}" for brick in bricks]
        volume("create", VOLUME, "replica", "3", *names, "force")
        volume("start", VOLUME)
        machine.wait_until("it can be mounted", self.can_be_mounted)

    def mount(self):
        machine.run("glusterfs", "--log-level=ERROR", f"--volfile-server={machine.ADDRESS}",
                    f"--volfile-id={VOLUME}", self.mount_point)
        machine.wait_until("bricks are connected", lambda: os.path.ismount(self.mount_point)
                           and succeeds("stat", self.mount_point))

    def can_be_mounted(self):
        try:
            self.mount()
        except RuntimeError:
            return False
        return True

    def stop(self):
        self.unmount()
        if self.daemons:
            succeeds("gluster", "--mode=script", "volume", "stop", VOLUME, "force")
        while self.daemons:
            self.here.end(self.daemons.pop())
        for folder in STATE:
            if os.path.ismount(folder):
                machine.run("umount", "-l", folder)


def volume(*arguments):
    machine.run("gluster", "--mode=script", "volume", *arguments)
