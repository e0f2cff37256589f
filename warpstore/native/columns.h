/* Columns: the values of one field of many rows, as Arrow lays them out in memory.
 *
 * One pass over merged rows. What has a fixed width goes into an array of that width, text and bytes into offsets and
 * data, nils into a bitmap; the bytes of any other field are put one after another as a MessagePack array, for one
 * decoder to read. No Python object is made for a row.
 */

#ifndef WARPSTORE_COLUMNS_H
#define WARPSTORE_COLUMNS_H

#include "rows.h"

/* columns(rows, layout, tag, now_ms, recode) */
PyObject *rows_columns(PyObject *module, PyObject *const *args, Py_ssize_t n_args);

#endif
