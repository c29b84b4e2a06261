"""What a run or samples would take is counted and refused before it is taken."""

import numpy as np
import pytest

import tinyddpm as td
from tinyddpm.errors import InputError
from tinyddpm.runs import memory

X = np.zeros((4, 4, 4, 1), np.float32)
NET = td.UNet(base=8, mults=(1,), attention=(False,), blocks=1, groups=4)


@pytest.fixture(scope="module")
def model():
    return td.train(X, steps=1, batch=2, net=NET, schedule=td.linear(3))


def test_the_free_memory_is_some_and_no_more_than_the_machines():
    assert memory.free() > 0
    if memory.MEMINFO.exists():
        total = int(memory.MEMINFO.read_text().split()[1]) * 1024
        swap = [line for line in memory.MEMINFO.read_text().splitlines() if "SwapTotal" in line]
        assert memory.free() <= total + 1024 * int(swap[0].split()[1])


def test_a_control_groups_limit_counts(tmp_path, monkeypatch):
    """What the group may still take: its limit, less what it uses, but for idle files' pages."""
    for name, text in (("max", "5000"), ("current", "4000"), ("stat", "anon 1\ninactive_file 100")):
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    monkeypatch.setattr(memory.sys, "platform", "linux")
    assert memory.free() == 1100
    (tmp_path / "memory.max").write_text("max")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "nowhere")
    assert memory.free() == float("inf")


def test_the_refusal_names_the_whole_the_largest_part_and_the_bound(monkeypatch):
    monkeypatch.setattr(memory, "free", lambda: 3 * 2.0**30)
    memory.check("it", {"a": 2**30, "b": 2**31})
    with pytest.raises(InputError) as caught:
        memory.check("it", {"few": 2**20, "many": 5 * 2**30})
    assert str(caught.value) == (
        "it would take at least 5.0 GiB of memory, 5.0 GiB of it for many; 3.0 GiB are free"
    )
    with pytest.raises(InputError, match=r"the limit is 100 bytes \(--limit\)$"):
        memory.check("it", {"a": 101}, 100)


@pytest.mark.parametrize("n", [10**14, 10**30])
def test_samples_without_end_are_refused_before_any_is_drawn(model, n):
    with pytest.raises(InputError, match="sampling would take .* for the samples"):
        td.sample(model, n)
    with pytest.raises(InputError, match="sampling would take .* for the trajectory"):
        td.sample(model, n, trajectory=48)


def test_frames_are_kept_where_they_are_asked_for(model, monkeypatch):
    """16 numbers a sample: 64 bytes each, and as many again for each frame of a trajectory.

    Beside them the network's layers: four maps of 4 x 4 pixels and 8 channels a sample.
    """
    monkeypatch.setattr(memory, "free", lambda: 64 * 10 + 4 * 10 * 4 * 16 * 8 + 1)
    assert td.sample(model, 10).shape == (10, 4, 4, 1)
    with pytest.raises(InputError, match="sampling"):
        td.sample(model, 10, trajectory=2)
