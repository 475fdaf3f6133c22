from nybble._core.engine cimport nyb_vocab


cdef class Vocabulary:
    cdef nyb_vocab vocab            # its pointers are into `memory`
    cdef void *memory               # owned: the tables, then the tokens' strings
    cdef readonly unsigned int n_tokens
    cdef readonly size_t nbytes     # of the tables
    cdef readonly bint in_order
    cdef readonly size_t n_specials
    cdef int check_id(self, object id) except -1
