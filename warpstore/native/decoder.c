#include "decoder.h"

#include "msgpack.h"
#include "record_slots.h"
#include "xxh3.h"

#define KNOWN_KEYS 128     /* of dicts, kept decoded: a power of two */
#define KNOWN_KEY_BYTES 32 /* longer ones are not kept */
#define ASCII_MAX 127

typedef PyObject *(*Make)(const uint8_t **at, const uint8_t *end, PyObject **known);

typedef struct {
    Py_ssize_t offset;    /* in an instance */
    PyTypeObject *holder; /* list, dict, or NULL: a scalar */
    Make make;            /* the scalar, an item, or a dict's value */
    Make make_key;        /* of a dict */
} Field;

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyTypeObject *record_type;
    PyObject *prefix; /* the bytes that open every value: the array's head and the tag */
    PyObject *slow;   /* from a value to the record, or to the error */
    Py_ssize_t n;
    Field *fields; /* in stored order */
    PyObject *known[KNOWN_KEYS];
} Decoder;

/* Each `make` takes one value, and returns NULL, with or without an error, for one of another class. */

static PyObject *make_int(const uint8_t **at, const uint8_t *end, PyObject **Py_UNUSED(known))
{
    Number number;
    *at = take_number(*at, end, &number);
    if (*at == NULL || number.is_real)
        return NULL;
    return number.is_negative ? PyLong_FromLongLong((int64_t)number.bits) : PyLong_FromUnsignedLongLong(number.bits);
}

static PyObject *make_float(const uint8_t **at, const uint8_t *end, PyObject **Py_UNUSED(known))
{
    Number number;
    if (**at != 0xcb || (*at = take_number(*at, end, &number)) == NULL)
        return NULL;
    return PyFloat_FromDouble(number.real);
}

static PyObject *make_bool(const uint8_t **at, const uint8_t *Py_UNUSED(end), PyObject **Py_UNUSED(known))
{
    uint8_t format = *(*at)++;
    return (format | 1) == 0xc3 ? PyBool_FromLong(format & 1) : NULL;
}

static PyObject *make_bytes(const uint8_t **at, const uint8_t *end, PyObject **Py_UNUSED(known))
{
    size_t size;
    const uint8_t *data = take_head(*at, end, 0, &size);
    if (data == NULL)
        return NULL;
    *at = data + size;
    return PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)size);
}

static inline int is_ascii(const uint8_t *data, size_t size)
{
    uint64_t word, high = 0;
    for (; size >= 8; size -= 8, data += 8) {
        memcpy(&word, data, 8);
        high |= word;
    }
    for (; size; size--)
        high |= *data++;
    return !(high & UINT64_C(0x8080808080808080));
}

static inline PyObject *text_of(const uint8_t *data, size_t size)
{
    if (size < 2 || !is_ascii(data, size))
        return PyUnicode_DecodeUTF8((const char *)data, (Py_ssize_t)size, NULL);
    PyObject *text = PyUnicode_New((Py_ssize_t)size, ASCII_MAX);
    if (text != NULL)
        memcpy(PyUnicode_1BYTE_DATA(text), data, size);
    return text;
}

static PyObject *make_str(const uint8_t **at, const uint8_t *end, PyObject **Py_UNUSED(known))
{
    size_t size;
    const uint8_t *data = take_head(*at, end, 1, &size);
    if (data == NULL)
        return NULL;
    *at = data + size;
    return text_of(data, size);
}

/* As `make_str`; of keys that come again the same object is given, which has its hash already. */
static PyObject *make_known_str(const uint8_t **at, const uint8_t *end, PyObject **known)
{
    size_t size;
    const uint8_t *data = take_head(*at, end, 1, &size);
    if (data == NULL)
        return NULL;
    *at = data + size;
    if (size > KNOWN_KEY_BYTES || !is_ascii(data, size))
        return text_of(data, size);
    PyObject **place = &known[xxh3_64(data, size) & (KNOWN_KEYS - 1)];
    if (*place != NULL && PyUnicode_GET_LENGTH(*place) == (Py_ssize_t)size &&
        memcmp(PyUnicode_1BYTE_DATA(*place), data, size) == 0)
        return Py_NewRef(*place);
    PyObject *text = text_of(data, size);
    if (text != NULL)
        Py_XSETREF(*place, Py_NewRef(text));
    return text;
}

