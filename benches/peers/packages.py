"""Debian's packages of the peers, installed so that none of their services starts."""

import contextlib
import os
import subprocess
import sys

PACKAGES = {
    "moosefs": ("moosefs-master", "moosefs-chunkserver", "moosefs-client"),
    "glusterfs": ("glusterfs-server", "glusterfs-client"),
}

# What invoke-rc.d asks before it starts a service; 101 forbids it (Debian's policy-rc.d).
POLICY = "/usr/sbin/policy-rc.d"


def install(without):
    """Installs what is missing."""
    peers = (names for peer, names in PACKAGES.items() if peer not in without)
    missing = [name for names in peers for name in names if not is_installed(name)]
    if not missing:
        return
    print(f"installing {' '.join(missing)}", file=sys.stderr)
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    with no_services():
        for command in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *missing]):
            done = subprocess.run(["apt-get", *command], env=environment, stdout=sys.stderr, check=False)
            if done.returncode != 0:
                print("NOT RUN: the peers can not be installed by apt-get", flush=True)
                sys.exit(77)


def is_installed(name):
    asked = ["dpkg-query", "-W", "-f", "${Status}", name]
    said = subprocess.run(asked, capture_output=True, text=True, check=False)
    return said.stdout.endswith("ok installed")


def version(name):
    asked = ["dpkg-query", "-W", "-f", "${Version}", name]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout


@contextlib.contextmanager
def no_services():
    """Forbids starting services, unless the machine has a policy of its own."""
    if os.path.exists(POLICY):
        yield
        return
    with open(POLICY, "w", encoding="ascii") as policy:
        policy.write("#!/bin/sh\nexit 101\n")
    os.chmod(POLICY, 0o755)
    try:
        yield
    finally:
        os.remove(POLICY)
