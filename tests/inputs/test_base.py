from beam_semdedup.inputs.base import InputUnit


def test_a_unit_is_named_by_its_file_row_groups_and_rows():
    assert str(InputUnit("a", 0, 20, 5, row_groups=(2,))) == "a (row group 2, rows 20 to 24)"
    assert str(InputUnit("a", 0, 20, 15, row_groups=(2, 3))) == "a (row groups 2 to 3, rows 20 to 34)"
    assert str(InputUnit("a", 0, 20, 15, first_line=22)) == "a (from line 22, rows 20 to 34)"
