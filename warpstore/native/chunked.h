/* An asynchronous iterator over objects that come in lists.
 *
 * What is in the list at hand is given out at once, as a settled call; for the next list the subclass's coroutine
 * `_next` is awaited, which returns `_give(list)` or raises StopAsyncIteration.
 */

#ifndef WARPSTORE_CHUNKED_H
#define WARPSTORE_CHUNKED_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

extern PyTypeObject ChunkedIterator_Type;

int chunked_ready(void);

#endif
