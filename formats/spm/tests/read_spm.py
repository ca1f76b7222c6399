"""A reader of .spm files written from README.md alone, with nothing but the standard library.

Usage: read_spm.py FILE  ->  one line a tensor: name, rows, columns, encoding, kept, CRC-32 of the weights as f32;
then the metadata, the vocabulary's tokens and the ids that the head has rows for (null: all) as JSON lines.
"""
import json
import struct
import sys
import zlib


class Fields:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        assert self.at + n <= len(self.data), "field leaves its section"
        self.at += n
        return self.data[self.at - n:self.at]

    def num(self, kind):
        return struct.unpack("<" + kind, self.take(struct.calcsize(kind)))[0]

    def text(self, n):
        return self.take(n).decode("utf-8")


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def crc_table():
    table = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    return table


CRC = crc_table()


def up(n, to):
    return -(-n // to) * to


def sections(file):
    assert file[:8] == b"\x93SPM\r\n\x1a\n", "magic"
    version, count, length = struct.unpack_from("<IIQ", file, 8)
    assert version == 2 and length == len(file)
    table = file[64:64 + 32 * count]
    assert crc32c(file[:60] + table) == struct.unpack_from("<I", file, 60)[0], "header checksum"
    found, expected = {}, 65536
    for i in range(count):
        name, flags, offset, size, crc, zero = struct.unpack_from("<4sIQQII", table, 32 * i)
        assert offset == expected and flags <= 1 and zero == 0
        assert name != b"HEAD" or flags == 1
        found[name] = file[offset:offset + size]
        assert crc32c(found[name]) == crc, f"checksum of {name}"
        expected = up(offset + size, 65536)
    return found


def tensors(found):
    f, rows_at, end = Fields(found[b"TENS"]), 0, 0
    for _ in range(f.num("I")):
        name = f.text(f.num("H"))
        encoding, zero, rows, cols, offset, size, kept, crc = (f.num(k) for k in "HHIIQQQI")
        assert zero == 0 and offset == up(end, 64)
        data = found[b"DATA"][offset:offset + size]
        assert crc32c(data) == crc, name
        starts = None
        if encoding in (16, 17, 18):
            starts = struct.unpack_from(f"<{rows + 1}I", found[b"ROWS"], rows_at)
            rows_at += 4 * (rows + 1)
        yield name, rows, cols, encoding, kept, weights(data, rows, cols, encoding, starts)
        end = offset + size
    assert rows_at == len(found[b"ROWS"])


LEVELS = [0, 7, 18, 32, 48, 65, 82, 106, -7, -18, -32, -48, -65, -82, -100, -120]
HAS_BITS = (4, 16, 17, 18, 28, 29)


def f32(number):
    return struct.unpack("<f", struct.pack("<f", number))[0]


def weights(data, rows, cols, encoding, starts):
    nb, nc = -(-cols // 32), -(-cols // 64)
    assert encoding < 28 or cols % 64 == 0
    bits_end = rows * nc * 8 if encoding in HAS_BITS else 0
    at = up(bits_end, 64)
    scales = None
    if encoding in (2, 3, 4):
        scales = struct.unpack_from(f"<{rows * nb}e", data, at)
        at += rows * nb * 2
    elif encoding > 16:
        factors = struct.unpack_from(f"<{rows}f", data, at)
        codes = struct.unpack_from(f"<{rows * nb}b", data, at + 4 * rows)
        scales = [f32(factors[i // nb] * code) for i, code in enumerate(codes)]
        at += rows * 4 + rows * nb
    at = up(at, 64)
    row_len = {0: 4 * cols, 1: 2 * cols, 2: 32 * nb, 3: 32 * nc, 4: 32 * nc, 28: 32 * nc, 29: 16 * nc}.get(encoding)
    assert len(data) == at + (starts[rows] if starts else rows * row_len)
    out = []
    for r in range(rows):
        row = data[at + starts[r]:at + starts[r + 1]] if starts else data[at + r * row_len:at + (r + 1) * row_len]
        bits = data[r * nc * 8:(r + 1) * nc * 8]
        if scales:
            stored = row_values(row, bits, 32 * nb, encoding)
            values = [f32(stored[stored_column(c, nb)] * scales[r * nb + c // 32]) for c in range(cols)]
        else:
            values = row_values(row, bits, cols, encoding)
        out += values
    return out


def stored_column(c, nb):
    if c >= nb // 8 * 256:
        return c
    return c // 256 * 256 + (c % 32 // 4 * 8 + c % 256 // 32) * 4 + c % 4


def row_values(row, bits, cols, encoding):
    """Numbers of all columns of a row, or integers, as they are stored, that wait for their scales."""
    def bit(c):
        return bits[c // 8] >> c % 8 & 1

    def nibble(byte, high):
        return row[byte] >> (4 if high else 0) & 15

    def dense_nibble(c):
        return nibble(c // 64 * 32 + c % 32, c % 64 >= 32)

    if encoding == 0:
        return struct.unpack(f"<{cols}f", row)
    if encoding == 1:
        return struct.unpack(f"<{cols}e", row)
    if encoding == 2:
        return struct.unpack_from(f"<{cols}b", row)
    if encoding == 3:
        return [dense_nibble(c) - 8 for c in range(cols)]
    if encoding == 4:
        return [(dense_nibble(c) | bit(c) << 4) - 16 for c in range(cols)]
    out = [0.0] * cols
    if encoding >= 28:
        for chunk in range(cols // 64):
            for j in range(32):
                at = 32 * (j // 16) + 8 * (j % 4) + 2 * (j % 16 // 4)
                place = bits[chunk * 8 + at // 8] >> at % 8 & 3
                c = chunk * 64 + j % 4 // 2 * 32 + j // 4 * 4 + place
                if encoding == 28:
                    out[c] = struct.unpack_from("<b", row, chunk * 32 + j)[0]
                else:
                    out[c] = LEVELS[nibble(chunk * 16 + j % 16, j >= 16)]
        return out
    nc = -(-cols // 64)
    passed = {}
    for c in (c for c in range(cols) if bit(c)):
        chunk, block = c // 64, c // 32
        stream = 0
        if encoding == 18:
            stream = block % 2 if nc % 2 and chunk == nc - 1 else chunk % 2
        nth = passed.get(stream, 0)
        passed[stream] = nth + 1
        if encoding == 16:
            out[c] = struct.unpack_from("<e", row, 2 * nth)[0]
        elif encoding == 17:
            out[c] = struct.unpack_from("<b", row, nth)[0]
        else:
            out[c] = LEVELS[nibble(nth, stream)]
    if encoding == 18:
        assert len(row) == max(passed.values(), default=0)
    return out


def metadata(data):
    f, keys = Fields(data), {}
    for _ in range(f.num("I")):
        key, kind = f.text(f.num("H")), f.num("B")
        if kind == 4:
            keys[key] = f.text(f.num("I"))
        elif kind == 5:
            keys[key] = [f.num("f") for _ in range(f.num("I"))]
        else:
            keys[key] = f.num({1: "B", 2: "Q", 3: "f"}[kind])
    assert f.at == len(data) and list(keys) == sorted(keys)
    return keys


def vocabulary(data):
    """Tokens, their types, the named ones, and whether it is byte-level."""
    f = Fields(data)
    kind = f.num("B")
    f.take(3)
    named = [f.num("I") for _ in range(4)]
    n, scores, merges, ends, template = (f.num("I") for _ in range(5))
    f.text(f.num("H"))
    types = list(f.take(n))
    f.take(4 * scores + 8 * merges)
    named += [f.num("I") for _ in range(ends)]
    tokens = [f.text(f.num("H")) for _ in range(n)]
    f.text(0 if template == 2**32 - 1 else template)
    assert f.at == len(data)
    return tokens, types, named, kind == 1


def is_needed(token, kind, is_named, characters, is_byte_level, has_all_bytes):
    if kind not in (1, 5) or is_named:
        return True
    if has_all_bytes and not is_byte_level:
        return False
    return len(token) == 1 or any(c not in characters for c in token)


def head(found, meta):
    """The ids that the head has rows for."""
    if b"HEAD" not in found:
        return None
    f = Fields(found[b"HEAD"])
    ids = [f.num("I") for _ in range(len(f.data) // 4)]
    assert f.at == len(f.data) and ids and ids == sorted(set(ids)) and ids[-1] < meta["model.vocab_size"]
    if found[b"VOCB"]:
        tokens, types, named, is_byte_level = vocabulary(found[b"VOCB"])
        alphabet = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x144)]
        characters = {t for t, kind in zip(tokens, types)
                      if len(t) == 1 and kind == 1 and (not is_byte_level or ord(t) in alphabet)}
        has_all_bytes = len({t for t, kind in zip(tokens, types) if kind == 6}) == 256
        listed = set(ids)
        for id, (token, kind) in enumerate(zip(tokens, types)):
            needed = is_needed(token, kind, id in named, characters, is_byte_level, has_all_bytes)
            assert id in listed or not needed, f"token {id} is needed"
    return ids


def main():
    with open(sys.argv[1], "rb") as file:
        found = sections(file.read())
    meta = metadata(found[b"META"])
    ids = head(found, meta)
    for name, rows, cols, encoding, kept, values in tensors(found):
        assert name != "output.weight" or rows == (len(ids) if ids else meta["model.vocab_size"])
        crc = zlib.crc32(struct.pack(f"<{len(values)}f", *(v + 0.0 for v in values)))
        print(name, rows, cols, encoding, kept, f"{crc:08x}")
    print(json.dumps(meta))
    print(json.dumps(vocabulary(found[b"VOCB"])[0]))
    print(json.dumps(ids))


main()
