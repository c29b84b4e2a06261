"""python -m benchmarks.fashion: a run beside a mixture of Gaussians, on data that is one."""

import json
import math
import subprocess
import sys

import numpy as np
from support.docs_blocks import ROOT
from support.reader_cases import idx

from tinyddpm.cli import main

SIGMA, N = 0.1, 600


def fashion(*options):
    """The command, ended: returncode, stdout, stderr."""
    command = [sys.executable, "-m", "benchmarks.fashion", *map(str, options)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def alpha_bar(t):
    """Nichol21 eq. 17, of T = 1000."""
    f = [math.cos((x + 0.008) / 1.008 * math.pi / 2) ** 2 for x in (t / 1000, 0)]
    return f[0] / f[1]


def test_the_mixture_is_judged_beside_the_network(tmp_path):
    """On two classes x_0 ~ N(mean_k, SIGMA^2 I), far apart, the least error of eps_hat is known:
    alpha_bar SIGMA^2 / (alpha_bar SIGMA^2 + 1 - alpha_bar) where the classes can be told, as at
    t = 300. The mean of 960 squares is within 15 %, at 3 standard errors, and a covariance of 16
    numbers fitted to 270 images adds some 6 %.
    """
    rng = np.random.default_rng(0)
    labels = np.arange(N, dtype=np.uint8) % 2
    x = labels.reshape(-1, 1, 1) - 0.5 + SIGMA * rng.normal(size=(N, 4, 4))
    images = tmp_path / "train-images-idx3-ubyte"
    images.write_bytes(idx(np.rint(127.5 * (x.clip(-1, 1) + 1)).astype(np.uint8)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    run = tmp_path / "run"
    none = fashion(run)
    assert none.returncode == 2 and none.stderr.count("\n") == 1 and str(run) in none.stderr
    small = ["--base", "8", "--mults", "1", "1", "--steps", "3", "--batch", "8"]
    assert main(["train", str(images), "--out", str(run), "--quiet", *small]) == 0
    done = fashion(run, "--n", "32", "--pictures", tmp_path, "--json", tmp_path / "f.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "f.json").read_text())
    error = found["errors"]["mixture"]["300"]
    signal = alpha_bar(300) * SIGMA**2
    assert 0.85 < error * (signal + 1 - alpha_bar(300)) / signal < 1.25
    assert found["mixture"]["frechet"] < found["network"]["frechet"]
    assert found["mixture"]["bits_per_dim"] < found["network"]["bits_per_dim"]
    for name in ("frechet", "one_nn", "bits_per_dim", "bits_L_T"):
        assert f"| {name} |" in done.stdout
    for name in ("fashion.png", "fashion-mixture.png", "fashion-loss.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
