"""From a tree of parts to a program: the flat array of steps that the C runner executes.

`lower(tree, formats)` says of a `nybble.archs.Decoder` which steps it is, in which buffers, and
where each tensor goes in the packed weights: in the order in which a token reads them. A layer
becomes five phases, which is what a small model's speed depends on:

    1  add what the last branch gave, norm, quantize; q, k and v
    2  attention (a phase earlier, if there are several tokens: their keys and values)
    3  join the pages, quantize; output projection
    4  add it, norm, quantize; gate, up, activation, and each thread's share of that as blocks
    5  down

What comes behind the last layer's keys and values is done for those tokens alone of which something
is wanted: of a prompt, for its last.

The residual stream is written by row steps alone, so with one token every thread has its own and
needs no barrier to change it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from nybble._core.native import formats as packable
from nybble._core.program import (
    BLOCK,
    BY_BLOCKS,
    ENDS_PHASE,
    FLOATS,
    HOLDS_FLOATS,
    HOLDS_Q8,
    HOLDS_Q16,
    ON_HIDDEN,
    ON_LOGITS,
    ON_WANTED,
    Q8_BYTES,
    Q16_BYTES,
    TILE_ROWS,
    VECTOR,
)
from nybble.archs import MOST, Attention, Block, Decoder, Rope
from nybble.errors import FormatError

Fields = dict[str, Any]  # of a struct of nyb_program.h, by name


class Activations(NamedTuple):
    """A matrix's input, in two buffers: as floats, and as the blocks that it is quantized to."""

    floats: int
    blocks: int
    bits: int = 8
    flags: int = 0  # of the steps that make and read it


class Placement(NamedTuple):
    """Where a tensor goes: bytes `offset` .. `offset + nbytes` of the weights.

    format     : GGUF's type number
    rows, cols : of the matrix; a vector has rows = 0
    head_dim, rope_dims : if rope_dims > 0, the rows (of a vector: the elements) are heads of
                 head_dim whose first rope_dims come as pairs (2i, 2i + 1), and are packed as
                 halves (i, i + rope_dims / 2)
    scale      : of a vector, whose elements are multiplied by it
    """

    name: str
    format: int
    rows: int
    cols: int
    offset: int
    nbytes: int
    head_dim: int
    rope_dims: int
    scale: float


class Buffer(NamedTuple):
    """The fields of nyb_buffer."""

    row_bytes: int
    on_logits: bool = False
    replicated: bool = False
    holds: int = HOLDS_FLOATS
    part_of: int = 0
    offset: int = 0


