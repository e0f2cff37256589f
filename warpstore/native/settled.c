#include "settled.h"

typedef struct {
    PyObject_HEAD
    PyObject *result;
    PyObject *error; /* an exception; NULL: `result` is returned */
    char used;
} Settled;

static PyTypeObject Settled_Type;

static PyObject *name_send, *name_throw, *name_close;

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
    if (self->error != NULL) { /* let go of, or it would keep itself alive by its traceback */
        PyObject *error = self->error;
        self->error = NULL;
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
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
    Py_CLEAR(self->result);
    Py_CLEAR(self->error);
    Py_RETURN_NONE;
}

static PyObject *throw_in(Settled *self, PyObject *const *args, Py_ssize_t n_args)
{
    Py_XDECREF(close_it(self, NULL));
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

typedef struct {
    PyObject_HEAD
    PyObject *steps; /* the future's iterator */
    char used;
} Waiting;

static PyTypeObject Waiting_Type;

PyObject *waiting(PyObject *future)
{
    if (future == NULL)
        return settled(NULL);
    PyAsyncMethods *methods_of = Py_TYPE(future)->tp_as_async;
    if (methods_of == NULL || methods_of->am_await == NULL) {
        PyErr_Format(PyExc_TypeError, "%s is no future", Py_TYPE(future)->tp_name);
        Py_DECREF(future);
        return NULL;
    }
    PyObject *steps = methods_of->am_await(future);
    Py_DECREF(future);
    Waiting *self = steps == NULL ? NULL : PyObject_GC_New(Waiting, &Waiting_Type);
    if (self == NULL) {
        Py_XDECREF(steps);
        return NULL;
    }
    self->steps = steps;
    self->used = 0;
    PyObject_GC_Track((PyObject *)self);
    return (PyObject *)self;
}

/* Raise what a coroutine does that is awaited again: a future's iterator that is used up says nothing. */
static int is_used(Waiting *self)
{
    if (!self->used)
        return 0;
    PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
    return 1;
}

static PySendResult waiting_send_slot(Waiting *self, PyObject *value, PyObject **result)
{
    *result = NULL;
    if (is_used(self))
        return PYGEN_ERROR;
    PySendResult outcome = PyIter_Send(self->steps, value, result);
    self->used = outcome != PYGEN_NEXT;
    return outcome;
}

static PyObject *waiting_next(Waiting *self)
{
    if (is_used(self))
        return NULL;
    PyObject *step = Py_TYPE(self->steps)->tp_iternext(self->steps);
    self->used = step == NULL;
    return step;
}

static PyObject *waiting_send(Waiting *self, PyObject *value)
{
    if (is_used(self))
        return NULL;
    PyObject *step = PyObject_CallMethodOneArg(self->steps, name_send, value);
    self->used = step == NULL;
    return step;
}

static PyObject *waiting_throw(Waiting *self, PyObject *args)
{
    if (is_used(self))
        return NULL;
    PyObject *throw = PyObject_GetAttr(self->steps, name_throw);
    PyObject *returned = throw == NULL ? NULL : PyObject_CallObject(throw, args);
    Py_XDECREF(throw);
    self->used = returned == NULL;
    return returned;
}

static PyObject *waiting_close(Waiting *self, PyObject *Py_UNUSED(ignored))
{
    self->used = 1;
    return PyObject_CallMethodNoArgs(self->steps, name_close);
}

static int waiting_traverse(Waiting *self, visitproc visit, void *arg)
{
    Py_VISIT(self->steps);
    return 0;
}

static int waiting_clear(Waiting *self)
{
    Py_CLEAR(self->steps);
    return 0;
}

static void waiting_dealloc(Waiting *self)
{
    PyObject_GC_UnTrack(self);
    waiting_clear(self);
    PyObject_GC_Del(self);
}

static PyMethodDef waiting_methods[] = {
    {"send", (PyCFunction)waiting_send, METH_O, NULL},
    {"throw", (PyCFunction)waiting_throw, METH_VARARGS, NULL},
    {"close", (PyCFunction)waiting_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyAsyncMethods waiting_as_async = {
    .am_await = PyObject_SelfIter,
    .am_send = (sendfunc)waiting_send_slot,
};

static PyTypeObject Waiting_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "warpstore._native.Waiting",
    .tp_doc = "A call that waits for a future.",
    .tp_basicsize = sizeof(Waiting),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)waiting_dealloc,
    .tp_traverse = (traverseproc)waiting_traverse,
    .tp_clear = (inquiry)waiting_clear,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = (iternextfunc)waiting_next,
    .tp_methods = waiting_methods,
    .tp_as_async = &waiting_as_async,
};

int settled_ready(void)
{
    name_send = PyUnicode_InternFromString("send");
    name_throw = PyUnicode_InternFromString("throw");
    name_close = PyUnicode_InternFromString("close");
    if (name_send == NULL || name_throw == NULL || name_close == NULL || PyType_Ready(&Waiting_Type) < 0)
        return -1;
    return PyType_Ready(&Settled_Type);
}
