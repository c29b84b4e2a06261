"""What every command says first, classes by their names, and the data that eval judges by."""

import numpy as np
import pytest
from PIL import Image
from test_cli import SMALL, call

import tinyddpm as td
from tinyddpm.cli import commands, opening
from tinyddpm.datasets import sets
from tinyddpm.errors import InputError
from tinyddpm.nn.ops import Ops
from tinyddpm.runs import checkpoint

TINY = [*SMALL, "--steps", 2]


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty folder to work in; train draws no figures, which take longer than all the rest."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "FRAMES", 2)
    monkeypatch.setattr(commands, "_draw_run", lambda *_: None)
    return tmp_path


def pictures(folder, **counts):
    """A folder of classes with so many grey pictures each, all different."""
    for k, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.full((4, 4), 40 * k + i, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


def test_the_first_line_of_each_command(work, capsys, monkeypatch):
    monkeypatch.setattr(opening.threads, "cores", lambda: 2)
    pictures(work / "pets", fox=3, dog=4, cat=5)
    _, out, _ = call(capsys, "train", "pets", "--out", "r", "--holdout", 0.25, *TINY)
    size = checkpoint.load("r")[0]["ema"].size
    assert 1000 < size < 99_950
    data = "12 images 4x4x1, 3 classes (cat 5, dog 4, fox 3), 3 held out"
    computed = f"U-Net, {size / 1000:.1f} k parameters; numpy, 2 threads"
    assert out.splitlines()[0] == f"{data}; {computed}"
    _, out, _ = call(capsys, "train", "--resume", "r", "--steps", 3)
    assert out.splitlines()[0] == f"{data}; {computed}"
    _, out, _ = call(capsys, "eval", "r", "--n", 6, "--steps", 2)
    assert out.splitlines()[0] == f"{data}; {computed}"
    _, out, _ = call(capsys, "sample", "r", "--n", 2, "--steps", 2)
    assert out.splitlines()[0] == f"2 samples 4x4x1; {computed}"
    options = ["--out", "m", "--hidden", 8, "--layers", 1, "--T", 3, "--steps", 1, "--shards", 1]
    _, out, _ = call(capsys, "train", "swissroll", *options)
    assert out.startswith("4,096 points in 2 dimensions, 2,048 held out; MLP, ")
    assert out.splitlines()[0].endswith(" parameters; numpy, 1 thread")


def test_many_classes_are_counted_and_some_named():
    digits = sets.load()
    line = opening.data_line(*sets.split(digits, 0))
    # UCI's own counts of the digits
    assert line == ("1,797 images 8x8x1, 10 classes (0 178, 1 182, 2 177, 3 183, ...), 0 held out")


@pytest.mark.parametrize(
    "count, text",
    [(7, "7"), (999, "999"), (1000, "1.0 k"), (35_700_000, "35.7 M"), (123_456, "123 k")],
)
def test_counts_in_three_figures(count, text):
    assert opening.short(count) == text


def test_the_size_of_a_network_is_its_parameters():
    """One layer of width 4: input 2 x 4 + 4, time 20, block 3 x 20, output 4 x 2 + 2."""
    line = opening.model_line(td.MLP(dim=2, hidden=4, layers=1), Ops(), 1)
    assert line == "MLP, 102 parameters; numpy, 1 thread"


def test_a_class_is_asked_for_by_its_folders_name(work, capsys):
    pictures(work / "pets", dog=4, cat=5)
    assert call(capsys, "train", "pets", "--out", "r", "--classes", *TINY)[::2] == (0, "")
    meta = checkpoint.load("r")[1]
    assert meta["classes"] == ["cat", "dog"]
    code, out, err = call(capsys, "sample", "r", "--class", "dog", "cat", "--n", 2, "--steps", 2)
    assert (code, err) == (0, "")
    assert out.startswith("2 samples 4x4x1, 2 classes (cat, dog); U-Net, ")
    code, _, err = call(capsys, "sample", "r", "--class", "fox")
    assert code == 2 and "knows the classes cat, dog; it was asked for fox" in err
    assert call(capsys, "train", "--resume", "r", "--steps", 3)[0] == 0
    model = td.load("r")
    assert model.classes == ("cat", "dog")
    x = td.sample(model, 2, label=["dog", "cat"], steps=2)
    swapped = td.sample(model, 2, label=["cat", "dog"], steps=2)
    assert np.abs(x - swapped).max() > 0, "both are of the same noise"


def test_folders_called_by_numbers_are_asked_for_by_them(work, capsys):
    pictures(work / "pets", **{"9": 2, "10": 2, "2": 2})
    call(capsys, "train", "pets", "--out", "r", "--classes", "--holdout", 0, *TINY)
    assert set(checkpoint.load("r")[1]["classes"]) == {"2", "9", "10"}
    assert call(capsys, "sample", "r", "--class", 9, "--n", 1, "--steps", 2)[0] == 0
    assert "asked for 0" in call(capsys, "sample", "r", "--class", 0)[2]


def test_numbered_classes_are_asked_for_by_number(work, capsys):
    call(capsys, "train", "digits", "--out", "r", "--classes", *TINY)
    assert call(capsys, "sample", "r", "--class", 7, "--n", 1, "--steps", 2)[0] == 0
    code, _, err = call(capsys, "sample", "r", "--class", "seven")
    assert code == 2 and "asked for seven" in err


def test_a_run_from_before_classes_had_names_is_resumed_and_sampled(work, capsys):
    """Its checkpoint has numbers for them; its data is still the same."""
    pictures(work / "pets", dog=4, cat=5)
    call(capsys, "train", "pets", "--out", "r", "--classes", "--holdout", 0, *TINY)
    arrays, meta = checkpoint.load("r")
    loaded = sets.load("pets")
    meta |= {"classes": [0, 1], "digest": sets.digest(sets.Data(loaded.x, loaded.labels))}
    for name in ("size", "gray"):
        del meta["data"][name]
    meta["data"]["limit"] = 2**30
    checkpoint.save("r/checkpoint.npz", arrays, {k: v for k, v in meta.items() if k != "version"})
    assert call(capsys, "train", "--resume", "r", "--steps", 4)[::2] == (0, "")
    assert call(capsys, "sample", "r", "--class", 1, "--n", 1, "--steps", 2)[0] == 0


# --- the same check on every path ---


def test_eval_refuses_data_that_is_not_what_was_trained_on(work, capsys):
    """One picture more, and the split would call most of the held-out ones fitted."""
    pictures(work / "pets", cat=12)
    call(capsys, "train", "pets", "--out", "r", "--holdout", 0.5, *TINY)
    assert call(capsys, "eval", "r", "--n", 6, "--steps", 2)[0] == 0
    pictures(work / "elsewhere", cat=12)
    assert call(capsys, "eval", "r", "--n", 6, "--steps", 2, "--data", "elsewhere")[0] == 0
    for folder in ("pets", "elsewhere"):
        Image.new("L", (4, 4), 200).save(work / folder / "cat" / "more.png")
    for options in ([], ["--data", "elsewhere"]):
        code, _, err = call(capsys, "eval", "r", "--n", 6, "--steps", 2, *options)
        assert code == 2 and "the data is not what r was trained on" in err and err.count("\n") == 1
    assert call(capsys, "train", "--resume", "r", "--steps", 9)[0] == 2


def test_no_checkpoint_lifts_the_users_limit(work, capsys):
    """The checkpoint's own limit, of older runs, is not asked."""
    np.save("x.npy", np.arange(12 * 16, dtype=np.uint8).reshape(12, 4, 4))
    call(capsys, "train", "x.npy", "--out", "r", "--holdout", 0.5, *TINY)
    arrays, meta = checkpoint.load("r")
    meta["data"]["limit"] = 2**40
    del meta["version"]
    checkpoint.save("r/checkpoint.npz", arrays, meta)
    judge, resume = ["eval", "r", "--n", 6, "--steps", 2], ["train", "--resume", "r", "--steps", 4]
    for argv in (judge, resume):
        code, _, err = call(capsys, *argv, "--limit", 12 * 64 - 1)
        assert code == 2 and "768 bytes; the limit is 767 (--limit)" in err
    assert call(capsys, *judge, "--limit", 12 * 64)[0] == 0
    code, _, err = call(capsys, *resume, "--limit", 12 * 64)  # training takes more than its data
    assert code == 2 and "the limit is 768 bytes (--limit)" in err
    assert call(capsys, *resume, "--limit", 10**9)[0] == 0


@pytest.mark.parametrize(
    "values, options",
    [
        (np.arange(6 * 16, dtype=np.uint8).reshape(6, 4, 4, 1), {}),
        (np.arange(6 * 16).reshape(6, 4, 4, 1), {"value_range": (0, 95)}),
        (np.linspace(0, 1, 96).reshape(6, 4, 4, 1), {"value_range": (0, 1)}),
    ],
)
def test_training_takes_a_range(work, values, options):
    """Bytes as they are, others as declared: the digest is that of the numbers in [-1, 1]."""
    low, high = options.get("value_range", (0, 255))
    expected = np.float32((values - (low + high) / 2) / ((high - low) / 2))
    net = td.UNet(base=4, groups=2, mults=(1,), attention=(False,), blocks=1)
    how = {"net": net, "schedule": td.cosine(3), "batch": 2}
    model = td.train(values, 1, out="r", **how, **options)
    same = td.train(expected, 1, **how, value_range=(-1, 1))
    assert model.meta["digest"] == same.meta["digest"]
    assert td.resume("r", values, 2).meta["step"] == 2
    with pytest.raises(InputError, match="the data is not"):
        td.resume("r", values[::-1], 3)


def test_the_advice_on_ranges_can_be_followed():
    with pytest.raises(InputError, match=r"int64 values from 0 to 3 .*value_range=\(low, high\)"):
        td.train(np.arange(4).reshape(2, 2), 1)
    with pytest.raises(InputError, match="a range needs two numbers"):
        td.train(np.zeros((2, 2)), 1, value_range=3)


def test_a_resumed_run_says_what_it_goes_on_with(tmp_path, capsys, monkeypatch):
    """The checkpoint's own backend, which is not the default."""
    pytest.importorskip("numba")
    monkeypatch.chdir(tmp_path)
    small = ["--hidden", "8", "--layers", "1", "--T", "5", "--out", "r"]
    assert commands.main(["train", "moons", "--steps", "2", "--backend", "numba", *small]) == 0
    assert "; numba, " in capsys.readouterr().out.splitlines()[0]
    assert commands.main(["train", "--resume", "r", "--steps", "3"]) == 0
    assert "; numba, " in capsys.readouterr().out.splitlines()[0]
    assert commands.main(["train", "--resume", "r", "--steps", "4", "--backend", "numpy"]) == 0
    assert "; numpy, " in capsys.readouterr().out.splitlines()[0]


def test_no_agreement_of_labels_is_judged_where_none_were_learned(tmp_path, capsys, monkeypatch):
    """moons have labels; without --classes the samples were asked for none of them."""
    monkeypatch.chdir(tmp_path)
    small = ["--hidden", "8", "--layers", "1", "--T", "5", "--steps", "2"]
    for options, judged in ((["--out", "plain"], False), (["--out", "told", "--classes"], True)):
        assert commands.main(["train", "moons", *small, *options]) == 0
        assert commands.main(["eval", options[1], "--n", "20", "--steps", "2"]) == 0
        assert ("label_agreement" in capsys.readouterr().out) == judged
