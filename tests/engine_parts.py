"""Fixtures with real container engines, private to the test run: Docker, and Podman's service.

As root on Linux an own ``dockerd`` is started, with folders, a socket, a bridge and containerd
namespaces of its own, beside one that may be running. Elsewhere the engine that answers is used.
Tests that use ``engine``, ``podman`` or ``any_engine`` need nothing else: the fixtures fail in CI,
and skip with the reason elsewhere, where a part is missing. IMAGEKIT_TEST_ENGINES may name more
engines (addresses as in DOCKER_HOST) that ``any_engine`` goes through, and empties.
"""

import fcntl
import io
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from engine_fakes import CuttingProxy, FakeEngine

from imagekit.images.bases.workdir import remove_tree
from imagekit.images.daemon.connect import Daemon, connect

__all__ = [
    "CuttingProxy",
    "Engine",
    "FakeEngine",
    "any_engine",
    "buildx",
    "connected",
    "engine",
    "no_buildx",
    "own_dockerd",
    "podman",
    "provide_tiny",
    "running_engine",
    "running_podman",
]

TINY = "local/tiny:1"
"""A small image with /bin/sh and a few commands, in every engine of these fixtures."""

_CONTAINERS_CONF = """\
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
lock_type = "file"
[containers]
netns = "host"
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
"""
_DOCKER = shutil.which("docker") or "docker"
_DOCKER_NAMES = ("DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")
_COMMANDS = ("sh", "cat", "head", "ls", "sleep", "true", "wc")
_START_SECONDS = 30.0
_NEXT_STABLE = "trixie"  # the first Debian with the package docker-buildx
_BRIDGE_ADDRESS = "02:42:0a:d5:00:01"  # locally administered
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_TEST_CACHE = Path(__file__).parent.parent / ".imagekit" / "test-cache"


