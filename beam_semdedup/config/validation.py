"""Parameters from what was given for them: names, types, ranges, and what must go together."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import ConfigTypeError, InterpolationKeyError, OmegaConfBaseException, ValidationError

from beam_semdedup.config.groups import GROUPS, CumlKMeansConfig, default
from beam_semdedup.config.parameters import COMPRESSIONS, Parameters, PlanParameters
from beam_semdedup.errors import InputError
from beam_semdedup.runners.registry import make_runner
from beam_semdedup.storage.columns import RESULT_COLUMNS, SEGMENT_COLUMNS
from beam_semdedup.text import HIDDEN

_OTHER_NAMES = {
    "kmeans_max_iter": "max_iter",
    "perform_removal": "remove",
    "threshold": "eps (= 1 - threshold)",
    "similarity_threshold": "eps (= 1 - similarity_threshold)",
    "k": "n_clusters",
    "num_clusters": "n_clusters",
    "id_column": "id_field",
    "embedding_column": "embedding_field",
    "metadata_columns": "metadata_fields",
}
"""What other programs call some of the parameters."""


def resolve(values: Any, schema: type = Parameters) -> Any:
    """Checked parameters, as an instance of `schema`.

    Args:
        values: a mapping of parameter names to values, paths and scalars of NumPy among them; what comes out is taken
            too, and comes out as it is.
        schema: `Parameters`, or another of the dataclasses above.

    Raises:
        InputError: an unknown parameter, a wrong type, a value out of range; names the parameter.
    """
    values = _plain(dict(values))
    groups = {
        name: _group(name, values.pop(name, None), registry)
        for name, registry in GROUPS.items()
        if name in {f.name for f in dataclasses.fields(schema)}
    }
    parameters = _typed(schema, {k: v for k, v in values.items() if v != MISSING}, "")
    for name, group in groups.items():
        setattr(parameters, name, group)
        _check_fields(group, f"{name}.")
    _check_fields(parameters, "")
    if getattr(parameters, "input_path", None) is not None:
        parameters.input_path = _list_of_paths(parameters.input_path)
    if schema is Parameters:
        _check_together(parameters)
    if schema is PlanParameters:
        _check_size(parameters)
    return parameters


def unknown(name: str, names: Sequence[str], otherwise: str) -> InputError:
    """The error of a parameter that is none of some names; `otherwise` is said where nothing like it was meant."""
    group, _, setting = name.partition(".")
    owners = [f"{group}={choice}" for choice in choices_with(group, setting)]
    if owners:
        return InputError(f"{name} belongs to {' and '.join(owners)}: add {owners[0]}")
    close = _closest(name, names)
    return InputError(f"unknown parameter {name}; {f'did you mean {close}?' if close else otherwise}")


def required(name: str) -> InputError:
    """The error of a parameter that has no default and is not given."""
    return InputError(f"{name} is required: give {name}=…")


def choices_with(group: str, setting: str) -> list[str]:
    """The choices of a group that have a setting."""
    choices = GROUPS.get(group, {}).items()
    return [name for name, settings in choices if setting in {f.name for f in dataclasses.fields(settings)}]


def about_interpolation(error: Exception) -> str:
    """What to do about an interpolation of what is no parameter; nothing for any other error."""
    if not isinstance(error, InterpolationKeyError):
        return ""
    (key,) = re.findall("'(.*)'", str(error).splitlines()[0]) or ["NAME"]
    return f"; an environment variable is written ${{oc.env:{key}}}, or in double quotes, for the shell to expand it"


def _closest(wrong: str, names: Sequence[str]) -> str | None:
    """Which of some names was meant: one spelled much like it, else one that it begins with (`epsilon`: eps)."""
    other = _OTHER_NAMES.get(wrong, "")
    if other.partition(" ")[0] in names:
        return other
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.75)
    begun = [name for name in names if wrong.startswith(name)]
    return next(iter(near or begun or difflib.get_close_matches(wrong, names, n=1)), None)


def number_of_bytes(value: int | str) -> int:
    """The number of bytes that `1500000`, `512MB` or `4GiB` stand for; ValueError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", str(value), re.IGNORECASE)
    if not match:
        raise ValueError(f"{value!r} is not a size such as 4GiB")
    number, prefix, binary = match.groups()
    power = " kmgt".index(prefix.lower() or " ")
    return int(float(number) * (1024 if binary else 1000) ** power)


