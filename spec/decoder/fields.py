"""The field types of wire.md section 6: each decodes bytes to a value and encodes it again.

Values have the form that they have in the vectors (README.md): integers up to 32 bits as `int`,
64-bit ones and byte arrays as strings of hex digits after `0x`, enumerations by name.
"""


class Rejected(Exception):
    """The bytes break the page that describes them; `name` is the error that the page gives."""

    def __init__(self, name):
        super().__init__(name)
        self.name = name


class Misfit(Exception):
    """A vector's `fields` are not of the shape that its kind has."""


def number(text):
    """The integer that a 64-bit field's string stands for."""
    return int(text, 16)


def word(value):
    """The string that stands for a 64-bit integer."""
    return f"0x{value:016x}"


def digits(data):
    """The string that stands for a byte array."""
    return "0x" + data.hex()


def octets(text):
    """The bytes that a byte array's string stands for."""
    if not text.startswith("0x"):
        raise Misfit(f"{text!r} does not begin with 0x")
    return bytes.fromhex(text[2:])


class Reader:
    """What is left of the bytes to decode."""

    def __init__(self, data):
        self.data = data
        self.at = 0

    @property
    def left(self):
        return len(self.data) - self.at

    def take(self, count):
        if count > self.left:
            raise Rejected("truncated")
        self.at += count
        return self.data[self.at - count : self.at]

    def integer(self, width):
        return int.from_bytes(self.take(width), "little")


class Int:
    """An unsigned integer of `width` bytes, a multiple of `step` from `low` to `high`."""

    def __init__(self, width, low=0, high=None, step=1):
        self.width = self.smallest = width
        self.low, self.high, self.step = low, high, step

    def decode(self, reader):
        value = reader.integer(self.width)
        if value < self.low or (self.high is not None and value > self.high) or value % self.step:
            raise Rejected("out_of_bounds")
        return word(value) if self.width == 8 else value

    def encode(self, value):
        return (number(value) if self.width == 8 else value).to_bytes(self.width, "little")


class Bool:
    """`bool`."""

    smallest = 1

    def decode(self, reader):
        value = reader.integer(1)
        if value > 1:
            raise Rejected("unknown_value")
        return value == 1

    def encode(self, value):
        if not isinstance(value, bool):
            raise Misfit(f"{value!r} is no bool")
        return bytes([value])


class Bytes:
    """`bytesN`; `zero` is the error if all of them are zero and may not be."""

    def __init__(self, count, zero=None):
        self.smallest = count
        self.zero = zero

    def decode(self, reader):
        data = reader.take(self.smallest)
        if self.zero and not any(data):
            raise Rejected(self.zero)
        return digits(data)

    def encode(self, value):
        data = octets(value)
        if len(data) != self.smallest:
            raise Misfit(f"{value} has not {self.smallest} bytes")
        return data


class Reserved:
    """Bytes that are zero; they have no name and stand in no `fields`."""

    def __init__(self, count):
        self.smallest = count

    def decode(self, reader):
        if any(reader.take(self.smallest)):
            raise Rejected("reserved_not_zero")

    def encode(self, _value):
        return bytes(self.smallest)


class Text:
    """`string(most)`; `form` may look at the text."""

    smallest = 2

    def __init__(self, most, form=None):
        self.most, self.form = most, form

    def decode(self, reader):
        length = reader.integer(2)
        if length > self.most:
            raise Rejected("too_long")
        data = reader.take(length)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            raise Rejected("not_utf8") from None
        if self.form and not self.form(text):
            raise Rejected("out_of_bounds")
        return text

    def encode(self, value):
        data = value.encode("utf-8")
        return len(data).to_bytes(2, "little") + data


