"""The index of a GGUF file: what the C scanner found, owned, and decoded only when asked for.

It is made of the file's head, all that is before the tensors' data; `wanted` says how long that is.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport (
    int8_t, int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t,
)
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from nybble._core.engine cimport (
    NYB_GGUF_ARRAY, NYB_GGUF_BOOL, NYB_GGUF_FLOAT32, NYB_GGUF_FLOAT64, NYB_GGUF_INT8,
    NYB_GGUF_INT16, NYB_GGUF_INT32, NYB_GGUF_INT64, NYB_GGUF_STRING, nyb_error, nyb_gguf_key,
    nyb_gguf_number, nyb_gguf_tensor,
)
from nybble._core.native cimport (
    gguf_format_of, gguf_index, gguf_scan, gguf_scratch_bytes, gguf_type_bytes, gguf_type_name,
)

from nybble.errors import FormatError

cdef enum:
    STRINGS_PER_MARK = 64   # a string array's index: 8 bytes per 64 strings, 32 steps on average


cdef str text(const uint8_t *data, uint64_t nbytes):
    """UTF-8 as the file has it; bytes that are not UTF-8 become lone surrogates."""
    return PyUnicode_DecodeUTF8(<const char *>data, <Py_ssize_t>nbytes, "surrogateescape")


cdef object number(uint32_t type, const uint8_t *at):
    """One little-endian value of a fixed-size type; `at` need not be aligned."""
    cdef uint64_t bits = nyb_gguf_number(at, gguf_type_bytes(type))
    cdef uint32_t low = <uint32_t>bits
    cdef float single
    cdef double wide
    if type == NYB_GGUF_INT8:
        return <int8_t>bits
    if type == NYB_GGUF_INT16:
        return <int16_t>bits
    if type == NYB_GGUF_INT32:
        return <int32_t>bits
    if type == NYB_GGUF_INT64:
        return <int64_t>bits
    if type == NYB_GGUF_FLOAT32:
        memcpy(&single, &low, sizeof(single))
        return single
    if type == NYB_GGUF_FLOAT64:
        memcpy(&wide, &bits, sizeof(wide))
        return wide
    if type == NYB_GGUF_BOOL:
        return bits != 0
    return bits


def wanted(object buffer not None, uint64_t length):
    """How many bytes of a file of `length` its head takes at least, if `buffer` has fewer of them;
    0 if it has enough for a GgufIndex, or for one that is refused."""
    cdef const uint8_t[::1] have = memoryview(buffer).cast("B")
    cdef const uint8_t *data = &have[0] if have.shape[0] else NULL
    cdef uint64_t n = have.shape[0]
    cdef nyb_gguf_file file
    cdef nyb_error error
    with nogil:
        gguf_scan(data, n, length, &file, &error)
    return file.wanted


# No part in garbage collection: what it refers to cannot refer to it, and a collector would let go
# of the buffer's owner without releasing the buffer.
@cython.final
@cython.no_gc
cdef class GgufIndex:
    """Where everything is in the GGUF file whose bytes, the first of them at least, `buffer` holds.

    buffer : bytes or any other contiguous buffer. It is kept exported until the index and all
             arrays made from it are gone.
    label  : the file's name, for error texts.
    length : of the file in bytes, where the buffer has not all of it.
    is_packed : whether it is a packed model, which is not downloaded, in error texts.

    Raises FormatError, with a byte offset, the value there and what to do, unless every count,
    length and offset in the file is within it. Strings in arrays are walked, not decoded.
    """

    def __cinit__(self, object buffer not None, str label not None, length=None,
                  bint is_packed=False):
        self.whole = memoryview(buffer).cast("B").toreadonly()
        PyObject_GetBuffer(self.whole, &self.view, PyBUF_SIMPLE)
        self.held = True
        self.data = <const uint8_t *>self.view.buf
        self.length = self.view.len if length is None else length
        if self.length < <uint64_t>self.view.len:
            raise ValueError(f"{self.view.len} bytes of a file of {length}")
        self.scan(label, is_packed)

    def __dealloc__(self):
        free(self.keys)                  # NULL after a failed __cinit__
        free(self.tensors)
        if self.held:
            PyBuffer_Release(&self.view)  # after this nothing points into the file

    cdef int scan(self, str label, bint is_packed) except -1:
        cdef uint64_t have = <uint64_t>self.view.len, length = self.length
        cdef nyb_error error
        cdef int failed
        with nogil:                      # a vocabulary is megabytes
            failed = gguf_scan(self.data, have, length, &self.file, &error)
        if failed:
            raise complaint(self, label, is_packed, &error)

        # The whole list has been walked by now, so memory is in proportion to real bytes.
        self.keys = <nyb_gguf_key *>calloc(self.file.n_keys + 1, sizeof(nyb_gguf_key))
        self.tensors = <nyb_gguf_tensor *>calloc(self.file.n_tensors + 1, sizeof(nyb_gguf_tensor))
        cdef uint32_t *scratch = <uint32_t *>malloc(gguf_scratch_bytes(&self.file) + 1)
        if self.keys is NULL or self.tensors is NULL or scratch is NULL:
            free(scratch)
            raise MemoryError(f"{label}: no memory for an index of {self.file.n_keys} keys and "
                              f"{self.file.n_tensors} tensors")
        with nogil:
            failed = gguf_index(self.data, length, &self.file, self.keys, self.tensors, scratch,
                                &error)
        free(scratch)
        if failed:
            raise complaint(self, label, is_packed, &error)
        return 0

    @property
    def version(self):
        """2 or 3."""
        return self.file.version

    @property
    def alignment(self):
        """Tensor offsets are multiples of this many bytes."""
        return self.file.alignment

    @property
    def n_keys(self):
        return self.file.n_keys

    @property
    def n_tensors(self):
        return self.file.n_tensors

    def key(self, uint32_t i):
        """The name of metadata key i < n_keys, in file order."""
        cdef const nyb_gguf_key *key = self.key_at(i)
        return text(self.data + key.key_at, key.key_length)

    def value(self, uint32_t i):
        """The value of metadata key i: int, float, bool, str or GgufArray."""
        cdef const nyb_gguf_key *key = self.key_at(i)
        if key.type == NYB_GGUF_ARRAY:
            return array_of(self, key)
        if key.type == NYB_GGUF_STRING:
            return text(self.data + key.at, key.nbytes)
        return number(key.type, self.data + key.at)

    def record(self, uint32_t i):
        """(start, start of the value, end) of metadata key i with its value, in the file's bytes;
        of a string the value is the text, of an array the elements."""
        cdef const nyb_gguf_key *key = self.key_at(i)
        return key.key_at - 8, key.at, key.at + key.nbytes

    @property
    def data_at(self):
        """Where the tensors' data begins, or the end of a file without tensors."""
        return min(self.file.data_at, <uint64_t>self.view.len)

    def tensor(self, uint32_t i):
        """(name, shape, format, offset, nbytes) of tensor i < n_tensors, in file order.

        shape is outermost first, as NumPy has it: a matrix is (rows, columns). offset is in
        bytes from the start of the file.
        """
        if i >= self.file.n_tensors:
            raise IndexError(f"tensor {i} of {self.file.n_tensors}")
        cdef const nyb_gguf_tensor *tensor = &self.tensors[i]
        cdef uint32_t d
        shape = []
        for d in range(tensor.n_dims):
            shape.append(tensor.dims[tensor.n_dims - 1 - d])
        return (text(self.data + tensor.name_at, tensor.name_length), tuple(shape),
                gguf_format_of(tensor.format).name.decode(), tensor.at, tensor.nbytes)

    cdef const nyb_gguf_key *key_at(self, uint32_t i) except NULL:
        if i >= self.file.n_keys:
            raise IndexError(f"metadata key {i} of {self.file.n_keys}")
        return &self.keys[i]


