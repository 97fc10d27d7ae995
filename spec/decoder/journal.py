"""journal.md: segment headers, entries, marks and the bodies of entries."""

import zlib

from .fields import (
    BOOL, EPOCH, Choice, Enum, Flags, Int, ListOf, Reader, Rejected, Reserved, REQUEST_OR_NONE,
    Struct, U32, U64, digits, number, octets, whole, word,
)

CHUNK_MOST = 1 << 26
BLOCK = 1 << 16
BODY_MOST = (1 << 20) + (1 << 16)
LENGTH = Int(4, high=CHUNK_MOST)


def _u(width, value):
    return (number(value) if width == 8 else value).to_bytes(width, "little")


def _header(data, size, magic):
    """The checks that all headers begin with; the header's bytes."""
    if len(data) < size:
        raise Rejected("truncated")
    head = data[:size]
    if head[4:8] != magic:
        raise Rejected("magic_wrong")
    if int.from_bytes(head[:4], "little") != zlib.crc32(head[4:]):
        raise Rejected("header_crc_wrong")
    return head


def _integer(head, at, width):
    return int.from_bytes(head[at : at + width], "little")


def _with_crc(rest):
    return zlib.crc32(rest).to_bytes(4, "little") + rest


class Segment:
    def decode(self, data, _given):
        head = _header(data, 128, b"SJSG")
        if _integer(head, 8, 2) != 1:
            raise Rejected("version_unknown")
        if any(head[10:12]) or any(head[72:]):
            raise Rejected("reserved_not_zero")
        before_crc, first = _integer(head, 12, 4), _integer(head, 16, 8)
        if first == 0 or (first == 1 and before_crc):
            raise Rejected("sequence_wrong")
        if not (any(head[24:40]) and any(head[40:56]) and any(head[56:64]) and any(head[64:72])):
            raise Rejected("id_missing")
        if len(data) > 128:
            raise Rejected("trailing_bytes")
        return {
            "version": 1, "before_crc": before_crc, "first_sequence": word(first),
            "cluster_id": digits(head[24:40]), "directory_id": digits(head[40:56]),
            "start_number": word(_integer(head, 56, 8)), "start_nonce": word(_integer(head, 64, 8)),
        }

    def encode(self, fields, _given):
        return _with_crc(
            b"SJSG" + _u(2, fields["version"]) + bytes(2) + _u(4, fields["before_crc"])
            + _u(8, fields["first_sequence"]) + octets(fields["cluster_id"])
            + octets(fields["directory_id"]) + _u(8, fields["start_number"])
            + _u(8, fields["start_nonce"]) + bytes(56)
        )


class PatchHeader:
    def decode(self, data, _given):
        head = _header(data, 128, b"SJPF")
        if _integer(head, 8, 2) != 1:
            raise Rejected("version_unknown")
        if any(head[10:16]) or any(head[80:]):
            raise Rejected("reserved_not_zero")
        ids = [(16, 24), (24, 40), (40, 56), (56, 64), (64, 72), (72, 80)]
        if not all(any(head[start:end]) for start, end in ids):
            raise Rejected("id_missing")
        if len(data) > 128:
            raise Rejected("trailing_bytes")
        return {
            "version": 1, "handle": word(_integer(head, 16, 8)),
            "cluster_id": digits(head[24:40]), "directory_id": digits(head[40:56]),
            "start_number": word(_integer(head, 56, 8)), "start_nonce": word(_integer(head, 64, 8)),
            "made_in": word(_integer(head, 72, 8)),
        }

    def encode(self, fields, _given):
        return _with_crc(
            b"SJPF" + _u(2, fields["version"]) + bytes(6) + _u(8, fields["handle"])
            + octets(fields["cluster_id"]) + octets(fields["directory_id"])
            + _u(8, fields["start_number"]) + _u(8, fields["start_nonce"])
            + _u(8, fields["made_in"]) + bytes(48)
        )


