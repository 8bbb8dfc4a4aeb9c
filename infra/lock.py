"""Write the lock files again: ``python -m infra.lock [python|jars|peers]``; the first and the last need ``uv`` on PATH (or named by UV).

The runtime dependencies of Kafka are listed here once per Kafka version, as ``mvn dependency:list`` resolves them; Flink's and the
registry's archives are self-contained.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from infra.jars import LOCK_FILE, Jar, repository_url
from infra.peers_environment import JARS_LOCK, PEERS_LOCK, SAME_AS_OURS
from infra.settings import REPO_ROOT

__all__ = ["main"]

_REQUIREMENTS = REPO_ROOT / "infra" / "requirements.lock"

_KAFKA = "4.2.1"
_ARTIFACTS = {
    "kafka": [
        *(
            f"org.apache.kafka:{name}:{_KAFKA}"
            for name in (
                "kafka_2.13", "kafka-clients", "kafka-coordinator-common", "kafka-group-coordinator", "kafka-group-coordinator-api",
                "kafka-metadata", "kafka-raft", "kafka-server", "kafka-server-common", "kafka-share-coordinator", "kafka-storage",
                "kafka-storage-api", "kafka-tools-api", "kafka-transaction-coordinator",
            )
        ),
        "at.yawk.lz4:lz4-java:1.10.1",
        "com.dynatrace.hash4j:hash4j:0.22.0",
        "com.fasterxml.jackson.core:jackson-annotations:2.21",
        "com.fasterxml.jackson.core:jackson-core:2.21.2",
        "com.fasterxml.jackson.core:jackson-databind:2.21.2",
        "com.fasterxml.jackson.dataformat:jackson-dataformat-csv:2.21.2",
        "com.fasterxml.jackson.dataformat:jackson-dataformat-yaml:2.21.2",
        "com.fasterxml.jackson.datatype:jackson-datatype-jdk8:2.21.2",
        "com.github.ben-manes.caffeine:caffeine:3.2.0",
        "com.github.luben:zstd-jni:1.5.6-10",
        "com.google.re2j:re2j:1.8",
        "com.typesafe.scala-logging:scala-logging_2.13:3.9.6",
        "com.yammer.metrics:metrics-core:2.2.0",
        "commons-beanutils:commons-beanutils:1.11.0",
        "commons-collections:commons-collections:3.2.2",
        "commons-digester:commons-digester:2.1",
        "commons-logging:commons-logging:1.3.5",
        "commons-validator:commons-validator:1.10.1",
        "net.sf.jopt-simple:jopt-simple:5.0.4",
        "net.sourceforge.argparse4j:argparse4j:0.7.0",
        "org.apache.logging.log4j:log4j-api:2.25.4",
        "org.apache.logging.log4j:log4j-core:2.25.4",
        "org.bitbucket.b_c:jose4j:0.9.6",
        "org.hdrhistogram:HdrHistogram:2.2.2",
        "org.jspecify:jspecify:1.0.0",
        "org.pcollections:pcollections:4.0.2",
        "org.scala-lang:scala-library:2.13.17",
        "org.scala-lang:scala-reflect:2.13.17",
        "org.slf4j:slf4j-api:1.7.36",
        "org.xerial.snappy:snappy-java:1.1.10.7",
        "org.yaml:snakeyaml:2.5",
        "org.apache.logging.log4j:log4j-slf4j-impl:2.25.3",  # Kafka's own distribution adds it; without it nothing is logged
    ],
    "flink": [
        "org.apache.flink:flink-dstl-dfs:2.2.1",  # where the changelog state backend writes
        "org.apache.flink:flink-sql-connector-kafka:5.0.0-2.2",
    ],
    "registry": ["io.apicurio:apicurio-registry-app:3.0.9:tar.gz:all"],  # the newest that runs on Java 17
}  # fmt: skip

_SPARK = "4.0.0"
_PEER_ARTIFACTS = {
    "spark": [  # the connector and what it needs that pyspark's wheel does not carry
        f"org.apache.spark:spark-sql-kafka-0-10_2.13:{_SPARK}",
        f"org.apache.spark:spark-token-provider-kafka-0-10_2.13:{_SPARK}",
        "org.apache.kafka:kafka-clients:3.9.0",
        "org.apache.commons:commons-pool2:2.12.0",
    ]
}


def lock_python() -> None:
    """Resolve pyproject.toml for every supported Python and platform, with hashes and without index addresses."""
    _compile(["--extra", "dev", "pyproject.toml"], _REQUIREMENTS)


def lock_peers() -> None:
    """Resolve the dependency group ``peers`` beside our lock: what computes is the same version in both."""
    ours = re.findall(r"^([A-Za-z0-9._-]+)(==\S+(?: ; [^\\\n]+)?)", _REQUIREMENTS.read_text(encoding="utf-8"), re.MULTILINE)
    with TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("".join(f"{name}{pin}\n" for name, pin in ours if name in SAME_AS_OURS), encoding="utf-8")
        _compile(["--group", "peers", "--constraints", str(constraints)], PEERS_LOCK)
    _write_jars(_PEER_ARTIFACTS, JARS_LOCK, "peers")


def _compile(what: Sequence[str], lock: Path) -> None:
    uv = os.environ.get("UV", "uv")
    options = [
        "--universal",
        "--python-version",
        "3.11",
        "--generate-hashes",
        "--no-annotate",
        "--no-header",
        "--native-tls",
        "--quiet",
    ]
    command = [uv, "pip", "compile", *options, *what, "--output-file", str(lock)]
    subprocess.run(command, cwd=REPO_ROOT, check=True)


def lock_jars() -> None:
    """Download every artifact once and write its size and SHA-256."""
    _write_jars(_ARTIFACTS, LOCK_FILE, "jars")


def _write_jars(parts: Mapping[str, Sequence[str]], lock: Path, command: str) -> None:
    root = repository_url()
    lines = [f"# part coordinates size sha256; written by python -m infra.lock {command}"]
    for part, artifacts in parts.items():
        for coordinates in sorted(artifacts):
            path = Jar(part, coordinates, 0, "").repository_path
            with urllib.request.urlopen(f"{root}/{path}", timeout=120) as answer:  # noqa: S310 - configured repository
                content = answer.read()
            lines.append(f"{part} {coordinates} {len(content)} {hashlib.sha256(content).hexdigest()}")
    lock.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    """Write the locks, or the ones named."""
    wanted = list(arguments) or ["python", "jars", "peers"]
    if "python" in wanted:
        lock_python()
    if "jars" in wanted:
        lock_jars()
    if "peers" in wanted:
        lock_peers()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
