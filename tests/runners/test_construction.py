"""What Beam works out once says the same as what it works out each time."""

from __future__ import annotations

import copy
import pickle

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, PortableOptions
from apache_beam.transforms import core, userstate

from beam_semdedup import transforms
from beam_semdedup.runners import construction
from beam_semdedup.streams import transforms as streams

STATE = userstate.ReadModifyWriteStateSpec("last", beam.coders.VarIntCoder())


class _Stateful(beam.DoFn):
    def process(self, element: int, more: int = 3, last: object = beam.DoFn.StateParam(STATE), *, key: int = 4) -> None:
        raise NotImplementedError


class _WithDefaults(beam.DoFn):
    def process(self, element: int, window: object = beam.DoFn.WindowParam, more: int = 3) -> None:
        raise NotImplementedError


def _functions() -> list[beam.DoFn]:
    ours = [
        f for m in (transforms, streams) for f in vars(m).values() if isinstance(f, type) and f.__module__ == m.__name__
    ]
    return [object.__new__(f) for f in (*ours, _Stateful, _WithDefaults) if issubclass(f, beam.DoFn)]


@pytest.mark.parametrize("function", _functions(), ids=lambda function: type(function).__name__)
def test_the_arguments_of_a_method_are_those_that_beam_finds(function: beam.DoFn) -> None:
    assert core.get_function_args_defaults is construction._arguments
    for name in dir(function):
        method = getattr(function, name)
        if callable(method) and not isinstance(method, type):
            for _ in range(2):
                found = core.get_function_args_defaults(method)
                assert found == construction._arguments_of(method), name
                found[0].append("changed by who asked")


def test_a_stateful_function_is_still_seen_as_one() -> None:
    stateful = _Stateful()
    for _ in range(2):
        assert userstate.is_stateful_dofn(stateful)
        states, timers = userstate.get_dofn_specs(stateful)
        assert (states, timers) == ({STATE}, set())
        states.clear()
        assert not userstate.is_stateful_dofn(_WithDefaults())


def test_options_and_their_views_share_their_values() -> None:
    options = construction.Options(direct_num_workers=3, environment_type="EXTERNAL")
    direct = options.view_as(DirectOptions)
    assert direct.direct_num_workers == 3
    direct.direct_num_workers = 4
    assert options.view_as(DirectOptions).direct_num_workers == 4
    assert direct.view_as(PortableOptions).environment_type == "EXTERNAL"
    usual = PipelineOptions(flags=[], direct_num_workers=4, environment_type="EXTERNAL")
    assert options.get_all_options() == usual.get_all_options()
    assert options.to_runner_api() == usual.to_runner_api()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda options: pickle.loads(pickle.dumps(options))])
def test_a_copy_of_the_options_has_its_own_views(copied) -> None:
    options = construction.Options(direct_num_workers=3)
    options.view_as(DirectOptions)
    other = copied(options)
    other.view_as(DirectOptions).direct_num_workers = 4
    assert other.get_all_options()["direct_num_workers"] == 4
    assert options.view_as(DirectOptions).direct_num_workers == 3
