#include "checks.h"

#include <math.h>

static PyObject *refused(PyObject *item)
{
    return PyErr_Format(PyExc_TypeError, "an item is %s", Py_TYPE(item)->tp_name);
}

PyObject *checks_all_of(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    if (n_args != 2)
        return PyErr_Format(PyExc_TypeError, "all_of takes a container and a class");
    PyTypeObject *cls = (PyTypeObject *)args[1];
    if (PyList_CheckExact(args[0]) || PyTuple_CheckExact(args[0])) {
        PyObject *const *items = PySequence_Fast_ITEMS(args[0]);
        for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(args[0]); i++)
            if (Py_TYPE(items[i]) != cls)
                return refused(items[i]);
    } else {
        PyObject *iterator = PyObject_GetIter(args[0]), *item;
        if (iterator == NULL)
            return NULL;
        while ((item = PyIter_Next(iterator)) != NULL) {
            if (Py_TYPE(item) != cls)
                refused(item);
            Py_DECREF(item);
            if (PyErr_Occurred())
                break;
        }
        Py_DECREF(iterator);
        if (PyErr_Occurred())
            return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *checks_pairs_of(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    if (n_args != 3 || !PyDict_CheckExact(args[0]))
        return PyErr_Format(PyExc_TypeError, "pairs_of takes a dict and two classes");
    PyTypeObject *key_cls = (PyTypeObject *)args[1], *value_cls = (PyTypeObject *)args[2];
    PyObject *key, *value;
    Py_ssize_t at = 0;
    while (PyDict_Next(args[0], &at, &key, &value)) {
        if (Py_TYPE(key) != key_cls)
            return refused(key);
        if (Py_TYPE(value) != value_cls)
            return refused(value);
    }
    Py_RETURN_NONE;
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
