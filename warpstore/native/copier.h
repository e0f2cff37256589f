/* A copier: copies records of one class, with the containers in some of their fields, which hold immutable items. */

#ifndef WARPSTORE_COPIER_H
#define WARPSTORE_COPIER_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

extern PyTypeObject Copier_Type;

int copier_ready(void);

#endif
