"""Settings of all tests: checked shape types, two threads, one seed."""

from __future__ import annotations

import importlib.util
import signal
from collections.abc import Iterator
from typing import Any

import jaxtyping
import pytest

# Install the hook before any import of tcm_lab: every shape annotation is then checked when its
# function is called, so a wrong shape in a signature fails any test that calls the function.
jaxtyping.install_import_hook("tcm_lab", "shape_types.check_shapes")

import torch  # noqa: E402  # after the hook, like everything that may import tcm_lab
from hypothesis import settings  # noqa: E402

# A background process ignores Ctrl-C, and so would every process that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(min(2, torch.get_num_threads()))

# Use the same examples on every machine and in every run, without a time limit per example.
settings.register_profile("suite", derandomize=True, deadline=None, database=None)
settings.load_profile("suite")


#: Files with a few long tests; if started last, they would leave the other worker idle.
FIRST = ("test_gpu_script.py", "test_readme.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest tests."""
    items.sort(key=lambda item: item.path.name not in FIRST)


def pytest_report_header() -> str | None:
    """Report that shape types are not checked if beartype is missing."""
    unchecked = importlib.util.find_spec("beartype") is None
    return "shape types: not checked, beartype is not installed" if unchecked else None


@pytest.fixture
def own_layers() -> Iterator[None]:
    """Unregister whatever a test registers."""
    from tcm_lab.blocks import ATTENTIONS, BLOCKS, RESAMPLERS
    from tcm_lab.codec import ENTROPY_MODELS

    registries: tuple[Any, ...] = (ATTENTIONS, BLOCKS, RESAMPLERS, ENTROPY_MODELS)
    before = [(registry, set(registry)) for registry in registries]
    yield
    for registry, names in before:
        for name in set(registry) - names:
            registry.unregister(name)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute bit for bit like a process with ``OMP_NUM_THREADS=1``."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _one_seed() -> Iterator[None]:
    """Start every test from the same random state, and restore the caller's state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any) -> Any:
    """Create shared fixtures from the same random state, whichever test requests them first."""
    if fixturedef.scope == "function":
        return (yield)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return (yield)
