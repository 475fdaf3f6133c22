"""The engine with its memory, and sequences: slots of its KV cache."""
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int32_t

from nybble._core.engine cimport (
    NYB_MAX_PAGES,
    NYB_WANT_ALL,
    NYB_WANT_HIDDEN,
    NYB_WANT_LAST,
    NYB_WANT_NONE,
    nyb_batch,
    nyb_error,
    nyb_limits,
    nyb_sizes,
    nyb_span,
    nyb_tuning,
)
from nybble._core.kernels cimport NYB_PAGE
from nybble._core.native cimport (
    barrier_seconds,
    bind,
    can_rewind,
    clear_page,
    clear_slot,
    hidden,
    logits,
    measure,
    read,
    run,
    said,
    sample_scratch,
    tune,
)

import os
from _thread import allocate_lock
from time import perf_counter

from nybble._core.native import cpu_bits, level_bits, pool_stop
from nybble._core.program import KV_TYPES
from nybble.errors import BudgetError, ContextError, FormatError, NumericError, UsageError

# One engine call at a time in a process: they share the cores, and the pool. Whoever wants what a
# call computed reads it under the same hold: the next call, of any sequence, overwrites it.
engine_lock = allocate_lock()


def _before_fork():
    """A fork would copy the pool without its threads: they end first, and start on demand."""
    engine_lock.acquire()
    pool_stop()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=engine_lock.release,
    after_in_child=engine_lock.release,
)

CHUNK = 128
PAGE = NYB_PAGE  # positions
cdef enum:
    LOGITS_BYTES = 2 * 1024 * 1024  # of a batch's logits, beyond its first row's


