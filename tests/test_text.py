from __future__ import annotations

import dataclasses
import json

import pytest

from beam_semdedup.config.choices import GROUPS
from beam_semdedup.config.parameters import ForecastParameters, Parameters, RemovalParameters
from beam_semdedup.fields import declared
from beam_semdedup.text import counted, hidden_in, in_bytes, in_time, printable, shortened, without_secrets


@pytest.mark.parametrize(("number", "shown"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1234567, "1,234,567 rows")])
def test_things_are_counted(number, shown):
    assert counted(number, "row") == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0.0 s"), (119.9, "119.9 s"), (120, "2.0 min"), (7200, "2.0 h"), (172_800, "2.0 d"), (1e9, "11,574.1 d")],
)
def test_a_duration_has_a_unit_that_people_read(seconds, shown):
    assert in_time(seconds) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0 B"),
        (1023, "1,023 B"),
        (1024, "1.0 KiB"),
        (3 << 19, "1.5 MiB"),
        (5 << 30, "5.0 GiB"),
        (1 << 51, "2,048.0 TiB"),
    ],
)
def test_bytes_have_a_unit_that_people_read(number, shown):
    assert in_bytes(number) == shown


class TestSecrets:
    def test_credentials_are_starred_however_deep_and_nothing_else_is(self):
        values = {
            "read_kwargs": {"storage_options": {"key": "AKIA", "client_kwargs": {"secret": "deep"}}},
            "write_kwargs": {"storage_options": {}, "compression": "zstd"},
            "jobs": [{"read_kwargs": {"storage_options": {"token": "t"}}}],
            "eps": 0.1,
        }
        before = json.dumps(values)
        assert without_secrets(values) == {
            "read_kwargs": {"storage_options": {"key": "***", "client_kwargs": "***"}},
            "write_kwargs": {"storage_options": {}, "compression": "zstd"},
            "jobs": [{"read_kwargs": {"storage_options": {"token": "***"}}}],
            "eps": 0.1,
        }
        assert json.dumps(values) == before

    def test_no_credential_of_any_kwargs_is_left_in_a_configuration(self):
        secret = {"storage_options": {"key": "SECRET", "nested": {"list": ["SECRET"]}}}
        p = Parameters(input_path="in", output_path="out", read_kwargs=secret, write_kwargs=secret, cache_kwargs=secret)
        assert "SECRET" not in json.dumps(without_secrets(dataclasses.asdict(p)))

    @pytest.mark.parametrize(
        ("query", "shown"),
        [
            (
                "X-Amz-Algorithm=AWS4&X-Amz-Credential=AKIA%2Fs3&X-Amz-Date=2026&X-Amz-Signature=ab12&versionId=7",
                "X-Amz-Algorithm=AWS4&X-Amz-Credential=***&X-Amz-Date=2026&X-Amz-Signature=***&versionId=7",
            ),
            ("X-Amz-Security-Token=Fwo/+=&partNumber=1", "X-Amz-Security-Token=***&partNumber=1"),
            ("AWSAccessKeyId=AKIA&Signature=ab/cd=&Expires=17", "AWSAccessKeyId=***&Signature=***&Expires=17"),
            ("sv=2024&se=2026-01-01&sr=b&sp=r&sig=ab%2Bcd%3D", "sv=2024&se=2026-01-01&sr=b&sp=r&sig=***"),
            ("X-Goog-Signature=ab&X-Goog-Credential=c@d.iam", "X-Goog-Signature=***&X-Goog-Credential=***"),
            ("Policy=eyJ&Key-Pair-Id=K1&Signature=ab", "Policy=***&Key-Pair-Id=***&Signature=***"),
            ("access_token=gho_1&download=1", "access_token=***&download=1"),
            ("api_key=1&author=me&design=x", "api_key=***&author=me&design=x"),
        ],
    )
    def test_what_signs_a_url_is_starred_and_the_rest_of_it_is_not(self, query, shown):
        url, hidden = f"https://host/a b.parquet?{query}", f"https://host/a b.parquet?{shown}"
        assert without_secrets({"input_path": [url]}) == {"input_path": [hidden]}
        assert without_secrets(f"'{url}' is gone, see {url}") == f"'{hidden}' is gone, see {hidden}"
        assert hidden_in({"input_path": [hidden]}, "p") == "p.input_path"
        assert hidden_in({"input_path": [url]}, "p") is None

    def test_the_environment_of_actors_and_what_is_named_as_a_secret_are_starred(self):
        values = {"runtime_env": {"env_vars": {"AWS_SECRET_ACCESS_KEY": "x", "PLAIN": "y"}, "pip": ["a"]}}
        options = {"password": "x", "sasl_token": {"a": "b"}, "api-key": "z", "private_key": None, "policy": ""}
        assert without_secrets({"runner": values, "options": options}) == {
            "runner": {"runtime_env": {"env_vars": {"AWS_SECRET_ACCESS_KEY": "***", "PLAIN": "***"}, "pip": ["a"]}},
            "options": {
                "password": "***",
                "sasl_token": {"a": "***"},
                "api-key": "***",
                "private_key": None,
                "policy": "",
            },
        }

    def test_no_name_of_a_parameter_is_taken_for_one_of_a_secret(self):
        names = [f.name for schema in (Parameters, RemovalParameters, ForecastParameters) for f in declared(schema)]
        for group in GROUPS.values():
            names += [f.name for choice in group.values() for f in declared(choice.settings)]
        assert without_secrets(dict.fromkeys(names, 1)) == dict.fromkeys(names, 1)

    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("ftp://user:password@host/a", "ftp://***@host/a"),
            ("ftp://user:p@ss@host:21/a@b", "ftp://***@host:21/a@b"),
            ("ftp://user:pa/ss@host/a", "ftp://***@host/a"),
            ("cannot read ftp://user:pa/s/s@host:21/a: refused", "cannot read ftp://***@host:21/a: refused"),
            ("zip://a.parquet::ftp://user:pa/ss@host/b.zip", "zip://a.parquet::ftp://***@host/b.zip"),
            ("http://host:8080/a@b", "http://host:8080/a@b"),
            ("zip://a.parquet::ftp://user:password@host/b.zip", "zip://a.parquet::ftp://***@host/b.zip"),
            ("no files at ftp://user:password@host/a\nsome@where", "no files at ftp://***@host/a\nsome@where"),
            ("s3://bucket\nsome@where", "s3://bucket\nsome@where"),
            ("s3://bucket/a@b", "s3://bucket/a@b"),
            ("/data/a@b", "/data/a@b"),
        ],
    )
    def test_who_logs_in_is_starred_in_every_url(self, url, shown):
        values = {"output_path": url, "input_path": [url], "runner": {"master": url}}
        assert without_secrets(values) == {
            "output_path": shown,
            "input_path": [shown],
            "runner": {"master": shown},
        }


def test_a_terminal_shows_what_is_in_a_file_and_does_not_obey_it():
    found = "a\tb\nc\r \x1b[2J \x00 \x7f \x9b \u202e \udcff é 文 \U0001f600"
    assert printable(found) == "a\tb\nc\\r \\x1b[2J \\x00 \\x7f \\x9b \\u202e \\udcff é 文 \U0001f600"
    assert printable(printable(found)) == printable(found)


def test_a_message_has_room_for_so_much_of_a_value():
    assert (shortened("a" * 200), shortened("a" * 5000)) == ("a" * 200, "a" * 200 + "…")
