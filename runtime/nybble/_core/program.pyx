"""Programs, and weights packed for them: the memory of both.

`Program(lowered)` holds the arrays that the C runner reads, made of a model's parts by
`nybble.lowering`; `packed` brings a file's tensors into the layout that the program reads,
`Weights` are all of them where it reads them.
"""
from cpython.buffer cimport PyBUF_READ
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport uintptr_t
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
    NYB_BY_BLOCKS,
    NYB_ENDS_PHASE,
    NYB_HOLDS_FLOATS,
    NYB_HOLDS_Q8,
    NYB_HOLDS_Q16,
    NYB_ON_HIDDEN,
    NYB_ON_LOGITS,
    NYB_ON_WANTED,
    NYB_STEP_ADD,
    NYB_STEP_APPEND,
    NYB_STEP_ATTEND,
    NYB_STEP_BIAS,
    NYB_STEP_COMBINE,
    NYB_STEP_EMBED,
    NYB_STEP_GELU_MUL,
    NYB_STEP_KEEP,
    NYB_STEP_MATMUL,
    NYB_STEP_MATMUL16,
    NYB_STEP_MATMUL32,
    NYB_STEP_NORM,
    NYB_STEP_QUANTIZE,
    NYB_STEP_QUANTIZE16,
    NYB_STEP_QUANTIZE_SHARE,
    NYB_STEP_ROPE_ANGLES,
    NYB_STEP_SELECT,
    NYB_STEP_SILU_MUL,
    nyb_page_bytes,
)
from nybble._core.kernels cimport (
    NYB_BF16,
    NYB_BLOCK,
    NYB_F16,
    NYB_F32,
    NYB_KV_F16,
    NYB_KV_INT8,
    NYB_KV_V8,
    NYB_PAGE,
    NYB_TILE_ROWS,
    nyb_layout,
    nyb_q8,
    nyb_q16,
)
from nybble._core.native cimport layout_of

from nybble.errors import BudgetError, FormatError, UsageError

cdef enum:
    HUGE_PAGE = 2 * 1024 * 1024
    PIECE = 1024 * 1024         # bytes of a file that are packed at once

cdef float TINY = 2.0 ** -40        # docs/arithmetic.md, "Flush"

# What a lowering needs to know of C.
BLOCK, TILE_ROWS = NYB_BLOCK, NYB_TILE_ROWS
Q8_BYTES, Q16_BYTES = sizeof(nyb_q8), sizeof(nyb_q16)
VECTOR = NYB_F32
FLOATS = (NYB_F32, NYB_F16, NYB_BF16)     # matrices whose activations stay floats
ENDS_PHASE, BY_BLOCKS = NYB_ENDS_PHASE, NYB_BY_BLOCKS
ON_LOGITS, ON_HIDDEN, ON_WANTED = NYB_ON_LOGITS, NYB_ON_HIDDEN, NYB_ON_WANTED
HOLDS_FLOATS, HOLDS_Q8, HOLDS_Q16 = NYB_HOLDS_FLOATS, NYB_HOLDS_Q8, NYB_HOLDS_Q16
KV_TYPES = {"f16": NYB_KV_F16, "v8": NYB_KV_V8, "int8": NYB_KV_INT8}  # of keys and values
OPS = {
    "embed": NYB_STEP_EMBED,
    "rope_angles": NYB_STEP_ROPE_ANGLES,
    "select": NYB_STEP_SELECT,
    "norm": NYB_STEP_NORM,
    "add": NYB_STEP_ADD,
    "quantize": NYB_STEP_QUANTIZE,
    "quantize16": NYB_STEP_QUANTIZE16,
    "combine": NYB_STEP_COMBINE,
    "matmul": NYB_STEP_MATMUL,
    "matmul16": NYB_STEP_MATMUL16,
    "matmul32": NYB_STEP_MATMUL32,
    "bias": NYB_STEP_BIAS,
    "silu_mul": NYB_STEP_SILU_MUL,
    "gelu_mul": NYB_STEP_GELU_MUL,
    "quantize_share": NYB_STEP_QUANTIZE_SHARE,
    "append": NYB_STEP_APPEND,
    "attend": NYB_STEP_ATTEND,
    "keep": NYB_STEP_KEEP,
}


