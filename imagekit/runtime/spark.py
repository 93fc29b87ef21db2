"""Spark's roles: what the container was asked for becomes the command of a JVM.

| role | what runs |
|---|---|
| ``driver`` | what Spark on Kubernetes passes to a driver's pod: SparkSubmit in client mode |
| ``executor`` | an executor of Spark on Kubernetes, all from variables |
| ``submit`` | SparkSubmit with its own options, in local or client mode |
| ``thrift`` | the Thrift server, with SparkSubmit's options |

No shell, no script of Spark's and no process besides the JVM takes part; secrets reach it by a file
or its environment.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

from .command import Command
from .launch import SPARK_ROLES, Launch
from .place import Place
from .request import Request
from .spark_env import checked
from .spark_java import parts
from .stop import REFUSED, Stop


def compose(spec: Launch, request: Request, place: Place) -> Command:
    """Make the command of one of Spark's roles.

    Touches nothing; looks at the listing of Spark's jars and the user's name alone. Notes for the
    user go to standard error.

    Args:
        spec: the launch specification.
        request: the launch request; its variables are those that the role has to account for.
        place: where it runs.

    Raises:
        Stop: something is refused, missing or does not fit; the line holds no value from outside.
    """
    if request.role in ("driver-py", "driver-r"):
        from .spark_driver import NO_PYTHON

        raise Stop(REFUSED, NO_PYTHON)
    if request.role not in SPARK_ROLES:
        raise Stop(REFUSED, f"this is no role of Spark: {', '.join(SPARK_ROLES)} are")
    if spec.profile == "strict" and request.role not in spec.roles:
        raise Stop(REFUSED, f"the role {request.role} is not part of this image")
    parts(spec)
    request = checked(spec, request)
    if request.role == "executor":  # what only one of the two needs is loaded for that one
        from .spark_executor import compose_executor

        return compose_executor(spec, request, place)
    from .spark_driver import compose_driver

    return compose_driver(spec, request, place)
