/* The part of a table that needs no wait: what can be answered at once, from memory, on the loop that owns the table.
 *
 * Each slot has the hot maps that a read looks into, newest first, and, where relaxed writes may go straight in, the
 * list of payloads that the lane has not taken yet. What is not ordinary is not served here: `get` and `put` then hand
 * over to the coroutines `_get` and `_put` of the subclass, and the others say so (None, `LONG_WAY`).
 *
 * Records that come by often are kept decoded. One is given out, as a copy, only while the value it was decoded from is
 * still the very object that the lookup finds; so a write needs to tell nobody.
 */

#include "memory_table.h"

#include "decoder.h"
#include "hot_map.h"
#include "settled.h"

#define YIELD_READS 1024
#define YIELD_MASK 127
#define YIELD_BYTES (64 << 10)
#define WINDOW 16
#define LINES_AHEAD 7
#define CREDIT_MAX 15

typedef struct {
    PyObject *maps;    /* tuple of HotMap, newest first; NULL: reads go the long way */
    PyObject *pending; /* list of payloads; NULL: writes go the long way */
    PyObject *ask;     /* called before the first payload of a group */
    PyObject *post;    /* takes durable writes, and returns the future of their group; NULL: they go the long way */
    PyObject *tier;    /* the hot tier that they are for */
} Slot;

typedef struct {
    PyObject *value; /* the value that was decoded; NULL: nothing is kept */
    PyObject *record;
    PyObject *key; /* the record's own */
    uint64_t hash; /* of the key */
    uint64_t seen; /* hash of the last key that was decoded here: the second time in a row it is kept */
    int credit;    /* reads of other keys that what is kept outlasts; each of its own earns one */
} Known;

typedef struct {
    PyObject_HEAD
    PyTypeObject *key_type;
    PyObject *key_bytes; /* name of the attribute that gives the hot key; NULL: the key is its own */
    PyObject *key_field; /* name of the attribute of a record with its key */
    PyTypeObject *record_type;
    PyObject *parse;
    PyObject *parse_many;
    PyObject *copy;
    PyObject *decode_error;
    PyObject *encode;
    Known *known;
    uint64_t known_mask;
    unsigned long thread;
    int reads_left;
    char puts_at_once; /* a value is whole when its record is encoded */
    PyObject *encode_ephemeral, *set_ephemeral, *fill_ephemeral; /* NULL: the records have no ephemeral fields */
    Slot slots[SLOTS];
} MemoryTable;

static void forget_known(MemoryTable *self)
{
    for (uint64_t i = 0; self->known != NULL && i <= self->known_mask; i++) {
        Py_CLEAR(self->known[i].value);
        Py_CLEAR(self->known[i].record);
        Py_CLEAR(self->known[i].key);
        self->known[i].seen = 0;
        self->known[i].credit = 0;
    }
}

/* Fill in the key of a call. Return 0; or -1, without an error: the long way says what is wrong with it. */
static inline int hot_key(MemoryTable *self, PyObject *object, Key *key)
{
    if (Py_TYPE(object) != self->key_type)
        return -1;
    if (self->key_bytes == NULL) {
        if (key_from_object(object, key) == 0)
            return 0;
    } else {
        PyObject *hot = PyObject_GetAttr(object, self->key_bytes);
        int failed = hot == NULL ? -1 : key_from_object(hot, key);
        if (failed == 0) {
            key->owner = hot;
            return 0;
        }
        Py_XDECREF(hot);
    }
    PyErr_Clear();
    return -1;
}

/* Return the key's newest value in memory, borrowed, or NULL; `known` as in `hot_map_find_known`. */
static inline PyObject *look_known(MemoryTable *self, const Key *key, const PyObject *known)
{
    PyObject *maps = self->slots[key_slot(key)].maps;
    if (maps != NULL) {
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(maps); i++) {
            uint64_t *word = hot_map_find_known((HotMap *)PyTuple_GET_ITEM(maps, i), key, known);
            if (word != NULL) {
                if (!(*word & REFERENCED))
                    *word |= REFERENCED;
                return hot_map_value(*word);
            }
        }
    }
    return NULL;
}

