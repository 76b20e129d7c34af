"""The parameters that name a choice with settings of its own, by the registries of the rooms that have the choices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from beam_semdedup.fit.base import Engine
from beam_semdedup.fit.registry import ENGINES
from beam_semdedup.runners.base import Runner
from beam_semdedup.runners.registry import RUNNERS

Choice: TypeAlias = type[Runner[Any]] | type[Engine[Any]]

GROUPS: Mapping[str, Mapping[str, Choice]] = {"runner": RUNNERS, "kmeans": ENGINES}
"""Each with its choices by name, of which the first is the default; the docstring and fields of a choice's `settings`
are its part of `--help`."""
