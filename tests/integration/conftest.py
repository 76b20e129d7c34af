"""The command `semdedup`, called in this process."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hydra.core.hydra_config import HydraConfig
from runs import Ended

from beam_semdedup.cli import commands as cli
from beam_semdedup.cli import interrupts


@pytest.fixture
def called(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Callable[..., Ended]]:
    """Calls a command's function with these arguments, in an empty working directory, and returns how it ended."""
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    monkeypatch.chdir(cwd)

    def call(main: Callable[[], None], *arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["semdedup", *map(str, arguments)])
        monkeypatch.setattr(cli, "_end", sys.exit)
        monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # of an earlier command that Hydra ran
        monkeypatch.setattr(interrupts, "listen", lambda: None)
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(ended.value.code, *capsys.readouterr())

    yield call
    logger = logging.getLogger("beam_semdedup")
    logger.handlers.clear()
    logger.propagate = True


@pytest.fixture
def semdedup(called: Callable[..., Ended]) -> Callable[..., Ended]:
    """The command `semdedup`; see `called`."""
    return functools.partial(called, cli.main)


@pytest.fixture(scope="session")
def init(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of 100 random unit vectors, as centroids for the demo data."""
    path = tmp_path_factory.mktemp("init") / "centroids.npy"
    rows = np.random.default_rng(0).normal(size=(100, 384))
    np.save(path, rows / np.linalg.norm(rows, axis=1, keepdims=True))
    return str(path)


@pytest.fixture
def given_centroids(tmp_path: Path) -> Callable[..., str]:
    """Stores rows as centroids, and returns the path of the .npy."""

    def store(rows: np.ndarray) -> str:
        path = tmp_path / "centroids.npy"
        np.save(path, rows / np.linalg.norm(rows, axis=1, keepdims=True))
        return str(path)

    return store
