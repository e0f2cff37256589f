/* The extension module: frames, durable writes and holes. */

#include "aio.h"
#include "frame.h"
#include "hole.h"

static PyMethodDef functions[] = {
    {"pack_checked", (PyCFunction)(void (*)(void))frame_pack_checked, METH_FASTCALL, NULL},
    {"punch_hole", hole_punch, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "wal._native",
    .m_doc = "Frames, durable writes and holes.",
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