static inline PyObject *look(MemoryTable *self, const Key *key)
{
    return look_known(self, key, NULL);
}

static PyObject *name_get, *name_put, *name_pause, *name_write;

static inline int is_ordinary(PyObject *value)
{
    uint8_t first = (uint8_t)PyBytes_AS_STRING(value)[0];
    return first != TOMBSTONE_BYTE && first != DEADLINE_BYTE && first != SPLIT_BYTE;
}


/* Return None if what was raised says that the bytes are not the ordinary ones, else NULL. */
static PyObject *none_if_undecodable(MemoryTable *self)
{
    if (!PyErr_ExceptionMatches(self->decode_error))
        return NULL;
    PyErr_Clear();
    Py_RETURN_NONE;
}

/* Bring closer where a key's value is looked up. */
static inline void prefetch_buckets(MemoryTable *self, const Key *key)
{
    PyObject *maps = self->slots[key_slot(key)].maps;
    for (Py_ssize_t m = 0; maps != NULL && m < PyTuple_GET_SIZE(maps); m++)
        __builtin_prefetch(hot_map_bucket((const HotMap *)PyTuple_GET_ITEM(maps, m), key->hash));
}

/* Keep a copy of a record that was decoded from the key's value. Return 0, or -1 with an error. */
static int keep(MemoryTable *self, Known *known, const Key *key, PyObject *value, PyObject *parsed)
{
    PyObject *copied = PyObject_CallOneArg(self->copy, parsed);
    PyObject *own_key = copied == NULL ? NULL : PyObject_GetAttr(copied, self->key_field);
    if (own_key == NULL) {
        Py_XDECREF(copied);
        return -1;
    }
    Known before = *known; /* whose end may run code that reads the table */
    *known = (Known){Py_NewRef(value), copied, own_key, key->hash, before.seen, 1};
    Py_XDECREF(before.value);
    Py_XDECREF(before.record);
    Py_XDECREF(before.key);
    return 0;
}

/* Return the value that is kept decoded under this key, borrowed, or NULL. */
static inline PyObject *known_value(const Known *known, const Key *key, PyObject *object)
{
    if (known == NULL || known->value == NULL || known->hash != key->hash)
        return NULL;
    PyObject *value = known->value, *own_key = Py_NewRef(known->key);
    int same = PyObject_RichCompareBool(own_key, object, Py_EQ);
    Py_DECREF(own_key);
    if (same < 0)
        PyErr_Clear();
    return same > 0 && known->value == value ? value : NULL; /* a UUID compares in Python, where anything may happen */
}

static PyObject *record(MemoryTable *self, PyObject *object)
{
    Key key;
    if (PyThread_get_thread_ident() != self->thread || --self->reads_left < 0 || hot_key(self, object, &key) < 0)
        Py_RETURN_NONE;
    Known *known = self->known == NULL ? NULL : &self->known[key.hash >> 8 & self->known_mask];
    prefetch_buckets(self, &key);
    PyObject *expected = known_value(known, &key, object);
    PyObject *value = look_known(self, &key, expected);
    key_clear(&key);
    if (value == NULL || (value != expected && !is_ordinary(value)))
        Py_RETURN_NONE;
    if (value == expected) {
        if (known->credit < CREDIT_MAX)
            known->credit++;
        PyObject *kept = Py_NewRef(known->record);
        PyObject *copied = PyObject_CallOneArg(self->copy, kept);
        Py_DECREF(kept);
        return copied;
    }
    if (expected != NULL) { /* the record was replaced: what is kept will not be read again */
        Py_CLEAR(known->value);
        known->credit = 0;
        known->seen = 0;
    }
    for (int line = 1; line < LINES_AHEAD; line++)
        __builtin_prefetch((const char *)value + line * LINE_BYTES);
    Py_INCREF(value);
    PyObject *parsed = PyObject_CallOneArg(self->parse, value);
    if (parsed == NULL) {
        Py_DECREF(value);
        return none_if_undecodable(self);
    }
    adopt(parsed, self->record_type);
    if (known != NULL && known->credit > 0) {
        known->credit--;
    } else if (known != NULL && known->seen != key.hash) {
        known->seen = key.hash;
    } else if (known != NULL && keep(self, known, &key, value, parsed) < 0) {
        Py_CLEAR(parsed);
    }
    Py_DECREF(value);
    return parsed;
}

