"""The engine in a static C program without Python: the same bits, and clean under sanitizers."""

import re
import subprocess

import pytest
from sanitized import COMMAND, LEVELS

import nybble
from nybble._core.program import BY_BLOCKS, ENDS_PHASE, OPS
from targets.build import build_program
from tools import replay
from tools.tiny_model import tiny_model

FAMILIES = {
    "llama": {"dim": 96, "heads": 6},
    "qwen2": {"dim": 64, "heads": 4},
    "gemma3": {"heads": 4, "head_dim": 48, "window": 40},
}
# whose heads' parts are so many that threads share them from the first page on
MANY_HEADS = {"qwen3": {"dim": 64, "heads": 32, "head_dim": 128, "layers": 1}}


@pytest.fixture(scope="module", params=[(family, "f16") for family in FAMILIES]
                + [("llama", "v8"), ("gemma3", "int8")], ids=" ".join)  # fmt: skip
def dumped(tmp_path_factory, request):
    """A tiny model's program with 300 tokens, so that attention crosses pages and windows."""
    family, kv = request.param
    folder = tmp_path_factory.mktemp("replay")
    return dump(folder, family, 300, 50, kv)


def dump(folder, family, tokens, rows, kv="f16"):
    numbers = {"family": family, "kv_heads": 2, "seed": 3, **(FAMILIES | MANY_HEADS)[family]}
    tiny_model(folder / "tiny.gguf", **numbers)
    ids = [(i * 31 + i // 7) % 323 for i in range(tokens)]
    replay.dump(nybble.load(folder / "tiny.gguf").weights, ids, rows, folder / "dumped", kv)
    return folder / "dumped"


@pytest.fixture(scope="module")
def program(tmp_path_factory, objects):
    out = tmp_path_factory.mktemp("static") / "replay"
    replay.build(out, objects=objects)
    return out


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory, objects):
    out = tmp_path_factory.mktemp("sanitized") / "replay"
    build_program(out, replay.SOURCES, COMMAND, objects, only=LEVELS)
    return out


def run(program, *args):
    return subprocess.run([str(program), *map(str, args)], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("threads", "chunk"),
    [(1, 1), (1, 16), (1, 300), (2, 7), (2, 300), (3, 1), (3, 16), (5, 2), (5, 7), (64, 300)],
)
def test_a_static_program_replays_the_same_bits(program, dumped, threads, chunk):
    done = run(program, dumped, threads, "ref", chunk)
    assert done.stdout == "equal: 0 of 16150 logits differ\n"
    assert done.returncode == 0


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("chunk", [1, 7, 300])
def test_batches_of_sequences_give_each_the_same_bits(program, dumped, threads, chunk):
    """Behind the last keys and values goes on what is wanted: here a token of each sequence."""
    done = run(program, dumped, threads, "ref", chunk, 3)
    assert done.stdout == "equal: 0 of 48450 logits differ\n"
    assert done.returncode == 0


@pytest.mark.parametrize(("threads", "chunk"), [(1, 16), (5, 7)])
def test_the_engine_is_clean_under_sanitizers(sanitized, dumped, threads, chunk):
    done = run(sanitized, dumped, threads, "ref", chunk)
    assert done.stderr == ""
    assert done.returncode == 0


def test_one_flipped_bit_is_seen(program, dumped, tmp_path):
    data = bytearray(dumped.read_bytes())
    data[len(data) // 2] ^= 1  # in the weights
    (tmp_path / "flipped").write_bytes(data)
    done = run(program, tmp_path / "flipped")
    assert done.stdout.startswith("DIFFERENT")
    assert done.returncode == 1


@pytest.fixture(scope="module")
def damage(tmp_path_factory, objects):
    out = tmp_path_factory.mktemp("damage") / "damage"
    sources = ["tests/engine/damage.c", "tools/replay/dump.c"]
    build_program(out, sources, COMMAND, objects, only=LEVELS)
    return out


@pytest.mark.parametrize("family", ["qwen2", "gemma3", "qwen3"])
def test_a_damaged_program_never_leaves_its_arenas(damage, tmp_path, monkeypatch, family):
    """Steps, buffers, attentions and ropes with a field overwritten: refused, or run within
    bounds."""
    for sanitizer in ("ASAN", "UBSAN"):  # whose exit code else is 1, as where logits differ
        monkeypatch.setenv(f"{sanitizer}_OPTIONS", "exitcode=99")
    done = run(damage, dump(tmp_path, family, 5, 2))
    assert done.returncode == 0, done.stderr[-4000:]
    refused, tried = map(int, done.stdout.split(" of "))
    assert 100 < refused < tried


def words_of(data, section):
    """Where a section's bytes begin, and how many there are."""
    begin = 64
    for _ in range(section):
        begin += 64 + -(-int.from_bytes(data[begin : begin + 8], "little") // 64) * 64
    return begin + 64, int.from_bytes(data[begin : begin + 8], "little")


@pytest.mark.parametrize(
    ("at", "value", "complaint"),
    [
        (12, 0, "pages"),  # max_pages
        (12, 2**31, "pages"),
        (24, 2**31, "wrong size"),  # n_ids
        (28, 0, "wrong size"),  # n_rows
        (32, 3, "unknown type"),  # kv
        (64, 2**31, "cut off"),  # the length of the steps
        (68, 2**31, "cut off"),  # and its high bits
        (64, 55, "cut off|whole structs|wrong size"),
    ],
)
def test_a_header_that_lies_is_refused(program, dumped, tmp_path, at, value, complaint):
    data = bytearray(dumped.read_bytes())
    data[at : at + 4] = value.to_bytes(4, "little")
    (tmp_path / "broken").write_bytes(data)
    done = run(program, tmp_path / "broken")
    assert done.returncode == 2
    assert re.search(complaint, done.stderr)


STEP_BYTES, BUFFER_BYTES = 56, 24


def refusal(program, dumped, tmp_path, op, change):
    """What is said of a dumped program after change(its bytes, where the first step `op` is)."""
    data = bytearray(dumped.read_bytes())
    begin, length = words_of(data, 0)
    steps = range(begin, begin + length, STEP_BYTES)
    change(data, next(at for at in steps if data[at] == OPS[op]))
    (tmp_path / "broken").write_bytes(data)
    done = run(program, tmp_path / "broken", 3)
    assert done.returncode == 2
    return done.stderr.removeprefix("replay: ").rstrip("\n")


def test_blocks_are_read_only_where_blocks_are_written(sanitized, dumped, tmp_path):
    """Other numbers taken for blocks have sums that no block has, and products overflow."""

    def change(data, at):
        residual_stream = 0
        data[at + 20 : at + 24] = residual_stream.to_bytes(4, "little")  # nyb_step.in

    said = refusal(sanitized, dumped, tmp_path, "matmul", change)
    assert said == "a step's buffer is for numbers of another kind"


def test_joined_heads_go_where_each_thread_has_a_row(sanitized, dumped, tmp_path):
    def change(data, _):
        buffers, attentions = words_of(data, 1)[0], words_of(data, 2)[0]
        out = int.from_bytes(data[attentions + 32 : attentions + 36], "little")
        data[buffers + BUFFER_BYTES * out + 8] = 0  # nyb_buffer.replicated

    said = refusal(sanitized, dumped, tmp_path, "combine", change)
    assert said == "a buffer is not written by the kind of step that it is for"


def test_heads_are_joined_first_in_a_phase(sanitized, dumped, tmp_path):
    def change(data, at):
        behind = at + STEP_BYTES
        data[at : behind + STEP_BYTES] = data[behind : behind + STEP_BYTES] + data[at:behind]

    said = refusal(sanitized, dumped, tmp_path, "combine", change)
    assert said == "a phase joins pages behind another step"


@pytest.mark.parametrize(
    ("steps_before", "complaint"),
    [
        (0, "a share is quantized by whole blocks"),
        (1, "the units of a phase are divided in two ways"),
    ],
)
def test_who_quantizes_has_made_it(sanitized, dumped, tmp_path, steps_before, complaint):
    """Else a thread would quantize what another is still writing."""

    def change(data, at):
        data[at - steps_before * STEP_BYTES + 4] &= ~BY_BLOCKS  # nyb_step.flags

    assert refusal(sanitized, dumped, tmp_path, "quantize_share", change) == complaint


@pytest.mark.parametrize("field", [8, 9])  # of nyb_step: unit, n_units
def test_a_share_is_of_what_the_step_before_made(sanitized, dumped, tmp_path, field):
    def change(data, at):
        for step in (at - STEP_BYTES, at):
            data[step + 36] |= 64  # n_units: there is room for what follows
        data[at - STEP_BYTES + 4 * field] += 4

    said = refusal(sanitized, dumped, tmp_path, "quantize_share", change)
    assert said == "a share is quantized that the step before has not made"


def test_nothing_comes_behind_a_share_that_is_quantized(sanitized, dumped, tmp_path):
    def change(data, at):
        data[at + 4] &= ~ENDS_PHASE

    said = refusal(sanitized, dumped, tmp_path, "quantize_share", change)
    assert said == "a phase goes on behind a share that is quantized"


def test_shares_of_blocks_are_of_whole_ones(sanitized, dumped, tmp_path):
    def change(data, at):
        data[at + 36] += 1  # nyb_step.n_units

    said = refusal(sanitized, dumped, tmp_path, "quantize_share", change)
    assert said == "units that are divided by blocks are not of whole ones"
