from __future__ import annotations

from dataclasses import dataclass

import pytest

from beam_semdedup.storage.folder import Folder
from beam_semdedup.storage.records import Record


@dataclass(frozen=True)
class Inner:
    name: str
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Outer(Record):
    number: int
    share: float | None
    inner: tuple[Inner, ...] = ()


RECORD = Outer(1, 0.1, (Inner("é", (1, 2)), Inner("", ())))


def test_a_record_comes_back_as_it_was(tmp_path):
    file = Folder(str(tmp_path)).file("a/b.json")
    assert Outer.read(file) is None
    RECORD.write(file)
    assert Outer.read(file) == RECORD
    assert Outer.from_json(RECORD.to_json()) == RECORD


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"number": 1, "sha',
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"number": "1", "share": null}',
        b'{"number": true, "share": null}',
        b'{"number": 1.5, "share": null}',
        b'{"number": 1, "share": null, "inner": [{"name": "x"}]}',
        b'{"number": 1, "share": null, "inner": [{"name": "x", "sizes": [null]}]}',
    ],
)
def test_what_is_no_whole_record_of_these_types_is_none_and_is_warned_of(tmp_path, caplog, content):
    file = Folder(str(tmp_path)).file("a.json")
    file.write_bytes(content)
    assert Outer.read(file) is None
    assert f"{file} is taken for unfinished" in caplog.text
    with pytest.raises(ValueError, match="validation error"):
        Outer.from_json(content)


@pytest.mark.parametrize(
    ("what", "other"),
    [
        (b'"number": 1', b'"number": 2'),
        (b"0.1", b"0.3"),
        (b'"\\u00e9"', b'"e"'),
        (b"[1, 2]", b"[1]"),
        (b"[1, 2]", b"[2, 1]"),
    ],
)
def test_a_record_with_other_values_than_were_written_is_none_and_is_warned_of(tmp_path, caplog, what, other):
    file = Folder(str(tmp_path)).file("a.json")
    RECORD.write(file)
    file.write_bytes(file.read_bytes().replace(what, other))
    assert Outer.read(file) is None
    assert f"{file} is taken for unfinished: its values are not those that were written" in caplog.text


def test_a_record_of_an_earlier_version_is_read_without_a_checksum(tmp_path):
    file = Folder(str(tmp_path)).file("a.json")
    file.write_bytes(b'{"number": 1, "share": 0.1, "later": 5}')
    assert Outer.read(file) == Outer(1, 0.1)


def test_a_record_can_be_read_as_another_that_has_a_part_of_its_values(tmp_path):
    @dataclass(frozen=True)
    class Part(Record):
        number: int

    file = Folder(str(tmp_path)).file("a.json")
    RECORD.write(file)
    assert Part.read(file) == Part(1)
