"""records.md: records, and the id table of a chunk."""

import zlib

from .fields import Rejected, digits, number, octets, word

RECORD_MOST = 1 << 24
CHUNK_MOST = 1 << 26
KINDS_OF_ROWS = {1: "write", 2: "append", 3: "floor", 4: "ended"}


def _integer(data, at, width):
    return int.from_bytes(data[at : at + width], "little")


def _u(width, value):
    return (number(value) if width == 8 else value).to_bytes(width, "little")


class Record:
    """A record with nothing behind it."""

    def decode(self, data, _given):
        if len(data) < 32:
            raise Rejected("truncated")
        if data[4:8] != b"SREC":
            raise Rejected("bad_magic")
        if any(data[12:16]):
            raise Rejected("reserved_not_zero")
        length = _integer(data, 8, 4)
        if 32 + length > RECORD_MOST:
            raise Rejected("too_long")
        if len(data) < 32 + length:
            raise Rejected("truncated")
        whole = data[: 32 + length]
        if zlib.crc32(whole[4:]) != _integer(data, 0, 4):
            raise Rejected("bad_crc")
        session, request = _integer(data, 16, 8), _integer(data, 24, 8)
        if not session or not request:
            raise Rejected("id_missing")
        if len(data) > len(whole):
            raise Rejected("trailing_bytes")
        return {"session": word(session), "number": word(request), "payload": digits(whole[32:])}

    def encode(self, fields, _given):
        payload = octets(fields["payload"])
        rest = (
            b"SREC" + _u(4, len(payload)) + bytes(4) + _u(8, fields["session"])
            + _u(8, fields["number"]) + payload
        )
        return zlib.crc32(rest).to_bytes(4, "little") + rest


def _row(data):
    kind = data[16]
    if kind not in KINDS_OF_ROWS:
        raise Rejected("unknown_value")
    if any(data[17:20]) or (kind > 2 and any(data[20:])):
        raise Rejected("reserved_not_zero")
    session, request = _integer(data, 0, 8), _integer(data, 8, 8)
    if not session or not request:
        raise Rejected("id_missing")
    offset, length = _integer(data, 20, 4), _integer(data, 24, 4)
    if offset + length > CHUNK_MOST or (kind == 4 and request != 1):
        raise Rejected("out_of_bounds")
    return session, request, kind, offset, length, _integer(data, 28, 4)


def _check_order(rows):
    ids = [row[:2] for row in rows if row[2] < 3]
    floors = [row[:2] for row in rows if row[2] == 3]
    ended = [row[0] for row in rows if row[2] == 4]
    places = [row[:3] for row in rows]
    rising = all(one < other for one, other in zip(places, places[1:]))
    single = len(set(ids)) == len(ids) and len({one for one, _ in floors}) == len(floors)
    above = all(ids_number >= dict(floors).get(session, 0) for session, ids_number in ids)
    if not (rising and single and above and len(ended) <= 1):
        raise Rejected("out_of_order")
    if ended and any(row[0] < ended[0] for row in rows):
        raise Rejected("out_of_order")


class IdTable:
    """A whole table; `given` has its CRC."""

    def decode(self, data, given):
        if len(data) % 32 or len(data) > 1 << 24:
            raise Rejected("wrong_length")
        if zlib.crc32(data) != given["id_table_crc32"]:
            raise Rejected("bad_crc")
        rows = [_row(data[at : at + 32]) for at in range(0, len(data), 32)]
        _check_order(rows)
        return {
            "rows": [
                {
                    "session": word(row[0]), "number": word(row[1]), "kind": KINDS_OF_ROWS[row[2]],
                    "offset": row[3], "length": row[4], "crc32": row[5],
                }
                for row in rows
            ]
        }

    def encode(self, fields, _given):
        numbers = {name: value for value, name in KINDS_OF_ROWS.items()}
        return b"".join(
            _u(8, row["session"]) + _u(8, row["number"]) + bytes([numbers[row["kind"]], 0, 0, 0])
            + _u(4, row["offset"]) + _u(4, row["length"]) + _u(4, row["crc32"])
            for row in fields["rows"]
        )


KINDS = {"record": Record(), "id_table": IdTable()}
