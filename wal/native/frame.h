/* The body of a frame (FORMAT.md), made in one pass over the payloads. */

#ifndef WAL_FRAME_H
#define WAL_FRAME_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* pack_checked(kind, stream, lsn, durable, payloads) */
PyObject *frame_pack_checked(PyObject *module, PyObject *const *args, Py_ssize_t n_args);

#endif
