/* One durable write at a time through Linux's asynchronous I/O: O_DIRECT, RWF_DSYNC, an eventfd for its completion. */

#ifndef WAL_AIO_H
#define WAL_AIO_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

extern PyTypeObject Aio_Type;

int aio_ready(void);

#endif
