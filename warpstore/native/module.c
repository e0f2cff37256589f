/* The extension module: the hot tier's maps, the part of a table that needs no wait, and the hash of a key. */

#include "batch_future.h"
#include "checks.h"
#include "chunked.h"
#include "columns.h"
#include "copier.h"
#include "decoder.h"
#include "elements.h"
#include "encoder.h"
#include "hot_map.h"
#include "memory_pool.h"
#include "memory_table.h"
#include "rows.h"
#include "settled.h"

static PyObject *key_hash(PyObject *Py_UNUSED(module), PyObject *object)
{
    Key key;
    if (key_from_object(object, &key) < 0)
        return NULL;
    key_clear(&key);
    return PyLong_FromUnsignedLongLong(key.hash);
}

static PyObject *slot_of(PyObject *Py_UNUSED(module), PyObject *object)
{
    Key key;
    if (key_from_object(object, &key) < 0)
        return NULL;
    key_clear(&key);
    return PyLong_FromLong((long)key_slot(&key));
}

#define WINDOW 16

static PyObject *set_values(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    long first;
    if (n_args != 3 || !PyList_CheckExact(args[0]) || !PyList_CheckExact(args[2]) ||
        ((first = PyLong_AsLong(args[1])) == -1 && PyErr_Occurred())) {
        PyErr_SetString(PyExc_TypeError, "set_values takes a list of HotMap, their first slot and a list of values");
        return NULL;
    }
    Py_ssize_t n = PyList_GET_SIZE(args[2]);
    for (Py_ssize_t start = 0; start < n; start += WINDOW) {
        Key keys[WINDOW];
        HotMap *maps[WINDOW];
        int size = n - start < WINDOW ? (int)(n - start) : WINDOW;
        for (int i = 0; i < size; i++) {
            PyObject *value = PyList_GET_ITEM(args[2], start + i);
            if (!PyBytes_CheckExact(value) || key_from_value(value, 0, &keys[i]) < 0 || key_hash_again(&keys[i]) < 0)
                return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "set_values: a value is no bytes");
            long at = (long)key_slot(&keys[i]) - first;
            PyObject *map = at < 0 || at >= PyList_GET_SIZE(args[0]) ? NULL : PyList_GET_ITEM(args[0], at);
            if (map == NULL || !PyObject_TypeCheck(map, &HotMap_Type))
                return PyErr_Format(PyExc_ValueError, "set_values: a value of another slot");
            maps[i] = (HotMap *)map;
            __builtin_prefetch(hot_map_bucket(maps[i], keys[i].hash), 1);
        }
        for (int i = 0; i < size; i++)
            hot_map_prefetch(maps[i], keys[i].hash, 1);
        for (int i = 0; i < size; i++)
            if (hot_map_set(maps[i], &keys[i], PyList_GET_ITEM(args[2], start + i)) < 0)
                return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *scatter(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    if (n_args != 3 || !PyList_CheckExact(args[1]) || !PyList_CheckExact(args[2]) ||
        PyList_GET_SIZE(args[2]) != SLOTS) {
        PyErr_SetString(PyExc_TypeError, "scatter takes a function, a list of records and a list a slot");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(args[1]); i++) {
        PyObject *record = Py_NewRef(PyList_GET_ITEM(args[1], i));
        PyObject *encoded = PyObject_CallOneArg(args[0], record);
        Py_DECREF(record);
        if (encoded == NULL)
            return NULL;
        long slot = PyTuple_CheckExact(encoded) && PyTuple_GET_SIZE(encoded) == 3
                        ? PyLong_AsLong(PyTuple_GET_ITEM(encoded, 0))
                        : -1;
        PyObject *values = slot < 0 || slot >= PyList_GET_SIZE(args[2]) ? NULL : PyList_GET_ITEM(args[2], slot);
        int failed = -1;
        if (values != NULL && PyList_CheckExact(values))
            failed = PyList_Append(values, PyTuple_GET_ITEM(encoded, 2));
        else if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "scatter: an encoded record is (slot, hot key, value)");
        Py_DECREF(encoded);
        if (failed < 0)
            return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *adopt_all(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    if (n_args != 2 || !PyList_CheckExact(args[0]) || !PyType_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "adopt takes a list of records and a class");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(args[0]); i++)
        adopt(PyList_GET_ITEM(args[0], i), (PyTypeObject *)args[1]);
    Py_RETURN_NONE;
}

static PyObject *snug_value(PyObject *Py_UNUSED(module), PyObject *value)
{
    return snug(Py_NewRef(value));
}

static PyMethodDef functions[] = {
    {"snug", snug_value, METH_O, NULL},
    {"key_hash", key_hash, METH_O, NULL},
    {"slot_of", slot_of, METH_O, NULL},
    {"set_values", (PyCFunction)(void (*)(void))set_values, METH_FASTCALL, NULL},
    {"scatter", (PyCFunction)(void (*)(void))scatter, METH_FASTCALL, NULL},
    {"adopt", (PyCFunction)(void (*)(void))adopt_all, METH_FASTCALL, NULL},
    {"all_of", (PyCFunction)(void (*)(void))checks_all_of, METH_FASTCALL, NULL},
    {"pairs_of", (PyCFunction)(void (*)(void))checks_pairs_of, METH_FASTCALL, NULL},
    {"as_f4", checks_as_f4, METH_O, NULL},
    {"in_order", (PyCFunction)(void (*)(void))checks_in_order, METH_FASTCALL, NULL},
    {"element_offsets", (PyCFunction)(void (*)(void))element_offsets, METH_FASTCALL, NULL},
    {"merge", (PyCFunction)(void (*)(void))rows_merge, METH_FASTCALL, NULL},
    {"first_keys", (PyCFunction)(void (*)(void))rows_first_keys, METH_FASTCALL, NULL},
    {"columns", (PyCFunction)(void (*)(void))rows_columns, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "warpstore._native",
    .m_doc = "The hot tier's maps, and the part of a table that needs no wait.",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__native(void)
{
    if (hot_map_ready() < 0 || memory_pool_ready() < 0 || memory_table_ready() < 0 || settled_ready() < 0 ||
        rows_ready() < 0 || chunked_ready() < 0 || copier_ready() < 0 || decoder_ready() < 0 || encoder_ready() < 0 ||
        batch_future_ready() < 0)
        return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL &&
        (PyModule_AddType(module, &HotMap_Type) < 0 || PyModule_AddType(module, &MemoryTable_Type) < 0 ||
         PyModule_AddType(module, &Rows_Type) < 0 || PyModule_AddType(module, &ChunkedIterator_Type) < 0 ||
         PyModule_AddType(module, &Copier_Type) < 0 || PyModule_AddType(module, &Encoder_Type) < 0 ||
         PyModule_AddType(module, &BatchFuture_Type) < 0 || PyModule_AddType(module, &MemoryPool_Type) < 0 ||
         PyModule_AddType(module, &Decoder_Type) < 0 ||
         PyModule_AddIntMacro(module, DONE) < 0 || PyModule_AddIntMacro(module, PAUSE) < 0 ||
         PyModule_AddIntMacro(module, LONG_WAY) < 0))
        Py_CLEAR(module);
    return module;
}
