"""``verify``: every way in which an image can be other than it claims must be named."""

import gzip
import json
import re
from pathlib import Path

import pytest
from conftest import GRAMINE, TAG, base_files, error_lines, write_base
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from imagekit.images.cache import Cache
from imagekit.images.compose import append
from imagekit.images.layers import LayerFile, write_layer
from imagekit.images.layout import OciLayout
from imagekit.images.oci import OCI_LAYER, OCI_MANIFEST, compact_json, read_image
from imagekit.images.open import open_image
from imagekit.images.rootfs import Rootfs
from imagekit.release.verdict import Expected
from imagekit.release.verify import verify_image
from imagekit.signing.keyfile import generate_key

IMAGE = f"oci:out:{TAG}"


@pytest.fixture
def built(project, imagekit):
    code, _, err = imagekit("build", "--epc", "64m", "--log", "error")
    assert code == 0, err
    return project


@pytest.fixture
def plain(built):
    """The built image with uncompressed layers, in which single bytes can be reached."""
    layout = OciLayout.open(built / "out")
    image = layout.image(TAG)
    layers = [
        layout.blobs.add_bytes(gzip.decompress(layout.blobs.path(layer.digest).read_bytes()))
        for layer in image.layers
    ]
    value = dict(image.manifest_json)
    value["layers"] = [{**layer.to_json(), "mediaType": OCI_LAYER} for layer in layers]
    manifest = layout.blobs.add_bytes(compact_json(value), OCI_MANIFEST)
    layout.put(read_image(manifest, layout.blobs), TAG)
    return built


def verify(imagekit, *arguments, image=IMAGE, standin=True):
    flags = ("--allow-standin",) if standin else ()
    return imagekit("verify", image, *flags, *arguments)


def refused(imagekit, *words, **options):
    code, _, err = verify(imagekit, **options)
    assert code == 5, err
    problem, _ = error_lines(err)
    failed = [line for line in err.splitlines() if line.startswith("FAILED")]
    for word in words:
        assert any(word in line for line in failed), err
    return problem, failed


def with_layer(*files, labels=None, tag=TAG):
    """Put one more layer on the built image, digests all in order."""
    layout = OciLayout.open(Path("out"))
    image = layout.image(TAG)
    layer = write_layer(list(files), layout.blobs, 0)
    layout.put(
        append(image, layer, layout.blobs, created=0, history="tampered", labels=labels or {}), tag
    )


def content(path):
    return Rootfs.from_image(open_image(IMAGE, Cache()), None).read(path)


def flipped(data, position=-1):
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)


def test_a_good_image_passes_and_says_what_was_checked(built, imagekit):
    code, out, err = verify(imagekit, "--lock", "imagekit.lock.json")
    assert code == 0, err
    words = "signature", "recomputed", "trusted files", "labels", "name", "lock", "no private"
    for word in words:
        assert any(line.startswith("ok") and word in line for line in err.splitlines()), word
    assert out.startswith("mr_enclave       : ")
    code, out, _ = verify(imagekit, "--json")
    answer = json.loads(out)
    assert (code, answer["schema"], answer["ok"], answer["failed"]) == (0, 1, True, [])


def test_the_standin_is_refused_unless_asked_for(built, imagekit):
    refused(imagekit, "is a stand-in, not Gramine", standin=False)


def test_a_real_pal_without_the_mark_is_no_standin(project, imagekit):
    write_base(project / "base", base_files(b"something else"), [])
    imagekit("build", "--epc", "64m", "--log", "error")
    code, _, err = verify(imagekit, standin=False)
    assert code == 0, err


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/ppml/bash.sig", "/ppml/bash.sig"),
        ("/ppml/bash.manifest", "/ppml/bash.manifest"),
        (f"{GRAMINE}/sgx/libpal.so", "libpal.so"),
        (f"{GRAMINE}/libsysdb.so", f"trusted file {GRAMINE}/libsysdb.so"),
        ("/opt/spark/jars/spark-core.jar", "trusted file /opt/spark/jars/spark-core.jar"),
        ("/etc/java-17/net.properties", "trusted file /etc/java-17/net.properties"),
        ("/opt/imagekit/launch.json", "trusted file /opt/imagekit/launch.json"),
    ],
)
@pytest.mark.parametrize("position", [3, -2])
def test_one_flipped_byte_in_a_later_layer_is_named(built, imagekit, path, words, position):
    data = content(path)
    if path.endswith("libpal.so") and position == 3:
        position = 0x1500
    with_layer(LayerFile(path, flipped(data, position), 0o755))
    refused(imagekit, words)