cdef nyb_limits limits_of(Program program, uint32_t context, uint32_t threads, uint32_t sequences,
                          uint32_t chunk, kv) except *:
    cdef uint64_t pages = (<uint64_t>context + NYB_PAGE - 1) // NYB_PAGE
    cdef uint32_t rows = max(1, min(16, LOGITS_BYTES // (4 * program.c.vocab)))
    if pages * sequences > NYB_MAX_PAGES:
        times = f"{sequences:,} times " if sequences > 1 else ""
        raise BudgetError(f"{times}a context of {context:,} tokens is more than the "
                          f"{<uint64_t>NYB_MAX_PAGES * NYB_PAGE:,} that there may be in all; "
                          "take a smaller context, or fewer sequences")
    return nyb_limits(threads, chunk, min(chunk, rows), pages, pages * sequences, sequences,
                      KV_TYPES[kv], 0)


cdef nyb_sizes sizes_of(Program program, const nyb_limits *limits, uint32_t bits) except *:
    cdef nyb_sizes found
    cdef nyb_error error
    if measure(&program.c, limits, bits, &found, &error):
        raise FormatError(f"this model cannot be run so: {said(&error)}")
    return found


def sizes(Program program not None, uint32_t context, uint32_t threads=1, uint32_t sequences=1,
          uint32_t chunk=CHUNK, kv="f16", panel_bytes=None):
    """(bytes of the KV cache, bytes of working memory) of an Engine; nothing is allocated.

    panel_bytes : of a block, for the rows of another machine; else the rows are this one's
    """
    cdef nyb_limits limits = limits_of(program, context, threads, sequences, chunk, kv)
    cdef uint32_t bits = 0
    if panel_bytes is None:
        bits = cpu_bits()
    else:
        limits.panel = panel_bytes
    found = sizes_of(program, &limits, bits)
    return found.kv_bytes, found.work_bytes + sample_scratch(program.c.vocab)


cdef class Engine:
    """A model's program bound to this machine, with its KV cache and working memory.

    weights   : what the program reads; its program says what to do
    context   : positions of a sequence
    threads   : into how many ranges the work of a phase is divided
    sequences : how many sequences the KV cache has room for
    chunk     : tokens of prefill in one engine call; the result does not depend on it
    kv        : how keys and values are stored, a name of nybble._core.program.KV_TYPES
    """

    def __cinit__(self, Weights weights not None, uint32_t context, uint32_t threads=1,
                  uint32_t sequences=1, uint32_t chunk=CHUNK, kv="f16"):
        cdef nyb_limits limits = limits_of(weights.program, context, threads, sequences, chunk, kv)
        cdef uint32_t bits = cpu_bits()
        cdef nyb_sizes sizes = sizes_of(weights.program, &limits, bits)
        cdef nyb_error error
        self.weights = weights
        times = f"{sequences:,} times " if sequences > 1 else ""
        self.kv = Arena(sizes.kv_bytes,
                        f"keys and values of {times}a context of {context:,} tokens")
        self.work = Arena(sizes.work_bytes, "working memory")
        self.sampling = Arena(sample_scratch(weights.program.c.vocab), "the sampler", False)
        self.context, self.chunk, self.threads = context, chunk, threads
        self.sequences, self.max_logits = sequences, limits.max_logits
        if bind(&self.bound, &weights.program.c, &limits, bits, weights.data, self.kv.data,
                self.work.data, &error):
            raise UsageError(f"this model cannot be run so: {said(&error)}")

    def tune(self, uint32_t decode_threads, uint32_t prefill_threads, str level=None):
        """Chooses, until it is called again, how many threads run one token and several, of the
        engine's, and of which ISA level the rows that read a matrix for one token are; None for
        the best. Any choice gives the same bits."""
        if not (1 <= decode_threads <= self.threads and 1 <= prefill_threads <= self.threads):
            raise UsageError(f"{decode_threads} and {prefill_threads} threads: the engine has "
                             f"{self.threads}")
        cdef uint32_t bits = cpu_bits() if level is None else level_bits(level)
        cdef nyb_tuning tuning = nyb_tuning(decode_threads, prefill_threads, bits)
        with engine_lock:
            tune(&self.bound, &tuning)

    def read_seconds(self, uint32_t streams):
        """How long the engine's threads take to read all weights once, as `streams` streams each:
        what decoding is limited by."""
        with engine_lock:
            start = perf_counter()
            with nogil:
                read(self.weights.data, self.weights.program.c.weights_bytes, streams, self.threads)
            return perf_counter() - start

    def barrier_seconds(self):
        """How long the engine's threads take to meet and go on, as the mean of 1,000 barriers in
        one call; a token has some five a layer. 0.0 where one thread works, by itself or because
        the machine is busy."""
        cdef double seconds
        with engine_lock:
            with nogil:
                seconds = barrier_seconds(self.threads, 1000)
        return seconds


cdef class Sequence:
    """A slot of an engine's KV cache: number `slot` of those it has room for."""

    def __cinit__(self, Engine engine not None, uint32_t slot=0):
        if slot >= engine.sequences:
            raise UsageError(f"slot {slot}: the engine has room for {engine.sequences} sequences")
        self.engine = engine
        self.slot = slot
        self.ids = []
        self.n_pages = (engine.context + NYB_PAGE - 1) // NYB_PAGE
        self.pages = <uint32_t *>PyMem_Malloc(self.n_pages * sizeof(uint32_t))
        self.fed = <int32_t *>PyMem_Malloc(engine.chunk * sizeof(int32_t))
        if self.pages is NULL or self.fed is NULL:
            raise MemoryError()
        for i in range(self.n_pages):
            self.pages[i] = slot * self.n_pages + i

    def __dealloc__(self):
        PyMem_Free(self.pages)
        PyMem_Free(self.fed)

    @property
    def context(self):
        """Positions there is room for."""
        return self.engine.context

    @property
    def vocab(self):
        """Number of logits of a token."""
        return self.engine.bound.program.vocab

    def rewind(self, size_t n):
        """Forgets all but the first n tokens, or all of them if a layer with a window has let go
        of what the next one would see. Returns how many are left."""
        if not can_rewind(&self.engine.bound, self.written, n):
            n = 0
        if n == 0:
            self.written = 0
        del self.ids[n:]
        return len(self.ids)

    def reusable(self, list ids):
        """The length of the longest prefix that these ids share with what is in the cache, at most
        all but the last of them; 0 if that cannot be gone back to."""
        cdef Py_ssize_t n = 0, most = min(len(self.ids), len(ids) - 1)
        while n < most and self.ids[n] == ids[n]:
            n += 1
        return n if can_rewind(&self.engine.bound, self.written, n) else 0

    def reuse(self, list ids):
        """Rewinds to what is reusable for these ids; returns its length."""
        return self.rewind(self.reusable(ids))

    def next_chunk(self, size_t n):
        """How many of the n next tokens to feed in one call: up to the next position that is a
        multiple of the chunk."""
        cdef size_t room = self.engine.chunk - <size_t>len(self.ids) % self.engine.chunk
        return min(n, room)

    def feed(self, list ids, float[::1] out=None):
        """Runs these tokens, at most the engine's chunk of them, after those in the cache. Writes
        the last one's logits to `out` (vocab,), if given.

        ContextError if they go beyond the context, NumericError if a logit is NaN.
        """
        if out is not None and <size_t>out.shape[0] != self.engine.bound.program.vocab:
            raise UsageError(f"out must have {self.engine.bound.program.vocab} floats")
        with engine_lock:
            self.advance(ids, NYB_WANT_NONE if out is None else NYB_WANT_LAST)
            if out is not None:
                self.copy_row(0, &out[0])

    def logits_of(self, list ids, float[:, ::1] out):
        """Runs these tokens and writes the logits of each: out (len(ids), vocab). NumericError if
        one is NaN."""
        cdef size_t vocab = self.engine.bound.program.vocab, done = 0, n, i
        if <size_t>out.shape[0] != <size_t>len(ids) or <size_t>out.shape[1] != vocab:
            raise UsageError(f"out must have the shape ({len(ids)}, {vocab})")
        while done < <size_t>len(ids):
            n = min(self.engine.max_logits, self.next_chunk(len(ids) - done))
            with engine_lock:
                self.advance(ids[done:done + n], NYB_WANT_ALL)
                for i in range(n):
                    self.copy_row(i, &out[done + i, 0])
            done += n

    def hidden_sums(self, list ids, double[::1] out):
        """Runs these tokens and adds to `out` (dim,) the hidden state of each, what the head would
        be given. NumericError if one is NaN."""
        cdef size_t dim = self.engine.bound.program.dim, done = 0, n, i, j
        cdef const float *row
        if <size_t>out.shape[0] != dim:
            raise UsageError(f"out must have {dim} doubles")
        while done < <size_t>len(ids):
            n = self.next_chunk(len(ids) - done)
            with engine_lock:
                self.advance(ids[done:done + n], NYB_WANT_HIDDEN)
                for i in range(n):  # in the order of the tokens
                    row = hidden(&self.engine.bound, i)
                    for j in range(dim):
                        out[j] += row[j]
                for j in range(dim):
                    if out[j] != out[j]:
                        raise self.damaged(f"element {j} of a hidden state")
            done += n

    cdef int copy_row(self, uint32_t i, float *out) except -1:
        cdef const float *row = logits(&self.engine.bound, i)
        cdef size_t id = 0, vocab = self.engine.bound.program.vocab
        with nogil:
            while id < vocab and row[id] == row[id]:
                out[id] = row[id]
                id += 1
        if id < vocab:
            raise self.damaged(f"the logit of token {id}")
        return 0

    def clear(self):
        """Empties the cache and zeroes it: after NaN, say, because a masked lane of attention
        multiplies what is in it by zero, which for NaN is NaN again."""
        for i in range(self.n_pages):
            clear_page(&self.engine.bound, self.pages[i])
        clear_slot(&self.engine.bound, self.slot)
        self.rewind(0)

    def damaged(self, str number):
        """The error for a number that is NaN; the cache is cleared first."""
        self.clear()
        return NumericError(f"{number} is not a number; the weights are damaged or nybble has a "
                            "bug: get the model again, and if that does not help, report it")

    cdef advance(self, list ids, nyb_want want):
        """The caller holds the engine's lock, and keeps it while it reads what is wanted."""
        cdef size_t n = len(ids), i
        cdef nyb_span span
        cdef nyb_batch batch
        cdef nyb_error error
        cdef int failed
        if len(self.ids) + n > self.engine.context:
            raise ContextError(f"{len(self.ids) + n} tokens do not fit the context of "
                               f"{self.engine.context}")
        if n > self.engine.chunk:
            raise UsageError(f"{n} tokens at once; the engine takes {self.engine.chunk}")
        for i in range(n):
            self.fed[i] = ids[i]
        span = nyb_span(self.fed, n, len(self.ids), self.pages, self.slot, want)
        batch = nyb_batch(&span, 1)
        with nogil:
            failed = run(&self.engine.bound, &batch, &error)
        if failed:
            raise UsageError(f"these tokens cannot be run: {said(&error)}")
        self.ids.extend(ids)
        self.written = max(self.written, <uint64_t>len(self.ids))
