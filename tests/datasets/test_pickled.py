"""CIFAR-10's Python version: read from its .tar.gz or its folder with nothing unpickled."""

import gzip
import io
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest
from test_sets import one_line, refused_within

from tinyddpm import InputError
from tinyddpm.datasets import pickled, readers, sets

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)
IMAGES = np.moveaxis(PIXELS.reshape(3, 3, 32, 32), 1, 3)


def archive(path, **batches):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in batches.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def batch(pixels=PIXELS, labels=(0, 5, 9), key=str, protocol=2):
    entries = {key("data"): pixels, key("labels"): list(labels)}
    return pickle.dumps(entries, protocol)


def python_2_batch():
    """A batch with the opcodes of Python 2's cPickle, which made the published archive."""

    def text(word):
        return b"U" + bytes([len(word)]) + word + b"q\x01"

    dtype = b"cnumpy\ndtype\nq\x05" + text(b"u1") + b"K\0K\1\x87Rq\x06"
    dtype += b"(K\3" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    made = b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\0\x85"
    array = made + text(b"b") + b"\x87Rq\x07(K\1M\3\0M\0\x0c\x86" + dtype + b"\x89"
    array += b"T" + struct.pack("<i", PIXELS.size) + PIXELS.tobytes() + b"q\x08tb"
    labels = text(b"labels") + b"]q\x09(K\0K\5K\x09e"
    names = text(b"filenames") + b"]q\x0a(" + text(b"a.png") * 3 + b"e"
    title = text(b"batch_label") + text(b"training batch 1 of 5")
    return b"\x80\x02}q\0(" + title + labels + text(b"data") + array + names + b"u."


def refused(path, match, **how):
    with pytest.raises(InputError, match=match) as caught:
        readers.read(path, **how)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_batch_as_python_2_wrote_it(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(python_2_batch())
    for path in (tmp_path, tmp_path / "data_batch_1"):
        found = readers.read(path)
        np.testing.assert_array_equal(found.array, IMAGES)
        assert found.labels.tolist() == [0, 5, 9]


@pytest.mark.parametrize("key", [str, str.encode])
def test_batches_are_read_in_their_order(tmp_path, key):
    two, one = batch(PIXELS[::-1].copy(), [1, 2, 3], key), batch(key=key)
    path = archive(tmp_path / "a.tar.gz", data_batch_2=two, test_batch=b"x", data_batch_1=one)
    found = readers.read(path)
    np.testing.assert_array_equal(found.array, np.concatenate([IMAGES, IMAGES[::-1]]))
    assert found.labels.tolist() == [0, 5, 9, 1, 2, 3]
    with tarfile.open(path) as tar:
        for member in tar.getmembers():
            (tmp_path / member.name).parent.mkdir(exist_ok=True)
            (tmp_path / member.name).write_bytes(tar.extractfile(member).read())
    unpacked = sets.load(tmp_path / "cifar-10-batches-py")
    assert unpacked.labels.tolist() == [0, 5, 9, 1, 2, 3] and unpacked.levels == 256


def test_one_image_is_a_batch_too(tmp_path):
    """A list and a dict of one are written by other opcodes, APPEND and SETITEM."""
    path = archive(tmp_path / "a.tgz", data_batch_5=batch(PIXELS[:1], [7]))
    assert readers.read(path).labels.tolist() == [7]


def test_a_batch_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    class Boom:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    content = pickle.dumps({"data": PIXELS, "labels": [1, 2, 3], "more": Boom()}, 2)
    path = archive(tmp_path / "a.tgz", data_batch_1=content)
    refused(path, "data_batch_1: its pickle has 'GLOBAL posix mkdir', which no CIFAR-10 batch has")
    newer = archive(tmp_path / "b.tgz", data_batch_1=pickle.dumps({"data": Boom()}, 4))
    refused(newer, "data_batch_1: its pickle has 'FRAME', which no CIFAR-10 batch has: not run")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (batch(PIXELS[:, :-1].copy()), "shape"),
        (batch(PIXELS.astype(np.int8)), "uint8"),
        (batch(labels=[1, 2]), "one for each image"),
        (batch(labels=[1, 2, 10]), "from 0 to 9"),
        (batch(np.asfortranarray(PIXELS)), "C order"),
        (pickle.dumps([1], 2), "is no dict"),
        (pickle.dumps({}, 2), "no array named data"),
        (pickle.dumps({3: 4}, 2), "keys that are no names"),
        (python_2_batch()[:-1], "damaged"),
        (python_2_batch().replace(b"J\xff", b"e\xff"), "damaged"),
        (b"\x80\x02t.", "damaged"),
        (b"\x80\x02K\1R.", "damaged"),
        (b"\x80\x02I" + b"9" * 5000 + b"\n.", "damaged"),
        (b"\x80\x02\x8b\xff\xff\0\0" + b"\1" * 2**16 + b".", "has 'LONG4'"),
    ],
)
def test_other_pickles_are_refused(tmp_path, content, match):
    refused(archive(tmp_path / "a.tar.gz", data_batch_1=content), f"data_batch_1: its .*{match}")


