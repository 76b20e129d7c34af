"""Beam's job server for Flink: a Java program in one jar of 350 MB, which is found on this machine or fetched.

`python -m beam_semdedup.runners.flink.job_server [1.20]` fetches it ahead of the first run.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

from apache_beam.utils.subprocess_server import JavaHelper, JavaJarServer
from apache_beam.version import __version__ as beam_version

from beam_semdedup.config.groups import FlinkConfig
from beam_semdedup.errors import InputError

_LOG = logging.getLogger(__name__)
_GROUP = "org.apache.beam"
_MAVEN_SECONDS = 900


def java() -> str:
    """The Java launcher: that of JAVA_HOME, or the one that is found in PATH.

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
    """The path of the jar: that of the configuration, of a local cache, of Maven, or downloaded by Beam.

    Raises:
        InputError: it is neither found nor fetched; the message names what was tried.
    """
    check(config)
    if config.flink_job_server_jar:
        return _downloaded(config.flink_job_server_jar)
    found = local(config.flink_version)
    if found:
        return str(found)
    _LOG.info("Fetching Beam's job server for Flink %s (350 MB, once)", config.flink_version)
    failures = []
    for way in (_from_maven, _from_beam):
        try:
            return way(config.flink_version)
        except (InputError, OSError) as error:
            failures.append(str(error))
    looked = "\n  ".join([*(f"{path}: not there" for path in _places(config.flink_version)), *failures])
    raise InputError(
        f"Beam's job server for Flink {config.flink_version} is neither found nor fetched; give its path as "
        f"runner.flink_job_server_jar. Tried:\n  {looked}"
    )


def local(version: str) -> Path | None:
    """The jar where it is on this machine already, in Beam's cache or the local Maven repository."""
    return next((path for path in _places(version) if path.is_file()), None)


def _places(version: str) -> list[Path]:
    artifact, name = _artifact(version), f"{_artifact(version)}-{beam_version}.jar"
    repository = Path.home() / ".m2" / "repository"
    return [Path(JavaJarServer.JAR_CACHE, name), Path(repository, *_GROUP.split("."), artifact, beam_version, name)]


def _artifact(version: str) -> str:
    return f"beam-runners-flink-{version}-job-server"


def _from_maven(version: str) -> str:
    maven = shutil.which("mvn")
    if maven is None:
        raise InputError("Maven: there is no mvn in PATH")
    coordinates = f"{_GROUP}:{_artifact(version)}:{beam_version}"
    command = [maven, "-B", "-q", "dependency:get", f"-Dartifact={coordinates}", "-Dtransitive=false"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_MAVEN_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{' '.join(command)}: not done in {_MAVEN_SECONDS} s") from error
    found = local(version)
    if ended.returncode or found is None:
        said = [line for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
        raise InputError("\n    ".join([f"{' '.join(command)}: exit code {ended.returncode}", *said[:5]]))
    return str(found)


def _from_beam(version: str) -> str:
    return _downloaded(JavaJarServer.path_to_beam_jar(f":runners:flink:{version}:job-server:shadowJar"))


def _downloaded(place: str) -> str:
    """A path as it is; the path in Beam's cache that a URL's file is downloaded to."""
    try:
        return JavaJarServer.local_jar(place)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{place}: {error}") from error


def main() -> None:
    """Fetches the jar for the version that is given, and prints its path."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    _LOG.setLevel(logging.INFO)
    version = sys.argv[1] if len(sys.argv) > 1 else FlinkConfig.flink_version
    try:
        print(find(FlinkConfig(flink_version=version)))  # type: ignore[arg-type]
    except ValueError as error:  # an InputError, or what pydantic says of the version
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