def test_a_flipped_byte_of_the_signed_manifest_is_named(built, imagekit):
    text = content("/ppml/bash.manifest.sgx")
    at = text.index(b'log_level = "error"') + 13
    with_layer(LayerFile("/ppml/bash.manifest.sgx", flipped(text, at)))
    _, failed = refused(imagekit, "/ppml/bash.manifest.sgx")
    assert any("mr_enclave" in line for line in failed)


@pytest.mark.parametrize(
    "path",
    [
        "/ppml/bash.manifest.sgx",
        "/ppml/bash.sig",
        f"{GRAMINE}/sgx/libpal.so",
        "/opt/spark/jars/spark-core.jar",
    ],
)
def test_a_flipped_byte_on_the_disk_is_named(plain, imagekit, path):
    """The blob itself is damaged; its digest no longer fits, and the file is named all the same."""
    data = content(path)
    layout = OciLayout.open(plain / "out")
    for layer in layout.image(TAG).layers:
        blob = layout.blobs.path(layer.digest)
        raw = blob.read_bytes()
        # .manifest and .manifest.sgx hold the same text; the latter stands second
        at = raw.rfind(data[:4096])
        if at < 0:
            continue
        copy = blob.with_name("copy")  # hard links lead into the cache: change this one alone
        copy.write_bytes(flipped(raw, at + min(len(data), 5000) // 2))
        copy.replace(blob)
    refused(imagekit, path, "sha256:")


@pytest.mark.parametrize("part", [0.0, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("layer", [0, -1])
def test_a_flipped_byte_of_a_compressed_blob_is_refused(built, imagekit, layer, part):
    layout = OciLayout.open(built / "out")
    digest = layout.image(TAG).layers[layer].digest
    blob = layout.blobs.path(digest)
    raw = blob.read_bytes()
    blob.unlink()
    blob.write_bytes(flipped(raw, int(len(raw) * part)))
    code, _, err = imagekit("verify", IMAGE, "--allow-standin")
    assert code in (3, 5), err
    assert digest in error_lines(err)[0]


def test_no_flip_in_a_manifest_ends_otherwise_than_by_name(built):
    """One bit of every byte, without the hashing: the shape of the text is what may go wrong."""
    image = open_image(IMAGE, Cache())
    rootfs = Rootfs.from_image(image, None)
    text = rootfs.read("/ppml/bash.manifest.sgx")
    expected = Expected(allow_standin=True)
    for at in range(0, len(text), 7):
        file = LayerFile("/ppml/bash.manifest.sgx", flipped(text, at))
        changed = rootfs.with_files([file])
        failed = verify_image(image, changed, expected).failed
        assert any("/ppml/bash.manifest.sgx" in line for line in failed), (at, failed)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sgx = 1",
        "loader = 1",
        "[sgx]\ntrusted_files = 3\n[loader]\nentrypoint = 'file:/x'",
        "[sgx]\ntrusted_files = ['file:/x']\n[loader]\nentrypoint = 'file:/x'",
        "[sgx]\ntrusted_files = [{uri = 'file:/x'}]\n[loader]\nentrypoint = 'file:/x'",
        "[sgx]\n[loader]\n",
        "\x00",
        "[sgx]\nenclave_size = []\n[loader.entrypoint]\nuri = 'file:/x'\nsha256 = '0'",
    ],
)
def test_a_manifest_of_any_shape_is_a_finding(built, imagekit, text):
    with_layer(LayerFile("/ppml/bash.manifest.sgx", text.encode()))
    refused(imagekit, "/ppml/bash.manifest.sgx")


@pytest.mark.parametrize("path", ["/opt/entrypoint.sh", "/opt/flink-entrypoint.sh"])
def test_a_door_from_another_layer_is_named(built, imagekit, path):
    with_layer(LayerFile(path, b"#!/bin/sh\nexec something else\n", 0o755))
    refused(imagekit, f"{path} was put there by a later layer")


def test_another_entry_point_is_noted(built, imagekit):
    layout = OciLayout.open(built / "out")
    layer = write_layer([LayerFile("/x", b"")], layout.blobs, 0)
    image = append(
        layout.image(TAG), layer, layout.blobs, created=0, history="x", entrypoint=["/bin/sh"]
    )
    layout.put(image, TAG)
    assert "the image starts /bin/sh" in verify(imagekit)[2]


def test_a_truncated_layer_is_named(built, imagekit):
    layout = OciLayout.open(built / "out")
    digest = layout.image(TAG).layers[0].digest
    blob = layout.blobs.path(digest)
    copy = blob.with_name("copy")
    copy.write_bytes(blob.read_bytes()[:-5000])
    copy.replace(blob)
    code, _, err = verify(imagekit)
    assert code == 3
    assert digest in error_lines(err)[0]


def test_a_trusted_file_that_is_gone_is_named(built, imagekit):
    with_layer(LayerFile("/opt/spark/jars/.wh.spark-core.jar", b""))
    refused(imagekit, "trusted file /opt/spark/jars/spark-core.jar is not in the image")


@pytest.mark.parametrize(
    ("label", "value"),
    [
        ("mr_enclave", "0" * 64),
        ("epc", "16g"),
        ("log", "all"),
        ("standin", "false"),
        ("gramine", "1.3"),
    ],
)
def test_a_label_that_lies_is_named(built, imagekit, label, value):
    with_layer(LayerFile("/x", b""), labels={f"io.imagekit.{label}": value})
    refused(imagekit, f"label io.imagekit.{label} says '{value}'")


def test_a_name_that_lies_is_named(built, imagekit):
    other = "tiny-gramine-noattest-16g-all:1.0"
    with_layer(LayerFile("/x", b""), tag=other)
    refused(imagekit, "says gramine-16g-all-none", image=f"oci:out:{other}")
    code, _, err = verify(imagekit, "--name", "x-gramine-reference-64m:2", image=f"oci:out:{other}")
    assert code == 0, err


def test_latest_is_the_projects_own_default_but_must_attest(built, imagekit):
    assert verify(imagekit, image="oci:out:tiny-gramine-reference:latest")[0] == 0
    imagekit("build", "--epc", "64m", "--log", "error", "--no-attest", "--output", "oci:plain")
    layout = OciLayout.open(Path("plain"))
    layout.put(layout.image("tiny-gramine-noattest-64m:1.0"), "tiny-gramine-reference:latest")
    image = "oci:plain:tiny-gramine-reference:latest"
    refused(imagekit, "the manifest says gramine-64m-error-none", image=image)


def test_a_name_that_says_nothing_is_a_note(built, imagekit):
    with_layer(LayerFile("/x", b""), tag="candidate")
    code, _, err = verify(imagekit, image="oci:out:candidate")
    assert code == 0, err
    assert "note" in err


def test_expected_measurements(built, imagekit):
    good = json.loads(verify(imagekit, "--json")[1])
    for name in ("mr_enclave", "mr_signer"):
        flag = f"--{name.replace('_', '-')}"
        assert verify(imagekit, flag, good[name].upper())[0] == 0
        code, _, err = verify(imagekit, flag, "0" * 64)
        assert code == 5
        assert f"{name} is {good[name]}, not {'0' * 64}" in err
        code, _, err = verify(imagekit, flag, "xyz")
        assert code == 2, err


def test_an_image_that_the_lock_does_not_know(built, imagekit):
    with_layer(LayerFile("/x", b""))
    code, _, err = verify(imagekit, "--lock", "imagekit.lock.json")
    assert code == 5
    assert "has no image with digest" in err


@pytest.mark.parametrize("hidden", [False, True])
def test_a_private_key_in_any_layer_is_found(built, imagekit, hidden):
    generate_key(built / "other.pem")
    with_layer(LayerFile("/root/forgotten.pem", (built / "other.pem").read_bytes()))
    if hidden:
        with_layer(LayerFile("/root/.wh.forgotten.pem", b""))
    problem, _ = refused(imagekit, "/root/forgotten.pem")
    secret = (built / "other.pem").read_text().splitlines()[3]
    assert secret not in problem


def private_key(bits, exponent, pem=False):
    encoding, form = (
        (Encoding.PEM, PrivateFormat.PKCS8)
        if pem
        else (Encoding.DER, PrivateFormat.TraditionalOpenSSL)
    )
    return rsa.generate_private_key(exponent, bits).private_bytes(encoding, form, NoEncryption())


def key_notes(err):
    return [line for line in err.splitlines() if line.startswith("note") and "private key" in line]


@pytest.mark.parametrize("pem", [False, True])
@pytest.mark.parametrize("hidden", [False, True])
def test_keys_compiled_into_a_program_are_one_note_per_program(built, imagekit, pem, hidden):
    one, other = private_key(2048, 65537, pem), private_key(3072, 65537, pem)
    with_layer(
        LayerFile("/usr/bin/tls", b"\x7fELF" + bytes(99) + one + bytes(9) + other + bytes(9) + one),
        LayerFile("/usr/lib/libtls.so", b"\x7fELF" + bytes(999) + one),
    )
    if hidden:
        with_layer(LayerFile("/usr/bin/.wh.tls", b""), LayerFile("/usr/lib/.wh.libtls.so", b""))
    code, _, err = verify(imagekit)
    assert code == 0, err
    first, second = key_notes(err)
    assert "/usr/bin/tls: 3 private keys" in first
    assert "/usr/lib/libtls.so: a private key" in second
    assert "no private key outside of programs" in err


@pytest.mark.parametrize("pem", [False, True])
@pytest.mark.parametrize("hidden", [False, True])
def test_a_key_that_could_be_the_enclaves_is_found_in_a_program(built, imagekit, pem, hidden):
    with_layer(LayerFile("/usr/bin/tool", b"\x7fELF" + bytes(99) + private_key(3072, 3, pem)))
    if hidden:
        with_layer(LayerFile("/usr/bin/.wh.tool", b""))
    refused(imagekit, "private key in ", "/usr/bin/tool")


def test_an_encrypted_key_is_found_in_a_program(built, imagekit):
    data = rsa.generate_private_key(65537, 2048).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
    )
    with_layer(LayerFile("/usr/bin/tool", b"\x7fELF" + bytes(99) + data))
    refused(imagekit, "/usr/bin/tool")


def test_the_signers_modulus_is_found_in_a_program_with_any_exponent(built, imagekit):
    """Whoever has the factors has the key, whatever exponent stands beside them."""
    own = load_pem_private_key((built / "key.pem").read_bytes(), None).private_numbers()
    secret = pow(65537, -1, (own.p - 1) * (own.q - 1))
    parts = rsa.rsa_crt_dmp1(secret, own.p), rsa.rsa_crt_dmq1(secret, own.q), own.iqmp
    public = rsa.RSAPublicNumbers(65537, own.public_numbers.n)
    disguised = rsa.RSAPrivateNumbers(own.p, own.q, secret, *parts, public).private_key()
    data = disguised.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with_layer(LayerFile("/usr/bin/tool", b"\x7fELF" + bytes(99) + data))
    refused(imagekit, "/usr/bin/tool")


@pytest.mark.parametrize("lead", [b"", b"# text\n", b"#!/bin/sh\n\x7fELF", b"PK\x03\x04"])
def test_the_same_key_in_anything_but_a_program_is_found(built, imagekit, lead):
    with_layer(LayerFile("/opt/notes", lead + private_key(2048, 65537, True)))
    refused(imagekit, "/opt/notes")


def test_a_private_key_in_the_history_is_found(built, imagekit):
    generate_key(built / "other.pem")
    layout = OciLayout.open(built / "out")
    layer = write_layer([LayerFile("/x", b"")], layout.blobs, 0)
    key = (built / "other.pem").read_text()
    image = append(layout.image(TAG), layer, layout.blobs, created=0, history=f"RUN echo '{key}'")
    layout.put(image, TAG)
    refused(imagekit, "history")


def test_a_debug_enclave_is_refused_unless_asked_for(project, imagekit):
    text = (project / "imagekit.yaml").read_text()
    (project / "imagekit.yaml").write_text(text.replace("threads: 8", "threads: 8, debug: true"))
    code, _, err = imagekit("build", "--epc", "64m", "--log", "error")
    assert code == 0, err
    assert "debug" in err
    refused(imagekit, "can be debugged")
    assert verify(imagekit, "--allow-debug")[0] == 0


def test_another_key_changes_mr_signer_alone(built, imagekit):
    before = json.loads(verify(imagekit, "--json")[1])
    generate_key(built / "other.pem")
    imagekit("build", "--epc", "64m", "--log", "error", "--key", "other.pem")
    after = json.loads(verify(imagekit, "--json")[1])
    assert after["mr_enclave"] == before["mr_enclave"]
    assert after["mr_signer"] != before["mr_signer"]


def test_a_signature_of_somebody_else_over_other_content(built, imagekit):
    """A SIGSTRUCT that is intact but describes another enclave."""
    imagekit("build", "--epc", "128m", "--log", "error", "--output", "oci:second")
    other = Rootfs.from_image(
        open_image("oci:second:tiny-gramine-reference-128m:1.0", Cache()), None
    ).read("/ppml/bash.sig")
    with_layer(LayerFile("/ppml/bash.sig", other))
    refused(imagekit, "mr_enclave: /ppml/bash.sig says")


def test_a_tag_that_stands_for_two_images_is_refused(built, imagekit):
    imagekit("build", "--epc", "128m", "--log", "error")
    index = json.loads((built / "out" / "index.json").read_text())
    for entry in index["manifests"]:
        entry["annotations"]["org.opencontainers.image.ref.name"] = TAG
    (built / "out" / "index.json").write_text(json.dumps(index))
    code, _, err = verify(imagekit)
    assert code == 3
    assert "several different images" in error_lines(err)[0]


def test_a_base_is_not_an_enclave_image(project, imagekit):
    code, _, err = verify(imagekit, image="oci:base:base")
    assert code == 3
    assert "it is not an enclave image" in error_lines(err)[0]


def test_a_label_strict_over_an_open_manifest_is_named(project, imagekit):
    text = (project / "imagekit.yaml").read_text().replace("profile: strict", "profile: compat")
    (project / "imagekit.yaml").write_text(text[: text.index("launch:")])
    code, _, err = imagekit("build", "--epc", "64m", "--log", "error")
    assert code == 0, err
    code, _, err = verify(imagekit)
    assert code == 0, err
    assert "not strict: sgx.file_check_policy" in err
    with_layer(LayerFile("/x", b""), labels={"io.imagekit.profile": "strict"})
    refused(imagekit, "profile says 'strict', but the manifest has sgx.file_check_policy")


def test_a_lock_file_that_is_not_there_is_an_input_error(built, imagekit):
    code, _, err = verify(imagekit, "--lock", "none.json")
    assert code == 3
    assert "none.json" in error_lines(err)[0]


def test_inspect_and_measure_agree_with_the_build(built, imagekit):
    code, out, err = imagekit("inspect", IMAGE, "--json")
    assert code == 0, err
    facts = json.loads(out)
    entry = next(iter(json.loads((built / "imagekit.lock.json").read_text())["images"].values()))
    assert facts["sigstruct"]["mr_enclave"] == entry["mr_enclave"]
    assert facts["sigstruct"]["date"] == "2023-11-14"
    assert imagekit("measure", IMAGE)[1] == f"mr_enclave       : {entry['mr_enclave']}\n"
    (built / "m.sgx").write_bytes(content("/ppml/bash.manifest.sgx"))
    (built / "bash.sig").write_bytes(content("/ppml/bash.sig"))
    (built / "libpal.so").write_bytes(content(f"{GRAMINE}/sgx/libpal.so"))
    _, out, err = imagekit("measure", "--manifest", "m.sgx", "--libpal", "libpal.so", "--json")
    assert json.loads(out)["mr_enclave"] == entry["mr_enclave"], err
    code, out, err = imagekit("inspect", "bash.sig")
    assert code == 0, err
    assert entry["mr_signer"] in out
    code, out, err = imagekit("inspect", IMAGE)
    assert re.search(r"io\.imagekit\.profile +: strict", out)
    for arguments in ((), ("--manifest", "m.sgx"), (IMAGE, "--manifest", "m.sgx")):
        assert imagekit("measure", *arguments)[0] == 2


def test_verification_takes_nothing_from_the_cache(plain, imagekit, monkeypatch):
    """An index that lies in the cache must not make a damaged blob look whole."""
    assert verify(imagekit)[0] == 0
    layout = OciLayout.open(plain / "out")
    blob = layout.blobs.path(layout.image(TAG).layers[0].digest)
    raw = blob.read_bytes()
    blob.unlink()
    blob.write_bytes(flipped(raw, raw.index(b"libos")))
    refused(imagekit, "libsysdb.so")
