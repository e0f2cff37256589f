#include "encoder.h"

#include "checks.h"
#include "key.h"
#include "record_slots.h"
#include "memory_pool.h"

typedef struct {
    Py_ssize_t offset;    /* in an instance */
    PyTypeObject *cls;    /* exact class of the value */
    PyTypeObject *first;  /* exact class of the items, or of the keys; NULL: they are not looked at */
    PyTypeObject *second; /* exact class of a dict's values; NULL: it is no dict */
} Field;

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyTypeObject *record_type;
    PyObject *tag;
    PyObject *encode; /* from a tuple to bytes */
    PyObject *slow;   /* from a record to the same outcome, or to the error */
    Py_ssize_t bytes_max;
    Py_ssize_t n;
    Field *fields; /* the key's first */
} Encoder;

/* Return a field's value as it is stored, or NULL, without an error, if it is not as declared. */
static inline PyObject *checked(const Field *field, PyObject *record)
{
    PyObject *value = *(PyObject **)((char *)record + field->offset);
    if (value == NULL)
        return NULL;
    if (Py_TYPE(value) != field->cls) {
        long long number;
        int beyond;
        if (field->cls != &PyFloat_Type || !PyLong_CheckExact(value))
            return NULL;
        number = PyLong_AsLongLongAndOverflow(value, &beyond); /* only an int is taken for a float */
        return beyond ? NULL : PyFloat_FromDouble((double)number);
    }
    if (field->second != NULL ? pair_not_of(value, field->first, field->second) != NULL
                              : field->first != NULL && item_not_of(value, field->first) != NULL)
        return NULL;
    return Py_NewRef(value);
}

/* Return (slot, hot key, value), or NULL, with or without an error: the slow way then says what it is. */
static PyObject *encoded(Encoder *self, PyObject *record)
{
    PyObject *values = PyTuple_New(self->n + 1);
    if (values == NULL)
        return NULL;
    PyTuple_SET_ITEM(values, 0, Py_NewRef(self->tag));
    for (Py_ssize_t i = 0; i < self->n; i++) {
        PyObject *value = checked(&self->fields[i], record);
        if (value == NULL) {
            Py_DECREF(values);
            return NULL;
        }
        PyTuple_SET_ITEM(values, i + 1, value);
    }
    Key key;
    PyObject *outcome = NULL, *object = PyTuple_GET_ITEM(values, 1);
    PyObject *value = snug(PyObject_CallOneArg(self->encode, values));
    if (value != NULL && PyBytes_CheckExact(value) && PyBytes_GET_SIZE(value) <= self->bytes_max &&
        key_from_object(object, &key) == 0) {
        PyObject *slot = PyLong_FromLong((long)key_slot(&key));
        key_clear(&key);
        outcome = slot == NULL ? NULL : PyTuple_Pack(3, slot, object, value);
        Py_XDECREF(slot);
    }
    Py_XDECREF(value);
    Py_DECREF(values);
    return outcome;
}

static PyObject *call(Encoder *self, PyObject *const *args, size_t n_args, PyObject *names)
{
    if (PyVectorcall_NARGS(n_args) != 1 || names != NULL) {
        PyErr_SetString(PyExc_TypeError, "an encoder takes a record");
        return NULL;
    }
    if (self->slow == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the encoder has been cleared");
        return NULL;
    }
    PyObject *outcome = Py_TYPE(args[0]) == self->record_type ? encoded(self, args[0]) : NULL;
    if (outcome == NULL) {
        PyErr_Clear();
        outcome = PyObject_CallOneArg(self->slow, args[0]);
    }
    return outcome;
}

static PyTypeObject *class_at(PyObject *description, Py_ssize_t i)
{
    if (i >= PyTuple_GET_SIZE(description))
        return NULL;
    PyObject *cls = PyTuple_GET_ITEM(description, i);
    if (!PyType_Check(cls)) {
        PyErr_SetString(PyExc_TypeError, "an encoder's field is (name, class, ...)");
        return NULL;
    }
    return (PyTypeObject *)Py_NewRef(cls);
}

static int take_field(Encoder *self, PyObject *description, Field *field)
{
    if (!PyTuple_CheckExact(description) || PyTuple_GET_SIZE(description) < 2) {
        PyErr_SetString(PyExc_TypeError, "an encoder's field is (name, class, ...)");
        return -1;
    }
    field->offset = slot_offset(self->record_type, PyTuple_GET_ITEM(description, 0), "an encoder");
    if (field->offset < 0)
        return -1;
    field->cls = class_at(description, 1);
    field->first = class_at(description, 2);
    field->second = class_at(description, 3);
    return PyErr_Occurred() ? -1 : 0;
}

static PyObject *new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"record_type", "tag", "fields", "encode", "slow", "bytes_max", NULL};
    PyObject *record_type, *tag, *fields, *encode, *slow;
    Py_ssize_t bytes_max;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "$O!O!O!OOn:Encoder", names, &PyType_Type, &record_type,
                                     &PyLong_Type, &tag, &PyTuple_Type, &fields, &encode, &slow, &bytes_max))
        return NULL;
    if (PyTuple_GET_SIZE(fields) == 0) {
        PyErr_SetString(PyExc_ValueError, "an encoder has at least the key's field");
        return NULL;
    }
    Encoder *self = (Encoder *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->vectorcall = (vectorcallfunc)call;
    self->record_type = (PyTypeObject *)Py_NewRef(record_type);
    self->tag = Py_NewRef(tag);
    self->encode = Py_NewRef(encode);
    self->slow = Py_NewRef(slow);
    self->bytes_max = bytes_max;
    self->fields = PyMem_Calloc((size_t)PyTuple_GET_SIZE(fields) + 1, sizeof *self->fields);
    if (self->fields == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    while (self->n < PyTuple_GET_SIZE(fields)) {
        Py_ssize_t i = self->n++;
        if (take_field(self, PyTuple_GET_ITEM(fields, i), &self->fields[i]) < 0) {
            Py_DECREF(self);
            return NULL;
        }
    }
    return (PyObject *)self;
}

static int traverse(Encoder *self, visitproc visit, void *arg)
{
    Py_VISIT(self->record_type);
    Py_VISIT(self->encode);
    Py_VISIT(self->slow);
    for (Py_ssize_t i = 0; i < self->n; i++) {
        Py_VISIT(self->fields[i].cls);
        Py_VISIT(self->fields[i].first);
        Py_VISIT(self->fields[i].second);
    }
    return 0;
}

static int clear(Encoder *self)
{
    Py_CLEAR(self->record_type);
    Py_CLEAR(self->tag);
    Py_CLEAR(self->encode);
    Py_CLEAR(self->slow);
    for (Py_ssize_t i = 0; i < self->n; i++) {
        Py_CLEAR(self->fields[i].cls);
        Py_CLEAR(self->fields[i].first);
        Py_CLEAR(self->fields[i].second);
    }
    self->n = 0;
    return 0;
}

static void dealloc(Encoder *self)
{
    PyObject_GC_UnTrack(self);
    clear(self);
    PyMem_Free(self->fields);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

PyTypeObject Encoder_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "warpstore._native.Encoder",
    .tp_doc = "Checks and encodes records of a class with plain fields.",
    .tp_basicsize = sizeof(Encoder),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_vectorcall_offset = offsetof(Encoder, vectorcall),
    .tp_call = PyVectorcall_Call,
    .tp_new = new,
    .tp_dealloc = (destructor)dealloc,
    .tp_traverse = (traverseproc)traverse,
    .tp_clear = (inquiry)clear,
};

int encoder_ready(void)
{
    return PyType_Ready(&Encoder_Type);
}
