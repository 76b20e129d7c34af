import subprocess
import sys

import pytest

from beam_semdedup.config.validation import resolve
from beam_semdedup.fit.model import FittedKMeans
from beam_semdedup.fit.registry import make_engine


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"name": "local"}, ["local", 1, None]),
        ({"name": "ray", "num_actors": 3, "num_cpus": 2}, ["ray", 3, None]),
        ({"name": "cuml"}, ["cuml", 1, None]),
        ({"name": "cuml", "device_buffer_samples": 5}, ["cuml", 1, 5]),
    ],
)
def test_the_keys_are_those_that_caches_have(settings, key):
    assert make_engine(resolve({"input_path": "in", "output_path": "out", "kmeans": settings})).depends_on() == key


def test_naming_the_engines_imports_none_of_what_they_fit_with():
    slow = {"apache_beam", "cuml", "cupy", "numpy", "ray"}
    code = f"import beam_semdedup.fit.registry, sys; print({slow} & sys.modules.keys())"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n"


def test_a_process_in_no_cluster_publishes_nothing_and_imports_no_ray():
    code = f"""
import sys
from beam_semdedup.fit.model import FittedKMeans
fitted = {FittedKMeans("/centroids.npy", "c0ffee")!r}
with fitted.published({{}}) as shared:
    print(shared == fitted, "ray" in sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "True False\n"
