"""The `name=value` of a command line: as a person types them, as Hydra takes them, and those of each job of a sweep."""

from __future__ import annotations

import functools
import itertools
import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beam_semdedup.config.choices import GROUPS
from beam_semdedup.config.validation import present_name, unknown
from beam_semdedup.errors import InputError
from beam_semdedup.fields import declared
from beam_semdedup.text import shortened

LISTED = "see --help"
"""Where the parameters are listed, for a message."""
FORCED = "++"
"""What begins an override that gives a value, whether or not Hydra knows the parameter."""
_PIECE = re.compile(r"""(?:'(?:\\'|[^'])*'|"(?:\\"|[^"])*"|\$\{[^{}]*\}|[^][{},])+""")
"""What stands between the brackets and commas of a value; an interpolation has braces of its own."""
_MOST_JOBS = 10_000
"""How many runs a sweep may have: more are a mistake, which would take the memory of this machine before the first."""


def overrides_of(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments that are neither an option nor the value of one, such as `job` in `--cfg job`."""
    return [
        argument
        for before, argument in itertools.pairwise(["", *arguments])
        if not argument.startswith("-") and ("=" in argument or not re.match("--|-[cip]", before))
    ]


def key_of(override: str) -> str:
    """Returns the parameter that an override is for."""
    return override.partition("=")[0].lstrip("+~")


def swept(overrides: Sequence[str]) -> list[str]:
    """Returns the parameters that a sweep varies."""
    return [o.key_or_group for o in parsed_overrides(overrides) if o.is_sweep_override()]


def jobs_of(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """Returns the overrides of each job of a sweep; of several for the same parameter the last counts."""
    choices = {
        o.get_key_element(): [f"{o.get_key_element()}={v}" for v in o.sweep_string_iterator()]
        if o.is_sweep_override()
        else [o.input_line or ""]
        for o in parsed_overrides(overrides)
    }
    jobs = math.prod(map(len, choices.values()))
    if jobs > _MOST_JOBS:
        raise InputError(
            f"{', '.join(swept(overrides))}: a sweep of {jobs:,} runs; more than {_MOST_JOBS:,} are refused"
        )
    return list(itertools.product(*choices.values()))


def shown(override: str) -> str:
    """Returns an override of a job for people: its value without the quotes that Hydra needs."""
    (parsed,) = parsed_overrides([override])
    value = parsed.value()
    return f"{parsed.key_or_group}={value}" if isinstance(value, str) else override.lstrip("+")


def parsed_overrides(overrides: Sequence[str]) -> list[Any]:
    """Returns what Hydra's parser makes of overrides; raises whatever it does."""
    return [_parsed(override) for override in overrides]


@functools.lru_cache(maxsize=1000)
def _parsed(override: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (parsed,) = OverridesParser.create().parse_overrides([override])
    return parsed


def forced(schema: type[Any], override: str, places: Sequence[Path]) -> str:
    """Returns an override that Hydra takes whether or not it knows the parameter, which `resolve` alone decides.

    Args:
        places: the directories of configurations; what is a directory in one of them is a group, of which Hydra knows
            the choices.
    """
    key = key_of(override)
    names = [f.name for f in declared(schema)]
    is_group = key in GROUPS or any(Path(place, key).is_dir() for place in places)
    of_hydra = re.match(r"hydra[./]", key)
    present = key if of_hydra else present_name(key)
    if not of_hydra and re.split("[./]", present)[0] not in names and not (is_group and key not in GROUPS):
        raise unknown(key, names, LISTED)
    if key == "hydra.mode":
        raise InputError(f"{override}: -m alone makes a sweep")
    if is_group or override.startswith("~") or of_hydra:
        return override
    return f"{FORCED}{present}={override.partition('=')[2]}"


def understood(schema: type[Any], overrides: Sequence[str], multirun: bool = False) -> list[str]:
    """Returns the overrides as Hydra understands them: with quotes where its grammar refuses a value, or sees no text.

    Raises:
        InputError: an override that nothing can be made of, or a sweep without -m.
    """
    texts = [f.name for f in declared(schema) if f.is_text or f.name in ("input_path", "against")]
    for group, choices in GROUPS.items():
        texts += [f"{group}.{f.name}" for choice in choices.values() for f in declared(choice.settings) if f.is_text]
    return [_understood(override, key_of(override) in texts, multirun) for override in overrides]


def _understood(override: str, is_text: bool, multirun: bool) -> str:
    key, equals, value = override.partition("=")
    if not key_of(override) or not (equals or key.startswith("~")):
        raise InputError(
            f"cannot understand {shortened(repr(override))}: parameters are given as name=value, without spaces "
            f"around =; {LISTED}"
        )
    whole = f"{key}={in_quotes(value)}"
    told, quoted = for_message(override), "in quotes" if "_kwargs" in key else shortened(shlex.quote(whole))
    candidates = [override, *(f"{key}={_with_quotes(value, in_mapping)}" for in_mapping in (False, True))]
    taken = next(filter(_is_understood, [*candidates, *([whole] if is_text else [])]), None)
    if taken is None:
        spaced = key.strip() != key and "_kwargs" not in key
        hint = (
            f"write {shortened(key.strip() + equals + value.strip())}, without spaces around ="
            if spaced
            else ("a list is written [a, b], a mapping {a: 1, b: 2}")
        )
        raise InputError(f"{told}: cannot be understood; {hint}")
    (parsed,) = parsed_overrides([taken])
    if parsed.is_sweep_override():
        _check_sweep(parsed, told)
        if multirun:
            return taken
        raise InputError(
            f"{told}: several values are a sweep: add -m for one run each. A list is written {key}=[…], a value with "
            f"a comma {quoted}"
        )
    return whole if is_text and isinstance(parsed.value(), (bool, int, float)) else taken  # a path such as 2024_01


def _check_sweep(parsed: Any, told: str) -> None:
    """Raises InputError for a sweep whose values cannot be listed, which those of Hydra's optimizers need not be."""
    try:
        values = parsed.sweep_string_iterator()
        if next(itertools.islice(values, _MOST_JOBS, None), None) is not None:
            raise InputError(f"{told}: a sweep of more than {_MOST_JOBS:,} runs is refused")
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{told}: a sweep takes a,b,c or range(start,stop,step), and glob(…) for a choice such as runner "
            f"({type(error).__name__}: {error})"
        ) from error


def for_message(override: str) -> str:
    """Returns an override for a message, without what may be a credential."""
    key = override.partition("=")[0]
    return f"{key}=…" if "_kwargs" in key else shortened(override)


def _with_quotes(value: str, in_mapping: bool) -> str:
    """Puts each text in a value that the grammar refuses in quotes; in a mapping, without the `key:` before it."""

    def quoted(piece: re.Match[str]) -> str:
        key, colon, text = piece[0].partition(":") if in_mapping and ":" in piece[0] else ("", "", piece[0])
        return piece[0] if _is_understood(f"key={text.strip()}") else f"{key}{colon}{in_quotes(text.strip())}"

    return _PIECE.sub(quoted, value)


def in_quotes(value: str) -> str:
    """Returns a value so that Hydra takes it for text."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(value, Quote.double).with_quotes()


def _is_understood(override: str) -> bool:
    try:
        parsed_overrides([override])
    except Exception:  # among them a number of 5,000 digits, and brackets that are nested too deep for the parser
        return False
    return True
