"""The roles ``driver``, ``submit`` and ``thrift``: a JVM that runs SparkSubmit in client mode.

All properties go into a file that only this user may read; on the command line stand the class, the
jar and the words of the job.

Python 3.8, standard library, nothing else of this package.
"""

# Loading pathlib costs start-up time in an enclave.
# ruff: noqa: PTH208
from __future__ import annotations

import os
import re

from .command import FOLDER, Command
from .java import split_options
from .launch import LONGEST_VALUE, Launch, Product
from .place import Place
from .properties import write_properties
from .request import Request
from .spark_args import Submission, parse_submit
from .spark_conf import GROUPS, check_jar, host_conf, no_process, storage, with_additions
from .spark_env import environment
from .spark_java import class_path, heap, java_argv, parts, say, without_secrets
from .spark_pods import access, for_executors
from .spark_table import USER
from .stop import REFUSED, UNUSABLE, Stop

PROPERTIES_FILE = f"{FOLDER}/spark.properties"
THRIFT_CLASS = "org.apache.spark.sql.hive.thriftserver.HiveThriftServer2"
THRIFT_NAME = "Thrift JDBC/ODBC Server"
MOST_PROCESSORS = 16
"""A driver sees no more of a machine's processors than this: the JVM's threads grow with them, and
an enclave has a fixed number."""

NO_PYTHON = (
    "Python and R jobs do not run here: their workers are processes that the JVM would have to "
    "start; run a JVM job, or the role thrift with a Python client"
)
_NO_JVM_JOB = re.compile(r".*\.(?:py|R|r)|(?:pyspark|sparkr)-shell", re.DOTALL)
_RUNNERS = ("org.apache.spark.deploy.PythonRunner", "org.apache.spark.deploy.RRunner")
_SUBMIT = "org.apache.spark.deploy.SparkSubmit"
_LOCAL = re.compile(r"local\[([0-9]{1,5}|\*)(?:,[0-9]+)?\]")
_THRIFT_JAR = re.compile(r"spark-hive-thriftserver_[0-9.]+-[A-Za-z0-9.-]+\.jar")
_OPTIONS = ("spark.driver.defaultJavaOptions", "spark.driver.extraJavaOptions")


def compose_driver(spec: Launch, request: Request, place: Place) -> Command:
    """Make the command of a driver.

    Args:
        spec: the launch specification.
        request: the launch request, its variables checked.
        place: where it runs.

    Raises:
        Stop: something is refused or missing.
    """
    java, spark = parts(spec)
    job = parse_submit(request.args)
    asked = {**request.conf, **job.conf}
    if request.role == "thrift":
        job = _thrift(spark, job)
        asked.update(_listening(request))
    _refuse_other_languages(job, asked)
    if request.role != "driver" and asked.get("spark.submit.deployMode") == "cluster":
        raise Stop(
            REFUSED,
            "deploy-mode cluster: refused, a client that makes the driver's pod needs no enclave; "
            "submit from outside, or take deploy-mode client",
        )
    host = host_conf(spec, asked)
    if spec.profile == "strict":
        _check_job(spec, request.role, job)
    reach = access(request, {**host, **spec.conf})
    host = {**host, **reach.conf, **_bound(request)}
    defaults = {
        **no_process(spark),
        **for_executors(spark, request, {**host, **spec.conf}, place),
        **_defaults(request),
    }
    conf = with_additions(spec, host, request, defaults)
    conf["spark.submit.deployMode"] = "client"
    options, files = without_secrets(_java_options(conf), java)
    files.update(reach.files)
    size = _heap(request, conf, place)
    threads = request.env.get("NETTY_THREAD", "")
    argv = java_argv(spec, place, options, size, _processors(conf), threads)
    argv += ["-cp", _class_path(spec, spark, request, conf), *_submit(request, job, conf)]
    files[PROPERTIES_FILE] = _written(conf)
    local_ip = _local_ip(request, conf)
    env = environment(spec, spark, request, local_ip, conf["spark.local.dir"])
    _warn(spec, conf)
    return Command(tuple(argv), env, files, storage(conf))


