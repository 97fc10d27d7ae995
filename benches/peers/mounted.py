"""What the peers have in common: their client is a file system, used by cp, cat and system calls."""

import os
import shlex
import subprocess
import sys

import machine

OPERATIONS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "operations.py")


class Mounted:
    """A peer. What it is to do is a command over paths below its mount point."""

    # Whether the writer syncs each file that it has written.
    fsync = False

    def __init__(self, here, storage):
        self.here = here
        self.storage = storage
        self.folder = os.path.join(here.folder(storage), self.name.lower())
        self.mount_point = os.path.join(here.work, f"{self.name.lower()}-{storage}")
        self.daemons = []

    def path(self, name):
        return os.path.join(self.mount_point, name)

    def mount(self):
        raise NotImplementedError

    def unmount(self):
        if os.path.ismount(self.mount_point):
            machine.run("umount", self.mount_point)
        machine.wait_until("the client has ended", lambda: not is_running(self.mount_point))

    def fresh(self):
        """Mounts anew, so that nothing is in the kernel's or the client's cache."""
        self.unmount()
        self.mount()

    def put(self, source, name):
        target = shlex.quote(self.path(name))
        return shell(f"cp {shlex.quote(source)} {target}" + (f" && sync {target}" if self.fsync else ""))

    def get(self, name):
        return ["cat", self.path(name)]

    to_stdout = get

    def put_folder(self, source, name):
        target = shlex.quote(self.path(name))
        sync = f" && find {target} -type f -exec sync {{}} +" if self.fsync else ""
        return shell(f"cp -r {shlex.quote(source)} {target}{sync}")

    def get_folder(self, name, target):
        return ["cp", "-r", self.path(name), target]

    def remove(self, name):
        machine.run("rm", "-r", self.path(name))

    def make_folder(self, name):
        os.mkdir(self.path(name))

    def operations(self, operation, name, count, at_once):
        return [sys.executable, OPERATIONS, operation, self.path(name), str(count), str(at_once)]


def shell(script):
    return ["sh", "-c", script]


def is_running(argument):
    """Whether there is a process whose command line tells this: the client of a mount point."""
    for pid in machine.others():
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if argument.encode() in file.read():
                    return True
        except OSError:
            pass  # It ended.
    return False


def succeeds(*command):
    done = subprocess.run(command, capture_output=True, check=False)
    return done.returncode == 0
