"""Every option of every command changes what comes out, or is refused by its name.

Each case is a command line, the option that is put behind it, and nothing else; what is compared is
all that the command leaves: its exit code, its text, its files. Of a checkpoint the arrays count
and not the settings, which name every option, be it used or not; likewise in eval.json.
"""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from cli.test_cli import call
from PIL import Image

import tinyddpm as td
from tinyddpm.cli import commands, options, published
from tinyddpm.runs import checkpoint, progress
from tinyddpm.settings import SAMPLERS
from tinyddpm.tour import chapters

NET = ["--base", "4", "--groups", "2", "--blocks", "1", "--mults", "1", "2"]
BRIEF = ["--steps", "5", "--batch", "4", "--warmup", "1", "--lr", "0.1", "--save-every", "1"]
KEPT = ["--holdout", "0.5", "--log-every", "1", "--out", "r"]
OTHERS = ["--T", "12", *BRIEF, *KEPT]
TRAIN = ["train", "images.npz", *NET, *OTHERS]
CLASSES = [*TRAIN, "--classes"]
POINTS = ["train", "points.npy", "--hidden", "4", "--layers", "1", *OTHERS]
FOLDER = ["train", "pictures", *NET, *OTHERS]
AGAIN = ["train", "--resume", "done", "--steps", "7"]
TUNED = ["train", "images.npz", *BRIEF, *KEPT]
SAMPLE = ["--n", "3", "--seed", "1", "--out", "s.png", "--array", "s.npy"]
DRAWN = ["sample", "done", "--steps", "3", *SAMPLE]
NAMED = ["sample", "named", "--steps", "3", *SAMPLE]
JUDGED = ["eval", "done", "--n", "6", "--steps", "3"]
TOUR = ["tour", "--out", "t"]