def _refuse_other_languages(job: Submission, asked: dict[str, str]) -> None:
    kind = asked.get("spark.kubernetes.resource.type", "java")
    if (
        _NO_JVM_JOB.fullmatch(job.resource or "")
        or job.main_class in _RUNNERS
        or kind in ("python", "r")
    ):
        raise Stop(REFUSED, NO_PYTHON)


def _thrift(spark: Product, job: Submission) -> Submission:
    """Complete a submission of the Thrift server: its class and jar, and no other."""
    jar = f"local://{thrift_jar(spark)}"
    if job.main_class not in (None, THRIFT_CLASS):
        raise Stop(REFUSED, f"thrift runs {THRIFT_CLASS} and no other class")
    if job.arguments or job.resource not in (None, jar, "spark-internal"):
        raise Stop(REFUSED, "thrift takes options alone, neither another jar nor other words")
    return job._replace(main_class=THRIFT_CLASS, resource=jar)


def _listening(request: Request) -> dict[str, str]:
    """Give the properties for the variables by which Hive is told where to listen."""
    variables = {"port": "HIVE_SERVER2_THRIFT_PORT", "bind.host": "HIVE_SERVER2_THRIFT_BIND_HOST"}
    return {
        f"spark.hadoop.hive.server2.thrift.{name}": request.env[variable]
        for name, variable in variables.items()
        if request.env.get(variable)  # Hive lets them win over its configuration
    }


def _bound(request: Request) -> dict[str, str]:
    address = request.env.get("SPARK_DRIVER_BIND_ADDRESS")
    return {"spark.driver.bindAddress": address} if address else {}


def _defaults(request: Request) -> dict[str, str]:
    """Give what a role has by default: the Thrift server's name and address, a client's address."""
    added = {}
    if request.role == "thrift":
        # Without an address Hive asks for the machine's own name, which need not be known inside.
        listen = request.env.get("SPARK_LOCAL_IP") or "0.0.0.0"  # noqa: S104 - a server
        added["spark.app.name"] = THRIFT_NAME
        added["spark.hadoop.hive.server2.thrift.bind.host"] = listen
    if request.role != "driver" and request.env.get("LOCAL_IP"):
        added["spark.driver.host"] = request.env["LOCAL_IP"]  # as the seeds' submit script does
    return added


def thrift_jar(spark: Product) -> str:
    """Give the path of the Thrift server's jar, whose name has Scala's and Spark's version.

    Raises:
        Stop: there is none, or there are several.
    """
    folder = f"{spark.home}/jars"
    try:
        names = [name for name in os.listdir(folder) if _THRIFT_JAR.fullmatch(name)]
    except OSError as error:
        raise Stop(UNUSABLE, f"{folder}: {error.strerror}") from None
    if len(names) != 1:
        many = "several" if names else "no"
        raise Stop(UNUSABLE, f"{folder}: there is {many} spark-hive-thriftserver_*.jar")
    return f"{folder}/{names[0]}"


def _check_job(spec: Launch, role: str, job: Submission) -> None:
    """Refuse what the launch specification does not name: class, jar, words of the job."""
    if job.proxy_user is not None and not re.fullmatch(USER, job.proxy_user, re.ASCII):
        raise Stop(REFUSED, "--proxy-user: refused, it is not a name of a user")
    if role == "thrift":
        return
    if job.main_class is None:
        raise Stop(REFUSED, "--class is missing: name one of the classes sealed in this image")
    if job.main_class not in spec.classes:
        raise Stop(REFUSED, "--class: this class is none of those sealed in this image")
    if job.resource is not None:
        check_jar(spec, job.resource, "the job's jar")
    if job.arguments and spec.arguments is None:
        raise Stop(REFUSED, "the job takes no arguments: this image seals none")
    for place, word in enumerate(job.arguments, 1):
        form = spec.arguments
        if form is None or len(word) > LONGEST_VALUE or form.fullmatch(word) is None:
            raise Stop(
                REFUSED, f"argument {place} of the job: refused, it does not match the sealed form"
            )


