#include "frame.h"

#include <stdint.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the log's numbers are little-endian and are written in place"
#endif

#define LINES_AHEAD 8
#define LINE_BYTES 64

/* What the checksum of a frame covers, without the lengths and payloads behind it. */
typedef struct {
    uint32_t body_bytes;
    uint32_t n_records;
    uint8_t kind;
    uint8_t zero;
    uint16_t stream;
    uint32_t zeros;
    uint64_t lsn;
    uint64_t durable;
} Checked;

_Static_assert(sizeof(Checked) == 32, "the checked part of a frame header has 32 bytes");

PyObject *frame_pack_checked(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    if (n_args != 5 || !(PyList_CheckExact(args[4]) || PyTuple_CheckExact(args[4]))) {
        PyErr_SetString(PyExc_TypeError, "pack_checked takes a kind, a stream, two positions, and payloads in a list");
        return NULL;
    }
    unsigned long kind = PyLong_AsUnsignedLong(args[0]), stream = PyLong_AsUnsignedLong(args[1]);
    uint64_t lsn = PyLong_AsUnsignedLongLong(args[2]), durable = PyLong_AsUnsignedLongLong(args[3]);
    if (PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError))
            PyErr_SetString(PyExc_ValueError, "a number of the frame is negative or has more than 64 bits");
        return NULL;
    }
    PyObject *const *payloads = PySequence_Fast_ITEMS(args[4]);
    Py_ssize_t n = PySequence_Fast_GET_SIZE(args[4]);
    uint64_t body_bytes = 4 * (uint64_t)n;
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *payload = payloads[i];
        if (i + LINES_AHEAD < n)
            __builtin_prefetch(payloads[i + LINES_AHEAD]);
        if (!PyBytes_CheckExact(payload))
            return PyErr_Format(PyExc_TypeError, "a payload is bytes, not %s", Py_TYPE(payload)->tp_name);
        body_bytes += (uint64_t)PyBytes_GET_SIZE(payload);
    }
    if (kind > UINT8_MAX || stream > UINT16_MAX || body_bytes > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "a frame of this kind, stream or size has no form");
        return NULL;
    }
    PyObject *packed = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(sizeof(Checked) + body_bytes));
    if (packed == NULL)
        return NULL;
    char *at = PyBytes_AS_STRING(packed);
    Checked checked = {(uint32_t)body_bytes, (uint32_t)n, (uint8_t)kind, 0, (uint16_t)stream, 0, lsn, durable};
    memcpy(at, &checked, sizeof checked);
    char *lengths = at + sizeof checked;
    at = lengths + 4 * n;
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *payload = payloads[i];
        uint32_t length = (uint32_t)PyBytes_GET_SIZE(payload);
        if (i + 1 < n) { /* its first line is known from above; the others are fetched while this one is copied */
            const char *next = PyBytes_AS_STRING(payloads[i + 1]);
            for (int line = 0; line < LINES_AHEAD; line++)
                __builtin_prefetch(next + line * LINE_BYTES);
        }
        memcpy(lengths + 4 * i, &length, 4);
        memcpy(at, PyBytes_AS_STRING(payload), length);
        at += length;
    }
    return packed;
}
