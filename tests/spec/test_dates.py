"""Which dates things bear: the environment's, the spec's, the base's; never the clock's."""

import pytest
from conftest import base_files, write_base

from imagekit.errors import UsageError
from imagekit.images.layout import OciLayout
from imagekit.release.bases import base_epoch
from imagekit.release.pipeline import build_epoch
from imagekit.spec.base import parse_base
from imagekit.spec.dates import sigstruct_date, source_date_epoch
from imagekit.spec.fields import parse_yaml


def spec(text=""):
    return parse_base(parse_yaml(f"distribution: {{suite: bookworm}}\n{text}", "x.yaml"))


def test_a_base_bears_the_epoch_of_the_environment_or_of_its_spec(monkeypatch):
    assert base_epoch(spec()) == spec().epoch
    assert base_epoch(spec("date: 2026-01-01")) == 1767225600
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "7")
    assert base_epoch(spec("date: 2026-01-01")) == 7


@pytest.mark.parametrize("text", ["x", "-1", "1.5", "9" * 12, "٣", " 7"])
def test_other_epochs_are_refused(monkeypatch, text):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH"):
        source_date_epoch()


def test_an_image_bears_the_day_of_its_base(in_folder, monkeypatch):
    write_base(in_folder / "base", base_files())
    image = OciLayout.open(in_folder / "base").image("base")
    assert image.created == "2023-11-14T22:13:20Z"
    assert build_epoch(image) == 1699920000
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1234")
    assert build_epoch(image) == 1234


def test_the_drop_in_signer_takes_what_it_is_told(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1600000000")
    assert sigstruct_date("0000-00-00") == "0000-00-00"
    assert sigstruct_date(None) == sigstruct_date("today") == "2020-09-13"
