#include "aio.h"

#include <errno.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE_BYTES 4096

typedef struct {
    PyObject_HEAD
    aio_context_t context;
    int event_fd;
    char *staging; /* page-aligned copy of what is written: the kernel reads it until the write is done */
    size_t staging_bytes;
    Py_ssize_t under_way; /* bytes of the write that was submitted and not reaped; -1: none is */
} Aio;

static PyObject *new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    if (PyTuple_GET_SIZE(args) || (keywords != NULL && PyDict_GET_SIZE(keywords))) {
        PyErr_SetString(PyExc_TypeError, "Aio() takes no arguments");
        return NULL;
    }
    Aio *self = (Aio *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->event_fd = -1;
    self->under_way = -1;
    if (syscall(SYS_io_setup, 1, &self->context) == 0)
        self->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (self->event_fd < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static PyObject *close_it(Aio *self, PyObject *Py_UNUSED(ignored))
{
    if (self->context)
        syscall(SYS_io_destroy, self->context); /* waits for a write under way */
    self->context = 0;
    if (self->event_fd >= 0)
        close(self->event_fd);
    self->event_fd = -1;
    free(self->staging);
    self->staging = NULL;
    self->staging_bytes = 0;
    Py_RETURN_NONE;
}

static void dealloc(Aio *self)
{
    Py_XDECREF(close_it(self, NULL));
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *fileno_of(Aio *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(self->event_fd);
}

/* Make the staging buffer large enough. Return 0, or -1 with MemoryError. */
static int stage(Aio *self, size_t n_bytes)
{
    if (n_bytes <= self->staging_bytes)
        return 0;
    size_t room = PAGE_BYTES;
    while (room < n_bytes)
        room *= 2;
    char *staging = aligned_alloc(PAGE_BYTES, room);
    if (staging == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    free(self->staging);
    self->staging = staging;
    self->staging_bytes = room;
    return 0;
}

static PyObject *submit(Aio *self, PyObject *const *args, Py_ssize_t n_args)
{
    if (n_args != 3 || !PyList_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError, "submit takes a descriptor, a list of bytes and an offset");
        return NULL;
    }
    int fd = (int)PyLong_AsLong(args[0]);
    long long offset = PyLong_AsLongLong(args[2]);
    if (PyErr_Occurred())
        return NULL;
    if (!self->context || self->under_way >= 0) {
        PyErr_SetString(PyExc_RuntimeError, self->context ? "a write is under way" : "this Aio is closed");
        return NULL;
    }
    size_t n_bytes = 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(args[1]); i++) {
        if (!PyBytes_CheckExact(PyList_GET_ITEM(args[1], i)))
            return PyErr_Format(PyExc_TypeError, "submit takes a list of bytes");
        n_bytes += (size_t)PyBytes_GET_SIZE(PyList_GET_ITEM(args[1], i));
    }
    if (stage(self, n_bytes) < 0)
        return NULL;
    char *at = self->staging;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(args[1]); i++) {
        PyObject *part = PyList_GET_ITEM(args[1], i);
        memcpy(at, PyBytes_AS_STRING(part), (size_t)PyBytes_GET_SIZE(part));
        at += PyBytes_GET_SIZE(part);
    }
    struct iocb block = {
        .aio_lio_opcode = IOCB_CMD_PWRITE,
        .aio_rw_flags = RWF_DSYNC,
        .aio_fildes = (uint32_t)fd,
        .aio_buf = (uint64_t)(uintptr_t)self->staging,
        .aio_nbytes = n_bytes,
        .aio_offset = offset,
        .aio_flags = IOCB_FLAG_RESFD,
        .aio_resfd = (uint32_t)self->event_fd,
    };
    struct iocb *blocks[] = {&block};
    if (syscall(SYS_io_submit, self->context, 1, blocks) != 1)
        return PyErr_SetFromErrno(PyExc_OSError);
    self->under_way = (Py_ssize_t)n_bytes;
    Py_RETURN_NONE;
}

static PyObject *reap(Aio *self, PyObject *Py_UNUSED(ignored))
{
    uint64_t count;
    struct io_event event;
    if (self->under_way < 0 || read(self->event_fd, &count, sizeof count) != sizeof count)
        Py_RETURN_NONE;
    Py_ssize_t wanted = self->under_way;
    long long result = -EIO; /* the event said that the write has ended; how, cannot be told */
    if (syscall(SYS_io_getevents, self->context, 0, 1, &event, NULL) == 1)
        result = event.res;
    self->under_way = -1;
    return PyLong_FromLongLong(result >= 0 && result != wanted ? -EIO : result);
}

static PyMethodDef methods[] = {
    {"fileno", (PyCFunction)fileno_of, METH_NOARGS, NULL},
    {"submit", (PyCFunction)(void (*)(void))submit, METH_FASTCALL, NULL},
    {"reap", (PyCFunction)reap, METH_NOARGS, NULL},
    {"close", (PyCFunction)close_it, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

PyTypeObject Aio_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "wal._native.Aio",
    .tp_doc = "One durable write at a time through Linux's asynchronous I/O.",
    .tp_basicsize = sizeof(Aio),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = new,
    .tp_dealloc = (destructor)dealloc,
    .tp_methods = methods,
};

int aio_ready(void)
{
    return PyType_Ready(&Aio_Type);
}
