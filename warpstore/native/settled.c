#include "settled.h"

typedef struct {
    PyObject_HEAD
    PyObject *result;
    PyObject *error; /* an exception; NULL: `result` is returned */
    char used;
} Settled;

static PyTypeObject Settled_Type;

static Settled *spare; /* the last one that was freed: most calls are awaited before the next is made */

PyObject *settled(PyObject *result)
{
    PyObject *error = NULL;
    if (result == NULL) {
        PyObject *type, *traceback;
        PyErr_Fetch(&type, &error, &traceback);
        PyErr_NormalizeException(&type, &error, &traceback);
        if (traceback != NULL)
            PyException_SetTraceback(error, traceback);
        Py_XDECREF(type);
        Py_XDECREF(traceback);
    }
    Settled *self = spare;
    if (self != NULL) {
        spare = NULL;
        PyObject_Init((PyObject *)self, &Settled_Type);
    } else {
        self = PyObject_New(Settled, &Settled_Type);
        if (self == NULL) {
            Py_XDECREF(result);
            Py_XDECREF(error);
            return NULL;
        }
    }
    self->result = result;
    self->error = error;
    self->used = 0;
    return (PyObject *)self;
}

static PySendResult send_slot(Settled *self, PyObject *Py_UNUSED(value), PyObject **result)
{
    *result = NULL;
    if (self->used) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
        return PYGEN_ERROR;
    }
    self->used = 1;
    if (self->error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(self->error), self->error);
        return PYGEN_ERROR;
    }
    *result = self->result;
    self->result = NULL;
    return PYGEN_RETURN;
}

static PyObject *next(Settled *self)
{
    PyObject *result;
    if (send_slot(self, Py_None, &result) == PYGEN_RETURN) {
        PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, result);
        if (stop != NULL)
            PyErr_SetObject(PyExc_StopIteration, stop);
        Py_XDECREF(stop);
        Py_DECREF(result);
    }
    return NULL;
}

static PyObject *send(Settled *self, PyObject *Py_UNUSED(value))
{
    return next(self);
}

static PyObject *close_it(Settled *self, PyObject *Py_UNUSED(ignored))
{
    self->used = 1;
    Py_RETURN_NONE;
}

static PyObject *throw_in(Settled *self, PyObject *const *args, Py_ssize_t n_args)
{
    self->used = 1;
    if (n_args < 1 || n_args > 3) {
        PyErr_SetString(PyExc_TypeError, "throw takes an exception");
    } else if (PyExceptionInstance_Check(args[0])) {
        PyErr_SetObject((PyObject *)Py_TYPE(args[0]), args[0]);
    } else if (PyExceptionClass_Check(args[0])) {
        PyErr_SetObject(args[0], n_args > 1 ? args[1] : NULL);
    } else {
        PyErr_SetString(PyExc_TypeError, "exceptions must be classes or instances deriving from BaseException");
    }
    return NULL;
}

static void dealloc(Settled *self)
{
    Py_CLEAR(self->result);
    Py_CLEAR(self->error);
    if (spare == NULL)
        spare = self;
    else
        PyObject_Free(self);
}

static PyMethodDef methods[] = {
    {"send", (PyCFunction)send, METH_O, NULL},
    {"throw", (PyCFunction)(void (*)(void))throw_in, METH_FASTCALL, NULL},
    {"close", (PyCFunction)close_it, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyAsyncMethods as_async = {
    .am_await = PyObject_SelfIter,
    .am_send = (sendfunc)send_slot,
};

static PyTypeObject Settled_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "warpstore._native.Settled",
    .tp_doc = "A call that has its outcome already.",
    .tp_basicsize = sizeof(Settled),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)dealloc,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = (iternextfunc)next,
    .tp_methods = methods,
    .tp_as_async = &as_async,
};

int settled_ready(void)
{
    return PyType_Ready(&Settled_Type);
}
