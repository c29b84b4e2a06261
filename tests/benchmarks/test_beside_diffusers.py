"""python -m benchmarks peers: diffusers' network beside ours; no time is judged."""

import subprocess
import sys

import pytest
from support.docs_blocks import ROOT
from test_benchmarks import figures_of

ABSENT = """
import sys
sys.modules["diffusers"] = None
from benchmarks.__main__ import main
sys.exit(main(["peers", "--tiny"]))
"""
# One weight of theirs is off: a hundredth of it, in the first convolution.
WRONG = """
import sys
from benchmarks import peers
from benchmarks.__main__ import main
right = peers.twin

def wrong(*arguments):
    net, layout = right(*arguments)
    net.net.conv_in.weight.data *= 1.01
    return net, layout

peers.twin = wrong
sys.exit(main(["peers", "--tiny", "--backend", "numpy"]))
"""


def run(code):
    """A fresh process that runs the code: returncode, stdout, stderr."""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


def test_without_the_packages_it_is_one_line_and_exit_2():
    done = run(ABSENT)
    assert done.returncode == 2 and not done.stdout
    assert "diffusers here: pip install" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.peers
def test_the_tiny_form_compares_times_and_measures_memory(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    shown, figures = figures_of(tmp_path / "f.json", "peers", "--backend", "numpy")
    found, peers = figures["peers"], {"diffusers", "diffusers nhwc"}
    (title,) = found["memory"]
    assert set(found["times"]) == {f"{title}, train step", f"{title}, sampling step"}
    for case, rows in found["times"].items():
        assert case in shown and set(rows) == {"numpy", *peers}
        best = min(peers, key=lambda name: rows[name]["median_ms"])
        assert rows[best]["ratio"]["best"] == 1
    peaks = found["memory"][title]
    assert set(peaks) == {"numpy", *peers} and 20 < peaks["numpy"] < peaks["diffusers"] < 3000


@pytest.mark.peers
def test_another_weight_there_is_noticed():
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    done = run(WRONG)
    assert done.returncode == 1 and "from the reference" in done.stderr, done.stderr
