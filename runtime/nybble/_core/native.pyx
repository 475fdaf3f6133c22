"""The one module that links nybble's C library; the others reach it by `cimport`.

Each cdef function here is a door: the C function of the same name without its `nyb_` prefix.
Structs and constants come from `kernels.pxd` and `engine.pxd`, which alone say `cdef extern`.
The functions that Python sees tell what this build has and what this machine can do.
"""
from nybble._core.engine cimport (
    nyb_barrier_seconds,
    nyb_bind,
    nyb_can_rewind,
    nyb_clear_page,
    nyb_clear_slot,
    nyb_encode,
    nyb_encode_most,
    nyb_encode_scratch,
    nyb_gguf_format_of,
    nyb_gguf_index,
    nyb_gguf_scan,
    nyb_gguf_scratch_bytes,
    nyb_gguf_type_bytes,
    nyb_gguf_type_name,
    nyb_hidden,
    nyb_logits,
    nyb_measure,
    nyb_philox,
    nyb_pool_busy_calls,
    nyb_pool_stop,
    nyb_pool_threads,
    nyb_read,
    nyb_run,
    nyb_sample,
    nyb_sample_scratch,
    nyb_tune,
    nyb_vocab_build,
    nyb_vocab_bytes,
    nyb_vocab_find,
    nyb_vocab_is_end,
    nyb_vocab_measure,
    nyb_vocab_open,
    nyb_vocab_spelling,
    nyb_vocab_type,
)
from nybble._core.kernels cimport (
    NYB_ARITHMETIC,
    NYB_FORMATS,
    nyb_compiler,
    nyb_cpu_bits,
    nyb_layout_of,
    nyb_level,
    nyb_level_of,
    nyb_levels,
    nyb_levels_missing,
    nyb_registry,
    nyb_row_named,
    nyb_rows_pick,
)

import os

from nybble.errors import CpuError, UsageError

ARITHMETIC = NYB_ARITHMETIC
# The levels of each architecture, as targets/levels.toml has them, whatever this build is for.
LEVELS = {"ARM": ("neon", "dotprod", "i8mm"), "x86": ("avx2", "avxvnni", "avx512vnni")}


cdef str said(const nyb_error *error):
    """What a C function said: its sentence, where, and the value."""
    return f"{error.what.decode()} (at {error.at}, value {error.value})"


# -- what there is --------------------------------------------------------------------------------

def rows():
    """All kernel rows of this build, in order of preference: dicts of name, level, format (GGUF's
    type number), needs (CPU bits), runs (whether this CPU can), panel_bytes, and the function's
    address, by which tests and benchmarks call a kernel alone."""
    cdef uint32_t have = nyb_cpu_bits()
    cdef const nyb_row *row = nyb_registry
    out = []
    while row.name is not NULL:
        out.append({
            "name": row.name.decode(),
            "level": row.level.decode(),
            "format": row.format,
            "needs": row.needs,
            "runs": not row.needs & ~have,
            "panel_bytes": row.panel_bytes,
            "address": <size_t>row.run.gemv,
        })
        row += 1
    return out


def formats():
    """The GGUF formats that this build can pack: name -> (type number, columns of a block, bytes
    of a block, address of the function that packs a tile row). A tile is 8 blocks."""
    cdef const nyb_layout *layout
    out = {}
    for number in range(NYB_FORMATS):
        layout = nyb_layout_of(number)
        if layout is not NULL:
            pack = <size_t>layout.pack
            out[layout.name.decode()] = (number, layout.block_cols, layout.block_bytes, pack)
    return out


def levels():
    """The names that NYBBLE_ISA takes, from the least on."""
    cdef const nyb_level *level = nyb_levels
    names = []
    while level.name is not NULL:
        names.append(level.name.decode())
        level += 1
    return names


def missing_levels():
    """Levels for this kind of machine that the compiler could not build."""
    names = []
    cdef const char *const *name = nyb_levels_missing
    while name[0] is not NULL:
        names.append(name[0].decode())
        name += 1
    return names


def compiler():
    """The compiler that built the C library, as it calls itself."""
    return nyb_compiler().decode()


def pool_threads():
    """Threads that the engine's pool has now, the caller's included."""
    return nyb_pool_threads()