cdef object complaint(GgufIndex index, str label, bint is_packed, const nyb_error *error):
    """The FormatError for what a scan found: what, where, the value, and what to do."""
    cdef uint64_t length = index.length
    if is_packed:
        return damaged(index, label, error)
    if index.file.version == 0 and error.at == 0:  # no GGUF at all: where tells nobody more
        return FormatError(f"{label}: {error.what.decode()}; give a model in GGUF")
    said = f"{label}: {error.what.decode()} (byte {error.at}, value {error.value})."
    if index.file.needed > length:
        return FormatError(f"{said} It has {length} of {index.file.needed} bytes, "
                           f"{index.file.needed - length} are missing: download it again.")
    if index.file.version == 0:         # another kind of file; the text says which
        return FormatError(said)
    return FormatError(f"{said} The file of {length} bytes is damaged or cut off: download it "
                       f"again, or convert the model again.")


cdef object damaged(GgufIndex index, str label, const nyb_error *error):
    """The FormatError for a packed model: whoever has it knows nothing of GGUF, and its maker wrote
    no wrong value, so that where it is says enough."""
    cdef uint64_t length = index.length
    way_out = "copy it again, or pack the model again (nybble pack)"
    if index.file.version == 0 and error.at == 0:
        return FormatError(f"{label} does not begin as a packed model does: {way_out}")
    if index.file.needed > length:
        return FormatError(f"{label} has {length:,} of {index.file.needed:,} bytes: {way_out}")
    return FormatError(f"{label}: {error.what.decode()} (at byte {error.at:,} of {length:,}); the "
                       f"packed file is damaged: {way_out}")


