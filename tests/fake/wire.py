"""MongoDB's wire protocol for the tests: messages taken apart and put together, byte for byte, on no socket.

    parse(bytes of one whole message) -> Message -> .body (decoded lazily), .sections, .flags
    op_msg(document) op_query(...) op_reply(...) compressed(...) -> bytes

The peer's side: raises Malformed where a real server would close the connection. Spec: MongoDB's wire protocol and OP_MSG pages.
"""
import struct
import zlib

import bson
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument

OP_REPLY, OP_QUERY, OP_COMPRESSED, OP_MSG = 1, 2004, 2012, 2013
CHECKSUM_PRESENT, MORE_TO_COME, EXHAUST_ALLOWED = 1, 2, 1 << 16
HEADER = 16
MAX_MESSAGE = 48000000
RAW = CodecOptions(document_class=RawBSONDocument)


class Malformed(Exception):
    """Bytes after which a server closes the connection."""


def _crc_table():
    table = []
    for i in range(256):
        for _ in range(8):
            i = (i >> 1) ^ 0x82F63B78 if i & 1 else i >> 1
        table.append(i)
    return table


_CRC = _crc_table()


def crc32c(data):
    """CRC-32C (Castagnoli), some megabytes a second."""
    table, crc = _CRC, 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 255] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


class Message:
    """One message. `sections` holds, for OP_MSG, (0, document) and (1, name, [documents]) in the order sent; documents are
    bytes."""

    def __init__(self, opcode, request_id, response_to, flags=0, sections=(), body=b"", collection=None, compressor=None):
        self.opcode = opcode
        self.request_id = request_id
        self.response_to = response_to
        self.flags = flags
        self.sections = sections
        self.raw_body = body
        self.collection = collection  # of OP_QUERY
        self.compressor = compressor  # 1 snappy, 2 zlib, 3 zstd; None: was not compressed
        self._body = None

    @property
    def body(self):
        """The command (or the reply) as a document whose own documents are decoded when they are looked at."""
        if self._body is None:
            try:
                self._body = bson.decode(self.raw_body, RAW)
                self._body.get("")  # decodes the top level now, so that damage is found here
            except bson.errors.InvalidBSON as e:
                raise Malformed("BSON: %s" % e) from None
        return self._body

    @property
    def name(self):
        return next(iter(self.body), "")


def header(data):
    """(length, requestID, responseTo, opCode) of 16 bytes; the length is checked."""
    length, request_id, response_to, opcode = struct.unpack_from("<iiii", data)
    if not HEADER <= length <= MAX_MESSAGE:
        raise Malformed("a message of %d bytes" % length)
    return length, request_id, response_to, opcode


def _document(data, at, end):
    if end - at < 5:
        raise Malformed("no room for a document")
    size, = struct.unpack_from("<i", data, at)
    if size < 5 or at + size > end or data[at + size - 1] != 0:
        raise Malformed("a document of %d bytes with %d left" % (size, end - at))
    return bytes(data[at:at + size])


def _sections(data, at, end):
    sections, body = [], None
    while at < end:
        kind = data[at]
        at += 1
        if kind == 0:
            document = _document(data, at, end)
            if body is not None:
                raise Malformed("two sections of kind 0")
            body = document
            sections.append((0, document))
            at += len(document)
        elif kind == 1:
            if end - at < 4:
                raise Malformed("a section of kind 1 without its size")
            size, = struct.unpack_from("<i", data, at)
            zero = data.find(b"\0", at + 4, at + size)
            if size < 5 or at + size > end or zero < 0:
                raise Malformed("a section of kind 1 of %d bytes with %d left" % (size, end - at))
            documents, place = [], zero + 1
            while place < at + size:
                documents.append(_document(data, place, at + size))
                place += len(documents[-1])
            sections.append((1, bytes(data[at + 4:zero]).decode("utf-8", "replace"), documents))
            at += size
        else:
            raise Malformed("a section of kind %d" % kind)
    if body is None:
        raise Malformed("no section of kind 0")
    return sections, body


