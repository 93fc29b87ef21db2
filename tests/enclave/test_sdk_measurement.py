"""MRENCLAVE of SDK enclaves: against a second, slow measurement, and where it must refuse."""

import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sdk_blocks import (
    TCS,
    block_offset,
    content_at,
    make_block,
    slow_mr_enclave,
    with_blocks,
)
from sdk_enclaves import PAGE, Recipe, make_enclave

from imagekit.enclave.sdk.measure import load_plan, measure, measured_bytes
from imagekit.enclave.sdk.metadata import (
    STACK_FILL,
    ElRange,
    LayoutEntry,
    LayoutGroup,
    LayoutId,
    Patch,
)
from imagekit.enclave.sdk.signed import read_enclave
from imagekit.errors import CheckError, ImagekitError, InputError

PLAIN = make_enclave()
RVA = 0x100000
ADD, BOTH = 1, 3
RW, TCS_PAGE = 0x203, 0x100


def entry(attributes=BOTH, pages=1, rva=RVA, size=0, content=None, flags=RW, kind=1):
    place = 0 if content is None else content_at(content)
    return LayoutEntry(kind, attributes, pages, rva, size, place, flags)


def read(layout, **options):
    return read_enclave(with_blocks(PLAIN, make_block(layout, **options)), "x.so")


def fast(data):
    return measure(read_enclave(data, "x.so")).mr_enclave


def test_the_slow_measurement_is_the_one_of_the_sdk(golden):
    for case in ("mini_tls.sgx2_both", "mini_textrel.none", "mini_notls.elrange"):
        data = (golden / "sgx-sdk" / "cases" / case / "signed.so").read_bytes()
        offset = block_offset(data)
        signed = data[offset + 64 + 960 : offset + 64 + 992]
        assert slow_mr_enclave(data) == signed == fast(data)


