/* The future that the messages of one batch share. */

#ifndef WARPSTORE_BATCH_FUTURE_H
#define WARPSTORE_BATCH_FUTURE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

extern PyTypeObject BatchFuture_Type;

int batch_future_ready(void);

#endif
