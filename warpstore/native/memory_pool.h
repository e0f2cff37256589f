/* A pool of memory: counts what the hot maps hold, so that somebody can keep it within a cap. */

#ifndef WARPSTORE_MEMORY_POOL_H
#define WARPSTORE_MEMORY_POOL_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stddef.h>

typedef struct MemoryPool {
    PyObject_HEAD
    struct MemoryPool *parent; /* counts the same bytes again; NULL: there is none */
    int64_t n_bytes;
    int64_t dirty_bytes; /* those of values that are not in a checkpoint yet */
} MemoryPool;

extern PyTypeObject MemoryPool_Type;

int memory_pool_ready(void);

static inline void memory_pool_charge(MemoryPool *pool, int64_t n_bytes, int dirty)
{
    for (; pool != NULL; pool = pool->parent) {
        pool->n_bytes += n_bytes;
        if (dirty)
            pool->dirty_bytes += n_bytes;
    }
}

/* Return what the allocator takes for a bytes object. */
static inline int64_t bytes_cost(PyObject *value)
{
    int64_t n_bytes = PyBytes_GET_SIZE(value) + (int64_t)offsetof(PyBytesObject, ob_sval) + 1;
    return ((n_bytes > 512 ? n_bytes + 8 : n_bytes) + 15) & -16; /* above 512 bytes malloc's, below it pymalloc's */
}

#define SNUG_BYTES_MAX 4096

/* Return an encoded value in a piece of memory of its own size, and give back the one it came in, or NULL.
 *
 * An encoder makes its result in a larger piece and cuts that: of 389 bytes malloc then keeps 637, and hardly any of it
 * serves again once the value is gone. Large values waste little, and are left as they are. */
static inline PyObject *snug(PyObject *value)
{
    if (value == NULL || !PyBytes_CheckExact(value) || PyBytes_GET_SIZE(value) > SNUG_BYTES_MAX)
        return value;
    PyObject *copy = PyBytes_FromStringAndSize(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value));
    Py_DECREF(value);
    return copy;
}

#endif