static PyObject *value_of(MemoryTable *self, PyObject *object)
{
    Key key;
    if (PyThread_get_thread_ident() != self->thread)
        Py_RETURN_NONE;
    if (key_from_object(object, &key) < 0)
        return NULL;
    PyObject *value = look(self, &key);
    key_clear(&key);
    return Py_NewRef(value == NULL ? Py_None : hot_map_seen(value));
}

static PyObject *writable_value(MemoryTable *self, PyObject *object)
{
    Key key;
    if (PyThread_get_thread_ident() != self->thread)
        Py_RETURN_NONE;
    if (key_from_object(object, &key) < 0)
        return NULL;
    PyObject *value = self->slots[key_slot(&key)].pending == NULL ? NULL : look(self, &key);
    key_clear(&key);
    return Py_NewRef(value == NULL || !is_ordinary(value) ? Py_None : value);
}

/* Bring what the lookups of some keys will touch closer, all of them at once instead of one after another. */
static void look_ahead(MemoryTable *self, const Key *keys, int n)
{
    for (int i = 0; i < n; i++)
        prefetch_buckets(self, &keys[i]);
    for (int i = 0; i < n; i++) {
        PyObject *maps = self->slots[key_slot(&keys[i])].maps;
        for (Py_ssize_t m = 0; maps != NULL && m < PyTuple_GET_SIZE(maps); m++)
            hot_map_prefetch((const HotMap *)PyTuple_GET_ITEM(maps, m), keys[i].hash, LINES_AHEAD);
    }
}

/* Find the ordinary values, borrowed, of a window of keys. Return 0, or -1 if one has none. */
static int look_window(MemoryTable *self, PyObject *const *objects, int n, PyObject **values)
{
    Key keys[WINDOW];
    int n_keys = 0, found = 0;
    for (int i = 0; i < n; i++)
        __builtin_prefetch(objects[i]);
    while (n_keys < n && hot_key(self, objects[n_keys], &keys[n_keys]) == 0)
        n_keys++;
    if (n_keys == n) {
        look_ahead(self, keys, n);
        for (; found < n; found++) {
            values[found] = look(self, &keys[found]);
            if (values[found] == NULL || !is_ordinary(values[found]))
                break;
        }
    }
    for (int i = 0; i < n_keys; i++)
        key_clear(&keys[i]);
    return found == n ? 0 : -1;
}

static inline int window_at(Py_ssize_t start, Py_ssize_t n)
{
    return n - start < WINDOW ? (int)(n - start) : WINDOW;
}

static PyObject *values_of(MemoryTable *self, PyObject *keys)
{
    if (PyThread_get_thread_ident() != self->thread || !PyList_CheckExact(keys))
        Py_RETURN_NONE;
    Py_ssize_t n = PyList_GET_SIZE(keys);
    PyObject *found = PyList_New(n);
    for (Py_ssize_t start = 0; found != NULL && start < n; start += WINDOW) {
        PyObject *values[WINDOW];
        int size = window_at(start, n);
        if (look_window(self, &PyList_GET_ITEM(keys, start), size, values) < 0) {
            Py_DECREF(found);
            Py_RETURN_NONE;
        }
        for (int i = 0; i < size; i++)
            PyList_SET_ITEM(found, start + i, Py_NewRef(values[i]));
    }
    return found;
}

