"""Vocabularies of GGUF files: owns their tables, checks what Python hands in."""

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from nybble._core.engine cimport (
    NYB_PRE_DEEPSEEK_CODER,
    NYB_PRE_DEEPSEEK_LLM,
    NYB_PRE_DEFAULT,
    NYB_PRE_FALCON,
    NYB_PRE_GPT2,
    NYB_PRE_LLAMA3,
    NYB_PRE_QWEN2,
    NYB_PRE_QWEN35,
    NYB_PRE_SMOLLM,
    NYB_TOKEN_CONTROL,
    NYB_TOKEN_NORMAL,
    NYB_TOKEN_UNKNOWN,
    NYB_TOKEN_USER_DEFINED,
    NYB_VOCAB_BYTES,
    NYB_VOCAB_CHARS,
    NYB_VOCAB_NONE,
    NYB_VOCAB_PIECES,
    nyb_encode_stats,
    nyb_error,
    nyb_vocab_file,
)
from nybble._core.native cimport (
    encode,
    encode_most,
    encode_scratch,
    vocab_build,
    vocab_bytes,
    vocab_find,
    vocab_is_end,
    vocab_measure,
    vocab_open,
    vocab_spelling,
    vocab_type,
)

from nybble.errors import FormatError, UsageError

BYTES = NYB_VOCAB_BYTES
CHARS = NYB_VOCAB_CHARS
PIECES = NYB_VOCAB_PIECES

PRE_DEFAULT = NYB_PRE_DEFAULT
PRE_GPT2 = NYB_PRE_GPT2
PRE_SMOLLM = NYB_PRE_SMOLLM
PRE_FALCON = NYB_PRE_FALCON
PRE_LLAMA3 = NYB_PRE_LLAMA3
PRE_QWEN2 = NYB_PRE_QWEN2
PRE_QWEN35 = NYB_PRE_QWEN35
PRE_DEEPSEEK_LLM = NYB_PRE_DEEPSEEK_LLM
PRE_DEEPSEEK_CODER = NYB_PRE_DEEPSEEK_CODER

NORMAL = NYB_TOKEN_NORMAL
UNKNOWN = NYB_TOKEN_UNKNOWN
CONTROL = NYB_TOKEN_CONTROL
USER_DEFINED = NYB_TOKEN_USER_DEFINED

cdef size_t MOST_TEXT = (<size_t>1 << 29) - 1


cdef object format_error(const nyb_error *error):
    return FormatError(f"bad vocabulary: {error.what.decode()} "
                       f"(at number {error.at}, value {error.value})")


cdef const uint8_t *start_of(const unsigned char[::1] view) noexcept:
    return <const uint8_t *>&view[0] if view.shape[0] > 0 else NULL


cdef int check_region(str what, uint64_t n, const unsigned char[::1] region) except -1:
    """Numbers of four bytes must fill their region."""
    if region.shape[0] != <Py_ssize_t>(4 * n):
        raise FormatError(f"bad vocabulary: {n} {what} take {4 * n} bytes, not {region.shape[0]}")
    return 0


cdef bint spells_bytes(const nyb_vocab *vocab) noexcept:
    """Whether there is a token of a single byte: some vocabularies lack a few."""
    cdef int byte
    for byte in range(256):
        if vocab.tables.byte_ids[byte] != NYB_VOCAB_NONE:
            return True
    return False


