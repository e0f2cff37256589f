/* Where the fields of a record class lie in its instances. */

#ifndef WARPSTORE_RECORD_SLOTS_H
#define WARPSTORE_RECORD_SLOTS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <structmember.h>

/* Return the offset of a field in an instance; or -1 with an error, TypeError if the field lies in no slot. `who` needs
 * it, and begins that error. */
static inline Py_ssize_t slot_offset(PyTypeObject *record_type, PyObject *field, const char *who)
{
    PyObject *member = PyObject_GetAttr((PyObject *)record_type, field);
    if (member == NULL)
        return -1;
    Py_ssize_t offset = -1;
    if (Py_IS_TYPE(member, &PyMemberDescr_Type) && ((PyMemberDescrObject *)member)->d_member->type == T_OBJECT_EX)
        offset = ((PyMemberDescrObject *)member)->d_member->offset;
    else
        PyErr_Format(PyExc_TypeError, "%s needs fields in slots", who);
    Py_DECREF(member);
    return offset;
}

#endif
