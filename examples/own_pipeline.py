"""The transforms in a pipeline of your own: each stage with its own name.

python examples/own_pipeline.py examples/data /tmp/own-pipeline
"""

import sys

import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from beam_semdedup import (
    AssignCentroids,
    FitKMeans,
    IdentifyDuplicates,
    PairwiseSimilarity,
    SemanticDeduplicationWorkflow,
)


def main(input_path: str, output_path: str) -> None:
    """Runs the stages one by one and prints how many duplicates each output file has."""
    workflow = SemanticDeduplicationWorkflow(input_path=input_path, output_path=output_path, n_clusters=70, eps=0.05)
    plan = workflow.plan()
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        fitted = pipeline | FitKMeans(plan.job)
        units = pipeline | "List input" >> beam.Create(plan.units)
        segments = units | AssignCentroids(plan.job, fitted)  # references to files, never vectors
        compared = segments | PairwiseSimilarity(plan.job, fitted)
        duplicates = compared | IdentifyDuplicates(plan.job)
        _ = duplicates | beam.Map(lambda file: print(f"{file.duplicates} duplicates in {file.path}"))


if __name__ == "__main__":
    main(*sys.argv[1:])
