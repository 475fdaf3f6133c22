"""nybble beside its peers: what it is to be a multiple of. `make bench` runs it where they are.

Rates need the peers that `make bench-peers` builds (half an hour of turns, for three models); the
start, a Python that has llama-cpp-python, which $NYBBLE_PEER_PYTHON names.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import quiet
from tools import peers
from tools.peers import build, measure, start

ROUNDS = 9
DEPTHS = (0, 512, 2048, 4096)
# Figure -> least multiple of the strongest peer with one thread and with two.
SMOLLM2 = {"prefill 512": (1.2, 1.2), "decode at 0": (2.0, 1.6), "decode at 2,048": (1.5, 1.5)}
GEMMA3 = {"prefill 512": (1.1, 1.1), "decode at 0": (1.2, 1.2)}
QWEN = {"prefill 512": (1.1, 1.1)}  # whose decode the memory bounds: bench_model.py
# Model -> its fixture, the least multiples, and whether in the peers' best forms too: those of
# files with K-quants have fewer bytes than the file.
MODELS = {
    "smollm2-135m": ("smollm2_path", SMOLLM2, True),
    "gemma3-270m": ("gemma3_path", GEMMA3, False),
    "qwen2.5-coder-0.5b": ("qwen_coder_path", QWEN, False),
}
# Most that context costs, as a multiple of the peer to which it costs least. Of the first model
# alone: of the others it costs less than the memory's drift between two depths.
ATTENTION = {"smollm2-135m": 0.6}


def missed(result, goals, in_best_form, most_cost=None):
    """What a result of tools.peers.compare falls short of, as sentences."""
    threads, found = result["threads"], []
    found += [
        f"{row['side']} could not be measured on the file: {row['why']}"
        for row in result["failed"]
        if row["form"] == "file"
    ]
    rows = {(row["figure"], row["same_file"]): row for row in result["strongest"]}
    for figure, least in goals.items():
        for same_file in (True, False) if in_best_form else (True,):
            row = rows.get((figure, same_file))
            if row is None:
                found.append(f"{figure}: no peer was measured{' on the file' * same_file}")
            elif row["nybble_is"] < least[threads - 1]:
                form, wanted = f"{row['side']}, {row['form']}", least[threads - 1]
                found.append(f"{figure}: {row['nybble_is']:.2f} times {form}; wanted {wanted}")
    if most_cost is not None:
        cost = {(row["side"], row["form"]): row["ms"] for row in result["context"]}
        ours, least = cost.pop((measure.NYBBLE, "file")), min(cost.values())
        if ours > most_cost * least:
            wanted = f"{most_cost} times {least:.2f} wanted"
            found.append(f"1,000 tokens of context: {ours:.2f} ms; {wanted}")
    return found


@pytest.fixture(scope="module")
def drivers():
    """The peers' programs, if they are built: that takes half an hour by itself."""
    cache = build.default_cache()
    for peer in build.PEERS.values():
        if not (cache / f"{peer.name}-{peer.version}" / "driver").exists():
            pytest.skip(f"{peer.name} is not built: python -m tools.peers --build")
    return {peer: build.build(peer, cache, 1, print) for peer in build.PEERS.values()}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("model", MODELS)
def test_rates_beside_the_peers(benchmark, request, drivers, model, threads):
    fixture, goals, in_best_form = MODELS[model]
    path = Path(request.getfixturevalue(fixture))
    quiet.wait_until_quiet()
    plan = measure.Plan(threads, prompt=512, gen=64, depths=DEPTHS)
    arguments = (model, path, drivers, plan, ROUNDS, build.default_cache(), print)
    (result,) = benchmark.pedantic(peers.compare, args=arguments, rounds=1)
    benchmark.extra_info.update(strongest=result["strongest"], conditions=result["conditions"])
    if result["conditions"]["others_cpus"][1] > quiet.MOST_BUSY:
        pytest.skip(f"needs a quiet machine: {result['conditions']}")
    short = missed(result, goals, in_best_form, ATTENTION.get(model))
    assert not short, f"{short}; {result['conditions']}"


@pytest.mark.parametrize(("fixture", "least"), [("smollm2_path", 2), ("gemma3_path", 3)])
def test_the_first_token_beside_llama_cpp_python(benchmark, request, fixture, least):
    """From a cold process to the first token of a prompt of ten, the files in the page cache."""
    peer = os.environ.get("NYBBLE_PEER_PYTHON")
    if not peer:
        pytest.skip("set NYBBLE_PEER_PYTHON to a Python that has llama-cpp-python")
    path = request.getfixturevalue(fixture)
    quiet.wait_until_quiet()
    found = benchmark.pedantic(start.compare, args=(path, peer, 2, 7), rounds=1)
    benchmark.extra_info.update(found)
    assert found["peer_takes"] >= least, found["seconds"]
