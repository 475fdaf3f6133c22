"""Byte-level BPE over a GGUF vocabulary: owns the tables, checks what Python hands in."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from nybble._core.engine cimport (
    NYB_BPE_NONE,
    NYB_PRE_DEFAULT,
    NYB_PRE_GPT2,
    NYB_PRE_SMOLLM,
    NYB_TOKEN_CONTROL,
    NYB_TOKEN_NORMAL,
    NYB_TOKEN_UNKNOWN,
    NYB_TOKEN_USER_DEFINED,
    nyb_bpe_stats,
    nyb_bpe_vocab,
    nyb_error,
)
from nybble._core.native cimport (
    bpe_build,
    bpe_bytes,
    bpe_encode,
    bpe_find,
    bpe_is_end,
    bpe_measure,
    bpe_scratch_bytes,
    bpe_spelling,
    bpe_type,
)

from nybble.errors import FormatError, UsageError

PRE_DEFAULT = NYB_PRE_DEFAULT
PRE_GPT2 = NYB_PRE_GPT2
PRE_SMOLLM = NYB_PRE_SMOLLM

NORMAL = NYB_TOKEN_NORMAL
UNKNOWN = NYB_TOKEN_UNKNOWN
CONTROL = NYB_TOKEN_CONTROL
USER_DEFINED = NYB_TOKEN_USER_DEFINED

cdef size_t MOST_TEXT = (<size_t>1 << 31) - 1


cdef object format_error(const nyb_error *error):
    return FormatError(f"bad vocabulary: {error.what.decode()} "
                       f"(at number {error.at}, value {error.value})")


cdef const uint8_t *start_of(const unsigned char[::1] view) noexcept:
    return <const uint8_t *>&view[0] if view.shape[0] > 0 else NULL


cdef class Bpe:
    """A vocabulary and its tables; encodes and decodes.

    `tokens`, `merges` (n_* strings each) and `types` (n_types int32) are the bytes of the arrays in
    a GGUF file; `tokens` is held and read in place for as long as this object lives, the others are
    done with when it is made. `pre` is one of the PRE_* numbers; with `whole_words` a word that is
    a token is that token, whatever the merges say.

    FormatError if any of it is damaged: what, at which token or merge.
    """

    def __cinit__(self, const unsigned char[::1] tokens not None, uint64_t n_tokens,
                  const unsigned char[::1] merges not None, uint64_t n_merges,
                  const unsigned char[::1] types not None, uint64_t n_types,
                  uint32_t pre, bint whole_words=False):
        cdef nyb_bpe_vocab vocab
        cdef nyb_error error
        cdef uint64_t nbytes = 0
        cdef int failed
        if types.shape[0] != <Py_ssize_t>(4 * n_types):
            raise FormatError(f"bad vocabulary: {n_types} types take {4 * n_types} bytes, "
                              f"not {types.shape[0]}")
        vocab.tokens = start_of(tokens)
        vocab.tokens_bytes = tokens.shape[0]
        vocab.n_tokens = n_tokens
        vocab.merges = start_of(merges)
        vocab.merges_bytes = merges.shape[0]
        vocab.n_merges = n_merges
        vocab.types = start_of(types)
        vocab.n_types = n_types
        vocab.pre = pre
        vocab.whole_words = whole_words
        if bpe_measure(&vocab, &nbytes, &error) != 0:
            raise format_error(&error)
        self.memory = malloc(nbytes)
        if self.memory == NULL:
            raise MemoryError(f"the tokenizer's tables take {nbytes} bytes")
        with nogil:
            failed = bpe_build(&vocab, self.memory, &self.bpe, &error)
        if failed:
            raise format_error(&error)
        self.tokens = tokens
        self.nbytes = nbytes
        self.n_tokens = self.bpe.tables.n_tokens
        self.n_specials = self.bpe.tables.n_specials
        self.in_order = self.bpe.tables.in_order

    def __dealloc__(self):
        free(self.memory)  # NULL after a failed __cinit__; cannot raise

    cdef int check_id(self, object id) except -1:
        if not isinstance(id, int) or not 0 <= id < self.n_tokens:
            raise UsageError(f"{id!r} is no token id: this vocabulary has 0 to {self.n_tokens - 1}")
        return 0

    def encode(self, const unsigned char[::1] text not None, bint special=False, breaks=()):
        """The ids of a text of bytes. `special` also finds control tokens; no special token is
        found across one of `breaks`, ascending offsets into the text."""
        return self.encode_counting(text, special, breaks)[0]

    def encode_counting(self, const unsigned char[::1] text not None, bint special=False,
                        breaks=()):
        """(ids, steps): as `encode`, and what it cost, in steps that do not depend on the
        machine."""
        cdef size_t n = text.shape[0]
        cdef size_t n_breaks = len(breaks)
        cdef size_t i, n_ids = 0
        cdef uint64_t scratch_bytes
        cdef nyb_bpe_stats stats
        cdef uint8_t *scratch = NULL
        cdef uint32_t *ids
        cdef uint32_t *c_breaks
        cdef const uint8_t *start = start_of(text)
        if n > MOST_TEXT:
            raise UsageError(f"a text of {n} bytes is too long, {MOST_TEXT} is the most")
        # One block: the scratch, which wants to be aligned to 8, then the ids, then the breaks.
        scratch_bytes = bpe_scratch_bytes(&self.bpe, n)
        scratch = <uint8_t *>malloc(scratch_bytes + 4 * (n + n_breaks))
        if scratch == NULL:
            raise MemoryError(f"a text of {n} bytes takes {scratch_bytes} bytes to encode")
        try:
            ids = <uint32_t *>(scratch + scratch_bytes)
            c_breaks = ids + n
            for i in range(n_breaks):
                c_breaks[i] = breaks[i]
            with nogil:
                n_ids = bpe_encode(&self.bpe, start, n, special, c_breaks, n_breaks, scratch, ids,
                                   &stats)
            return [ids[i] for i in range(n_ids)], stats.steps
        finally:
            free(scratch)

    def token_bytes(self, id):
        """The bytes that a token stands for; a control token's are its spelling."""
        cdef const uint8_t *spelling = NULL
        cdef uint8_t *out
        cdef size_t n
        self.check_id(id)
        n = bpe_spelling(&self.bpe, id, &spelling)
        out = <uint8_t *>malloc(n + 1)
        if out == NULL:
            raise MemoryError
        n = bpe_bytes(&self.bpe, id, out)
        try:
            return (<const char *>out)[:n]
        finally:
            free(out)

    def spelling(self, id):
        """A token's bytes in the file: in the byte alphabet, or as it is for special tokens."""
        cdef const uint8_t *spelling = NULL
        self.check_id(id)
        cdef size_t n = bpe_spelling(&self.bpe, id, &spelling)
        return (<const char *>spelling)[:n]

    def type(self, id):
        """A token's type, GGUF's number: NORMAL, CONTROL, ..."""
        self.check_id(id)
        return bpe_type(&self.bpe, id)

    def find(self, bytes spelling not None):
        """The id of the token spelled so in the file, or None."""
        cdef uint32_t id = bpe_find(&self.bpe, <const uint8_t *><const char *>spelling,
                                    len(spelling))
        return None if id == NYB_BPE_NONE else id

    def specials(self):
        """The ids of the tokens that are looked for in text: control, unknown, user defined."""
        cdef uint32_t id
        cdef unsigned int type
        ids = []
        for id in range(self.n_tokens):
            type = bpe_type(&self.bpe, id)
            if type == NYB_TOKEN_CONTROL or type == NYB_TOKEN_UNKNOWN \
                    or type == NYB_TOKEN_USER_DEFINED:
                ids.append(id)
        return ids

    def ends(self):
        """The ids of the tokens that end a reply, going by their spelling."""
        cdef uint32_t id
        return [id for id in range(self.n_tokens) if bpe_is_end(&self.bpe, id)]
