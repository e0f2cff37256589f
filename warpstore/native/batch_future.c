/* The future that the messages of one batch share: asyncio's interface, and `wake`, which runs all callbacks in one go.
 *
 * asyncio's own future asks the loop for a handle a callback, which costs as much as the rest of a durable write.
 */

#include "batch_future.h"

typedef struct {
    PyObject *function, *context;
} Callback;

typedef struct {
    PyObject_HEAD
    PyObject *loop;
    PyObject *error; /* an exception; NULL: the outcome is None */
    Callback *callbacks;
    Py_ssize_t n, room;
    char done;
    char blocking; /* a task has been given it to wait for, and has not yet said that it will */
} BatchFuture;

typedef struct {
    PyObject_HEAD
    BatchFuture *future;
    char waited;
} Steps; /* what `await` goes through */

static PyTypeObject Steps_Type;

static PyObject *invalid_state; /* asyncio.InvalidStateError */
static PyObject *name_call_soon, *name_wake, *name_context, *name_call_exception_handler;
static PyObject *context_name; /* ("context",) */

static void forget(Callback *callbacks, Py_ssize_t n)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        Py_XDECREF(callbacks[i].function);
        Py_XDECREF(callbacks[i].context);
    }
    PyMem_Free(callbacks);
}

/* Return whether there is a loop; else raise: `__init__` was not called, or the collector has been here. */
static int has_loop(BatchFuture *self)
{
    if (self->loop == NULL)
        PyErr_SetString(PyExc_RuntimeError, "a future without a loop");
    return self->loop != NULL;
}

static PyObject *call_soon(BatchFuture *self, PyObject *function, PyObject *context)
{
    if (!has_loop(self))
        return NULL;
    PyObject *args[] = {self->loop, function, (PyObject *)self, context};
    return PyObject_VectorcallMethod(name_call_soon, args, 3, context_name);
}

static PyObject *add_done_callback(BatchFuture *self, PyObject *const *args, Py_ssize_t n_args, PyObject *names)
{
    Py_ssize_t n_names = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    if (n_args != 1 || n_names > 1 ||
        (n_names == 1 && PyUnicode_Compare(PyTuple_GET_ITEM(names, 0), name_context) != 0)) {
        PyErr_SetString(PyExc_TypeError, "add_done_callback takes a function and context=");
        return NULL;
    }
    PyObject *given = n_names == 0 ? Py_None : args[1];
    if (given != Py_None && !PyContext_CheckExact(given)) {
        PyErr_SetString(PyExc_TypeError, "context= is a contextvars.Context");
        return NULL;
    }
    PyObject *context = given == Py_None ? PyContext_CopyCurrent() : Py_NewRef(given);
    if (context == NULL)
        return NULL;
    if (self->done) {
        PyObject *handle = call_soon(self, args[0], context);
        Py_DECREF(context);
        Py_XDECREF(handle);
        return handle == NULL ? NULL : Py_NewRef(Py_None);
    }
    if (self->n == self->room) {
        Py_ssize_t room = self->room ? 2 * self->room : 4;
        Callback *callbacks = PyMem_Realloc(self->callbacks, (size_t)room * sizeof *callbacks);
        if (callbacks == NULL) {
            Py_DECREF(context);
            return PyErr_NoMemory();
        }
        self->callbacks = callbacks;
        self->room = room;
    }
    self->callbacks[self->n++] = (Callback){Py_NewRef(args[0]), context};
    Py_RETURN_NONE;
}

static PyObject *remove_done_callback(BatchFuture *self, PyObject *function)
{
    Py_ssize_t removed = 0;
    for (Py_ssize_t i = 0; i < self->n;) {
        PyObject *kept = Py_NewRef(self->callbacks[i].function);
        int equal = PyObject_RichCompareBool(kept, function, Py_EQ);
        /* comparing may have run anything: it is further ahead by now, or gone */
        while (i >= 0 && (i >= self->n || self->callbacks[i].function != kept))
            i--;
        Py_DECREF(kept);
        if (equal < 0)
            return NULL;
        if (!equal || i < 0) {
            i++;
            continue;
        }
        Callback gone = self->callbacks[i];
        memmove(self->callbacks + i, self->callbacks + i + 1, (size_t)(--self->n - i) * sizeof gone);
        Py_DECREF(gone.function);
        Py_DECREF(gone.context);
        removed++;
    }
    return PyLong_FromSsize_t(removed);
}