cdef class Vocabulary:
    """A vocabulary and its tables; encodes and decodes.

    `kind` is BYTES, CHARS or PIECES (nyb_vocab.h says what they are). `tokens`, `merges` (n_*
    strings each), `scores` (n_scores float32, of PIECES) and `types` (n_types int32) are the bytes
    of the arrays in a GGUF file, which are done with when it is made: the tokens' are copied.

    pre          : of BYTES, one of the PRE_* numbers
    whole_words  : of BYTES, a word that is a token is that token, whatever the merges say
    unknown      : of the others, the id for what has no token and no tokens of its bytes
    space_prefix : of the others, a space is put before text and after special tokens
    built        : the tables of such a vocabulary, as `tables` gave them: they are checked, held
                   and read in place, instead of being built from merges, scores and types

    FormatError if any of it is damaged: what, at which token or merge.
    """

    def __cinit__(self, uint32_t kind, const unsigned char[::1] tokens not None,
                  uint64_t n_tokens, *, const unsigned char[::1] merges not None=b"",
                  uint64_t n_merges=0, const unsigned char[::1] scores not None=b"",
                  uint64_t n_scores=0, const unsigned char[::1] types not None=b"",
                  uint64_t n_types=0, uint32_t pre=NYB_PRE_DEFAULT, unknown=None,
                  bint whole_words=False, bint space_prefix=False,
                  const unsigned char[::1] built=None):
        cdef nyb_vocab_file file
        check_region("types", n_types, types)
        check_region("scores", n_scores, scores)
        file.tokens = start_of(tokens)
        file.tokens_bytes = tokens.shape[0]
        file.n_tokens = n_tokens
        file.merges = start_of(merges)
        file.merges_bytes = merges.shape[0]
        file.n_merges = n_merges
        file.scores = start_of(scores)
        file.n_scores = n_scores
        file.types = start_of(types)
        file.n_types = n_types
        file.kind = kind
        file.pre = pre
        file.unknown = NYB_VOCAB_NONE if unknown is None else unknown
        file.whole_words = whole_words
        file.space_prefix = space_prefix
        if built is None:
            self.build(&file)
        else:
            self.open(&file, built)
            self.tokens = tokens
        if kind == NYB_VOCAB_BYTES and not spells_bytes(&self.vocab):
            raise FormatError("bad vocabulary: no byte has a token, so no text can be spelled")
        self.n_tokens = self.vocab.tables.n_tokens
        self.n_specials = self.vocab.tables.n_specials
        self.in_order = self.vocab.tables.in_order

    cdef int build(self, nyb_vocab_file *file) except -1:
        cdef nyb_error error
        cdef uint64_t nbytes = 0
        cdef uint8_t *copied
        cdef int failed
        with nogil:
            failed = vocab_measure(file, &nbytes, &error)
        if failed:
            raise format_error(&error)
        self.memory = malloc(nbytes + file.tokens_bytes)
        if self.memory == NULL:
            raise MemoryError(f"the tokenizer's tables take {nbytes + file.tokens_bytes} bytes")
        copied = <uint8_t *>self.memory + nbytes
        memcpy(copied, file.tokens, file.tokens_bytes)
        file.tokens = copied
        with nogil:
            failed = vocab_build(file, self.memory, &self.vocab, &error)
        if failed:
            raise format_error(&error)
        self.nbytes = nbytes
        return 0

    cdef int open(self, const nyb_vocab_file *file, const unsigned char[::1] built) except -1:
        cdef nyb_error error
        cdef int failed
        cdef uint64_t nbytes = built.shape[0]
        cdef const uint8_t *tables = start_of(built)
        with nogil:
            failed = vocab_open(file, tables, nbytes, &self.vocab, &error)
        if failed:
            raise format_error(&error)
        self.built = built
        self.nbytes = nbytes
        return 0

    def __dealloc__(self):
        free(self.memory)  # NULL after a failed __cinit__, and where tables are held; cannot raise

    @property
    def tables(self):
        """The tables as bytes, for a file; the same on every little-endian machine."""
        return PyBytes_FromStringAndSize(<const char *>self.vocab.tables, self.nbytes)

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
        cdef uint64_t scratch_bytes, most
        cdef nyb_encode_stats stats
        cdef uint8_t *scratch = NULL
        cdef uint32_t *ids
        cdef uint32_t *c_breaks
        cdef const uint8_t *start = start_of(text)
        if n > MOST_TEXT:
            raise UsageError(f"a text of {n} bytes is too long, {MOST_TEXT} is the most")
        # One block: the scratch, which wants to be aligned to 8, then the ids, then the breaks.
        scratch_bytes = encode_scratch(&self.vocab, n)
        most = encode_most(&self.vocab, n)
        scratch = <uint8_t *>malloc(scratch_bytes + 4 * (most + n_breaks))
        if scratch == NULL:
            raise MemoryError(f"a text of {n} bytes takes {scratch_bytes} bytes to encode")
        try:
            ids = <uint32_t *>(scratch + scratch_bytes)
            c_breaks = ids + most
            for i in range(n_breaks):
                c_breaks[i] = breaks[i]
            with nogil:
                n_ids = encode(&self.vocab, start, n, special, c_breaks, n_breaks, scratch, ids,
                               &stats)
            found = []
            for i in range(n_ids):
                found.append(ids[i])
            return found, stats.steps
        finally:
            free(scratch)

    def token_bytes(self, id):
        """The bytes that a token stands for; a control token's are its spelling."""
        cdef const uint8_t *spelling = NULL
        self.check_id(id)
        cdef size_t n = vocab_spelling(&self.vocab, id, &spelling)
        out = PyBytes_FromStringAndSize(NULL, n)  # at least as many as the token's bytes
        n = vocab_bytes(&self.vocab, id, <uint8_t *>PyBytes_AsString(out))
        return out[:n]

    def spelling(self, id):
        """A token's bytes in the file: in the kind's own spelling, special tokens as they are."""
        cdef const uint8_t *spelling = NULL
        self.check_id(id)
        cdef size_t n = vocab_spelling(&self.vocab, id, &spelling)
        return (<const char *>spelling)[:n]

    def type(self, id):
        """A token's type, GGUF's number: NORMAL, CONTROL, ..."""
        self.check_id(id)
        return vocab_type(&self.vocab, id)

    def find(self, bytes spelling not None):
        """The id of the token spelled so in the file, or None."""
        cdef uint32_t id = vocab_find(&self.vocab, <const uint8_t *><const char *>spelling,
                                      len(spelling))
        return None if id == NYB_VOCAB_NONE else id

    def specials(self):
        """The ids of the tokens that are looked for in text: control, unknown, user defined."""
        cdef uint32_t id
        cdef unsigned int type
        ids = []
        for id in range(self.n_tokens):
            type = vocab_type(&self.vocab, id)
            if type == NYB_TOKEN_CONTROL or type == NYB_TOKEN_UNKNOWN \
                    or type == NYB_TOKEN_USER_DEFINED:
                ids.append(id)
        return ids

    def ends(self):
        """The ids of the tokens that end a reply, going by their spelling."""
        cdef uint32_t id
        ids = []
        for id in range(self.n_tokens):
            if vocab_is_end(&self.vocab, id):
                ids.append(id)
        return ids
