"""oplog-entries.md: the bodies of entries."""

from .chunk_file import chunk_size_valid
from .fields import (
    ADDRESS, EMPTY, EPOCH, U32, U64, Bytes, Choice, Enum, Flags, Int, ListOf, Rejected, Struct,
    Text, number,
)
from .messages import LEVEL

MIB = 1 << 20


def path_well_formed(path):
    """Section 3.1."""
    if path == "/":
        return True
    if not path.startswith("/"):
        return False
    names = path[1:].split("/")
    return len(names) <= 255 and all(
        1 <= len(name.encode()) <= 255 and name not in (".", "..") and "\0" not in name
        for name in names
    )


class ChunkSize(Int):
    """A power of two from 1 MiB to 64 MiB."""

    def __init__(self):
        super().__init__(4)

    def decode(self, reader):
        value = super().decode(reader)
        if not chunk_size_valid(value):
            raise Rejected("out_of_bounds")
        return value


def check_epoch(value):
    if number(value["epoch"]["number"]) == 0:
        raise Rejected("out_of_bounds")


def check_activation(value):
    if value["primary"] not in [member["server"] for member in value["members"]]:
        raise Rejected("out_of_bounds")


NAMING = Int(8, low=1)
NAMING_ID = Bytes(16, zero="out_of_bounds")
NAME = Text(255)
SOME_PATH = Text(4096, form=path_well_formed)
PATH_OR_EMPTY = Text(4096, form=lambda path: path == "" or path_well_formed(path))
REPLICAS = Int(1, 1, 16)
LENGTH = Int(4, 0, 64 * MIB)
CAUSE = Enum({1: "no_member", 2: "accepted"})

PUBLISHED_CHUNK = Struct(
    ("index", U32), ("handle", NAMING), ("version", NAMING), ("length", Int(4, 1, 64 * MIB)),
    ("crc", U32), ("servers", ListOf(U64, 16)),
)
MEMBER = Struct(("server", U64), ("directory", Bytes(16)), ("start_number", U64))
MEMBERS = ListOf(MEMBER, 16)
ACTIVATION = Struct(
    ("handle", NAMING), ("version", NAMING), ("serial", U64), ("flags", Flags(1)),
    ("file", NAMING), ("index", Int(4, 0, 262_143)), ("primary", U64), ("members", MEMBERS),
    check=check_activation,
)


class ChunkSealed:
    """Section 4.18: what follows `then` depends on it."""

    _FIRST = Struct(("handle", NAMING), ("version", NAMING), ("length", LENGTH), ("crc", U32))
    _THEN = Choice("then", Enum({0: "nothing", 1: "next", 2: "cut"}), {
        "nothing": EMPTY,
        "next": Struct(("next", ACTIVATION)),
        "cut": Struct(("cut_file", NAMING), ("cut_size", U64)),
    })
    smallest = _FIRST.smallest + 1

    def decode(self, reader):
        return {**self._FIRST.decode(reader), **self._THEN.decode(reader)}

    def encode(self, value):
        first = {name: value[name] for name, _ in self._FIRST.fields}
        rest = {name: one for name, one in value.items() if name not in first}
        return self._FIRST.encode(first) + self._THEN.encode(rest)


ENTRIES = {
    1: ("genesis", Struct(
        ("cluster_id", NAMING_ID), ("chunk_size", ChunkSize()), ("ticket_key_id", U32),
        ("ticket_key", Bytes(32)))),
    2: ("epoch_raised", Struct(("epoch", EPOCH), check=check_epoch)),
    3: ("ranges_reserved", Struct(("handles_end", U64), ("versions_end", U64))),
    4: ("session_opened", Struct(("nonce", Bytes(16)), ("client", NAME))),
    5: ("sessions_closed", Struct(("sessions", ListOf(U64, 65_536)))),
    6: ("server_registered", Struct(
        ("server", U64), ("control_addr", ADDRESS), ("data_addr", ADDRESS),
        ("http_addr", ADDRESS), ("rack", NAME))),
    7: ("directory_started", Struct(
        ("directory", NAMING_ID), ("server", NAMING), ("start_number", NAMING),
        ("start_nonce", U64))),
    8: ("folder_made", Struct(("flags", Flags(1)), ("path", SOME_PATH))),
    9: ("pending_created", Struct(
        ("flags", Flags(3)), ("replicas", REPLICAS), ("level", LEVEL),
        ("chunk_size", ChunkSize()), ("path", SOME_PATH))),
    10: ("pending_aborted", Struct(("file", NAMING))),
    11: ("file_published", Struct(
        ("flags", Flags(7)), ("file", NAMING), ("size", U64), ("path", SOME_PATH),
        ("chunks", ListOf(PUBLISHED_CHUNK, 262_144)))),
    12: ("renamed", Struct(("source", SOME_PATH), ("target", SOME_PATH))),
    13: ("removed", Struct(("flags", Flags(3)), ("path", SOME_PATH))),
    14: ("trash_restored", Struct(("entry", NAMING), ("target", PATH_OR_EMPTY))),
    15: ("trash_emptied", Struct(("entry", U64))),
    16: ("trash_expired", Struct(("entries", ListOf(U64, 65_536)))),
    17: ("chunk_activated", ACTIVATION),
    18: ("chunk_sealed", ChunkSealed()),
    19: ("possible_loss", Struct(
        ("handle", NAMING), ("version", NAMING), ("serial", U64), ("cause", CAUSE))),
    20: ("file_resized", Struct(("file", NAMING), ("size", U64))),
    21: ("file_made", Struct(
        ("flags", Flags(1)), ("replicas", REPLICAS), ("chunk_size", ChunkSize()),
        ("path", SOME_PATH))),
}