/* Tell the loop of what a callback raised, as a handle does. Return 0, or -1 with what is more than an Exception. */
static int report(BatchFuture *self)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception))
        return -1;
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(error, traceback);
    PyObject *context = Py_BuildValue("{s:s,s:O,s:O}", "message", "a callback of a batch's future raised", "exception",
                                      error, "future", self);
    PyObject *told = NULL;
    if (context != NULL && has_loop(self))
        told = PyObject_CallMethodOneArg(self->loop, name_call_exception_handler, context);
    Py_XDECREF(context);
    Py_XDECREF(told);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    return told == NULL ? -1 : 0;
}

static PyObject *wake(BatchFuture *self, PyObject *Py_UNUSED(ignored))
{
    if (!self->done)
        return PyErr_Format(invalid_state, "the batch has no outcome yet");
    Callback *callbacks = self->callbacks;
    Py_ssize_t n = self->n, i = 0;
    int failed = 0;
    self->callbacks = NULL;
    self->n = self->room = 0;
    Py_INCREF(self);
    for (; i < n && !failed; i++) {
        PyObject *returned;
        int entered = PyContext_Enter(callbacks[i].context) == 0;
        if (entered) {
            returned = PyObject_CallOneArg(callbacks[i].function, (PyObject *)self);
        } else { /* it is the current one: the loop will get there */
            PyErr_Clear();
            returned = call_soon(self, callbacks[i].function, callbacks[i].context);
        }
        if (returned == NULL && report(self) < 0)
            failed = 1;
        if (entered) {
            PyObject *type, *error, *traceback;
            PyErr_Fetch(&type, &error, &traceback);
            PyContext_Exit(callbacks[i].context);
            PyErr_Restore(type, error, traceback);
        }
        Py_XDECREF(returned);
    }
    if (failed) { /* an interrupt goes to the loop at once; the others are not forgotten */
        PyObject *type, *error, *traceback;
        PyErr_Fetch(&type, &error, &traceback);
        for (; i < n; i++) {
            PyObject *handle = call_soon(self, callbacks[i].function, callbacks[i].context);
            if (handle == NULL)
                PyErr_Clear();
            Py_XDECREF(handle);
        }
        PyErr_Restore(type, error, traceback);
    }
    forget(callbacks, n);
    Py_DECREF(self);
    return failed ? NULL : Py_NewRef(Py_None);
}

static PyObject *wake_soon(BatchFuture *self, PyObject *Py_UNUSED(ignored))
{
    if (self->n == 0)
        Py_RETURN_NONE;
    PyObject *bound = has_loop(self) ? PyObject_GetAttr((PyObject *)self, name_wake) : NULL;
    if (bound == NULL)
        return NULL;
    PyObject *handle = PyObject_CallMethodOneArg(self->loop, name_call_soon, bound);
    Py_DECREF(bound);
    Py_XDECREF(handle);
    return handle == NULL ? NULL : Py_NewRef(Py_None);
}

/* Take in an outcome: an exception, or NULL. */
static PyObject *settle(BatchFuture *self, PyObject *error)
{
    if (self->done)
        return PyErr_Format(invalid_state, "the batch has its outcome");
    self->done = 1;
    self->error = Py_XNewRef(error);
    Py_RETURN_NONE;
}

static PyObject *finish(BatchFuture *self, PyObject *Py_UNUSED(ignored))
{
    return settle(self, NULL);
}

static PyObject *fail(BatchFuture *self, PyObject *error)
{
    if (!PyExceptionInstance_Check(error) || PyObject_TypeCheck(error, (PyTypeObject *)PyExc_StopIteration))
        return PyErr_Format(PyExc_TypeError, "a batch fails with an exception, and not with StopIteration");
    return settle(self, error);
}

/* Return the outcome: None, or what was raised, with a traceback of its own. */
static PyObject *outcome(BatchFuture *self)
{
    if (self->error == NULL)
        Py_RETURN_NONE;
    if (PyException_SetTraceback(self->error, Py_None) == 0)
        PyErr_SetObject((PyObject *)Py_TYPE(self->error), self->error);
    return NULL;
}

