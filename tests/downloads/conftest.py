"""A server with one file, and where it is fetched to."""

import pytest
from website import serving

from diffjax import downloads as _transfer


@pytest.fixture
def site():
    """A running server; what it was asked and gave is counted."""
    with serving() as site:
        yield site


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(_transfer, "_RETRY_DELAYS", (0.0, 0.0))
    monkeypatch.delenv("DIFFJAX_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "weights.pth"


@pytest.fixture
def part(path):
    """Where the download keeps what came so far."""
    return path.with_name("weights.pth.part")
