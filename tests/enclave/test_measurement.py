"""Measurement against a page-by-page reading of the SDM, for layouts no field data covers."""

import hashlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagekit.enclave.elf import Elf, Segment, parse_elf
from imagekit.enclave.gramine import measure, measured_bytes
from imagekit.enclave.layout import lay_out
from imagekit.enclave.parameters import EnclaveParameters
from imagekit.enclave.records import Recorder
from imagekit.errors import InputError, SigningError

PAGE = 4096


class SlowRecorder:
    """One record at a time, straight from the SDM's operation sections."""

    def __init__(self, ssa_pages, size):
        self.sha = hashlib.sha256(b"ECREATE\0" + struct.pack("<IQ44x", ssa_pages, size))

    def page(self, offset, flags, content):
        self.sha.update(b"EADD\0\0\0\0" + struct.pack("<QQ40x", offset, flags))
        if content is not None:
            for chunk in range(0, PAGE, 256):
                self.sha.update(b"EEXTEND\0" + struct.pack("<Q48x", offset + chunk))
                self.sha.update(content[chunk : chunk + 256])


def parameters(**changes):
    values = {
        "enclave_size": 64 << 20,
        "max_threads": 4,
        "edmm": False,
        "base_follows_size": False,
        "flags": 4,
        "xfrm": 3,
        "xfrm_mask": 0,
        "misc_select": 0,
        "isv_prod_id": 0,
        "isv_svn": 0,
    }
    return EnclaveParameters(**{**values, **changes})


def make_elf(segments, entry=0x1234):
    headers = b"".join(
        struct.pack("<IIQQQQQQ", 1, s.flags, s.offset, s.vaddr, s.vaddr, s.filesz, s.memsz, PAGE)
        for s in segments
    )
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    # fmt: off
    head = struct.pack("<16sHHIQQQIHHHHHH", ident, 3, 62, 1, entry, 64, 0, 0,
                       64, 56, len(segments), 64, 0, 0)
    # fmt: on
    size = max([s.offset + s.filesz for s in segments] + [len(head) + len(headers)])
    body = bytes(hashlib.sha256(bytes([i % 251])).digest()[0] for i in range(size))
    return head + headers + body[len(head) + len(headers) :]


PAL = parse_elf(
    make_elf([Segment(0, 0, 0x1800, 0x1800, 5), Segment(0x1E00, 0x2E00, 0x300, 0x1500, 6)])
)

