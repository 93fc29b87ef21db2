"""Flink's roles: what a launch request becomes.

| role | program |
|---|---|
| ``jobmanager`` | JobManager of a session cluster; on native Kubernetes also that of one job |
| ``standalone-job`` | JobManager of one job that is in the image |
| ``taskmanager`` | TaskManager |

Flink's scripts start many processes, which an enclave cannot have; this does their work: memory
(:mod:`.flink_memory`), class path and options of the JVM (:mod:`.flink_process`). All properties,
those of ``-D`` included, go into the configuration file, so that no secret is on the command line;
what Flink on Kubernetes hands on to its TaskManagers is then what it decided itself, not what its
own ``-D`` said. Only the options of the JVM and the arguments of ``standalone-job``'s job stay on
the command line: nothing secret belongs there.

Strict profile: properties follow :mod:`.flink_rules`, main class, jars and arguments of the job the
lists of ``launch.json``; without a main class Flink takes the one that the jar names, which is part
of the image. ``security.ssl.internal.enabled`` has to be ``true``, or whoever reaches the RPC port
has code run. A session cluster needs ``security.ssl.rest.enabled`` and
``security.ssl.rest.authentication-enabled`` as well: its REST port takes jobs as code, and
``web.submit.enable: false`` does not change that (``flink run`` of a client still gets through;
measured with Flink 1.16.3 and 1.20.5). With one job the port takes no other, but whoever reaches it
may cancel it or ask for a savepoint.

Compat profile: the host decides; only what cannot be understood is refused.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import re
from typing import Mapping  # noqa: UP035 - Python 3.8

from . import flink_conf, flink_memory, flink_process, flink_rules, java, kubernetes
from .command import TEMPORARY, Command
from .flink_args import APPLICATION, SESSION, TASK_MANAGER, Asked, parse_args
from .flink_host import check_variables, host_conf, pod_template
from .flink_job import check_job
from .launch import Launch
from .place import NATIVE, Place
from .request import Request
from .stop import REFUSED, Stop

_MAIN = {
    (SESSION, False): "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint",
    (SESSION, True): "org.apache.flink.kubernetes.entrypoint.KubernetesSessionClusterEntrypoint",
    (APPLICATION, False): (
        "org.apache.flink.container.entrypoint.StandaloneApplicationClusterEntryPoint"
    ),
    (APPLICATION, True): (
        "org.apache.flink.kubernetes.entrypoint.KubernetesApplicationClusterEntrypoint"
    ),
    (TASK_MANAGER, False): "org.apache.flink.runtime.taskexecutor.TaskManagerRunner",
    (TASK_MANAGER, True): "org.apache.flink.kubernetes.taskmanager.KubernetesTaskExecutorRunner",
}

_FOLDERS = (
    *("io.tmp.dirs", "process.working-dir", "process.jobmanager.working-dir"),
    *("process.taskmanager.working-dir", "blob.storage.directory", "web.tmpdir", "web.upload.dir"),
    *("taskmanager.state.local.root-dirs", "state.backend.rocksdb.localdir"),
    *("execution.checkpointing.local-backup.dirs", "rest.profiling.dir"),
)
"""Properties that name folders of this machine, several with a comma or colon."""
_ADDRESSES = (
    *("state.checkpoints.dir", "state.savepoints.dir", "high-availability.storageDir"),
    *("execution.checkpointing.dir", "execution.checkpointing.savepoint-dir"),
)
"""Properties that may name a folder of this machine."""
_TOTALS = ("process.size", "flink.size")


def compose(spec: Launch, request: Request, place: Place) -> Command:
    """Give the program of a role.

    Args:
        spec: the launch specification.
        request: with the variables that are Flink's alone.
        place: where this runs.

    Raises:
        Stop: the request asks for what it may not have or cannot have, or the image lacks
            something.
    """
    java_, flink = flink_process.parts(spec)
    asked = parse_args(request.role, request.args)
    check_variables(spec, request.env, asked)
    conf = flink_rules.merge(spec, host_conf(request, asked))
    check_job(spec, asked, conf, place)
    file_name = conf.pop(flink_conf.FILE_KEY, flink_conf.STANDARD)
    if flink.release < flink_conf.FIRST_STANDARD:
        file_name = flink_conf.LEGACY
    _settle(spec, asked, conf, request.env, place)
    memory = _memory(asked, conf, flink.release, place)
    options = _options(spec, asked, conf, request.env)
    conf.update(memory.properties)
    account = kubernetes.account(request.env) if asked.kubernetes else None
    processors = int(memory.properties.get("taskmanager.numberOfTaskSlots", "1"))
    argv = (
        java.program(java_),
        *_memory_flags(spec, asked, memory, request.env),
        *(("-XX:+UseG1GC",) if asked.kind == TASK_MANAGER and not options else ()),
        *flink_process.flags(java_, place, max(2, processors)),
        *options,
        "-classpath",
        flink_process.class_path(flink.home, flink_process.hadoop_path(spec)),
        _MAIN[asked.kind, asked.kubernetes],
        *_program_args(asked),
    )
    env = flink_process.environment(flink.home)
    env.update({name: value for name, value in request.env.items() if name.startswith("_POD_")})
    return Command(
        argv=argv,
        env={**env, **(account.env if account else {})},
        files={
            **_conf_file(conf, file_name),
            **(account.files if account else {}),
            **pod_template(spec, request, asked, place),
        },
        storage=_storage(conf),
    )


def _settle(
    spec: Launch, asked: Asked, conf: dict[str, str], env: Mapping[str, str], place: Place
) -> None:
    """Set what has to be so inside, and what would be looked up where nothing can be looked up."""
    own = env.get("_POD_IP_ADDRESS") or env.get("LOCAL_IP")
    conf["taskmanager.network.netty.transport"] = "nio"  # epoll needs timers that Gramine lacks
    conf.setdefault("io.tmp.dirs", TEMPORARY)  # Flink wants a folder that exists
    if asked.kind == TASK_MANAGER:
        _set_if(conf, "taskmanager.host", own)
        conf.setdefault("taskmanager.bind-host", "0.0.0.0")  # noqa: S104 - as Flink in a container
        if place.kind != NATIVE and "taskmanager.host" not in conf:
            raise Stop(
                REFUSED,
                "taskmanager.host is not set, and an enclave cannot look its address up: set it or "
                "_POD_IP_ADDRESS",
            )
    else:
        _set_if(conf, "jobmanager.rpc.address", own)
        conf.setdefault("jobmanager.bind-host", "0.0.0.0")  # noqa: S104
        conf.setdefault("rest.bind-address", "0.0.0.0")  # noqa: S104
        if spec.profile == "strict" or asked.kind == APPLICATION:
            conf.setdefault("web.submit.enable", "false")
    if not {"jobmanager.rpc.address", "high-availability", "high-availability.type"} & set(conf):
        raise Stop(REFUSED, "jobmanager.rpc.address is not set: say where the JobManager is")
    for name in [name for name in conf if name.startswith("env.java.")]:
        if spec.profile == "strict" and name not in spec.conf:
            del conf[name]


def _set_if(conf: dict[str, str], name: str, value: str | None) -> None:
    if value:
        conf.setdefault(name, value)


def _memory(
    asked: Asked, conf: Mapping[str, str], release: tuple[int, ...], place: Place
) -> flink_memory.Memory:
    """Compute the process's memory, and refuse what the enclave has no room for."""
    manager = asked.kind == TASK_MANAGER
    prefix = flink_memory.TASK_MANAGER if manager else flink_memory.JOB_MANAGER
    if manager and asked.kubernetes and f"{prefix}.task.heap.size" in asked.properties:
        # The JobManager has computed all parts; the file still has the total they are of.
        conf = {
            name: value
            for name, value in conf.items()
            if name not in [f"{prefix}.{total}" for total in _TOTALS]
        }
    compute = flink_memory.task_manager if manager else flink_memory.job_manager
    try:
        memory = compute(conf, release)
    except ValueError as error:
        raise Stop(REFUSED, str(error)) from None
    java.check_heap(f"{prefix}.process.size", memory.heap, place)
    if place.enclave_size is not None and memory.total >= place.enclave_size:
        raise Stop(
            REFUSED,
            f"{prefix}.process.size: a process of {memory.total >> 20} MiB does not fit into the "
            f"enclave's {place.enclave_size >> 20} MiB",
        )
    return memory


