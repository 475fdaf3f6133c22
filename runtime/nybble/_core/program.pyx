"""From a tree of parts to a program, and from a file's tensors to packed weights.

`Program(tree, formats)` lowers a `nybble.archs.Decoder` into the flat array of steps that the C
runner executes. A layer becomes five phases, which is what a small model's speed depends on:

    1  norm, quantize; q, k and v
    2  attention (a phase earlier, if there are several tokens: their keys and values)
    3  join the pages, quantize; output projection, residual
    4  norm, quantize; gate, up and activation
    5  quantize; down, residual

Weights are placed in the order in which a token reads them.
"""
from cpython.buffer cimport PyBUF_READ
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from posix.mman cimport (
    MADV_HUGEPAGE,
    MAP_ANONYMOUS,
    MAP_FAILED,
    MAP_PRIVATE,
    PROT_READ,
    PROT_WRITE,
    madvise,
    mmap,
    munmap,
)

from nybble._core.engine cimport (
    NYB_ENDS_PHASE,
    NYB_ON_LOGITS,
    NYB_STEP_ADD,
    NYB_STEP_APPEND,
    NYB_STEP_ATTEND,
    NYB_STEP_COMBINE,
    NYB_STEP_EMBED,
    NYB_STEP_MATMUL,
    NYB_STEP_MATMUL16,
    NYB_STEP_MATMUL32,
    NYB_STEP_NORM,
    NYB_STEP_QUANTIZE,
    NYB_STEP_QUANTIZE16,
    NYB_STEP_ROPE_ANGLES,
    NYB_STEP_SELECT,
    NYB_STEP_SILU_MUL,
)
from nybble._core.kernels cimport (
    NYB_BF16,
    NYB_BLOCK,
    NYB_F16,
    NYB_F32,
    NYB_TILE_ROWS,
    nyb_layout,
    nyb_q8,
    nyb_q16,
)
from nybble._core.native cimport layout_of

import math

from nybble._core.native import formats as packable
from nybble.errors import BudgetError, FormatError

cdef enum:
    HUGE_PAGE = 2 * 1024 * 1024

cdef float TINY = 2.0 ** -40        # docs/arithmetic.md, "Flush"
FLOATS = (NYB_F32, NYB_F16, NYB_BF16)     # matrices whose activations stay floats


