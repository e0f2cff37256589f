#include "hot_map.h"

#include <stdlib.h>

#define BUCKETS_MAX (1u << 28)

PyObject *tombstone;

/* The only bucket of a map without keys: every lookup ends at once. */
static _Alignas(LINE_BYTES) uint64_t no_words[BUCKET];

/* Put a word where it belongs; the key is not there, and a place is free. */
static void place(uint64_t *words, uint64_t *hashes, uint32_t mask, uint64_t hash, PyObject *value)
{
    for (uint32_t number = (uint32_t)(hash >> 8);; number++) {
        size_t first = (size_t)BUCKET * (number & mask);
        for (size_t i = first; i < first + BUCKET; i++) {
            if (!(words[i] & POINTER_MASK)) {
                words[i] |= (uint64_t)(uintptr_t)value | hash >> TAG_SHIFT << TAG_SHIFT;
                hashes[i] = hash;
                return;
            }
        }
        words[first] |= OVERFLOWN;
    }
}

static void charge(HotMap *map, int64_t n_bytes)
{
    map->n_bytes += n_bytes;
    memory_pool_charge(map->pool, n_bytes, map->dirty);
}

static int64_t table_bytes(size_t n_words)
{
    return (int64_t)(n_words * 2 * sizeof(uint64_t));
}

static size_t n_words(const HotMap *map)
{
    return map->words == no_words ? 0 : (size_t)BUCKET * ((size_t)map->mask + 1);
}

/* Give the map this many buckets; tombstones are left out if that is asked for. No value is touched otherwise. */
static int resize(HotMap *map, uint32_t n_buckets, int drop_tombstones)
{
    size_t size = (size_t)BUCKET * n_buckets;
    uint64_t *words = n_buckets <= BUCKETS_MAX ? aligned_alloc(LINE_BYTES, 2 * size * sizeof *words) : NULL;
    if (words == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memset(words, 0, size * sizeof *words);
    uint64_t *hashes = words + size;
    for (size_t i = 0; i < n_words(map); i++) {
        PyObject *value = hot_map_value(map->words[i]);
        if (value == NULL)
            continue;
        if (drop_tombstones && hot_map_seen(value) == tombstone) {
            charge(map, -bytes_cost(value));
            Py_DECREF(value);
            map->n--;
        } else {
            place(words, hashes, n_buckets - 1, map->hashes[i], value);
        }
    }
    charge(map, table_bytes(size) - table_bytes(n_words(map)));
    if (map->words != no_words)
        free(map->words);
    map->words = words;
    map->hashes = hashes;
    map->mask = n_buckets - 1;
    map->hand = map->n_removed = 0;
    return 0;
}

int hot_map_set(HotMap *map, const Key *key, PyObject *value)
{
    PyObject *kept = PyBytes_GET_SIZE(value) ? Py_NewRef(value) : key_tombstone(key);
    if (kept == NULL)
        return -1;
    uint64_t *word = hot_map_find(map, key);
    if (word != NULL) {
        PyObject *old = hot_map_value(*word);
        *word = (*word & ~POINTER_MASK) | (uint64_t)(uintptr_t)kept;
        charge(map, bytes_cost(kept) - bytes_cost(old));
        Py_DECREF(old);
        return 0;
    }
    int failed = 0;
    if (map->words == no_words)
        failed = resize(map, 1, 0);
    else if ((uint64_t)map->n >= (uint64_t)(BUCKET * 3 / 4) * (map->mask + 1))
        failed = resize(map, 2 * (map->mask + 1), 0);
    if (!failed && map->fresh != NULL) {
        PyObject *object = key_as_object(key);
        failed = object == NULL ? -1 : PyList_Append(map->fresh, object);
        Py_XDECREF(object);
    }
    if (failed) {
        Py_DECREF(kept);
        return -1;
    }
    place(map->words, map->hashes, map->mask, key->hash, kept);
    charge(map, bytes_cost(kept));
    map->n++;
    return 0;
}

static PyObject *new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"pool", "dirty", NULL};
    PyObject *pool = Py_None;
    int dirty = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|Op:HotMap", names, &pool, &dirty))
        return NULL;
    if (pool != Py_None && !PyObject_TypeCheck(pool, &MemoryPool_Type))
        return PyErr_Format(PyExc_TypeError, "pool: a MemoryPool or None");
    HotMap *map = (HotMap *)type->tp_alloc(type, 0);
    if (map != NULL) {
        map->words = no_words;
        map->pool = pool == Py_None ? NULL : (MemoryPool *)Py_NewRef(pool);
        map->dirty = (char)dirty;
    }
    return (PyObject *)map;
}

