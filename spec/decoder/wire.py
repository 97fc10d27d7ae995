"""wire.md: the error body, the hello, tickets, and whole frames."""

import hashlib
import hmac
import zlib

from .fields import (
    U16, U32, U64, Bytes, Enum, Flags, Reader, Rejected, Reserved, Struct, Text, digits, number,
    octets, whole, word,
)

MIB = 1 << 20
CONTROL, DATA = "control", "data"

ERROR_BODY = Struct(
    ("text", Text(1024)), ("server", U64), ("version", U64), ("serial", U64), ("retry_after", U32)
)

# Section 8.

ROLE = Enum({1: "client", 2: "chunkserver", 3: "master"})
PLANE = Enum({1: CONTROL, 2: DATA})


def check_hello(value):
    if not 0 < value["version_min"] <= value["version_max"]:
        raise Rejected("out_of_bounds")


_IDENTITY = (
    ("cluster_id", Bytes(16)), ("server_id", U64), ("directory_id", Bytes(16)),
    ("start_number", U64), ("start_nonce", U64), ("nonce", Bytes(32)),
)
HELLO = Struct(
    ("version_min", U16), ("version_max", U16), ("role", ROLE), ("plane", PLANE),
    (None, Reserved(2)), ("features", U64), *_IDENTITY, (None, Reserved(8)), check=check_hello,
)
HELLO_REPLY = Struct(
    ("version", U16), ("role", ROLE), ("plane", PLANE), (None, Reserved(4)), ("features", U64),
    *_IDENTITY, ("proof", Bytes(32)), (None, Reserved(8)),
)
HELLO_PROOF = Struct(("proof", Bytes(32)))
PROOF_AT = 104


def mac(key, label, *parts):
    return hmac.new(key, label + b"".join(parts), hashlib.sha256).digest()


class HelloExchange:
    """The bodies of `Hello`, `HelloReply` and `HelloProof` one behind the other, with both proofs
    checked against `given.key`."""

    _SIZES = (HELLO.smallest, HELLO_REPLY.smallest, HELLO_PROOF.smallest)

    def decode(self, data, given):
        key = octets(given["key"])
        reader = Reader(data)
        hello, reply, proof = (reader.take(size) for size in self._SIZES)
        if reader.left:
            raise Rejected("trailing_bytes")
        fields = {
            "hello": whole(HELLO, hello),
            "hello_reply": whole(HELLO_REPLY, reply),
            "hello_proof": whole(HELLO_PROOF, proof),
        }
        listener, dialer = self._proofs(key, hello, reply)
        if not hmac.compare_digest(listener, reply[PROOF_AT : PROOF_AT + 32]):
            raise Rejected("wrong_key")
        if not hmac.compare_digest(dialer, proof):
            raise Rejected("wrong_key")
        return fields

    def encode(self, fields, given):
        """Both proofs are computed, whatever `fields` say they are."""
        key = octets(given["key"])
        hello = HELLO.encode(fields["hello"])
        blank = HELLO_REPLY.encode(fields["hello_reply"])
        listener, _ = self._proofs(key, hello, blank)
        reply = blank[:PROOF_AT] + listener + blank[PROOF_AT + 32 :]
        _, dialer = self._proofs(key, hello, reply)
        return hello + reply + dialer

    @staticmethod
    def _proofs(key, hello, reply):
        blank = reply[:PROOF_AT] + bytes(32) + reply[PROOF_AT + 32 :]
        return (
            mac(key, b"sarsen hello listener 1", hello, blank),
            mac(key, b"sarsen hello dialer 1", hello, reply),
        )


# Section 11.

RIGHT = {"read": 1, "write": 2, "copy": 4}


class TicketFormat:
    """The format number of a ticket: 1, and nothing in `fields`."""

    smallest = 2

    def decode(self, reader):
        if reader.integer(2) != 1:
            raise Rejected("unknown_value")

    def encode(self, _value):
        return (1).to_bytes(2, "little")


TICKET = Struct(
    (None, TicketFormat()), ("rights", Flags(7, some=True)), (None, Reserved(1)), ("key_id", U32),
    ("handle", U64), ("version", U64), ("expiry", U64), ("file_id", U64), ("session", U64),
    ("epoch", U64), ("chain_crc", U32), (None, Reserved(4)), ("mac", Bytes(32)),
)


def sign_ticket(key, data):
    return mac(key, b"sarsen ticket 1", data[:64])


def chain_crc(servers):
    return zlib.crc32(b"".join(server.to_bytes(8, "little") for server in servers))