static PyObject *make_list(const Field *field, const uint8_t **at, const uint8_t *end, PyObject **known)
{
    uint64_t n;
    *at = take_count(*at, end, 0, &n);
    if (*at == NULL || n > (uint64_t)(end - *at))
        return NULL;
    PyObject *list = PyList_New((Py_ssize_t)n);
    for (Py_ssize_t i = 0; list != NULL && i < (Py_ssize_t)n; i++) {
        PyObject *item = *at < end ? field->make(at, end, known) : NULL;
        if (item == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, item);
    }
    return list;
}

static PyObject *new_dict(uint64_t n)
{
#if PY_VERSION_HEX < 0x030d0000
    return _PyDict_NewPresized((Py_ssize_t)n);
#else
    (void)n; /* the function is not for extensions any more */
    return PyDict_New();
#endif
}

static PyObject *make_dict(const Field *field, const uint8_t **at, const uint8_t *end, PyObject **known)
{
    uint64_t n;
    *at = take_count(*at, end, 1, &n);
    if (*at == NULL || 2 * n > (uint64_t)(end - *at))
        return NULL;
    PyObject *dict = new_dict(n);
    for (; dict != NULL && n; n--) {
        PyObject *key = *at < end ? field->make_key(at, end, known) : NULL;
        PyObject *value = key != NULL && *at < end ? field->make(at, end, known) : NULL;
        if (value == NULL || PyDict_SetItem(dict, key, value) < 0)
            Py_CLEAR(dict);
        Py_XDECREF(key);
        Py_XDECREF(value);
    }
    return dict;
}

/* Return the record, or NULL, with or without an error, if the value is not as described. */
static PyObject *decoded(Decoder *self, const uint8_t *at, const uint8_t *end)
{
    Py_ssize_t n_prefix = PyBytes_GET_SIZE(self->prefix);
    if (end - at < n_prefix || memcmp(at, PyBytes_AS_STRING(self->prefix), (size_t)n_prefix) != 0)
        return NULL;
    at += n_prefix;
    PyObject *record = self->record_type->tp_alloc(self->record_type, 0);
    if (record == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < self->n; i++) {
        const Field *field = &self->fields[i];
        PyObject *value = NULL;
        if (at < end)
            value = field->holder == NULL           ? field->make(&at, end, self->known)
                    : field->holder == &PyList_Type ? make_list(field, &at, end, self->known)
                                                    : make_dict(field, &at, end, self->known);
        if (value == NULL) {
            Py_DECREF(record);
            return NULL;
        }
        *(PyObject **)((char *)record + field->offset) = value;
    }
    if (at != end)
        Py_CLEAR(record);
    return record;
}

PyObject *decoder_record(PyObject *decoder, PyObject *value)
{
    Decoder *self = (Decoder *)decoder;
    if (self->slow == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the decoder has been cleared");
        return NULL;
    }
    if (PyBytes_CheckExact(value)) {
        const uint8_t *at = (const uint8_t *)PyBytes_AS_STRING(value);
        PyObject *record = decoded(self, at, at + PyBytes_GET_SIZE(value));
        if (record != NULL)
            return record;
        PyErr_Clear();
    }
    return PyObject_CallOneArg(self->slow, value);
}

static PyObject *call(Decoder *self, PyObject *const *args, size_t n_args, PyObject *names)
{
    if (PyVectorcall_NARGS(n_args) != 1 || names != NULL) {
        PyErr_SetString(PyExc_TypeError, "a decoder takes a value");
        return NULL;
    }
    return decoder_record((PyObject *)self, args[0]);
}

static Make make_of(PyObject *cls, int is_key)
{
    if (cls == (PyObject *)&PyUnicode_Type)
        return is_key ? make_known_str : make_str;
    return cls == (PyObject *)&PyLong_Type    ? make_int
           : cls == (PyObject *)&PyFloat_Type ? make_float
           : cls == (PyObject *)&PyBool_Type  ? make_bool
           : cls == (PyObject *)&PyBytes_Type ? make_bytes
                                              : NULL;
}

