/* A hot key in C: its hash, and the bytes that stand for it in a stored value.
 *
 * A stored value is a MessagePack array [tag, key, field, ...], perhaps behind a deadline (0xd3 and 8 bytes), then a note
 * of where its parts are (0xc1, a byte with the length of the rest, the rest), or, for a deleted key, behind 0xc0. So a value tells its own key, and nothing else has to be kept beside it: a lookup compares
 * the key's MessagePack form with the bytes at that place.
 */

#ifndef WARPSTORE_KEY_H
#define WARPSTORE_KEY_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "xxh3.h"

#define KEY_BYTES_MAX 4096
#define SLOTS 256
#define DEADLINE_BYTE 0xd3
#define DEADLINE_BYTES 9
#define TOMBSTONE_BYTE 0xc0
#define SPLIT_BYTE 0xc1

typedef struct {
    uint64_t hash;
    const uint8_t *data; /* what follows the head: the characters or bytes */
    uint32_t size;
    uint32_t n_head;
    uint8_t head[16]; /* MessagePack's head of the key; all of an int */
    PyObject *owner;  /* keeps `data` alive where the key object does not */
} Key;

static inline unsigned key_slot(const Key *key)
{
    return key->hash & (SLOTS - 1);
}

static inline void key_clear(Key *key)
{
    Py_CLEAR(key->owner);
}

/* Fill in `key` from a str, bytes or int. Return 0; or -1 with TypeError, ValueError or OverflowError set. */
int key_from_object(PyObject *object, Key *key);

/* Fill in `key` from a stored value with this hash; it borrows the value's bytes. Return 0, or -1 with ValueError. */
int key_from_value(PyObject *value, uint64_t hash, Key *key);

/* Fill in the hash of a key that came from a value. Return 0, or -1 with an error. */
int key_hash_again(Key *key);

/* Return the key as an object. */
PyObject *key_as_object(const Key *key);

/* Return the value that stands for a deleted key in the hot tier. */
PyObject *key_tombstone(const Key *key);

/* Return where in a stored value its key begins, or NULL if it is too short to have one. */
static inline const uint8_t *key_place(const uint8_t *at, const uint8_t *end)
{
    size_t n = (size_t)(end - at), i = 0;
    if (n > 0)
        i = *at == DEADLINE_BYTE ? DEADLINE_BYTES : *at == TOMBSTONE_BYTE ? 1 : 0;
    if (i + 1 < n && __builtin_expect(at[i] == SPLIT_BYTE, 0))
        i += 2 + (size_t)at[i + 1];
    if (i >= n)
        return NULL;
    i += at[i] == 0xdc ? 3 : at[i] == 0xdd ? 5 : 1;
    if (i >= n)
        return NULL;
    i += at[i] == 0xcf ? 9 : at[i] == 0xce ? 5 : at[i] == 0xcd ? 3 : at[i] == 0xcc ? 2 : 1;
    return i < n ? at + i : NULL;
}

/* Return whether a stored value is one of this key. */
static inline int key_is_of(const Key *key, PyObject *value)
{
    const uint8_t *at = (const uint8_t *)PyBytes_AS_STRING(value);
    const uint8_t *end = at + PyBytes_GET_SIZE(value);
    at = key_place(at, end);
    return at != NULL && (size_t)(end - at) >= (size_t)key->n_head + key->size &&
           memcmp(at, key->head, key->n_head) == 0 && memcmp(at + key->n_head, key->data, key->size) == 0;
}

#endif
