/* A settled call: an awaitable that has its outcome already.
 *
 * Awaiting it never suspends. It takes the place of a coroutine where there is nothing to wait for, at a sixth of the
 * cost, and is accepted wherever a coroutine is (`asyncio.create_task`, `gather`, `wait_for`).
 */

#ifndef WARPSTORE_SETTLED_H
#define WARPSTORE_SETTLED_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

int settled_ready(void);

/* Return a call that returns `result`, whose reference it takes; NULL: one that raises the error that is set. */
PyObject *settled(PyObject *result);

#endif
