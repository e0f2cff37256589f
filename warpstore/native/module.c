/* The extension module: the hot tier's maps, the part of a table that needs no wait, and the hash of a key. */

#include "chunked.h"
#include "hot_map.h"
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

static PyObject *set_all(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    long first;
    if (n_args != 3 || !PyList_CheckExact(args[0]) || !PyList_CheckExact(args[2]) ||
        ((first = PyLong_AsLong(args[1])) == -1 && PyErr_Occurred())) {
        PyErr_SetString(PyExc_TypeError, "set_all takes a list of HotMap, their first slot and a list of items");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(args[2]); i++) {
        PyObject *item = PyList_GET_ITEM(args[2], i);
        Key key;
        if (!PyTuple_CheckExact(item) || PyTuple_GET_SIZE(item) != 3 || !PyBytes_CheckExact(PyTuple_GET_ITEM(item, 2))) {
            PyErr_SetString(PyExc_TypeError, "set_all: an item is (slot, hot key, value)");
            return NULL;
        }
        if (key_from_object(PyTuple_GET_ITEM(item, 1), &key) < 0)
            return NULL;
        long at = (long)key_slot(&key) - first;
        PyObject *map = at < 0 || at >= PyList_GET_SIZE(args[0]) ? NULL : PyList_GET_ITEM(args[0], at);
        int failed = -1;
        if (map == NULL || !PyObject_TypeCheck(map, &HotMap_Type) ||
            (PyBytes_GET_SIZE(PyTuple_GET_ITEM(item, 2)) && !key_is_of(&key, PyTuple_GET_ITEM(item, 2))))
            PyErr_SetString(PyExc_ValueError, "set_all: an item of another slot or key");
        else
            failed = hot_map_set((HotMap *)map, &key, PyTuple_GET_ITEM(item, 2));
        key_clear(&key);
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

static PyMethodDef functions[] = {
    {"key_hash", key_hash, METH_O, NULL},
    {"slot_of", slot_of, METH_O, NULL},
    {"set_all", (PyCFunction)(void (*)(void))set_all, METH_FASTCALL, NULL},
    {"adopt", (PyCFunction)(void (*)(void))adopt_all, METH_FASTCALL, NULL},
    {"merge", (PyCFunction)(void (*)(void))rows_merge, METH_FASTCALL, NULL},
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
    if (hot_map_ready() < 0 || memory_table_ready() < 0 || settled_ready() < 0 || rows_ready() < 0 ||
        chunked_ready() < 0)
        return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL &&
        (PyModule_AddType(module, &HotMap_Type) < 0 || PyModule_AddType(module, &MemoryTable_Type) < 0 ||
         PyModule_AddType(module, &Rows_Type) < 0 || PyModule_AddType(module, &ChunkedIterator_Type) < 0 ||
         PyModule_AddIntMacro(module, DONE) < 0 || PyModule_AddIntMacro(module, PAUSE) < 0 ||
         PyModule_AddIntMacro(module, LONG_WAY) < 0))
        Py_CLEAR(module);
    return module;
}
