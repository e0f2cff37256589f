#include "copier.h"

#include "record_slots.h"

#define FIELDS_MAX 64

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyTypeObject *record_type;
    PyObject *shallow; /* the class's __copy__ */
    Py_ssize_t n;
    Py_ssize_t offsets[FIELDS_MAX]; /* of the fields with containers, in an instance */
} Copier;

static PyObject *copy_container(PyObject *value)
{
    if (PyList_CheckExact(value))
        return PyList_GetSlice(value, 0, PY_SSIZE_T_MAX);
    if (PyDict_CheckExact(value))
        return PyDict_Copy(value);
    if (PySet_CheckExact(value))
        return PySet_New(value);
    return Py_NewRef(value);
}

static PyObject *call(Copier *self, PyObject *const *args, size_t n_args, PyObject *names)
{
    if (PyVectorcall_NARGS(n_args) != 1 || names != NULL || Py_TYPE(args[0]) != self->record_type) {
        PyErr_SetString(PyExc_TypeError, "a copier takes a record of its class");
        return NULL;
    }
    PyObject *copy = PyObject_Vectorcall(self->shallow, args, 1, NULL);
    for (Py_ssize_t i = 0; copy != NULL && i < self->n; i++) {
        PyObject **field = (PyObject **)((char *)copy + self->offsets[i]);
        PyObject *own = *field == NULL ? NULL : copy_container(*field);
        if (own != NULL)
            Py_SETREF(*field, own);
        else if (PyErr_Occurred())
            Py_CLEAR(copy);
    }
    return copy;
}

static PyObject *new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"record_type", "fields", NULL};
    PyTypeObject *record_type;
    PyObject *fields;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O!O!:Copier", names, &PyType_Type, &record_type, &PyTuple_Type,
                                     &fields))
        return NULL;
    if (PyTuple_GET_SIZE(fields) > FIELDS_MAX) {
        PyErr_Format(PyExc_ValueError, "a copier copies at most %d containers", FIELDS_MAX);
        return NULL;
    }
    Copier *self = (Copier *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->vectorcall = (vectorcallfunc)call;
    self->record_type = (PyTypeObject *)Py_NewRef(record_type);
    self->shallow = PyObject_GetAttrString((PyObject *)record_type, "__copy__");
    for (Py_ssize_t i = 0; self->shallow != NULL && i < PyTuple_GET_SIZE(fields); i++) {
        Py_ssize_t offset = slot_offset(record_type, PyTuple_GET_ITEM(fields, i), "a copier");
        if (offset < 0)
            break;
        self->offsets[self->n++] = offset;
    }
    if (PyErr_Occurred())
        Py_CLEAR(self);
    return (PyObject *)self;
}

static int traverse(Copier *self, visitproc visit, void *arg)
{
    Py_VISIT(self->record_type);
    Py_VISIT(self->shallow);
    return 0;
}

static int clear(Copier *self)
{
    Py_CLEAR(self->record_type);
    Py_CLEAR(self->shallow);
    return 0;
}

static void dealloc(Copier *self)
{
    PyObject_GC_UnTrack(self);
    clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

PyTypeObject Copier_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "warpstore._native.Copier",
    .tp_doc = "Copies records of one class, with the containers in some of their fields.",
    .tp_basicsize = sizeof(Copier),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_vectorcall_offset = offsetof(Copier, vectorcall),
    .tp_call = PyVectorcall_Call,
    .tp_new = new,
    .tp_dealloc = (destructor)dealloc,
    .tp_traverse = (traverseproc)traverse,
    .tp_clear = (inquiry)clear,
};

int copier_ready(void)
{
    return PyType_Ready(&Copier_Type);
}
