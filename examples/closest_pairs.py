"""Shows the closest duplicate pairs of the demo with their texts: `python closest_pairs.py OUTPUT_PATH`."""

import json
import sys
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq


def main(output_path: str, number: int = 10) -> None:
    """Prints the `number` most similar pairs that a run with `metadata_fields=[text]` found."""
    summary = json.loads(Path(output_path, "summary.json").read_text())
    files = [Path(summary["paths"]["duplicates"], name) for name in summary["duplicates_files"]]
    duplicates = pq.read_table(files).sort_by([("cosine_sim_score", "descending"), ("id", "ascending")])

    dataset = ds.dataset([ds.dataset(path) for path in summary["configuration"]["input_path"]])
    kept = dataset.to_table(columns=["id", "text"], filter=ds.field("id").isin(duplicates.column("max_id").unique()))
    kept_text = dict(zip(kept.column("id").to_pylist(), kept.column("text").to_pylist(), strict=True))

    closest = {}  # one pair for each kept row, or ten copies of one text would fill the list
    for pair in duplicates.to_pylist():
        closest.setdefault(pair["max_id"], pair)
    pairs = list(closest.values())
    different = [pair for pair in pairs if pair["text"] != kept_text[pair["max_id"]]]
    for title, chosen in (("closest duplicate pairs", pairs), ("closest whose texts differ", different)):
        print(f"\nThe {number} {title}:")
        for pair in chosen[:number]:
            print(f"\n{pair['cosine_sim_score']:.6f}  {pair['id']}: {pair['text']}")
            print(f"{'is like':>8}  {pair['max_id']}: {kept_text[pair['max_id']]}")
    print(f"\nAll {duplicates.num_rows} pairs are in {summary['paths']['duplicates']}")


if __name__ == "__main__":
    main(sys.argv[1])
