"""messages.md: every message, by its kind."""

from .fields import (
    ADDRESS, BOOL, EMPTY, EPOCH, PATH, REQUEST, REQUEST_OR_NONE, U8, U16, U32, U64,
    Array, Bytes, Enum, Flags, Int, ListOf, Rejected, Reserved, Struct, Text, number, whole, word,
)
from .wire import (
    BLOCK, CONTROL, DATA, ERROR_BODY, HELLO, HELLO_PROOF, HELLO_REPLY, MIB, PLACES, TICKET,
    check_pieces,
)

# Section 2.

LEVEL = Enum({1: "memory", 2: "disk"})
NODE_TYPE = Enum({1: "file", 2: "folder"})
CHUNK_STATE = Enum({1: "pending", 2: "open", 3: "sealed"})
DISK_STATE = Enum({1: "ok", 2: "failed", 3: "full"})
SERVER_STATE = Enum({1: "live", 2: "dead", 3: "draining", 4: "drained"})
FINDING = Enum({
    1: "missing", 2: "under_replicated", 3: "stale", 4: "corrupt", 5: "unavailable",
    6: "possible_loss",
})
REPLICA_FAULT = Enum({1: "crc_mismatch", 2: "unreachable", 3: "medium_failed", 4: "wrong_version"})
WANT = Enum({1: "sealed", 2: "plain", 3: "newest"})

HOP = Struct(("server", U64), ("data_addr", ADDRESS))
NODE = Struct(
    ("file_id", U64), ("type", NODE_TYPE), ("size", U64), ("mtime", U64), ("replicas", U8),
    ("chunks", U32), ("sealed", BOOL), ("crc32", U32),
)
DISK = Struct(
    ("directory_id", Bytes(16)), ("path", PATH), ("total", U64), ("free", U64), ("chunks", U64),
    ("state", DISK_STATE),
)

NAME = Text(255)
PAGE = Int(4, 1, 10_000)
CHAIN_MOST = 16


def ids(*names):
    """Fields that are all `u64`."""
    return tuple((name, U64) for name in names)


# Sections 4 to 6.

ALLOCATION = Struct(
    ("index", U32), *ids("handle", "version"), ("ticket", TICKET),
    ("chain", ListOf(HOP, CHAIN_MOST)),
)
SEALED_CHUNK = Struct(
    ("index", U32), *ids("handle", "version"), ("length", U32), ("crc32", U32),
    ("servers", ListOf(U64, 16)),
)

# Sections 7 and 8.

ENTRY = Struct(("name", NAME), ("node", NODE))
REPLICA = Struct(("server", U64), ("control_addr", ADDRESS), ("data_addr", ADDRESS))
LOCATED_CHUNK = Struct(
    ("index", U32), *ids("handle", "version"), ("length", U32), ("crc32", U32),
    ("state", CHUNK_STATE), ("primary", U64), ("ticket", TICKET), ("replicas", ListOf(REPLICA, 64)),
)
TRASH_ENTRY = Struct(("entry", U64), ("path", PATH), ("deleted", U64), ("node", NODE))
FINDING_ROW = Struct(
    ("finding", FINDING), ("handle", U64), ("path", PATH), ("want", U8), ("have", U8),
    ("server", U64),
)
SERVER = Struct(
    ("id", U64), ("control_addr", ADDRESS), ("data_addr", ADDRESS), ("http_addr", ADDRESS),
    ("rack", NAME), ("state", SERVER_STATE), ("last_heartbeat", U32), ("disks", ListOf(DISK, 256)),
)

REPAIRS = Struct(("waiting", U64), ("running", U32), *ids("done", "failed"))

# Section 9.


def check_directory(value):
    if value["disk"]["directory_id"] != value["directory_id"]:
        raise Rejected("out_of_bounds")