static PyObject *result(BatchFuture *self, PyObject *Py_UNUSED(ignored))
{
    return self->done ? outcome(self) : PyErr_Format(invalid_state, "the batch has no outcome yet");
}

static PyObject *exception(BatchFuture *self, PyObject *Py_UNUSED(ignored))
{
    if (!self->done)
        return PyErr_Format(invalid_state, "the batch has no outcome yet");
    return Py_NewRef(self->error == NULL ? Py_None : self->error);
}

static PyObject *is_done(BatchFuture *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(self->done);
}

static PyObject *cancelled(BatchFuture *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    Py_RETURN_FALSE;
}

static PyObject *cancel(BatchFuture *Py_UNUSED(self), PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(keywords))
{
    Py_RETURN_FALSE;
}

static PyObject *get_loop(BatchFuture *self, PyObject *Py_UNUSED(ignored))
{
    return has_loop(self) ? Py_NewRef(self->loop) : NULL;
}

static PyObject *get_blocking(BatchFuture *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->blocking);
}

static int set_blocking(BatchFuture *self, PyObject *value, void *Py_UNUSED(closure))
{
    int blocking = value == NULL ? 0 : PyObject_IsTrue(value);
    if (blocking >= 0)
        self->blocking = (char)blocking;
    return blocking < 0 ? -1 : 0;
}

static PyObject *await(BatchFuture *self)
{
    Steps *steps = PyObject_GC_New(Steps, &Steps_Type);
    if (steps == NULL)
        return NULL;
    steps->future = (BatchFuture *)Py_NewRef((PyObject *)self);
    steps->waited = 0;
    PyObject_GC_Track((PyObject *)steps);
    return (PyObject *)steps;
}

static int init(BatchFuture *self, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"loop", NULL};
    PyObject *loop;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "$O:BatchFuture", names, &loop))
        return -1;
    Py_XSETREF(self->loop, Py_NewRef(loop));
    return 0;
}

static int traverse(BatchFuture *self, visitproc visit, void *arg)
{
    Py_VISIT(self->loop);
    Py_VISIT(self->error);
    for (Py_ssize_t i = 0; i < self->n; i++) {
        Py_VISIT(self->callbacks[i].function);
        Py_VISIT(self->callbacks[i].context);
    }
    return 0;
}

static int clear(BatchFuture *self)
{
    Callback *callbacks = self->callbacks;
    Py_ssize_t n = self->n;
    self->callbacks = NULL;
    self->n = self->room = 0;
    forget(callbacks, n);
    Py_CLEAR(self->error);
    Py_CLEAR(self->loop);
    return 0;
}

