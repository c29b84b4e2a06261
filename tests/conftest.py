"""What every test shares: repeatable Hypothesis runs, the long tests' counts, golden/'s arrays."""

import pytest
from hypothesis import settings
from support.checks import load_golden

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_addoption(parser):
    """The counts of the long forms: `pytest -m stress --kills 50 --mutations 2000`."""
    group = parser.getgroup("stress", "the long forms, which `pytest -m stress` runs")
    group.addoption(
        "--kills", type=int, default=200, help="kills of a training process (default: 200)"
    )
    group.addoption(
        "--mutations", type=int, default=100_000, help="inputs of each reader (default: 100000)"
    )
    group.addoption(
        "--foreign", type=int, default=1500, help="checkpoints before the commands (default: 1500)"
    )


def pytest_collection_modifyitems(config, items):
    """Leave the long forms out unless their marker is asked for by name."""
    asked = config.getoption("markexpr")
    left = [name for name in ("stress", "peers") if name not in asked]
    long = [item for item in items if any(map(item.get_closest_marker, left))]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


@pytest.fixture
def golden():
    """golden("name") -> the arrays of tests/golden/name.npz."""
    return load_golden
