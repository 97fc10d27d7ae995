"""Sarsen: a master, three chunkservers, and `sarsen` as the client."""

import os
import subprocess
import sys

import machine

# On 127.0.0.1 the programs of one user find the cluster's key by themselves.
MASTER = "127.0.0.1:7400"
HTTP = "127.0.0.1:0"


class Sarsen:
    name = "Sarsen"
    programs = ("sarsen-master", "chunkd")
    differs = (
        "`--durability memory` on tmpfs, `disk` on the disk: there the data, what names it, and "
        "the master's log are synced before an upload ends. The client checks the CRC of every block."
    )

    def __init__(self, here, storage):
        self.here = here
        self.folder = os.path.join(here.folder(storage), "sarsen")
        self.durability = {"tmpfs": "memory", "disk": "disk"}[storage]
        self.key = os.path.join(self.folder, "master", "cluster.key")
        self.daemons = []

    @staticmethod
    def build():
        packages = ("sarsen-master", "sarsen-chunkd", "sarsen-client", "sarsen-benches")
        command = ["cargo", "build", "--release", "--bins"]
        for package in packages:
            command += ["-p", package]
        subprocess.run(command, cwd=machine.ROOT, stdout=sys.stderr, check=True)

    def start(self):
        os.mkdir(self.folder)
        self.begin("master", "sarsen-master", "--listen", MASTER, "--http", HTTP,
                   "--set", "gc_interval=200ms")
        machine.wait_until("the master has a key", lambda: os.path.exists(self.key))
        for number in (1, 2, 3):
            self.begin(f"chunkd-{number}", "chunkd", "--master", MASTER, "--key-file", self.key)
        machine.run(*self.client("wait", "--chunkservers", "3"))

    def begin(self, name, program, *arguments):
        folder = os.path.join(self.folder, name)
        os.makedirs(folder)
        self.daemons.append(self.here.start(
            f"sarsen-{name}", path_of(program), "--dir", folder, *arguments,
            environment={"XDG_RUNTIME_DIR": self.here.work},
        ))

    def stop(self):
        while self.daemons:
            self.here.end(self.daemons.pop())

    def fresh(self):
        """Clients are processes, and keep nothing."""

    def client(self, *arguments):
        return [path_of("sarsen"), "--master", MASTER, "--key-file", self.key, "-q", *arguments]

    def put(self, source, name):
        return self.client("put", "--durability", self.durability, source, f"/{name}")

    def get(self, name):
        return self.client("get", f"/{name}", "/dev/null")

    def to_stdout(self, name):
        return self.client("get", f"/{name}", "-")

    def put_folder(self, source, name):
        return self.client("put", "-r", "--durability", self.durability, source, f"/{name}")

    def get_folder(self, name, target):
        return self.client("get", "-r", f"/{name}", target)

    def remove(self, name):
        machine.run(*self.client("rm", "-r", "--purge", f"/{name}"))

    def make_folder(self, name):
        machine.run(*self.client("mkdir", f"/{name}"))

    def operations(self, operation, name, count, at_once):
        return [path_of("operations"), "--master", MASTER, "--key-file", self.key,
                "--durability", self.durability, "--in-flight", str(at_once),
                "--count", str(count), operation, f"/{name}"]


def path_of(program):
    return os.path.join(machine.target(), "release", program)
