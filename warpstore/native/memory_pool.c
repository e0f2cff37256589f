#include "memory_pool.h"

#include <structmember.h>

static int init(MemoryPool *self, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"parent", NULL};
    PyObject *parent = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|O:MemoryPool", names, &parent))
        return -1;
    if (parent != Py_None && !PyObject_TypeCheck(parent, &MemoryPool_Type)) {
        PyErr_SetString(PyExc_TypeError, "parent: a MemoryPool or None");
        return -1;
    }
    if (self->parent != NULL || self->n_bytes) {
        PyErr_SetString(PyExc_RuntimeError, "a MemoryPool is initialised once");
        return -1;
    }
    self->parent = parent == Py_None ? NULL : (MemoryPool *)Py_NewRef(parent);
    return 0;
}

static void dealloc(MemoryPool *self)
{
    Py_XDECREF(self->parent);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *charge(MemoryPool *self, PyObject *n_bytes)
{
    long long n = PyLong_AsLongLong(n_bytes);
    if (n == -1 && PyErr_Occurred())
        return NULL;
    memory_pool_charge(self, n, 0);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"charge", (PyCFunction)charge, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"n_bytes", T_LONGLONG, offsetof(MemoryPool, n_bytes), READONLY, NULL},
    {"dirty_bytes", T_LONGLONG, offsetof(MemoryPool, dirty_bytes), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject MemoryPool_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "warpstore._native.MemoryPool",
    .tp_doc = "Counts the bytes of hot maps.",
    .tp_basicsize = sizeof(MemoryPool),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)init,
    .tp_dealloc = (destructor)dealloc,
    .tp_methods = methods,
    .tp_members = members,
};

int memory_pool_ready(void)
{
    return PyType_Ready(&MemoryPool_Type);
}