cdef class Arena:
    """`nbytes` of zeroed memory. What is never touched costs nothing, but the system is asked for
    pages of 2 MiB: with those of 4 KiB, looking up addresses costs a token 5 to 15 % of its time.

    purpose   : what the memory is for, for BudgetError's text if there is not as much
    is_filled : whether most of it will be used; else the pages are small, and stay away unless
                they are touched
    """

    def __cinit__(self, uint64_t nbytes, str purpose="memory", bint is_filled=True):
        self.data = NULL
        cdef void *p = mmap(NULL, nbytes or 1, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if p is MAP_FAILED:
            raise BudgetError(f"{purpose}: {nbytes / 2**20:,.1f} MiB, and the system does not give "
                              "that much; try a smaller context or a smaller model")
        if is_filled and nbytes >= HUGE_PAGE:
            madvise(p, nbytes, MADV_HUGEPAGE)  # a wish: where it is not granted, nothing changes
        self.data = <uint8_t *>p
        self.nbytes = nbytes

    def __dealloc__(self):
        if self.data is not NULL:
            munmap(self.data, self.nbytes or 1)

    def view(self):
        """The memory as a read-only memoryview, to be used while the arena is alive."""
        return PyMemoryView_FromMemory(<char *>self.data, self.nbytes, PyBUF_READ)


cdef void *_array(size_t n, size_t size) except NULL:
    cdef void *p = calloc(n or 1, size)
    if p is NULL:
        raise MemoryError()
    return p


cdef class Program:
    """What a model does to a batch of tokens: steps, buffers, and places for the weights.

    lowered : nybble.lowering.Lowered; its steps and attentions are dicts with the names of the
              structs' fields, a field that is not there is 0
    """

    def __cinit__(self, lowered):
        self.placements = list(lowered.placements.values())

        self.steps = <nyb_step *>_array(len(lowered.steps), sizeof(nyb_step))
        self.buffers = <nyb_buffer *>_array(len(lowered.buffers), sizeof(nyb_buffer))
        self.attentions = <nyb_attention *>_array(len(lowered.attentions), sizeof(nyb_attention))
        self.ropes = <nyb_rope *>_array(len(lowered.ropes), sizeof(nyb_rope))
        self.turns = <uint64_t *>_array(len(lowered.turns), sizeof(uint64_t))

        cdef nyb_step *s
        for i, fields in enumerate(lowered.steps):
            s = &self.steps[i]
            s.op, s.flags = OPS[fields["op"]], fields.get("flags", 0)
            s.format = fields.get("format", NYB_F32)
            s.rows, s.cols = fields.get("rows", 0), fields.get("cols", 0)
            s.in_, s.in2, s.out = fields.get("in", 0), fields.get("in2", 0), fields.get("out", 0)
            s.unit, s.n_units = fields.get("unit", 0), fields.get("n_units", 0)
            s.index = fields.get("index", 0)
            s.value, s.weights = fields.get("value", 0.0), fields.get("weights", 0)
        for i, b in enumerate(lowered.buffers):
            self.buffers[i] = nyb_buffer(b.row_bytes, b.on_logits, b.replicated, b.holds,
                                         b.part_of, b.offset)
        cdef nyb_attention *a
        for i, fields in enumerate(lowered.attentions):
            a = &self.attentions[i]
            a.heads, a.kv_heads = fields["heads"], fields["kv_heads"]
            a.head_dim, a.rope = fields["head_dim"], fields["rope"]
            a.q, a.k, a.v = fields["q"], fields["k"], fields["v"]
            a.angles, a.out = fields["angles"], fields["out"]
            a.window, a.scale = fields["window"], fields["scale"]
            a.eps = fields.get("eps", 0.0)
            a.q_norm, a.k_norm = fields.get("q_norm", 0), fields.get("k_norm", 0)
        for i, (n, first) in enumerate(lowered.ropes):
            self.ropes[i] = nyb_rope(n, first)
        for i, turn in enumerate(lowered.turns):
            self.turns[i] = turn

        self.c.n_steps, self.c.steps = len(lowered.steps), self.steps
        self.c.n_buffers, self.c.buffers = len(lowered.buffers), self.buffers
        self.c.n_attentions, self.c.attentions = len(lowered.attentions), self.attentions
        self.c.n_ropes, self.c.ropes = len(lowered.ropes), self.ropes
        self.c.n_turns, self.c.turns = len(lowered.turns), self.turns
        self.c.vocab, self.c.logits = lowered.vocab, lowered.logits
        self.c.dim, self.c.hidden = lowered.dim, lowered.hidden
        self.c.weights_bytes = lowered.weights_bytes

    def __dealloc__(self):
        free(self.steps)
        free(self.buffers)
        free(self.attentions)
        free(self.ropes)
        free(self.turns)

    @property
    def vocab(self):
        """Number of tokens that have logits."""
        return self.c.vocab

    @property
    def dim(self):
        """Number of elements of a hidden state."""
        return self.c.dim

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
    def read_from(self):
        """Byte of the weights from which on a token of decode reads them all. Only an embedding
        that is not the head too comes before: a program's first step looks up a row of it, and
        weights lie in the order of the steps."""
        has_head = any(p.name == "output.weight" for p in self.placements)
        if not has_head or self.placements[0].name != "token_embd.weight":
            return 0
        return self.placements[0].offset + self.placements[0].nbytes

    @property
    def read_bytes(self):
        """Bytes of weights that one token of decode reads."""
        return sum(p.nbytes for p in self.placements if p.offset >= self.read_from)

    def kv_read_bytes(self, positions, kv="f16"):
        """Bytes of keys and values, of the type `kv`, that one token of decode reads where
        `positions` are in the cache, its own included."""
        cdef const nyb_attention *a
        cdef uint64_t page_bytes = 0
        for i in range(self.c.n_attentions):
            a = &self.attentions[i]
            seen = min(positions, a.window) if a.window else positions
            page_bytes += nyb_page_bytes(a, KV_TYPES[kv]) * seen
        return page_bytes // NYB_PAGE


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
    """0, or 1 + blocks of a row * the row + the block whose scale is not finite."""
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
            row = _source_row(tile * NYB_TILE_ROWS + (bad - 1) % NYB_TILE_ROWS, head_dim, rope_dims)
            return 1 + blocks * row + (bad - 1) // NYB_TILE_ROWS
    return 0


cdef size_t _pack_vector(const uint8_t *src, size_t n, size_t head_dim, size_t rope_dims,
                         float scale, float *dst) noexcept nogil:
    """0, or 1 + the index of a float that, scaled, is not finite. Tiny ones become 0."""
    cdef size_t i, source
    cdef float x
    for i in range(n):
        source = _source_row(i, head_dim, rope_dims)
        memcpy(&x, src + 4 * source, 4)
        x *= scale
        if x - x != 0:
            return 1 + source
        dst[i] = 0 if -TINY < x < TINY else x
    return 0


def packed(placement, read, out=None):
    """Packs a tensor a piece after another: yields the packed bytes of each, in order.

    read : called with the tensor's name, a number of bytes and a writable memoryview, which it
           fills with the tensor's bytes from there on; once for each byte, in order
    out  : a memoryview for all of them, placement.nbytes long; else each piece is in the same
           memory as the one before
    FormatError if a scale or a vector's element is not finite: in which row and block.
    """
    if placement.rows == 0:
        whole = memoryview(bytearray(placement.nbytes)) if out is None else out
        _pack_floats(placement, read, whole)
        yield whole
        return
    cdef const nyb_layout *layout = layout_of(placement.format)
    cdef size_t rows = placement.rows, tile_rows = NYB_TILE_ROWS, done = 0, n
    cdef size_t row_bytes = placement.cols // layout.block_cols * layout.block_bytes
    # A piece is of whole tiles, and of whole heads where their rows change places.
    cdef size_t unit = placement.head_dim if placement.rope_dims else tile_rows
    cdef size_t most = min(max(<size_t>PIECE // (unit * row_bytes), <size_t>1) * unit, rows)
    source = memoryview(bytearray(most * row_bytes))
    if out is None:
        scratch = memoryview(bytearray((most + tile_rows - 1) // tile_rows * tile_rows * row_bytes))
    while done < rows:
        n = min(most, rows - done)
        nbytes = (n + tile_rows - 1) // tile_rows * tile_rows * row_bytes
        piece = scratch[:nbytes] if out is None else out[done * row_bytes:done * row_bytes + nbytes]
        read(placement.name, done * row_bytes, source[:n * row_bytes])
        _pack_rows(placement, done, n, source, piece)
        yield piece
        done += n


cdef _pack_rows(placement, size_t first, size_t n, const uint8_t[::1] source, uint8_t[::1] out):
    """n rows of a matrix from `first` on, which `source` holds."""
    cdef size_t cols = placement.cols, bad
    cdef size_t head_dim = placement.head_dim, rope_dims = placement.rope_dims
    cdef const nyb_layout *layout = layout_of(placement.format)
    cdef size_t blocks = cols // layout.block_cols
    cdef const uint8_t *src = &source[0]
    cdef uint8_t *dst = &out[0]
    with nogil:
        bad = _pack_matrix(layout, src, n, cols, head_dim, rope_dims, dst)
    if bad:
        raise _damaged(f"{placement.name}: a number in row {first + (bad - 1) // blocks}, "
                       f"block {(bad - 1) % blocks},")


cdef _pack_floats(placement, read, uint8_t[::1] out):
    """A vector."""
    cdef size_t n = placement.cols, bad
    cdef size_t head_dim = placement.head_dim, rope_dims = placement.rope_dims
    cdef float scale = placement.scale
    cdef uint8_t[::1] source = bytearray(4 * n)
    cdef const uint8_t *src = &source[0]
    cdef float *dst = <float *>&out[0]
    read(placement.name, 0, memoryview(source))
    with nogil:
        bad = _pack_vector(src, n, head_dim, rope_dims, scale, dst)
    if bad:
        raise _damaged(f"{placement.name}: element {bad - 1}")


def _damaged(what):
    return FormatError(f"{what} is not finite; the file is damaged, get it again")


cdef class Weights:
    """A program's packed weights, in the order in which a token reads them.

    memory : what they lie in: an Arena, or a read-only view of a packed file
    UsageError if it is not program.weights_bytes long, aligned to 64.
    """

    def __cinit__(self, Program program not None, memory not None):
        cdef const uint8_t[::1] view = memory.view() if isinstance(memory, Arena) else memory
        cdef uintptr_t at = <uintptr_t>&view[0] if view.shape[0] else 0
        if <uint64_t>view.shape[0] != program.c.weights_bytes or at % 64 != 0:
            raise UsageError(f"{view.shape[0]} bytes at {at:#x} are not this program's weights")
        self.program = program
        self.memory = memory
        self.data = &view[0]

    @property
    def nbytes(self):
        """Bytes of packed weights."""
        return self.program.c.weights_bytes

    @property
    def is_mapped(self):
        """Whether they are pages of a file, not memory of this process's own."""
        return not isinstance(self.memory, Arena)

    def view(self):
        """The packed bytes as a read-only memoryview, to be used while the weights are alive."""
        return PyMemoryView_FromMemory(<char *>self.data, self.nbytes, PyBUF_READ)


def pack_in_memory(Program program not None, read, on_progress=None):
    """Packs all tensors of a program in an arena; returns the Weights.

    read        : as for `packed`
    on_progress : called with (bytes packed, bytes in all) after each tensor
    """
    cdef Arena arena = Arena(program.c.weights_bytes, "packed weights")
    room = memoryview(<uint8_t[:arena.nbytes]>arena.data)
    for placement in program.placements:
        end = placement.offset + placement.nbytes
        for _ in packed(placement, read, room[placement.offset:end]):
            pass
        if on_progress is not None:
            on_progress(end, program.c.weights_bytes)
    return Weights(program, arena)
