"""One small tour, and what it trained, for all tests of the tour."""

import pytest

from tinyddpm.schedule import cosine
from tinyddpm.tour import chapters, spirals

TINY = spirals.Setting(
    steps=12,
    batch=16,
    hidden=8,
    points=64,
    checks=3,
    cloud=40,
    frames=5,
    grid=6,
    ode_steps=4,
    solved=16,
    fine=20,
    bounded=16,
    longest=10,
)


@pytest.fixture(scope="session")
def tiny():
    """A `Setting` that takes a second."""
    return TINY


@pytest.fixture(scope="session")
def walked(tmp_path_factory):
    """(folder, chapters, texts) of one small tour, into a folder that holds other things."""
    out, texts = tmp_path_factory.mktemp("walk") / "deep" / "tour", []
    out.mkdir(parents=True)
    (out / "mine.txt").write_text("kept")
    (out / "9-gpu.png").write_text("overwritten")
    return out, chapters.tour(out, show=texts.append, setting=TINY), texts


@pytest.fixture(scope="session")
def trained():
    """What the small tour trained: the same seed gives the same network."""
    return spirals.learn(TINY)


@pytest.fixture(scope="session")
def truth():
    """The spirals under the tour's schedule."""
    return spirals.spirals(cosine(1000))
