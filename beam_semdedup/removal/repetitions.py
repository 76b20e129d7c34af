"""Ids that repeat: where a run found them, and why a removal refuses them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from beam_semdedup.errors import InputError
from beam_semdedup.text import counted


class RepeatedIds(InputError):
    """Ids repeat, so that removing by id would remove rows that are no duplicates."""

    @classmethod
    def because(cls, found: object) -> RepeatedIds:
        """Returns the error that says what was `found` and what to do."""
        return cls(
            f"{found}; a removal would take all rows of a listed id, the kept one included: make "
            "the ids unique, or give repeated_ids=allow"
        )


@dataclass(frozen=True)
class Repetitions:
    """How many ids repeat in what a run compared.

    Attributes:
        count: the most in any of the places below, since an id may repeat in several.
        in_clusters: within clusters; an id counts in each of them.
        in_duplicates: among the duplicates.
        examples: some of them.
    """

    count: int = 0
    in_clusters: int = 0
    in_duplicates: int = 0
    examples: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        where = {
            f"{counted(self.in_clusters, 'time')} within clusters": self.in_clusters,
            f"{self.in_duplicates:,} among the duplicates": self.in_duplicates,
        }
        return repetitions(" and ".join(words for words, count in where.items() if count), self.examples)


def repetitions(where: str, examples: Iterable[str]) -> str:
    """Says where ids repeat, with examples."""
    return f"ids repeat, {where}, such as {', '.join(map(repr, examples))}"
