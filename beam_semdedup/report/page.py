"""The page: one file of HTML, with its style, its script and its data in it, that fetches nothing.

What comes from a dataset is in the data alone, as JSON without a character that HTML would act on. The script writes it
into the page as text. A policy in the page's head lets nothing run but that script.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from string import Template
from typing import Any

from beam_semdedup.report.content import Content, as_json
from beam_semdedup.report.results import FinishedRun

MARK = b"<!doctype html><!-- a report of beam-semdedup -->"
"""What the page begins with, by which it is known again."""
MOST_BYTES = 4_800_000
_SIZES = ((1500, 1), (800, 1), (400, 1), (200, 1), (100, 1), (100, 2), (60, 4), (30, 8), (10, 32))
"""How long texts are, and of how many pairs one is shown: the first that fit are taken."""
_ACTIVE = "<>&\u2028\u2029"


def write_page(run: FinishedRun, content: Content) -> bytes:
    """Returns the page, of less than 5 MB."""
    for longest, every in _SIZES:
        if _text_bytes(content, longest) > every * MOST_BYTES:
            continue
        page = _filled(content, as_json(run, content, longest, every))
        if len(page) <= MOST_BYTES:
            return page
    raise RuntimeError(f"the report has {len(page):,} bytes even without most of its texts")


def _text_bytes(content: Content, longest: int) -> int:
    """Returns half of the bytes that the texts of all rows have, cut at a length, if they are as some of them are."""
    some = list(content.rows.values())[:200]
    texts = [[(text or "")[:longest] for text in row.values] for row in some]
    return len(_escaped(texts).encode(errors="replace")) * len(content.rows) // max(1, 2 * len(some))


def _filled(content: Content, data: dict[str, Any]) -> bytes:
    room = files("beam_semdedup.report")
    html, style, script = ((room / f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    images = "img-src http: https: file: data:; " if content.image_field else ""
    policy = (
        f"default-src 'none'; {images}style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    page = Template(html).substitute(policy=policy, style=style, script=script, data=_escaped(data))
    return MARK + page.encode(errors="backslashreplace")


def _escaped(data: Any) -> str:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in _ACTIVE:
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
