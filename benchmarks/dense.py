"""Sets with dense groups: many rows that resemble few texts, or are the same as these, among rows mixed from real ones.

A row of a group is c t + √(1 - c²) a of a real row t, the text, and the direction a of the difference of two others, at
right angles to t. Two rows of a group have a cosine of c² in the mean.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.data import ROW_GROUP, Dataset
from benchmarks.mixed import EXAMPLES, Mixture
from benchmarks.peers.vectors import load, normalize


@dataclass(frozen=True)
class Groups:
    """What a set is made of.

    Attributes:
        rows: of the set.
        dense: how many of them are in groups; the others are mixed.
        texts: the number of groups, of about one size.
        cosine: of two rows of a group, in the mean; with 1 they are the same, bit for bit.
    """

    rows: int
    dense: int
    texts: int
    cosine: float

    def draw(self, source: np.ndarray, seed: int = 0) -> np.ndarray:
        """Draws the rows (n, d) float32, of length 1 as those of `source`, in any order."""
        rng = np.random.default_rng(seed)
        result = Mixture.draw(source, self.rows, seed).rows(slice(0, self.rows))
        texts = source[rng.choice(len(source), self.texts, replace=False)]
        for text, group in zip(texts, np.array_split(np.arange(self.dense), self.texts), strict=True):
            result[group] = text if self.cosine == 1 else self._near(text, source, len(group), rng)
        return rng.permutation(result)

    def _near(self, text: np.ndarray, source: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
        v, w = rng.integers(0, len(source), (2, number))
        away = source[v] - source[w]
        away -= (away @ text)[:, None] * text
        away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), np.float32(1e-6))
        return normalize(np.float32(self.cosine**0.5) * text + np.float32((1 - self.cosine) ** 0.5) * away)


def generate(work: Path, groups: Groups, source: Path = EXAMPLES, seed: int = 0) -> Dataset:
    """A set in `work`, of one file, written unless it stands there."""
    vectors = load(source)[1]
    digest = hashlib.sha256(vectors.tobytes()).hexdigest()[:8]
    name = f"dense-{groups.rows}-{groups.dense}-{groups.texts}-{groups.cosine}-{digest}-{seed}"
    file = work / name / "part-00000.parquet"
    if not file.exists():
        rows = groups.draw(vectors, seed)
        column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
        file.parent.mkdir(exist_ok=True)
        scratch = file.with_suffix(".tmp")
        table = pa.table({"id": np.arange(len(rows)), "embeddings": column})
        pq.write_table(table, scratch, row_group_size=ROW_GROUP, use_dictionary=False)
        scratch.rename(file)
    return Dataset(file.parent, groups.rows, 0)
