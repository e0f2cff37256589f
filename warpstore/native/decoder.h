/* A decoder: makes records of a class whose fields are plain, scalars and lists and dicts of scalars, from their values.
 *
 * It does what msgspec does for such a class, with what is known beforehand: the place of each field in an instance, and
 * the class of every item. What it does not take goes to that decoder, which reads it or says what is wrong with it.
 */

#ifndef WARPSTORE_DECODER_H
#define WARPSTORE_DECODER_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

extern PyTypeObject Decoder_Type;

int decoder_ready(void);

/* Return the record of a value, bytes or another buffer; or NULL with the error of the slow way. */
PyObject *decoder_record(PyObject *decoder, PyObject *value);

#endif