/* Return a MessagePack array of the keys' values, or None if one of them is not ordinary. */
static PyObject *gathered(MemoryTable *self, PyObject *keys)
{
    Py_ssize_t n = PyList_GET_SIZE(keys), used = 5, room = 5 + 512 * n;
    PyObject *array = PyBytes_FromStringAndSize(NULL, room);
    if (array == NULL)
        return NULL;
    uint8_t *head = (uint8_t *)PyBytes_AS_STRING(array);
    uint32_t count = __builtin_bswap32((uint32_t)n);
    head[0] = 0xdd;
    memcpy(head + 1, &count, sizeof count);
    for (Py_ssize_t start = 0; start < n; start += WINDOW) {
        PyObject *values[WINDOW];
        int size = window_at(start, n);
        if (look_window(self, &PyList_GET_ITEM(keys, start), size, values) < 0) {
            Py_DECREF(array);
            Py_RETURN_NONE;
        }
        Py_ssize_t n_bytes = 0;
        for (int i = 0; i < size; i++)
            n_bytes += PyBytes_GET_SIZE(values[i]);
        if (used + n_bytes > room) {
            room = 2 * (used + n_bytes);
            if (_PyBytes_Resize(&array, room) < 0)
                return NULL;
        }
        char *at = PyBytes_AS_STRING(array) + used;
        for (int i = 0; i < size; i++) {
            memcpy(at, PyBytes_AS_STRING(values[i]), (size_t)PyBytes_GET_SIZE(values[i]));
            at += PyBytes_GET_SIZE(values[i]);
        }
        used += n_bytes;
    }
    return _PyBytes_Resize(&array, used) < 0 ? NULL : array;
}

/* Return the keys' records, decoded in one call, or None if one of them is not ordinary. */
static PyObject *decoded_at_once(MemoryTable *self, PyObject *keys)
{
    PyObject *array = gathered(self, keys);
    if (array == NULL || array == Py_None)
        return array;
    PyObject *parsed = PyObject_CallOneArg(self->parse_many, array);
    Py_DECREF(array);
    return parsed;
}

/* The same, by a decoder that takes each value where it lies. */
static PyObject *decoded_each(MemoryTable *self, PyObject *keys)
{
    Py_ssize_t n = PyList_GET_SIZE(keys);
    PyObject *found = PyList_New(n);
    for (Py_ssize_t start = 0; found != NULL && start < n; start += WINDOW) {
        PyObject *values[WINDOW];
        int size = window_at(start, n);
        if (look_window(self, &PyList_GET_ITEM(keys, start), size, values) < 0) {
            Py_DECREF(found);
            Py_RETURN_NONE;
        }
        for (int i = 0; i < size; i++)
            Py_INCREF(values[i]); /* the slow way runs Python, and others may then write */
        for (int i = 0; i < size; i++) {
            PyObject *parsed = found == NULL ? NULL : decoder_record(self->parse, values[i]);
            Py_DECREF(values[i]);
            if (parsed != NULL)
                PyList_SET_ITEM(found, start + i, parsed);
            else
                Py_CLEAR(found);
        }
    }
    return found;
}

static PyObject *records(MemoryTable *self, PyObject *keys)
{
    if (PyThread_get_thread_ident() != self->thread || !PyList_CheckExact(keys) || self->parse_many == NULL)
        Py_RETURN_NONE;
    int by_decoder = Py_IS_TYPE(self->parse, &Decoder_Type);
    /* The collector would find nothing in what is being made. */
    int collecting = PyGC_Disable();
    PyObject *parsed = by_decoder ? decoded_each(self, keys) : decoded_at_once(self, keys);
    if (collecting)
        PyGC_Enable();
    if (parsed == NULL)
        return none_if_undecodable(self);
    if (parsed == Py_None)
        return parsed;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(parsed); i++)
        adopt(PyList_GET_ITEM(parsed, i), self->record_type);
    return parsed;
}

