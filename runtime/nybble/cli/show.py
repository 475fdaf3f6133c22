"""nybble show: what is in a model file."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from nybble import hub
from nybble.cli.terminal import fitted, megabytes, printable

if TYPE_CHECKING:
    from nybble.formats.gguf import GgufFile, GgufLongText, GgufTensor
    from nybble.formats.packed import PackedFile, Source

_EXAMPLES = """\
examples:
  nybble show smollm2-135m
  nybble show ./model.gguf
  nybble show ./model.gguf --json | python3 -m json.tool

"bytes per token" is what decoding one token reads: each matrix once. A table of embeddings is
read by the row and counts only where it is the output matrix as well. Of a packed file it shows
the model's own metadata, formats and shapes, and what it was packed from.
"""
_FIRST = 4  # elements that stand for a long array
_TEXT = 64  # characters that stand for a long string
_LOOKUPS = ("token_embd.weight", "position_embd.weight", "token_types.weight")


def add_parser(verbs: Any) -> None:
    """Describe `nybble show` to argparse."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "show",
        help="show what is in a model file",
        description="Show a model file's metadata, tensors, formats, and what a token reads.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("model", metavar="MODEL", help="a known name, a .gguf file or a .nyb file")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out `nybble show`."""
    path = hub.resolve(args.model)

    from nybble import packing  # loads extension modules

    with packing.open_file(path) as file:
        if args.json:
            print(json.dumps(_as_json(file), allow_nan=False))
        else:
            for line in _as_text(file):
                print("\n".join(fitted(line, sys.stdout)))
    return 0


def formats(tensors: Iterable[GgufTensor]) -> dict[str, tuple[int, int]]:
    """Tensor count and bytes of each format, the largest share first."""
    totals: dict[str, tuple[int, int]] = {}
    for tensor in tensors:
        count, nbytes = totals.get(str(tensor.format), (0, 0))
        totals[str(tensor.format)] = (count + 1, nbytes + tensor.nbytes)
    return dict(sorted(totals.items(), key=lambda item: -item[1][1]))


def parameter_count(tensors: Iterable[GgufTensor]) -> int:
    """Number of stored weights, a table that serves as embedding and head counted once."""
    return sum(math.prod(tensor.shape) for tensor in tensors)


def bytes_per_token(tensors: Mapping[str, GgufTensor], metadata: Mapping[str, Any]) -> int:
    """Bytes of weights that decoding one token reads.

    Every 2-D weight once. The token embedding counts if there is no `output.weight`, because it
    is the output matrix then; other tables are read by the row. Of a 3-D weight, the matrices of
    a mixture's experts, the share that `expert_used_count` gives.
    """
    family = metadata.get("general.architecture")
    used = metadata.get(f"{family}.expert_used_count", 1)
    experts = metadata.get(f"{family}.expert_count", 1)
    total = 0
    for name, tensor in tensors.items():
        is_head = name == "token_embd.weight" and "output.weight" not in tensors
        if len(tensor.shape) < 2 or (name in _LOOKUPS and not is_head):
            continue
        is_mixture = len(tensor.shape) == 3 and isinstance(used, int) and isinstance(experts, int)
        total += tensor.nbytes * used // max(experts, 1) if is_mixture else tensor.nbytes
    return total


def _source(file: GgufFile | PackedFile) -> Source | None:
    """What a packed file was packed from."""
    return getattr(file, "source", None)


def _as_text(file: GgufFile | PackedFile) -> Iterable[str]:
    source = _source(file)
    kind = f"GGUF {file.version}" if source is None else "packed"
    yield f"{printable(str(file.path))}: {kind}, {megabytes(file.nbytes)}"
    if source is not None:
        # Whether that is there is not asked: it may be any path, on a network too.
        yield f"packed from {printable(source.path)}, {megabytes(source.nbytes)}"
    yield ""
    yield f"metadata ({len(file.metadata)})"
    width = max((len(printable(key)) for key in file.metadata), default=0)
    for key, value in file.metadata.items():
        yield f"  {printable(key):<{width}}  {_short(value)}"
    yield ""
    yield f"tensors ({len(file.tensors)})"
    width = max((len(printable(name)) for name in file.tensors), default=0)
    for name, tensor in file.tensors.items():
        shape = " x ".join(str(size) for size in tensor.shape)
        label = f"{printable(name):<{width}}  {printable(str(tensor.format)):<6}"
        yield f"  {label}  {shape:>16}  {tensor.nbytes:>12,} bytes"
    yield ""
    yield "formats"
    for name, (count, nbytes) in formats(file.tensors.values()).items():
        yield f"  {printable(name):<6}  {count:>5} tensors  {nbytes:>14,} bytes"
    yield ""
    yield f"parameters       {parameter_count(file.tensors.values()):,}"
    yield f"bytes per token  {bytes_per_token(file.tensors, file.metadata):,}"


def _as_json(file: GgufFile | PackedFile) -> dict[str, Any]:
    tensors = file.tensors.values()
    source = _source(file)
    return {
        "path": str(file.path),
        "version": file.version,
        "alignment": file.alignment,
        "nbytes": file.nbytes,
        "source": source
        and {
            "path": source.path,
            "nbytes": source.nbytes,
            "crc32": f"{source.crc32:08x}",
        },
        "metadata": {key: _plain(value) for key, value in file.metadata.items()},
        "tensors": [
            {
                "name": tensor.name,
                "format": str(tensor.format),
                "shape": list(tensor.shape),
                "offset": tensor.offset,
                "nbytes": tensor.nbytes,
            }
            for tensor in tensors
        ],
        "formats": {
            name: {"tensors": count, "nbytes": nbytes}
            for name, (count, nbytes) in formats(tensors).items()
        },
        "parameters": parameter_count(tensors),
        "bytes_per_token": bytes_per_token(file.tensors, file.metadata),
    }


def _is_array(value: Any) -> bool:
    return hasattr(value, "element_type")


def _is_long(value: Any) -> bool:
    return hasattr(value, "raw") and not _is_array(value)


def _first(text: GgufLongText) -> str:
    return str(text.raw[: 4 * _TEXT], errors="replace")[:_TEXT]


def _short(value: Any) -> str:
    """A metadata value on one line: a long array by its first elements, a long string likewise."""
    if _is_array(value):
        first = ", ".join(_short(value[i]) for i in range(min(_FIRST, len(value))))
        more = ", ..." if len(value) > _FIRST else ""
        return f"{value.element_type}[{len(value)}] {first}{more}"
    if _is_long(value):
        return f'"{printable(_first(value))}"... ({len(value.raw):,} bytes)'
    if not isinstance(value, str):
        return str(value)
    quoted = '"' + printable(value[:_TEXT]) + '"'
    return quoted if len(value) <= _TEXT else f"{quoted}... ({len(value):,} characters)"


def _plain(value: Any) -> Any:
    """A metadata value for JSON: arrays and very long texts by type, length and what comes first,
    NaN as a string."""
    if _is_array(value):
        first = [_plain(value[i]) for i in range(min(_FIRST, len(value)))]
        return {"type": str(value.element_type), "length": len(value), "first": first}
    if _is_long(value):
        return {"type": "string", "length": len(value.raw), "first": _first(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
