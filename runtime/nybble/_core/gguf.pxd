from libc.stdint cimport uint8_t, uint32_t, uint64_t

from nybble._core.engine cimport nyb_gguf_file, nyb_gguf_key, nyb_gguf_tensor


cdef class GgufIndex:
    cdef readonly object whole          # read-only memoryview of the file's first bytes
    cdef Py_buffer view                 # of `whole`, from __cinit__ to __dealloc__
    cdef bint held                      # whether `view` has to be released
    cdef const uint8_t *data            # borrowed from `view`
    cdef uint64_t length                # of the file
    cdef nyb_gguf_file file
    cdef nyb_gguf_key *keys             # owned, file.n_keys of them
    cdef nyb_gguf_tensor *tensors       # owned, file.n_tensors of them

    cdef int scan(self, str label, bint is_packed) except -1
    cdef const nyb_gguf_key *key_at(self, uint32_t i) except NULL


cdef class GgufArray:
    cdef GgufIndex index                # keeps `elements` in memory; None if made by hand
    cdef const uint8_t *elements        # borrowed from index.data
    cdef uint64_t nbytes
    cdef uint64_t count
    cdef uint32_t type                  # of an element
    cdef uint64_t *marks                # owned: offset of every 64th string; NULL until needed

    cdef int mark(self) except -1
    cdef object element(self, uint64_t i)
    cdef str text_at(self, uint64_t *at)
    cdef uint64_t after(self, uint64_t at) except 0