/* Take a relaxed write. Return what became of it, or -1 with an error. */
static int take(MemoryTable *self, PyObject *encoded)
{
    if (!PyTuple_CheckExact(encoded) || PyTuple_GET_SIZE(encoded) != 3 ||
        !PyBytes_CheckExact(PyTuple_GET_ITEM(encoded, 2)) || !PyBytes_GET_SIZE(PyTuple_GET_ITEM(encoded, 2))) {
        PyErr_SetString(PyExc_TypeError, "an encoded record is (slot, hot key, value)");
        return -1;
    }
    PyObject *value = PyTuple_GET_ITEM(encoded, 2);
    Key key;
    if (PyThread_get_thread_ident() != self->thread)
        return LONG_WAY;
    if (key_from_object(PyTuple_GET_ITEM(encoded, 1), &key) < 0)
        return -1;
    Slot *slot = &self->slots[key_slot(&key)];
    PyObject *pending = slot->pending;
    int outcome = LONG_WAY;
    if (pending != NULL && slot->maps != NULL && key_is_of(&key, value)) {
        Py_INCREF(pending);
        if (PyList_GET_SIZE(pending) == 0) {
            PyObject *asked = PyObject_CallNoArgs(slot->ask);
            Py_XDECREF(asked);
            if (asked == NULL)
                outcome = -1;
        }
        if (outcome >= 0 && slot->maps != NULL) { /* asking may have closed the slot */
            HotMap *young = (HotMap *)PyTuple_GET_ITEM(slot->maps, 0);
            if (hot_map_set(young, &key, value) < 0 || PyList_Append(pending, value) < 0)
                outcome = -1;
            else
                outcome = (PyList_GET_SIZE(pending) & YIELD_MASK) == 0 || PyBytes_GET_SIZE(value) > YIELD_BYTES
                              ? PAUSE
                              : DONE;
        }
        Py_DECREF(pending);
    }
    key_clear(&key);
    return outcome;
}

/* Post a durable write. Return a call that waits for its group; NULL, without an Exception, if it has to go the long
 * way. */
static PyObject *posted(MemoryTable *self, PyObject *encoded)
{
    PyObject *number = PyTuple_GET_ITEM(encoded, 0), *value = PyTuple_GET_ITEM(encoded, 2);
    long i = PyLong_AsLong(number);
    if (PyThread_get_thread_ident() != self->thread || i < 0 || i >= SLOTS || self->slots[i].post == NULL) {
        PyErr_Clear();
        return NULL;
    }
    PyObject *post = Py_NewRef(self->slots[i].post);
    PyObject *message = PyTuple_Pack(5, self->slots[i].tier, number, PyTuple_GET_ITEM(encoded, 1), value, value);
    PyObject *size = message == NULL ? NULL : PyLong_FromSsize_t(PyBytes_GET_SIZE(value));
    PyObject *args[] = {message, size};
    PyObject *future = size == NULL ? NULL : PyObject_Vectorcall(post, args, 2, NULL);
    Py_XDECREF(message);
    Py_XDECREF(size);
    Py_DECREF(post);
    PyObject *call = future == NULL ? NULL : waiting(future);
    if (call == NULL && PyErr_ExceptionMatches(PyExc_Exception))
        PyErr_Clear(); /* there is no room, or no actor: the long way waits, or says so */
    return call;
}

static PyObject *write_now(MemoryTable *self, PyObject *encoded)
{
    int outcome = take(self, encoded);
    return outcome < 0 ? NULL : PyLong_FromLong(outcome);
}

/* Call a function of the hot key and another object. Return 0, or -1 with an error. */
static int call_with_key(PyObject *function, PyObject *key, PyObject *other)
{
    PyObject *args[] = {key, other};
    PyObject *returned = PyObject_Vectorcall(function, args, 2, NULL);
    Py_XDECREF(returned);
    return returned == NULL ? -1 : 0;
}

static int fill_ephemeral(MemoryTable *self, PyObject *key, PyObject *found)
{
    if (self->key_bytes == NULL)
        return call_with_key(self->fill_ephemeral, key, found);
    PyObject *hot = PyObject_GetAttr(key, self->key_bytes);
    int failed = hot == NULL ? -1 : call_with_key(self->fill_ephemeral, hot, found);
    Py_XDECREF(hot);
    return failed;
}

static PyObject *get(MemoryTable *self, PyObject *key)
{
    PyObject *found = record(self, key);
    if (found == Py_None) {
        Py_DECREF(found);
        return PyObject_CallMethodOneArg((PyObject *)self, name_get, key);
    }
    if (found != NULL && self->fill_ephemeral != NULL && fill_ephemeral(self, key, found) < 0)
        Py_CLEAR(found);
    return settled(found);
}