operations = st.lists(
    st.tuples(
        st.sampled_from(["add", "zeros", "runs", "bytes"]),
        st.integers(0, 1 << 36).map(lambda n: n * PAGE),
        st.integers(0, 100),
        st.sampled_from([0x100, 0x201, 0x203, 0x205, 0x207]),
    ),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(operations, st.integers(1, 8), st.integers(0, (1 << 64) - 1))
def test_blocks_hash_to_the_same_as_single_records(steps, ssa_pages, size):
    fast, slow = Recorder(ssa_pages, size), SlowRecorder(ssa_pages, size)
    for kind, offset, pages, flags in steps:
        if kind == "add":
            fast.add_pages(offset, pages, flags)
            for page in range(pages):
                slow.page(offset + page * PAGE, flags, None)
        elif kind == "zeros":
            fast.measure_zeros(offset, pages, flags)
            for page in range(pages):
                slow.page(offset + page * PAGE, flags, bytes(PAGE))
        elif kind == "runs":
            count, high = pages % 7, offset + (1 << 40)
            fast.measure_zero_runs(high, 3, flags, count, -3 * PAGE)
            for run in range(count):
                for page in range(3):
                    slow.page(high - run * 3 * PAGE + page * PAGE, flags, bytes(PAGE))
        else:
            content = hashlib.shake_128(str(offset).encode()).digest(pages * PAGE)
            fast.measure_bytes(offset, content, flags)
            for page in range(pages):
                slow.page(offset + page * PAGE, flags, content[page * PAGE : (page + 1) * PAGE])
    assert fast.digest() == slow.sha.digest()


def test_more_free_pages_than_one_block():
    fast, slow = Recorder(4, 1 << 30), SlowRecorder(4, 1 << 30)
    fast.add_pages(0x10000, 9001, 0x207)
    for page in range(9001):
        slow.page(0x10000 + page * PAGE, 0x207, None)
    assert fast.digest() == slow.sha.digest()


@pytest.mark.parametrize(
    "change",
    [
        {"enclave_size": 128 << 20},
        {"max_threads": 5},
        {"edmm": True},
        {"base_follows_size": True},
    ],
)
def test_every_measured_parameter_changes_the_measurement(change):
    before = measure(b"manifest", PAL, parameters())
    assert measure(b"manifest", PAL, parameters(**change)).mr_enclave != before.mr_enclave


@pytest.mark.parametrize(
    "change",
    [{"flags": 6}, {"xfrm": 7}, {"misc_select": 1}, {"isv_prod_id": 7}, {"isv_svn": 9}],
)
def test_what_only_the_sigstruct_holds_does_not_change_it(change):
    before = measure(b"manifest", PAL, parameters())
    assert measure(b"manifest", PAL, parameters(**change)).mr_enclave == before.mr_enclave


def test_one_byte_of_manifest_or_pal_changes_it():
    before = measure(b"manifest", PAL, parameters()).mr_enclave
    assert measure(b"manifesT", PAL, parameters()).mr_enclave != before
    changed = bytearray(PAL.data)
    changed[0x1700] ^= 1
    assert measure(b"manifest", parse_elf(bytes(changed)), parameters()).mr_enclave != before


def test_bytes_outside_all_segments_do_not_count():
    changed = bytearray(PAL.data)
    changed[0x1900] ^= 1  # behind the first segment's file bytes, before the second's
    same = measure(b"m", parse_elf(bytes(changed)), parameters()).mr_enclave
    assert same == measure(b"m", PAL, parameters()).mr_enclave


def test_progress_adds_up_to_the_bytes_announced():
    done = []
    result = measure(b"manifest", PAL, parameters(), done.append)
    assert sum(done) == result.hashed_bytes == measured_bytes(result.layout)


@pytest.mark.parametrize(("size", "threads"), [(1 << 20, 4), (256 << 20, 1024), (1 << 16, 1)])
def test_an_enclave_that_is_too_small_is_refused(size, threads):
    with pytest.raises(SigningError, match="too small") as caught:
        lay_out(100, PAL, enclave_size=size, max_threads=threads)
    assert "MiB are needed" in caught.value.problem
    assert "fewer threads" in caught.value.hint


def test_the_size_named_as_needed_is_the_smallest_that_works():
    with pytest.raises(SigningError, match=r"at least ([0-9.]+) MiB"):
        lay_out(100, PAL, enclave_size=1 << 20, max_threads=4)
    span = PAL.end_page - PAL.first_page
    exact = 0x10000 + span + PAGE + 4 * 90 * PAGE
    assert lay_out(100, PAL, enclave_size=exact, max_threads=4).area("manifest").pages == 1
    with pytest.raises(SigningError, match="too small"):
        lay_out(100, PAL, enclave_size=exact - PAGE, max_threads=4)


@given(st.binary(max_size=400))
def test_the_elf_parser_only_ever_says_that_it_is_no_elf(data):
    for candidate in (data, b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, 62) + data):
        try:
            assert isinstance(parse_elf(candidate), Elf)
        except InputError as error:
            assert "\n" not in error.problem


def test_headers_that_contradict_the_file_are_refused():
    for segment, word in (
        (Segment(0, 0, 1 << 30, 1 << 30, 5), "beyond"),
        (Segment(0, 0, 0x100, 0x10, 5), "beyond"),
        (Segment(0, (1 << 47), 0x10, 0x10, 5), "beyond"),
        (Segment(0, 0, 0, 0, 5), "no loadable segment"),
    ):
        data = make_elf([Segment(0, 0, 0x10, 0x10, 5)])
        header = struct.pack(
            "<IIQQQQQQ", 1, 5, segment.offset, segment.vaddr, 0, segment.filesz, segment.memsz, 0
        )
        with pytest.raises(InputError, match=word):
            parse_elf(data[:64] + header + data[120:])