static int take_field(Decoder *self, PyObject *description, Field *field)
{
    Py_ssize_t n = PyTuple_CheckExact(description) ? PyTuple_GET_SIZE(description) : 0;
    PyObject *cls = n >= 2 ? PyTuple_GET_ITEM(description, 1) : NULL;
    if (n == 2) {
        field->make = make_of(cls, 0);
    } else if (n == 3 && cls == (PyObject *)&PyList_Type) {
        field->holder = &PyList_Type;
        field->make = make_of(PyTuple_GET_ITEM(description, 2), 0);
    } else if (n == 4 && cls == (PyObject *)&PyDict_Type) {
        field->holder = &PyDict_Type;
        field->make_key = make_of(PyTuple_GET_ITEM(description, 2), 1);
        field->make = make_of(PyTuple_GET_ITEM(description, 3), 0);
    }
    if (field->make == NULL || (n == 4 && field->make_key == NULL)) {
        PyErr_SetString(PyExc_TypeError, "a decoder's field is (name, class), (name, list, class) or "
                                         "(name, dict, class, class)");
        return -1;
    }
    field->offset = slot_offset(self->record_type, PyTuple_GET_ITEM(description, 0), "a decoder");
    return field->offset < 0 ? -1 : 0;
}

static PyObject *new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"record_type", "prefix", "fields", "slow", NULL};
    PyObject *record_type, *prefix, *fields, *slow;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "$O!O!O!O:Decoder", names, &PyType_Type, &record_type,
                                     &PyBytes_Type, &prefix, &PyTuple_Type, &fields, &slow))
        return NULL;
    if (PyTuple_GET_SIZE(fields) == 0) {
        PyErr_SetString(PyExc_ValueError, "a decoder has at least the key's field");
        return NULL;
    }
    if (PyType_IS_GC((PyTypeObject *)record_type)) {
        PyErr_SetString(PyExc_TypeError, "a decoder's class is one that the collector does not track");
        return NULL;
    }
    Decoder *self = (Decoder *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->vectorcall = (vectorcallfunc)call;
    self->record_type = (PyTypeObject *)Py_NewRef(record_type);
    self->prefix = Py_NewRef(prefix);
    self->slow = Py_NewRef(slow);
    self->fields = PyMem_Calloc((size_t)PyTuple_GET_SIZE(fields), sizeof *self->fields);
    if (self->fields == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    for (; self->n < PyTuple_GET_SIZE(fields); self->n++) {
        if (take_field(self, PyTuple_GET_ITEM(fields, self->n), &self->fields[self->n]) < 0) {
            Py_DECREF(self);
            return NULL;
        }
    }
    return (PyObject *)self;
}

static int traverse(Decoder *self, visitproc visit, void *arg)
{
    Py_VISIT(self->record_type);
    Py_VISIT(self->slow);
    return 0;
}

static int clear(Decoder *self)
{
    Py_CLEAR(self->record_type);
    Py_CLEAR(self->prefix);
    Py_CLEAR(self->slow);
    for (int i = 0; i < KNOWN_KEYS; i++)
        Py_CLEAR(self->known[i]);
    return 0;
}

static void dealloc(Decoder *self)
{
    PyObject_GC_UnTrack(self);
    clear(self);
    PyMem_Free(self->fields);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

PyTypeObject Decoder_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "warpstore._native.Decoder",
    .tp_doc = "Makes records of a class with plain fields from their values.",
    .tp_basicsize = sizeof(Decoder),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_vectorcall_offset = offsetof(Decoder, vectorcall),
    .tp_call = PyVectorcall_Call,
    .tp_new = new,
    .tp_dealloc = (destructor)dealloc,
    .tp_traverse = (traverseproc)traverse,
    .tp_clear = (inquiry)clear,
};

int decoder_ready(void)
{
    return PyType_Ready(&Decoder_Type);
}
