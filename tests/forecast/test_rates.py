from __future__ import annotations

import pytest

from beam_semdedup.errors import InputError
from beam_semdedup.forecast.rates import load_rates, save_rates
from beam_semdedup.plan.rates import REFERENCE, computed_scores


def test_rates_are_read_as_they_were_written(tmp_path):
    path = str(tmp_path / "rates.json")
    save_rates(REFERENCE, path)
    assert load_rates(path) == REFERENCE


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"cores": 2}'])
def test_what_is_no_calibration_is_an_error_that_names_the_file(content, tmp_path):
    path = tmp_path / "rates.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=f"^calibration={path}: .*calibrate=true"):
        load_rates(str(path))


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        save_rates(REFERENCE, str(tmp_path / "nowhere" / "rates.json"))


def test_tiles_on_the_diagonal_are_whole():
    assert computed_scores(45, 10, 1024) == 100
    assert computed_scores(10**6 * (10**6 - 1) // 2, 10**6, 1000) == pytest.approx(5.005e11)
