import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagekit.errors import ImagekitError, InputError, UsageError
from imagekit.spec.base import DEFAULT_EPOCH, BaseReference, BaseSpec, DerivedSpec, parse_base
from imagekit.spec.fields import load_yaml, parse_yaml

HASH = "ab" * 32
FULL = f"""\
base:
  distribution:
    suite: bookworm
    variant: minbase
    mirrors: ["https://mirror.example/{{snapshot}}/debian", "deb http://m.example/d bookworm main"]
    snapshot: 20260101T000000Z
  packages: [tini, openjdk-17-jre-headless=17.0.1-1, "libc6:amd64"]
  sources:
    - name: gramine
      uri: https://packages.example/
      suites: [bookworm]
      components: [main]
      signed_by: {{url: https://packages.example/key, sha256: {HASH}}}
  artifacts:
    - {{pypi: pyspark==3.5.9, sha256: {HASH.upper()}, take: pyspark-3.5.9/deps/, to: /opt/spark}}
    - {{url: https://x.example/x.tgz, to: /opt/x, strip: 1}}
    - {{url: https://x.example/y.jar, to: /opt/jars/}}
    - {{path: ./z.deb, sha256: {HASH}}}
  files:
    - {{path: /etc/foo, text: "", mode: 0640}}
    - {{path: /etc/bar, source: ./bar}}
  env: {{B: 1, A: "yes"}}
  user: 1000:1000
  workdir: /ppml
  entrypoint: [/usr/bin/tini, --]
  exclude: [/usr/share/doc/*]
  date: 2026-01-01
"""


def parse(text):
    return parse_base(parse_yaml(text, "imagekit.yaml").mapping(["base"])["base"])


def test_every_key_is_read():
    spec = parse(FULL)
    assert isinstance(spec, BaseSpec)
    assert spec.distribution.mirrors[0] == "https://mirror.example/20260101T000000Z/debian"
    assert spec.packages == ("tini", "openjdk-17-jre-headless=17.0.1-1", "libc6:amd64")
    assert spec.sources[0].signed_by.sha256 == HASH
    spark, archive, jar, deb = spec.artifacts
    assert (spark.sha256, spark.take, spark.to) == (HASH, "pyspark-3.5.9/deps", "/opt/spark")
    assert archive.is_archive and archive.strip == 1 and archive.sha256 is None
    assert not jar.is_archive and jar.to == "/opt/jars/y.jar"
    assert deb.is_deb and deb.to is None
    assert spec.files[0].mode == 0o640 and spec.files[0].text == ""
    assert spec.env == (("A", "yes"), ("B", "1"))
    assert spec.epoch == 1767225600


def test_without_a_date_the_epoch_is_a_constant():
    assert parse("base: {distribution: {suite: bookworm}}").epoch == DEFAULT_EPOCH


def test_a_base_may_be_a_reference():
    assert parse("base: {image: 'oci:base:1'}") == BaseReference("oci:base:1")


def test_a_base_may_be_on_top_of_an_image():
    spec = parse(
        "base: {from: 'docker://docker.io/occlum/occlum:0.29.7-ubuntu20.04', "
        "packages: [openjdk-11-jre-headless], env: {B: 1, A: 2}, user: 1000, workdir: /w, "
        "entrypoint: [/a], date: 2026-01-01, ca_bundle: ca.pem, files: [{path: /a, text: b}]}"
    )
    assert isinstance(spec, DerivedSpec)
    assert spec.image == "docker://docker.io/occlum/occlum:0.29.7-ubuntu20.04"
    assert spec.packages == ("openjdk-11-jre-headless",) and spec.installs
    assert spec.env == (("A", "2"), ("B", "1")) and spec.epoch == 1767225600
    assert (spec.user, spec.workdir, spec.entrypoint) == ("1000", "/w", ("/a",))
    assert (spec.ca_bundle, spec.files[0].path) == ("ca.pem", "/a")
    assert not parse("base: {from: 'oci:x'}").installs
    assert parse(f"base: {{from: 'oci:x', artifacts: [{{path: x.deb, sha256: {HASH}}}]}}").installs


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("from: 'oci:x', distribution: {suite: a}", "distribution", 'remove "from" or'),
        ("from: 'oci:x', sources: []", "sources", 'remove "from" or'),
        ("from: 'oci:x', exclude: [/a]", "exclude", 'remove "from" or'),
        ("from: 'oci:x', image: 'oci:x'", "from", 'remove "image" or "from"'),
        ("from: occlum/occlum", "from", "transport"),
        ("image: 'oci:x', packages: [aa]", "packages", 'write "from" for "image"'),
    ],
)
def test_what_does_not_go_with_an_image_below_is_named(text, key, hint):
    with pytest.raises(UsageError, match=f"base.{key}: ") as caught:
        parse(f"base: {{{text}}}")
    assert hint in caught.value.hint


