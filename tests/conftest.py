"""What every test runs under: shape types are executed, two threads, one seed."""

from __future__ import annotations

import importlib.util
import signal
from collections.abc import Iterator
from typing import Any

import jaxtyping
import pytest

# Before anything of tcm_lab is imported: from here on every annotation in it is checked when its
# function is called, so a shape that lies in a signature fails the test that passes through it.
jaxtyping.install_import_hook("tcm_lab", "shape_types.check_shapes")

import torch  # noqa: E402  # after the hook, like everything that may import tcm_lab
from hypothesis import settings  # noqa: E402

# A runner in the background ignores Ctrl-C, and so would everything that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(min(2, torch.get_num_threads()))

# The same examples on every machine and every run, with no time limit on a single one.
settings.register_profile("suite", derandomize=True, deadline=None, database=None)
settings.load_profile("suite")


#: Files of few tests that take long; begun last, one would leave the other worker idle.
FIRST = ("test_gpu_script.py", "test_readme.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    items.sort(key=lambda item: item.path.name not in FIRST)


def pytest_report_header() -> str | None:
    """Say so where shape types cannot be checked."""
    unchecked = importlib.util.find_spec("beartype") is None
    return "shape types: not checked, beartype is not installed" if unchecked else None


@pytest.fixture
def own_layers() -> Iterator[None]:
    """Take out again what a test registers."""
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
    """Compute as a process with ``OMP_NUM_THREADS=1`` does, to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _one_seed() -> Iterator[None]:
    """Start every test from the same random state, and leave the caller's as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any) -> Any:
    """Start what several tests share from that state too, whichever of them asks for it first."""
    if fixturedef.scope == "function":
        return (yield)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return (yield)
