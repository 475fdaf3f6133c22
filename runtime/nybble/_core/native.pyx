"""The one module that links nybble's C library; the others reach it by `cimport`.

Each function here is a door: the C function of the same name without its `nyb_` prefix.
Structs and constants come from `kernels.pxd` and `engine.pxd`, which alone say `cdef extern`.
"""
