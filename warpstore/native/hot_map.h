/* A hot map: the values of one slot by key.
 *
 * An open-addressing table of buckets, each one cache line: eight words, a word being the pointer to a value with 16
 * bits of the key's hash in its upper bits. The key is the one inside the value (key.h). So a lookup touches one line
 * of the table and the value, where a dictionary of str touches its index, an entry and the key besides.
 *
 * A key whose bucket is full goes into the next one, and the full bucket says so. The hashes stand apart, in the same
 * order; only growing reads them. Source: F14 (github.com/facebook/folly, folly/container/F14.md), for buckets that
 * are searched as a whole and know of their overflow.
 */

#ifndef WARPSTORE_HOT_MAP_H
#define WARPSTORE_HOT_MAP_H

#include "key.h"
#include "memory_pool.h"

#define BUCKET 8
#define TAG_SHIFT 48
#define POINTER_MASK (((UINT64_C(1) << TAG_SHIFT) - 1) & ~(OVERFLOWN | REFERENCED))
#define OVERFLOWN UINT64_C(1)  /* in a bucket's first word: keys of this bucket went further */
#define REFERENCED UINT64_C(2) /* the value was looked up since the clock's hand came by */
#define LINE_BYTES 64

typedef struct {
    PyObject_HEAD
    uint64_t *words;  /* BUCKET * n_buckets, aligned to lines */
    uint64_t *hashes; /* of the keys of the words, at the same places */
    uint32_t mask;    /* n_buckets - 1 */
    uint32_t n;
    PyObject *fresh; /* list of the keys that came since `new_keys`; NULL: nobody has asked yet */
    MemoryPool *pool; /* what its bytes are charged to; NULL: nobody counts them */
    int64_t n_bytes;  /* charged so far: the table and the values */
    uint32_t hand;    /* of the clock: the next word to look at */
    uint32_t n_removed; /* since the table was made */
    char dirty;       /* its values are not in a checkpoint yet */
} HotMap;

extern PyTypeObject HotMap_Type;

/* The empty bytes that stand for a deleted key, as Python sees it. */
extern PyObject *tombstone;

int hot_map_ready(void);

/* Set the key's value; the map takes a reference of its own. Return 0, or -1 with MemoryError. */
int hot_map_set(HotMap *map, const Key *key, PyObject *value);

static inline PyObject *hot_map_value(uint64_t word)
{
    return (PyObject *)(uintptr_t)(word & POINTER_MASK);
}

static inline uint64_t *hot_map_bucket(const HotMap *map, uint64_t hash)
{
    return map->words + (size_t)BUCKET * ((uint32_t)(hash >> 8) & map->mask);
}

/* Bring the value that may be the key's closer, once its bucket is near. */
static inline void hot_map_prefetch(const HotMap *map, uint64_t hash, int n_lines)
{
    const uint64_t *bucket = hot_map_bucket(map, hash);
    for (int i = 0; i < BUCKET; i++)
        if (bucket[i] >> TAG_SHIFT == hash >> TAG_SHIFT)
            for (int line = 0; line < n_lines; line++)
                __builtin_prefetch((const char *)hot_map_value(bucket[i]) + line * LINE_BYTES);
}

/* Return the key's word, or NULL. `known`, if it is not NULL, is a value of this key: it is recognised unseen. */
static inline uint64_t *hot_map_find_known(const HotMap *map, const Key *key, const PyObject *known)
{
    uint32_t number = (uint32_t)(key->hash >> 8);
    for (uint64_t n = 0; n <= map->mask; n++, number++) { /* evictions may leave every bucket saying so */
        uint64_t *bucket = map->words + (size_t)BUCKET * (number & map->mask);
        for (int i = 0; i < BUCKET; i++) {
            if (bucket[i] >> TAG_SHIFT != key->hash >> TAG_SHIFT || !(bucket[i] & POINTER_MASK))
                continue;
            PyObject *value = hot_map_value(bucket[i]);
            if (value == known || key_is_of(key, value))
                return &bucket[i];
        }
        if (!(bucket[0] & OVERFLOWN))
            break;
    }
    return NULL;
}

static inline uint64_t *hot_map_find(const HotMap *map, const Key *key)
{
    return hot_map_find_known(map, key, NULL);
}

/* Return a stored value as Python sees it, borrowed: the tombstone for one of a deleted key. */
static inline PyObject *hot_map_seen(PyObject *value)
{
    return (uint8_t)PyBytes_AS_STRING(value)[0] == TOMBSTONE_BYTE ? tombstone : value;
}

#endif
