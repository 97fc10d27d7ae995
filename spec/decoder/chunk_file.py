"""chunk-file.md: header slots, header pages, CRC pages and `IDENTITY`."""

import zlib

from .fields import U32, U64, Array, Bytes, Enum, Reader, Rejected, Reserved, Struct, number

BLOCK = 65536
BLOCKS = 1024
SLOT = 512
SLOT_PLACES = (0, 2048)
PAGE = 4096


def chunk_size_valid(size):
    return size in {1 << power for power in range(20, 27)}


def is_zero(value):
    return not (number(value) if isinstance(value, str) else value)


class _Sealed:
    """A structure that begins with a magic and a format version and ends with its own CRC. The
    sizes and the first checks are the same for slots and `IDENTITY`."""

    def __init__(self, size, magic, fields):
        self.size, self.magic, self.fields = size, magic, fields

    def opened(self, data):
        """The data behind the format version, once length, magic, CRC and version are right."""
        if data[:8] != self.magic:
            raise Rejected("bad_magic")
        if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
            raise Rejected("bad_crc")
        if int.from_bytes(data[8:10], "little") != 1:
            raise Rejected("unknown_format_version")
        return data[10:-4]

    def encode(self, fields):
        data = self.magic + (1).to_bytes(2, "little") + self.fields.encode(fields)
        return data + zlib.crc32(data).to_bytes(4, "little")


# Section 4.

STATES = {1: "pending", 2: "open", 3: "sealed"}
UNSYNCED = 1
_ID = Bytes(16)
_SLOT_FIELDS = Struct(
    ("state", Enum(STATES, width=2)), ("flags", U32), ("generation", U64), ("cluster_id", _ID),
    ("directory_id", _ID), ("handle", U64), ("version", U64), ("promised_version", U64),
    ("begin_serial", U64), ("serial", U64), ("file_id", U64), ("index", U32), ("chunk_size", U32),
    ("length", U32), ("data_crc32", U32), ("crc_page_crc32", U32), ("id_table_length", U32),
    ("id_table_crc32", U32), (None, Reserved(4)), ("clone_handle", U64), ("clone_version", U64),
    ("last_verified", U64), (None, Reserved(348)),
)


class Slot(_Sealed):
    def __init__(self):
        super().__init__(SLOT, b"SARSENCK", _SLOT_FIELDS)

    def decode(self, data, _given=None):
        if len(data) != SLOT:
            raise Rejected("wrong_length")
        if not any(data):
            raise Rejected("blank")
        rest = self.opened(data)
        if int.from_bytes(rest[:2], "little") not in STATES:
            raise Rejected("unknown_state")
        if int.from_bytes(rest[2:6], "little") > 7:
            raise Rejected("unknown_flag")
        value = self.fields.decode(Reader(rest))
        for error, right in self._checks(value):
            if not right:
                raise Rejected(error)
        return value

    def encode(self, fields, _given=None):
        return super().encode(fields)

    @staticmethod
    def _checks(value):
        """Section 4.2 from `id_missing` on."""
        n = lambda name: number(value[name])
        ids = ("generation", "cluster_id", "directory_id", "handle", "version")
        contents = ("length", "data_crc32", "crc_page_crc32", "id_table_length", "id_table_crc32")
        yield "id_missing", not any(is_zero(value[name]) for name in ids)
        yield "chunk_size_invalid", chunk_size_valid(value["chunk_size"])
        yield "length_out_of_bounds", value["length"] <= value["chunk_size"]
        table, table_crc = value["id_table_length"], value["id_table_crc32"]
        yield "id_table_invalid", table <= 1 << 24 and (table or not table_crc)
        yield "promise_below_version", n("promised_version") >= n("version")
        yield "serial_below_begin", n("serial") >= n("begin_serial")
        yield "clone_incomplete", (n("clone_handle") == 0) == (n("clone_version") == 0)
        yield "pending_not_empty", value["state"] != "pending" or not any(map(value.get, contents))
        yield "flag_unexpected", value["state"] == "sealed" or not value["flags"] & UNSYNCED


# Section 5.


