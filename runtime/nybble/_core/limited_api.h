/* SPDX-License-Identifier: MIT
 * Included before every generated module (setup.py).
 *
 * In the limited API Cython 3.3 imports the whole of `inspect` when a module loads, 12 ms on a
 * desktop and ten times that on a Zero 2 W, only to look up these flags of code objects. They
 * have had these values since Python 3.6, and CPython's own header is left out of the limited API.
 */
#ifndef NYB_LIMITED_API_H
#define NYB_LIMITED_API_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#define CO_OPTIMIZED       0x0001
#define CO_NEWLOCALS       0x0002
#define CO_VARARGS         0x0004
#define CO_VARKEYWORDS     0x0008
#define CO_GENERATOR       0x0020
#define CO_COROUTINE       0x0080
#define CO_ASYNC_GENERATOR 0x0200

static inline PyObject *nyb_import_module(const char *name) {
    return PyImport_ImportModule(strcmp(name, "inspect") ? name : "builtins");
}
#define PyImport_ImportModule nyb_import_module

#endif
