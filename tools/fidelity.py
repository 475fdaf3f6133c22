"""How far a program's logits are from float32's: one formula for every program.

P is float32's distribution over a vocabulary, Q the other's, both the softmax of logits. At
each position the ids are cut into P's `TOP` likeliest and one bucket, the tail, with all the
others, and

    KL(P || Q) = sum over the top ids of P log(P / Q)  +  P_tail log(P_tail / Q_tail)    [nats]

Putting ids into one bucket can only lower a KL divergence (the log-sum inequality), by little
where the tail has little mass; it lets a golden file hold 128 numbers a position and not a
vocabulary. `FORMULA` names this definition in golden files.

Two programs on the same positions are compared by the ratio of their mean KLs, with a paired
bootstrap interval: positions are drawn with replacement, the same for both sides, and the
ratio's percentiles are the interval (Efron and Tibshirani, An Introduction to the Bootstrap,
1993, chapter 13). Positions of one text are not independent, so the interval says how much the
choice of positions matters, not how another text would come out.

Everything here is float64.

    python -m tools.fidelity GOLDEN.npz MODEL.gguf         # nybble's figures beside llama.cpp's
    python -m tools.fidelity GOLDEN.npz MODEL.gguf --kv    # what storing keys and values so costs

docs/fidelity.md has the commands that make a golden file, and what was seen.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

import nybble
from tools import oracle

TOP = 128
FORMULA = "kl-top128-tail-nats"
RESAMPLES = 2000
CONFIDENCE = 0.95


class Reference(NamedTuple):
    """What is kept of P: arrays of one row a position."""

    ids: np.ndarray  # (T, TOP) likeliest first, equals by the lower id
    log_p: np.ndarray  # (T, TOP) natural logarithms
    log_tail: np.ndarray  # (T,) of all other ids' mass; -inf where there are none


class Golden(NamedTuple):
    """A golden file: ids of texts, float32's distributions over them, llama.cpp's figures."""

    tokens: np.ndarray  # (T,) the ids of all texts, one after another
    starts: np.ndarray  # (texts,) where each begins: position 0 of a run of its own
    reference: Reference
    llama_cpp_kl: np.ndarray  # (T,)
    llama_cpp_argmax: np.ndarray  # (T,)
    about: dict  # how it was made: versions, hashes, settings

    def texts(self) -> list[np.ndarray]:
        """The ids of each text."""
        return np.split(self.tokens, self.starts[1:])


class Comparison(NamedTuple):
    """A program's figures over a golden file's positions."""

    kl: np.ndarray  # (T,) nats
    kl_mean: float
    top1: float  # share of positions whose likeliest id is float32's
    llama_cpp_kl_mean: float
    llama_cpp_top1: float
    ratio: float  # kl_mean / llama_cpp_kl_mean
    ratio_interval: tuple[float, float]  # of CONFIDENCE


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log of the softmax over the last axis; float64 whatever comes in."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def reference(logits: np.ndarray, top: int = TOP) -> Reference:
    """Keep of `logits` (T, vocab) what the formula needs, P's side of it.

    Logarithms are kept as float32: a relative error of 2^-24 in a logarithm, which moves a
    position's KL by less than 1e-6.
    """
    rows = [_reference_row(row, top) for row in logits]
    ids, log_p, log_tail = (np.stack(column) for column in zip(*rows, strict=True))
    return Reference(ids, log_p.astype(np.float32), log_tail.astype(np.float32))


def _reference_row(row: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    log_p = log_softmax(row)
    kept = min(top, len(log_p))
    least = np.partition(log_p, -kept)[-kept]
    candidates = np.flatnonzero(log_p >= least)  # more than `kept` where some equal the least
    best = np.argsort(-log_p[candidates], kind="stable")[:kept]
    ids = candidates[best].astype(np.uint32)
    return ids, log_p[ids], _log_rest(log_p, ids)


def _log_rest(log_p: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """log of the mass outside `ids`, summed and not subtracted from 1: it may be small."""
    rest = np.ones(log_p.shape, bool)
    rest[ids] = False
    with np.errstate(divide="ignore"):  # no mass at all is -inf
        return np.log(np.exp(log_p[rest]).sum())


def kl_divergence(p: Reference, t: int, logits: Sequence[float] | np.ndarray) -> float:
    """KL(P || Q) in nats at position t, where Q is the softmax of `logits` (vocab,)."""
    log_q = log_softmax(np.asarray(logits))
    ids = p.ids[t]
    log_p = np.append(p.log_p[t], p.log_tail[t]).astype(np.float64)
    log_q = np.append(log_q[ids], _log_rest(log_q, ids))
    held = log_p > -np.inf  # 0 log 0 is 0
    return float(np.sum(np.exp(log_p[held]) * (log_p[held] - log_q[held])))


def ratio_interval(
    kl: np.ndarray,
    other: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[float, float]:
    """Paired bootstrap interval of mean(kl) / mean(other), both (T,)."""
    rng = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    for i in range(resamples):
        drawn = rng.integers(len(kl), size=len(kl))
        ratios[i] = kl[drawn].mean() / other[drawn].mean()
    outside = (1 - confidence) / 2
    low, high = np.quantile(ratios, [outside, 1 - outside])
    return float(low), float(high)


def compare(golden: Golden, logits_rows: Iterable[Sequence[float] | np.ndarray]) -> Comparison:
    """A program's logits over `golden.tokens` against float32's and beside llama.cpp's.

    logits_rows : (vocab,) rows of numbers or buffers of float32, one a position from 0, or a
                  (T, vocab) array; taken one by one, so they need not exist at once
    Raises ValueError where there are more or fewer rows than tokens, or a logit is not finite.
    """
    p = golden.reference
    kl, argmax = [], []
    for t, row in enumerate(logits_rows):
        if t == len(golden.tokens):
            raise ValueError(f"more than the golden file's {t} rows of logits")
        row = np.asarray(row)
        if not np.isfinite(row).all():
            raise ValueError(f"a logit at position {t} is not finite")
        kl.append(kl_divergence(p, t, row))
        argmax.append(int(row.argmax()))
    if len(kl) != len(golden.tokens):
        raise ValueError(f"{len(kl)} rows of logits for {len(golden.tokens)} tokens")

    own, theirs = np.array(kl), golden.llama_cpp_kl
    best = p.ids[:, 0]
    return Comparison(
        kl=own,
        kl_mean=float(own.mean()),
        top1=float(np.mean(best == argmax)),
        llama_cpp_kl_mean=float(theirs.mean()),
        llama_cpp_top1=float(np.mean(best == golden.llama_cpp_argmax)),
        ratio=float(own.mean() / theirs.mean()),
        ratio_interval=ratio_interval(own, theirs),
    )


def logits_rows(model: nybble.Model, golden: Golden) -> Iterator[np.ndarray]:
    """The model's logits over `golden`, a row a position, for `compare`; one text's are in memory
    at a time."""
    for ids in golden.texts():
        yield from np.asarray(model.logits(ids, all=True))


def check_model(golden: Golden, path: str | Path) -> None:
    """Raises ValueError where `golden` was made with another model file than `path`."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != golden.about["model_sha256"]:
        raise ValueError(f"{path} is not the golden file's {golden.about['model_file']}")


