from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as pj
import pytest
import zstandard
from hypothesis import assume, given
from hypothesis import strategies as st
from reading import SCHEMA, copied, facts, input_of, malformed, numbers, parts_of, positions, read

from beam_semdedup.errors import InputError
from beam_semdedup.inputs import jsonl_lines
from beam_semdedup.inputs.base import FileFacts, InputUnit
from beam_semdedup.inputs.jsonl import Jsonl
from beam_semdedup.inputs.jsonl_lines import blocks, what_is_no_lines
from beam_semdedup.storage.folder import File, Folder

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
DECOMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
    ".zst": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
}
MALFORMED = {
    "no JSON": b"hello",
    "an open object": b'{"id": 1, "embeddings": [1, 2]',
    "a closed object": b'"id": 1, "embeddings": [1, 2]}',
    "an open list": b'{"id": 1, "embeddings": [1, 2}',
    "two objects": b'{"id": 1} {"id": 2}',
    "an object and a null": b'{"id": 1} null',
    "three objects": b'{"id": 1}{"id": 2}{"id": 3}',
    "an object and a comma": b'{"id": 1},',
    "a null": b"null",
    "a number": b"17",
    "a string": b'"text"',
    "a list": b'[{"id": 1}]',
    "a nested list": b'{"id": 1, "embeddings": [[1], [2]]}',
    "a list and an object": b'{"id": 1, "embeddings": [1, {"a": 2}]}',
    "a vector of strings": b'{"id": 1, "embeddings": ["a"]}',
    "a vector that is none": b'{"id": 1, "embeddings": 5}',
    "an id of another type": b'{"id": "one", "embeddings": [1, 2]}',
    "a number too large": b'{"id": 1, "embeddings": [1e999]}',
    "a field twice": b'{"id": 1, "id": 2}',
    "braces alone": b"{null}",
    "brackets in braces": b'{"id": 1, "x": {]}}',
    "no quotes": b'{id: 1, "embeddings": [1]}',
    "a control character": b'{"id": 1, "text": "\x01"}',
    "zero bytes": b"{\x00\x00}",
    "an escape for nothing": b'{"id": 1, "text": "\\x"}',
    "half of a pair": b'{"id": 1, "text": "\\ud800"}',
    "very deep": b'{"id": ' + b"[" * 50 + b"}",
}


