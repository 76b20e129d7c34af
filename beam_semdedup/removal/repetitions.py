"""Ids that repeat: where they were found, and what is said of them."""

from __future__ import annotations

from dataclasses import dataclass

from beam_semdedup.text import counted


@dataclass(frozen=True)
class Repetitions:
    """How many ids repeat, and where.

    Attributes:
        count: the most in any of the places below, since an id may repeat in several.
        in_clusters: within clusters; an id counts in each of them.
        in_duplicates: among the duplicates.
        in_dataset: of the ids to remove, on several rows of the dataset.
        examples: some of them.
    """

    count: int = 0
    in_clusters: int = 0
    in_duplicates: int = 0
    in_dataset: int = 0
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = {
            f"{counted(self.in_clusters, 'time')} within clusters": self.in_clusters,
            f"{self.in_duplicates:,} among the duplicates": self.in_duplicates,
            f"{self.in_dataset:,} of the listed ones in the dataset": self.in_dataset,
        }
        found = " and ".join(words for words, count in where.items() if count)
        return f"ids repeat, {found}, such as {', '.join(map(repr, self.examples))}"

    def refusal(self) -> str:
        """Says why a removal by id refuses."""
        return (
            f"{self}; a removal would take all rows of a listed id, the kept one included: make "
            "the ids unique, or give repeated_ids=allow"
        )