def _memory_flags(
    spec: Launch, asked: Asked, memory: flink_memory.Memory, env: Mapping[str, str]
) -> tuple[str, ...]:
    """The JVM's memory; on Kubernetes the JobManager says it too, and has to say the same."""
    given = env.get("FLINK_TM_JVM_MEM_OPTS", "").split()
    if asked.kind != TASK_MANAGER or not asked.kubernetes or not given:
        return memory.flags()
    if spec.profile == "strict" and tuple(given) != memory.flags():
        raise Stop(REFUSED, "FLINK_TM_JVM_MEM_OPTS: refused: it does not fit taskmanager.memory.*")
    return tuple(given)


def _options(
    spec: Launch, asked: Asked, conf: Mapping[str, str], env: Mapping[str, str]
) -> tuple[str, ...]:
    """More options of the JVM: the image's; under compat, of variables as Flink's scripts do."""
    role = "taskmanager" if asked.kind == TASK_MANAGER else "jobmanager"
    if spec.profile == "strict":
        return flink_process.option_words(spec.conf, role)
    words = list(flink_process.split_options("JVM_ARGS", env.get("JVM_ARGS", "")))
    name = "FLINK_ENV_JAVA_OPTS"
    if env.get(name):
        words += flink_process.split_options(name, env[name])
    else:
        words += flink_process.option_words(conf, role)
    name = f"{name}_{'TM' if role == 'taskmanager' else 'JM'}"
    return (*words, *flink_process.split_options(name, env.get(name, "")))


