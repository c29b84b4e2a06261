"""What every test shares: repeatable Hypothesis runs, and the peers' answers in golden/."""

import pytest
from hypothesis import settings
from support.checks import load_golden

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture
def golden():
    """golden("name") -> the arrays of tests/golden/name.npz."""
    return load_golden
