"""Parameters from what was given for them: pydantic checks each, and what it finds is said in words here."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from typing_extensions import is_typeddict

from beam_semdedup.config.choices import GROUPS
from beam_semdedup.config.parameters import ForecastParameters, Parameters, WatchParameters
from beam_semdedup.config.shared import InputParameters, OptionalModelParameters, ReachParameters
from beam_semdedup.errors import InputError
from beam_semdedup.fields import declared
from beam_semdedup.fit.base import FitParameters
from beam_semdedup.fit.registry import make_engine
from beam_semdedup.runners.registry import make_runner
from beam_semdedup.storage.columns import (
    GENERATION,
    MATCH_COLUMNS,
    MAX_SOURCE,
    RESULT_COLUMNS,
    SAMPLE_COLUMNS,
    SEGMENT_COLUMNS,
    VISIT_COLUMNS,
)
from beam_semdedup.text import hidden_in, shown

_LOG = logging.getLogger(__name__)
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
_FORMER_NAMES = {"unit_rows": "comparison_rows"}
"""What this program called some of the parameters before."""


def resolve(values: Any, schema: type[Any] = Parameters, listed: str = "") -> Any:
    """Returns checked parameters, as an instance of `schema`.

    Args:
        values: a mapping of parameter names to values, paths and scalars of NumPy among them; what comes out is taken
            too, and comes out as it is.
        schema: `Parameters`, or another of the dataclasses of a command.
        listed: what an unknown name that is like no other is answered with; else with all names.

    Raises:
        InputError: an unknown parameter, a wrong type, a value out of range; names the parameter.
    """
    values = _plain(dict(values))
    for name in values.keys() & _FORMER_NAMES.keys():
        if present_name(name) in values:
            raise InputError(f"{name} and {_FORMER_NAMES[name]} are the same parameter: give the latter")
        values[_FORMER_NAMES[name]] = values.pop(name)
    for name in GROUPS.keys() & {f.name for f in dataclasses.fields(schema)}:
        given = values.pop(name, None)
        values |= {} if given is None else {name: _group(name, given, listed)}
    parameters = _checked(schema, values, "", listed)
    if issubclass(schema, InputParameters):
        _check_ids(parameters)
    if issubclass(schema, OptionalModelParameters):
        _check_model(parameters)
    if issubclass(schema, FitParameters):
        _check_fit(parameters)
    if issubclass(schema, Parameters):
        _check_together(parameters)
    if schema is WatchParameters:
        _check_watch(parameters)
    if schema is ForecastParameters:
        _check_size(parameters)
        _check_reach(parameters, estimates=False)
    return parameters


def present_name(name: str) -> str:
    """Returns the name that a parameter has now; warns where it was given by a former one."""
    if name in _FORMER_NAMES:
        _LOG.warning("%s is called %s now: the former name will not be taken for ever", name, _FORMER_NAMES[name])
    return _FORMER_NAMES.get(name, name)


def unknown(name: str, names: Sequence[str], otherwise: str) -> InputError:
    """Returns the error of a name that no parameter has; it says `otherwise` where nothing like it was meant."""
    group, _, setting = name.partition(".")
    choices = GROUPS.get(group, {}).items()
    owners = [f"{group}={name}" for name, choice in choices if setting in {f.name for f in declared(choice.settings)}]
    if owners:
        return InputError(f"{name} belongs to {' and '.join(owners)}: add {owners[0]}")
    close = _closest(name, names)
    return InputError(f"unknown parameter {name}; {f'did you mean {close}?' if close else otherwise}")


def required(name: str) -> InputError:
    """Returns the error of a parameter that has no default and is not given."""
    return InputError(f"{name} is required: give {name}=…")


def _closest(wrong: str, names: Sequence[str]) -> str | None:
    """Says which of some names was meant: one spelled much like it, else one that it begins with (`epsilon`: eps)."""
    other = _OTHER_NAMES.get(wrong, "")
    if other.partition(" ")[0] in names:
        return other
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.75)
    begun = [name for name in names if wrong.startswith(name)]
    return next(iter(near or begun or difflib.get_close_matches(wrong, names, n=1)), None)


def _group(name: str, value: Any, listed: str) -> Any:
    """Returns the settings of a choice that is given as a name, a mapping or its settings."""
    choices = GROUPS[name]
    if dataclasses.is_dataclass(value):
        value = dataclasses.asdict(value)  # type: ignore[arg-type]
    if not isinstance(value, Mapping):
        value = {"name": value}
    chosen = value.get("name")
    if chosen not in list(choices):
        raise InputError(f"{name}={shown(chosen)} is not known; it is one of: {', '.join(choices)}")
    return _checked(choices[chosen].settings, dict(value), f"{name}.", listed)


def _checked(schema: type[Any], values: dict[str, Any], prefix: str, listed: str) -> Any:
    """Returns an instance of `schema` with values that pydantic accepts."""
    for name, value in values.items():
        _check_given(f"{prefix}{name}", value)
    try:
        return TypeAdapter(schema).validate_python(values)
    except ValidationError as error:
        found = error.errors(include_url=False)
    order = {"unexpected_keyword_argument": 0, "invalid_key": 0, "missing": 2}
    first = min(found, key=lambda error: order.get(error["type"], 1))
    name, kinds = str(first["loc"][0]), {field.name: field.kind for field in declared(schema)}
    if name not in kinds:
        names = [f"{prefix}{known}" for known in kinds]
        raise unknown(f"{prefix}{name}", names, listed or f"known: {', '.join(names)}")
    if first["type"] == "missing":
        raise required(f"{prefix}{name}")
    of_it = [error for error in found if error["loc"][0] == name]  # several where it has a choice of types
    raise InputError(_in_words(f"{prefix}{name}", kinds[name], values[name], of_it))


def _check_given(name: str, value: Any) -> None:
    """Refuses what no parameter can be."""
    if value == "":
        raise InputError(f"{name} is empty")
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and "${" in text:
            raise InputError(f"{name}: ${{…}} in {shown(text)} has a meaning on the command line only")
    hidden = hidden_in(value, name)
    if hidden == name:
        raise InputError(f"{name}: the password or signature of a URL is not stored with a run: give it again")
    if hidden:
        raise InputError(f"{hidden} is not stored with a run's configuration; give it again: {hidden}=…")


_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "above"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "below"),
}
_EXPECTED = {"int": "an integer", "float": "a number", "bool": "true or false", "string": "text"}


def _in_words(name: str, declared_kind: Any, value: Any, errors: Sequence[ErrorDetails]) -> str:
    """Words what pydantic found wrong with the value of a parameter; shows none that may hold credentials."""
    error = next((error for error in errors if error["type"] in _BOUNDS), errors[0])
    kind, context = error["type"], error.get("ctx", {})
    inner = str(error["loc"][1]) if isinstance(value, dict) and len(error["loc"]) > 1 else ""
    choices = [", ".join(re.findall("'(.*?)'", e["ctx"]["expected"])) for e in errors if e["type"] == "literal_error"]
    if value is None:
        return f"{name} must not be null"
    if kind in _BOUNDS:
        bound, rule = _BOUNDS[kind]
        return f"{name}={shown(error['input'])} is out of range: it must be {rule} {context[bound]}"
    if kind == "finite_number":
        return f"{name}={error['input']!r} is out of range: it must be finite"
    if kind == "extra_forbidden":
        (known,) = (kind for kind in (declared_kind, *get_args(declared_kind)) if is_typeddict(kind))
        return f"{name} has an unknown key {inner!r}; known: {', '.join(known.__annotations__)}"
    if kind == "value_error":
        return str(context["error"]) if isinstance(context["error"], InputError) else f"{name}: {context['error']}"
    if kind == "literal_error":
        name, value = (f"{name}.{inner}", error["input"]) if inner else (name, value)
        return f"{name}={shown(value)} is not known; it is one of: {choices[0]}"
    if kind == "dict_type":
        return (
            f"{name}{f'.{inner} must be' if inner else ': expected'} a mapping, found {type(error['input']).__name__}"
        )
    if kind == "list_type" or (isinstance(value, list) and len(error["loc"]) > 1):
        return f"{name}={shown(value)}: expected a list of text"
    expected = _EXPECTED.get(kind.partition("_")[0])
    return (
        f"{name}={shown(value)}: expected {' or '.join([expected, *choices])}"
        if expected
        else f"{name}: {error['msg']}"
    )


def _plain(value: Any) -> Any:
    """Nested `value` with text in place of paths, and Python's scalars and lists in place of NumPy's."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "ndim"):  # without an import of NumPy, which takes longer than all else here
        return value.tolist()
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _check_ids(p: InputParameters) -> None:
    """Raises InputError where the parameters say two things about where the ids are."""
    if p.ids_path is not None and p.id_field is None:
        raise InputError(f"ids_path={p.ids_path} is where the ids are, and id_field=null says that there are none")


