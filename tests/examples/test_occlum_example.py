"""The example for Occlum: what it plans is what its page shows, and it says what it needs."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "examples" / "occlum" / "imagekit.yaml"


def test_the_plan_is_the_one_in_the_documentation(imagekit, in_folder):
    code, out, err = imagekit("plan", "-f", PROJECT)
    assert code == 0, err
    assert "warning" not in err
    page = (ROOT / "docs" / "occlum.md").read_text()
    assert out in page


def test_less_epc_than_it_commits_is_warned_of(imagekit, in_folder):
    text = PROJECT.read_text()
    assert "epc_request: 18Gi" in text
    Path("imagekit.yaml").write_text(text.replace("epc_request: 18Gi", "epc_request: 16Gi"))
    code, _, err = imagekit("plan")
    assert code == 0
    assert "sgx.intel.com/epc" in err
    assert "occlum-16g-error-dcap" in err
    assert "occlum-8g-error-dcap: sgx" not in err


def test_plan_tells_the_epc_as_json_too(imagekit, in_folder):
    code, out, _ = imagekit("plan", "-f", PROJECT, "--json")
    assert code == 0
    committed = {cell["id"]: cell["committed_epc"] for cell in json.loads(out)["cells"]}
    # user space + kernel heap + 256 threads of 1 MiB and 4 pages (reference formula of Occlum)
    threads = 256 * ((1 << 20) + 4 * 4096)
    assert committed["occlum-8g-error-dcap"] == (8 << 30) + (1 << 30) + threads
    assert committed["occlum-16g-error-dcap"] == (16 << 30) + (1 << 30) + threads


def test_a_bake_file_warns_that_it_signs_nothing(imagekit, in_folder):
    code, out, err = imagekit("plan", "-f", PROJECT, "--format", "bake")
    assert code == 0
    assert "throw-away signature" in err
    assert "occlum-8g-error-dcap" in json.loads(out)["target"]
