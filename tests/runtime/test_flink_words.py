"""How containers are started with Flink."""

import subprocess

import pytest
from flink_starts import IDS, STARTS
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imagekit.runtime import flink_args
from imagekit.runtime.flink_args import parse_args, shell_words
from imagekit.runtime.stop import Stop


@pytest.mark.parametrize("start", STARTS, ids=IDS)
def test_what_kubernetes_starts_is_recognised(start):
    role, args = flink_args.container_role(start["args"])
    assert role == ("taskmanager" if start["kind"] == "taskmanager" else "jobmanager")
    assert args[0] == f"kubernetes-{role}.sh"
    assert parse_args(role, args).kind == start["kind"]
    plain = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {start['args'][2]}"], capture_output=True, check=True
    )
    assert list(args) == plain.stdout.decode().split("\0")[:-1]
    assert flink_args.container_role(args) == (role, args)


@pytest.mark.parametrize(
    ("words", "role", "args"),
    [
        (["jobmanager"], "jobmanager", ()),
        (["jobmanager", "jm", "8081"], "jobmanager", ("jm", "8081")),
        (["standalone-job", "-j", "a.B"], "standalone-job", ("-j", "a.B")),
        (["taskmanager", "-Da=b"], "taskmanager", ("-Da=b",)),
    ],
)
def test_words_of_the_stock_image_are_recognised(words, role, args):
    assert flink_args.container_role(words) == (role, args)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["bash"],
        ["bash", "-c"],
        ["bash", "-c", "ls"],
        ["ls"],
        ["history-server"],
        ["help"],
        ["bash", "-l", "kubernetes-jobmanager.sh"],
        ["jobmanager.sh"],
        ["/x/kubernetes-jobmanager.sh"],
    ],
)
def test_other_words_are_a_command(words):
    assert flink_args.container_role(words) is None


@pytest.mark.parametrize(
    "text",
    [
        "kubernetes-jobmanager.sh kubernetes-session; id",
        "kubernetes-jobmanager.sh x | cat",
        "kubernetes-jobmanager.sh x & id",
        "kubernetes-jobmanager.sh x && id",
        "kubernetes-jobmanager.sh $(id)",
        "kubernetes-jobmanager.sh `id`",
        "kubernetes-jobmanager.sh $HOME",
        'kubernetes-jobmanager.sh "$HOME"',
        "kubernetes-jobmanager.sh x > y",
        "kubernetes-jobmanager.sh < y",
        "kubernetes-jobmanager.sh x\nid",
        "kubernetes-jobmanager.sh *",
        "kubernetes-jobmanager.sh ~",
        "kubernetes-jobmanager.sh {a,b}",
        "kubernetes-jobmanager.sh a?",
        "kubernetes-jobmanager.sh [a]",
        "kubernetes-jobmanager.sh x # y",
        "kubernetes-jobmanager.sh 'x",
        'kubernetes-jobmanager.sh "x',
        "kubernetes-jobmanager.sh x\\",
        "kubernetes-jobmanager.sh !x",
        "(kubernetes-jobmanager.sh x)",
        "exec kubernetes-jobmanager.sh kubernetes-session",
        "A=b kubernetes-taskmanager.sh",
        "source /x && kubernetes-taskmanager.sh",
        "kubernetes-taskmanager.sh -Da='b\nc'",
    ],
)
def test_a_shell_that_shall_do_more_than_start_flink_is_refused(text):
    with pytest.raises(Stop, match="bash -c is refused") as stop:
        flink_args.container_role(["bash", "-c", text])
    assert stop.value.code == 2


def test_words_after_the_shells_text_are_refused():
    with pytest.raises(Stop, match="words follow"):
        flink_args.container_role(["bash", "-c", "kubernetes-taskmanager.sh", "x"])


@given(st.text(alphabet="ab1= '\"\\#-%@+,:./^_\t;$&|<>(){}[]*?~!\n`é", max_size=30))
@example("'a'\\''b' \"c d\"e\\ f #g")
@example("a#b ''c '' \"\"")
@settings(max_examples=150, deadline=None)
def test_words_are_those_of_a_real_shell_or_refused(text):
    try:
        words = shell_words(text)
    except Stop:
        return
    shell = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' x {text}"], capture_output=True, check=True
    )
    assert ["x", *words] == shell.stdout.decode().split("\0")[:-1]
