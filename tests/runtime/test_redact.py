"""What of a command may be printed: no secret, whatever form it has."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.runtime.redact import HIDDEN, command_line, is_secret, redacted, redacted_conf

SECRET = "hunter2-5f3a"
SECRETS = st.text("abcdefghijklmnopqrstuvwxyz0123456789+/=!$%&", min_size=12).map("Q7z#{}".format)
NAMES = (
    "spark.authenticate.secret",
    "spark.ssl.keyStorePassword",
    "spark.ssl.keyPassword",
    "spark.ssl.rpc.trustStorePassword",
    "spark.hadoop.fs.s3a.access.key",
    "spark.hadoop.fs.s3a.secret.key",
    "security.ssl.internal.key-password",
    "spark.kubernetes.authenticate.oauthToken",
    "javax.net.ssl.trustStorePassword",
    "_SPARK_AUTH_SECRET",
    "bigdl.kms.data.key",
    "API_KEY",
)
HARMLESS = (
    "spark.app.name",
    "spark.ssl.keyStore",
    "spark.ssl.keyStoreType",
    "spark.network.crypto.keyLength",
    "spark.io.encryption.keySizeBits",
    "spark.driver.memory",
)


@pytest.mark.parametrize("name", NAMES)
def test_secrets_are_known_by_their_names(name):
    assert is_secret(name)
    assert is_secret(name.upper())
    assert redacted_conf({name: SECRET}) == {name: HIDDEN}


@pytest.mark.parametrize("name", HARMLESS)
def test_other_values_can_be_read(name):
    assert redacted_conf({name: "value 1"}) == {name: "value 1"}
    assert redacted([f"-D{name}=1", "--conf", f"{name}=2"]) == [
        f"-D{name}=1",
        "--conf",
        f"{name}=2",
    ]


FORMS = (
    lambda name, value: ["--conf", f"{name}={value}"],
    lambda name, value: [f"--conf={name}={value}"],
    lambda name, value: [f"-D{name}={value}"],
    lambda name, value: ["-D", f"{name}={value}"],
    lambda name, value: [f"{name}={value}"],
    lambda name, value: [f"--{name}", value],
    lambda name, value: [f"--{name}={value}"],
    lambda name, value: ["--driver-java-options", f"-Xss1m -D{name}={value} -Da=b"],
    lambda name, value: [f"jdbc:mysql://db/x?user=u;{name}={value}"],
)


@pytest.mark.parametrize("form", range(len(FORMS)))
@pytest.mark.parametrize("name", NAMES[:2] + NAMES[-3:])
@given(value=SECRETS)
def test_a_secret_is_hidden_in_every_form_that_it_can_have_in_arguments(form, name, value):
    argv = ["java", *FORMS[form](name, value), "harmless"]
    shown = redacted(argv)
    assert len(shown) == len(argv)
    assert (shown[0], shown[-1]) == ("java", "harmless")
    assert value not in " ".join(shown)
    assert value not in command_line(argv)
    assert HIDDEN in command_line(argv)


def test_the_password_of_an_address_is_hidden_and_its_host_is_not():
    assert redacted([f"https://joe:{SECRET}@host/x"]) == [f"https://joe:{HIDDEN}@host/x"]
    url = "spark://CoarseGrainedScheduler@10.0.0.1:7078"
    assert redacted(["--driver-url", url]) == ["--driver-url", url]


def test_what_follows_the_hidden_is_shown():
    assert redacted(["--password", SECRET, "--class", "A"]) == [
        "--password",
        HIDDEN,
        "--class",
        "A",
    ]


def test_a_printed_command_is_one_line_in_which_no_word_can_pretend_to_be_two():
    line = command_line(["/bin/x", "a b", "c\nimagekit: all is well", "", "\u2028", "é"])
    assert line == "/bin/x 'a b' 'c\\nimagekit: all is well' '' '\\u2028' '\\xe9'"
    assert line.isprintable()


@given(st.lists(st.text()))
def test_any_words_can_be_printed(words):
    assert command_line(words).isprintable()


@pytest.mark.parametrize("unit", ["a", "key", "key=", "secret", "a.", "://a:", "= "])
def test_a_long_word_takes_no_long_time(unit):
    word = unit * (96 * 1024 // len(unit))
    start = time.process_time()
    command_line([word])
    assert time.process_time() - start < 5