def parse(data):
    """One whole message with its header, as bytes."""
    length, request_id, response_to, opcode = header(data)
    if length != len(data):
        raise Malformed("%d bytes for a message of %d" % (len(data), length))
    if opcode == OP_COMPRESSED:
        if length < 25:
            raise Malformed("a compressed message of %d bytes" % length)
        opcode, size, compressor = struct.unpack_from("<iiB", data, 16)
        if compressor == 2:
            inner = zlib.decompress(data[25:])
        elif compressor == 0:
            inner = bytes(data[25:])
        else:
            raise Malformed("compressor %d was not offered" % compressor)
        if len(inner) != size or size + HEADER > MAX_MESSAGE:
            raise Malformed("%d bytes unpacked, %d announced" % (len(inner), size))
        message = parse(struct.pack("<iiii", size + HEADER, request_id, response_to, opcode) + inner)
        message.compressor = compressor
        return message
    if opcode == OP_MSG:
        if length < 26:
            raise Malformed("OP_MSG of %d bytes" % length)
        flags, = struct.unpack_from("<I", data, 16)
        if flags & 0xFFFC:
            raise Malformed("unknown flag bits %#x" % flags)
        end = length
        if flags & CHECKSUM_PRESENT:
            end -= 4
            if crc32c(data[:end]) != struct.unpack_from("<I", data, end)[0]:
                raise Malformed("the checksum is wrong")
        sections, body = _sections(data, 20, end)
        return Message(opcode, request_id, response_to, flags, sections, body)
    if opcode == OP_QUERY:
        flags, = struct.unpack_from("<I", data, 16)
        zero = data.find(b"\0", 20)
        if zero < 0 or zero + 9 > length:
            raise Malformed("OP_QUERY without a collection")
        collection = bytes(data[20:zero]).decode()
        return Message(opcode, request_id, response_to, flags, body=_document(data, zero + 9, length), collection=collection)
    if opcode == OP_REPLY:
        if length < 41:
            raise Malformed("OP_REPLY of %d bytes" % length)
        return Message(opcode, request_id, response_to, struct.unpack_from("<I", data, 16)[0], body=_document(data, 36, length))
    raise Malformed("opcode %d" % opcode)


def encoded(document):
    if isinstance(document, RawBSONDocument):
        return document.raw
    return document if isinstance(document, bytes) else bson.encode(document)


def op_msg(document, request_id=0, response_to=0, flags=0, sequences=(), checksum=False):
    """An OP_MSG of a document (a dict or bytes) and of sequences, each (name, [documents as bytes])."""
    parts = [b"\0", encoded(document)]
    for name, documents in sequences:
        packed = name.encode() + b"\0" + b"".join(documents)
        parts += [b"\1", struct.pack("<i", len(packed) + 4), packed]
    packed = b"".join(parts)
    if checksum:
        flags |= CHECKSUM_PRESENT
    data = struct.pack("<iiiiI", 20 + len(packed) + (4 if checksum else 0), request_id, response_to, OP_MSG, flags) + packed
    return data + struct.pack("<I", crc32c(data)) if checksum else data


def op_query(document, request_id=0, collection="admin.$cmd", flags=0, limit=-1):
    """The form in which old drivers begin."""
    packed = struct.pack("<I", flags) + collection.encode() + b"\0" + struct.pack("<ii", 0, limit) + encoded(document)
    return struct.pack("<iiii", HEADER + len(packed), request_id, 0, OP_QUERY) + packed


def op_reply(document, request_id=0, response_to=0, flags=8):
    packed = struct.pack("<IqII", flags, 0, 0, 1) + encoded(document)
    return struct.pack("<iiii", HEADER + len(packed), request_id, response_to, OP_REPLY) + packed


def compressed(data):
    """The same message as OP_COMPRESSED with zlib."""
    length, request_id, response_to, opcode = struct.unpack_from("<iiii", data)
    packed = struct.pack("<iiB", opcode, length - HEADER, 2) + zlib.compress(data[HEADER:], 1)
    return struct.pack("<iiii", HEADER + len(packed), request_id, response_to, OP_COMPRESSED) + packed


def with_fields(document, fields):
    """The document (bytes) with more elements at its end."""
    added = bson.encode(fields)[4:]
    return struct.pack("<i", len(document) + len(added) - 1) + document[4:-1] + added


def without_fields(document, names):
    """The document (decoded lazily) as a dict without these fields; what stands inside is not decoded."""
    return {name: value for name, value in document.items() if name not in names}
