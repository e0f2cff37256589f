/* Rows: some values of a table in key order, and their merge.
 *
 * A scan merges runs: the generations of each shard, newest first, and its checkpoint. Each gives its values as rows, a
 * piece at a time; `merge` takes what comes first out of all of them. Of rows with one key the one of the run that is
 * named first counts, the others are passed over, and a tombstone leaves nothing.
 *
 * Order: str and bytes by their bytes (of UTF-8, which is the order of code points), int by number.
 */

#ifndef WARPSTORE_ROWS_H
#define WARPSTORE_ROWS_H

#include "key.h"

extern PyTypeObject Rows_Type;

int rows_ready(void);

/* Say where a row begins and ends; i is below its number of rows. */
void rows_at(PyObject *rows, Py_ssize_t i, const uint8_t **at, const uint8_t **end);

/* first_keys(lists, starts, stops, limit) */
PyObject *rows_first_keys(PyObject *module, PyObject *const *args, Py_ssize_t n_args);

/* merge(runs, limit, reverse) */
PyObject *rows_merge(PyObject *module, PyObject *const *args, Py_ssize_t n_args);

#endif