class HeaderPage:
    SAME = ("cluster_id", "directory_id", "handle", "chunk_size")

    def decode(self, data, _given):
        if len(data) != PAGE:
            raise Rejected("wrong_length")
        slots = [self._slot(data, place) for place in range(2)]
        valid = [(place, slot) for place, slot in enumerate(slots) if isinstance(slot, dict)]
        if not valid:
            raise Rejected("blank" if slots == ["blank", "blank"] else "no_valid_slot")
        if len(valid) == 2:
            (_, one), (_, two) = valid
            if any(one[name] != two[name] for name in self.SAME):
                raise Rejected("slots_disagree")
            place, slot = max(valid, key=lambda pair: number(pair[1]["generation"]))
            return {**slot, "slot": place, "doubtful": False}
        place, slot = valid[0]
        if number(slot["generation"]) <= 2 and slots[1 - place] == "blank":
            return {**slot, "slot": place, "doubtful": False}
        if slot["state"] == "sealed":
            return {**slot, "slot": place, "doubtful": True}
        raise Rejected("newest_slot_lost")

    @staticmethod
    def _slot(data, place):
        """What a slot is: its fields, `blank`, or another error's name."""
        begin = SLOT_PLACES[place]
        try:
            slot = Slot().decode(data[begin : begin + SLOT])
        except Rejected as error:
            return error.name
        if (number(slot["generation"]) - 1) % 2 != place:
            return "slot_misplaced"
        return slot

    encode = None


# Section 6.


def _times(matrix, vector):
    total = 0
    for row in matrix:
        if not vector:
            break
        if vector & 1:
            total ^= row
        vector >>= 1
    return total


def crc_combine(first, second, second_len):
    """The CRC of two pieces one behind the other, as zlib's `crc32_combine`: `first` is moved on
    by `second_len` zero bytes, by squaring the matrix that moves a CRC on by one bit."""
    matrix = [0xEDB88320] + [1 << bit for bit in range(31)]
    bits = second_len * 8
    while bits:
        if bits & 1:
            first = _times(matrix, first)
        matrix = [_times(matrix, row) for row in matrix]
        bits >>= 1
    return first ^ second


class CrcPage:
    """`given` has the header's `length`, `data_crc32` and `crc_page_crc32`."""

    def decode(self, data, given):
        if len(data) != PAGE:
            raise Rejected("wrong_length")
        if zlib.crc32(data) != given["crc_page_crc32"]:
            raise Rejected("bad_crc")
        entries = [int.from_bytes(data[at : at + 4], "little") for at in range(0, PAGE, 4)]
        count = -(-given["length"] // BLOCK)
        if any(entries[count:]):
            raise Rejected("entry_beyond_length")
        total = 0
        for index, entry in enumerate(entries[:count]):
            total = crc_combine(total, entry, min(BLOCK, given["length"] - index * BLOCK))
        if total != given["data_crc32"]:
            raise Rejected("data_crc_mismatch")
        return {"block_crcs": entries[:count]}

    def encode(self, fields, _given):
        return b"".join(U32.encode(crc) for crc in fields["block_crcs"]).ljust(PAGE, b"\0")


# Section 8.

POISONED, STALE = 2, 4
_IDENTITY_FIELDS = Struct(
    (None, Reserved(2)), ("flags", U32), ("cluster_id", _ID), ("directory_id", _ID),
    ("server_id", U64), ("start_number", U64), ("start_nonce", U64), ("epoch_number", U64),
    ("epoch_incarnation", U64), ("chunk_size", U32), (None, Reserved(4)),
    ("registered_number", U64), ("registered_nonce", U64), ("offered", Array(U64, 16)),
    (None, Reserved(12)),
)


class Identity(_Sealed):
    SIZE = 256

    def __init__(self):
        super().__init__(self.SIZE, b"SARSENID", _IDENTITY_FIELDS)

    def decode(self, data, _given=None):
        if len(data) != self.SIZE:
            raise Rejected("wrong_length")
        rest = self.opened(data)
        if int.from_bytes(rest[2:6], "little") & ~(POISONED | STALE):
            raise Rejected("unknown_flag")
        value = self.fields.decode(Reader(rest))
        for error, right in self._checks(value):
            if not right:
                raise Rejected(error)
        return value

    def encode(self, fields, _given=None):
        return super().encode(fields)

    @staticmethod
    def _checks(value):
        missing = [name for name in value if name != "offered" and is_zero(value[name])]
        adoption = {"cluster_id", "server_id", "chunk_size"}
        yield "id_missing", not {"directory_id", "start_number", "start_nonce"} & set(missing)
        yield "epoch_invalid", "epoch_number" not in missing or "epoch_incarnation" in missing
        registered = {"registered_number", "registered_nonce"}
        later = number(value["registered_number"]) > number(value["start_number"])
        nonces = [is_zero(nonce) for nonce in value["offered"]]
        yield "starts_invalid", (
            not later and len(registered & set(missing)) != 1 and nonces == sorted(nonces))
        yield "half_adopted", len(adoption & set(missing)) in (0, len(adoption))
        adopted = "chunk_size" not in missing
        yield "chunk_size_invalid", not adopted or chunk_size_valid(value["chunk_size"])


KINDS = {
    "chunk_header_slot": Slot(),
    "chunk_header_page": HeaderPage(),
    "crc_page": CrcPage(),
    "identity": Identity(),
}