static void dealloc(BatchFuture *self)
{
    PyObject_GC_UnTrack(self);
    clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef methods[] = {
    {"finish", (PyCFunction)finish, METH_NOARGS, NULL},
    {"fail", (PyCFunction)fail, METH_O, NULL},
    {"wake", (PyCFunction)wake, METH_NOARGS, NULL},
    {"wake_soon", (PyCFunction)wake_soon, METH_NOARGS, NULL},
    {"add_done_callback", (PyCFunction)(void (*)(void))add_done_callback, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"remove_done_callback", (PyCFunction)remove_done_callback, METH_O, NULL},
    {"result", (PyCFunction)result, METH_NOARGS, NULL},
    {"exception", (PyCFunction)exception, METH_NOARGS, NULL},
    {"done", (PyCFunction)is_done, METH_NOARGS, NULL},
    {"cancelled", (PyCFunction)cancelled, METH_NOARGS, NULL},
    {"cancel", (PyCFunction)(void (*)(void))cancel, METH_VARARGS | METH_KEYWORDS, NULL},
    {"get_loop", (PyCFunction)get_loop, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef attributes[] = {
    {"_asyncio_future_blocking", (getter)get_blocking, (setter)set_blocking, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyAsyncMethods as_async = {
    .am_await = (unaryfunc)await,
};

PyTypeObject BatchFuture_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "warpstore._native.BatchFuture",
    .tp_doc = "The future that the messages of one batch share.",
    .tp_basicsize = sizeof(BatchFuture),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)init,
    .tp_dealloc = (destructor)dealloc,
    .tp_traverse = (traverseproc)traverse,
    .tp_clear = (inquiry)clear,
    .tp_methods = methods,
    .tp_getset = attributes,
    .tp_iter = (getiterfunc)await,
    .tp_as_async = &as_async,
};

static PySendResult steps_send_slot(Steps *self, PyObject *Py_UNUSED(value), PyObject **returned)
{
    *returned = NULL;
    BatchFuture *future = self->future;
    if (future == NULL) { /* the collector has been here */
        PyErr_SetString(PyExc_RuntimeError, "this await has ended");
        return PYGEN_ERROR;
    }
    if (future->done) {
        *returned = outcome(future);
        return *returned == NULL ? PYGEN_ERROR : PYGEN_RETURN;
    }
    if (self->waited) {
        PyErr_SetString(PyExc_RuntimeError, "await wasn't used with future");
        return PYGEN_ERROR;
    }
    self->waited = 1;
    future->blocking = 1;
    *returned = Py_NewRef((PyObject *)future);
    return PYGEN_NEXT;
}

static PyObject *steps_next(Steps *self)
{
    PyObject *returned;
    PySendResult sent = steps_send_slot(self, Py_None, &returned);
    if (sent == PYGEN_RETURN)
        Py_CLEAR(returned); /* the outcome is None, which the end of an iterator says too */
    return returned;
}

static PyObject *steps_send(Steps *self, PyObject *Py_UNUSED(value))
{
    PyObject *step = steps_next(self);
    if (step == NULL && !PyErr_Occurred())
        PyErr_SetNone(PyExc_StopIteration);
    return step;
}

static PyObject *steps_throw(Steps *Py_UNUSED(self), PyObject *const *args, Py_ssize_t n_args)
{
    if (n_args >= 1 && PyExceptionInstance_Check(args[0]))
        PyErr_SetObject((PyObject *)Py_TYPE(args[0]), args[0]);
    else if (n_args >= 1 && n_args <= 3 && PyExceptionClass_Check(args[0]))
        PyErr_SetObject(args[0], n_args > 1 ? args[1] : NULL);
    else
        PyErr_SetString(PyExc_TypeError, "throw takes an exception");
    return NULL;
}

static PyObject *steps_close(Steps *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    Py_RETURN_NONE;
}

static int steps_traverse(Steps *self, visitproc visit, void *arg)
{
    Py_VISIT(self->future);
    return 0;
}

static int steps_clear(Steps *self)
{
    Py_CLEAR(self->future);
    return 0;
}

static void steps_dealloc(Steps *self)
{
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->future);
    PyObject_GC_Del(self);
}

static PyMethodDef steps_methods[] = {
    {"send", (PyCFunction)steps_send, METH_O, NULL},
    {"throw", (PyCFunction)(void (*)(void))steps_throw, METH_FASTCALL, NULL},
    {"close", (PyCFunction)steps_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyAsyncMethods steps_as_async = {
    .am_send = (sendfunc)steps_send_slot,
};

static PyTypeObject Steps_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "warpstore._native.BatchFutureSteps",
    .tp_basicsize = sizeof(Steps),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)steps_dealloc,
    .tp_traverse = (traverseproc)steps_traverse,
    .tp_clear = (inquiry)steps_clear,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = (iternextfunc)steps_next,
    .tp_methods = steps_methods,
    .tp_as_async = &steps_as_async,
};

int batch_future_ready(void)
{
    PyObject *module = PyImport_ImportModule("asyncio.exceptions");
    invalid_state = module == NULL ? NULL : PyObject_GetAttrString(module, "InvalidStateError");
    Py_XDECREF(module);
    name_call_soon = PyUnicode_InternFromString("call_soon");
    name_wake = PyUnicode_InternFromString("wake");
    name_context = PyUnicode_InternFromString("context");
    name_call_exception_handler = PyUnicode_InternFromString("call_exception_handler");
    context_name = name_context == NULL ? NULL : PyTuple_Pack(1, name_context);
    if (invalid_state == NULL || name_call_soon == NULL || name_wake == NULL || name_call_exception_handler == NULL ||
        context_name == NULL || PyType_Ready(&Steps_Type) < 0)
        return -1;
    return PyType_Ready(&BatchFuture_Type);
}