def lines_of(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def row(number: int) -> dict[str, Any]:
    return {"id": number, "embeddings": [float(number), 1.0]}


class TestJsonl:
    kind = Jsonl()

    def written(self, path: Path, content: bytes, kind: Jsonl = kind, name: str = "a.jsonl") -> FileFacts:
        (path / name).write_bytes(content)
        return facts(path / name, kind)

    def test_rows_are_counted_and_their_types_found(self, tmp_path):
        found = self.written(tmp_path, lines_of(row(1), row(2)))
        assert found.num_rows == 2
        assert found.schema.field("id").type == pa.int64()
        content, rows = read(found.parts, self.kind)
        assert content.to_pylist() == [row(1), row(2)]
        assert numbers(rows) == [1, 2]
        assert positions(rows) == [0, 1]

    @pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
    @pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n \n"])
    def test_lines_may_end_in_any_way_and_the_last_in_none(self, tmp_path, newline, end):
        found = self.written(tmp_path, newline.join(lines_of(row(i)).strip() for i in range(3)) + end)
        content, rows = read(found.parts, self.kind)
        assert found.num_rows == 3
        assert content.to_pylist() == [row(0), row(1), row(2)]
        assert numbers(rows) == [1, 2, 3]

    @pytest.mark.parametrize("depth", [101, 500, 100_000])
    @pytest.mark.parametrize("brackets", [("[", "]"), ('{"a": ', "}"), ('["]]]", ', "]")])
    def test_a_line_that_is_nested_too_deep_is_malformed(self, tmp_path, depth, brackets):
        deep = '{"id": 7, "x": ' + brackets[0] * depth + "1" + brackets[1] * depth + "}"
        found = self.written(tmp_path, lines_of(row(1)) + deep.encode() + b"\n" + lines_of(row(2)))
        content, rows = read(found.parts, self.kind)
        assert content.to_pylist() == [row(1), row(2)]
        assert (numbers(rows), malformed(rows)) == ([1, 3], [2])
        assert copied(self.kind, tmp_path / "a.jsonl", [2])[1] == (3, 1)

    @pytest.mark.parametrize("value", ["[" * 99 + "1" + "]" * 99, json.dumps("[{" * 500), json.dumps([[]] * 500)])
    def test_a_line_with_many_brackets_is_a_row(self, tmp_path, value):
        content = f'{{"id": 1, "x": {value}}}\n'.encode()
        found = self.written(tmp_path, content)
        ids, rows = read(found.parts, self.kind, pa.schema([("id", pa.int64())]))
        assert (ids.to_pylist(), malformed(rows)) == ([{"id": 1}], [])

    def test_blank_lines_are_no_rows_and_are_counted_as_lines(self, tmp_path):
        blank = [b"\n", b"  \t\n", b"\r\n", b" " * 1000 + b"\n"]
        found = self.written(tmp_path, b"".join([*blank, lines_of(row(0)), *blank, lines_of(row(1)), *blank]))
        content, rows = read(found.parts, self.kind)
        assert found.num_rows == content.num_rows == 2
        assert numbers(rows) == [5, 10]
        assert malformed(rows) == []

    @pytest.mark.parametrize("content", [b"", b"\n", b"\n  \n\t\r\n", b" "])
    def test_a_file_without_lines_has_no_rows(self, tmp_path, content):
        found = self.written(tmp_path, content)
        assert (found.num_rows, found.parts) == (0, ())

    @pytest.mark.parametrize("what", MALFORMED)
    @pytest.mark.parametrize("place", [0, 2, 5])
    def test_a_malformed_line_is_no_row_wherever_it_stands(self, tmp_path, what, place):
        lines = [lines_of(row(i)).strip() for i in range(5)]
        lines.insert(place, MALFORMED[what])
        found = self.written(tmp_path, b"\n".join(lines))
        assert found.num_rows == 6
        assert found.schema.field("id").type == pa.int64()
        content, rows = read(found.parts, self.kind, pa.schema([*SCHEMA, ("text", pa.string())]))
        assert content.select(SCHEMA.names).to_pylist() == [row(i) for i in range(5)]
        assert malformed(rows) == [place + 1]
        assert numbers(rows) == [n for n in range(1, 7) if n != place + 1]
        assert positions(rows) == [n - 1 for n in numbers(rows)]

    @pytest.mark.parametrize("value", ["1.5", "18446744073709551615", "true", '"x"'])
    def test_an_id_of_another_type_than_is_asked_for_makes_a_line_malformed(self, tmp_path, value):
        found = self.written(
            tmp_path, lines_of(*map(row, range(3))) + b'{"id": %s}\n' % value.encode() + lines_of(row(9))
        )
        content, rows = read(found.parts, self.kind)
        assert content.column("id").to_pylist() == [0, 1, 2, 9]
        assert malformed(rows) == [4]

    def test_text_that_is_not_utf8_makes_a_line_malformed_where_it_is_read(self, tmp_path):
        lines = [b'{"id": "a"}', b'{"id": "\xff\xfe"}', b'{"id": "\xc3\xa9"}', b'{"id": "d", "other": "\xff"}']
        found = self.written(tmp_path, b"\n".join(lines))
        content, rows = read(found.parts, self.kind, pa.schema([("id", pa.string())]))
        assert content.column("id").to_pylist() == ["a", "é", "d"]
        assert malformed(rows) == [2]

    def test_an_object_over_two_lines_is_not_made_up_for_by_two_objects_on_one(self, tmp_path):
        found = self.written(tmp_path, b'{"id": 1,\n"embeddings": [1, 2]}\n{"id": 2} {"id": 3}\n{"id": 4}\n')
        content, rows = read(found.parts, self.kind)
        assert malformed(rows) == [1, 2, 3]
        assert content.column("id").to_pylist() == [4]

    def test_a_file_of_malformed_lines_only_has_rows_and_no_columns(self, tmp_path):
        lines = [b"what", b"null", b'{"id": 1', b"{null}", b"[1]", b'"id"', b"{]}"]
        found = self.written(tmp_path, b"\n".join(lines))
        assert (found.num_rows, found.schema.names) == (7, [])
        content, rows = read(found.parts, self.kind)
        assert content.num_rows == 0
        assert malformed(rows) == list(range(1, 8))

    def test_the_types_are_found_behind_a_block_of_malformed_lines(self, tmp_path):
        found = self.written(tmp_path, b"what\n" * 40 + lines_of(row(1)), Jsonl(block_bytes=64))
        assert found.schema.names == ["id", "embeddings"]
        assert found.num_rows == 41

    def test_the_types_are_those_of_all_blocks(self, tmp_path):
        kind = Jsonl(block_bytes=64)
        lines = [{"id": i, "score": i, "none": None, "info": {"a": i}} for i in range(40)]
        lines += [{"id": 40, "score": 0.5, "none": "x", "info": {"b": "y"}, "late": True}]
        found = self.written(tmp_path, lines_of(*lines, *lines[:40]), kind)
        assert {f.name: f.type for f in found.schema} == {
            "id": pa.int64(),
            "score": pa.float64(),
            "none": pa.string(),
            "info": pa.struct([("a", pa.int64()), ("b", pa.string())]),
            "late": pa.bool_(),
        }
        content, rows = read(found.parts, kind, found.schema)
        assert content.column("score").to_pylist() == [*range(40), 0.5, *range(40)]
        assert malformed(rows) == []
        assert len(kind.head(found.info).names) == 4

    @pytest.mark.parametrize("block_bytes", [16, 64, 1 << 20])
    def test_the_commonest_type_is_that_of_the_most_lines_of_the_file(self, tmp_path, block_bytes):
        """Wherever they stand: two types that join are counted together."""
        kind = Jsonl(block_bytes)
        lines = lines_of(*({"x": v} for v in [*["a"] * 5, *[None] * 9, *[1] * 3, *[0.5] * 3]))
        found = self.written(tmp_path, lines, kind)
        assert found.schema.field("x").type == pa.float64()
        assert malformed(read(found.parts, kind, found.schema)[1]) == [1, 2, 3, 4, 5]

    def test_a_mixed_column_is_not_read_line_by_line(self, tmp_path, monkeypatch):
        reads, read_json = [], pj.read_json
        monkeypatch.setattr(pj, "read_json", lambda data, **options: reads.append(data) or read_json(data, **options))
        values = [1, "a", 0.5, None, [1], {"b": 1}, True]
        found = self.written(tmp_path, lines_of(*({"id": i, "x": values[i % 7]} for i in range(700))))
        assert {f.name: f.type for f in found.schema} == {"id": pa.int64(), "x": pa.float64()}
        assert len(reads) < 10

    @pytest.mark.parametrize("block_bytes", [16, 1 << 20])
    def test_types_that_do_not_fit_together_are_told_with_their_first_lines(self, tmp_path, block_bytes):
        mixed = {
            "fits": [None, 1, 0.5, 2],
            "x": [None, 1, "a", 0.5],
            "when": ["2024-01-01", "soon", None, "2024-01-01"],
            "times": [["2024-01-01"], ["soon"], [], None],
            "info": [{"at": "2024-01-01"}, {"at": "soon"}, {"n": 1}, {}],
            "tags": [[1], None, ["a"], [True]],
        }
        rows = [{name: values[i] for name, values in mixed.items()} for i in range(4)]
        content = b"{oh\n" + lines_of(*rows[:2]) + b'\n{"fits": "x"} {"fits": "y"}\n' + lines_of(*rows[2:])
        found = self.written(tmp_path, content, Jsonl(block_bytes))
        assert found.conflicts == {
            "x": "double in line 3 and string in line 6",
            "tags": "list<item: int64> in line 2 and list<item: string> in line 6 and list<item: bool> in line 7",
        }
        types = {f.name: str(f.type) for f in found.schema}
        assert (types["when"], types["times"]) == ("string", "list<item: string>")

    @pytest.mark.parametrize("extra", [[1, "a"], [[1], 2], {"a": [{"b": 1}, "c"]}])
    def test_a_column_that_arrow_has_no_type_for_takes_no_other_with_it(self, tmp_path, extra):
        found = self.written(tmp_path, lines_of(*({**row(i), "extra": extra} for i in range(3))))
        assert found.num_rows == 3
        assert found.schema.names == ["id", "embeddings", "extra"]
        assert found.schema.field("id").type == pa.int64()
        assert found.conflicts == {"extra": "of several types at once in line 1"}
        content, rows = read(found.parts, self.kind)
        assert content.column("id").to_pylist() == [0, 1, 2]
        assert malformed(rows) == []

    def test_a_mixed_value_among_others_is_told_and_counts_for_nothing_else(self, tmp_path):
        lines = lines_of({"id": 1, "x": 2}, {"id": 2, "x": [1, "a"]}, {"id": 0.5, "x": 3}, {"id": 4, "x": {"b": 1}})
        found = self.written(tmp_path, lines)
        assert found.schema.field("id").type == pa.float64()
        assert found.schema.field("x").type == pa.int64()
        assert found.conflicts == {
            "x": "int64 in line 1 and of several types at once in line 2 and struct<b: int64> in line 4"
        }

    @pytest.mark.parametrize(
        "line",
        [
            b'{"id": "\xff", "embeddings": [1, 2]}',
            b'{"id": "a\xff"}',
            b'{"id": 1e999}',
            b'{"id": "x", "id": "y"}',
            b'{"id": "\\ud800"}',
        ],
    )
    def test_a_line_that_no_row_can_be_read_of_changes_no_type(self, tmp_path, line):
        found = self.written(tmp_path, lines_of(row(1)) + line + b"\n" + lines_of(row(3)))
        assert found.conflicts == {}
        assert found.schema.field("id").type == pa.int64()
        assert malformed(read(found.parts, self.kind)[1]) == [2]

    def test_one_malformed_line_changes_no_type(self, tmp_path):
        lines = [{"id": i, "quality": 1 if i % 3 else 0.5, "info": {"a": i} if i % 2 else {"b": "x"}} for i in range(9)]
        whole = self.written(tmp_path, lines_of(*lines))
        broken = self.written(tmp_path, lines_of(*lines[:4]) + b"{oh\n" + lines_of(*lines[4:]), name="b.jsonl")
        assert broken.schema.field("quality").type == pa.float64()
        assert {f.name: f.type for f in broken.schema} == {f.name: f.type for f in whole.schema}

    def test_a_column_of_two_types_has_the_commoner_and_the_other_lines_are_malformed(self, tmp_path):
        lines = lines_of(*({"id": i, "other": [i, 0.5][i % 2]} for i in range(6)), {"id": "x"}, {"id": None}, {"id": 9})
        found = self.written(tmp_path, lines)
        assert {f.name: f.type for f in found.schema} == {"id": pa.int64(), "other": pa.float64()}
        content, rows = read(found.parts, self.kind, found.schema)
        assert content.column("id").to_pylist() == [0, 1, 2, 3, 4, 5, None, 9]
        assert malformed(rows) == [7]

    @pytest.mark.parametrize("ids", [["2024-01-01", "2024-01-02 10:00:00"], ["a", "b"], ["1", "2"]])
    def test_ids_in_quotes_are_strings_whatever_they_look_like(self, tmp_path, ids):
        found = self.written(tmp_path, lines_of(*({"id": i} for i in ids)))
        assert found.schema.field("id").type == pa.string()
        assert read(found.parts, self.kind, found.schema)[0].column("id").to_pylist() == ids

    def test_nan_and_infinity_in_a_vector_are_read_as_such(self, tmp_path):
        found = self.written(
            tmp_path, b'{"id": 1, "embeddings": [NaN, 1]}\n{"id": 2, "embeddings": [Infinity, -Infinity]}'
        )
        content, rows = read(found.parts, self.kind)
        vectors = content.column("embeddings").to_pylist()
        assert np.isnan(vectors[0][0])
        assert vectors[1] == [np.inf, -np.inf]
        assert malformed(rows) == []

    def test_missing_and_unasked_fields_do_not_matter(self, tmp_path):
        lines = [{"id": 1, "text": "x"}, {"embeddings": [1.0], "extra": {"a": [1]}}, {}, {"id": None, "extra": 3}]
        found = self.written(tmp_path, lines_of(*lines))
        content, _ = read(found.parts, self.kind)
        assert content.column("id").to_pylist() == [1, None, None, None]
        assert content.column("embeddings").to_pylist() == [None, [1.0], None, None]

    def test_a_byte_order_mark_does_not_matter(self, tmp_path):
        found = self.written(tmp_path, b"\xef\xbb\xbf" + lines_of(row(1), row(2)))
        assert found.schema.names == ["id", "embeddings"]
        assert read(found.parts, self.kind)[0].to_pylist() == [row(1), row(2)]

    def test_lines_longer_than_a_block_are_read_whole(self, tmp_path):
        kind = Jsonl(block_bytes=50)
        lines = [{**row(0), "text": "x" * 20}, {**row(1), "text": "y" * 400}, row(2), {**row(3), "text": "z" * 150}]
        found = self.written(tmp_path, lines_of(*lines).strip(), kind)
        content, rows = read(found.parts, kind)
        assert content.to_pylist() == [row(i) for i in range(4)]
        assert numbers(rows) == [1, 2, 3, 4]

    def test_the_parts_of_a_file_are_its_bytes_end_to_end(self, tmp_path):
        kind = Jsonl(block_bytes=100)
        found = self.written(tmp_path, lines_of(*map(row, range(20))), kind)
        assert len(found.parts) > 3
        for before, after in zip(found.parts[:-1], found.parts[1:], strict=True):
            assert after.first_row == before.first_row + before.num_rows
        for part in found.parts:
            content, rows = read([part], kind)
            expected = list(range(part.first_row, part.first_row + part.num_rows))
            assert content.column("id").to_pylist() == positions(rows) == expected
            assert numbers(rows) == [n + 1 for n in expected]
        whole = kind.join([part.piece for part in found.parts])
        assert read([InputUnit(found.info.url, 0, 0, 20, whole)], kind)[0].to_pylist() == [row(i) for i in range(20)]

    def test_a_unit_is_named_by_its_file_first_line_and_rows(self, tmp_path):
        kind = Jsonl(block_bytes=1)
        found = self.written(tmp_path, lines_of(row(0)) + b"\n\n" + lines_of(row(1), row(2)), kind)
        names = [kind.describe(unit) for unit in parts_of(input_of(kind, found), 2)]
        assert names == [f"{found.info} (from line 1, rows 0 to 1)", f"{found.info} (from line 5, rows 2 to 2)"]
        assert [kind.suffix(part.piece) for part in found.parts] == [""] * 3

    def test_rows_are_found_by_line(self):
        groups, lines = self.kind.places(File("a"), np.array([3, 8]))
        assert groups.to_pylist() == [None, None]
        assert lines.to_pylist() == [3, 8]

    @pytest.mark.parametrize(
        ("vectors", "expected"),
        [
            ([[1, 2], [1], [2, 3], None, []], 2),
            ([[1.5, 2], [1]], 1),
            ([None, []], None),
            ([None] * 40 + [[1, 2, 3]], 3),
        ],
    )
    def test_the_dimension_is_the_commonest_length_in_the_first_block_with_a_vector(self, tmp_path, vectors, expected):
        kind = Jsonl(block_bytes=200)
        found = self.written(tmp_path, lines_of(*({"id": i, "embeddings": v} for i, v in enumerate(vectors))), kind)
        assert kind.dimension(found, "embeddings") == expected


class TestCompressedJsonl:
    kind = Jsonl(block_bytes=300)
    content = lines_of(*map(row, range(50))) + b"\n{oops\n" + lines_of(*map(row, range(50, 60)))

    def written(self, path: Path, suffix: str, content: bytes) -> FileFacts:
        (path / f"a.jsonl{suffix}").write_bytes(content)
        return facts(path / f"a.jsonl{suffix}", self.kind)

    @pytest.mark.parametrize("suffix", COMPRESSORS)
    @pytest.mark.parametrize("rows_per_unit", [7, 1000])
    def test_it_is_read_as_if_it_were_not_compressed(self, tmp_path, suffix, rows_per_unit):
        found = self.written(tmp_path, suffix, COMPRESSORS[suffix](self.content))
        assert (found.num_rows, len(found.parts)) == (61, 1)
        parts = parts_of(input_of(self.kind, found), rows_per_unit)
        assert len(parts) == -(-61 // rows_per_unit)
        assert all(self.kind.where(part.piece) == "from line 1" for part in parts)
        content, rows = read(parts, self.kind)
        assert content.column("id").to_pylist() == list(range(60))
        assert malformed(rows) == [52]
        assert numbers(rows) == [*range(1, 51), *range(53, 63)]
        assert positions(rows) == [*range(50), *range(51, 61)]

    @pytest.mark.parametrize("suffix", COMPRESSORS)
    def test_compressed_pieces_laid_end_to_end_are_read_to_the_end(self, tmp_path, suffix):
        compress = COMPRESSORS[suffix]
        found = self.written(tmp_path, suffix, compress(self.content) + compress(lines_of(row(60))))
        assert found.num_rows == 62

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (json.dumps([row(1), row(2)]).encode(), "one JSON array"),
            (b"[" + b",".join(lines_of(row(i)) for i in range(9)) + b"]", "one JSON array"),
            (b"\xef\xbb\xbf \n[\n" + lines_of(row(1)) + b"]\n", "one JSON array"),
            (b"[" + b",".join(lines_of(row(i)).strip() for i in range(50_000)) + b"]", "one JSON array"),
            (lines_of(row(1), row(2)).replace(b"\n", b"\r"), "carriage return"),
            (b'{"id": "' + b"x" * 3000 + b'"}\n', "a line is longer than 2,000 bytes"),
        ],
    )
    def test_what_has_no_object_a_line_is_told_by_its_start(self, tmp_path, monkeypatch, content, said):
        monkeypatch.setattr(jsonl_lines, "_LONGEST_LINE", 2000)
        (tmp_path / "a.jsonl").write_bytes(content)
        (file,) = Folder(f"{tmp_path}/a.jsonl").find()
        kind = Jsonl(block_bytes=1000)
        for ask in (kind.inspect, kind.head):
            with pytest.raises(InputError, match=f"^{re.escape(file.url)}: .*{said}"):
                ask(file)

    @pytest.mark.parametrize("suffix", COMPRESSORS)
    @pytest.mark.parametrize("damage", ["truncated", "garbage", "flipped"])
    def test_a_damaged_file_is_an_input_error_that_names_it(self, tmp_path, suffix, damage):
        whole = COMPRESSORS[suffix](np.random.default_rng(0).bytes(50_000).hex().encode())
        content = {
            "truncated": whole[:-20],
            "garbage": b"this was never compressed " * 20,
            "flipped": whole[:2000] + bytes(b ^ 0xFF for b in whole[2000:9000]) + whole[9000:],
        }[damage]
        with pytest.raises(InputError, match=rf"a\.jsonl{suffix}: not readable as text lines"):
            self.written(tmp_path, suffix, content)