def _checked_header(head):
    """The checks of an entry's header behind its CRC."""
    kind, length, body_crc = _integer(head, 8, 2), _integer(head, 12, 4), _integer(head, 16, 4)
    sequence, stable = _integer(head, 24, 8), _integer(head, 32, 8)
    handle, version = _integer(head, 64, 8), _integer(head, 72, 8)
    if any(head[10:12]) or any(head[88:]):
        raise Rejected("reserved_not_zero")
    if stable >= sequence:
        raise Rejected("sequence_wrong")
    if not (any(head[40:56]) and any(head[56:64]) and any(head[80:88])):
        raise Rejected("id_missing")
    if kind and not (handle and version):
        raise Rejected("id_missing")
    if length > BODY_MOST:
        raise Rejected("body_too_long")
    if kind == 0 and (length or body_crc or handle or version or stable != sequence - 1):
        raise Rejected("mark_invalid")
    return kind, length, body_crc


def _entry_or_mark(data):
    head = _header(data, 96, b"SJNL")
    kind, length, body_crc = _checked_header(head)
    padded = -(-length // 8) * 8
    rest = data[96:]
    if len(rest) < padded:
        raise Rejected("truncated")
    if zlib.crc32(rest[:length]) != body_crc:
        raise Rejected("body_crc_wrong")
    if any(rest[length:padded]):
        raise Rejected("padding_not_zero")
    if len(rest) > padded:
        raise Rejected("trailing_bytes")
    fields = {
        "before_crc": _integer(head, 20, 4), "sequence": word(_integer(head, 24, 8)),
        "directory_id": digits(head[40:56]), "start_number": word(_integer(head, 56, 8)),
        "start_nonce": word(_integer(head, 80, 8)),
    }
    return kind, head, rest[:length], fields


def _encode(fields, kind, stable, handle, version, body):
    head = (
        b"SJNL" + _u(2, kind) + bytes(2) + _u(4, len(body)) + _u(4, zlib.crc32(body))
        + _u(4, fields["before_crc"]) + _u(8, fields["sequence"]) + _u(8, stable)
        + octets(fields["directory_id"]) + _u(8, fields["start_number"]) + _u(8, handle)
        + _u(8, version) + _u(8, fields["start_nonce"]) + bytes(8)
    )
    return _with_crc(head) + body + bytes(-len(body) % 8)


class Entry:
    def decode(self, data, _given):
        kind, head, body, fields = _entry_or_mark(data)
        if kind == 0:
            raise Rejected("kind_wrong")
        return {
            "kind": kind, **fields, "stable": word(_integer(head, 32, 8)),
            "handle": word(_integer(head, 64, 8)), "version": word(_integer(head, 72, 8)),
            "body": digits(body),
        }

    def encode(self, fields, _given):
        stands = (fields["stable"], fields["handle"], fields["version"])
        return _encode(fields, fields["kind"], *stands, octets(fields["body"]))


class Mark:
    def decode(self, data, _given):
        kind, _, _, fields = _entry_or_mark(data)
        if kind:
            raise Rejected("kind_wrong")
        return fields

    def encode(self, fields, _given):
        stable = word(number(fields["sequence"]) - 1)
        return _encode(fields, 0, stable, word(0), word(0), b"")


def _blocks_touched(offset, length):
    return (offset + length - 1) // BLOCK - offset // BLOCK + 1


def _check_mutation(value):
    end = value["offset"] + value["length"]
    if value["length"] == 0 or end > CHUNK_MOST:
        raise Rejected("out_of_bounds")
    own = _blocks_touched(value["offset"], value["length"])
    most = -(-end // BLOCK) if value["flags"] & 1 else own
    if not own <= len(value["blocks"]) <= most:
        raise Rejected("out_of_bounds")


def _check_row(value):
    bare = value["kind"] in ("floor", "ended")
    if bare and (value["offset"] or value["length"] or value["crc32"]):
        raise Rejected("reserved_not_zero")
    missing = not number(value["session"]) or not number(value["number"])
    if missing or value["offset"] + value["length"] > CHUNK_MOST:
        raise Rejected("out_of_bounds")
    if value["kind"] == "ended" and number(value["number"]) != 1:
        raise Rejected("out_of_bounds")


def _check_checkpoint(value):
    if len(value["blocks"]) != -(-value["length"] // BLOCK):
        raise Rejected("out_of_bounds")


BLOCK_AT = Struct(("place", Int(4, high=4096)), ("crc32", U32))
MUTATION = Struct(
    ("request", REQUEST_OR_NONE), ("kind", Enum({1: "write", 2: "append"})), ("flags", Flags(3)),
    (None, Reserved(2)), ("offset", U32), ("length", U32), ("crc32", U32),
    ("blocks", ListOf(BLOCK_AT, 1024)), check=_check_mutation,
)
ID_ROW = Struct(
    ("session", U64), ("number", U64),
    ("kind", Enum({1: "write", 2: "append", 3: "floor", 4: "ended"})), (None, Reserved(3)),
    ("offset", U32), ("length", U32), ("crc32", U32), check=_check_row,
)
_OF_FILE = (("file_id", U64), ("index", U32))
_SEALED = (("base_version", U64), ("length", LENGTH), ("data_crc32", U32))
FROM = Choice(
    "from", Enum({1: "made", 2: "sealed", 3: "open"}),
    {"made": Struct(*_OF_FILE), "sealed": Struct(*_OF_FILE, *_SEALED), "open": Struct(*_OF_FILE)},
)
PROMISED = Struct(("promised_version", U64), ("epoch", EPOCH))
BEGUN = Struct(("serial", U64), ("memory", BOOL), ("base", FROM))
PREPARED = Struct(
    ("serial", U64), ("length", LENGTH), ("data_crc32", U32), ("crc_page_crc32", U32),
    ("id_table_length", U32), ("id_table_crc32", U32), ("sessions_end", U64),
    ("form", Enum({1: "in_place", 2: "sealing"})),
)
CHECKPOINT = Struct(
    ("serial", U64), ("begin_serial", U64), ("promised_version", U64), ("memory", BOOL),
    ("base", FROM), ("length", LENGTH), ("blocks", ListOf(BLOCK_AT, 1024)),
    ("ids", ListOf(ID_ROW, 32768)), ("more", BOOL), check=_check_checkpoint,
)


class Applied:
    """Mutations, and behind them the bytes of those that have the bit 2."""

    head = Struct(
        ("first_serial", U64), ("commit_mark", U64), ("mutations", ListOf(MUTATION, 160)),
    )

    def decode(self, data, _given):
        reader = Reader(data)
        value = self.head.decode(reader)
        count, first = len(value["mutations"]), number(value["first_serial"])
        if count == 0 or first == 0 or first + count - 1 >= 1 << 64:
            raise Rejected("out_of_bounds")
        here = sum(one["length"] for one in value["mutations"] if one["flags"] & 2)
        value["bytes"] = digits(reader.take(here))
        if reader.left:
            raise Rejected("trailing_bytes")
        return value

    def encode(self, fields, _given):
        head = {name: one for name, one in fields.items() if name != "bytes"}
        return self.head.encode(head) + octets(fields["bytes"])


class _Body:
    def __init__(self, kind):
        self.kind = kind

    def decode(self, data, _given):
        return whole(self.kind, data)

    def encode(self, fields, _given):
        return self.kind.encode(fields)


KINDS = {
    "journal_segment": Segment(),
    "patch_header": PatchHeader(),
    "journal_entry": Entry(),
    "journal_mark": Mark(),
    "promised": _Body(PROMISED),
    "begun": _Body(BEGUN),
    "applied": Applied(),
    "prepared": _Body(PREPARED),
    "checkpoint": _Body(CHECKPOINT),
}
