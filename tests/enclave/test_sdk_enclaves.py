"""The enclave libraries that the tests make: like the SDK's own, and made with python3 alone."""

import ast
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import sdk_enclaves
from sdk_blocks import slow_mr_enclave
from sdk_enclaves import Recipe, make_enclave, patch_builtin_config, section_range

from imagekit.enclave.sdk.config import EnclaveConfig
from imagekit.enclave.sdk.image import read_image
from imagekit.enclave.sdk.measure import measure
from imagekit.enclave.sdk.unsigned import read_unsigned
from imagekit.enclave.sdk.writer import prepare


def test_the_same_recipe_gives_the_same_bytes():
    assert make_enclave(Recipe()) == make_enclave()
    assert make_enclave(Recipe(seed="other")) != make_enclave()


def test_python_alone_makes_and_patches_one(tmp_path):
    (tmp_path / "mac").write_bytes(b"-".join([b"cd"] * 16) + b"\n")
    script = Path(sdk_enclaves.__file__).read_bytes()
    ast.parse(script, feature_version=(3, 8))
    (tmp_path / "make.py").write_bytes(script)
    for arguments in (("make", "a.so"), ("patch", "a.so", "mac", "b.so")):
        # -I -S: neither this folder nor what is installed beside the standard library.
        subprocess.run(
            [sys.executable, "-I", "-S", "make.py", *arguments],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"]},
            check=True,
        )
    assert (tmp_path / "a.so").read_bytes() == make_enclave()
    patched = (tmp_path / "b.so").read_bytes()
    assert patched == patch_builtin_config(make_enclave(), (tmp_path / "mac").read_bytes())


@pytest.mark.parametrize("tls", [None, (4, 5000)])
def test_it_has_what_the_sdk_s_own_have(golden, tls):
    name = "mini_tls.so" if tls else "mini_notls.so"
    theirs = read_image((golden / "sgx-sdk" / name).read_bytes(), name)
    ours = read_image(make_enclave(Recipe(tls=tls)), "ours")
    wanted = {".dynsym", ".dynstr", ".rela.dyn", ".text", ".dynamic", ".data", ".bss"}
    wanted |= {".note.sgxmeta", ".shstrtab", ".data.rel.ro", *([".tdata", ".tbss"] if tls else [])}
    for image in (theirs, ours):
        assert wanted <= {section.name for section in image.sections}
    for part in ("kind", "flags", "align", "entry_size"):
        for section in wanted - {".text", ".data.rel.ro", ".tdata", ".tbss"}:
            assert getattr(ours.section(section), part) == getattr(theirs.section(section), part)
    notes = []
    for image in (theirs, ours):
        note = image.section(".note.sgxmeta")
        notes.append((note.size, image.data[note.offset : note.offset + 25]))
    assert notes[0] == notes[1]


def test_the_built_in_configuration_is_loaded_and_48_bytes():
    data = make_enclave()
    offset, size = section_range(data, ".builtin_config")
    assert size == 48
    image = read_image(data, "x")
    section = image.section(".builtin_config")
    assert image.file_offset(section.address, size) == offset
    with pytest.raises(ValueError, match="48"):
        patch_builtin_config(data, bytes(49))
    with pytest.raises(KeyError):
        section_range(make_enclave(Recipe(builtin_config=None)), ".builtin_config")


@pytest.mark.parametrize(
    "recipe",
    [Recipe(), Recipe(tls=(4, 5000), hole=2, code_size=0x12345, debug_size=99), Recipe(bss_size=0)],
)
def test_it_is_fit_for_signing_and_measures_record_by_record(recipe):
    library = make_enclave(recipe)
    unsigned = read_unsigned(library, "x.so")
    assert unsigned.sdk_version == (2, 26, 100)
    (version,) = struct.unpack_from("<Q", library, unsigned.global_data)
    assert version == 2 << 32 | 26 << 16 | 100
    config = EnclaveConfig(tcs_num=5, tcs_max_num=9, tcs_min_pool=2, misc_select=1, misc_mask=0)
    enclave = prepare(unsigned, config).enclave
    expected = {slow_mr_enclave(enclave.image.data, block.offset) for block in enclave.blocks}
    assert len(enclave.blocks) == 2
    assert expected == {measure(enclave).mr_enclave}