def busy_calls():
    """Engine calls that show that the machine was busy: those that fewer threads did for that, and
    those after which a team got smaller."""
    return nyb_pool_busy_calls()


def pool_stop():
    """Ends the pool's threads; they start again when they are needed. The caller holds the
    engine's lock."""
    with nogil:
        nyb_pool_stop()


def cpu_bits():
    """The CPU bits that kernels may use: this machine's, or those of the level that the
    environment variable NYBBLE_ISA forces. UsageError if there is no such level, CpuError if it is
    beyond this build or this machine."""
    name = forced_level()
    if not name:
        return nyb_cpu_bits()
    try:
        return level_bits(name)
    except (CpuError, UsageError) as error:
        raise type(error)(f"NYBBLE_ISA is {name!r:.40}, {error}; unset NYBBLE_ISA") from None


def forced_level():
    """The level that NYBBLE_ISA names, in small letters; "" for none."""
    return os.environ.get("NYBBLE_ISA", "").strip().lower()


def level_bits(str name not None):
    """The CPU bits that rows of this level, and of those below it, may need. UsageError if there is
    no such level, CpuError if this build or this machine's CPU lacks it."""
    cdef bytes encoded = name.encode("utf-8", "replace")
    cdef const nyb_level *level = nyb_level_of(encoded)
    if level is NULL:
        has = f"this build has {', '.join(levels())}"
        for architecture, its in LEVELS.items():
            if name in its:
                raise CpuError(f"a level of {architecture}, and {has}")
        raise UsageError(f"which is no level: {has}")
    if level.bits & ~nyb_cpu_bits():
        raise CpuError("which this machine's CPU lacks")
    return level.bits


def philox_words(counter, key):
    """Four 32-bit words of Philox4x32-10 for four counter words and two key words."""
    cdef uint32_t c[4]
    cdef uint32_t k[2]
    cdef uint32_t out[4]
    c[0], c[1], c[2], c[3] = counter
    k[0], k[1] = key
    nyb_philox(c, k, out)
    return out[0], out[1], out[2], out[3]


# -- programs and their runner --------------------------------------------------------------------

cdef const nyb_layout *layout_of(uint32_t format) noexcept nogil:
    return nyb_layout_of(format)

cdef const nyb_row *row_named(const char *name) noexcept nogil:
    return nyb_row_named(name)

cdef void rows_pick(nyb_rows *rows, uint32_t cpu_bits) noexcept nogil:
    nyb_rows_pick(rows, cpu_bits)

cdef int measure(const nyb_program *program, const nyb_limits *limits, uint32_t cpu_bits,
                 nyb_sizes *sizes, nyb_error *error) noexcept nogil:
    return nyb_measure(program, limits, cpu_bits, sizes, error)

cdef int bind(nyb_bound *bound, const nyb_program *program, const nyb_limits *limits,
              uint32_t cpu_bits, const uint8_t *weights, uint8_t *kv, uint8_t *work,
              nyb_error *error) noexcept nogil:
    return nyb_bind(bound, program, limits, cpu_bits, weights, kv, work, error)

cdef void tune(nyb_bound *bound, const nyb_tuning *tuning) noexcept nogil:
    nyb_tune(bound, tuning)

cdef int run(nyb_bound *bound, const nyb_batch *batch, nyb_error *error) noexcept nogil:
    return nyb_run(bound, batch, error)

cdef const float *logits(const nyb_bound *bound, uint32_t i) noexcept nogil:
    return nyb_logits(bound, i)

cdef const float *hidden(const nyb_bound *bound, uint32_t i) noexcept nogil:
    return nyb_hidden(bound, i)

cdef int can_rewind(const nyb_bound *bound, uint64_t written, uint64_t kept) noexcept nogil:
    return nyb_can_rewind(bound, written, kept)

cdef void clear_page(nyb_bound *bound, uint32_t page) noexcept nogil:
    nyb_clear_page(bound, page)

cdef void clear_slot(nyb_bound *bound, uint32_t slot) noexcept nogil:
    nyb_clear_slot(bound, slot)

cdef uint64_t read(const void *data, uint64_t nbytes, uint32_t streams,
                   uint32_t threads) noexcept nogil:
    return nyb_read(data, nbytes, streams, threads)

