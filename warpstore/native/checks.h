/* Steps of the generated checks that are loops or calls in Python: exact classes of items, rounding, order. */

#ifndef WARPSTORE_CHECKS_H
#define WARPSTORE_CHECKS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Return the first item of a list, tuple, set, frozenset or dict that is not of exactly this class, borrowed, or NULL. */
PyObject *item_not_of(PyObject *container, PyTypeObject *cls);

/* Return the first key or value of a dict that is not of exactly its class, borrowed, or NULL. */
PyObject *pair_not_of(PyObject *mapping, PyTypeObject *key_cls, PyTypeObject *value_cls);

/* all_of(items, cls) */
PyObject *checks_all_of(PyObject *module, PyObject *const *args, Py_ssize_t n_args);

/* pairs_of(mapping, key_cls, value_cls) */
PyObject *checks_pairs_of(PyObject *module, PyObject *const *args, Py_ssize_t n_args);

/* as_f4(number) */
PyObject *checks_as_f4(PyObject *module, PyObject *number);

/* in_order(items, name) */
PyObject *checks_in_order(PyObject *module, PyObject *const *args, Py_ssize_t n_args);

#endif
