"""The command line of ``spark-submit``, read as Spark reads it.

Options, their aliases and ``--option=value`` are those of Spark's ``SparkSubmitOptionParser`` in
3.1 to 4.3. As in ``SparkSubmitArguments`` an option wins over ``--conf``, and the last ``--conf``
over those before it. All but the class, the user and the words of the job become properties, so
that they need not stand on the command line of Java.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Sequence  # noqa: UP035 - Python 3.8

from .stop import REFUSED, Stop

_PROPERTY = {
    "--archives": "spark.archives",
    "--deploy-mode": "spark.submit.deployMode",
    "--driver-class-path": "spark.driver.extraClassPath",
    "--driver-cores": "spark.driver.cores",
    "--driver-java-options": "spark.driver.extraJavaOptions",
    "--driver-library-path": "spark.driver.extraLibraryPath",
    "--driver-memory": "spark.driver.memory",
    "--exclude-packages": "spark.jars.excludes",
    "--executor-cores": "spark.executor.cores",
    "--executor-memory": "spark.executor.memory",
    "--files": "spark.files",
    "--jars": "spark.jars",
    "--keytab": "spark.kerberos.keytab",
    "--master": "spark.master",
    "--name": "spark.app.name",
    "--num-executors": "spark.executor.instances",
    "--packages": "spark.jars.packages",
    "--principal": "spark.kerberos.principal",
    "--py-files": "spark.submit.pyFiles",
    "--queue": "spark.yarn.queue",
    "--repositories": "spark.jars.repositories",
    "--total-executor-cores": "spark.cores.max",
}
_OTHERS = ("--conf", "--class", "--properties-file", "--proxy-user", "--hiveconf")
_FLAGS = {"--verbose", "--supervise", "--load-spark-defaults"}
_ALIASES = {"-c": "--conf", "-v": "--verbose", "-h": "--help"}
_NO_JOB = {
    *("--help", "--version", "--usage-error", "--kill", "--status", "--remote"),
    *("--extra-properties-file", "--driver-default-class-path"),
}
_NAME = re.compile(r"--?[A-Za-z][A-Za-z0-9-]{0,40}")


class Submission(NamedTuple):
    """What a command line of ``spark-submit`` says.

    Attributes:
        conf: properties that options and ``--conf`` set.
        main_class: of the job, None if not said.
        proxy_user: for whom it runs, None if not said.
        resource: the job's jar (or script), None if not said.
        arguments: of the job.
    """

    conf: dict[str, str]
    main_class: str | None
    proxy_user: str | None
    resource: str | None
    arguments: tuple[str, ...]

    def __repr__(self) -> str:
        """Nothing of it: properties and arguments may hold secrets."""
        return "Submission(…)"


def parse_submit(args: Sequence[str]) -> Submission:
    """Read a command line of ``spark-submit``, without the word itself.

    ``--properties-file`` is only skipped: what the file says comes in the request. ``--verbose``
    is, too, as Spark then prints all properties; ``--supervise`` means nothing in client mode.
    ``--hiveconf x=y``, which the Thrift server's script takes, is the property ``spark.hadoop.x``.

    Raises:
        Stop: an option that is not known, has no value, or starts no job.
    """
    options: dict[str, str] = {}
    conf: dict[str, str] = {}
    others: dict[str, str] = {}
    position = 0
    while position < len(args) and args[position].startswith("-"):
        option, value = _option(args[position])
        position += 1
        if option in _FLAGS:
            continue
        if value is None:
            if position == len(args):
                raise Stop(REFUSED, f"{option} has no value: write {option} VALUE")
            value = args[position]
            position += 1
        if option in ("--conf", "--hiveconf"):
            name, value = _assignment(option, value)
            conf[name] = value
        elif option in _PROPERTY:
            options[_PROPERTY[option]] = value
        else:
            others[option] = value
    rest = args[position:]
    return Submission(
        {**conf, **options},
        others.get("--class"),
        others.get("--proxy-user"),
        rest[0] if rest else None,
        tuple(rest[1:]),
    )


def _option(word: str) -> tuple[str, str | None]:
    """Split ``--option=value``; give the option's full name, and refuse what is none."""
    name, equals, value = word.partition("=")
    if not name.startswith("--") or not value:
        name, equals = word, ""
    name = _ALIASES.get(name, name)
    if name in _NO_JOB:
        raise Stop(REFUSED, f"{name} starts no job here: name a class and a jar")
    if name not in _PROPERTY and name not in _OTHERS and name not in _FLAGS:
        known = name if _NAME.fullmatch(name) else "an option"
        raise Stop(REFUSED, f"{known}: spark-submit has no such option")
    return name, value if equals else None


def _assignment(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise Stop(REFUSED, f"{option} is not followed by NAME=VALUE")
    return (name if option == "--conf" else f"spark.hadoop.{name}"), value