def _java_options(conf: dict[str, str]) -> list[str]:
    """Give Java's options from the properties: in client mode Spark's scripts apply them."""
    words = [word for name in _OPTIONS for word in split_options(name, conf.get(name, ""))]
    library = conf.get("spark.driver.extraLibraryPath")
    if library:
        words.insert(0, f"-Djava.library.path={library}")
    # Derby writes its log into the working folder otherwise.
    own = ["-Dderby.stream.error.file=/tmp/derby.log", f"-D{GROUPS}={conf[GROUPS]}"]
    return [*own, *words]


def _heap(request: Request, conf: dict[str, str], place: Place) -> int:
    env = request.env
    sgx = "spark.kubernetes.sgx.driver.jvm.mem"
    return heap(
        (
            ("SGX_DRIVER_JVM_MEM_SIZE", env.get("SGX_DRIVER_JVM_MEM_SIZE"), ""),
            (sgx, conf.get(sgx), ""),
            ("spark.driver.memory", conf.get("spark.driver.memory"), "m"),
            ("SPARK_DRIVER_MEMORY", env.get("SPARK_DRIVER_MEMORY"), "m"),
        ),
        place,
    )


def _processors(conf: dict[str, str]) -> int:
    """Give how many processors a driver may see: its tasks' in local mode, else its cores."""
    master = conf.get("spark.master", "local[*]")
    found = _LOCAL.fullmatch(master)
    if found is None:
        cores = conf.get("spark.driver.cores", "")
        count = int(cores) if cores.isdecimal() else 1
    else:
        count = os.cpu_count() or 1 if found[1] == "*" else int(found[1])
    return max(2, min(count, MOST_PROCESSORS))


def _class_path(spec: Launch, spark: Product, request: Request, conf: dict[str, str]) -> str:
    before = conf.get("spark.driver.extraClassPath", "")
    folder = f"{spark.home}/conf"
    if spec.profile == "strict":
        return class_path(spark, folder, before)
    env = request.env
    before = ":".join(filter(None, (before, env.get("HADOOP_CONF_DIR"))))
    names = ("SPARK_CLASSPATH", "SPARK_EXTRA_CLASSPATH", "SPARK_DIST_CLASSPATH")
    after = ":".join(filter(None, map(env.get, names)))
    return class_path(spark, env.get("SPARK_CONF_DIR", folder), before, after)


def _submit(request: Request, job: Submission, conf: dict[str, str]) -> list[str]:
    """Give SparkSubmit and what stands after it."""
    if job.resource is None:
        raise Stop(REFUSED, "no jar: name the job's jar after the options")
    argv = [_SUBMIT, "--deploy-mode", "client"]
    if request.role == "driver" and "spark.driver.bindAddress" in conf:
        argv += ["--conf", f"spark.driver.bindAddress={conf['spark.driver.bindAddress']}"]
    argv += ["--properties-file", PROPERTIES_FILE]
    if job.proxy_user is not None:
        argv += ["--proxy-user", job.proxy_user]
    if job.main_class is not None:
        argv += ["--class", job.main_class]
    return [*argv, job.resource, *job.arguments]


def _written(conf: dict[str, str]) -> bytes:
    try:
        return write_properties(conf)
    except ValueError as error:
        raise Stop(REFUSED, f"a property: {error}") from None


def _local_ip(request: Request, conf: dict[str, str]) -> str:
    variables = map(request.env.get, ("SPARK_LOCAL_IP", "LOCAL_IP"))
    for address in (conf.get("spark.driver.bindAddress"), *variables):
        if address and address not in ("0.0.0.0", "::", "[::]"):  # noqa: S104 - not to bind
            return address
    return "127.0.0.1"


def _warn(spec: Launch, conf: dict[str, str]) -> None:
    remote = not conf.get("spark.master", "local").startswith("local")
    if spec.profile == "strict" and remote and spec.conf.get("spark.authenticate") != "true":
        say(
            "warning: spark.authenticate is not sealed as true: whoever reaches this driver is "
            "taken for its executor"
        )
