/* Calls without a coroutine: one that has its outcome already, and one that waits for a future.
 *
 * They take the place of a coroutine where it would only return or only wait, at a sixth of the cost, and are accepted
 * wherever a coroutine is (`asyncio.create_task`, `gather`, `wait_for`).
 */

#ifndef WARPSTORE_SETTLED_H
#define WARPSTORE_SETTLED_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

int settled_ready(void);

/* Return a call that returns `result`, whose reference it takes; NULL: one that raises the error that is set. */
PyObject *settled(PyObject *result);

/* Return a call that waits for a future, whose reference it takes, and has its outcome; NULL: as `settled`. */
PyObject *waiting(PyObject *future);

#endif