def test_the_order_of_packages_and_env_does_not_change_the_canonical_form():
    one = parse("base: {distribution: {suite: b}, packages: [aa, bb], env: {A: 1, B: 2}}")
    two = parse("base: {env: {B: 2, A: 1}, packages: [bb, aa], distribution: {suite: b}}")
    assert one.to_json() == two.to_json()


DIST = "base:\n  distribution: {suite: bookworm}\n"
BAD = [
    ("base: 1\n", ":1: base: expected a mapping"),
    ("base: {}\n", ':1: base: the key "distribution" is missing'),
    ("base: {image: x}\n", ":1: base.image: "),
    ("base: {image: 'oci:x', packages: []}\n", ":1: base.packages: a base is either"),
    ("base:\n  distribution: {suit: x}\n", ":2: base.distribution.suit: unknown key"),
    ("base:\n  distribution: {suite: -x}\n", ":2: base.distribution.suite: "),
    ("base:\n  distribution: {suite: x, variant: big}\n", ":2: base.distribution.variant: "),
    (
        "base:\n  distribution: {suite: x, mirrors: ['deb [trusted=yes] http://m x main']}\n",
        ":2: base.distribution.mirrors[0]: unsigned",
    ),
    (
        "base:\n  distribution: {suite: x, mirrors: ['http://u:p@m/']}\n",
        ":2: base.distribution.mirrors[0]: a URL with a user name or password",
    ),
    (
        "base:\n  distribution: {suite: x, mirrors: ['http://m/{snapshot}']}\n",
        ":2: base.distribution.mirrors[0]: {snapshot}",
    ),
    (
        "base:\n  distribution: {suite: x, snapshot: 20260101T000000Z}\n",
        ":2: base.distribution: the snapshot is used by no mirror",
    ),
    (DIST + "  packages: [Tini]\n", ":3: base.packages[0]: "),
    (DIST + "  packages: [--purge]\n", ":3: base.packages[0]: "),
    (DIST + "  packages:\n    - tini\n    - tini\n", ":5: base.packages[1]: "),
    (DIST + "  packages:\n", ":3: base.packages: expected a list, found nothing"),
    (
        DIST + "  sources: [{name: a, uri: 'https://a/', suites: [a], components: [m]}]\n",
        ':3: base.sources[0]: the key "signed_by" is missing',
    ),
    (
        DIST + "  sources: [{name: a, uri: 'https://a/', suites: [a], components: [m], "
        "signed_by: {url: 'https://a/k'}}]\n",
        ':3: base.sources[0].signed_by: the key "sha256" is missing',
    ),
    (DIST + "  artifacts: [{to: /x}]\n", ":3: base.artifacts[0]: an artifact has exactly one"),
    (
        DIST + "  artifacts: [{pypi: pyspark, to: /x}]\n",
        ':3: base.artifacts[0].pypi: "pyspark" is not a package with its version',
    ),
    (DIST + "  artifacts: [{pypi: 'a==1'}]\n", ':3: base.artifacts[0]: the key "to" is missing'),
    (
        DIST + "  artifacts: [{path: a.deb, to: /x}]\n",
        ":3: base.artifacts[0].to: a .deb is installed",
    ),
    (
        DIST + "  artifacts: [{path: a.jar, to: /x, strip: 1}]\n",
        ":3: base.artifacts[0].strip: ",
    ),
    (DIST + "  artifacts: [{url: 'ftp://a/b', to: /x}]\n", ":3: base.artifacts[0].url: "),
    (
        DIST + "  artifacts: [{path: a.tgz, to: /x, sha256: abc}]\n",
        ":3: base.artifacts[0].sha256: ",
    ),
    (
        DIST + "  artifacts: [{path: a.tgz, to: /x, take: ../y}]\n",
        ":3: base.artifacts[0].take: ",
    ),
    (DIST + "  artifacts: [{path: a.tgz, to: x}]\n", ":3: base.artifacts[0].to: "),
    (DIST + "  files: [{path: /a}]\n", ":3: base.files[0]: give either text or source"),
    (DIST + "  files: [{path: /a/../b, text: x}]\n", ":3: base.files[0].path: "),
    (DIST + "  files: [{path: /a, text: x, mode: 644}]\n", ":3: base.files[0].mode: "),
    (
        DIST + "  files:\n    - {path: /a, text: x}\n    - {path: /a, text: y}\n",
        ':5: base.files[1]: "/a" given twice',
    ),
    (DIST + "  env: {A-B: x}\n", ":3: base.env.A-B: "),
    (DIST + "  env: {A: yes}\n", ":3: base.env.A: expected a string, found yes"),
    (DIST + "  exclude: [usr/*]\n", ":3: base.exclude[0]: "),
    (DIST + "  exclude: [/*]\n", ":3: base.exclude[0]: "),
    (DIST + "  date: 2026-13-01\n", ":3: base.date: "),
    (DIST + "  entrypoint: []\n", ":3: base.entrypoint: the list is empty"),
    (DIST + "  user: 'a b'\n", ":3: base.user: "),
    (DIST + "  packges: []\n", ":3: base.packges: unknown key"),
    (DIST + "  distribution: {suite: x}\n", ":3: base.distribution: key given twice"),
]