def _program_args(asked: Asked) -> tuple[str, ...]:
    """The program's own arguments, without the ``-D`` that are in the file.

    Flink takes abbreviated options too, so the job's arguments are kept apart by ``--``.
    """
    folder = ("--configDir", flink_process.CONF_FOLDER)
    if asked.kind == TASK_MANAGER:
        return folder
    if asked.kubernetes:
        return ()
    if asked.kind == SESSION:
        return (*folder, "--executionMode", "cluster")
    named = (
        ("--job-classname", asked.job_class),
        ("--job-id", asked.job_id),
        ("--fromSavepoint", asked.savepoint),
        ("--jars", ",".join(asked.jars)),
    )
    return (
        *folder,
        *(f"{name}={value}" for name, value in named if value),
        *(("--allowNonRestoredState",) if asked.allow_not_restored else ()),
        *("--", *asked.arguments),
    )


def _conf_file(conf: Mapping[str, str], name: str) -> dict[str, bytes]:
    try:
        data = flink_conf.write_conf(flink_conf.with_lists(conf, name), name)
    except ValueError as error:
        raise Stop(REFUSED, str(error)) from None
    return {f"{flink_process.CONF_FOLDER}/{name}": data}


def _storage(conf: Mapping[str, str]) -> dict[str, str]:
    """Folders that Flink writes to."""
    found = {}
    for name in _FOLDERS:
        folders = [part for part in re.split("[,:]", conf.get(name, "")) if part]
        for number, folder in enumerate(folders, 1):
            found[name if len(folders) == 1 else f"{name} ({number})"] = folder
    for name in _ADDRESSES:
        local = re.fullmatch(r"(?:file:(?://)?)?(/.*)", conf.get(name, ""), re.DOTALL)
        if local:
            found[name] = local[1]
    return found