static PyObject *put(MemoryTable *self, PyObject *const *args, Py_ssize_t n_args, PyObject *names)
{
    if (n_args != 1 || names != NULL || !self->puts_at_once || self->encode == NULL) {
        size_t n = (size_t)PyVectorcall_NARGS((size_t)n_args) + (names == NULL ? 0 : (size_t)PyTuple_GET_SIZE(names));
        PyObject *all[4] = {(PyObject *)self};
        if (n > 3) {
            PyErr_SetString(PyExc_TypeError, "put takes a record, ttl= and if_version=");
            return NULL;
        }
        memcpy(all + 1, args, n * sizeof *args);
        return PyObject_VectorcallMethod(name_put, all, (size_t)n_args + 1, names);
    }
    PyObject *ephemeral = NULL, *encoded = NULL, *call;
    int outcome = -1;
    if (self->encode_ephemeral != NULL)
        ephemeral = PyObject_CallOneArg(self->encode_ephemeral, args[0]);
    if (self->encode_ephemeral == NULL || ephemeral != NULL)
        encoded = PyObject_CallOneArg(self->encode, args[0]);
    if (encoded != NULL)
        outcome = take(self, encoded);
    if (ephemeral != NULL && (outcome == DONE || outcome == PAUSE) &&
        call_with_key(self->set_ephemeral, PyTuple_GET_ITEM(encoded, 1), ephemeral) < 0)
        outcome = -1;
    if (outcome == DONE)
        call = settled(Py_NewRef(Py_None));
    else if (outcome == PAUSE)
        call = PyObject_CallMethodNoArgs((PyObject *)self, name_pause);
    else if (outcome == LONG_WAY && ephemeral != NULL)
        call = PyObject_CallMethodOneArg((PyObject *)self, name_put, args[0]);
    else if (outcome == LONG_WAY && (call = posted(self, encoded)) == NULL && !PyErr_Occurred())
        call = PyObject_CallMethodOneArg((PyObject *)self, name_write, encoded);
    else if (outcome < 0)
        call = settled(NULL);
    Py_XDECREF(ephemeral);
    Py_XDECREF(encoded);
    return call;
}

static PyObject *spend(MemoryTable *self, PyObject *n)
{
    long spent = PyLong_AsLong(n);
    if (spent == -1 && PyErr_Occurred())
        return NULL;
    self->reads_left -= (int)spent;
    if (self->reads_left >= 0)
        Py_RETURN_FALSE;
    self->reads_left = YIELD_READS;
    Py_RETURN_TRUE;
}

static PyObject *set_slot(MemoryTable *self, PyObject *const *args, Py_ssize_t n_args)
{
    long i = n_args == 6 ? PyLong_AsLong(args[0]) : -1;
    if (PyErr_Occurred())
        return NULL;
    int valid = i >= 0 && i < SLOTS && (args[1] == Py_None || PyTuple_CheckExact(args[1])) &&
                (args[2] == Py_None || PyList_CheckExact(args[2]));
    for (Py_ssize_t m = 0; valid && args[1] != Py_None && m < PyTuple_GET_SIZE(args[1]); m++)
        valid = PyObject_TypeCheck(PyTuple_GET_ITEM(args[1], m), &HotMap_Type);
    if (!valid || (args[1] != Py_None && PyTuple_GET_SIZE(args[1]) == 0)) {
        PyErr_SetString(PyExc_TypeError, "_set_slot takes a slot, a tuple of HotMap, a list, two functions and a tier");
        return NULL;
    }
    Slot *slot = &self->slots[i];
    Py_XSETREF(slot->maps, args[1] == Py_None ? NULL : Py_NewRef(args[1]));
    Py_XSETREF(slot->pending, args[2] == Py_None ? NULL : Py_NewRef(args[2]));
    Py_XSETREF(slot->ask, Py_NewRef(args[3]));
    Py_XSETREF(slot->post, args[4] == Py_None ? NULL : Py_NewRef(args[4]));
    Py_XSETREF(slot->tier, Py_NewRef(args[5]));
    Py_RETURN_NONE;
}