def _check_model(p: OptionalModelParameters) -> None:
    """Raises InputError where the parameters say half of how texts are embedded."""
    if p.model is None and p.text_field is not None:
        raise InputError(f"text_field={p.text_field} needs model=…, which embeds the texts")
    if p.model is not None and p.text_field is None:
        raise InputError(f"model={p.model} needs text_field=…, the column with the texts")
    given = [name for name in ("model_revision", "pooling", "max_tokens") if getattr(p, name) is not None]
    if p.model is None and given:
        raise InputError(f"{given[0]}={getattr(p, given[0])} is given without model=…")


def _check_together(p: Parameters) -> None:
    """Checks what no single parameter can say, and gives those with several spellings their normal form."""
    p.metadata_fields = [name for name in dict.fromkeys(p.metadata_fields) if name != p.id_column]
    _check_carried("metadata_fields", p.metadata_fields, p)
    if p.id_column == p.embedding_field:
        raise InputError(f"id_field and embedding_field are both {p.id_column!r}")
    if p.ranking_strategy is not None:
        # Not above: it imports pyarrow, which `--help` and bad input need not wait for.
        from beam_semdedup.compute.ranking import RankingStrategy

        strategy = RankingStrategy.from_value(p.ranking_strategy, p.random_state)
        # The id column is called `id` from the first stage on, so that another one of that name is not carried.
        named = {*strategy.input_columns, *(name for name in strategy.metadata_cols if name == "id")}
        _check_carried("ranking_strategy", sorted(named - {p.id_column}), p)
        p.ranking_strategy = strategy.to_value()
    has_duplicates = p.eps is not None or p.target_rows is not None
    if p.eps is not None and p.target_rows is not None:
        raise InputError(f"target_rows={p.target_rows} finds an eps: leave eps={p.eps} out, or target_rows")
    if p.target_rows is not None and p.n_probes != 1 and p.reach is None:
        raise InputError(
            f"target_rows={p.target_rows} with n_probes={p.n_probes} needs reach: the largest eps that it may find"
        )
    _check_reach(p, estimates=p.recall_sample > 0)
    if p.precision == "screened" and p.eps is None:
        raise InputError("precision=screened needs eps: near it the products are computed again; or precision=exact")
    for name in ("group_field", "image_field"):
        if getattr(p, name) not in (None, *p.metadata_fields):
            raise InputError(f"{name}={getattr(p, name)}: not one of metadata_fields, which are carried to the results")
    if p.max_removed_share is not None and not has_duplicates:
        raise InputError("max_removed_share needs eps: without it there are no duplicates to count")
    _check_earlier(p, p.against is not None or p.corpus_path is not None)
    if p.model is not None and p.embedding_dim is not None:
        raise InputError(f"embedding_dim={p.embedding_dim}: the model says how long vectors are; leave it out")
    if p.corpus_path is not None and not p.reuse_cache:
        raise InputError("reuse_cache=false would take rows out of the corpus; semdedup-corpus drop does so")
    make_runner(p).check_device(p.device)
    make_engine(p).check_device(p.device)
    if p.remove and not has_duplicates:
        raise InputError(
            f"remove={'mark' if p.remove == 'mark' else 'true'} needs eps: without it there are no duplicates to remove"
        )


