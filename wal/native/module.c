/* The extension module: frames and durable writes. */

#include "aio.h"
#include "frame.h"

static PyMethodDef functions[] = {
    {"pack_checked", (PyCFunction)(void (*)(void))frame_pack_checked, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "wal._native",
    .m_doc = "Frames and durable writes.",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__native(void)
{
    if (aio_ready() < 0)
        return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && PyModule_AddType(module, &Aio_Type) < 0)
        Py_CLEAR(module);
    return module;
}