class Lowered:
    """What a program is made of, while it is being made.

    steps, attentions : fields of nyb_step and nyb_attention
    ropes             : (number of pairs, index of the first in turns)
    placements        : by name, in the order of reading
    """

    def __init__(self, formats: Mapping[str, str], vocab: int):
        self.formats = formats
        self.vocab = vocab
        self.steps: list[Fields] = []
        self.buffers: list[Buffer] = []
        self.attentions: list[Fields] = []
        self.ropes: list[tuple[int, int]] = []
        self.turns: list[int] = []
        self.placements: dict[str, Placement] = {}
        self.weights_bytes = 0
        self.logits = 0  # buffer
        self.hidden = 0  # buffer
        self.dim = 0  # of a hidden state
        self._known_ropes: dict[Rope, tuple[int, int]] = {}

    # -- buffers and weights

    def buffer(
        self,
        row_bytes: int,
        replicated: bool = False,
        on_logits: bool = False,
        holds: int = HOLDS_FLOATS,
    ) -> int:
        self.buffers.append(Buffer(_aligned(row_bytes), on_logits, replicated, holds))
        return len(self.buffers) - 1

    def floats(self, n: int, replicated: bool = False, on_logits: bool = False) -> int:
        return self.buffer(4 * _tiles(n) * TILE_ROWS, replicated, on_logits)

    def side_by_side(self, *lengths: int) -> list[int]:
        """Buffers of so many floats, side by side in the rows of one: matrices that are one in the
        weights write there in one call."""
        whole = self.buffer(sum(_aligned(4 * n) for n in lengths))
        offset = 0
        for n in lengths:
            part = self.buffers[whole]._replace(part_of=whole + 1, offset=offset)
            self.buffers.append(part)
            offset += _aligned(4 * n)
        return list(range(whole + 1, len(self.buffers)))

    def blocks(self, n: int, replicated: bool = False) -> int:
        """A buffer of nyb_q8: rows of whole blocks, so that a stride can be told in blocks."""
        return self.buffer(_aligned(n // BLOCK, 4) * Q8_BYTES, replicated, holds=HOLDS_Q8)

    def matrix(self, name: str, rows: int, cols: int, heads: Attention | None = None) -> Fields:
        """Places a matrix; returns the fields of a step that reads it. heads: its rows are those
        of heads that rotate."""
        format, known = self.formats[name], packable()
        if format not in known:
            raise FormatError(f"{name} is {format}; this version runs {', '.join(known)} matrices")
        number, block_cols, block_bytes, _ = known[format]
        of_blocks = max(block_cols, BLOCK)
        if cols % of_blocks:
            raise FormatError(f"{name} has {cols} columns, which is not a multiple of {of_blocks}")
        nbytes = _tiles(rows) * TILE_ROWS * cols // block_cols * block_bytes
        offset = self._place(name, number, rows, cols, nbytes, heads, 1.0)
        return {"format": number, "rows": rows, "cols": cols, "weights": offset}

    def vector(
        self, name: str, n: int, heads: Attention | None = None, scale: float = 1.0
    ) -> Fields:
        """Places a vector of floats; returns the fields of a step that reads it."""
        if self.formats[name] != "F32":
            raise FormatError(f"{name} is {self.formats[name]}; vectors must be F32")
        return {"rows": n, "weights": self._place(name, VECTOR, 0, n, 4 * n, heads, scale)}

    def _place(
        self,
        name: str,
        format: int,
        rows: int,
        cols: int,
        nbytes: int,
        heads: Attention | None,
        scale: float,
    ) -> int:
        """Gives a tensor its place in the weights; one that has a place keeps it."""
        if name not in self.placements:
            turned = (0, 0)
            if heads is not None and heads.rope.layout == "pairs":
                turned = (heads.head_dim, heads.rope.dims)
            self.placements[name] = Placement(
                name, format, rows, cols, self.weights_bytes, nbytes, *turned, scale
            )
            self.weights_bytes += _aligned(nbytes)
        return self.placements[name].offset

    def forget_weights(self) -> None:
        """Takes all places back: tensors are placed when they are next asked for."""
        self.placements.clear()
        self.weights_bytes = 0

    # -- steps

    def step(self, op: str, **fields: Any) -> None:
        self.steps.append({"op": op, **fields})

    def end_phase(self) -> None:
        self.steps[-1]["flags"] = self.steps[-1].get("flags", 0) | ENDS_PHASE

    def norm(
        self,
        name: str,
        source: int,
        out: int,
        n: int,
        eps: float,
        flags: int = 0,
        scale: float = 1.0,
    ) -> None:
        fields = self.vector(name, n, scale=scale)
        self.step("norm", **{"in": source}, out=out, value=eps, flags=flags, **fields)

    def add(self, source: int, out: int, n: int, flags: int = 0) -> None:
        self.step("add", **{"in": source}, out=out, rows=n, flags=flags)

    def quantize(self, activations: Activations, n: int, *matrices: Fields) -> None:
        """The activations as blocks, if any of the matrices that they meet is quantized."""
        if any(matrix["format"] not in FLOATS for matrix in matrices):
            floats, blocks, bits, flags = activations
            op = "quantize16" if bits == 16 else "quantize"
            self.step(op, **{"in": floats}, out=blocks, rows=n, flags=flags)

    def matmul(
        self, matrix: Fields, activations: Activations, out: int, unit: int, n_units: int
    ) -> None:
        floats, blocks, bits, flags = activations
        op, source = ("matmul16" if bits == 16 else "matmul"), blocks
        if matrix["format"] in FLOATS:
            op, source = "matmul32", floats
        units = {"unit": unit, "n_units": n_units}
        self.step(op, **{"in": source}, out=out, flags=flags, **units, **matrix)

    def rope(self, rope: Rope) -> tuple[int, int]:
        """The number of a rope and of the buffer its angles are in, computed where it is first
        asked for."""
        if rope not in self._known_ropes:
            turns = rope.turns()
            angles = self.buffer(8 * len(turns), replicated=True)
            self.ropes.append((len(turns), len(self.turns)))
            self.turns.extend(turns)
            self.step("rope_angles", index=len(self.ropes) - 1, out=angles)
            self._known_ropes[rope] = len(self.ropes) - 1, angles
        return self._known_ropes[rope]


def lower(tree: Decoder, formats: Mapping[str, str]) -> Lowered:
    """The program of a model. formats: tensor name -> GGUF format name ("Q4_1"), of every tensor
    in tree.tensors(). FormatError if a shape or format is one that no kernel takes."""
    _check(tree)
    return _Lowering(tree, formats).low


def _aligned(n: int, to: int = 64) -> int:
    return (n + to - 1) // to * to


def _tiles(rows: int) -> int:
    return (rows + TILE_ROWS - 1) // TILE_ROWS


def _check(tree: Decoder) -> None:
    """What the kernels need of a tree's numbers, in the words of who made the file."""
    if tree.dim % BLOCK:
        raise FormatError(f"embedding_length {tree.dim} is not a multiple of {BLOCK}")
    for block in tree.blocks:
        a = block.attention
        if a.heads % a.kv_heads:
            raise FormatError(f"{a.heads} query heads do not divide among {a.kv_heads} KV heads")
        if a.head_dim % 8 or a.rope.dims % 16 or a.rope.dims > a.head_dim:
            raise FormatError(
                f"heads of {a.head_dim} dimensions of which {a.rope.dims} rotate; nybble needs "
                "multiples of 8 and 16"
            )
        for what, n in (("attention heads", a.heads * a.head_dim), ("MLP", block.mlp.hidden)):
            if n % BLOCK or n > MOST:
                raise FormatError(
                    f"{what}: {n} columns, not a multiple of {BLOCK} of at most {MOST:,}"
                )


class _Lowering:
    """One model's way through the parts, in the order of a token.

    x       : the residual stream
    y       : what a branch gives, to be added to it
    pending : the norm that comes before it is added, "" for none; None: nothing is to be added
    flags   : which tokens have rows in the phases of blocks
    """

    def __init__(self, tree: Decoder, formats: Mapping[str, str]):
        self.tree = tree
        self.low = low = Lowered(formats, tree.vocab)
        widest = max(b.attention.heads * b.attention.head_dim for b in tree.blocks)
        narrow = max(b.attention.kv_heads * b.attention.head_dim for b in tree.blocks)
        hidden = max(b.mlp.hidden for b in tree.blocks)
        self.x = low.floats(tree.dim, replicated=True)
        self.y = low.floats(tree.dim)
        self.normed = low.floats(tree.dim, replicated=True)
        self.blocks = low.blocks(max(tree.dim, widest), replicated=True)
        self.q, self.k, self.v = low.side_by_side(widest, narrow, narrow)
        self.attended = low.floats(widest, replicated=True)
        self.gate, self.up = low.side_by_side(hidden, hidden)
        self.active = low.floats(hidden)
        self.active_blocks = low.blocks(hidden)
        self.pending: str | None = None
        self.flags = 0

        embedding = self._embedding()
        if tree.tied:  # the head reads it, and last: it gets its place there
            low.forget_weights()
        embed = len(low.steps)
        low.step("embed", out=self.x, value=tree.embed_scale, **embedding)
        for i, block in enumerate(tree.blocks):
            self._attention(f"blk.{i}.", block, is_last=i == len(tree.blocks) - 1)
            self._mlp(f"blk.{i}.", block)
        pending = self.pending
        self._head()
        self.pending = pending
        self._hidden()
        low.steps[embed].update(self._embedding())

    def _embedding(self) -> Fields:
        return self.low.matrix("token_embd.weight", self.tree.vocab, self.tree.dim)

    def _join(self, x: int, y: int, normed: int, flags: int = 0) -> None:
        """Adds what the last branch gave, if there was one."""
        dim, eps = self.tree.dim, self.tree.norm_eps
        if self.pending:
            self.low.norm(self.pending, y, normed, dim, eps, flags)
            y = normed
        if self.pending is not None:
            self.low.add(y, x, dim, flags)
        self.pending = None

    def _enter(self, norm: str) -> Activations:
        """The input of a branch: x, normed; its matrices say whether it is to be quantized."""
        self._join(self.x, self.y, self.normed, self.flags)
        self.low.norm(norm, self.x, self.normed, self.tree.dim, self.tree.norm_eps, self.flags)
        return Activations(self.normed, self.blocks, 8, self.flags)

    def _leave(self, matrix: Fields, activations: Activations, post_norm: str) -> None:
        """A branch's last matrix."""
        self.low.matmul(matrix, activations, self.y, 0, _tiles(self.tree.dim))
        self.low.end_phase()
        self.pending = post_norm

    def _attention(self, at: str, block: Block, is_last: bool) -> None:
        low, a, dim = self.low, block.attention, self.tree.dim
        rope, angles = low.rope(a.rope)
        layer = len(low.attentions)
        q_rows, kv_rows = a.heads * a.head_dim, a.kv_heads * a.head_dim

        activations = self._enter(at + "attn_norm.weight")
        parts = (
            (f"{at}attn_q", q_rows, self.q, a, 0),
            (f"{at}attn_k", kv_rows, self.k, a, _tiles(q_rows)),
            (f"{at}attn_v", kv_rows, self.v, None, _tiles(q_rows) + _tiles(kv_rows)),
        )
        n_units = _tiles(q_rows) + 2 * _tiles(kv_rows)
        matrices = [low.matrix(f"{p}.weight", rows, dim, heads) for p, rows, _, heads, _ in parts]
        low.quantize(activations, dim, *matrices)
        for matrix, (_, _, out, _, unit) in zip(matrices, parts, strict=True):
            low.matmul(matrix, activations, out, unit, n_units)
        for part, rows, out, heads, unit in parts if a.qkv_bias else ():
            bias = low.vector(f"{part}.bias", rows, heads)
            low.step("bias", out=out, unit=unit, n_units=n_units, **bias)
        low.end_phase()

        norms: Fields = {}
        if a.qk_norm:
            norms = {
                "eps": self.tree.norm_eps,
                "q_norm": low.vector(at + "attn_q_norm.weight", a.head_dim, a)["weights"],
                "k_norm": low.vector(at + "attn_k_norm.weight", a.head_dim, a)["weights"],
            }
        low.attentions.append(
            {
                "heads": a.heads,
                "kv_heads": a.kv_heads,
                "head_dim": a.head_dim,
                "rope": rope,
                "angles": angles,
                "window": a.window,
                "scale": a.score_scale,
                "q": self.q,
                "k": self.k,
                "v": self.v,
                "out": self.attended,
                **norms,
            }
        )
        low.step("append", index=layer)
        if is_last:
            for buffer, n in ((self.x, dim), (self.q, q_rows)):
                low.step("keep", out=buffer, rows=n, n_units=_tiles(n))
            self.flags = ON_WANTED
        low.end_phase()
        low.step("attend", index=layer, flags=self.flags)
        low.end_phase()
        low.step("combine", index=layer, flags=self.flags)
        post_norm = at + "post_attention_norm.weight" if block.post_norms else ""
        output = low.matrix(at + "attn_output.weight", dim, q_rows)
        activations = Activations(self.attended, self.blocks, 8, self.flags)
        low.quantize(activations, q_rows, output)
        self._leave(output, activations, post_norm)

    def _mlp(self, at: str, block: Block) -> None:
        low, n, dim = self.low, block.mlp.hidden, self.tree.dim
        activations = self._enter(at + "ffn_norm.weight")
        gate, up = (low.matrix(f"{at}ffn_{part}.weight", n, dim) for part in ("gate", "up"))
        down = low.matrix(at + "ffn_down.weight", dim, n)
        low.quantize(activations, dim, gate, up)
        gives_blocks = down["format"] not in FLOATS
        flags = self.flags | (BY_BLOCKS if gives_blocks else 0)
        split: Fields = {"rows": n, "unit": 0, "n_units": _tiles(n), "flags": flags}
        activations = activations._replace(flags=flags)
        low.matmul(gate, activations, self.gate, 0, _tiles(n))
        low.matmul(up, activations, self.up, 0, _tiles(n))
        op = {"silu": "silu_mul", "gelu": "gelu_mul"}[block.mlp.act]
        low.step(op, **{"in": self.gate}, in2=self.up, out=self.active, **split)
        if gives_blocks:
            low.step("quantize_share", **{"in": self.active}, out=self.active_blocks, **split)
        low.end_phase()

        post_norm = at + "post_ffw_norm.weight" if block.post_norms else ""
        self._leave(down, Activations(self.active, self.active_blocks, 8, self.flags), post_norm)

    def _head(self) -> None:
        """The last branch is joined for the tokens alone whose logits are wanted."""
        low, dim, vocab = self.low, self.tree.dim, self.tree.vocab
        x, y, normed = (low.floats(dim, replicated=True, on_logits=True) for _ in range(3))
        blocks = low.buffer(
            dim // BLOCK * Q16_BYTES, replicated=True, on_logits=True, holds=HOLDS_Q16
        )
        low.logits = low.floats(vocab, on_logits=True)
        for source, out in ((self.x, x), (self.y, y)):
            low.step("select", **{"in": source}, out=out, rows=dim, flags=ON_LOGITS)
        self._join(x, y, normed, ON_LOGITS)
        self._last_norm(x, normed, ON_LOGITS)
        head = low.matrix("token_embd.weight" if self.tree.tied else "output.weight", vocab, dim)
        activations = Activations(normed, blocks, 16, ON_LOGITS)
        low.quantize(activations, dim, head)
        low.matmul(head, activations, low.logits, 0, _tiles(vocab))
        low.end_phase()

    def _hidden(self) -> None:
        """What the head is given, of every token: where hidden states are wanted."""
        low = self.low
        self._join(self.x, self.y, self.normed, ON_HIDDEN)
        self._last_norm(self.x, self.normed, ON_HIDDEN)
        low.end_phase()
        low.hidden, low.dim = self.normed, self.tree.dim

    def _last_norm(self, x: int, out: int, flags: int) -> None:
        """Its weights are packed multiplied by the head's scale, and so are the logits."""
        tree, name = self.tree, "output_norm.weight"
        self.low.norm(name, x, out, tree.dim, tree.norm_eps, flags, tree.head_scale)
