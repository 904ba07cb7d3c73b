"""What every test shares: checked shapes, no network, and the way to real images."""

import os
from pathlib import Path

import jaxtyping
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# Set before any library reads it: a test must never wait for, or depend on, a download.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Figures are drawn to memory.
os.environ["MPLBACKEND"] = "agg"

# Every shape in a signature of the library is checked at each call. This must run before the first
# `import cmssf_lib`; outside the tests the annotations cost nothing.
install_import_hook("cmssf_lib", "shape_checker.check")

# The same examples on every machine and in every run; no deadline, because machines are shared.
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")


@pytest.fixture
def as_shipped():
    """No run-time shape checks: what a reader meets outside the tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The top folder of the repository."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_cifar10() -> Path:
    """The folder with real CIFAR-10 images (``train/<class>/*``, ``test/<class>/*``), or a skip."""
    place = os.environ.get("CMSSF_DATA")
    if not place:
        pytest.skip("CMSSF_DATA is not set, so there are no real CIFAR-10 images to test with")
    for folder in (Path(place) / "cifar10", Path(place)):
        if (folder / "train").is_dir() and (folder / "test").is_dir():
            return folder
    pytest.skip(f"CMSSF_DATA={place} holds no cifar10/train and cifar10/test image folders")