# (command line, what is put behind it); a list in the place of the first takes its whole place
CASES = {
    "train": {
        "data": (TRAIN, ["train", "others.npz", *NET, *OTHERS]),
        "quiet": (TRAIN, "--quiet"),
        "out": (TRAIN, "--out", "other"),
        "resume": (["train", "--steps", "7", "--batch", "4"], "--resume", "done"),
        "start": (TUNED, "--from", "done"),
        "moved": (AGAIN, "--data", "others.npz"),
        "backend": (TRAIN, "--backend", "cupy"),
        "precision": (TRAIN, "--precision", "tf32"),
        "ranks": (TRAIN, "--ranks", "0"),
        "save_every": (TRAIN, "--save-every", "5"),
        "keep": (TRAIN, "--keep", "1"),
        "log_every": (TRAIN, "--log-every", "3"),
        "holdout": (TRAIN, "--holdout", "0.25"),
        "classes": (TRAIN, "--classes"),
        "flip": (TRAIN, "--flip"),
        "label_dropout": (CLASSES, "--label-dropout", "0.9"),
        "size": (FOLDER, "--size", "2"),
        "gray": (FOLDER, "--gray"),
        "limit": (TRAIN, "--limit", "500"),
        "range": (TRAIN, "--range", "0", "300"),
        "steps": (TRAIN, "--steps", "6"),
        "batch": (TRAIN, "--batch", "5"),
        "lr": (TRAIN, "--lr", "0.2"),
        "warmup": (TRAIN, "--warmup", "3"),
        "decay": (TRAIN, "--decay", "constant"),
        "weight_decay": (TRAIN, "--weight-decay", "0.5"),
        "clip_norm": (TRAIN, "--clip-norm", "1e-9"),
        "ema": (TRAIN, "--ema", "0.1"),
        "dropout": (TRAIN, "--dropout", "0.5"),
        "accumulate": (TRAIN, "--accumulate", "2"),
        # the same bits for less memory, as its own tests tell; points have no blocks
        "recompute": (POINTS, "--recompute"),
        "seed": (TRAIN, "--seed", "1"),
        "shards": (TRAIN, "--shards", "1"),
        "reduce": (TRAIN, "--reduce", "sum"),
        "schedule": (TRAIN, "--schedule", "linear"),
        "T": (TRAIN, "--T", "9"),
        "zero_snr": (TRAIN, "--zero-snr"),
        "target": (TRAIN, "--target", "eps"),
        "times": (TRAIN, "--times", "independent"),
        "vlb": (TRAIN, "--vlb", "0.1"),
        "min_snr": (TRAIN, "--min-snr", "0.1"),
        "base": (TRAIN, "--base", "6"),
        "mults": (TRAIN, "--mults", "1", "1"),
        "blocks": (TRAIN, "--blocks", "2"),
        "attention": (TRAIN, "--attention", "0"),
        "heads": (TRAIN, "--heads", "2"),
        "groups": (TRAIN, "--groups", "1"),
        "pad": (TRAIN, "--pad", "both"),
        "hidden": (POINTS, "--hidden", "8"),
        "layers": (POINTS, "--layers", "2"),
    },
    "sample": {
        "run": (DRAWN, ["sample", "named", "--steps", "3", *SAMPLE]),
        "quiet": (DRAWN, "--quiet"),
        "backend": (DRAWN, "--backend", "cupy"),
        "precision": (DRAWN, "--precision", "tf32"),
        "ranks": (DRAWN, "--ranks", "0"),
        "n": (DRAWN, "--n", "2"),
        "seed": (DRAWN, "--seed", "2"),
        "sampler": (DRAWN, "--sampler", "heun"),
        "steps": (DRAWN, "--steps", "4"),
        "spacing": (DRAWN, "--spacing", "logsnr"),
        "offset": ([*DRAWN, "--spacing", "leading"], "--offset", "1"),
        "eta": (DRAWN, "--eta", "1"),
        "variance": ([*DRAWN, "--sampler", "ancestral"], "--variance", "beta"),
        "guidance": ([*NAMED, "--class", "1"], "--guidance", "3"),
        "no_clip": (DRAWN, "--no-clip"),
        "label": (NAMED, "--class", "1"),
        "out": (DRAWN, "--out", "other.png"),
        "array": (DRAWN, "--array", "other.npy"),
        "gif": (DRAWN, "--gif", "s.gif"),
    },
    "eval": {
        "run": (JUDGED, ["eval", "named", "--n", "6", "--steps", "3"]),
        "quiet": (JUDGED, "--quiet"),
        "data": (JUDGED, "--data", "others.npz"),
        "limit": (JUDGED, "--limit", "100"),
        "backend": (JUDGED, "--backend", "cupy"),
        "precision": (JUDGED, "--precision", "tf32"),
        "ranks": (JUDGED, "--ranks", "0"),
        "n": (JUDGED, "--n", "7"),
        "seed": (JUDGED, "--seed", "2"),
        "sampler": (JUDGED, "--sampler", "heun"),
        "steps": (JUDGED, "--steps", "4"),
        "spacing": (JUDGED, "--spacing", "logsnr"),
        "offset": ([*JUDGED, "--spacing", "leading"], "--offset", "1"),
        "eta": (JUDGED, "--eta", "1"),
        "variance": (JUDGED, "--variance", "beta"),
        "guidance": (["eval", "named", "--n", "6", "--steps", "3"], "--guidance", "3"),
        "no_clip": (JUDGED, "--no-clip"),
    },
    "import": {
        "folder": (["import", "model", "--out", "i"], ["import", "others.npz", "--out", "i"]),
        "out": (["import", "model", "--out", "i"], "--out", "j"),
        "limit": (["import", "model", "--out", "i"], "--limit", "100"),
    },
    "export": {
        "run": (["export", "done", "--plain", "w.safetensors"], ["export", "named", "--out", "e"]),
        "out": (["export", "done", "--plain", "w.safetensors"], "--out", "e"),
        "plain": (["export", "done", "--out", "e"], "--plain", "w.safetensors"),
    },
    "tour": {
        "quiet": (TOUR, "--quiet"),
        "out": (TOUR, "--out", "u"),
        "seed": (TOUR, "--seed", "3"),
        "backend": (TOUR, "--backend", "numba"),
    },
    "backends": {},
}
# built-in data is of the same kind as the user's
MORE = [
    ("train limit", (["train", *BRIEF, "--out", "r", "--base", "8"], "--limit", "100000")),
    ("train limit", (["train", "moons", *BRIEF, "--out", "r"], "--limit", "30000")),
    ("train limit", (AGAIN, "--limit", "5000")),
    ("train shards", (TRAIN, "--shards", "5")),
    ("train accumulate", (TRAIN, "--accumulate", "5")),
    ("train accumulate", (TRAIN, "--accumulate", "0")),
    ("train hidden", (TRAIN, "--hidden", "8")),
    ("train base", (POINTS, "--base", "8")),
    ("train flip", (POINTS, "--flip")),
    ("train dropout", (POINTS, "--dropout", "0.5")),
    ("train size", (TRAIN, "--size", "2")),
    ("train gray", (TRAIN, "--gray")),
    ("train label_dropout", (TRAIN, "--label-dropout", "0.5")),
    ("train limit", (TRAIN, "--limit", "0")),
    ("sample guidance", (DRAWN, "--guidance", "3")),
    ("eval guidance", (JUDGED, "--guidance", "3")),
    ("eval n", (JUDGED, "--n", "0")),
    ("eval n", (JUDGED, "--n", "5")),
    ("sample gif", (DRAWN, "--gif", "s.png")),
    ("export plain", (["export", "done", "--out", "e"], "--plain", "w.npz")),
]


