#include "elements.h"

#include "msgpack.h"

PyObject *element_offsets(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    if (n_args != 3 || !PyBytes_CheckExact(args[0]) || !PyList_CheckExact(args[2])) {
        PyErr_SetString(PyExc_TypeError, "element_offsets takes bytes, where the array begins, and a list of indices");
        return NULL;
    }
    uint64_t skip = PyLong_AsUnsignedLongLong(args[1]), size = (uint64_t)PyBytes_GET_SIZE(args[0]);
    if (PyErr_Occurred())
        return NULL;
    const uint8_t *base = (const uint8_t *)PyBytes_AS_STRING(args[0]), *end = base + size;
    uint64_t n_elements, element = 0;
    const uint8_t *at = skip < size ? take_count(base + skip, end, 0, &n_elements) : NULL;
    if (at == NULL)
        return PyErr_Format(PyExc_ValueError, "there is no MessagePack array at this place");
    PyObject *offsets = PyList_New(0);
    for (Py_ssize_t i = 0; offsets != NULL && i < PyList_GET_SIZE(args[2]); i++) {
        uint64_t wanted = PyLong_AsUnsignedLongLong(PyList_GET_ITEM(args[2], i));
        if (PyErr_Occurred() || wanted < element || wanted >= n_elements) {
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_ValueError, "the indices are not in order, or the array has fewer elements");
            Py_CLEAR(offsets);
            break;
        }
        for (; at != NULL && element < wanted; element++)
            at = skip_value(at, end);
        if (at == NULL || at >= end) {
            PyErr_SetString(PyExc_ValueError, "the MessagePack array is cut off");
            Py_CLEAR(offsets);
            break;
        }
        PyObject *offset = PyLong_FromSsize_t(at - base);
        if (offset == NULL || PyList_Append(offsets, offset) < 0)
            Py_CLEAR(offsets);
        Py_XDECREF(offset);
    }
    return offsets;
}