class SignedTicket:
    """A ticket beside the request that it comes with, as a chunkserver checks it."""

    def decode(self, data, given):
        fields = whole(TICKET, data)
        if not hmac.compare_digest(sign_ticket(octets(given["key"]), data), data[64:]):
            raise Rejected("ticket_invalid")
        bound = fields["handle"] == given["handle"] and fields["version"] == given["version"]
        if not bound or not fields["rights"] & given["right"]:
            raise Rejected("ticket_invalid")
        if "chain" in given and fields["chain_crc"] != chain_crc(map(number, given["chain"])):
            raise Rejected("ticket_invalid")
        if number(given["now"]) > number(fields["expiry"]):
            raise Rejected("ticket_expired")
        return fields

    def encode(self, fields, given):
        """The mac is computed, whatever `fields` say it is."""
        data = TICKET.encode(fields)
        return data[:64] + sign_ticket(octets(given["key"]), data)


# Section 7.

BLOCK = 65536
PLACES = 17


def pieces(offset, length):
    """The number of blocks that a payload of `length` bytes at `offset` touches."""
    return -(-(offset + length) // BLOCK) - offset // BLOCK if length else 0


def check_pieces(value, payload_len):
    if value["offset"] + payload_len > 64 * MIB:
        raise Rejected("out_of_bounds")
    if value["piece_count"] != pieces(value["offset"], payload_len):
        raise Rejected("out_of_bounds")
    if any(value["crcs"][value["piece_count"] :]):
        raise Rejected("reserved_not_zero")


# Section 5.

MAGIC = b"SRSN"
GOODBYE = 0x0006


class Frame:
    """A whole frame. `given` says on which plane, whether the hello is done, and what is due."""

    def __init__(self, messages):
        self.messages = messages

    def decode(self, data, given):
        if len(data) < 64:
            raise Rejected("truncated")
        header, rest = data[:64], data[64:]
        at = lambda offset, width: int.from_bytes(header[offset : offset + width], "little")
        if header[4:8] != MAGIC:
            raise Rejected("bad_magic")
        if at(0, 4) != zlib.crc32(header[4:]):
            raise Rejected("bad_header_crc")
        if at(8, 2) != 1:
            raise Rejected("unsupported_version")
        if at(12, 2) or any(header[36:]):
            raise Rejected("reserved_not_zero")
        kind, status = at(10, 2), at(14, 2)
        message = self.messages.get(kind)
        if message is None:
            raise Rejected("unknown_kind")
        if given["plane"] not in message.planes:
            raise Rejected("wrong_plane")
        may_fail = kind % 2 == 1 or kind == GOODBYE
        if status and not may_fail:
            raise Rejected("unexpected_status")
        body_len, payload_len = at(24, 4), at(32, 4)
        if body_len > self._longest_body(given):
            raise Rejected("body_too_long")
        if payload_len > MIB:
            raise Rejected("payload_too_long")
        if payload_len and (not message.payload or status):
            raise Rejected("unexpected_payload")
        if len(rest) < body_len + payload_len:
            raise Rejected("truncated")
        if len(rest) > body_len + payload_len:
            raise Rejected("trailing_bytes")
        body, payload = rest[:body_len], rest[body_len:]
        if zlib.crc32(body) != at(28, 4):
            raise Rejected("bad_body_crc")
        if given.get("due", message.name) != message.name:
            raise Rejected("out_of_turn")
        if status:
            whole(ERROR_BODY, body)
        else:
            message.decode(body, {"payload_len": payload_len})
        return {
            "kind": kind, "status": status, "request_id": word(at(16, 8)),
            "body": digits(body), "payload": digits(payload),
        }

    @staticmethod
    def _longest_body(given):
        if not given["hello_done"]:
            return 4096
        return 16 * MIB if given["plane"] == CONTROL else 8192

    def encode(self, fields, given):
        body, payload = octets(fields["body"]), octets(fields["payload"])
        header = (
            MAGIC
            + (1).to_bytes(2, "little")
            + fields["kind"].to_bytes(2, "little")
            + bytes(2)
            + fields["status"].to_bytes(2, "little")
            + number(fields["request_id"]).to_bytes(8, "little")
            + len(body).to_bytes(4, "little")
            + zlib.crc32(body).to_bytes(4, "little")
            + len(payload).to_bytes(4, "little")
            + bytes(28)
        )
        return zlib.crc32(header).to_bytes(4, "little") + header + body + payload