cdef double barrier_seconds(uint32_t threads, uint32_t n) noexcept nogil:
    return nyb_barrier_seconds(threads, n)

cdef uint64_t sample_scratch(uint32_t vocab) noexcept nogil:
    return nyb_sample_scratch(vocab)

cdef int sample(const nyb_rows *rows, const float *logits, uint32_t vocab,
                const nyb_sampling *sampling, const int32_t *recent, uint32_t n_recent,
                uint64_t n_tokens, void *scratch, int32_t *token, nyb_error *error) noexcept nogil:
    return nyb_sample(rows, logits, vocab, sampling, recent, n_recent, n_tokens, scratch, token,
                      error)

# -- GGUF files ---------------------------------------------------------------------------------

cdef int gguf_scan(const uint8_t *data, uint64_t have, uint64_t length, nyb_gguf_file *file,
                   nyb_error *error) noexcept nogil:
    return nyb_gguf_scan(data, have, length, file, error)


cdef uint64_t gguf_scratch_bytes(const nyb_gguf_file *file) noexcept nogil:
    return nyb_gguf_scratch_bytes(file)


cdef int gguf_index(const uint8_t *data, uint64_t length, nyb_gguf_file *file, nyb_gguf_key *keys,
                    nyb_gguf_tensor *tensors, uint32_t *scratch, nyb_error *error) noexcept nogil:
    return nyb_gguf_index(data, length, file, keys, tensors, scratch, error)


cdef const char *gguf_type_name(uint32_t type) noexcept nogil:
    return nyb_gguf_type_name(type)


cdef uint32_t gguf_type_bytes(uint32_t type) noexcept nogil:
    return nyb_gguf_type_bytes(type)


cdef const nyb_gguf_format *gguf_format_of(uint32_t format) noexcept nogil:
    return nyb_gguf_format_of(format)

# -- Tokenizers ------------------------------------------------------------------------------------

cdef int vocab_measure(const nyb_vocab_file *file, uint64_t *nbytes,
                       nyb_error *error) noexcept nogil:
    return nyb_vocab_measure(file, nbytes, error)


cdef int vocab_build(const nyb_vocab_file *file, void *memory, nyb_vocab *vocab,
                     nyb_error *error) noexcept nogil:
    return nyb_vocab_build(file, memory, vocab, error)


cdef int vocab_open(const nyb_vocab_file *file, const void *memory, uint64_t nbytes,
                    nyb_vocab *vocab, nyb_error *error) noexcept nogil:
    return nyb_vocab_open(file, memory, nbytes, vocab, error)


cdef uint32_t vocab_find(const nyb_vocab *vocab, const uint8_t *spelling, size_t n) noexcept nogil:
    return nyb_vocab_find(vocab, spelling, n)


cdef size_t vocab_spelling(const nyb_vocab *vocab, uint32_t id,
                           const uint8_t **spelling) noexcept nogil:
    return nyb_vocab_spelling(vocab, id, spelling)


cdef unsigned int vocab_type(const nyb_vocab *vocab, uint32_t id) noexcept nogil:
    return nyb_vocab_type(vocab, id)


cdef int vocab_is_end(const nyb_vocab *vocab, uint32_t id) noexcept nogil:
    return nyb_vocab_is_end(vocab, id)


cdef size_t vocab_bytes(const nyb_vocab *vocab, uint32_t id, uint8_t *out) noexcept nogil:
    return nyb_vocab_bytes(vocab, id, out)


cdef uint64_t encode_most(const nyb_vocab *vocab, size_t n) noexcept nogil:
    return nyb_encode_most(vocab, n)


cdef uint64_t encode_scratch(const nyb_vocab *vocab, size_t n) noexcept nogil:
    return nyb_encode_scratch(vocab, n)


cdef size_t encode(const nyb_vocab *vocab, const uint8_t *text, size_t n, int special,
                   const uint32_t *breaks, size_t n_breaks, void *scratch, uint32_t *ids,
                   nyb_encode_stats *stats) noexcept nogil:
    return nyb_encode(vocab, text, n, special, breaks, n_breaks, scratch, ids, stats)