def commands_of_the_parser():
    """{command: its options' names} of the parser itself."""
    functions = [None] * 5 + [published.read, published.write]
    top = options.parser(*functions)
    found = next(action for action in top._actions if action.choices).choices
    return {
        name: {action.dest for action in sub._actions} - {"help"} for name, sub in found.items()
    }


def test_no_option_is_without_a_case():
    assert {name: set(cases) for name, cases in CASES.items()} == commands_of_the_parser()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with data, two runs and a published model."""
    folder, before = tmp_path_factory.mktemp("prepared"), os.getcwd()
    os.chdir(folder)
    pixels = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (24, 4, 4), np.uint8)
    np.savez("images.npz", x=pixels, y=np.arange(24) % 2)
    np.savez("others.npz", x=pixels[::-1], y=np.arange(24) % 2)
    np.save("points.npy", pixels.reshape(-1, 2) / np.float32(127.5) - 1)
    os.mkdir("pictures")
    for i, each in enumerate(pixels[:8]):
        Image.fromarray(np.stack([each, each.T, each], -1)).save(f"pictures/{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "_draw_run", lambda *_: None)
        for name, argv in (("done", TRAIN), ("named", [*CLASSES, "--vlb", "0.01"])):
            assert commands.main([*argv[:-2], "--out", name, *argv[len(TRAIN) :]]) == 0
    try:
        import safetensors  # noqa: F401  for import and export
    except ImportError:
        pass
    else:
        td.to_diffusers(td.load("done"), "model")
    os.chdir(before)
    return folder


@pytest.fixture(scope="module")
def found():
    """What command lines have left behind; one without an option serves all of its options."""
    return {}


@pytest.fixture
def outcome(prepared, found, tmp_path, monkeypatch, capsys):
    """A function: what a command line leaves behind, in a folder of its own."""
    monkeypatch.setattr(commands, "_draw_run", lambda *_: None)
    monkeypatch.setattr(commands, "FRAMES", 2)
    monkeypatch.setattr(commands.judging, "forecast", lambda *_: "about 0:01")

    def tour(*args):
        os.makedirs(args[0])
        with open(os.path.join(args[0], "index.html"), "w") as file:
            file.write(f"{args[1:3]}")
        args[-1]({"step": 1, "loss": 0.5})

    monkeypatch.setattr(chapters, "tour", tour)  # what it does with them its own tests tell

    def run(argv, shown=False):
        if (key := (*argv, shown)) not in found:
            place = tmp_path / str(len(found))
            shutil.copytree(prepared, place)
            monkeypatch.chdir(place)
            if shown:
                monkeypatch.setattr(progress, "DELAY", 0.0)
                monkeypatch.setattr(progress, "MINUTE", 0.0)
            code, out, err = call(capsys, *argv)
            assert code in (0, 2) and (code == 0 or err.count("\n") == 1), err
            # two times are never the same: that there is a line of progress is what counts
            lines = {line.split()[0] for line in err.splitlines() if "left" in line}
            text = [line for line in err.splitlines() if "left" not in line]
            found[key] = code, out, sorted(lines), text, contents(place)
        return found[key]

    return run


def contents(folder):
    """{path: digest} of a folder; of a checkpoint its arrays, of eval.json the scores."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if path.name.startswith("checkpoint"):
                arrays = checkpoint.load(path)[0]
                data = b"".join(arrays[name].tobytes() for name in sorted(arrays))
            elif path.name == "eval.json":
                asked = (*commands.RECORDED, "n", "bound_variance")
                scores = {k: v for k, v in json.loads(data).items() if k not in asked}
                data = json.dumps(scores).encode()
            digests[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return digests


ALL = [(f"{name} {option}", case) for name, of in CASES.items() for option, case in of.items()]


@pytest.mark.parametrize("name, case", [*ALL, *MORE], ids=[name for name, _ in [*ALL, *MORE]])
def test_an_option_does_something_or_is_refused_by_name(outcome, name, case):
    (argv, *more), (command, option) = case, name.split()
    if command in ("import", "export"):
        pytest.importorskip("safetensors")
    given = more[0] if isinstance(more[0], list) else [*argv, *more]
    shown = option == "quiet"
    before, after = outcome(argv, shown), outcome(given, shown)
    assert before[0] == 0, before
    assert after != before
    if after[0] == 2 and more[0] is not given:
        flag = more[0].removeprefix("--")
        words = flag, flag.replace("-", "_"), option
        assert any(word in after[3][0] for word in words), after[3]


# Of sampling every option with every sampler.

HOW = {
    "steps": ({"steps": 6}, {"steps": 7}),
    "spacing": ({"steps": 6}, {"steps": 6, "spacing": "quadratic"}),
    "offset": ({"steps": 3, "spacing": "leading"}, {"steps": 3, "spacing": "leading", "offset": 2}),
    "eta": ({"steps": 6}, {"steps": 6, "eta": 0.5}),
    "variance": ({"steps": 6}, {"steps": 6, "variance": "beta"}),
    "clip": ({"steps": 6}, {"steps": 6, "clip": 0.25}),
    "seed": ({"steps": 6}, {"steps": 6, "seed": 3}),
    "guidance": ({"steps": 6, "label": 1}, {"steps": 6, "label": 1, "guidance": 2.0}),
    "label": ({"steps": 6, "label": 1}, {"steps": 6, "label": 0}),
}


@pytest.fixture(scope="module")
def labelled():
    x = np.linspace(-1, 1, 64, dtype=np.float32).reshape(32, 2)
    net = td.MLP(hidden=8, layers=1, classes=2)
    y = np.arange(32) % 2
    settings = {"lr": 0.3, "warmup": 0, "label_dropout": 0.3, "schedule": td.cosine(16)}
    return td.train(x, 20, batch=8, labels=y, net=net, **settings)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("option", HOW)
def test_of_sampling_too_with_every_sampler(labelled, sampler, option):
    before, after = ({"sampler": sampler, **how} for how in HOW[option])
    expected = labelled.sample(3, **before)
    try:
        assert not np.array_equal(labelled.sample(3, **after), expected)
    except td.InputError as error:
        assert option in str(error)
