"""The ways in which a file is damaged: its bytes, its headers' words, its parts beneath the
checksums.

Each mutation takes the random numbers r, the bytes and another valid input, and gives bytes.
reader_cases.py applies them to valid inputs of every reader.
"""

import gzip
import io
import re
import struct
import zipfile
import zlib

# What broken length and dimension words tend to be, and strings that mean something to one reader
# or another.
WORDS = (
    0,
    1,
    2,
    3,
    7,
    127,
    128,
    255,
    256,
    1000,
    2**15,
    2**16 - 1,
    2**16,
    2**20,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
TOKENS = (
    b"\0" * 9,
    b"\xff" * 9,
    b"9" * 5000,
    b"[" * 5000,
    b"(" * 300,
    b"-" * 3000,
    b"NaN",
    b"1e999",
    b"-Infinity",
    b"null",
    b"true",
    b'{"step": -1}',
    b'"step": 1e3',
    b'{"a":' * 3000,
    b"\xc3\x28",
    b"\r",
    b"\xe2\x80\xa8",
    b"../../x.npy",
    b"PK\x05\x06",
    b"PK\x06\x06",
    b"PK\x01\x02",
    b"\x1f\x8b\x08",
    b"\x93NUMPY",
    b"\x80\x04",
    b"IEND",
    b"IDAT",
    b"'descr': '|O'",
    b"True",
    b"<f16",
    b"|b1",
    b"<c8",
    b"2**9",
)


# Of any bytes.


def flip(r, a, other):
    """One to four bits."""
    a = bytearray(a)
    for _ in range(r.randint(1, 4) if a else 0):
        a[r.randrange(len(a))] ^= 1 << r.randrange(8)
    return bytes(a)


def put(r, a, other):
    """A few random bytes, over what was there or between."""
    i, new = r.randint(0, len(a)), r.randbytes(r.randint(1, 8))
    return a[:i] + new + a[i + r.choice((0, len(new))) :]


def token(r, a, other):
    """A string that means something, over what was there or between."""
    i, new = r.randint(0, len(a)), r.choice(TOKENS)
    return a[:i] + new + a[i + r.choice((0, len(new))) :]


def delete(r, a, other):
    """Up to 16 bytes, gone."""
    i = r.randint(0, len(a))
    return a[:i] + a[i + r.randint(1, 16) :]


def truncate(r, a, other):
    """The end, gone."""
    return a[: r.randint(0, len(a))]


def splice(r, a, other):
    """The start of one valid input and the end of another."""
    return a[: r.randint(0, len(a))] + other[r.randint(0, len(other)) :]


def repeat(r, a, other):
    """A part, twice."""
    i = r.randint(0, len(a))
    return a[:i] + a[r.randint(0, i) :]


def word(r, a, other):
    """A length or a dimension: a word of 2, 4 or 8 bytes where a header has one, or anywhere."""
    marks = [
        found.start()
        for found in re.finditer(rb"PK..|\x93NUMPY|\x1f\x8b\x08|\0\0[\x08-\x0e]|^|$", a, re.DOTALL)
    ]
    i = r.choice(marks) + r.randint(-8, 46) if r.random() < 0.8 else r.randrange(len(a) + 1)
    form = r.choice("<>") + r.choice("HIQ")
    i, size = max(i, 0), struct.calcsize(form)
    return a[:i] + struct.pack(form, r.choice(WORDS) % 256**size) + a[i + size :]


def number(r, a, other):
    """A decimal number of a text: a shape in an .npy, a value in JSON."""
    places = list(re.finditer(rb"-?\d+", a))
    if not places:
        return put(r, a, other)
    found = r.choice(places)
    new = r.choice(
        [
            *(str(w).encode() for w in WORDS),
            b"-1",
            b"1.5",
            b"-0",
            b"9" * 5000,
            b"1e400",
            b"null",
            b'"1"',
        ]
    )
    return a[: found.start()] + new + a[found.end() :]


MUTATIONS = (flip, flip, put, token, delete, truncate, splice, repeat, word, word, number)


def mutate(r, a, other):
    """One to three of them, one after the other."""
    for _ in range(r.choice((1, 1, 1, 2, 3))):
        a = r.choice(MUTATIONS)(r, a, other)
    return a


# Beneath the checksums: a part is changed and the file put together again, so that CRC and lengths
# are right.


def inside_gzip(r, a, other):
    """What a .gz holds."""
    return gzip.compress(mutate(r, gzip.decompress(a), gzip.decompress(other)), mtime=0)


def inside_zip(r, a, other):
    """One member of a .zip, its content or its name; or one taken over from another, or put in
    twice.
    """
    members, others = unzipped(a), unzipped(other)
    i, how = r.randrange(len(members)), r.random()
    name, content = members[i]
    if how < 0.8:
        members[i] = name, mutate(r, content, r.choice(others)[1])
    elif how < 0.9:
        members[i] = (
            mutate(r, name.encode(), b"../x").decode("latin1").replace("\0", "")[:999] or "x",
            content,
        )
    else:
        members.append(r.choice(members + others))
    return zipped(members, r.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))


def inside_png(r, a, other):
    """One chunk of a PNG: its content, its pixels, its length, its place."""
    chunks = png_chunks(a)
    i, how = r.randrange(len(chunks)), r.random()
    kind, content = chunks[i]
    if how < 0.2:
        chunks.insert(r.randint(0, len(chunks)), r.choice(chunks + png_chunks(other)))
    elif how < 0.4:
        at = next(i for i, (kind, _) in enumerate(chunks) if kind == b"IDAT")
        chunks[at] = b"IDAT", zlib.compress(mutate(r, zlib.decompress(chunks[at][1]), content))
    elif how < 0.6:
        i, content = 0, bytearray(chunks[0][1])
        struct.pack_into(">I", content, r.choice((0, 4)), r.choice(WORDS) % 2**32)
        chunks[i] = b"IHDR", bytes(content)
    else:
        chunks[i] = kind, mutate(r, content, b"")
    claimed = r.choice(WORDS) % 2**32 if how > 0.95 else None
    return png(chunks, i, claimed)


def unzipped(a):
    """[(name, content)] of a .zip."""
    with zipfile.ZipFile(io.BytesIO(a)) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def zipped(members, method):
    """A .zip of them; zipfile warns of names that stand twice, which here are wanted."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members:
            archive.NameToInfo.clear()
            archive.writestr(name, content)
    return out.getvalue()


def png_chunks(a):
    """[(kind, content)] of a PNG."""
    chunks, at = [], 8
    while at < len(a):
        (size,) = struct.unpack_from(">I", a, at)
        chunks.append((a[at + 4 : at + 8], a[at + 8 : at + 8 + size]))
        at += size + 12
    return chunks


def png(chunks, odd=None, claimed=None):
    """A PNG of them with right CRCs; chunk `odd` has the length `claimed`, where that is given."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for i, (kind, content) in enumerate(chunks):
        size = claimed if claimed is not None and i == odd else len(content)
        parts.append(
            struct.pack(">I", size) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )
    return b"".join(parts)
