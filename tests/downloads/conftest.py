"""Server of one file, and the paths that it is downloaded to."""

import pytest
from website import serving

from diffjax import downloads


@pytest.fixture
def site():
    """Running server that records requests and counts bytes served."""
    with serving() as site:
        yield site


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(downloads, "_RETRY_DELAYS", (0.0, 0.0))
    monkeypatch.delenv("DIFFJAX_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "weights.pth"


@pytest.fixture
def part(path):
    """Partial file of the download."""
    return path.with_name("weights.pth.part")
