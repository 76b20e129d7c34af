"""The rates of a worker in a file, which a calibration wrote."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from beam_semdedup.errors import InputError
from beam_semdedup.plan.rates import Rates


def load_rates(path: str) -> Rates:
    """Reads the rates that `save_rates` wrote.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    try:
        return Rates(**json.loads(Path(path).read_text()))
    except FileNotFoundError as error:
        raise InputError(f"calibration={path}: no such file; calibrate=true measures and writes it") from error
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"calibration={path}: not a calibration; calibrate=true writes a new one") from error


def save_rates(rates: Rates, path: str) -> None:
    """Writes rates as JSON; InputError where that cannot be."""
    try:
        Path(path).write_text(json.dumps(dataclasses.asdict(rates), indent=2) + "\n")
    except OSError as error:
        raise InputError(f"calibration={path}: cannot be written: {error}") from error
