"""The configuration that an earlier run stored: what of it is taken for another run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from beam_semdedup.cli.overrides import LISTED, key_of
from beam_semdedup.config.choices import GROUPS
from beam_semdedup.config.validation import present_name, unknown
from beam_semdedup.errors import InputError, as_input_error
from beam_semdedup.fields import declared

TRUST = "trust_stored"
"""What is given beside --config-path to take all that is stored there."""
_RESOLVER = re.compile(r"\$\{[^}]*:")
_NOTHING = object()


def values_in(name: str, schema: type[Any], place: str) -> dict[str, Any]:
    """Returns the parameters of the configuration `name` that a run stored in a place.

    Raises:
        InputError: there is none, it cannot be read, or holds what is no parameter.
    """
    from beam_semdedup.storage.folder import Folder

    file = Folder.at(place, {}).file(f"{name}.yaml")
    with as_input_error(f"--config-path={place}: cannot read {file}"):
        values = yaml.safe_load(file.read_bytes())
        if not isinstance(values, dict):
            raise InputError(f"{file}: expected a mapping of parameters to values")
        values = {present_name(str(name)): value for name, value in values.items()}
        known = [f.name for f in declared(schema)]
        for wrong in [name for name in values if name not in known]:
            raise InputError(f"{file}: {unknown(wrong, known, LISTED)}")
    for group in GROUPS.keys() & values.keys():
        settings = values[group] if isinstance(values[group], dict) else {"name": values[group]}
        values[group] = {"name": next(iter(GROUPS[group])), **settings}
    return values


def take_out_code(stored: dict[str, Any], overrides: Sequence[str], place: str) -> None:
    """Takes out of the stored values what has code run, and is given anew.

    Raises:
        InputError: something of that kind is not given anew.
    """
    given = {key_of(override): override.partition("=")[2] for override in overrides}
    for group in GROUPS.keys() & stored.keys():
        settings = stored[group]
        if settings["name"] not in GROUPS[group] or given.get(group, settings["name"]) != settings["name"]:
            continue  # which `resolve` refuses, or which another choice replaces
        for setting in declared(GROUPS[group][settings["name"]].settings):
            if setting.is_code and settings.pop(setting.name, None) not in (None, setting.default):
                name = f"{group}.{setting.name}"
                if name not in given:
                    raise InputError(
                        f"{place}: {name} has code run, and is not taken from a stored file: give it again, or drop "
                        f"it ('~{name}'), or give {TRUST}=true where you know who wrote the file"
                    )
    if _RESOLVER.search(yaml.safe_dump(stored)):
        raise InputError(f"{place}: ${{…:…}} in a stored file is not resolved, unless {TRUST}=true is given")


def dropped(values: dict[str, Any], key: str) -> bool:
    """Takes a value out of nested ones, and says whether it was there."""
    name, inside, inner = key.partition(".")
    if inside:
        return isinstance(values.get(name), dict) and dropped(values[name], inner)
    return values.pop(name, _NOTHING) is not _NOTHING
