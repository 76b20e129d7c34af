"""How a pipeline is launched: `run` hands it to the runner that the configuration names."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any

import apache_beam as beam

from beam_semdedup.config.parameters import ClusterParameters
from beam_semdedup.errors import WorkerLost, is_interrupt, known_cause

_LOG = logging.getLogger(__name__)
_MODULES = {
    "direct": "beam_semdedup.runners.direct",
    "ray": "beam_semdedup.runners.ray.runner",
    "flink": "beam_semdedup.runners.flink.runner",
}


def run(build: Callable[[beam.Pipeline], Any], parameters: ClusterParameters) -> None:
    """Runs the pipeline that `build` puts together, and returns when it is done.

    Where a worker is lost it runs again, up to `runner.max_retries` times; finished units are found and kept.

    Args:
        build: adds the transforms to the pipeline that it is given.
        parameters: its `runner` says where; the module of that name in this package holds how.

    Raises:
        InputError, RunError: with the message of the unit or worker that failed; any other error is raised as it is.
    """
    config = parameters.runner
    runner = importlib.import_module(_MODULES[config.name])
    for attempt in range(config.max_retries + 1):
        try:
            runner.run(build, parameters)
            return
        except Exception as error:
            if is_interrupt(error):
                raise KeyboardInterrupt from error
            cause = known_cause(error)
            if isinstance(cause, WorkerLost) and attempt < config.max_retries:
                _LOG.warning("Trying again, %s of %s: %s", attempt + 1, config.max_retries, cause)
            elif cause is None or cause is error:
                raise
            else:
                raise cause from error