def _check_fit(p: FitParameters) -> None:
    """Raises InputError where the initial centroids are not what they can be."""
    if p.centroids_given and not p.init.endswith(".npy"):
        raise InputError(f"init={p.init!r} is not known; it is k-means||, random, or the path of an .npy")
    if p.max_iter == 0 and not p.centroids_given:
        raise InputError(f"max_iter=0 fits nothing: it needs init=<path of an .npy>, found init={p.init!r}")


def _check_reach(p: ReachParameters, *, estimates: bool) -> None:
    """Raises InputError unless it is said how far n_probes reaches, and eps is within that.

    Args:
        estimates: whether the recall is estimated, which has a reach too.
    """
    if p.n_probes == "exact" and p.eps is None and p.reach is None:
        raise InputError(
            "n_probes=exact needs eps, or reach: what it finds is all within it; or give a number of clusters"
        )
    if p.reach is not None and p.n_probes == 1 and not estimates:
        raise InputError(f"reach={p.reach} has a meaning with n_probes above 1 only: n_probes=1 serves every eps")
    if p.reach is not None and p.eps is not None and p.reach < p.eps and p.n_probes != 1:
        raise InputError(f"reach={p.reach} is below eps={p.eps}: similarities within it do not serve that eps")


def _check_earlier(p: Parameters | ForecastParameters, has_earlier: bool) -> None:
    """Raises InputError for what has no meaning where there are no rows to compare those of the input with."""
    if not p.within and not has_earlier:
        raise InputError("within=false compares with the rows of against alone: give against=… or corpus_path=…")
    if p.against_text_field is not None and p.model is None:
        raise InputError(f"against_text_field={p.against_text_field} is given without model=… and text_field=…")
    names = ("filetype", "kwargs", "id_field", "embedding_field", "text_field")
    given = [name for name in names if getattr(p, f"against_{name}")]
    if p.against is None and given:
        raise InputError(f"against_{given[0]} is given without against=…")


