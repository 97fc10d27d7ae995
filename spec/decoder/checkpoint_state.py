"""oplog-entries.md section 6: the state in a checkpoint, row by row."""

from .fields import (
    ADDRESS, EMPTY, EPOCH, U32, U64, Bool, Bytes, Choice, Enum, Flags, Int, ListOf, Rejected,
    Struct, Text,
)
from .messages import LEVEL
from .oplog_entries import (
    CAUSE, MEMBERS, NAME, NAMING, REPLICAS, SOME_PATH, ChunkSize, check_activation,
    path_well_formed,
)

STATUSES = (16, 17, 18, 19, 20, 21, 23, 24, 25, 26, 48, 59, 83, 84, 85)


class Table:
    """`table(row)`: a 64-bit count, then rows that ascend by their first field."""

    smallest = 8

    def __init__(self, row):
        self.row = row
        self.key = row.fields[0][0]

    def decode(self, reader):
        count = reader.integer(8)
        if count * self.row.smallest > reader.left:
            raise Rejected("truncated")
        rows = []
        for _ in range(count):
            row = self.row.decode(reader)
            if rows and row[self.key] <= rows[-1][self.key]:
                raise Rejected("out_of_bounds")
            rows.append(row)
        return rows

    def encode(self, value):
        return len(value).to_bytes(8, "little") + b"".join(map(self.row.encode, value))


class Optionally:
    """A structure whose last fields are `optional`: missing ones are not in its value."""

    def __init__(self, *fields):
        self.fields = fields
        self.smallest = sum(1 if maybe else kind.smallest for _, kind, maybe in fields)

    def decode(self, reader):
        value = {}
        for name, kind, maybe in self.fields:
            if not maybe or Bool().decode(reader):
                value[name] = kind.decode(reader)
        return value

    def encode(self, value):
        parts = []
        for name, kind, maybe in self.fields:
            if maybe:
                parts.append(bytes([name in value]))
            if name in value or not maybe:
                parts.append(kind.encode(value[name]))
        return b"".join(parts)


class Tagged:
    """Fields, then an enumeration that decides which fields follow; all lie flat."""

    def __init__(self, first, tag, enum, cases):
        self.first, self.fields = first, first.fields
        self.choice = Choice(tag, enum, cases)
        self.smallest = first.smallest + 1

    def decode(self, reader):
        return {**self.first.decode(reader), **self.choice.decode(reader)}

    def encode(self, value):
        names = [name for name, _ in self.first.fields]
        first = {name: value[name] for name in names}
        rest = {name: one for name, one in value.items() if name not in names}
        return self.first.encode(first) + self.choice.encode(rest)


class Status(Int):
    """A status that an entry can be refused with."""

    def __init__(self):
        super().__init__(2)

    def decode(self, reader):
        value = super().decode(reader)
        if value not in STATUSES:
            raise Rejected("unknown_value")
        return value


class Format(Int):
    """The number of this layout."""

    def __init__(self):
        super().__init__(4)

    def decode(self, reader):
        if super().decode(reader) != 1:
            raise Rejected("unknown_value")
        return 1


def name_or_empty(name):
    return name == "" or ("/" not in name and path_well_formed("/" + name))


def check_crc(value):
    if not value["crc_known"] and value["crc"]:
        raise Rejected("out_of_bounds")


CRC = (("crc_known", Bool()), ("crc", U32))
ANSWERS = {
    1: ("done", EMPTY),
    2: ("id", Struct(("id", U64))),
    3: ("refused", Struct(("status", Status()))),
    4: ("pending", Struct(("file", U64), ("replicas", REPLICAS))),
    5: ("file", Struct(
        ("file", U64), ("size", U64), ("modified", U64), ("replicas", REPLICAS), ("chunks", U32),
        *CRC, check=check_crc)),
    6: ("removed", Struct(("files", U64), ("bytes", U64))),
    7: ("restored", Struct(("path", SOME_PATH))),
    8: ("emptied", Struct(("entries", U64), ("bytes", U64))),
}
ANSWER = Tagged(
    Struct(("number", U64)), "kind", Enum({tag: name for tag, (name, _) in ANSWERS.items()}),
    dict(ANSWERS.values()),
)
FILE = Struct(
    ("size", U64), ("chunk_size", ChunkSize()), ("replicas", REPLICAS), *CRC,
    ("slots", ListOf(U64, 262_144)), check=check_crc,
)
NODE = Tagged(
    Struct(("file", U64), ("parent", U64), ("modified", U64),
           ("name", Text(255, form=name_or_empty))),
    "type", Enum({1: "file", 2: "folder"}), {"file": FILE, "folder": EMPTY},
)
SEALED = Struct(("version", U64), ("length", U32), ("crc", U32))
CONFIGURATION = Struct(
    ("version", NAMING), ("serial", U64), ("flags", Flags(1)), ("primary", U64),
    ("members", MEMBERS), check=check_activation,
)
LOSS = Struct(("version", U64), ("serial", U64), ("cause", CAUSE), ("time", U64))
CHUNK = Optionally(
    ("handle", U64, False), ("references", U32, False), ("file", U64, False),
    ("index", U32, False), ("replicas", REPLICAS, False), ("sealed", SEALED, True),
    ("active", CONFIGURATION, True), ("losses", ListOf(LOSS, 1024), False),
)
STATE = Struct(
    ("format", Format()), ("index", U64), ("term", U64), ("time", U64),
    ("cluster_id", Bytes(16)), ("chunk_size", ChunkSize()), ("ticket_key_id", U32),
    ("ticket_key", Bytes(32)), ("epoch", EPOCH), ("handles_end", U64), ("versions_end", U64),
    ("next_file", U64), ("next_session", U64), ("next_server", U64),
    ("servers", Table(Struct(
        ("server", U64), ("control_addr", ADDRESS), ("data_addr", ADDRESS),
        ("http_addr", ADDRESS), ("rack", NAME)))),
    ("directories", Table(Struct(
        ("directory", Bytes(16)), ("server", U64), ("start_number", U64), ("start_nonce", U64)))),
    ("sessions", Table(Struct(
        ("session", U64), ("nonce", Bytes(16)), ("client", NAME), ("opened", U64),
        ("lowest", U64), ("answers", Table(ANSWER))))),
    ("pending", Table(Struct(
        ("file", U64), ("session", U64), ("replicas", REPLICAS), ("level", LEVEL),
        ("chunk_size", ChunkSize()), ("created", U64), ("path", SOME_PATH)))),
    ("nodes", Table(NODE)),
    ("trash", Table(Struct(("file", U64), ("deleted", U64), ("path", SOME_PATH)))),
    ("chunks", Table(CHUNK)),
)