def save_golden(path: str | Path, golden: Golden) -> None:
    """Write a golden file (NumPy's .npz). Ids are held in 16 bits where they all fit."""
    p = golden.reference
    small = np.uint16 if max(p.ids.max(), golden.tokens.max()) < 2**16 else np.uint32
    np.savez_compressed(
        path,
        tokens=golden.tokens.astype(small),
        starts=golden.starts.astype(np.uint32),
        ids=p.ids.astype(small),
        log_p=p.log_p.astype(np.float32),
        log_tail=p.log_tail.astype(np.float32),
        llama_cpp_kl=golden.llama_cpp_kl.astype(np.float64),
        llama_cpp_argmax=golden.llama_cpp_argmax.astype(small),
        about=np.array(json.dumps(golden.about, indent=1)),
    )


def load_golden(path: str | Path) -> Golden:
    """Read a golden file. Raises ValueError where it was made by another formula."""
    with np.load(path) as file:
        about = json.loads(file["about"].item())
        if about["formula"] != FORMULA:
            raise ValueError(f"{path} is of formula {about['formula']}, this is {FORMULA}")
        return Golden(
            tokens=file["tokens"],
            starts=file["starts"],
            reference=Reference(file["ids"], file["log_p"], file["log_tail"]),
            llama_cpp_kl=file["llama_cpp_kl"],
            llama_cpp_argmax=file["llama_cpp_argmax"],
            about=about,
        )