@st.composite
def layouts(draw):
    """Regions one behind the other with holes, groups after them; and the end of it all."""
    rva, items = RVA, []
    run: list[LayoutEntry] = []
    for _ in range(draw(st.integers(0, 7))):
        rva += PAGE * draw(st.integers(0, 3))
        kind = draw(st.sampled_from(["plain", "plain", "tcs", "content", "group"]))
        attributes = draw(st.sampled_from([0, 1, 2, 3, 3, 0x43, 0x19, 8, 0x2B, 7]))
        if kind == "group" and run:
            count = draw(st.integers(1, min(len(run), 4)))
            low = run[-count].rva
            step = rva - low + PAGE * draw(st.integers(0, 2))
            times = draw(st.integers(0, 40))
            items.append(LayoutGroup(LayoutId.THREAD_GROUP, count, times, step))
            rva += step * times
            run = []
            continue
        if kind == "tcs":
            one = entry(attributes, 1, rva, len(TCS), 0, TCS_PAGE, LayoutId.TCS)
        elif kind == "content":
            size = draw(st.integers(1, 9000))
            one = entry(attributes, -(-size // PAGE), rva, size, len(TCS), 0x201, 40)
        else:
            fill = draw(st.sampled_from([0, STACK_FILL, 1]))
            flags = draw(st.sampled_from([RW, RW, 0x207, 0]))
            one = entry(attributes, draw(st.integers(0, 60)), rva, fill, None, flags, 2)
        rva += one.pages * PAGE
        items.append(one)
        run.append(one)
    return items, rva


recipes = st.builds(
    Recipe,
    code_size=st.integers(16, 0x5000),
    data_size=st.integers(0, 0x3000),
    bss_size=st.integers(0, 0x20000),
    tls=st.sampled_from([None, (4, 5000), (0, 8)]),
    relocations=st.integers(0, 5),
    text_relocations=st.lists(st.integers(0, 0x4FF8), max_size=4).map(tuple),
    hole=st.integers(0, 3),
    debug_size=st.integers(0, 9),
    seed=st.text("ab", max_size=3),
)
versions = st.sampled_from(
    [(1, 3), (1, 4), (1, 5), (2, 0), (2, 3), (2, 4), (3, 0), (3, 1), (3, 2), (3, 3), (11, 5)]
)
patches = st.lists(
    st.builds(Patch, st.integers(0, 0x3000), st.integers(0, 0x2000), st.integers(0, 0x400)),
    max_size=3,
)


@settings(max_examples=150)
@given(layouts(), recipes, versions, patches, st.integers(0, 3), st.integers(1, 4))
def test_any_layout_measures_as_record_by_record(layout, recipe, version, changes, high, frame):
    items, end = layout
    size = 1 << max(end, 1 << 22).bit_length() << high
    elrange = ElRange(size * 3, size * 2, size * 4) if version[0] > 10 else None
    block = make_block(
        items,
        version=version,
        enclave_size=size,
        patches=changes,
        elrange=elrange,
        data=TCS + bytes(number * 7 % 256 for number in range(0x2800)),
        ssa_frame_pages=frame,
    )
    data = with_blocks(make_enclave(recipe), block)
    done: list[int] = []
    enclave = read_enclave(data, "x.so")
    result = measure(enclave, done.append)
    assert result.mr_enclave == slow_mr_enclave(data)
    assert sum(done) == result.hashed_bytes == measured_bytes(enclave)
    assert load_plan(enclave) == result.plan


@pytest.mark.parametrize(
    ("pages", "attributes", "times"),
    [
        (1, ADD, 20_000),  # many copies in one block of records, and more than one block
        (1, BOTH, 450),
        (250, BOTH, 5),  # each copy larger than a block
        (1, BOTH, 3),  # too few for blocks
        (1, BOTH, 1),
        (1, ADD, 0),
    ],
)
def test_groups_of_any_size(pages, attributes, times):
    run = [
        entry(attributes, pages, RVA, STACK_FILL),
        entry(0, 16, RVA + pages * PAGE, flags=0, kind=LayoutId.GUARD),
        entry(attributes, 1, RVA + (pages + 16) * PAGE, len(TCS), 0, TCS_PAGE, LayoutId.TCS),
    ]
    step = (pages + 20) * PAGE
    layout = [*run, LayoutGroup(LayoutId.THREAD_GROUP, 3, times, step)]
    data = with_blocks(PLAIN, make_block(layout, enclave_size=1 << 40))
    assert fast(data) == slow_mr_enclave(data)


def memory(library, version):
    signed = with_blocks(library, make_block([], version=version))
    result = measure(read_enclave(signed, "x.so"))
    assert result.mr_enclave == slow_mr_enclave(signed)
    return result.plan.required_memory


def test_one_page_more_only_in_metadata_1_3():
    more = set()
    for bss in range(0, 2 * PAGE, 0x180):  # where the data ends in its last page decides
        library = make_enclave(Recipe(bss_size=bss))
        plain = memory(library, (1, 4))
        assert memory(library, (2, 3)) == plain
        more.add(memory(library, (1, 3)) - plain)
    assert more == {0, PAGE}


@pytest.mark.parametrize(("hole", "more"), [(0, 0), (1, PAGE)])
def test_the_page_more_gives_way_to_the_next_segment(hole, more):
    library = bytearray(make_enclave(Recipe(code_size=0x1100, hole=hole, bss_size=PAGE * 3)))
    at = 64 + 56  # the code's program header: let it start inside its page
    offset, vaddr, _, filesz, memsz = struct.unpack_from("<5Q", library, at + 8)
    shorter = (offset + 16, vaddr + 16, vaddr + 16, filesz - 16, memsz - 16)
    struct.pack_into("<5Q", library, at + 8, *shorter)
    data_alone = bytearray(library)
    struct.pack_into("<I", data_alone, at, 0)  # no longer a segment
    without = memory(bytes(data_alone), (1, 3)) - memory(bytes(data_alone), (1, 4))
    assert memory(bytes(library), (1, 3)) - memory(bytes(library), (1, 4)) == without + more


def test_text_relocations_make_their_pages_writable():
    recipe = Recipe(code_size=0x3000, text_relocations=(0x10, 0xFFC))
    data = with_blocks(make_enclave(recipe), make_block([]))
    without = with_blocks(make_enclave(Recipe(code_size=0x3000)), make_block([]))
    assert fast(data) == slow_mr_enclave(data) != fast(without)
    assert not read_enclave(PLAIN, "x").image.relocated_pages()  # no DT_TEXTREL
    # 0xFF8 is the last place of 8 bytes that does not reach into the next page.
    for place, pages in ((0xFF8, 1), (0xFF9, 2)):
        image = read_enclave(
            make_enclave(Recipe(code_size=0x3000, text_relocations=(place,), relocations=0)), "x"
        ).image
        assert len(image.relocated_pages()) == pages


def test_every_byte_that_is_loaded_counts_and_no_other():
    data = with_blocks(PLAIN, make_block([entry()]))
    before = fast(data)
    inside = bytearray(data)
    inside[0x1500] ^= 1
    assert fast(bytes(inside)) != before
    between = bytearray(data)
    between[0x900] ^= 1  # behind the first segment's bytes, before the second's
    assert fast(bytes(between)) == before


def test_blocks_that_measure_differently_are_refused():
    same = make_block([entry()], version=(2, 4)), make_block([entry(0x13)], version=(1, 4))
    other = make_block([entry(pages=2)], version=(1, 4))
    assert fast(with_blocks(PLAIN, *same)) == fast(with_blocks(PLAIN, same[0]))
    with pytest.raises(CheckError, match="two measurements"):
        fast(with_blocks(PLAIN, same[0], other))


def test_both_blocks_are_counted_in_the_work_to_be_done():
    blocks = make_block([entry()], version=(2, 4)), make_block([entry()], version=(1, 4))
    enclave = read_enclave(with_blocks(PLAIN, *blocks), "x.so")
    done: list[int] = []
    result = measure(enclave, done.append)
    assert sum(done) == measured_bytes(enclave) == 2 * result.hashed_bytes


HUGE = (1 << 32) - 1


@pytest.mark.parametrize(
    ("layout", "options", "word"),
    [
        ([entry(pages=HUGE)], {}, "beyond the enclave"),
        ([entry(rva=(1 << 64) - PAGE, pages=2)], {}, "beyond the enclave"),
        ([entry(rva=(1 << 64) - PAGE)], {"enclave_size": 1 << 63}, "beyond the enclave"),
        ([entry(rva=5)], {}, "no page"),
        ([entry(), LayoutGroup(0x1009, 1, HUGE, PAGE)], {}, "beyond the enclave"),
        ([entry(), LayoutGroup(0x1009, 1, 5, 0)], {}, "bytes apart"),
        ([entry(), LayoutGroup(0x1009, 1, HUGE, 0)], {}, "bytes apart"),
        ([entry(pages=3), LayoutGroup(0x1009, 1, 5, 2 * PAGE)], {}, "bytes apart"),
        ([entry(), LayoutGroup(0x1009, 1, 1, (1 << 64) - PAGE)], {}, "beyond the enclave"),
        ([entry(), LayoutGroup(0x1009, 1, 2, PAGE + 1)], {}, "bytes apart"),
        ([entry(), LayoutGroup(0x1009, 2, 2, PAGE)], {}, "more than there is"),
        ([entry(), LayoutGroup(0x1009, 0, 2, PAGE)], {}, "more than there is"),
        ([entry(), *[LayoutGroup(0x1009, 1, 2, PAGE)] * 2], {}, "another group"),
        ([entry(pages=2), entry(rva=RVA + PAGE)], {}, "overlap"),
        ([entry(rva=0)], {}, "overlap"),
        ([entry(), LayoutGroup(0x1009, 1, 9, PAGE), entry(rva=RVA + 4 * PAGE)], {}, "overlap"),
        ([entry(size=99, content=0, flags=TCS_PAGE, pages=2)], {}, "does not fit"),
        ([entry(size=PAGE + 1, content=0)], {"data": bytes(9000)}, "does not fit"),
        ([entry(size=HUGE, content=0)], {}, "outside the metadata"),
        ([entry(size=8, content=HUGE - 5000)], {}, "outside the metadata"),
        ([], {"enclave_size": 0}, "power of two"),
        ([], {"enclave_size": PAGE}, "power of two"),
        ([], {"enclave_size": 3 << 20}, "power of two"),
        ([], {"enclave_size": 2 * PAGE}, "beyond the enclave"),
        ([], {"version": (11, 5), "elrange": ElRange(0, PAGE, 1 << 30)}, "does not start"),
        ([], {"version": (11, 5), "elrange": ElRange(77, 0, 1 << 30)}, "does not start"),
        ([], {"version": (11, 5), "elrange": ElRange(1 << 30, 0, 1 << 30)}, "beyond"),
        ([], {"patches": [Patch(1 << 40, 0, 4)]}, "outside the file"),
        ([], {"patches": [Patch((1 << 64) - 1, 0, 4)]}, "outside the file"),
        ([], {"patches": [Patch(0, 0, HUGE)]}, "outside the metadata"),
        ([], {"patches": [Patch(0, HUGE - 5000, 9)]}, "outside the metadata"),
    ],
)
def test_what_no_loader_would_do_is_refused_before_hashing(layout, options, word):
    done: list[int] = []
    enclave = read(layout, **options)
    with pytest.raises(InputError, match=word) as caught:
        measure(enclave, done.append)
    assert not done
    assert caught.value.problem.startswith("x.so: ")
    assert caught.value.hint


def test_more_work_than_the_limit_is_refused_before_hashing():
    enclave = read([entry(ADD, HUGE)], enclave_size=1 << 50)
    done: list[int] = []
    with pytest.raises(InputError, match=r"256\.0 GiB of records.*limit is 0\.5 GiB"):
        measure(enclave, done.append, limit=1 << 29)
    assert not done
    with pytest.raises(InputError, match=r"limit is 128\.0 GiB"):
        measure(enclave)
    endless = read([entry(ADD), LayoutGroup(0x1009, 1, HUGE, 1 << 20)], enclave_size=1 << 63)
    with pytest.raises(InputError, match="limit"):
        measure(endless, limit=1 << 37)


def test_the_limit_is_for_one_block_and_exact():
    enclave = read([entry()])
    size = measured_bytes(enclave)
    assert measure(enclave, limit=size).hashed_bytes == size
    with pytest.raises(InputError, match="limit"):
        measure(enclave, limit=size - 1)


def test_extended_data_of_a_fips_build_is_refused():
    block = bytearray(make_block([entry()]))
    struct.pack_into("<II", block, 1872 + 24, 1904, 72)
    with pytest.raises(InputError, match="FIPS"):
        fast(with_blocks(PLAIN, bytes(block)))


def test_memory_does_not_grow_with_the_enclave():
    small = read([entry(BOTH, 1 << 8), entry(ADD, 1 << 8, 1 << 33)], enclave_size=1 << 40)
    large = read(
        [
            entry(BOTH, 1 << 13),
            entry(ADD, 1 << 20, 1 << 33),
            entry(BOTH, 40, 1 << 38),
            LayoutGroup(0x1009, 1, 1 << 7, 1 << 20),
            entry(BOTH, 1 << 12, 1 << 39),
            LayoutGroup(0x1009, 1, 4, 1 << 24),
        ],
        enclave_size=1 << 40,
    )
    measure(small)
    peaks = []
    for enclave in (small, large):
        tracemalloc.start()
        measure(enclave)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + (6 << 20)


def test_regions_are_told_in_order_with_what_is_not_loaded():
    layout = [
        entry(ADD, 4, RVA, kind=LayoutId.HEAP_MIN),
        entry(8, 9, RVA + 4 * PAGE, kind=LayoutId.HEAP_MAX),
        entry(BOTH, 1, 0x200000, len(TCS), 0, TCS_PAGE, LayoutId.TCS),
        entry(0, 16, 0x201000, flags=0, kind=LayoutId.GUARD),
        entry(BOTH, 2, 0x211000, 0, None, 0x207, 77),
        LayoutGroup(LayoutId.THREAD_GROUP, 3, 6, 0x20000),
    ]
    plan = load_plan(read(layout))
    names = ["data", "code", "data", "heap_min", "heap_max", "tcs", "guard", "region 77"]
    assert [region.name for region in plan.regions] == [*names, "tcs", "guard", "region 77"]
    heap, later, tcs, guard, last = plan.regions[3:8]
    assert (heap.added, heap.measured, heap.permissions) == (True, False, "RW-")
    assert (later.added, later.measured, later.pages) == (False, False, 9)
    assert (tcs.permissions, last.permissions, guard.permissions) == ("---", "RWX", "---")
    assert (plan.regions[8].start, plan.regions[8].count, plan.regions[8].step) == (
        0x220000,
        6,
        0x20000,
    )
    assert plan.threads == 7
    segments = sum(region.pages for region in plan.regions[:3])
    assert plan.required_memory == PAGE * (segments + 4 + 7 * 3)


@settings(max_examples=300)
@given(st.data())
def test_no_metadata_makes_it_fail_otherwise_or_work_for_long(data):
    block = bytearray(
        make_block(
            [
                entry(ADD, 4),
                entry(BOTH, 1, 0x200000, len(TCS), 0, TCS_PAGE),
                LayoutGroup(0x1009, 1, 6, 0x20000),
            ],
            patches=[Patch(60, 72, 2), Patch(40, 72, 8)],
            data=TCS + bytes(8),
        )
    )
    interesting = [*range(8, 64), *range(1872, len(block))]
    edges = st.sampled_from([0, 1, 0x7F, 0x80, 0xFF])
    for _ in range(data.draw(st.integers(1, 6))):
        block[data.draw(st.sampled_from(interesting))] = data.draw(edges | st.integers(0, 255))
    done: list[int] = []
    try:
        enclave = read_enclave(with_blocks(PLAIN, bytes(block)), "x.so")
        measure(enclave, done.append, limit=4 << 20)
    except ImagekitError as error:
        assert "\n" not in error.problem
        assert error.hint
    assert sum(done) <= 2 * (4 << 20)