def _group(name: str, value: Any, registry: dict[str, type]) -> Any:
    """The dataclass instance of a group given as null, a name, a mapping or an instance."""
    if value is None:
        value = next(iter(registry))
    if dataclasses.is_dataclass(value):
        value = dataclasses.asdict(value)  # type: ignore[arg-type]
    if not isinstance(value, Mapping):
        value = {"name": value}
    chosen = value.get("name")
    if chosen not in list(registry):
        raise InputError(f"{name}={chosen!r} is not known; it is one of: {', '.join(registry)}")
    return _typed(registry[chosen], dict(value), f"{name}.")


def _typed(schema: type, values: dict[str, Any], prefix: str) -> Any:
    """An instance of `schema` with `values`, converted to its types."""
    known = [f"{prefix}{f.name}" for f in dataclasses.fields(schema)]
    for name in values:
        if f"{prefix}{name}" not in known:
            raise unknown(f"{prefix}{name}", known, f"known: {', '.join(known)}")
    merged, name = OmegaConf.structured(schema), "?"
    try:
        for name, value in values.items():
            merged.merge_with({name: value})
        missing = sorted(str(name) for name in OmegaConf.missing_keys(merged))
        if missing:
            raise required(f"{prefix}{missing[0]}")
        return OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        declared = next(str(f.type) for f in dataclasses.fields(schema) if f.name == name)
        is_nested = declared.startswith("dict") and isinstance(value, Mapping)
        if isinstance(error, (ValidationError, ConfigTypeError)) and not is_nested:
            raise InputError(f"{prefix}{name}{_wrong(value, declared)}") from error
        name = error.full_key or name
        what = str(error.msg or error).splitlines()[0]
        found = f" (found {values[name]!r})" if name in values else ""
        raise InputError(f"{prefix}{name}: {what}{found}{about_interpolation(error)}") from error


_TYPES = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list[str]": "a list of text",
    "Any": "text, a number, a list or a mapping",
}


def _wrong(value: Any, declared: str) -> str:
    """The end of a message about a `value` that has not the type of its parameter."""
    if declared.startswith("dict"):
        return f": expected a mapping, found {type(value).__name__}"  # not the value, which may hold credentials
    return f"={value!r}: expected {_TYPES[declared.removesuffix(' | None')]}"