def report(golden: Golden, got: Comparison) -> str:
    """The figures as lines of text: all positions, then each text's mean KL and ratio."""
    low, high = got.ratio_interval
    lines = [
        f"{len(got.kl)} positions of {len(golden.starts)} texts, {golden.about['model_file']}",
        "           mean KL  top-1 like float32's",
        f"llama.cpp {got.llama_cpp_kl_mean:.6f}  {got.llama_cpp_top1:.2%}",
        f"nybble    {got.kl_mean:.6f}  {got.top1:.2%}",
        f"ratio     {got.ratio:.3f} ({low:.3f} to {high:.3f}, {CONFIDENCE:.0%})",
    ]
    parts = zip(
        golden.about["texts"],
        *(np.split(kl, golden.starts[1:]) for kl in (got.kl, golden.llama_cpp_kl)),
        strict=True,
    )
    for name, own, theirs in parts:
        ratio = own.mean() / theirs.mean()
        lines.append(f"  {name}: {own.mean():.6f} / {theirs.mean():.6f} = {ratio:.3f}")
    return "\n".join(lines)


def kv_report(golden: Golden, path: Path) -> str:
    """What each way to store keys and values costs, as lines of text: added to float32, where
    nothing else is rounded; and in nybble, whose figures differ by as much wherever anything is
    rounded otherwise, beside its own with halves."""
    lines = [
        f"{len(golden.tokens)} positions of {len(golden.starts)} texts, "
        + golden.about["model_file"],
        "      float32 with it  nybble with it  ratio to f16",
    ]
    halves = None
    for kv in ("f16", "v8", "int8"):
        alone = compare(golden, float32_rows(golden, path, kv)).kl_mean
        got = compare(golden, logits_rows(nybble.load(path, kv=kv), golden))
        halves = got.kl if halves is None else halves
        low, high = ratio_interval(got.kl, halves)
        ratio = got.kl_mean / halves.mean()
        lines.append(
            f"{kv:<5} {alone:15.7f} {got.kl_mean:15.6f}  {ratio:.3f} ({low:.3f} to {high:.3f})"
        )
    return "\n".join(lines)


def float32_rows(golden: Golden, path: str | Path, kv: oracle.KvType) -> Iterator[np.ndarray]:
    """Float32's logits over `golden`, with keys and values of that type."""
    for ids in golden.texts():
        yield from oracle.logits(path, ids.tolist(), kv=kv)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("golden", type=Path, help="made by tools/make_fidelity_goldens.py")
    parser.add_argument("model", type=Path, help="the GGUF file that it was made with")
    parser.add_argument("--kv", action="store_true", help="compare how keys and values are stored")
    args = parser.parse_args(arguments)
    golden = load_golden(args.golden)
    check_model(golden, args.model)
    if args.kv:
        print(kv_report(golden, args.model))
        return
    got = compare(golden, logits_rows(nybble.load(args.model), golden))
    print(report(golden, got))


if __name__ == "__main__":
    main()
