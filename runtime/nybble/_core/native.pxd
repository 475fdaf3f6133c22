# The doors to the C library: native is the only module that refers to its symbols, the other
# modules cimport these. One thin function per C function, named without its nyb_ prefix.