cdef class Arena:
    """`nbytes` of zeroed memory. What is never touched costs nothing, but the system is asked for
    pages of 2 MiB: with those of 4 KiB, looking up addresses costs a token 5 to 15 % of its time.

    purpose : what the memory is for, for BudgetError's text if there is not as much
    """

    def __cinit__(self, uint64_t nbytes, str purpose="memory"):
        self.data = NULL
        cdef void *p = mmap(NULL, nbytes or 1, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if p is MAP_FAILED:
            raise BudgetError(f"{purpose}: {nbytes / 2**20:,.1f} MiB, and the system does not give "
                              "that much; try a smaller context or a smaller model")
        if nbytes >= HUGE_PAGE:
            madvise(p, nbytes, MADV_HUGEPAGE)  # a wish: where it is not granted, nothing changes
        self.data = <uint8_t *>p
        self.nbytes = nbytes

    def __dealloc__(self):
        if self.data is not NULL:
            munmap(self.data, self.nbytes or 1)

    def view(self):
        """The memory as a read-only memoryview, to be used while the arena is alive."""
        return PyMemoryView_FromMemory(<char *>self.data, self.nbytes, PyBUF_READ)


class Placement:
    """Where a tensor goes: bytes `offset` .. `offset + nbytes` of the weights.

    rows, cols : of the matrix; a vector has rows = 0
    format     : GGUF's type number
    head_dim, rope_dims : if rope_dims > 0, the rows are heads of head_dim rows whose first
                 rope_dims come as pairs (2i, 2i + 1), and are packed as halves (i, i + dims / 2)
    """

    def __init__(self, name, format, rows, cols, offset, nbytes, head_dim=0, rope_dims=0):
        self.name = name
        self.format = format
        self.rows = rows
        self.cols = cols
        self.offset = offset
        self.nbytes = nbytes
        self.head_dim = head_dim
        self.rope_dims = rope_dims


def _aligned(n, to=64):
    return (n + to - 1) // to * to


def _tiles(rows):
    return (rows + NYB_TILE_ROWS - 1) // NYB_TILE_ROWS


class _Lowering:
    """Collects the parts of a program while it is being lowered."""

    def __init__(self, formats):
        self.formats = formats          # tensor name -> GGUF format name
        self.steps = []
        self.buffers = []
        self.attentions = []
        self.layers = []
        self.ropes = []
        self.known_ropes = {}           # Rope -> (number, buffer of its angles)
        self.turns = []
        self.placements = {}            # by name, in the order of reading
        self.weights_bytes = 0

    # -- what a program is made of

    def buffer(self, row_bytes, replicated=False, on_logits=False):
        self.buffers.append((_aligned(row_bytes), on_logits, replicated))
        return len(self.buffers) - 1

    def floats(self, n, **kind):
        return self.buffer(4 * _tiles(n) * NYB_TILE_ROWS, **kind)

    def blocks(self, n, **kind):
        """A buffer of nyb_q8: rows of whole blocks, so that a stride can be told in blocks."""
        return self.buffer(_aligned(n // NYB_BLOCK, 4) * sizeof(nyb_q8), **kind)

    def step(self, op, **fields):
        self.steps.append({"op": op, "flags": 0, **fields})

    def end_phase(self):
        self.steps[-1]["flags"] |= NYB_ENDS_PHASE

    def place(self, name, format, rows, cols, nbytes, head_dim=0, rope_dims=0):
        """Gives a tensor its place in the weights; one that has a place keeps it."""
        if name not in self.placements:
            self.placements[name] = Placement(name, format, rows, cols, self.weights_bytes, nbytes,
                                              head_dim, rope_dims)
            self.weights_bytes += _aligned(nbytes)
        return self.placements[name].offset

    def matrix(self, name, rows, cols, rope=None, head_dim=0):
        """Places a matrix; returns the fields of a step that reads it."""
        format, known = self.formats[name], packable()
        if format not in known:
            raise FormatError(f"{name} is {format}; this version runs {', '.join(known)} matrices")
        number, block_cols, block_bytes, _ = known[format]
        of_blocks = max(block_cols, NYB_BLOCK)
        if cols % of_blocks:
            raise FormatError(f"{name} has {cols} columns, which is not a multiple of {of_blocks}")
        rope_dims = rope.dims if rope is not None and rope.layout == "pairs" else 0
        nbytes = _tiles(rows) * NYB_TILE_ROWS * cols // block_cols * block_bytes
        offset = self.place(name, number, rows, cols, nbytes, head_dim, rope_dims)
        return {"format": number, "rows": rows, "cols": cols, "weights": offset}

    def vector(self, name, n):
        """Places a vector of floats; returns the fields of a step that reads it."""
        if self.formats[name] != "F32":
            raise FormatError(f"{name} is {self.formats[name]}; vectors must be F32")
        return {"rows": n, "weights": self.place(name, NYB_F32, 0, n, 4 * n)}

    # -- parts

    def quantize(self, source, out, n, *matrices, op=NYB_STEP_QUANTIZE, flags=0):
        """out = source as blocks, if any of the matrices that it meets is quantized."""
        if any(matrix["format"] not in FLOATS for matrix in matrices):
            self.step(op, **{"in": source}, out=out, rows=n, flags=flags)

    def norm(self, name, source, out, n, eps, flags=0):
        self.step(NYB_STEP_NORM, **{"in": source}, out=out, value=eps, flags=flags,
                  **self.vector(name, n))

    def matmul(self, matrix, source, out, unit, n_units, op=NYB_STEP_MATMUL, flags=0):
        """source: the buffers of the activations as floats and as blocks."""
        floats, blocks = source
        is_float = matrix["format"] in FLOATS
        self.step(NYB_STEP_MATMUL32 if is_float else op, **{"in": floats if is_float else blocks},
                  out=out, unit=unit, n_units=n_units, flags=flags, **matrix)

    def rope(self, rope):
        """The number of a rope, and of the buffer its angles are in."""
        if rope in self.known_ropes:
            return self.known_ropes[rope]
        turns = rope.turns()
        angles = self.buffer(8 * len(turns), replicated=True)
        self.ropes.append((len(turns), len(self.turns), angles))
        self.turns.extend(turns)
        self.step(NYB_STEP_ROPE_ANGLES, index=len(self.ropes) - 1, out=angles)
        self.known_ropes[rope] = len(self.ropes) - 1, angles
        return self.known_ropes[rope]


def _check(tree):
    """What the kernels need of a tree's numbers, in the words of who made the file."""
    if tree.dim % NYB_BLOCK:
        raise FormatError(f"embedding_length {tree.dim} is not a multiple of {NYB_BLOCK}")
    for block in tree.blocks:
        a = block.attention
        if a.heads % a.kv_heads:
            raise FormatError(f"{a.heads} query heads do not divide among {a.kv_heads} KV heads")
        if a.head_dim % 8 or a.rope.dims % 16 or a.rope.dims > a.head_dim:
            raise FormatError(f"heads of {a.head_dim} dimensions of which {a.rope.dims} rotate; "
                              "nybble needs multiples of 8 and 16")
        for what, n in (("attention heads", a.heads * a.head_dim), ("MLP", block.mlp.hidden)):
            if n % NYB_BLOCK:
                raise FormatError(f"{what}: {n} columns, not a multiple of {NYB_BLOCK}")


def _lower(tree, formats):
    low = _Lowering(formats)
    widest = max(b.attention.heads * b.attention.head_dim for b in tree.blocks)
    narrow = max(b.attention.kv_heads * b.attention.head_dim for b in tree.blocks)
    hidden = max(b.mlp.hidden for b in tree.blocks)

    x = low.floats(tree.dim)                                # the residual stream
    y = low.floats(tree.dim)                                # what a branch adds to it
    normed = low.floats(tree.dim, replicated=True)
    quantized = low.blocks(max(tree.dim, widest, hidden), replicated=True)
    q, k, v = low.floats(widest), low.floats(narrow), low.floats(narrow)
    attended = low.floats(widest, replicated=True)
    gate, up, active = low.floats(hidden), low.floats(hidden), low.floats(hidden)

    embedding = low.matrix("token_embd.weight", tree.vocab, tree.dim)
    if tree.tied:                                           # read last: see the end
        low.placements.clear()
        low.weights_bytes = 0
    embed_at = len(low.steps)
    low.step(NYB_STEP_EMBED, out=x, value=1.0, **embedding)
    low.end_phase()

    for i, block in enumerate(tree.blocks):
        a, name = block.attention, f"blk.{i}.".__add__
        q_rows, kv_rows = a.heads * a.head_dim, a.kv_heads * a.head_dim
        rope, angles = low.rope(a.rope)
        attention = (a.heads, a.kv_heads, a.head_dim, rope, q, k, v, angles, attended,
                     1 / math.sqrt(a.head_dim))
        if attention not in low.attentions:
            low.attentions.append(attention)
        index = low.attentions.index(attention)
        low.layers.append(index)

        low.norm(name("attn_norm.weight"), x, normed, tree.dim, tree.norm_eps)
        w_q = low.matrix(name("attn_q.weight"), q_rows, tree.dim, a.rope, a.head_dim)
        w_k = low.matrix(name("attn_k.weight"), kv_rows, tree.dim, a.rope, a.head_dim)
        w_v = low.matrix(name("attn_v.weight"), kv_rows, tree.dim)
        low.quantize(normed, quantized, tree.dim, w_q, w_k, w_v)
        source, units = (normed, quantized), _tiles(q_rows) + 2 * _tiles(kv_rows)
        low.matmul(w_q, source, q, 0, units)
        low.matmul(w_k, source, k, _tiles(q_rows), units)
        low.matmul(w_v, source, v, _tiles(q_rows) + _tiles(kv_rows), units)
        low.end_phase()

        low.step(NYB_STEP_APPEND, index=index, layer=i)
        low.end_phase()
        low.step(NYB_STEP_ATTEND, index=index, layer=i)
        low.end_phase()

        low.step(NYB_STEP_COMBINE, index=index, layer=i)
        w_output = low.matrix(name("attn_output.weight"), tree.dim, q_rows)
        low.quantize(attended, quantized, q_rows, w_output)
        units = _tiles(tree.dim)
        low.matmul(w_output, (attended, quantized), y, 0, units)
        low.step(NYB_STEP_ADD, **{"in": y}, out=x, rows=tree.dim, unit=0, n_units=units)
        low.end_phase()

        n = block.mlp.hidden
        low.norm(name("ffn_norm.weight"), x, normed, tree.dim, tree.norm_eps)
        w_gate = low.matrix(name("ffn_gate.weight"), n, tree.dim)
        w_up = low.matrix(name("ffn_up.weight"), n, tree.dim)
        low.quantize(normed, quantized, tree.dim, w_gate, w_up)
        source, units = (normed, quantized), _tiles(n)
        low.matmul(w_gate, source, gate, 0, units)
        low.matmul(w_up, source, up, 0, units)
        low.step(NYB_STEP_SILU_MUL, **{"in": gate}, in2=up, out=active, rows=n, unit=0,
                 n_units=units)
        low.end_phase()

        w_down = low.matrix(name("ffn_down.weight"), tree.dim, n)
        low.quantize(active, quantized, n, w_down)
        units = _tiles(tree.dim)
        low.matmul(w_down, (active, quantized), y, 0, units)
        low.step(NYB_STEP_ADD, **{"in": y}, out=x, rows=tree.dim, unit=0, n_units=units)
        low.end_phase()

    last = low.floats(tree.dim, replicated=True, on_logits=True)
    last16 = low.buffer(tree.dim // NYB_BLOCK * sizeof(nyb_q16), replicated=True, on_logits=True)
    logits = low.floats(tree.vocab, on_logits=True)
    on_logits = NYB_ON_LOGITS
    low.step(NYB_STEP_SELECT, **{"in": x}, out=last, rows=tree.dim, flags=on_logits)
    low.norm("output_norm.weight", last, last, tree.dim, tree.norm_eps, on_logits)
    head = low.matrix("token_embd.weight" if tree.tied else "output.weight", tree.vocab, tree.dim)
    low.quantize(last, last16, tree.dim, head, op=NYB_STEP_QUANTIZE16, flags=on_logits)
    low.steps[embed_at].update(low.matrix("token_embd.weight", tree.vocab, tree.dim))
    low.matmul(head, (last, last16), logits, 0, _tiles(tree.vocab), NYB_STEP_MATMUL16, on_logits)
    low.end_phase()
    return low, logits


cdef void *_array(size_t n, size_t size) except NULL:
    cdef void *p = calloc(n or 1, size)
    if p is NULL:
        raise MemoryError()
    return p


cdef class Program:
    """What a model does to a batch of tokens: steps, buffers, and places for the weights.

    tree    : nybble.archs.Decoder
    formats : tensor name -> GGUF format name ("Q4_1"), of every tensor in tree.tensors()
    FormatError if a shape or format is one that no kernel takes.
    """

    def __cinit__(self, tree, formats):
        _check(tree)
        low, logits = _lower(tree, formats)
        self.placements = list(low.placements.values())

        self.steps = <nyb_step *>_array(len(low.steps), sizeof(nyb_step))
        self.buffers = <nyb_buffer *>_array(len(low.buffers), sizeof(nyb_buffer))
        self.attentions = <nyb_attention *>_array(len(low.attentions), sizeof(nyb_attention))
        self.layers = <uint32_t *>_array(len(low.layers), sizeof(uint32_t))
        self.ropes = <nyb_rope *>_array(len(low.ropes), sizeof(nyb_rope))
        self.turns = <uint64_t *>_array(len(low.turns), sizeof(uint64_t))

        cdef nyb_step *s
        for i, fields in enumerate(low.steps):
            s = &self.steps[i]
            s.op, s.flags = fields["op"], fields["flags"]
            s.format = fields.get("format", NYB_F32)
            s.rows, s.cols = fields.get("rows", 0), fields.get("cols", 0)
            s.in_, s.in2, s.out = fields.get("in", 0), fields.get("in2", 0), fields.get("out", 0)
            s.unit, s.n_units = fields.get("unit", 0), fields.get("n_units", 0)
            s.index, s.layer = fields.get("index", 0), fields.get("layer", 0)
            s.value, s.weights = fields.get("value", 0.0), fields.get("weights", 0)
        for i, (row_bytes, on_logits, replicated) in enumerate(low.buffers):
            self.buffers[i] = nyb_buffer(row_bytes, on_logits, replicated)
        for i, a in enumerate(low.attentions):
            heads, kv_heads, head_dim, rope, q, k, v, angles, out, scale = a
            self.attentions[i] = nyb_attention(heads, kv_heads, head_dim, rope, q, k, v, angles,
                                               out, scale)
        for i, index in enumerate(low.layers):
            self.layers[i] = index
        for i, (n, first, _) in enumerate(low.ropes):
            self.ropes[i] = nyb_rope(n, first)
        for i, turn in enumerate(low.turns):
            self.turns[i] = turn

        self.c.n_steps, self.c.steps = len(low.steps), self.steps
        self.c.n_buffers, self.c.buffers = len(low.buffers), self.buffers
        self.c.n_attentions, self.c.attentions = len(low.attentions), self.attentions
        self.c.n_layers, self.c.layers = len(low.layers), self.layers
        self.c.n_ropes, self.c.ropes = len(low.ropes), self.ropes
        self.c.n_turns, self.c.turns = len(low.turns), self.turns
        self.c.vocab, self.c.logits = tree.vocab, logits
        self.c.weights_bytes = low.weights_bytes

    def __dealloc__(self):
        free(self.steps)
        free(self.buffers)
        free(self.attentions)
        free(self.layers)
        free(self.ropes)
        free(self.turns)

    @property
    def vocab(self):
        """Number of tokens that have logits."""
        return self.c.vocab

    @property
    def logits_buffer(self):
        """Number of the buffer that the logits are in."""
        return self.c.logits

    def sections(self):
        """The program's arrays as this machine lays out the structs of nyb_program.h: name ->
        bytes. What `tools.replay` dumps."""
        return {
            "steps": PyBytes_FromStringAndSize(<char *>self.steps,
                                               self.c.n_steps * sizeof(nyb_step)),
            "buffers": PyBytes_FromStringAndSize(<char *>self.buffers,
                                                 self.c.n_buffers * sizeof(nyb_buffer)),
            "attentions": PyBytes_FromStringAndSize(<char *>self.attentions,
                                                    self.c.n_attentions * sizeof(nyb_attention)),
            "layers": PyBytes_FromStringAndSize(<char *>self.layers,
                                                self.c.n_layers * sizeof(uint32_t)),
            "ropes": PyBytes_FromStringAndSize(<char *>self.ropes,
                                               self.c.n_ropes * sizeof(nyb_rope)),
            "turns": PyBytes_FromStringAndSize(<char *>self.turns,
                                               self.c.n_turns * sizeof(uint64_t)),
        }

    @property
    def weights_bytes(self):
        """Bytes of packed weights."""
        return self.c.weights_bytes

    @property
    def read_bytes(self):
        """Bytes of weights that one token of decode reads: all but an embedding that is not the
        head too, of which it reads a row."""
        is_tied = "output.weight" not in [p.name for p in self.placements]
        return sum(p.nbytes for p in self.placements
                   if is_tied or p.name != "token_embd.weight")


cdef size_t _source_row(size_t row, size_t head_dim, size_t rope_dims) noexcept nogil:
    """The row in the file that is packed as `row`: pairs become halves within each head."""
    if rope_dims == 0:
        return row
    cdef size_t i = row % head_dim
    if i < rope_dims:
        i = 2 * i if i < rope_dims // 2 else 2 * (i - rope_dims // 2) + 1
    return row // head_dim * head_dim + i


cdef size_t _pack_matrix(const nyb_layout *layout, const uint8_t *src, size_t rows, size_t cols,
                         size_t head_dim, size_t rope_dims, uint8_t *dst) noexcept nogil:
    """0, or 1 + the row whose scale is not finite."""
    cdef size_t blocks = cols // layout.block_cols, row_bytes = blocks * layout.block_bytes
    cdef const uint8_t *pointers[NYB_TILE_ROWS]
    cdef size_t tile, i, row, bad
    for tile in range((rows + NYB_TILE_ROWS - 1) // NYB_TILE_ROWS):
        for i in range(<size_t>NYB_TILE_ROWS):
            row = tile * NYB_TILE_ROWS + i
            if row < rows:
                pointers[i] = src + _source_row(row, head_dim, rope_dims) * row_bytes
            else:
                pointers[i] = NULL
        bad = layout.pack(blocks, pointers, dst + tile * NYB_TILE_ROWS * row_bytes)
        if bad:
            return 1 + tile * NYB_TILE_ROWS + (bad - 1) % NYB_TILE_ROWS
    return 0


cdef size_t _pack_vector(const uint8_t *src, size_t n, float *dst) noexcept nogil:
    """0, or 1 + the index of a float that is not finite. Tiny ones become 0."""
    cdef size_t i
    cdef float x
    for i in range(n):
        memcpy(&x, src + 4 * i, 4)
        if x - x != 0:
            return 1 + i
        dst[i] = 0 if -TINY < x < TINY else x
    return 0


cdef class Weights:
    """A model's weights, packed in memory in the order in which a token reads them.

    program     : says what goes where
    data        : tensor name -> its bytes in the file (a function; read once, not kept)
    on_progress : called with (bytes packed, bytes in all) after each tensor
    FormatError if a scale or a norm's weight is not finite.
    """

    def __cinit__(self, Program program not None, data, on_progress=None):
        self.program = program
        self.arena = Arena(program.c.weights_bytes, "packed weights")
        for placement in program.placements:
            self._pack(placement, data(placement.name))
            if on_progress is not None:
                on_progress(placement.offset + placement.nbytes, program.c.weights_bytes)

    cdef _pack(self, placement, const uint8_t[::1] src):
        cdef size_t rows = placement.rows, cols = placement.cols, bad
        cdef size_t head_dim = placement.head_dim, rope_dims = placement.rope_dims
        cdef uint8_t *dst = self.arena.data + <uint64_t>placement.offset
        cdef const nyb_layout *layout = layout_of(placement.format) if rows else NULL
        cdef size_t expected = (rows * (cols // layout.block_cols) * layout.block_bytes
                                if layout is not NULL else cols * 4)
        if <size_t>src.shape[0] != expected:
            raise FormatError(f"{placement.name} has {src.shape[0]} bytes, {expected} expected")
        with nogil:
            if layout is NULL:
                bad = _pack_vector(&src[0], cols, <float *>dst)
            else:
                bad = _pack_matrix(layout, &src[0], rows, cols, head_dim, rope_dims, dst)
        if bad:
            what = f"a number in row {bad - 1}" if layout is not NULL else f"element {bad - 1}"
            raise FormatError(f"{placement.name}: {what} is not finite; the file is damaged, get "
                              "it again")