static PyObject *close_slots(MemoryTable *self, PyObject *Py_UNUSED(ignored))
{
    for (int i = 0; i < SLOTS; i++) {
        Py_CLEAR(self->slots[i].maps);
        Py_CLEAR(self->slots[i].pending);
        Py_CLEAR(self->slots[i].ask);
        Py_CLEAR(self->slots[i].post);
        Py_CLEAR(self->slots[i].tier);
    }
    forget_known(self);
    Py_RETURN_NONE;
}

static PyObject *none_as_null(PyObject *object)
{
    return object == Py_None ? NULL : Py_NewRef(object);
}

static int init(MemoryTable *self, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"key_type", "key_bytes", "key_field", "record_type", "encode", "parse", "parse_many", "copy",
                            "decode_error", "n_known", "puts_at_once", "ephemeral", NULL};
    PyObject *key_type, *key_bytes, *key_field, *record_type, *encode, *parse, *parse_many, *copy, *decode_error, *ephemeral;
    int puts_at_once;
    Py_ssize_t n_known;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "$O!OUO!OOOOOnpO:MemoryTable", names, &PyType_Type, &key_type,
                                     &key_bytes, &key_field, &PyType_Type, &record_type, &encode, &parse, &parse_many, &copy,
                                     &decode_error, &n_known, &puts_at_once, &ephemeral))
        return -1;
    if (n_known < 0 || n_known > 1 << 24) {
        PyErr_SetString(PyExc_ValueError, "n_known: 0 to 16,777,216");
        return -1;
    }
    if (self->encode != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a MemoryTable is initialised once");
        return -1;
    }
    self->encode = Py_NewRef(encode);
    self->key_type = (PyTypeObject *)Py_NewRef(key_type);
    self->key_bytes = none_as_null(key_bytes);
    self->key_field = Py_NewRef(key_field);
    self->record_type = (PyTypeObject *)Py_NewRef(record_type);
    self->parse = Py_NewRef(parse);
    self->parse_many = none_as_null(parse_many);
    self->copy = none_as_null(copy);
    self->decode_error = Py_NewRef(decode_error);
    self->puts_at_once = (char)puts_at_once;
    self->thread = PyThread_get_thread_ident();
    self->reads_left = YIELD_READS;
    if (ephemeral != Py_None) {
        self->encode_ephemeral = PyObject_GetAttrString(ephemeral, "encode");
        self->set_ephemeral = PyObject_GetAttrString(ephemeral, "set");
        self->fill_ephemeral = PyObject_GetAttrString(ephemeral, "fill");
        if (self->encode_ephemeral == NULL || self->set_ephemeral == NULL || self->fill_ephemeral == NULL)
            return -1;
    }
    if (n_known > 0 && self->copy != NULL) {
        uint64_t size = 1;
        while (2 * size <= (uint64_t)n_known)
            size *= 2;
        self->known = PyMem_Calloc(size, sizeof *self->known);
        if (self->known == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        self->known_mask = size - 1;
    }
    return 0;
}

static int traverse(MemoryTable *self, visitproc visit, void *arg)
{
    Py_VISIT(self->key_type);
    Py_VISIT(self->record_type);
    Py_VISIT(self->parse);
    Py_VISIT(self->parse_many);
    Py_VISIT(self->copy);
    Py_VISIT(self->decode_error);
    Py_VISIT(self->encode);
    Py_VISIT(self->encode_ephemeral);
    Py_VISIT(self->set_ephemeral);
    Py_VISIT(self->fill_ephemeral);
    for (int i = 0; i < SLOTS; i++) {
        Py_VISIT(self->slots[i].maps);
        Py_VISIT(self->slots[i].pending);
        Py_VISIT(self->slots[i].ask);
        Py_VISIT(self->slots[i].post);
        Py_VISIT(self->slots[i].tier);
    }
    for (uint64_t i = 0; self->known != NULL && i <= self->known_mask; i++) {
        Py_VISIT(self->known[i].record);
        Py_VISIT(self->known[i].key);
    }
    return 0;
}

