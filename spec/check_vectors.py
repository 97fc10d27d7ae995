#!/usr/bin/env python3
"""Checks every vector of spec/vectors/ with the decoder in spec/decoder/, which was written from
the pages of spec/ alone (README.md, "Vectors"). Exits 1 if anything fails.

    python3 spec/check_vectors.py [FILE.toml ...]
"""

import re
import sys
import tomllib
from pathlib import Path

from decoder import checkpoint_state, chunk_file, journal, oplog, oplog_entries, records
from decoder.fields import Misfit, Rejected, whole
from decoder.messages import MESSAGES
from decoder.wire import ERROR_BODY, TICKET, Frame, HelloExchange, SignedTicket

SPEC = Path(__file__).resolve().parent
EXPECTED_FILES = (
    "wire", "messages", "hello", "tickets", "chunk-file", "oplog", "oplog-entries",
    "checkpoint-state", "journal", "records",
)


class Body:
    """Bytes that hold one value and nothing else, whatever `given` says."""

    def __init__(self, kind):
        self.kind = kind

    def decode(self, data, _given):
        return whole(self.kind, data)

    def encode(self, fields, _given):
        return self.kind.encode(fields)


class UnlistedEntry:
    """An entry whose kind is a number that oplog-entries.md doesn't list."""

    def decode(self, _data, _given):
        raise Rejected("unknown_kind")


class Registry(dict):
    """The name of a vector's kind to its decoder and encoder."""

    def __missing__(self, kind):
        if kind.isdecimal() and int(kind) not in oplog_entries.ENTRIES:
            return UnlistedEntry()
        raise Misfit("unknown kind")


def registry():
    kinds = {
        "frame": Frame(MESSAGES),
        "error_body": Body(ERROR_BODY),
        "hello_exchange": HelloExchange(),
        "ticket": Body(TICKET),
        "signed_ticket": SignedTicket(),
        "state": Body(checkpoint_state.STATE),
    }
    kinds |= {message.name: message for message in MESSAGES.values()}
    kinds |= {name: Body(body) for name, body in oplog_entries.ENTRIES.values()}
    return Registry(kinds | chunk_file.KINDS | journal.KINDS | oplog.KINDS | records.KINDS)


def listed_messages():
    """Kind and name of every message in the table of messages.md section 1."""
    row = re.compile(r"\| (0x[0-9a-f]{4}(?:, 0x[0-9a-f]{4})?) \| (`\w+`(?:, `\w+`)?) \|")
    listed = {}
    for line in (SPEC / "messages.md").read_text().splitlines():
        if match := row.match(line):
            numbers, names = match[1].split(", "), match[2].replace("`", "").split(", ")
            listed |= {int(one, 16): name for one, name in zip(numbers, names, strict=True)}
    return listed


def listed_entries():
    """Kind and name of every entry in the table of oplog-entries.md section 2."""
    section = (SPEC / "oplog-entries.md").read_text().split("\n## 2. ")[1].split("\n## 3. ")[0]
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", section, re.M)
    return {int(number): name for number, name in rows}


def check_accepted(codec, case, data):
    """What is wrong with an accepted vector, or None."""
    given = case.get("given", {})
    try:
        fields = codec.decode(data, given)
    except Rejected as error:
        return f"rejected as {error.name}"
    if fields != case["fields"]:
        return f"decodes as {fields}"
    if codec.encode is not None:
        encoded = codec.encode(case["fields"], given)
        if encoded != data:
            return f"its fields encode as {encoded.hex()}"
    return None


def check_rejected(codec, case, data):
    """What is wrong with a rejected vector, or None."""
    try:
        fields = codec.decode(data, case.get("given", {}))
    except Rejected as error:
        return None if error.name == case["error"] else f"rejected as {error.name}"
    return f"decodes as {fields}"


def check_case(kinds, group, case):
    """What is wrong with a vector, or None."""
    check = check_accepted if group == "accepted" else check_rejected
    try:
        return check(kinds[case["kind"]], case, bytes.fromhex(case["hex"]))
    except (Misfit, KeyError, TypeError, ValueError, AttributeError) as error:
        return f"not a vector of {case['kind']}: {error!r}"


def check_file(path, kinds):
    """How many vectors of a file pass, its failures, and the kinds of its accepted vectors."""
    passed, failures, accepted, names = 0, [], set(), set()
    with path.open("rb") as file:
        groups = tomllib.load(file)
    cases = [(group, case) for group in ("accepted", "rejected") for case in groups.get(group, [])]
    for group, case in cases:
        name = case["name"]
        wrong = "the name stands twice" if name in names else check_case(kinds, group, case)
        names.add(name)
        if wrong:
            failures.append(f"{path.name}: {name}: {wrong}")
        else:
            passed += 1
            if group == "accepted":
                accepted.add(case["kind"])
    if not cases:
        failures.append(f"{path.name}: no cases")
    print(f"{path.name}: {len(cases)} cases")
    return passed, failures, accepted


def main(arguments):
    paths = [Path(one) for one in arguments] or sorted((SPEC / "vectors").glob("*.toml"))
    kinds = registry()
    passed, failures, accepted = 0, [], set()
    for path in paths:
        passed_here, failures_here, accepted_here = check_file(path, kinds)
        passed += passed_here
        failures += failures_here
        accepted |= accepted_here
    if not arguments:
        present = {path.stem for path in paths}
        failures += [f"{name}.toml: missing" for name in EXPECTED_FILES if name not in present]
        failures += uncovered(kinds, accepted)
    for failure in failures:
        print(f"FAILED {failure}")
    print(f"{passed} passed, {len(failures)} failed")
    return 1 if failures or not passed else 0


def uncovered(kinds, accepted):
    """What the pages list and the decoder doesn't know, and kinds without an accepted vector."""
    failures = []
    if listed_messages() != {number: message.name for number, message in MESSAGES.items()}:
        failures.append("messages.md: the decoder's messages are not those of the table")
    if listed_entries() != {number: name for number, (name, _) in oplog_entries.ENTRIES.items()}:
        failures.append("oplog-entries.md: the decoder's entries are not those of the table")
    return failures + [f"{kind}: no accepted vector" for kind in kinds if kind not in accepted]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
