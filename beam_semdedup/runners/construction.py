"""What Beam works out hundreds of times for one pipeline, worked out once; it is more than half of a small run.

Beam asks the functions of each step again and again for their signatures and their state, and sets up an argument
parser for each look at its options.
"""

from __future__ import annotations

import functools
import types
import weakref
from typing import Any, TypeVar

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import core, userstate

View = TypeVar("View", bound=PipelineOptions)


class Options(PipelineOptions):
    """Holds Beam's options; its views, which share their values with it, are made once each."""

    def __init__(self, **options: Any) -> None:
        self.__dict__["_views"] = {}  # an assignment would be taken for that of an option
        super().__init__(flags=[], **options)

    def view_as(self, cls: type[View]) -> View:
        """Returns the options of that class; Beam calls it."""
        if cls not in self._views:
            self._views[cls] = super().view_as(cls)
        return self._views[cls]


_arguments_of, _specs_of = core.get_function_args_defaults, userstate.get_dofn_specs
_known_specs: weakref.WeakKeyDictionary[beam.DoFn, tuple[set[Any], set[Any]]] = weakref.WeakKeyDictionary()


@functools.lru_cache(maxsize=4096)
def _arguments_of_method(function: types.FunctionType) -> tuple[list[str], list[Any]]:
    return _arguments_of(types.MethodType(function, object()))


def _arguments(function: Any) -> tuple[list[str], list[Any]]:
    """Returns the names and the defaults of a function's arguments, as Beam does; those of a method from memory."""
    if isinstance(function, types.MethodType) and isinstance(function.__func__, types.FunctionType):
        names, defaults = _arguments_of_method(function.__func__)
        return [*names], [*defaults]
    return _arguments_of(function)


def _specs(function: beam.DoFn) -> tuple[set[Any], set[Any]]:
    """Returns the states and timers of a function, as Beam does; from memory where it can be a key."""
    if type(function).__hash__ is not object.__hash__:
        return _specs_of(function)
    if function not in _known_specs:
        _known_specs[function] = _specs_of(function)
    states, timers = _known_specs[function]
    return {*states}, {*timers}


core.get_function_args_defaults = _arguments
userstate.get_dofn_specs = _specs
