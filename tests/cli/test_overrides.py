from __future__ import annotations

import pytest

from beam_semdedup.cli.overrides import jobs_of, parsed_overrides, shown, understood
from beam_semdedup.config.parameters import Parameters, RemovalParameters
from beam_semdedup.errors import InputError


@pytest.mark.parametrize("value", ["2024_01", "1e3", "true", "0.1"])
def test_a_path_that_reads_as_a_number_is_a_path(value):
    assert understood(Parameters, [f"output_path={value}"]) == [f'output_path="{value}"']
    assert understood(Parameters, [f"eps={value}"]) == [f"eps={value}"]


@pytest.mark.parametrize("value", ["{storage_options: {secret: a]b}", "{storage_options: {secret: ab}},{}"])
def test_what_may_be_secret_is_not_told(value):
    with pytest.raises(InputError) as caught:
        understood(Parameters, [f"read_kwargs={value}"])
    assert "secret" not in str(caught.value)
    assert "read_kwargs=…" in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        *("plain", "/data/x.parquet", "s3://bucket/a b", "", "null", "~", "'quoted=1'", '"say \\"x\\""'),
        *("[a, b]", "[]", "{a: 1, b: [c, '=']}", "${eps}", "${oc.env:HOME}/o", "a\\=b", "a\\,b"),
    ],
)
def test_what_the_grammar_takes_stays_as_it_is(value):
    argument = f"cache_path={value}" if value != "~" else "~cache_path"
    assert understood(Parameters, [argument]) == [argument]


@pytest.mark.parametrize(
    "argument",
    ["eps=0.1,0.2", "eps=range(1,3)", "eps=choice(a,b)", "id_field='a=1',b", "metadata_fields=[a],[b, c]"],
)
def test_a_sweep_that_the_grammar_takes_stays_as_it_is(argument):
    assert understood(Parameters, [argument], multirun=True) == [argument]


@pytest.mark.parametrize(
    "value",
    [
        "date=1",
        "ä",
        "~/o",
        "a(b",
        "a b (1)",
        "it's",
        'say "x"',
        "a&b;c!d#e",
        "x\ny",
        "\\=\\ä\\",
        "[a]b",
        "{",
        "$(x)",
    ],
)
def test_what_it_refuses_is_quoted_and_means_itself(value):
    for schema, name in ((Parameters, "input_path"), (RemovalParameters, "duplicates_path")):
        (argument,) = understood(schema, [f"{name}={value}"])
        (parsed,) = parsed_overrides([argument])
        assert (parsed.key_or_group, parsed.value()) == (name, value)
        assert shown(argument) == f"{name}={value}"


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("input_path=/d=1,/d=2", ["/d=1", "/d=2"]),
        ("output_path=ä, b,'c=,'", ["ä", "b", "c=,"]),
        ("input_path=[/d=1,x],[/d=2]", [["/d=1", "x"], ["/d=2"]]),
        ("output_path=a=${eps},~/b", ["a=${eps}", "~/b"]),
    ],
)
def test_each_value_of_a_sweep_is_quoted_by_itself(argument, values):
    (argument,) = understood(Parameters, [argument], multirun=True)
    jobs = [parsed_overrides(job)[0].value() for job in jobs_of([argument])]
    assert jobs == values


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("input_path=[/d=1, /ä/*.parquet,'x=']", ["/d=1", "/ä/*.parquet", "x="]),
        ("metadata_fields=[größe]", ["größe"]),
        (
            "read_kwargs={storage_options: {account_key: ab/c+d==, n: 1}}",
            {"storage_options": {"account_key": "ab/c+d==", "n": 1}},
        ),
        ("ranking_strategy={metadata_cols: [größe, b]}", {"metadata_cols": ["größe", "b"]}),
        (
            "runner.options={job_server_jvm_properties: [-Xmx4g, -Da=b]}",
            {"job_server_jvm_properties": ["-Xmx4g", "-Da=b"]},
        ),
    ],
)
def test_what_is_in_a_list_or_a_mapping_is_quoted_by_itself(argument, value):
    (argument,) = understood(Parameters, [argument])
    assert parsed_overrides([argument])[0].value() == value


def test_of_several_for_the_same_parameter_the_last_counts():
    assert jobs_of(["++eps=0.1,0.2", "++k=1", "++eps=0.3"]) == [("++eps=0.3", "++k=1")]
    assert jobs_of(["++eps=0.3", "++eps=1,2"]) == [("++eps=1",), ("++eps=2",)]
