"""The variables of Spark's roles: which of the host's count, and what the JVM's environment is.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import os
import re

from .launch import Launch, Product
from .request import Request
from .spark_conf import has_secret
from .spark_table import ATTRIBUTE, NUMBERED, PASSWORDS, TEXT, variables
from .stop import REFUSED, UNUSABLE, Stop

_LONGEST = 1 << 16
"""Characters. The forms of variables are the module's own: none of them is slow."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,80}")
_POD_ENV = {"executor": "spark.executorEnv.", "driver": "spark.kubernetes.driverEnv."}
_PASSED = {
    *("SPARK_USER", "SPARK_APPLICATION_ID", "SPARK_DRIVER_POD_IP", "SPARK_EXECUTOR_POD_IP"),
    *("SPARK_EXECUTOR_POD_NAME", *PASSWORDS),
}


def checked(spec: Launch, request: Request) -> Request:
    """Check the request's variables and add those that are sealed for the role's pods.

    Sealed for executors are ``spark.executorEnv.X``, for drivers ``spark.kubernetes.driverEnv.X``
    of the launch specification. Java options of executors are not checked here.

    Raises:
        Stop: under strict, a variable that is not known or has not the form that is allowed.
    """
    sealed = sealed_env(spec, request.role)
    if spec.profile == "strict":
        for name in sorted(request.env):
            _check(spec, request, sealed, name)
    return request._replace(env={**request.env, **sealed})


def sealed_env(spec: Launch, role: str) -> dict[str, str]:
    """Give the variables that the launch specification's properties set for a role's pods."""
    prefix = _POD_ENV.get(role)
    if prefix is None:
        return {}
    return {
        name[len(prefix) :]: value for name, value in spec.conf.items() if name.startswith(prefix)
    }


def _check(spec: Launch, request: Request, sealed: dict[str, str], name: str) -> None:
    value = request.env[name]
    shown = name if _NAME.fullmatch(name) else "a variable whose name cannot be printed"
    if name in sealed:
        if value != sealed[name]:
            raise Stop(REFUSED, f"{shown}: sealed in this image with another value; leave it out")
        return
    if request.role == "executor" and NUMBERED.fullmatch(name):
        return
    if request.role == "executor" and name == "SPARK_CLASSPATH":
        if value != spec.conf.get("spark.executor.extraClassPath"):
            raise Stop(REFUSED, f"{shown}: the class path of executors is sealed in this image")
        return
    form = variables(request.role).get(name)
    if form is None and ATTRIBUTE.fullmatch(name):
        form = TEXT
    if form is None:
        raise Stop(REFUSED, f"{shown}: this variable may not be set from outside")
    if len(value) > _LONGEST or re.fullmatch(form, value, re.ASCII) is None:
        raise Stop(REFUSED, f"{shown}: refused, its value does not have the form that is allowed")


def user_name() -> str:
    """Give the name of the user that runs this, which Java and Hadoop go by.

    Raises:
        Stop: the user has none.
    """
    import pwd  # only here: other roles do without

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise Stop(
            UNUSABLE,
            f"user {os.geteuid()} has no line in /etc/passwd, and Hadoop does not start without: "
            "add one, or run as a user that has",
        ) from None


def environment(
    spec: Launch, spark: Product, request: Request, local_ip: str, local_dirs: str
) -> dict[str, str]:
    """Make the JVM's environment, besides that of the launch specification.

    Under compat the host's variables are all in it, under strict those alone that Spark reads and
    that choose no code, file or protection.

    Args:
        spec: the launch specification; its Java is named, too.
        spark: its Spark.
        request: with checked variables.
        local_ip: the address that Spark takes for its own: Gramine cannot list interfaces.
        local_dirs: Spark's local directories; this variable wins over ``spark.local.dir``.
    """
    sealed = sealed_env(spec, request.role)
    env = {name: value for name, value in request.env.items() if not NUMBERED.fullmatch(name)}
    if spec.profile == "strict":
        env = {
            name: value
            for name, value in env.items()
            if name in _PASSED or name in sealed or ATTRIBUTE.fullmatch(name)
        }
    env.setdefault("SPARK_USER", user_name())  # or Hadoop asks for the groups of the user too early
    env["SPARK_HOME"] = spark.home
    env["SPARK_LOCAL_IP"] = local_ip
    env["SPARK_LOCAL_DIRS"] = local_dirs
    if spec.java is not None:
        env["JAVA_HOME"] = spec.java.home
    return env


def executor_secret(spec: Launch, request: Request) -> dict[str, str]:
    """Give the variable by which an executor gets the secret of authentication, if there is one.

    It is ``_SPARK_AUTH_SECRET``, which Spark's driver puts into the pod, or else
    ``SPARK_AUTHENTICATE_SECRET``, which the seeds' pods get from a Kubernetes Secret. Spark takes
    it before any file, so it may not replace what is sealed.

    Raises:
        Stop: under strict, the secret is sealed and the host brings another.
    """
    given = request.env.get("_SPARK_AUTH_SECRET")
    if has_secret(spec.conf):
        if given is None or given == spec.conf.get("spark.authenticate.secret"):
            return {}
        if spec.profile == "strict":
            raise Stop(REFUSED, "_SPARK_AUTH_SECRET: where the secret comes from is sealed")
    given = given or request.env.get("SPARK_AUTHENTICATE_SECRET")
    return {"_SPARK_AUTH_SECRET": given} if given else {}