@dataclass(frozen=True)
class Engine:
    """A running engine.

    Attributes:
        host: its address as in DOCKER_HOST.
        ours: whether it may be emptied.
        podman: whether it is Podman.
        root: the folder where it keeps its images, if we made it.
    """

    host: str
    ours: bool = False
    podman: bool = False
    root: Path | None = None

    @property
    def socket(self) -> Path:
        """The file of its socket."""
        return Path(self.host.removeprefix("unix://"))

    def daemon(self) -> Daemon:
        """Connect to it as imagekit does."""
        return _connected(self.host)

    def docker(self, *arguments: str) -> str:
        """Run a docker command on it; gives its output."""
        command = [_DOCKER, "--host", self.host, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def containers(self) -> list[Any]:
        """All containers, running or not."""
        with self.daemon().talk("list containers") as client:
            return list(client.containers(all=True))

    def clean(self) -> None:
        """Remove all images but the tiny one, if the engine is ours."""
        if not self.ours:
            return
        with self.daemon().talk("clean up") as client:
            for listed in client.images():
                names = [name for name in listed.get("RepoTags") or [] if name != "<none>:<none>"]
                if not any(name.endswith(TINY) for name in names):
                    client.remove_image(listed["Id"], force=True)


@cache
def _connected(host: str) -> Daemon:
    """An engine by its address, asked once: Podman takes its time to tell its version."""
    with pytest.MonkeyPatch.context() as patch:
        for name in _DOCKER_NAMES:
            patch.delenv(name, raising=False)
        patch.setenv("DOCKER_HOST", host)
        return connect()


def connected() -> Daemon:
    """The engine that DOCKER_HOST names."""
    return _connected(os.environ["DOCKER_HOST"])


def _missing(reason: str) -> None:
    end = pytest.fail if os.environ.get("CI") else pytest.skip
    end(reason)


def _need(*commands: str) -> None:
    missing = [command for command in commands if shutil.which(command) is None]
    if missing:
        _missing(f"missing on this machine: {', '.join(missing)}")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"


def _answers(host: str) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", host)
        from imagekit.images.daemon.connect import find

        return find() is not None


@contextmanager
def _service(command: Sequence[str], host: str, log: Path, env: dict[str, str]) -> Iterator[None]:
    """A program that serves the Docker API, until the end or the death of this process."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **env},
        )
    try:
        end = time.monotonic() + _START_SECONDS
        while not _answers(host):
            lines = log.read_text(errors="replace").splitlines()[-5:]
            assert process.poll() is None, f"{command[0]} ended: {lines}"
            assert time.monotonic() < end, f"{command[0]} does not answer: {lines}"
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _bridge() -> Iterator[str]:
    """A network for containers: a bridge of our own and three rules, nothing of others touched."""
    name, subnet = f"ikt{os.getpid()}", f"10.213.{os.getpid() % 250}.0/24"
    rules = (
        ("nat", "POSTROUTING", "-s", subnet, "!", "-o", name, "-j", "MASQUERADE"),
        ("filter", "FORWARD", "-i", name, "-j", "ACCEPT"),
        ("filter", "FORWARD", "-o", name, "-j", "ACCEPT"),
    )
    for old in re.findall(r"\d+: (ikt(\d+)):", subprocess.getoutput("ip -o link")):
        if not Path(f"/proc/{old[1]}").exists():  # of a run that was killed
            subprocess.run(["ip", "link", "delete", old[0]], check=False)
    with ExitStack() as stack:
        # an address of its own: else it has its ports' lowest one, which changes when a container
        # ends, and the others send to the old one until they ask anew
        _run("ip", "link", "add", name, "address", _BRIDGE_ADDRESS, "type", "bridge")
        stack.callback(_run, "ip", "link", "delete", name)
        _run("ip", "addr", "add", subnet.replace(".0/", ".1/"), "dev", name)
        _run("ip", "link", "set", name, "up")
        for table, chain, *rule in rules:
            _run("iptables", "-w", "-t", table, "-I", chain, *rule)
            stack.callback(_run, "iptables", "-w", "-t", table, "-D", chain, *rule)
        yield name


@contextmanager
def own_dockerd(folder: Path, *options: str, bridge: str = "none") -> Iterator[Engine]:
    """A dockerd whose files are below a folder, which is emptied at the end.

    Args:
        folder: a short path: sockets have at most 107 characters.
        options: more options of dockerd.
        bridge: the link for containers.
    """
    (folder / "daemon.json").write_text("{}")
    groups = Path("/sys/fs/cgroup")
    if not (groups / "cgroup.controllers").exists() and not (groups / "devices").exists():
        _run("cgroupfs-mount")  # nothing does it on a machine without an init system
    host = f"unix://{folder}/docker.sock"
    # containerd's names have single hyphens between letters and digits
    name = "-".join(["imagekit", str(os.getpid()), *re.findall("[A-Za-z0-9]+", folder.name)])
    command = [
        *("dockerd", "--host", host, "--data-root", f"{folder}/root"),
        *("--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid"),
        *("--config-file", f"{folder}/daemon.json", "--bridge", bridge),
        *("--iptables=false", "--ip6tables=false"),
        # beside a system-wide containerd that others use, too
        *("--containerd-namespace", name, "--containerd-plugins-namespace", f"{name}-plugins"),
        *options,
    ]
    try:
        with _service(command, host, folder / "log", {}):
            yield Engine(host, ours=True, root=folder / "root")
    finally:
        remove_tree(folder)


@contextmanager
def _environment(host: str, config: Path) -> Iterator[pytest.MonkeyPatch]:
    """What leads to an engine, and to nothing that the user of this machine has set up."""
    with pytest.MonkeyPatch.context() as patch:
        for name in _DOCKER_NAMES:
            patch.delenv(name, raising=False)
        patch.setenv("DOCKER_HOST", host)
        patch.setenv("DOCKER_CONFIG", str(config))
        yield patch


def _tiny_rootfs() -> bytes:
    """A root file system with a shell and a few commands of this machine, as a tar."""
    files: dict[str, Path] = {}
    for command in _COMMANDS:
        program = shutil.which(command)
        assert program is not None
        files[f"bin/{command}"] = Path(program)
        linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True)
        for library in re.findall(r"(?:=> )?(/\S+) \(0x", linked.stdout):
            files[library.lstrip("/")] = Path(library)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, path in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            data = path.resolve().read_bytes()
            entry.size, entry.mode = len(data), 0o755
            tar.addfile(entry, io.BytesIO(data))
        for folder in ("etc", "tmp", "proc", "sys", "dev"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
    return out.getvalue()


def provide_tiny(engine: Engine) -> Engine:
    """Give an engine the tiny image."""
    name, _, tag = TINY.partition(":")
    with engine.daemon().talk("import") as client:
        api: Any = client
        answer = json.loads(api.import_image_from_data(_tiny_rootfs(), repository=name, tag=tag))
        client.tag(answer["status"], name, tag)  # Podman calls it latest
    return engine


def _own() -> bool:
    return os.geteuid() == 0 and shutil.which("dockerd") is not None


@pytest.fixture(scope="session")
def running_engine() -> Iterator[Engine]:
    """The Docker Engine of this run."""
    if not _own():
        host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
        if os.environ.get("CI") or not _answers(host):
            _missing("no dockerd that root may start, and no engine that answers")
        yield provide_tiny(Engine(host))
        return
    _need("ip", "iptables", "setpriv", "docker")
    with (
        tempfile.TemporaryDirectory(prefix="ikt-", ignore_cleanup_errors=True) as folder,
        _bridge() as bridge,
        own_dockerd(Path(folder), bridge=bridge) as engine,
    ):
        yield provide_tiny(engine)


@pytest.fixture(scope="session")
def running_podman() -> Iterator[Engine]:
    """The Podman service of this run."""
    _need("podman", "runc", "setpriv")
    if os.geteuid() != 0:
        _missing("missing on this machine: root rights")
    with tempfile.TemporaryDirectory(prefix="ikt-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "containers.conf").write_text(_CONTAINERS_CONF)
        (folder / "tmp").mkdir()
        host = f"unix://{folder}/podman.sock"
        command = [
            *("podman", "--root", f"{folder}/root", "--runroot", f"{folder}/run"),
            *("--tmpdir", f"{folder}/lib", "--storage-driver", "vfs", "--events-backend", "file"),
            *("system", "service", "--time", "0", host),
        ]
        env = {"CONTAINERS_CONF": f"{folder}/containers.conf", "TMPDIR": f"{folder}/tmp"}
        try:
            with _service(command, host, folder / "log", env):
                yield provide_tiny(Engine(host, True, True, folder / "root"))
        finally:
            remove_tree(folder)


@contextmanager
def _used(engine: Engine, config: Path) -> Iterator[Engine]:
    with _environment(engine.host, config):
        yield engine
        engine.clean()


@pytest.fixture
def engine(running_engine: Engine, tmp_path: Path) -> Iterator[Engine]:
    """A Docker Engine that DOCKER_HOST names during this test, with the tiny image alone."""
    with _used(running_engine, tmp_path / "docker") as used:
        yield used


@pytest.fixture
def podman(running_podman: Engine, tmp_path: Path) -> Iterator[Engine]:
    """A Podman service that DOCKER_HOST names during this test, with the tiny image alone."""
    with _used(running_podman, tmp_path / "docker") as used:
        yield used


@pytest.fixture(params=["engine", "podman", *os.environ.get("IMAGEKIT_TEST_ENGINES", "").split()])
def any_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Each of the engines in turn."""
    if "/" not in request.param:
        yield request.getfixturevalue(request.param)
        return
    with _used(provide_tiny(Engine(request.param, ours=True)), tmp_path / "docker") as used:
        yield used


@pytest.fixture
def no_buildx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All commands but docker on PATH."""
    folders = []
    for number, folder in enumerate(map(Path, os.get_exec_path())):
        if not (folder / "docker").exists():
            folders.append(folder)
            continue
        twin = tmp_path / "bin" / str(number)
        twin.mkdir(parents=True)
        for program in folder.iterdir():
            if program.name != "docker":
                (twin / program.name).symlink_to(program)
        folders.append(twin)
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, folders)))


@pytest.fixture
def buildx(engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The plugin buildx for the docker command, in the DOCKER_CONFIG of this test; its path."""
    plugin = _buildx_plugin()
    folder = tmp_path / "docker" / "cli-plugins"
    folder.mkdir(parents=True)
    (folder / "docker-buildx").symlink_to(plugin)
    monkeypatch.setenv("DOCKER_CONFIG", str(folder.parent))
    return plugin


def _buildx_plugin() -> Path:
    """The plugin that is installed, or the one of Debian's next stable release, fetched once."""
    _need("docker")
    shown = subprocess.run(
        ["docker", "info", "--format", "{{json .ClientInfo.Plugins}}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    for plugin in json.loads(shown.stdout) if shown.stdout.startswith("[") else []:
        if plugin.get("Name") == "buildx" and plugin.get("Path"):
            return Path(plugin["Path"])
    _TEST_CACHE.mkdir(parents=True, exist_ok=True)
    path = _TEST_CACHE / "docker-buildx"
    with (_TEST_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _fetch_buildx(path)
    return path


def _fetch_buildx(path: Path) -> None:
    """Fetch the Debian package docker-buildx through apt, from this machine's own mirror.

    apt works in folders of its own here; the archive's signature is checked with the keys that
    Debian's package debian-archive-keyring brought.
    """
    _need("apt-get", "dpkg-deb")
    mirror = _debian_mirror()
    if mirror is None or not _KEYRING.exists():
        _missing("no docker-buildx, and no Debian package source to fetch it from")
    with tempfile.TemporaryDirectory(prefix="ikt-") as name:
        folder = Path(name)
        for part in ("state/lists/partial", "cache/archives/partial"):
            (folder / part).mkdir(parents=True)
        source = f"deb [signed-by={_KEYRING}] {mirror} {_NEXT_STABLE} main\n"
        (folder / "sources.list").write_text(source)
        settings = {
            "Dir::Etc::sourcelist": f"{folder}/sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State": f"{folder}/state",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": f"{folder}/cache",
            "Acquire::Languages": "none",
            "APT::Sandbox::User": "root",
        }
        options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        for words in (["update"], ["download", "docker-buildx"]):
            done = subprocess.run(
                ["apt-get", *options, *words],
                cwd=folder, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode != 0:
                _missing(f"docker-buildx cannot be fetched: {done.stderr.strip()[-300:]}")
        (package,) = folder.glob("docker-buildx_*.deb")
        _run("dpkg-deb", "-x", str(package), f"{folder}/x")
        (found,) = (folder / "x").rglob("cli-plugins/docker-buildx")
        shutil.copy(found, path.with_suffix(".new"))
        path.with_suffix(".new").rename(path)


def _debian_mirror() -> str | None:
    """Where this machine has Debian's main archive from."""
    release = Path("/etc/os-release").read_text() if Path("/etc/os-release").exists() else ""
    codename = re.search(r"^VERSION_CODENAME=(\w+)$", release, re.MULTILINE)
    if codename is None or "ID=debian\n" not in release:
        return None
    form = "$(CREATED_BY) $(RELEASE) $(COMPONENT) $(REPO_URI)"
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", form], capture_output=True, text=True, check=False
    )
    found = re.findall(rf"^Packages {codename[1]} main (\S+)$", listed.stdout, re.MULTILINE)
    return found[0].rstrip("/") if found else None
