#include "key.h"

/* Return the XXH3-64 of more bytes than xxh3_64 takes, by the xxhash package; or -1 with an error set. */
static int long_hash(const uint8_t *data, Py_ssize_t size, uint64_t *hash)
{
    PyObject *module = PyImport_ImportModule("xxhash");
    if (module == NULL)
        return -1;
    PyObject *digest = PyObject_CallMethod(module, "xxh3_64_intdigest", "y#", (const char *)data, size);
    Py_DECREF(module);
    if (digest == NULL)
        return -1;
    *hash = PyLong_AsUnsignedLongLong(digest);
    Py_DECREF(digest);
    return PyErr_Occurred() ? -1 : 0;
}

static int sized(Key *key, const void *data, Py_ssize_t size)
{
    if (size > KEY_BYTES_MAX) {
        PyErr_Format(PyExc_ValueError, "a key of %zd bytes is too long, the limit is %d", size, KEY_BYTES_MAX);
        return -1;
    }
    key->data = data;
    key->size = (uint32_t)size;
    if (size <= XXH3_BYTES_MAX) {
        key->hash = xxh3_64(data, (size_t)size);
        return 0;
    }
    return long_hash(data, size, &key->hash);
}

static void put_int(Key *key, int64_t number)
{
    uint8_t *head = key->head;
    uint64_t bits = __builtin_bswap64((uint64_t)number);
    int n_bytes;
    if (number >= -32 && number < 128) {
        head[0] = (uint8_t)number;
        key->n_head = 1;
        return;
    }
    if (number >= 0) {
        n_bytes = number < 1 << 8 ? 1 : number < 1 << 16 ? 2 : number < INT64_C(1) << 32 ? 4 : 8;
        head[0] = n_bytes == 1 ? 0xcc : n_bytes == 2 ? 0xcd : n_bytes == 4 ? 0xce : 0xcf;
    } else {
        n_bytes = number >= INT8_MIN ? 1 : number >= INT16_MIN ? 2 : number >= INT32_MIN ? 4 : 8;
        head[0] = n_bytes == 1 ? 0xd0 : n_bytes == 2 ? 0xd1 : n_bytes == 4 ? 0xd2 : 0xd3;
    }
    memcpy(head + 1, (const uint8_t *)&bits + 8 - n_bytes, (size_t)n_bytes);
    key->n_head = (uint32_t)n_bytes + 1;
}

static void put_length(Key *key, uint8_t byte_format)
{
    uint8_t *head = key->head;
    if (key->size < 1 << 8) {
        head[0] = byte_format;
        head[1] = (uint8_t)key->size;
        key->n_head = 2;
    } else {
        head[0] = byte_format + 1;
        head[1] = (uint8_t)(key->size >> 8);
        head[2] = (uint8_t)key->size;
        key->n_head = 3;
    }
}

int key_from_object(PyObject *object, Key *key)
{
    key->owner = NULL;
    if (PyUnicode_CheckExact(object)) {
        if (PyUnicode_IS_COMPACT_ASCII(object)) {
            if (sized(key, PyUnicode_1BYTE_DATA(object), PyUnicode_GET_LENGTH(object)) < 0)
                return -1;
        } else {
            key->owner = PyUnicode_AsUTF8String(object);
            if (key->owner == NULL)
                return -1;
            if (sized(key, PyBytes_AS_STRING(key->owner), PyBytes_GET_SIZE(key->owner)) < 0) {
                key_clear(key);
                return -1;
            }
        }
        if (key->size < 32) {
            key->head[0] = (uint8_t)(0xa0 | key->size);
            key->n_head = 1;
        } else {
            put_length(key, 0xd9);
        }
        return 0;
    }
    if (PyBytes_CheckExact(object)) {
        if (sized(key, PyBytes_AS_STRING(object), PyBytes_GET_SIZE(object)) < 0)
            return -1;
        put_length(key, 0xc4);
        return 0;
    }
    if (PyLong_CheckExact(object)) {
        int64_t number = PyLong_AsLongLong(object);
        if (number == -1 && PyErr_Occurred())
            return -1;
        put_int(key, number);
        key->data = key->head; /* none of it is compared */
        key->size = 0;
        key->hash = xxh3_64(&number, sizeof number);
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "a hot key is str, bytes or int, not %s", Py_TYPE(object)->tp_name);
    return -1;
}