static void dealloc(HotMap *map)
{
    for (size_t i = 0; i < n_words(map); i++)
        Py_XDECREF(hot_map_value(map->words[i]));
    if (map->words != no_words)
        free(map->words);
    Py_XDECREF(map->fresh);
    charge(map, -map->n_bytes);
    Py_XDECREF(map->pool);
    Py_TYPE(map)->tp_free((PyObject *)map);
}

static Py_ssize_t length(PyObject *self)
{
    return ((HotMap *)self)->n;
}

static PyObject *get(HotMap *map, PyObject *object)
{
    Key key;
    if (key_from_object(object, &key) < 0)
        return NULL;
    uint64_t *word = hot_map_find(map, &key);
    key_clear(&key);
    return Py_NewRef(word == NULL ? Py_None : hot_map_seen(hot_map_value(*word)));
}

static PyObject *set(HotMap *map, PyObject *const *args, Py_ssize_t n_args)
{
    Key key;
    if (n_args != 2 || !PyBytes_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError, "HotMap.set takes a key and a value of bytes");
        return NULL;
    }
    if (key_from_object(args[0], &key) < 0)
        return NULL;
    int failed = -1;
    if (PyBytes_GET_SIZE(args[1]) && !key_is_of(&key, args[1]))
        PyErr_SetString(PyExc_ValueError, "the value is of another key");
    else
        failed = hot_map_set(map, &key, args[1]);
    key_clear(&key);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *update(HotMap *map, PyObject *other)
{
    if (!PyObject_TypeCheck(other, &HotMap_Type) || other == (PyObject *)map) {
        PyErr_SetString(PyExc_TypeError, "HotMap.update takes another HotMap");
        return NULL;
    }
    HotMap *newer = (HotMap *)other;
    charge(newer, -newer->n_bytes); /* what both hold from now on is charged once */
    Py_CLEAR(newer->pool);
    for (size_t i = 0; i < n_words(newer); i++) {
        Key key;
        PyObject *value = hot_map_value(newer->words[i]);
        if (value != NULL &&
            (key_from_value(value, newer->hashes[i], &key) < 0 || hot_map_set(map, &key, value) < 0))
            return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *drop_tombstones(HotMap *map, PyObject *Py_UNUSED(ignored))
{
    size_t n_tombstones = 0;
    for (size_t i = 0; i < n_words(map); i++) {
        PyObject *value = hot_map_value(map->words[i]);
        n_tombstones += value != NULL && hot_map_seen(value) == tombstone;
    }
    if (n_tombstones && resize(map, map->mask + 1, 1) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* Take the value at a place out. */
static void take_out(HotMap *map, size_t i)
{
    PyObject *value = hot_map_value(map->words[i]);
    int64_t n_bytes = bytes_cost(value);
    map->words[i] &= i % BUCKET ? 0 : OVERFLOWN; /* keys that went further are still found */
    map->n--;
    map->n_removed++;
    charge(map, -n_bytes);
    Py_DECREF(value);
}

static PyObject *evict(HotMap *map, PyObject *wanted)
{
    long long n_wanted = PyLong_AsLongLong(wanted);
    if (n_wanted == -1 && PyErr_Occurred())
        return NULL;
    int64_t before = map->n_bytes;
    size_t size = n_words(map);
    for (size_t n = 0; n < size && before - map->n_bytes < n_wanted; n++) {
        size_t i = map->hand;
        map->hand = (uint32_t)((i + 1) % size);
        if (map->words[i] & REFERENCED)
            map->words[i] &= ~REFERENCED;
        else if (map->words[i] & POINTER_MASK)
            take_out(map, i);
    }
    if (map->n_removed > size / 2) { /* many buckets say that keys went further, and they have not */
        uint32_t hand = map->hand, n_buckets = map->mask + 1;
        while (n_buckets > 1 && map->n < BUCKET / 4 * n_buckets)
            n_buckets /= 2;
        if (resize(map, n_buckets, 0) < 0)
            return NULL;
        map->hand = (uint32_t)(hand % n_words(map));
    }
    return PyLong_FromLongLong(before - map->n_bytes);
}

/* Return a list with `make` of every key and value. */
static PyObject *listed(HotMap *map, PyObject *(*make)(const Key *key, PyObject *value))
{
    PyObject *found = PyList_New(0);
    for (size_t i = 0; found != NULL && i < n_words(map); i++) {
        Key key;
        PyObject *value = hot_map_value(map->words[i]);
        if (value == NULL)
            continue;
        PyObject *made = key_from_value(value, map->hashes[i], &key) < 0 ? NULL : make(&key, value);
        if (made == NULL || PyList_Append(found, made) < 0)
            Py_CLEAR(found);
        Py_XDECREF(made);
    }
    return found;
}

static PyObject *make_key(const Key *key, PyObject *Py_UNUSED(value))
{
    return key_as_object(key);
}

static PyObject *make_item(const Key *key, PyObject *value)
{
    PyObject *object = key_as_object(key);
    PyObject *item = object == NULL ? NULL : PyTuple_Pack(2, object, hot_map_seen(value));
    Py_XDECREF(object);
    return item;
}

static PyObject *items(HotMap *map, PyObject *Py_UNUSED(ignored))
{
    return listed(map, make_item);
}

static PyObject *new_keys(HotMap *map, PyObject *Py_UNUSED(ignored))
{
    PyObject *found = map->fresh == NULL ? listed(map, make_key) : Py_NewRef(map->fresh);
    PyObject *fresh = found == NULL ? NULL : PyList_New(0);
    if (fresh == NULL)
        Py_CLEAR(found);
    else
        Py_XSETREF(map->fresh, fresh);
    return found;
}

static PyObject *charged(HotMap *map, void *Py_UNUSED(closure))
{
    return PyLong_FromLongLong(map->n_bytes);
}

static PyObject *size_of(HotMap *map, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromSize_t(sizeof *map + n_words(map) * (sizeof *map->words + sizeof *map->hashes));
}

static PyMethodDef methods[] = {
    {"get", (PyCFunction)get, METH_O, NULL},
    {"set", (PyCFunction)(void (*)(void))set, METH_FASTCALL, NULL},
    {"update", (PyCFunction)update, METH_O, NULL},
    {"evict", (PyCFunction)evict, METH_O, NULL},
    {"drop_tombstones", (PyCFunction)drop_tombstones, METH_NOARGS, NULL},
    {"items", (PyCFunction)items, METH_NOARGS, NULL},
    {"new_keys", (PyCFunction)new_keys, METH_NOARGS, NULL},
    {"__sizeof__", (PyCFunction)size_of, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef attributes[] = {
    {"n_bytes", (getter)charged, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PySequenceMethods as_sequence = {.sq_length = length};

PyTypeObject HotMap_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "warpstore._native.HotMap",
    .tp_doc = "The values of one slot by hot key.",
    .tp_basicsize = sizeof(HotMap),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = new,
    .tp_dealloc = (destructor)dealloc,
    .tp_methods = methods,
    .tp_getset = attributes,
    .tp_as_sequence = &as_sequence,
};

int hot_map_ready(void)
{
    tombstone = PyBytes_FromStringAndSize(NULL, 0);
    return tombstone == NULL ? -1 : PyType_Ready(&HotMap_Type);
}