def _plain(value: Any) -> Any:
    """Nested `value` with text in place of paths, and Python's scalars and lists in place of NumPy's."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "ndim"):  # without an import of NumPy, which takes longer than all else here
        return value.tolist()
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _list_of_paths(value: Any) -> list[str]:
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not paths or not all(isinstance(path, str) and path for path in paths):
        raise InputError(f"input_path must be a path or a list of paths, found {value!r}")
    return paths


def _check_fields(instance: Any, prefix: str) -> None:
    for f in dataclasses.fields(instance):
        check, value, name = f.metadata, getattr(instance, f.name), prefix + f.name
        if value is None:
            if default(f) is not None:
                raise InputError(f"{name} must not be null")
            continue
        if value == "":
            raise InputError(f"{name} is empty")
        texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
        if any(f"://{HIDDEN}@" in text for text in texts):
            raise InputError(f"{name}: the user and password of a URL are not stored with a run: give it again")
        if isinstance(value, list) and "list[str]" in str(f.type) and not all(isinstance(item, str) for item in value):
            raise InputError(f"{name}{_wrong(value, str(f.type))}")
        if "choices" in check and value not in check["choices"]:
            raise InputError(f"{name}={value!r} is not known; it is one of: {', '.join(check['choices'])}")
        if "keys" in check:
            _check_keys(name, value, check["keys"])
        if check.get("bytes"):
            try:
                value = number_of_bytes(value)
            except ValueError as error:
                raise InputError(f"{name}: {error}") from error
            setattr(instance, f.name, value)
        if "words" in check and not (isinstance(value, int) and not isinstance(value, bool)):
            if value not in check["words"]:
                raise InputError(f"{name}={value!r}: expected an integer or {' or '.join(check['words'])}")
            continue
        _check_bounds(name, value, check)


def _check_keys(name: str, value: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in value:
        if key not in known:
            raise InputError(f"{name} has an unknown key {key!r}; known: {', '.join(known)}")
    options, compression = value.get("storage_options", {}), value.get("compression", COMPRESSIONS[0])
    if not isinstance(options, dict):
        # Its type and not the value, which may hold credentials.
        raise InputError(f"{name}.storage_options must be a mapping, found {type(options).__name__}")
    if HIDDEN in options.values():
        hidden = next(key for key, option in options.items() if option == HIDDEN)
        raise InputError(
            f"{name}.storage_options.{hidden} is not stored with a run's configuration; give it again: "
            f"{name}.storage_options.{hidden}=…"
        )
    if compression not in COMPRESSIONS:
        raise InputError(f"{name}.compression={compression!r} is not known; it is one of: {', '.join(COMPRESSIONS)}")


def _check_bounds(name: str, value: Any, check: Mapping[str, Any]) -> None:
    outside = {
        "at_least": lambda bound: not value >= bound,
        "above": lambda bound: not value > bound,
        "at_most": lambda bound: not value <= bound,
        "below": lambda bound: not value < bound,
    }
    for word, is_outside in outside.items():
        if word in check and is_outside(check[word]):
            raise InputError(f"{name}={value!r} is out of range: it must be {word.replace('_', ' ')} {check[word]}")


def _check_together(p: Parameters) -> None:
    """What no single parameter can say, and the normal form of those that have several spellings."""
    p.metadata_fields = [name for name in dict.fromkeys(p.metadata_fields) if name != p.id_field]
    _check_carried("metadata_fields", p.metadata_fields, p)
    if p.id_field == p.embedding_field:
        raise InputError(f"id_field and embedding_field are both {p.id_field!r}")
    if p.ranking_strategy is not None:
        # Not above: it imports pyarrow, which `--help` and bad input need not wait for.
        from beam_semdedup.compute.ranking import RankingStrategy

        strategy = RankingStrategy.from_value(p.ranking_strategy, p.random_state)
        # The id column is called `id` from the first stage on, so that another one of that name is not carried.
        named = {*strategy.input_columns, *(name for name in strategy.metadata_cols if name == "id")}
        _check_carried("ranking_strategy", sorted(named - {p.id_field}), p)
        p.ranking_strategy = strategy.to_value()
    if p.centroids_given and not p.init.endswith(".npy"):
        raise InputError(f"init={p.init!r} is not known; it is k-means||, random, or the path of an .npy")
    if p.max_iter == 0 and not p.centroids_given:
        raise InputError(f"max_iter=0 fits nothing: it needs init=<path of an .npy>, found init={p.init!r}")
    if p.precision == "screened" and p.eps is None:
        raise InputError("precision=screened needs eps: near it the products are computed again; or precision=exact")
    make_runner(p).check_device(p.device)
    if p.device == "cpu" and isinstance(p.kmeans, CumlKMeansConfig):
        raise InputError("kmeans=cuml needs a GPU, found device=cpu")
    if p.remove and p.eps is None:
        raise InputError("remove=true needs eps: without it there are no duplicates to remove")


def _check_size(p: PlanParameters) -> None:
    """That there is one thing to plan for."""
    given = [f"{name}={getattr(p, name)}" for name in ("rows", "dimension", "carried_bytes") if getattr(p, name)]
    if p.input_path is not None and given:
        raise InputError(f"input_path says what {given[0]} would: give either")
    if p.input_path is None and (p.rows is None or p.dimension is None):
        raise InputError("nothing to plan for: give input_path=…, or rows=… and dimension=…")


def _check_carried(name: str, columns: list[str], p: Parameters) -> None:
    """That columns of the input can be carried beside the columns that the program adds."""
    reserved = sorted({*RESULT_COLUMNS, *SEGMENT_COLUMNS})
    for column in columns:
        if column in reserved:
            raise InputError(
                f"{name}: {column!r} is a column of the results ({', '.join(reserved)}); rename it in the input"
            )
        if column == p.embedding_field:
            raise InputError(f"{name}: {column!r} is the embedding_field; vectors are not carried through")
