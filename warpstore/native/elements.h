/* Where the elements of a MessagePack array begin. */

#ifndef WARPSTORE_ELEMENTS_H
#define WARPSTORE_ELEMENTS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* element_offsets(value, skip, indices) */
PyObject *element_offsets(PyObject *module, PyObject *const *args, Py_ssize_t n_args);

#endif
