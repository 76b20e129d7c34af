"""The command's jobs in this process and without Beam's runner, which would take ten times as long as a small case.

All that a run does is what the program does: the plan, the transforms, the units of its stages, their errors as a
runner hands them on, the check that no row was lost, the exit code. Only who executes the transforms is another: they
are done at once, one after the other, on lists.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from apache_beam import Create, Flatten, GroupByKey, ParDo, PTransform, Reshuffle
from apache_beam.pvalue import AsIter, AsSingleton, PCollection
from apache_beam.transforms.core import Windowing
from apache_beam.transforms.ptransform import _NamedPTransform
from apache_beam.transforms.window import GlobalWindows
from apache_beam.typehints import typehints
from runs import Ended

from beam_semdedup import SemanticDeduplicationWorkflow
from beam_semdedup.cli import commands
from beam_semdedup.config.parameters import RemovalParameters
from beam_semdedup.config.validation import resolve
from beam_semdedup.removal.job import remove_duplicates
from beam_semdedup.runners.direct import DirectRunner


def semdedup(beam: bool = False, **parameters: Any) -> Ended:
    """Runs `semdedup` with these parameters; `beam`: by Beam's local runner."""
    return _ended(lambda: SemanticDeduplicationWorkflow(**{"verbose": False, **parameters}).run(), beam)


def semdedup_remove(beam: bool = False, **parameters: Any) -> Ended:
    """Runs `semdedup-remove` with these parameters."""
    return _ended(lambda: remove_duplicates(resolve({"verbose": False, **parameters}, RemovalParameters)), beam)


def _ended(action: Callable[[], Any], beam: bool) -> Ended:
    out, err = io.StringIO(), io.StringIO()

    def run() -> int:
        action()
        return commands.DONE

    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _without_beam(beam):
        code = commands._guarded(run)
    return Ended(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _without_beam(beam: bool) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if not beam:
            patch.setattr(DirectRunner, "run", lambda self, build: build(_Collection([])))
            patch.setattr(PTransform, "__ror__", lambda self, left, label=None: _applied(self, left))
        yield


class _Collection(PCollection[Any]):
    """Stands where a PCollection would, or the pipeline, and holds its elements."""

    windowing = Windowing(GlobalWindows())
    element_type = typehints.Any

    def __init__(self, elements: Iterable[Any]) -> None:
        self.elements = list(elements)

    @property
    def pipeline(self) -> _Collection:
        return _Collection([])

    def __or__(self, transform: Any) -> _Collection:
        return _applied(transform, self)


def _applied(transform: Any, to: Any) -> _Collection:
    """Does what a transform does, at once."""
    if isinstance(transform, _NamedPTransform):
        transform = transform.transform
    if isinstance(transform, Create):
        return _Collection(transform.values)
    if isinstance(transform, Flatten):
        return _Collection(element for collection in to for element in collection.elements)
    if isinstance(transform, Reshuffle):
        return to
    if isinstance(transform, GroupByKey):
        groups = defaultdict(list)
        for key, value in to.elements:
            groups[key].append(value)
        return _Collection(groups.items())
    if isinstance(transform, ParDo):
        others = [_side_input(other) for other in transform.raw_side_inputs[0]]
        transform.fn.setup()
        found = [transform.fn.process(element, *others) for element in to.elements]
        return _Collection(itertools.chain.from_iterable(result for result in found if result is not None))
    return transform.expand(to)


def _side_input(given: Any) -> Any:
    if isinstance(given, AsSingleton):
        (element,) = given.pvalue.elements
        return element
    return given.pvalue.elements if isinstance(given, AsIter) else given