def _check_watch(p: WatchParameters) -> None:
    """Raises InputError for what a watched input lacks, or cannot be given."""
    if p.corpus_path is None:
        raise InputError("corpus_path is required: give corpus_path=…, where all that arrived is kept")
    if p.eps is None:
        raise InputError("eps is required: give eps=…")
    if p.ids_path is not None or p.id_field is None:
        raise InputError("ids_path and id_field=null have no meaning for a watched input: its files hold their ids")
    if p.input_filetype is None:
        raise InputError("input_filetype must be given for a watched input")


def _check_size(p: ForecastParameters) -> None:
    """Raises InputError unless there is one thing to plan for."""
    given = [f"{name}={getattr(p, name)}" for name in ("rows", "dimension", "carried_bytes") if getattr(p, name)]
    if p.input_path is not None and given:
        raise InputError(f"input_path says what {given[0]} would: give either")
    if p.input_path is None and p.model is not None:
        raise InputError(f"model={p.model} embeds texts, which are timed: give input_path=… in place of rows")
    if p.input_path is None and (p.rows is None or p.dimension is None):
        raise InputError("nothing to plan for: give input_path=…, or rows=… and dimension=…")
    for name, number in (("against", p.against_rows), ("corpus_path", p.corpus_rows)):
        if getattr(p, name) is not None and number:
            rows = f"{name.removesuffix('_path')}_rows"
            raise InputError(f"{name} says what {rows}={number} would: give either")
    _check_earlier(p, bool(p.against or p.corpus_path or p.against_rows or p.corpus_rows))


def _check_carried(name: str, columns: list[str], p: Parameters) -> None:
    """Raises InputError unless columns of the input can be carried beside the columns that the program adds."""
    own = (RESULT_COLUMNS, SEGMENT_COLUMNS, VISIT_COLUMNS, MATCH_COLUMNS, SAMPLE_COLUMNS)
    reserved = sorted({MAX_SOURCE, GENERATION, *itertools.chain.from_iterable(own)})
    for column in columns:
        if column in reserved:
            raise InputError(
                f"{name}: {column!r} is a column of the results ({', '.join(reserved)}); rename it in the input"
            )
        if column == p.embedding_field:
            raise InputError(f"{name}: {column!r} is the embedding_field; vectors are not carried through")
