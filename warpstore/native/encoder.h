/* An encoder: checks and encodes records of a class whose fields are plain: scalars, and containers of scalars.
 *
 * It does what the generated ``encode`` of such a class does (generated.py), without the interpreter. What it does not
 * take goes to that function, which says what is wrong with it.
 */

#ifndef WARPSTORE_ENCODER_H
#define WARPSTORE_ENCODER_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

extern PyTypeObject Encoder_Type;

int encoder_ready(void);

#endif
