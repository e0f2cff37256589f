#include "chunked.h"

#include "settled.h"

typedef struct {
    PyObject_HEAD
    PyObject *chunk; /* list, or NULL */
    Py_ssize_t at;
} ChunkedIterator;

static PyObject *name_next;

/* Return the next object of the list at hand, or NULL, without an error, if it is used up. */
static PyObject *take(ChunkedIterator *self)
{
    if (self->chunk == NULL || self->at >= PyList_GET_SIZE(self->chunk)) {
        Py_CLEAR(self->chunk);
        return NULL;
    }
    PyObject *object = PyList_GET_ITEM(self->chunk, self->at);
    PyList_SET_ITEM(self->chunk, self->at++, Py_NewRef(Py_None));
    return object;
}

static PyObject *anext(ChunkedIterator *self)
{
    PyObject *object = take(self);
    return object != NULL ? settled(object) : PyObject_CallMethodNoArgs((PyObject *)self, name_next);
}

static PyObject *give(ChunkedIterator *self, PyObject *chunk)
{
    if (!PyList_CheckExact(chunk) || PyList_GET_SIZE(chunk) == 0) {
        PyErr_SetString(PyExc_TypeError, "_give takes a list that is not empty");
        return NULL;
    }
    Py_XSETREF(self->chunk, Py_NewRef(chunk));
    self->at = 0;
    return take(self);
}

static int traverse(ChunkedIterator *self, visitproc visit, void *arg)
{
    Py_VISIT(self->chunk);
    return 0;
}

static int clear(ChunkedIterator *self)
{
    Py_CLEAR(self->chunk);
    return 0;
}

static void dealloc(ChunkedIterator *self)
{
    PyObject_GC_UnTrack(self);
    clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef methods[] = {
    {"_give", (PyCFunction)give, METH_O, NULL},
    {"__class_getitem__", (PyCFunction)Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyAsyncMethods as_async = {
    .am_aiter = PyObject_SelfIter,
    .am_anext = (unaryfunc)anext,
};

PyTypeObject ChunkedIterator_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "warpstore._native.ChunkedIterator",
    .tp_doc = "An asynchronous iterator over objects that come in lists.",
    .tp_basicsize = sizeof(ChunkedIterator),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = (destructor)dealloc,
    .tp_traverse = (traverseproc)traverse,
    .tp_clear = (inquiry)clear,
    .tp_methods = methods,
    .tp_as_async = &as_async,
};

int chunked_ready(void)
{
    name_next = PyUnicode_InternFromString("_next");
    return name_next == NULL ? -1 : PyType_Ready(&ChunkedIterator_Type);
}