@pytest.mark.parametrize(("text", "begin"), BAD)
def test_bad_input_is_refused_in_one_line_with_file_line_and_key(text, begin):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.problem.startswith("imagekit.yaml" + begin)
    assert "\n" not in caught.value.problem
    assert caught.value.hint and "\n" not in caught.value.hint


def test_a_password_in_a_url_is_not_repeated_in_the_error():
    with pytest.raises(UsageError) as caught:
        parse(DIST + "  artifacts: [{url: 'https://user:hunter2@a/b.tgz', to: /x}]\n")
    assert "hunter2" not in caught.value.problem + caught.value.hint


def test_an_unknown_key_names_the_nearest_known_one():
    with pytest.raises(UsageError) as caught:
        parse(DIST + "  artefacts: []\n")
    assert caught.value.hint == 'did you mean "artifacts"?'


def test_two_parts_of_one_archive_may_go_to_two_places():
    item = "{pypi: 'a==1', take: %s, to: /%s}"
    spec = parse(DIST + f"  artifacts: [{item % ('x', 'x')}, {item % ('y', 'y')}]\n")
    assert len(spec.artifacts) == 2
    with pytest.raises(UsageError, match="given twice"):
        parse(DIST + f"  artifacts: [{item % ('x', 'x')}, {item % ('x', 'x')}]\n")


@pytest.mark.parametrize(
    "text",
    ["a: [", "a: 'x", "a: 1\n---\nb: 2\n", "\t- x", "a: \x07", b"a: \xff", "", "[" * 5000, "a: *b"],
)
def test_text_that_is_no_yaml_is_a_usage_error_with_a_line(text):
    with pytest.raises(UsageError) as caught:
        parse_yaml(text, "f.yaml").mapping(["a"])["a"].string()
    assert caught.value.problem.startswith("f.yaml:")
    assert "\n" not in caught.value.problem


def test_a_missing_or_unreadable_project_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_yaml(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        load_yaml(tmp_path)


def test_whole_numbers_are_decimal_and_in_range():
    node = parse_yaml("a: 7\nb: 0x7\nc: 99\nd: 1e3\ne: '7'\nf: 010\n", "f").mapping()
    assert node["a"].integer(minimum=1, maximum=9) == 7
    for name in "bcdef":
        with pytest.raises(UsageError):
            node[name].integer(minimum=1, maximum=9)


def test_only_true_and_false_are_booleans():
    node = parse_yaml("a: true\nb: yes\nc: 'true'\nd: 1\n", "f").mapping()
    assert node["a"].boolean() is True
    for name in "bcd":
        with pytest.raises(UsageError, match="expected true or false"):
            node[name].boolean()


_SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=12))
_NAMES = """
distribution suite packages artifacts pypi url path to files env text mode sources date exclude
sha256 take image from mirrors x
"""
_KEYS = st.sampled_from(_NAMES.split())
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None)
@given(_VALUES)
def test_any_value_is_a_base_or_a_clear_error(value):
    import yaml

    try:
        parsed = parse(yaml.safe_dump({"base": value}, allow_unicode=True))
    except ImagekitError as error:
        assert "\n" not in error.problem
    else:
        assert isinstance(parsed, BaseSpec | DerivedSpec | BaseReference)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(), st.binary(), st.text(alphabet="ab:[]{}-&*!|>'\"#\n \t?,<")))
def test_any_text_is_read_or_refused_in_one_line(text):
    try:
        parse_base(parse_yaml(text, "f"))
    except ImagekitError as error:
        assert "\n" not in error.problem