DIRECTORY = Struct(
    ("directory_id", Bytes(16)), *ids("start_number", "start_nonce"), ("disk", DISK),
    *ids("highest_handle", "highest_version", "registered_number", "registered_nonce"),
    ("offered", ListOf(U64, 16)), check=check_directory,
)
TICKET_KEY = Struct(("key_id", U32), ("key", Bytes(32)))
VERDICT = Struct(("directory_id", Bytes(16)), ("status", U16))
DISK_BEAT = Struct(("disk", DISK), ("beat_age", U32))
CORRUPT_CHUNK = Struct(*ids("handle", "version"), ("directory_id", Bytes(16)))
HEAT = Struct(("handle", U64), ("reads", U32))
HELD_CHUNK = Struct(
    *ids("handle", "version", "serial"), ("length", U32), ("crc32", U32), ("state", CHUNK_STATE),
    ("flags", Flags(31)), ("file_id", U64), ("index", U32),
)

# Sections 10 to 13.

ORDER = Struct(("epoch", EPOCH), *ids("handle", "version"))
CRCS = Array(U32, PLACES)
MEMBER_LEVEL = Struct(("server", U64), ("level", LEVEL))


def check_write_open(value):
    if value["position"] >= len(value["chain"]):
        raise Rejected("out_of_bounds")


def check_copy(value):
    if value["void_up_to"] < value["version"]:
        raise Rejected("out_of_bounds")


def check_read(value):
    if value["offset"] + value["length"] > 64 * MIB:
        raise Rejected("out_of_bounds")


def check_write_data(value, given):
    if given["payload_len"] == 0:
        raise Rejected("out_of_bounds")
    check_pieces(value, given["payload_len"])


def check_read_cut(value):
    end = value["offset"] + value["length"]
    if end > 64 * MIB or value["offset"] // BLOCK != (end - 1) // BLOCK:
        raise Rejected("out_of_bounds")


def check_cut_data(value, given):
    offset, length = value["offset"], given["payload_len"]
    if length == 0:
        crcs = (value["block_crc"], value["before"], value["behind"])
        right = offset >= value["chunk_length"] and crcs == (0, 0, 0)
    else:
        end = offset + length
        right = (
            end <= min(value["chunk_length"], 64 * MIB)
            and offset // BLOCK == (end - 1) // BLOCK
        )
    if not right:
        raise Rejected("out_of_bounds")


def check_read_data(value, given):
    length = value["chunk_length"]
    end = value["offset"] + given["payload_len"]
    if given["payload_len"] == 0:
        right = value["offset"] >= length
    else:
        right = end == length or (end < length and end % BLOCK == 0)
    if not right:
        raise Rejected("out_of_bounds")
    check_pieces(value, given["payload_len"])


# Section 14.


def check_prepared(value):
    nothing = value["version"] == word(0)
    if nothing and (value["serial"] != word(0) or any(value[name] for name in PREPARED_SIZES)):
        raise Rejected("out_of_bounds")


PREPARED_SIZES = ("length", "crc32", "id_table_length", "id_table_crc32")
ID_TABLE_LENGTH = Int(4, 0, 2**24, step=32)
MEMBER_STATE = Struct(("server", U64), ("directory_id", Bytes(16)), ("start_number", U64))
PREPARED_SEAL = Struct(
    *ids("version", "serial"), ("length", Int(4, 0, 64 * MIB)), ("crc32", U32),
    ("id_table_length", ID_TABLE_LENGTH), ("id_table_crc32", U32), check=check_prepared,
)
ALL_BYTES = 2**32 - 1


CHAIN_TROUBLE = Enum({
    1: "hop_failed", 2: "promise_refused", 3: "full", 4: "wants_memory", 5: "nearly_full",
    6: "wants_seal", 7: "corrupt",
})
HELD_LEASE = Struct(*ids("handle", "version"), ("length", U32), ("serial", U64))
EXTENDED_LEASE = Struct(*ids("handle", "version"), ("lease", U32))
LAST_CHUNK = 2**32 - 1


def check_open_chunk(value):
    if value["index"] != LAST_CHUNK and value["after"] != word(0):
        raise Rejected("out_of_bounds")


def bounds(right):
    if not right:
        raise Rejected("out_of_bounds")


def check_part(value, rows):
    """A part of a record, where the frame holds one."""
    offset, whole_length = value["part_offset"], value["whole_length"]
    if whole_length == 0:
        bounds(offset == 0)
        return
    bounds(len(rows) == 1 and MIB < whole_length <= 16 * MIB and offset % BLOCK == 0)
    end = offset + rows[0]["length"]
    bounds(end == whole_length or (end < whole_length and end % BLOCK == 0))


