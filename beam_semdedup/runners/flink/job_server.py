"""Beam's job server for Flink, a Java program in one large jar, found, fetched or built.

`python -m beam_semdedup.runners.flink.job_server [1.20]` has the jar ready ahead of the first run.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from apache_beam.utils.subprocess_server import JavaHelper, JavaJarServer
from apache_beam.version import __version__ as beam_version

from beam_semdedup.errors import InputError
from beam_semdedup.runners.flink.settings import FlinkConfig

_LOG = logging.getLogger(__name__)
_GROUP = "org.apache.beam"
_MAVEN_SECONDS = 900
_BUILT_VERSION = "1.20"
"""The version of Flink that the project in `launch/flink/job-server` builds a job server for."""


def java() -> str:
    """Returns the Java launcher: that of JAVA_HOME, or the one that is found in PATH.

    Raises:
        InputError: there is none.
    """
    found = shutil.which(JavaHelper.get_java())
    if found is None:
        home = os.environ.get("JAVA_HOME")
        where = f"JAVA_HOME={home} has no bin/java" if home else "there is no java in PATH"
        raise InputError(f"runner=flink needs Java 11 or 17: {where}; install it, or use another runner")
    return found


def check(config: FlinkConfig) -> None:
    """Checks, before anything is done, what can be known of Java and the jar.

    Raises:
        InputError: there is no Java, or no file where `flink_job_server_jar` says.
    """
    java()
    jar = config.flink_job_server_jar
    if jar and "://" not in jar and not Path(jar).is_file():
        raise InputError(f"runner.flink_job_server_jar={jar}: there is no such file")


def find(config: FlinkConfig) -> str:
    """Returns the path of the jar: that of the configuration or of a local cache, else Beam's, fetched, or one built.

    Raises:
        InputError: it is neither found, fetched nor built; the message names what was tried.
    """
    check(config)
    if config.flink_job_server_jar:
        return _downloaded(config.flink_job_server_jar)
    version = config.flink_version
    found = local(version)
    if found:
        return str(found)
    _LOG.info("Fetching Beam's job server for Flink %s (350 MB, once)", version)
    failures = []
    for way in (_from_maven, _from_beam, _built):
        try:
            return way(version)
        except (InputError, OSError) as error:
            failures.append(str(error))
    looked = "\n  ".join([*(f"{path}: not there" for path in _places(version)), *failures])
    raise InputError(
        f"Beam's job server for Flink {version} is neither found, fetched nor built; give its path as "
        f"runner.flink_job_server_jar. Tried:\n  {looked}"
    )


def local(version: str) -> Path | None:
    """Returns the path of the jar in Beam's cache or the local Maven repository; None where it is in neither."""
    return next((path for path in _places(version) if path.is_file()), None)


def _places(version: str) -> list[Path]:
    artifact, name = _artifact(version), f"{_artifact(version)}-{beam_version}.jar"
    repository = Path.home() / ".m2" / "repository"
    cache = Path(JavaJarServer.JAR_CACHE)
    official = [cache / name, Path(repository, *_GROUP.split("."), artifact, beam_version, name)]
    return [*official, _place_of_built()] if version == _BUILT_VERSION else official


def _artifact(version: str) -> str:
    return f"beam-runners-flink-{version}-job-server"


def _project() -> Path:
    """Says where the Maven project of a job server lies: packaged with a wheel, else in the checkout's `launch/`."""
    here = Path(__file__).parent
    places = (here / "pom.xml", here.parents[2] / "launch" / "flink" / "job-server" / "pom.xml")
    return next(place for place in places if place.is_file())


def _place_of_built() -> Path:
    """Says where the jar that is built lies; another project gives another."""
    content = hashlib.sha256(_project().read_bytes()).hexdigest()[:8]
    return Path(JavaJarServer.JAR_CACHE, f"semdedup-flink-{_BUILT_VERSION}-job-server-{content}.jar")


def _from_maven(version: str) -> str:
    coordinates = f"{_GROUP}:{_artifact(version)}:{beam_version}"
    _run_maven("dependency:get", f"-Dartifact={coordinates}", "-Dtransitive=false")
    found = local(version)
    if found is None:
        raise InputError(f"Maven: {coordinates} was fetched, but not into {Path.home() / '.m2'}")
    return str(found)


def _built(version: str) -> str:
    if version != _BUILT_VERSION:
        raise InputError(f"a build of our own: it is for Flink {_BUILT_VERSION}")
    _LOG.info("Building a job server for Flink %s from Beam's artifacts (a minute, once)", version)
    place = _place_of_built()
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=place.parent) as directory:
        shutil.copy(_project(), Path(directory, "pom.xml"))
        _run_maven("package", "-f", directory)
        Path(directory, "target", "job-server.jar").replace(place)
    return str(place)


def _run_maven(*arguments: str) -> None:
    """Runs Maven to its end; InputError, with what it said first, where it fails."""
    maven = shutil.which("mvn")
    if maven is None:
        raise InputError("Maven: there is no mvn in PATH")
    command = [maven, "-B", "-q", *arguments]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_MAVEN_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{' '.join(command)}: not done in {_MAVEN_SECONDS} s") from error
    if ended.returncode:
        said = [line for line in (ended.stdout + ended.stderr).splitlines() if "ERROR" in line]
        raise InputError("\n    ".join([f"{' '.join(command)}: exit code {ended.returncode}", *said[:2]]))


def _from_beam(version: str) -> str:
    return _downloaded(JavaJarServer.path_to_beam_jar(f":runners:flink:{version}:job-server:shadowJar"))


def _downloaded(place: str) -> str:
    """Returns a path as it is, and for a URL the path in Beam's cache that its file is downloaded to."""
    try:
        return JavaJarServer.local_jar(place)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{place}: {error}") from error


def main() -> None:
    """Fetches or builds the jar for the version that is given, and prints its path."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    _LOG.setLevel(logging.INFO)
    version = sys.argv[1] if len(sys.argv) > 1 else FlinkConfig.flink_version
    try:
        print(find(FlinkConfig(flink_version=version)))  # type: ignore[arg-type]
    except ValueError as error:  # an InputError, or what pydantic says of the version
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
