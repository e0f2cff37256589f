/* Blocks given back to the file system from the middle of a file. */

#define _GNU_SOURCE
#include "hole.h"

#include <fcntl.h>

PyObject *hole_punch(PyObject *Py_UNUSED(module), PyObject *args)
{
    int fd, failed;
    long long start, stop;
    if (!PyArg_ParseTuple(args, "iLL", &fd, &start, &stop))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    failed = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, start, stop - start);
    Py_END_ALLOW_THREADS
    if (failed)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}