def test_hostile_pickles_take_no_longer_than_their_length(tmp_path):
    """Marks within marks, and one long text as each of many keys: a reader that went over the stack
    at each mark, or turned each key into bytes, would take minutes or hundreds of gigabytes.
    """
    nested = b"\x80\x02" + b"(" * 49_000 + b"t" * 49_000 + b"."
    call = b"c_codecs\nencode\nh\0X\x06\0\0\0latin1\x86R"
    text = b"X" + struct.pack("<I", 2**23) + b"a" * 2**23 + b"q\0"
    keys = b"\x80\x02" + text + b"}(" + (call + b"N") * 14_000 + b"u."
    few = b"\x80\x02" + text + b"0}(" + (call + b"N") * 9 + b"u."
    many = b"\x80\x02" + b"N" * 100_000 + b"."
    for content, words in (
        (nested, "is no dict"),
        (keys, "more entries"),
        (few, "has 'POP'"),
        (many, "more opcodes"),
    ):
        (tmp_path / "data_batch_1").write_bytes(content)
        refused(tmp_path / "data_batch_1", words)


def test_the_limit_is_held_before_a_batch_is_unpacked(tmp_path):
    """As for every reader, a byte counts as the float32 that it becomes: four bytes."""
    path = archive(tmp_path / "a.tgz", data_batch_1=batch(), data_batch_2=batch())
    assert len(readers.read(path, limit=6 * 3072 * 4).array) == 6
    refused(path, "the limit is", limit=6 * 3072 * 4 - 1)
    archive(path, data_batch_1=bytes(2**25))
    refused_within(2**20, lambda: readers.read(path, limit=2**24))
    refused(path, "would take 64,413,696 bytes; the limit is 16,777,216", limit=2**24)
    with open(tmp_path / "data_batch_1", "wb") as file:
        file.truncate(2**40)
        file.seek(0)
        file.write(b"\x80\x02")
    refused(tmp_path, "larger than a batch")


def tar(name, size, content=b""):
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf() + content + bytes(-len(content) % 512)


def test_damaged_archives_are_refused(tmp_path):
    good = gzip.decompress(archive(tmp_path / "a.tgz", data_batch_1=batch()).read_bytes())
    for content, words in (
        (tar("data_batch_1", 2**26 + 1), "larger than a batch"),
        (tar("a", 2**30), "more than CIFAR-10's archive"),
        (tar("a", 0) * 64, "more files"),
        (tar("a", 5, b"12345") + bytes(1024), "holds no data_batch_1"),
        (tar("data_batch_1", len(batch()), batch()) * 2, "data_batch_1 twice"),
        (good[:5000], "ends early"),
        (tar("a", 5, b"12345") + b"1" * 512, "no tar"),
        (good + bytes(2**20), "goes on after"),
        (b"hello" * 200, "no tar"),
        (b"", "ends early"),
    ):
        (tmp_path / "a.tgz").write_bytes(gzip.compress(content))
        refused(tmp_path / "a.tgz", words)
    spoiled = bytearray(gzip.compress(good))
    spoiled[-8] ^= 1
    (tmp_path / "a.tgz").write_bytes(spoiled)
    refused(tmp_path / "a.tgz", "CRC")
    link = tarfile.TarInfo("data_batch_1")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    (tmp_path / "a.tgz").write_bytes(gzip.compress(link.tobuf() + bytes(1024)))
    refused(tmp_path / "a.tgz", "holds no data_batch_1")


def test_pictures_options_are_refused_for_batches(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(batch())
    one_line(lambda: sets.load(tmp_path, size=8), f"{tmp_path}: size and gray are for folders")


def test_what_a_walk_makes_is_never_called():
    """The globals that a batch names stay names."""
    found = pickled._walk(python_2_batch())
    assert found["data"].name == "numpy.core.multiarray _reconstruct"
    assert isinstance(found["data"].args[0], str)
