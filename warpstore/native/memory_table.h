#ifndef WARPSTORE_MEMORY_TABLE_H
#define WARPSTORE_MEMORY_TABLE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* What became of a put. */
enum { DONE = 0, PAUSE = 1, LONG_WAY = 2 };

extern PyTypeObject MemoryTable_Type;

int memory_table_ready(void);

/* Give a parsed record its class: an assignment to __class__, whose checks were made when the codec was. */
static inline void adopt(PyObject *record, PyTypeObject *record_type)
{
    PyTypeObject *parsed = Py_TYPE(record);
    if (parsed != record_type) {
        Py_INCREF(record_type);
        Py_SET_TYPE(record, record_type);
        Py_DECREF(parsed);
    }
}

#endif