static int clear(MemoryTable *self)
{
    Py_CLEAR(self->key_type);
    Py_CLEAR(self->key_bytes);
    Py_CLEAR(self->key_field);
    Py_CLEAR(self->record_type);
    Py_CLEAR(self->parse);
    Py_CLEAR(self->parse_many);
    Py_CLEAR(self->copy);
    Py_CLEAR(self->decode_error);
    Py_CLEAR(self->encode);
    Py_CLEAR(self->encode_ephemeral);
    Py_CLEAR(self->set_ephemeral);
    Py_CLEAR(self->fill_ephemeral);
    Py_XDECREF(close_slots(self, NULL));
    return 0;
}

static void dealloc(MemoryTable *self)
{
    PyObject_GC_UnTrack(self);
    clear(self);
    PyMem_Free(self->known);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

PyDoc_STRVAR(get_doc, "get($self, key, /)\n--\n\n"
"Return the record under a key, or None. It is the caller's own.\n"
"\n"
"Raises:\n"
"    ValidationError: the key has the wrong type.\n"
"    CorruptionError: the record's bytes on disk are damaged.\n"
"\n"
"Cost:\n"
"    In memory: no wait. On disk: two reads at most, and a thread hop only where they would block.");

PyDoc_STRVAR(put_doc, "put($self, record, /, *, ttl=None, if_version=None)\n--\n\n"
"Store a record under its key, replacing the one there.\n"
"\n"
"Args:\n"
"    record: It is checked, and encoded at once: what the caller does to it later changes nothing stored. Its\n"
"        `Computed` fields, and `Gpu` fields rounded to their dtype, are set on it.\n"
"    ttl: Time to live; by default the type's, or for ever. A put without one ends an earlier one.\n"
"    if_version: Write only if the stored record still has this version (0: only if there is none).\n"
"\n"
"Raises:\n"
"    ValidationError: a field is wrong; it is named.\n"
"    LimitError: the key or the record is too large.\n"
"    VersionConflictError: the version is another.\n"
"    OutcomeUnknownError: the log failed during the write.\n"
"    DiskFullError: there is no space.\n"
"\n"
"Cost:\n"
"    \"interval\" and \"memory\": no wait. \"fsync\": one sync, shared with everything that was written meanwhile.");

static PyMethodDef methods[] = {
    {"get", (PyCFunction)get, METH_O, get_doc},
    {"put", (PyCFunction)(void (*)(void))put, METH_FASTCALL | METH_KEYWORDS, put_doc},
    {"_record", (PyCFunction)record, METH_O, NULL},
    {"_records", (PyCFunction)records, METH_O, NULL},
    {"_value", (PyCFunction)value_of, METH_O, NULL},
    {"_values", (PyCFunction)values_of, METH_O, NULL},
    {"_writable_value", (PyCFunction)writable_value, METH_O, NULL},
    {"_write_now", (PyCFunction)write_now, METH_O, NULL},
    {"_spend", (PyCFunction)spend, METH_O, NULL},
    {"_set_slot", (PyCFunction)(void (*)(void))set_slot, METH_FASTCALL, NULL},
    {"_close_slots", (PyCFunction)close_slots, METH_NOARGS, NULL},
    {"__class_getitem__", (PyCFunction)Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

PyTypeObject MemoryTable_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "warpstore._native.MemoryTable",
    .tp_doc = "The part of a table that needs no wait.",
    .tp_basicsize = sizeof(MemoryTable),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)init,
    .tp_dealloc = (destructor)dealloc,
    .tp_traverse = (traverseproc)traverse,
    .tp_clear = (inquiry)clear,
    .tp_methods = methods,
};

int memory_table_ready(void)
{
    name_get = PyUnicode_InternFromString("_get");
    name_put = PyUnicode_InternFromString("_put");
    name_pause = PyUnicode_InternFromString("_pause");
    name_write = PyUnicode_InternFromString("_write");
    if (name_get == NULL || name_put == NULL || name_pause == NULL || name_write == NULL)
        return -1;
    return PyType_Ready(&MemoryTable_Type);
}
