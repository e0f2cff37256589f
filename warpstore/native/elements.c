#include "elements.h"

#include <stdint.h>

static uint64_t big_endian(const uint8_t *at, int n_bytes)
{
    uint64_t number = 0;
    for (int i = 0; i < n_bytes; i++)
        number = number << 8 | at[i];
    return number;
}

/* What a MessagePack object opens with: bytes of its head, bytes that follow, and objects that follow. */
typedef struct {
    uint64_t n_head, n_bytes, n_objects;
} Opening;

/* Read the opening of the object at `at`. Return 0, or -1 if it is cut off or none. */
static int read_opening(const uint8_t *at, uint64_t left, Opening *opening)
{
    if (left == 0)
        return -1;
    uint8_t format = *at;
    int n_length = 0; /* bytes of the length behind the format byte */
    *opening = (Opening){1, 0, 0};
    if (format < 0x80 || format >= 0xe0 || format == 0xc0 || format == 0xc2 || format == 0xc3)
        return 0;
    if (format < 0x90)
        opening->n_objects = 2 * (uint64_t)(format & 0x0f);
    else if (format < 0xa0)
        opening->n_objects = format & 0x0f;
    else if (format < 0xc0)
        opening->n_bytes = format & 0x1f;
    else if (format >= 0xc4 && format <= 0xc6) /* bytes */
        n_length = 1 << (format - 0xc4);
    else if (format >= 0xc7 && format <= 0xc9) /* an extension, with its type */
        n_length = 1 << (format - 0xc7);
    else if (format == 0xca || format == 0xcb)
        opening->n_bytes = format == 0xca ? 4 : 8;
    else if (format >= 0xcc && format <= 0xd3)
        opening->n_bytes = UINT64_C(1) << (format & 3);
    else if (format >= 0xd4 && format <= 0xd8)
        opening->n_bytes = 1 + (UINT64_C(1) << (format - 0xd4));
    else if (format >= 0xd9 && format <= 0xdb) /* str */
        n_length = 1 << (format - 0xd9);
    else if (format >= 0xdc) /* arrays and maps */
        n_length = format & 1 ? 4 : 2;
    else
        return -1;
    if (n_length == 0)
        return 0;
    if (left < 1 + (uint64_t)n_length)
        return -1;
    uint64_t length = big_endian(at + 1, n_length);
    opening->n_head += (uint64_t)n_length;
    if (format >= 0xdc)
        opening->n_objects = format >= 0xde ? 2 * length : length;
    else
        opening->n_bytes = length + (format >= 0xc7 && format <= 0xc9);
    return 0;
}

PyObject *element_offsets(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    if (n_args != 3 || !PyBytes_CheckExact(args[0]) || !PyList_CheckExact(args[2])) {
        PyErr_SetString(PyExc_TypeError, "element_offsets takes bytes, where the array begins, and a list of indices");
        return NULL;
    }
    uint64_t skip = PyLong_AsUnsignedLongLong(args[1]), size = (uint64_t)PyBytes_GET_SIZE(args[0]);
    if (PyErr_Occurred())
        return NULL;
    const uint8_t *base = (const uint8_t *)PyBytes_AS_STRING(args[0]);
    Opening opening;
    uint8_t format = skip < size ? base[skip] : 0;
    if (((format & 0xf0) != 0x90 && format != 0xdc && format != 0xdd) ||
        read_opening(base + skip, size - skip, &opening) < 0)
        return PyErr_Format(PyExc_ValueError, "there is no MessagePack array at this place");
    uint64_t n_elements = opening.n_objects, at = skip + opening.n_head, element = 0;
    PyObject *offsets = PyList_New(0);
    for (Py_ssize_t i = 0; offsets != NULL && i < PyList_GET_SIZE(args[2]); i++) {
        uint64_t wanted = PyLong_AsUnsignedLongLong(PyList_GET_ITEM(args[2], i));
        if (PyErr_Occurred() || wanted < element || wanted >= n_elements) {
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_ValueError, "the indices are not in order, or the array has fewer elements");
            Py_CLEAR(offsets);
            break;
        }
        for (uint64_t left = wanted - element; left > 0; left--) { /* objects still to be skipped, nested ones too */
            if (at > size || read_opening(base + at, size - at, &opening) < 0 ||
                opening.n_bytes > size - at - opening.n_head || opening.n_objects > size) {
                PyErr_SetString(PyExc_ValueError, "the MessagePack array is cut off");
                Py_CLEAR(offsets);
                return NULL;
            }
            at += opening.n_head + opening.n_bytes;
            left += opening.n_objects;
        }
        if (at >= size) {
            PyErr_SetString(PyExc_ValueError, "the MessagePack array is cut off");
            Py_CLEAR(offsets);
            return NULL;
        }
        element = wanted;
        PyObject *offset = PyLong_FromUnsignedLongLong(at);
        if (offset == NULL || PyList_Append(offsets, offset) < 0)
            Py_CLEAR(offsets);
        Py_XDECREF(offset);
    }
    return offsets;
}
