"""For all tests: one thread, the same examples in every run, and nobody touches the user's random generators."""

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # read when the library is imported

import random
from collections.abc import Callable, Iterator

import hypothesis
import numpy as np
import pytest
import torch

torch.set_num_threads(1)

# Derandomised: a failure in CI is one that anybody can repeat.
hypothesis.settings.register_profile("labkit", deadline=None, derandomize=True)
hypothesis.settings.load_profile("labkit")


def random_states() -> dict[str, object]:
    """The states of the global generators, comparable."""
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "torch": torch.random.get_rng_state().numpy().tobytes(),
        "numpy": (name, np.asarray(keys).tobytes(), *rest),
        "random": random.getstate(),
    }


@pytest.fixture
def global_random_states() -> Callable[[], dict[str, object]]:
    """Reads the states of torch's, NumPy's and Python's global generators."""
    return random_states


@pytest.fixture(autouse=True)
def global_generators_are_left_alone() -> Iterator[None]:
    """labkit draws from generators of its own, so a test that moves a global one has found a mistake.

    Python's own is not looked at here: some libraries draw from it when they are imported.
    """
    before = random_states()
    yield
    after = random_states()
    moved = [name for name in ("torch", "numpy") if after[name] != before[name]]
    assert not moved, f"the global random state of {' and '.join(moved)} was moved"
