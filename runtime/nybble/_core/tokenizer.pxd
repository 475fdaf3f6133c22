from nybble._core.engine cimport nyb_vocab, nyb_vocab_file


cdef class Vocabulary:
    cdef nyb_vocab vocab            # its pointers are into `memory`, or into `tokens` and `built`
    cdef void *memory               # owned: the tables, then the tokens' strings; or NULL, and
    cdef const unsigned char[::1] built     # these hold tables and strings that are another's
    cdef const unsigned char[::1] tokens
    cdef readonly unsigned int n_tokens
    cdef readonly size_t nbytes     # of the tables
    cdef readonly bint in_order
    cdef readonly size_t n_specials

    cdef int build(self, nyb_vocab_file *file) except -1
    cdef int open(self, const nyb_vocab_file *file, const unsigned char[::1] built) except -1
    cdef int check_id(self, object id) except -1
