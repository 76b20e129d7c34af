from __future__ import annotations

import pytest

from beam_semdedup.errors import InputError, RunError, UnitError, as_input_error, known_cause, naming_unit


@pytest.mark.parametrize("kind", [InputError, RunError])
def test_the_transform_that_beam_names_is_left_out(kind):
    found = known_cause(kind("too few rows [while running 'SemanticDedup/Fit/Fit KMeans']"))
    assert (type(found), str(found)) == (kind, "too few rows")
    error = kind("too few rows")
    assert known_cause(error) is error


def test_what_is_not_ours_has_no_known_cause():
    assert known_cause(ArithmeticError("x")) is None


def test_a_unit_is_named_once():
    with pytest.raises(UnitError, match=r"^unit 3: KeyError: 'x'$"), naming_unit("a file"), naming_unit("unit 3"):
        {}["x"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("full\nand more"), "^output_path=x: OSError: full$"),
        (OSError(), "^output_path=x: OSError$"),
        (InputError("as it is"), "^as it is$"),
    ],
)
def test_what_goes_wrong_becomes_an_input_error_of_one_line(error, message):
    with pytest.raises(InputError, match=message), as_input_error("output_path=x"):
        raise error
