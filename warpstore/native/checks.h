/* Steps of the generated checks that are loops or calls in Python: exact classes of items, rounding, order. */

#ifndef WARPSTORE_CHECKS_H
#define WARPSTORE_CHECKS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* all_of(items, cls) */
PyObject *checks_all_of(PyObject *module, PyObject *const *args, Py_ssize_t n_args);

/* pairs_of(mapping, key_cls, value_cls) */
PyObject *checks_pairs_of(PyObject *module, PyObject *const *args, Py_ssize_t n_args);

/* as_f4(number) */
PyObject *checks_as_f4(PyObject *module, PyObject *number);

/* in_order(items, name) */
PyObject *checks_in_order(PyObject *module, PyObject *const *args, Py_ssize_t n_args);

#endif