class TestCopyWithout:
    kind = Jsonl()

    @pytest.mark.parametrize("suffix", ["", *COMPRESSORS])
    def test_lines_go_and_every_other_byte_stays_however_it_is_compressed(self, tmp_path, suffix):
        lines = [
            b'{"id": 1, "x": {"nested": [1, {"a": null}]}}\n',
            b'{"id":2}\r\n',
            b"\n",
            b'  {"x": "\xc3\xa9", "id": 3}  \n',
            b'{"id": 4, "oops\n',
            b'{"id": "2"}\n',
            b'{"id": null}\n',
            b"null\n",
            b'{"id": 2, "embeddings": [1e3, NaN]}\n',
            b'{"other": 5}\n',
            b'{"id": 6}',
        ]
        source = tmp_path / f"a.jsonl{suffix}"
        source.write_bytes(COMPRESSORS.get(suffix, bytes)(b"".join(lines)))
        copy, counts = copied(self.kind, source, [2, 3, 7])
        after = DECOMPRESSORS.get(suffix, bytes)(copy.read_bytes())
        assert after == b"".join(line for n, line in enumerate(lines) if n not in (1, 3, 8))
        assert counts == (10, 3)

    def test_string_ids_and_the_last_line(self, tmp_path):
        content = lines_of({"id": "a"}, {"id": "2024-01-01"}, {"id": "é", "x": 1}).rstrip()
        (tmp_path / "a.jsonl").write_bytes(content)
        copy, counts = copied(self.kind, tmp_path / "a.jsonl", ["2024-01-01", "é"])
        assert counts == (3, 2)
        assert copy.read_bytes() == b'{"id": "a"}\n'


