"""oplog.md: entries, marks, segment headers and checkpoints as files."""

import hashlib
import zlib

from .fields import Reader, Rejected, digits, number, octets, word

HEADER = 128
BODY_MOST = 16 << 20
PIECE_MOST = 1 << 20


class _Header:
    """The bytes of one 128-byte header."""

    def __init__(self, data, magic):
        if len(data) < HEADER:
            raise Rejected("truncated")
        self.data = data[:HEADER]
        if self.data[4:8] != magic:
            raise Rejected("magic_wrong")
        if self.integer(0, 4) != zlib.crc32(self.data[4:]):
            raise Rejected("header_crc_wrong")

    def integer(self, at, width):
        return int.from_bytes(self.data[at : at + width], "little")

    def words(self, **places):
        return {name: word(self.integer(at, 8)) for name, at in places.items()}

    def sixteen(self, **places):
        return {name: digits(self.data[at : at + 16]) for name, at in places.items()}

    def reserved(self, *ranges):
        if any(any(self.data[begin:end]) for begin, end in ranges):
            raise Rejected("reserved_not_zero")


def _seal(magic, *parts):
    """A header of these parts, behind its CRC and magic."""
    rest = magic + b"".join(parts)
    rest += bytes(HEADER - 4 - len(rest))
    return zlib.crc32(rest).to_bytes(4, "little") + rest


def _u(width, value):
    return (number(value) if width == 8 else value).to_bytes(width, "little")


def chain_value(header, body):
    return hashlib.sha256(header + body).digest()[:16]


_ENTRY_WORDS = {
    "term": 24, "index": 32, "synced_index": 40, "time": 48, "session": 56, "number": 64,
    "lowest_outstanding": 72,
}
_ENTRY_IDS = {"chain_before": 80, "cluster": 96}


def _entry_header(data):
    """The checks of section 4 down to `mark_invalid`."""
    header = _Header(data, b"SENT")
    if header.integer(10, 2):
        raise Rejected("flags_unknown")
    header.reserved((20, 24), (112, 128))
    index, synced = header.integer(32, 8), header.integer(40, 8)
    if index == 0 or synced >= index:
        raise Rejected("index_wrong")
    if header.integer(12, 4) > BODY_MOST:
        raise Rejected("body_too_long")
    session, number_, lowest = (header.integer(at, 8) for at in (56, 64, 72))
    if session or number_ or lowest:
        if session == 0 or lowest == 0 or lowest > number_:
            raise Rejected("request_id_invalid")
    if header.integer(8, 2) == 0:
        no_body = header.integer(12, 4) == 0 and header.integer(16, 4) == 0
        if not no_body or session or number_ or lowest or synced != index - 1:
            raise Rejected("mark_invalid")
    return header


def _entry_or_mark(data):
    """Every check of section 4; the header and the body."""
    header = _entry_header(data)
    length = header.integer(12, 4)
    padded = -(-length // 8) * 8
    rest = data[HEADER:]
    if len(rest) < padded:
        raise Rejected("truncated")
    body = rest[:length]
    if zlib.crc32(body) != header.integer(16, 4):
        raise Rejected("body_crc_wrong")
    if any(rest[length:padded]):
        raise Rejected("padding_not_zero")
    return header, body, rest[padded:]


def _encode_entry(kind, fields, body):
    return _seal(
        b"SENT", _u(2, kind), bytes(2), _u(4, len(body)), _u(4, zlib.crc32(body)), bytes(4),
        *(_u(8, fields[name]) for name in _ENTRY_WORDS),
        *(octets(fields[name]) for name in _ENTRY_IDS),
    )


class Entry:
    def decode(self, data, _given):
        header, body, rest = _entry_or_mark(data)
        kind = header.integer(8, 2)
        if kind == 0:
            raise Rejected("kind_wrong")
        if rest:
            raise Rejected("trailing_bytes")
        return {
            "kind": kind, **header.words(**_ENTRY_WORDS), **header.sixteen(**_ENTRY_IDS),
            "body": digits(body), "chain": digits(chain_value(header.data, body)),
        }

    def encode(self, fields, _given):
        body = octets(fields["body"])
        return _encode_entry(fields["kind"], fields, body) + body + bytes(-len(body) % 8)


class Mark:
    def decode(self, data, _given):
        header, _, rest = _entry_or_mark(data)
        if header.integer(8, 2):
            raise Rejected("kind_wrong")
        if rest:
            raise Rejected("trailing_bytes")
        return {**header.words(term=24, index=32, time=48), **header.sixteen(**_ENTRY_IDS)}

    def encode(self, fields, _given):
        synced = word(number(fields["index"]) - 1)
        none = {name: word(0) for name in ("session", "number", "lowest_outstanding")}
        return _encode_entry(0, {**fields, **none, "synced_index": synced}, b"")


def _check_container(data, header, reserved, index_at):
    """The checks that segments and checkpoints share, in the order of section 5."""
    if header.integer(8, 2) != 1:
        raise Rejected("version_unknown")
    if header.integer(10, 2):
        raise Rejected("flags_unknown")
    header.reserved(*reserved)
    if header.integer(index_at, 8) == 0:
        raise Rejected("index_wrong")
    if len(data) > HEADER:
        raise Rejected("trailing_bytes")


class Segment:
    def decode(self, data, _given):
        header = _Header(data, b"SSEG")
        _check_container(data, header, ((12, 16), (64, 128)), 16)
        return {
            "version": 1, **header.words(first_index=16, last_term=24),
            **header.sixteen(chain_before=32, cluster=48),
        }

    def encode(self, fields, _given):
        return _seal(
            b"SSEG", _u(2, fields["version"]), bytes(6), _u(8, fields["first_index"]),
            _u(8, fields["last_term"]), octets(fields["chain_before"]), octets(fields["cluster"]),
        )


class CheckpointHeader:
    _WORDS = {"body_len": 16, "last_index": 24, "last_term": 32, "time": 40}

    def decode(self, data, _given):
        header = _Header(data, b"SCKP")
        _check_container(data, header, ((80, 128),), 24)
        return {
            "version": 1, "body_crc": header.integer(12, 4), **header.words(**self._WORDS),
            **header.sixteen(chain=48, cluster=64),
        }

    def encode(self, fields, _given):
        return _seal(
            b"SCKP", _u(2, fields["version"]), bytes(2), _u(4, fields["body_crc"]),
            *(_u(8, fields[name]) for name in self._WORDS),
            octets(fields["chain"]), octets(fields["cluster"]),
        )


class CheckpointPiece:
    def decode(self, data, _given):
        reader = Reader(data)
        length, crc = reader.integer(4), reader.integer(4)
        if not 0 < length <= PIECE_MOST:
            raise Rejected("piece_len_wrong")
        payload = reader.take(length)
        if zlib.crc32(payload) != crc:
            raise Rejected("piece_crc_wrong")
        if reader.left:
            raise Rejected("trailing_bytes")
        return {"payload": digits(payload)}

    def encode(self, fields, _given):
        payload = octets(fields["payload"])
        return _u(4, len(payload)) + _u(4, zlib.crc32(payload)) + payload


KINDS = {
    "oplog_entry": Entry(),
    "oplog_mark": Mark(),
    "oplog_segment": Segment(),
    "checkpoint_header": CheckpointHeader(),
    "checkpoint_piece": CheckpointPiece(),
}
