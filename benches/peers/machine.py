"""Where it is measured: namespaces, storage, processes, and the processor time that they use.

Everything runs in a process namespace whose first process is this program. The kernel ends what is
left in it when that ends, by whatever signal, and the mounts and the network go with the last
process: nothing outlives a run that was killed, but its folder on the disk.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

# Not of 127/8: MooseFS refuses a master there.
ADDRESS = "10.99.0.1"

# From linux/sched.h and linux/prctl.h.
CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET = 0x0002_0000, 0x2000_0000, 0x4000_0000
PR_SET_PDEATHSIG = 1

# What ends a run, tidily.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TICKS = os.sysconf("SC_CLK_TCK")


def default_disk():
    return os.environ.get("SARSEN_BENCH_DIR") or os.path.join(target(), "tmp")


def target():
    return os.path.join(ROOT, os.environ.get("CARGO_TARGET_DIR", "target"))


def why_not():
    """What keeps this machine from it, if anything."""
    if os.geteuid() != 0:
        return "not root: no namespace can be made and nothing mounted"
    for program in ("apt-get", "ip", "mount"):
        if not shutil.which(program):
            return f"{program} is not installed"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse: {error.strerror}: the peers' clients are file systems"
    return None


def enter():
    """Goes on in namespaces of its own, in a process that is the first there. This one waits for it,
    hands on what signals say, and exits as it does: it never returns."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET) != 0:
        print(f"NOT RUN: no namespaces: {os.strerror(ctypes.get_errno())}", flush=True)
        sys.exit(77)
    sys.stdout.flush()
    first = os.fork()
    if first == 0:
        # Ends with the process outside, even if that is killed.
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # The first process of a namespace gets no signal that it has no handler for.
        for number in ENDING:
            signal.signal(number, lambda *_: sys.exit(130))
        run("mount", "--make-rprivate", "/")
        run("mount", "-t", "proc", "proc", "/proc")
        return
    for number in ENDING:
        signal.signal(number, lambda *_: kill(first, signal.SIGTERM))
    _, status = os.waitpid(first, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


class Machine:
    """The namespaces with their storage, and every process that was started in them."""

    def __init__(self, disk):
        self.disk_parent = disk
        self.daemons = []

    def __enter__(self):
        run("ip", "link", "set", "lo", "up")
        run("ip", "addr", "add", f"{ADDRESS}/32", "dev", "lo")
        os.makedirs(self.disk_parent, exist_ok=True)
        self.disk = tempfile.mkdtemp(prefix="sarsen-peers-", dir=self.disk_parent)
        self.memory = os.path.join(self.disk, "memory")
        os.mkdir(self.memory)
        run("mount", "-t", "tmpfs", "-o", "size=90%,mode=755", "peers", self.memory)
        self.work = os.path.join(self.memory, "work")
        self.logs = os.path.join(self.memory, "logs")
        for folder in (self.work, self.logs, self.folder("tmpfs"), self.folder("disk")):
            os.mkdir(folder)
        return self

    def __exit__(self, *_):
        while self.daemons:
            self.end(self.daemons[-1])
        for pid in others():
            kill(pid, signal.SIGKILL)
        # Busy while a process of it lasts; what is left is freed with the namespace.
        subprocess.run(["umount", "-l", self.memory], check=False)
        shutil.rmtree(self.disk, ignore_errors=True)

    def folder(self, storage):
        """Where servers keep what they store."""
        return os.path.join({"tmpfs": self.memory, "disk": self.disk}[storage], "servers")

    def clear(self, storage):
        """Removes all that servers have stored."""
        folder = self.folder(storage)
        shutil.rmtree(folder)
        os.mkdir(folder)

    def describe(self, runs):
        def first(path):
            with open(path, encoding="ascii") as file:
                return file.read().split()[0]

        with open("/proc/cpuinfo", encoding="utf-8") as file:
            models = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30
        return (
            f"{os.cpu_count()} cores ({models[0] if models else 'unknown'}), {gib} GiB, Linux "
            f"{first('/proc/sys/kernel/osrelease')}, load {first('/proc/loadavg')}; "
            f"disk: {self.disk_parent}; medians of {runs}"
        )

    def log(self, line):
        print(line, file=sys.stderr, flush=True)

    def touch_memory(self, size):
        """Writes memory and frees it: a virtual machine's is slow when it is first touched, and what
        was freed last is used first."""
        space = os.statvfs(self.memory)
        size = min(size, space.f_bavail * space.f_frsize * 3 // 4)
        path = os.path.join(self.memory, "touch")
        run("dd", "if=/dev/zero", f"of={path}", "bs=1M", f"count={size >> 20}", "status=none")
        os.remove(path)

    def wait_for_room(self, storage, size):
        """Waits until there is room: MooseFS frees late what was deleted."""

        def room():
            space = os.statvfs(self.folder(storage))
            return space.f_bavail * space.f_frsize

        if room() < size:
            self.log("  waiting until deleted files are freed")
            wait_until("there is room", lambda: room() >= size, 600)

    def start(self, name, *command, environment=None):
        """Starts a daemon, whose output goes to a log."""
        with open(os.path.join(self.logs, name), "ab") as log:
            daemon = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(os.environ, **(environment or {})),
                cwd=self.work,
            )
        self.daemons.append(daemon)
        return daemon

    def end(self, daemon):
        """Ends a daemon that was started here."""
        self.daemons.remove(daemon)
        daemon.terminate()
        try:
            daemon.wait(30)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def show_logs(self):
        """The ends of all logs, for who has to find out why it does not work."""
        for name in sorted(os.listdir(self.logs)):
            with open(os.path.join(self.logs, name), errors="replace", encoding="utf-8") as file:
                lines = file.readlines()[-15:]
            self.log(f"-- {name}\n{''.join(lines)}")


def run(*command):
    """Runs a command that is no measurement."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def timed(commands):
    """Runs commands at once; the seconds until all have ended, and their processor seconds."""
    began = time.monotonic()
    begun = [
        subprocess.Popen(it, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) for it in commands
    ]
    cpu, failed = 0.0, []
    for child, command in zip(begun, commands):
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        cpu += used.ru_utime + used.ru_stime
        if child.returncode != 0:
            failed.append(command)
    seconds = time.monotonic() - began
    if failed:
        raise RuntimeError(f"failed: {failed[0]}")
    return seconds, cpu


def cpu_of(programs):
    """Processor seconds of all processes of some programs so far, and of their children."""
    ticks = 0
    for pid in others():
        try:
            program = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
            if program in programs:
                with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                    # The second field is a name that may hold anything: counted from its end.
                    fields = file.read().rpartition(")")[2].split()
                ticks += sum(int(field) for field in fields[11:15])
        except OSError:
            pass  # It ended, or is a kernel thread.
    return ticks / TICKS


def others():
    """All processes of the namespace but this one."""
    return [int(it) for it in os.listdir("/proc") if it.isdigit() and int(it) != os.getpid()]


def kill(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def wait_until(what, is_so, seconds=60):
    """Waits for something that is to come about by itself."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {seconds} s in vain until {what}")
        time.sleep(0.05)