LINE = st.one_of(
    st.integers(0, 10**6).map(lambda i: ("good", lines_of(row(i)).strip(), i)),
    st.integers(0, 50).map(lambda n: ("good", json.dumps({**row(n), "text": "t" * n}).encode(), n)),
    st.sampled_from([b"", b" ", b"\t \r", b" " * 30]).map(lambda line: ("blank", line, None)),
    st.sampled_from(sorted(MALFORMED.values())).map(lambda line: ("bad", line, None)),
    st.sampled_from([b"{", b"}", b"}{", b"{}{", b'{"id":3,', b'"embeddings":[1]}', b"\xff", b"{\xff}"]).map(
        lambda line: ("bad", line, None)
    ),
)


class TestAnyLines:
    """Any mix of good, blank and bad lines, cut into blocks of any size."""

    @given(
        lines=st.lists(LINE, max_size=30),
        newline=st.sampled_from([b"\n", b"\r\n"]),
        at_end=st.booleans(),
        block_bytes=st.integers(1, 400),
        rows_per_unit=st.integers(1, 12),
        suffix=st.sampled_from(["", ".gz"]),
    )
    def test_every_row_comes_once_with_its_line_number(
        self, tmp_path_factory, lines, newline, at_end, block_bytes, rows_per_unit, suffix
    ):
        content = newline.join(line for _, line, _ in lines) + (newline if at_end else b"")
        assume(not what_is_no_lines(content[:block_bytes]))  # one array, by how it begins
        path = tmp_path_factory.getbasetemp() / f"{uuid.uuid4().hex}.jsonl{suffix}"
        path.write_bytes(COMPRESSORS.get(suffix, bytes)(content))
        kind = Jsonl(block_bytes)
        found = facts(path, kind)
        parts = parts_of(input_of(kind, found), rows_per_unit)
        table_, rows = read(parts, kind)
        per_unit = [read([unit], kind)[1] for unit in parts]
        path.unlink()
        good = [n for n, (what, _, _) in enumerate(lines, 1) if what == "good"]
        bad = [n for n, (what, _, _) in enumerate(lines, 1) if what == "bad"]
        assert table_.column("id").to_pylist() == [i for what, _, i in lines if what == "good"]
        assert numbers(rows) == good
        assert malformed(rows) == bad
        assert found.num_rows == len(good) + len(bad)
        assert [len(numbers(r)) + len(malformed(r)) for r in per_unit] == [unit.num_rows for unit in parts]
        rows_in_order = sorted(good + bad)
        assert positions(rows) == [rows_in_order.index(n) for n in good]

    @given(st.binary(max_size=200))
    def test_any_bytes_are_rows_or_malformed_and_none_is_lost(self, tmp_path_factory, content):
        path = tmp_path_factory.getbasetemp() / f"{uuid.uuid4().hex}.jsonl"
        path.write_bytes(content)
        kind = Jsonl()
        assume(not what_is_no_lines(content))
        found = facts(path, kind)
        table_, rows = read(found.parts, kind)
        path.unlink()
        assert table_.num_rows + len(malformed(rows)) == found.num_rows
        assert found.num_rows == sum(bool(line.strip()) for line in content.split(b"\n"))

    @given(content=st.binary(max_size=60) | st.text("{}\n\r ", max_size=60).map(str.encode), size=st.integers(1, 20))
    def test_blocks_are_whole_lines_and_the_content_end_to_end(self, content, size):
        found = list(blocks(io.BytesIO(content), size))
        assert b"".join(found) == content
        assert all(block.endswith(b"\n") for block in found[:-1])
        assert all(found)