class ListOf:
    """`list(item, most)`, with at least `fewest` items."""

    smallest = 4

    def __init__(self, item, most, fewest=0):
        self.item, self.most, self.fewest = item, most, fewest

    def decode(self, reader):
        count = reader.integer(4)
        if count > self.most:
            raise Rejected("too_many")
        if count * self.item.smallest > reader.left:
            raise Rejected("truncated")
        if count < self.fewest:
            raise Rejected("out_of_bounds")
        return [self.item.decode(reader) for _ in range(count)]

    def encode(self, value):
        count = len(value).to_bytes(4, "little")
        return count + b"".join(self.item.encode(one) for one in value)


class Array:
    """`count` items without a count in front."""

    def __init__(self, item, count):
        self.item, self.count = item, count
        self.smallest = item.smallest * count

    def decode(self, reader):
        return [self.item.decode(reader) for _ in range(self.count)]

    def encode(self, value):
        if len(value) != self.count:
            raise Misfit(f"{len(value)} items where {self.count} stand")
        return b"".join(self.item.encode(one) for one in value)


class Enum:
    """An enumeration: numbers and the names that stand for them."""

    def __init__(self, names, width=1):
        self.names, self.width = names, width
        self.smallest = width
        self.numbers = {name: value for value, name in names.items()}

    def decode(self, reader):
        value = reader.integer(self.width)
        if value not in self.names:
            raise Rejected("unknown_value")
        return self.names[value]

    def encode(self, value):
        return self.numbers[value].to_bytes(self.width, "little")


class Flags:
    """Bits that are added up; `some` if at least one must be there."""

    smallest = 1

    def __init__(self, known, some=False):
        self.known, self.some = known, some

    def decode(self, reader):
        value = reader.integer(1)
        if value & ~self.known or (self.some and not value):
            raise Rejected("unknown_value")
        return value

    def encode(self, value):
        return bytes([value])


class Struct:
    """Named fields in order. A field without a name leaves nothing in `fields`; `check` looks at
    all of them together."""

    def __init__(self, *fields, check=None):
        self.fields, self.check = fields, check
        self.smallest = sum(kind.smallest for _, kind in fields)

    def decode(self, reader):
        value = {}
        for name, kind in self.fields:
            one = kind.decode(reader)
            if name is not None:
                value[name] = one
        if self.check:
            self.check(value)
        return value

    def encode(self, value):
        names = [name for name, _ in self.fields if name is not None]
        if set(names) != set(value):
            raise Misfit(f"fields {sorted(value)} where {sorted(names)} belong")
        return b"".join(kind.encode(value.get(name)) for name, kind in self.fields)


class Choice:
    """An enumeration whose value decides which structure's fields follow it; all lie flat."""

    def __init__(self, name, enum, cases):
        self.name, self.enum, self.cases = name, enum, cases
        self.smallest = enum.smallest + min(case.smallest for case in cases.values())

    def decode(self, reader):
        which = self.enum.decode(reader)
        return {self.name: which, **self.cases[which].decode(reader)}

    def encode(self, value):
        rest = {name: one for name, one in value.items() if name != self.name}
        which = value[self.name]
        return self.enum.encode(which) + self.cases[which].encode(rest)


def whole(kind, data):
    """Decodes bytes that one value uses up exactly."""
    reader = Reader(data)
    value = kind.decode(reader)
    if reader.left:
        raise Rejected("trailing_bytes")
    return value


def check_request(value):
    lowest = number(value["lowest_outstanding"])
    if number(value["session"]) == 0 or not 0 < lowest <= number(value["number"]):
        raise Rejected("request_id_invalid")


def check_request_or_none(value):
    if any(number(one) for one in value.values()):
        check_request(value)


U8, U16, U32, U64 = Int(1), Int(2), Int(4), Int(8)
BOOL = Bool()
PATH = Text(4096)
ADDRESS = Text(300)
EPOCH = Struct(("number", U64), ("incarnation", U64))
_REQUEST_FIELDS = (("session", U64), ("number", U64), ("lowest_outstanding", U64))
REQUEST = Struct(*_REQUEST_FIELDS, check=check_request)
REQUEST_OR_NONE = Struct(*_REQUEST_FIELDS, check=check_request_or_none)
EMPTY = Struct()
