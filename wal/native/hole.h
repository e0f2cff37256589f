/* Blocks given back to the file system from the middle of a file. */

#ifndef WAL_HOLE_H
#define WAL_HOLE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* punch_hole(fd, start, stop) */
PyObject *hole_punch(PyObject *module, PyObject *args);

#endif
