"""Rules: the jar is what its source gives, and does what Hadoop's own file system does."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from java_runs import FILE_SYSTEMS, JAR, QUICK, ROOT, run
from process_trace import no_processes
from runtime_parts import SPARK_VERSIONS, SparkRuntime, debian_jdk, spark

pytestmark = pytest.mark.integration("javac")
per_spark = pytest.mark.parametrize("version", SPARK_VERSIONS)


class TestJar:
    def test_is_what_its_source_gives(self, tmp_path: Path) -> None:
        debian_jdk()
        done = run([ROOT / "scripts" / "build-java", tmp_path / "again.jar"], tmp_path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "again.jar").read_bytes() == JAR.read_bytes()

    def test_differs_when_the_source_does(self, tmp_path: Path) -> None:
        debian_jdk()
        for part in ("java", "scripts", "imagekit/runtime"):
            run(["mkdir", "-p", tmp_path / part], tmp_path)
            run(["cp", "-r", f"{ROOT / part}/.", tmp_path / part], tmp_path)
        source = tmp_path / "java/src/io/imagekit/hadoop/NoForkRawFileSystem.java"
        source.write_text(source.read_text().replace("does not exist", "is not there"))
        done = run([tmp_path / "scripts" / "build-java", tmp_path / "again.jar"], tmp_path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "again.jar").read_bytes() != JAR.read_bytes()

    @per_spark
    def test_stubs_declare_what_that_hadoop_does(self, version: str, tmp_path: Path) -> None:
        debian_jdk()
        class_path = f"--class-path={spark(version).home}/jars/*"
        done = run([ROOT / "scripts" / "build-java", class_path, tmp_path / "real.jar"], tmp_path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "real.jar").read_bytes() == JAR.read_bytes()

    def test_is_for_java_8(self) -> None:
        with zipfile.ZipFile(JAR) as jar:
            heads = [jar.read(name)[:8] for name in jar.namelist()]
        assert heads
        assert set(heads) == {bytes.fromhex("cafebabe00000034")}  # JVM specification, 4.1: 52


class TestFileSystem:
    def answers(
        self, runtime: SparkRuntime, folder: Path, names: Sequence[str], refused: bool, **env: str
    ) -> list[str]:
        """What the job says, with these of our settings, where processes are refused or not."""
        (folder / "files").mkdir(parents=True)
        command = [
            *(runtime.java / "bin" / "java", *QUICK, "-cp"),
            f"{JAR}:{runtime.home}/jars/*:{runtime.examples_jar}",
            *("io.imagekit.jobs.LocalFiles", folder / "files"),
            *(f"{name}={FILE_SYSTEMS[name]}" for name in names),
        ]
        done = run(no_processes(command) if refused else command, folder, **env)
        assert done.stdout, done.stderr
        return done.stdout.replace(str(folder), "").splitlines()

    @per_spark
    def test_answers_what_hadoops_own_does(self, version: str, tmp_path: Path) -> None:
        """Hadoop's own may start processes here, ours may not."""
        *ours, classes = self.answers(spark(version), tmp_path / "ours", [*FILE_SYSTEMS], True)
        *theirs, other_classes = self.answers(spark(version), tmp_path / "theirs", [], False)
        assert classes == "system: " + " ".join(FILE_SYSTEMS.values())
        assert "imagekit" not in other_classes
        assert len(ours) > 40
        assert ours == theirs

    def test_both_settings_are_needed(self, tmp_path: Path) -> None:
        runtime = spark("3.5.9")
        none = self.answers(runtime, tmp_path / "none", [], True)
        assert "mkdirs: java.io.IOException" in none
        one = self.answers(runtime, tmp_path / "one", ["fs.file.impl"], True)
        assert "mkdirs: true" in one
        assert "create one: java.io.IOException" in one

    def test_says_when_the_locale_has_no_such_name(self, tmp_path: Path) -> None:
        answers = self.answers(spark("3.1.3"), tmp_path, [*FILE_SYSTEMS], True, LC_ALL="C")
        assert "umlaut: java.io.IOException" in answers
