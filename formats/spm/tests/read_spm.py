"""A reader of .spm files written from README.md alone, with nothing but the standard library.

Usage: read_spm.py FILE  ->  one line a tensor: name, rows, columns, encoding, kept, CRC-32 of the weights as f32;
then the metadata and the vocabulary's tokens as JSON lines.
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
    assert version == 1 and length == len(file)
    table = file[64:64 + 32 * count]
    assert crc32c(file[:60] + table) == struct.unpack_from("<I", file, 60)[0], "header checksum"
    found, expected = {}, 65536
    for i in range(count):
        name, flags, offset, size, crc, zero = struct.unpack_from("<4sIQQII", table, 32 * i)
        assert offset == expected and flags <= 1 and zero == 0
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
        if encoding >= 16:
            starts = struct.unpack_from(f"<{rows + 1}I", found[b"ROWS"], rows_at)
            rows_at += 4 * (rows + 1)
        yield name, rows, cols, encoding, kept, weights(data, rows, cols, encoding, starts)
        end = offset + size
    assert rows_at == len(found[b"ROWS"])


SPARSE_Q4_LEVELS = [-120, -100, -82, -65, -48, -32, -18, -7, 0, 7, 18, 32, 48, 65, 82, 106]


def weights(data, rows, cols, encoding, starts):
    nb = -(-cols // 32)
    at = 0
    masks = scales = None
    if encoding >= 16:
        masks, at = data[:rows * nb * 4], up(rows * nb * 4, 64)
    if encoding in (2, 3, 17, 18):
        scales = struct.unpack_from(f"<{rows * nb}e", data, at)
        at = up(at + rows * nb * 2, 64)
    out = []
    for r in range(rows):
        row_len = {0: cols * 4, 1: cols * 2, 2: nb * 32, 3: nb * 16}.get(encoding)
        row = data[at + (starts[r] if starts else r * row_len):]
        nth = 0
        for c in range(cols):
            if masks and not masks[r * nb * 4 + c // 8] >> c % 8 & 1:
                out.append(0.0)
                continue
            i = nth if masks else c
            nth += 1
            if encoding == 0:
                value = struct.unpack_from("<f", row, 4 * i)[0]
            elif encoding in (1, 16):
                value = struct.unpack_from("<e", row, 2 * i)[0]
            elif encoding in (2, 17):
                value = struct.unpack_from("<b", row, i)[0]
            else:
                n = row[i // 2] >> i % 2 * 4 & 15
                value = n - 8 if encoding == 3 else SPARSE_Q4_LEVELS[n]
            if scales:
                value = struct.unpack("<f", struct.pack("<f", value * scales[r * nb + c // 32]))[0]
            out.append(value)
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
    f = Fields(data)
    f.take(4 + 16)
    n, scores, merges, ends, template = (f.num("I") for _ in range(5))
    f.text(f.num("H"))
    f.take(n + 4 * scores + 8 * merges + 4 * ends)
    tokens = [f.text(f.num("H")) for _ in range(n)]
    f.text(0 if template == 2**32 - 1 else template)
    assert f.at == len(data)
    return tokens


def main():
    with open(sys.argv[1], "rb") as file:
        found = sections(file.read())
    for name, rows, cols, encoding, kept, values in tensors(found):
        crc = zlib.crc32(struct.pack(f"<{len(values)}f", *(v + 0.0 for v in values)))
        print(name, rows, cols, encoding, kept, f"{crc:08x}")
    print(json.dumps(metadata(found[b"META"])))
    print(json.dumps(vocabulary(found[b"VOCB"])))


main()
