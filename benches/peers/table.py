"""Samples, medians, and the table."""

import statistics
from dataclasses import dataclass, field

GIB = 1 << 30


@dataclass
class Sample:
    """Bytes or operations, the seconds that they took, and the processor seconds of all processes."""

    amount: int
    seconds: float
    cpu: float

    def rate(self, unit):
        return self.amount / self.seconds / (1e6 if unit == "MB/s" else 1)

    def cpu_per(self, unit):
        """For a GiB, or for ten thousand operations."""
        return self.cpu * (GIB if unit == "MB/s" else 10_000) / self.amount

    def shown(self, unit):
        return f"{self.rate(unit):9.0f} {unit:<4} CPU {self.cpu_per(unit):6.2f}"


@dataclass
class Row:
    """One figure of every system."""

    name: str
    storage: str
    unit: str
    samples: dict = field(default_factory=dict)

    def add(self, who, sample):
        self.samples.setdefault(who, []).append(sample)

    def rate(self, who):
        return statistics.median(it.rate(self.unit) for it in self.samples[who])

    def cpu(self, who):
        return statistics.median(it.cpu_per(self.unit) for it in self.samples[who])

    def cells(self, who):
        """Its rate and processor time, and how Sarsen's compare: times the rate, part of the time."""
        rate, cpu = self.rate(who), self.cpu(who)
        shown = f"{rate:,.0f} {self.unit}"
        if who == "Sarsen":
            return [shown, f"{cpu:.2f}"]
        ours, our_cpu = self.rate("Sarsen"), self.cpu("Sarsen")
        return [shown, f"{ours / rate:.2f}", f"{cpu:.2f}", f"{our_cpu / cpu:.2f}" if cpu else ""]


def of(rows):
    """The table, as Markdown. CPU is in seconds for a GiB, of rows in /s for 10,000."""
    lines = []
    # In the order in which the rows name them.
    peers = dict.fromkeys(who for row in rows for who in row.samples if who != "Sarsen")
    heads = ["figure", "storage", "Sarsen", "CPU"]
    for peer in peers:
        heads += [peer, "×", "CPU", "×"]
    lines += [line(heads), line(["---"] * len(heads))]
    for row in rows:
        cells = [row.name, row.storage, *row.cells("Sarsen")]
        for peer in peers:
            cells += row.cells(peer) if peer in row.samples else [""] * 4
        lines.append(line(cells))
    lines.append("\nCPU: seconds of all processes, for a GiB or 10,000 files; ×: Sarsen's rate over the "
                 "peer's, Sarsen's CPU over the peer's.")
    return "\n".join(lines)


def line(cells):
    return f"| {' | '.join(cells)} |"