cdef GgufArray array_of(GgufIndex index, const nyb_gguf_key *key):
    cdef GgufArray array = GgufArray.__new__(GgufArray)
    array.index = index
    array.elements = index.data + key.at
    array.nbytes = key.nbytes
    array.count = key.count
    array.type = key.element_type
    return array


@cython.final
cdef class GgufArray:
    """An array in a GGUF file's metadata: a sequence whose elements are decoded when asked for.

    Elements are int, float, bool or str, and slices are lists of them. Indexing takes constant
    time; for strings this costs 8 bytes of memory per 64 of them, on first use. Keeps the file's
    head in memory. Comes from GgufIndex.value(); one made by hand is empty.
    """

    def __dealloc__(self):
        free(self.marks)

    @property
    def element_type(self):
        """GGUF's name of the elements' type: "string", "int32", "float32", ..."""
        return gguf_type_name(self.type).decode()

    @property
    def raw(self):
        """The elements' bytes in the file, in place: a read-only memoryview.

        Numbers are little-endian and may be unaligned; a string is its length in bytes, as a
        uint64, and its UTF-8 text.
        """
        if self.index is None:
            return memoryview(b"")
        cdef uint64_t at = self.elements - self.index.data
        return self.index.whole[at:at + self.nbytes]

    def __len__(self):
        return self.count

    def __getitem__(self, item):
        if isinstance(item, slice):
            elements = []
            for at in range(*item.indices(self.count)):
                elements.append(self.element(at))
            return elements
        cdef Py_ssize_t i = item
        if i < 0:
            i += <Py_ssize_t>self.count
        if i < 0 or <uint64_t>i >= self.count:
            raise IndexError(f"element {item} of {self.count}")
        return self.element(<uint64_t>i)

    def __iter__(self):
        cdef uint64_t i
        cdef uint64_t at = 0
        for i in range(self.count):
            yield self.text_at(&at) if self.type == NYB_GGUF_STRING else self.element(i)

    def __repr__(self):
        return f"<GgufArray of {self.count} {self.element_type}>"

    cdef object element(self, uint64_t i):
        """Element i < count."""
        cdef uint32_t nbytes = gguf_type_bytes(self.type)
        if self.type != NYB_GGUF_STRING:
            return number(self.type, self.elements + i * nbytes)
        self.mark()
        cdef uint64_t at = self.marks[i // STRINGS_PER_MARK]
        cdef uint64_t _step
        for _step in range(i % STRINGS_PER_MARK):
            at = self.after(at)
        return self.text_at(&at)

    cdef str text_at(self, uint64_t *at):
        """The string that starts at element byte *at, which moves on to the next one."""
        cdef uint64_t start = at[0]
        at[0] = self.after(start)
        return text(self.elements + start + 8, at[0] - start - 8)

    cdef uint64_t after(self, uint64_t at) except 0:
        """Where the string behind the one at element byte `at` starts.

        The scan has seen all lengths, but a buffer can change afterwards, and whatever it says
        then must not lead out of it.
        """
        cdef uint64_t room = self.nbytes - at
        cdef uint64_t length = nyb_gguf_number(self.elements + at, 8) if room >= 8 else 0
        if room < 8 or length > room - 8:
            raise FormatError("the GGUF file was changed while it was open: load it again")
        return at + 8 + length

    cdef int mark(self) except -1:
        """Notes where every 64th string starts, once."""
        if self.marks is not NULL:
            return 0
        cdef uint64_t *marks = <uint64_t *>malloc(
            (self.count // STRINGS_PER_MARK + 1) * sizeof(uint64_t))
        if marks is NULL:
            raise MemoryError(f"no memory for an index of {self.count} strings")
        cdef uint64_t i
        cdef uint64_t at = 0
        try:
            for i in range(self.count):
                if i % STRINGS_PER_MARK == 0:
                    marks[i // STRINGS_PER_MARK] = at
                at = self.after(at)
        except FormatError:
            free(marks)
            raise
        self.marks = marks
        return 0