int key_from_value(PyObject *value, uint64_t hash, Key *key)
{
    const uint8_t *at = (const uint8_t *)PyBytes_AS_STRING(value);
    const uint8_t *end = at + PyBytes_GET_SIZE(value);
    size_t size = 0, n_head = 1;
    at = key_place(at, end);
    if (at != NULL) {
        switch (*at) {
        case 0xc4: case 0xd9: /* bytes or str with one byte of length */
            n_head = 2;
            size = end - at > 1 ? at[1] : 0;
            break;
        case 0xc5: case 0xda: /* with two */
            n_head = 3;
            size = end - at > 2 ? (size_t)at[1] << 8 | at[2] : 0;
            break;
        case 0xcc: case 0xd0: n_head = 2; break;
        case 0xcd: case 0xd1: n_head = 3; break;
        case 0xce: case 0xd2: n_head = 5; break;
        case 0xcf: case 0xd3: n_head = 9; break;
        default:
            if ((*at & 0xe0) == 0xa0)
                size = *at & 0x1f;
            else if (*at >= 0x80 && *at < 0xe0)
                at = NULL;
        }
    }
    if (at == NULL || (size_t)(end - at) < n_head + size) {
        PyErr_SetString(PyExc_ValueError, "these bytes are no stored value: they have no key");
        return -1;
    }
    key->hash = hash;
    key->owner = NULL;
    key->n_head = (uint32_t)n_head;
    key->size = (uint32_t)size;
    memcpy(key->head, at, n_head);
    key->data = at + n_head;
    return 0;
}

static int64_t int_of(const Key *key)
{
    uint8_t format = key->head[0];
    if (key->n_head == 1)
        return (int8_t)format;
    uint64_t bits = 0;
    int n_bytes = (int)key->n_head - 1;
    memcpy((uint8_t *)&bits + 8 - n_bytes, key->head + 1, (size_t)n_bytes);
    bits = __builtin_bswap64(bits);
    if (format >= 0xd0 && n_bytes < 8)
        return (int64_t)(bits << (64 - 8 * n_bytes)) >> (64 - 8 * n_bytes);
    return (int64_t)bits;
}

/* Whether a head is one of a str or bytes, not all of an int. */
static int is_text(uint8_t format)
{
    return (format & 0xe0) == 0xa0 || format == 0xd9 || format == 0xda || format == 0xc4 || format == 0xc5;
}

int key_hash_again(Key *key)
{
    if (key->size == 0 && !is_text(key->head[0])) {
        int64_t number = int_of(key);
        key->hash = xxh3_64(&number, sizeof number);
        return 0;
    }
    return sized(key, key->data, key->size);
}

PyObject *key_as_object(const Key *key)
{
    uint8_t format = key->head[0];
    if ((format & 0xe0) == 0xa0 || format == 0xd9 || format == 0xda)
        return PyUnicode_DecodeUTF8((const char *)key->data, key->size, NULL);
    if (format == 0xc4 || format == 0xc5)
        return PyBytes_FromStringAndSize((const char *)key->data, key->size);
    return PyLong_FromLongLong(int_of(key));
}

PyObject *key_tombstone(const Key *key)
{
    static const uint8_t opening[] = {TOMBSTONE_BYTE, 0x92, 0x00};
    PyObject *value = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(sizeof opening + key->n_head + key->size));
    if (value == NULL)
        return NULL;
    uint8_t *at = (uint8_t *)PyBytes_AS_STRING(value);
    memcpy(at, opening, sizeof opening);
    memcpy(at + sizeof opening, key->head, key->n_head);
    memcpy(at + sizeof opening + key->n_head, key->data, key->size);
    return value;
}