def check_append(value):
    session, lowest = number(value["session"]), number(value["lowest_outstanding"])
    numbers = [number(item["number"]) for item in value["items"]]
    if session == 0 or lowest == 0 or min(numbers) < lowest:
        raise Rejected("request_id_invalid")
    bounds(all(one < following for one, following in zip(numbers, numbers[1:])))
    check_part(value, value["items"])
    pieces = sum(-(-item["length"] // BLOCK) for item in value["items"])
    bounds(pieces == len(value["crcs"]))


def check_ids(value):
    length, rows = value["table_length"], value["rows"]
    bounds((value["first_row"] + len(rows)) * 32 <= length and bool(rows) == bool(length))


def check_result(value):
    if value["status"]:
        sizes = [value["copies"], value["offset"], value["length"], number(value["serial"])]
        bounds(not any(sizes))
    else:
        bounds(value["offset"] + value["length"] <= 64 * MIB)


def check_write_batch(value):
    rows, first = value["rows"], number(value["first_serial"])
    bounds(number(value["commit_mark"]) < first and first + len(rows) - 1 < 2**64)
    check_part(value, rows)
    if value["whole_length"]:
        bounds(rows[0]["kind"] == "append")
    pieces = 0
    for row in rows:
        bounds(row["offset"] + (value["whole_length"] or row["length"]) <= 64 * MIB)
        start = row["offset"] + value["part_offset"]
        pieces += (start + row["length"] - 1) // BLOCK - start // BLOCK + 1
    bounds(pieces == len(value["crcs"]))


def check_found(value):
    most = 0 if value["kind"] == "floor" else 64 * MIB
    bounds(value["offset"] + value["length"] <= most)


def check_lengths(rows):
    """The lengths of these rows make the payload."""
    return lambda value, given: bounds(
        sum(row["length"] for row in value[rows]) == given["payload_len"])


APPEND_ITEM = Struct(("number", U64), ("length", Int(4, 1)))
APPEND_RESULT = Struct(
    ("number", U64), ("status", U16), ("level", LEVEL), ("copies", U8), ("offset", U32),
    ("length", U32), ("serial", U64), check=check_result,
)
FOUND = Struct(
    ("number", U64), ("kind", Enum({1: "write", 2: "append", 3: "floor"})), ("offset", U32),
    ("length", U32), check=check_found,
)
BATCH_ROW = Struct(
    ("request", REQUEST), ("kind", Enum({1: "write", 2: "append"})), (None, Reserved(3)),
    ("offset", U32), ("length", Int(4, 1)),
)


def check_begin(value):
    clone = [number(value[name]) for name in ("clone_handle", "clone_version")]
    clone.append(value["clone_length"])
    if value["create"]:
        sizes = [2**power for power in range(20, 27)]
        right = value["chunk_size"] in sizes and clone[2] <= value["chunk_size"]
        right = right and (clone[0] != 0 or not any(clone))
    else:
        made = [number(value["file_id"]), value["index"], value["chunk_size"], *clone]
        right = not any(made)
    if not right:
        raise Rejected("out_of_bounds")


def check_prepare_seal(value):
    if 64 * MIB < value["length"] != ALL_BYTES:
        raise Rejected("out_of_bounds")


def check_seal_prepared(value):
    if value["prepared"]["version"] == word(0):
        raise Rejected("out_of_bounds")


BOTH = (CONTROL, DATA)
ON_CONTROL = (CONTROL,)
ON_DATA = (DATA,)


class Message:
    """A kind of section 1: its name, planes and body."""

    def __init__(self, name, planes, body, check=None):
        self.name, self.planes, self.body, self.check = name, planes, body, check
        self.payload = check is not None

    def decode(self, data, given):
        value = whole(self.body, data)
        if self.check:
            self.check(value, given)
        return value

    def encode(self, value, _given):
        return self.body.encode(value)


def _pair(table, kind, planes, request, request_body, reply, reply_body):
    table[kind] = Message(request, planes, request_body)
    table[kind + 1] = Message(reply, planes, reply_body)


def _connection(table):
    _pair(table, 0x0002, BOTH, "Hello", HELLO, "HelloReply", HELLO_REPLY)
    _pair(table, 0x0004, BOTH, "HelloProof", HELLO_PROOF, "HelloDone", EMPTY)
    table[0x0006] = Message("Goodbye", BOTH, ERROR_BODY)
    _pair(table, 0x0008, ON_CONTROL, "Ping", EMPTY, "Pong", EMPTY)


def _changes(table):
    def pair(kind, request, fields, reply, reply_fields):
        _pair(table, kind, ON_CONTROL, request, Struct(*fields), reply, Struct(*reply_fields))

    mutating = ("request", REQUEST)
    pair(0x0100, "OpenSession", [("nonce", Bytes(16)), ("name", NAME)],
         "SessionOpened", [
             ("session", U64), ("expiry", U32), ("chunk_size", U32), ("replicas", U8),
             ("min_replicas", U8), ("lease", U32), ("suspect_after", U32)])
    pair(0x0102, "KeepSession", [("session", U64)], "SessionKept", [])
    pair(0x0104, "CloseSession", [("session", U64)], "SessionClosed", [])
    pair(0x0110, "MakeFolder", [mutating, ("path", PATH), ("parents", BOOL)],
         "FolderMade", [("file_id", U64)])
    pair(0x0112, "CreatePending", [
             mutating, ("path", PATH), ("replicas", Int(1, 0, 16)), ("level", LEVEL),
             ("force", BOOL), ("parents", BOOL), ("count", Int(2, 0, 256))],
         "PendingCreated", [("file_id", U64), ("chunk_size", U32), ("replicas", U8),
                            ("chunks", ListOf(ALLOCATION, 256))])
    pair(0x0114, "AllocateChunks", [
             ("session", U64), ("file_id", U64), ("first_index", U32), ("count", Int(2, 1, 256)),
             ("fewest", U8), ("exclude", ListOf(U64, 64))],
         "ChunksAllocated", [("chunks", ListOf(ALLOCATION, 256))])
    pair(0x0116, "Publish", [
             mutating, ("file_id", U64), ("path", PATH), ("force", BOOL), ("purge", BOOL),
             ("parents", BOOL), ("size", U64), ("chunks", ListOf(SEALED_CHUNK, 262_144))],
         "Published", [("node", NODE)])
    pair(0x0118, "AbortPending", [mutating, ("file_id", U64)], "PendingAborted", [])
    pair(0x011A, "Rename", [mutating, ("source", PATH), ("target", PATH)], "Renamed", [])
    pair(0x011C, "Remove", [mutating, ("path", PATH), ("recursive", BOOL), ("purge", BOOL)],
         "Removed", ids("files", "bytes"))
    pair(0x011E, "RestoreTrash", [mutating, ("entry", U64), ("target", PATH)],
         "TrashRestored", [("path", PATH)])
    pair(0x0120, "EmptyTrash", [mutating, ("entry", U64)], "TrashEmptied", ids("entries", "bytes"))
    pair(0x0122, "MakeFile", [
             mutating, ("path", PATH), ("replicas", Int(1, 0, 16)), ("parents", BOOL)],
         "FileMade", [("node", NODE)])


def _questions(table):
    def pair(kind, request, fields, reply, reply_fields):
        _pair(table, kind, ON_CONTROL, request, Struct(*fields), reply, Struct(*reply_fields))

    pair(0x0130, "Stat", [("path", PATH)], "StatReply", [("node", NODE)])
    pair(0x0132, "List", [("path", PATH), ("after", NAME), ("limit", PAGE)],
         "ListReply", [("entries", ListOf(ENTRY, 10_000)), ("more", BOOL)])
    pair(0x0134, "Locate", [
             ("path", PATH), ("file_id", U64), ("first_index", U32), ("count", Int(4, 1, 4096))],
         "LocateReply", [
             ("node", NODE), ("chunk_size", U32), ("slots", U32), ("suspect_after", U32),
             ("lease", U32), ("chunks", ListOf(LOCATED_CHUNK, 4096))])
    pair(0x0136, "Usage", [("path", PATH)],
         "UsageReply", ids("files", "folders", "bytes", "stored"))
    pair(0x0138, "Capacity", [], "CapacityReply", ids("total", "free", "used", "trash"))
    pair(0x013A, "ListTrash", [("after", U64), ("limit", PAGE)],
         "TrashListed", [("entries", ListOf(TRASH_ENTRY, 10_000)), ("more", BOOL)])
    pair(0x013C, "Fsck", [("path", PATH), ("after", U64), ("limit", PAGE)],
         "FsckReply", [
             *ids("files", "chunks"), ("findings", ListOf(FINDING_ROW, 10_000)), ("next", U64),
             ("more", BOOL)])
    pair(0x013E, "Report", [],
         "ReportReply", [
             ("epoch", EPOCH), ("safe_mode", BOOL), ("read_only", BOOL),
             ("servers", ListOf(SERVER, 65_536)), ("repairs", REPAIRS)])
    pair(0x0140, "ReportReplica", [*ids("handle", "version", "server"), ("fault", REPLICA_FAULT)],
         "ReplicaReported", [])


def _chunkservers(table):
    def pair(kind, request, fields, reply, reply_fields, check=None):
        _pair(table, kind, ON_CONTROL, request, Struct(*fields, check=check), reply,
              Struct(*reply_fields))

    pair(0x0200, "Register", [
             ("server_id", U64), ("control_addr", ADDRESS), ("data_addr", ADDRESS),
             ("http_addr", ADDRESS), ("rack", NAME), ("epoch", EPOCH),
             ("directories", ListOf(DIRECTORY, 256))],
         "Registered", [
             ("server_id", U64), ("epoch", EPOCH), ("chunk_size", U32), ("heartbeat", U32),
             ("suspect_after", U32), ("dead_after", U32), ("lease", U32),
             ("ticket_keys", ListOf(TICKET_KEY, 16)), ("directories", ListOf(VERDICT, 256)),
             ("repair_streams", U32)])
    pair(0x0202, "Heartbeat", [
             *ids("server_id", "sequence"), ("disks", ListOf(DISK_BEAT, 256)),
             ("corrupt", ListOf(CORRUPT_CHUNK, 1024)), ("heat", ListOf(HEAT, 1024)), ("load", U32)],
         "HeartbeatReply", [("epoch", EPOCH)])
    pair(0x0204, "Inventory", [
             ("directory_id", Bytes(16)), ("sequence", U64), ("full", BOOL), ("first", BOOL),
             ("last", BOOL), ("held", ListOf(HELD_CHUNK, 4096)), ("gone", ListOf(U64, 4096))],
         "InventoryTaken", [("resend", BOOL)])
    _pair(table, 0x0210, ON_CONTROL, "DeleteChunk", ORDER, "ChunkDeleted", EMPTY)
    pair(0x0212, "VerifyChunk", ORDER.fields,
         "ChunkVerified", [("good", BOOL), ("length", U32), ("crc32", U32)])
    pair(0x0214, "CopyChunk", [
             *ORDER.fields, *ids("void_up_to", "file_id"), ("index", U32),
             ("length", Int(4, 0, 64 * MIB)), ("crc32", U32), ("ticket", TICKET),
             ("sources", ListOf(HOP, CHAIN_MOST, fewest=1))],
         "ChunkCopied", [
             ("directory_id", Bytes(16)), ("length", U32), ("crc32", U32),
             ("suspects", ListOf(U64, 16))], check_copy)
    pair(0x0300, "ChunkStatus", [("ticket", TICKET), ("handle", U64)],
         "ChunkStatusReply", [
             *ids("version", "serial"), ("length", U32), ("crc32", U32), ("state", CHUNK_STATE)])
    pair(0x0302, "ChunkCrcs", [
             ("ticket", TICKET), *ids("handle", "version"), ("first_block", U32),
             ("count", Int(4, 1, 1024))],
         "ChunkCrcsReply", [("length", U32), ("crcs", ListOf(U32, 1024))])


def _streams(table):
    write_open = Struct(
        ("ticket", TICKET), *ids("handle", "version", "file_id"), ("index", U32),
        ("room", Int(4, 0, 64 * MIB)), *ids("begin_serial", "lock_token"), ("level", LEVEL),
        ("position", U8), ("chain", ListOf(HOP, CHAIN_MOST, fewest=1)), check=check_write_open,
    )
    _pair(table, 0x0400, ON_DATA, "WriteOpen", write_open, "WriteOpened", EMPTY)
    write_data = Struct(
        *ids("handle", "version", "serial", "commit_mark"), ("request", REQUEST_OR_NONE),
        ("offset", U32), ("level", LEVEL), ("piece_count", Int(1, 1, PLACES)), (None, Reserved(2)),
        ("crcs", CRCS), (None, Reserved(28)),
    )
    table[0x0402] = Message("WriteData", ON_DATA, write_data, check_write_data)
    write_ack = Struct(*ids("serial", "commit_mark"), ("level", LEVEL), ("copies", U8))
    table[0x0403] = Message("WriteAck", ON_DATA, write_ack)
    write_seal = Struct(
        *ids("handle", "version"), ("length", Int(4, 0, 64 * MIB)), ("crc32", U32), ("level", LEVEL)
    )
    write_sealed = Struct(("length", U32), ("crc32", U32), ("members", ListOf(MEMBER_LEVEL, 16)))
    _pair(table, 0x0404, ON_DATA, "WriteSeal", write_seal, "WriteSealed", write_sealed)
    table[0x0406] = Message("Read", ON_DATA, Struct(
        ("ticket", TICKET), *ids("handle", "version", "serial"), ("want", WANT),
        ("offset", Int(4, step=BLOCK)), ("length", Int(4, 1)), check=check_read,
    ))
    read_data = Struct(
        *ids("handle", "version", "serial"), ("chunk_length", U32), ("offset", Int(4, step=BLOCK)),
        ("state", CHUNK_STATE), ("last", BOOL), ("piece_count", Int(1, 0, PLACES)),
        (None, Reserved(1)), ("crcs", CRCS), (None, Reserved(24)),
    )
    table[0x0407] = Message("ReadData", ON_DATA, read_data, check_read_data)
    table[0x0410] = Message("ReadCut", ON_DATA, Struct(
        ("ticket", TICKET), *ids("handle", "version", "serial"), ("want", WANT),
        ("offset", U32), ("length", Int(4, 1)), check=check_read_cut,
    ))
    cut_data = Struct(
        *ids("handle", "version", "serial"), ("chunk_length", U32), ("offset", U32),
        ("block_crc", U32), ("before", U32), ("behind", U32), ("state", CHUNK_STATE),
        (None, Reserved(19)),
    )
    table[0x0411] = Message("CutData", ON_DATA, cut_data, check_cut_data)


def _version_change(table):
    def order(kind, request, fields, reply, reply_body, check=None):
        body = Struct(*ORDER.fields, *fields, check=check)
        _pair(table, kind, ON_CONTROL, request, body, reply, reply_body)

    order(0x0220, "Promise", [], "Promised", Struct(
        *ids("version", "begin_serial", "serial", "commit_mark"), ("length", U32), ("ids", U32),
        ("state", CHUNK_STATE), ("flags", Flags(31)), ("member", MEMBER_STATE),
        ("base_version", U64), ("base_length", U32), ("base_crc32", U32),
        ("prepared", PREPARED_SEAL)))
    order(0x0222, "Begin", [
        *ids("serial", "start_number"), ("directory_id", Bytes(16)), ("memory", BOOL),
        ("create", BOOL), ("file_id", U64), ("index", U32), ("chunk_size", U32),
        *ids("clone_handle", "clone_version"), ("clone_length", U32),
    ], "Begun", Struct(("serial", U64), ("length", U32), ("member", MEMBER_STATE)), check_begin)
    order(0x0224, "PrepareSeal", [
        *ids("serial", "start_number"), ("length", U32), ("sessions_end", U64),
    ], "SealPrepared", Struct(
        ("prepared", PREPARED_SEAL), ("member", MEMBER_STATE), check=check_seal_prepared,
    ), check_prepare_seal)
    order(0x0226, "Settle", [("length", Int(4, 0, 64 * MIB)), ("crc32", U32)], "Settled", EMPTY)
    order(0x0228, "GrantLease", [
        ("begin_serial", U64), ("memory", BOOL), ("closed", BOOL), ("lease", U32),
        ("ticket", TICKET), ("chain", ListOf(HOP, CHAIN_MOST, fewest=1)), ("file_id", U64),
        ("index", U32), ("lock_token", U64),
    ], "LeaseGranted", EMPTY)
    order(0x022A, "RevokeLease", [], "LeaseRevoked", Struct(*ids("serial", "commit_mark")))


def _mutations(table):
    def pair(kind, request, fields, reply, reply_fields, check=None):
        _pair(table, kind, ON_CONTROL, request, Struct(*fields, check=check), reply,
              Struct(*reply_fields))

    mutating = ("request", REQUEST)
    pair(0x0142, "OpenChunk", [
             *ids("session", "file_id"), ("index", U32), *ids("after", "failed"), ("memory", BOOL),
             ("lock_token", U64)],
         "ChunkOpened", [
             ("index", U32), *ids("handle", "version", "begin_serial"), ("memory", BOOL),
             ("sealed_version", U64), ("ticket", TICKET),
             ("chain", ListOf(HOP, CHAIN_MOST, fewest=1)), ("lease", U32)], check_open_chunk)
    pair(0x0144, "Truncate", [mutating, ("path", PATH), ("size", U64)],
         "Truncated", [("node", NODE)])
    pair(0x0146, "SealFile", [("path", PATH)], "FileSealed", [("node", NODE)])
    pair(0x0148, "AcceptLoss", [mutating, ("handle", U64)],
         "LossAccepted", [("version", U64), ("length", U32), ("server", U64)])
    pair(0x0206, "ExtendLeases", [("epoch", EPOCH), ("leases", ListOf(HELD_LEASE, 4096))],
         "LeasesExtended", [("extended", ListOf(EXTENDED_LEASE, 4096))])
    pair(0x0208, "ReportChain", [
             *ids("handle", "version", "serial"), ("what", CHAIN_TROUBLE), ("blamed", U64),
             ("status", U16)],
         "ChainReported", [])


def _mutation_questions(table):
    def pair(kind, request, fields, reply, reply_fields):
        chunk = (("ticket", TICKET), *ids("handle", "version"))
        _pair(table, kind, ON_CONTROL, request, Struct(*chunk, *fields), reply,
              Struct(*reply_fields))

    pair(0x0304, "Newest", [],
         "NewestReply", [*ids("version", "serial"), ("length", Int(4, 0, 64 * MIB))])
    pair(0x0306, "FindRequests", [("session", U64), ("numbers", ListOf(U64, 4096))],
         "RequestsFound", [("found", ListOf(FOUND, 4096))])


def _mutation_streams(table):
    part = (("part_offset", U32), ("whole_length", U32))
    table[0x0408] = Message("Append", ON_DATA, Struct(
        *ids("handle", "version", "session", "lowest_outstanding"), ("level", LEVEL), *part,
        ("items", ListOf(APPEND_ITEM, 240, fewest=1)), ("crcs", ListOf(U32, 256)),
        check=check_append), check_lengths("items"))
    table[0x0409] = Message("Appended", ON_DATA, Struct(
        ("version", U64), ("results", ListOf(APPEND_RESULT, 120))))
    _pair(table, 0x040A, ON_DATA, "Mark", Struct(
        *ids("handle", "version", "commit_mark", "number"),
    ), "Marked", Struct(*ids("handle", "version"), ("number", Int(8, 1))))
    _pair(table, 0x0412, ON_DATA, "ChunkIds", Struct(
        ("ticket", TICKET), *ids("handle", "version"),
    ), "ChunkIdsReply", Struct(
        ("table_length", ID_TABLE_LENGTH), ("table_crc32", U32), ("first_row", U32),
        ("rows", ListOf(Bytes(32), 255)), check=check_ids))
    table[0x040C] = Message("WriteBatch", ON_DATA, Struct(
        *ids("handle", "version", "first_serial", "commit_mark"), *part, ("level", LEVEL),
        ("rows", ListOf(BATCH_ROW, 160, fewest=1)), ("crcs", ListOf(U32, 352)),
        check=check_write_batch), check_lengths("rows"))


def all_messages():
    """Kind to message, for every row of section 1."""
    table = {}
    for part in (_connection, _changes, _questions, _chunkservers, _streams, _version_change, _mutations,
                 _mutation_questions, _mutation_streams):
        part(table)
    return table


MESSAGES = all_messages()
