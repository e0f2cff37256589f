#include "checks.h"

#include <math.h>

#if PY_VERSION_HEX >= 0x030d0000 /* exported as before, but declared for the interpreter only */
int _PySet_NextEntry(PyObject *set, Py_ssize_t *at, PyObject **item, Py_hash_t *hash);
#endif

PyObject *item_not_of(PyObject *container, PyTypeObject *cls)
{
    PyObject *item;
    Py_ssize_t at = 0;
    Py_hash_t hash;
    if (PyList_CheckExact(container) || PyTuple_CheckExact(container)) {
        PyObject *const *items = PySequence_Fast_ITEMS(container);
        for (; at < PySequence_Fast_GET_SIZE(container); at++)
            if (Py_TYPE(items[at]) != cls)
                return items[at];
    } else if (PyDict_CheckExact(container)) {
        while (PyDict_Next(container, &at, &item, NULL))
            if (Py_TYPE(item) != cls)
                return item;
    } else {
        while (_PySet_NextEntry(container, &at, &item, &hash))
            if (Py_TYPE(item) != cls)
                return item;
    }
    return NULL;
}

PyObject *pair_not_of(PyObject *mapping, PyTypeObject *key_cls, PyTypeObject *value_cls)
{
    PyObject *key, *value;
    Py_ssize_t at = 0;
    while (PyDict_Next(mapping, &at, &key, &value)) {
        if (Py_TYPE(key) != key_cls)
            return key;
        if (Py_TYPE(value) != value_cls)
            return value;
    }
    return NULL;
}

/* Return None, or NULL with TypeError for an item that is not as it must be. */
static PyObject *answer(PyObject *wrong)
{
    if (wrong != NULL)
        return PyErr_Format(PyExc_TypeError, "an item is %s", Py_TYPE(wrong)->tp_name);
    Py_RETURN_NONE;
}

PyObject *checks_all_of(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    if (n_args != 2)
        return PyErr_Format(PyExc_TypeError, "all_of takes a container and a class");
    PyTypeObject *cls = (PyTypeObject *)args[1];
    if (PyList_CheckExact(args[0]) || PyTuple_CheckExact(args[0]) || PyDict_CheckExact(args[0]) ||
        PyAnySet_CheckExact(args[0]))
        return answer(item_not_of(args[0], cls));
    PyObject *items = PySequence_List(args[0]);
    PyObject *answered = items == NULL ? NULL : answer(item_not_of(items, cls));
    Py_XDECREF(items);
    return answered;
}

PyObject *checks_pairs_of(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    if (n_args != 3 || !PyDict_CheckExact(args[0]))
        return PyErr_Format(PyExc_TypeError, "pairs_of takes a dict and two classes");
    return answer(pair_not_of(args[0], (PyTypeObject *)args[1], (PyTypeObject *)args[2]));
}

PyObject *checks_as_f4(PyObject *Py_UNUSED(module), PyObject *number)
{
    double value = PyFloat_AsDouble(number);
    if (value == -1.0 && PyErr_Occurred())
        return NULL;
    float rounded = (float)value;
    if (isinf(rounded) && !isinf(value))
        return PyErr_Format(PyExc_OverflowError, "the number is out of the range of f4");
    return PyFloat_FromDouble(rounded);
}

PyObject *checks_in_order(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    if (n_args != 2 || !PyList_CheckExact(args[0]))
        return PyErr_Format(PyExc_TypeError, "in_order takes a list and the name of an attribute");
    PyObject *before = NULL;
    int in_order = 1;
    for (Py_ssize_t i = 0; in_order > 0 && PyList_GET_SIZE(args[0]) > 1 && i < PyList_GET_SIZE(args[0]); i++) {
        PyObject *time = PyObject_GetAttr(PyList_GET_ITEM(args[0], i), args[1]);
        if (time == NULL)
            in_order = -1;
        else if (before != NULL && PyFloat_CheckExact(time) && PyFloat_CheckExact(before))
            in_order = !(PyFloat_AS_DOUBLE(time) < PyFloat_AS_DOUBLE(before));
        else if (before != NULL)
            in_order = 1 - PyObject_RichCompareBool(time, before, Py_LT);
        Py_XSETREF(before, time);
        if (PyErr_Occurred())
            in_order = -1;
    }
    Py_XDECREF(before);
    return in_order < 0 ? NULL : PyBool_FromLong(in_order);
}
