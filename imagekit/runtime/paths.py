"""Where the runtime's files stand in an image.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

APP = "/opt/imagekit"
LAUNCHER = f"{APP}/launcher.pyz"
LAUNCH_SPEC = f"{APP}/launch.json"
ENTRYPOINT = "/opt/entrypoint.sh"
FLINK_ENTRYPOINT = "/opt/flink-entrypoint.sh"

ACCOUNT_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where Kubernetes puts a pod's service account."""

FLINK_POD_TEMPLATE = "/opt/flink/pod-template/taskmanager-pod-template.yaml"
"""Where Flink mounts the pod template of TaskManagers into a JobManager's pod, and looks for it
there, wherever Flink itself is (1.16.3, 1.20.5). A strict manifest has memory of its own there."""

NO_FORK_JAR = f"{APP}/no-fork.jar"
"""Hadoop's local file system without child processes; first on the class path of Spark."""
NO_FORK_CLASS = "io.imagekit.hadoop.NoForkFileSystem"
LOG_FOLDER = f"{APP}/log"
"""Logging configurations: ``spark/log4j2.properties``, ``spark/log4j.properties`` (Spark before
3.3) and ``flink/log4j-console.properties``, all to the console alone."""

OCCLUM_INSTANCE = "/opt/occlum_spark"
"""Folder of the Occlum instance, from which ``occlum run`` is started; BigDL's name."""
OCCLUM_START = f"{APP}/enclave/start"
"""The one program that a host may start in a strict enclave of Occlum; its folder, in which nothing
else stands, is the one entry point."""
