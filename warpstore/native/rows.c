#include "rows.h"

#include "hot_map.h"

#include <structmember.h>

#define RUNS_MAX 4096
#define LIMIT_MAX (1 << 20)
#define ROOM_ROWS_MAX 4096
#define ARRAY_HEAD 5
#define WINDOW 16
#define AHEAD 4 /* keys of a list that are on their way from memory */
#define MERGE_BYTES_MAX (8 << 20) /* of a merge, but for its last row */

typedef struct {
    PyObject_HEAD
    PyObject *data;      /* bytes that hold the values one after another */
    const uint8_t *base; /* where the first one begins */
    uint32_t *starts, *ends; /* n places each behind `base`: of every row */
    uint32_t start, stop; /* what has not been taken yet */
    uint32_t n_merged;    /* rows in `data` behind the head of an array, if they come from a merge */
    char is_merged;
    char is_last;         /* the run has no rows behind these */
    char is_ordinary;     /* no row has a deadline, or parts elsewhere */
} Rows;

/* The key of a row, for comparing. */
typedef struct {
    const uint8_t *data;
    uint32_t size;
    int64_t number;
} Rank;

static Rows *new_rows(PyObject *data, size_t n)
{
    Rows *rows = PyObject_New(Rows, &Rows_Type);
    uint32_t *starts = rows == NULL ? NULL : PyMem_Calloc(2 * n + 1, sizeof *starts);
    if (starts == NULL) {
        if (rows != NULL) {
            rows->data = NULL;
            rows->starts = NULL;
            Py_DECREF(rows);
            PyErr_NoMemory();
        }
        return NULL;
    }
    rows->data = Py_XNewRef(data);
    rows->base = data == NULL ? NULL : (const uint8_t *)PyBytes_AS_STRING(data);
    rows->starts = starts;
    rows->ends = starts + n;
    rows->start = 0;
    rows->stop = (uint32_t)n;
    rows->is_last = rows->is_ordinary = rows->is_merged = 0;
    rows->n_merged = 0;
    return rows;
}

static void dealloc(Rows *rows)
{
    Py_XDECREF(rows->data);
    PyMem_Free(rows->starts);
    PyObject_Free(rows);
}

/* Fill in the rank of the key in a value. Return 0, or -1 if the bytes are no value. */
static inline int rank_value(const uint8_t *at, const uint8_t *end, Rank *rank)
{
    at = key_place(at, end);
    if (at == NULL)
        return -1;
    size_t left = (size_t)(end - at), head = 1, size = 0, n_int = 0;
    uint8_t format = *at;
    if ((format & 0xe0) == 0xa0) {
        size = format & 0x1f;
    } else if (format == 0xc4 || format == 0xd9) {
        head = 2;
        size = left > 1 ? at[1] : 0;
    } else if (format == 0xc5 || format == 0xda) {
        head = 3;
        size = left > 2 ? (size_t)at[1] << 8 | at[2] : 0;
    } else if (format < 0x80 || format >= 0xe0) {
        rank->number = (int8_t)format;
        rank->size = 0;
        rank->data = NULL;
        return 0;
    } else if (format >= 0xcc && format <= 0xd3) {
        n_int = (size_t)1 << (format & 3);
        if (left < 1 + n_int)
            return -1;
        uint64_t bits = 0;
        memcpy((uint8_t *)&bits + 8 - n_int, at + 1, n_int);
        bits = __builtin_bswap64(bits);
        rank->number = (int64_t)bits;
        if (format >= 0xd0)
            rank->number = (int64_t)(bits << (64 - 8 * n_int)) >> (64 - 8 * n_int);
        rank->size = 0;
        rank->data = NULL;
        return 0;
    } else {
        return -1;
    }
    if (left < head + size)
        return -1;
    rank->data = at + head;
    rank->size = (uint32_t)size;
    rank->number = 0;
    return 0;
}

static inline int compare(const Rank *a, const Rank *b)
{
    uint32_t size = a->size < b->size ? a->size : b->size;
    int order = size ? memcmp(a->data, b->data, size) : 0;
    if (order != 0)
        return order;
    if (a->size != b->size)
        return a->size < b->size ? -1 : 1;
    return (a->number > b->number) - (a->number < b->number);
}

static int rank_row(const Rows *rows, uint32_t i, Rank *rank)
{
    if (rank_value(rows->base + rows->starts[i], rows->base + rows->ends[i], rank) == 0)
        return 0;
    PyErr_SetString(PyExc_ValueError, "a row is no stored value: it has no key");
    return -1;
}

/* Return how many rows the block of `size` bytes at `at` says to have, or -1 if it cannot be one. */
static int64_t n_rows(const uint8_t *at, size_t size)
{
    uint32_t n;
    if (size < sizeof n)
        return -1;
    memcpy(&n, at, sizeof n);
    return sizeof n + 4 * (uint64_t)n > size ? -1 : (int64_t)n;
}

/* Add the rows of a block at a place behind `base`. Return 0, or -1 if the lengths do not add up to its size. */
static int add_block(Rows *rows, uint32_t first, size_t place, size_t size)
{
    const uint8_t *lengths = rows->base + place + 4;
    uint32_t n = (uint32_t)n_rows(rows->base + place, size);
    uint64_t at = place + 4 + 4 * (uint64_t)n, end = place + size;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t length;
        memcpy(&length, lengths + 4 * (size_t)i, 4);
        rows->starts[first + i] = (uint32_t)at;
        at += length;
        rows->ends[first + i] = (uint32_t)at;
        if (at > end)
            return -1;
    }
    return at == end ? 0 : -1;
}

static PyObject *wrong_lengths(void)
{
    PyErr_SetString(PyExc_ValueError, "the lengths of a block are wrong");
    return NULL;
}

static PyObject *of_blocks(PyObject *Py_UNUSED(type), PyObject *const *args, Py_ssize_t n_args)
{
    if (n_args != 2 || !PyBytes_CheckExact(args[0]) || !PyList_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError, "of_blocks takes bytes and a list of sizes");
        return NULL;
    }
    const uint8_t *base = (const uint8_t *)PyBytes_AS_STRING(args[0]);
    size_t room = (size_t)PyBytes_GET_SIZE(args[0]), place = 0;
    uint64_t n = 0;
    if (room > UINT32_MAX)
        return wrong_lengths();
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(args[1]); i++) {
        size_t size = PyLong_AsSize_t(PyList_GET_ITEM(args[1], i));
        if (PyErr_Occurred())
            return NULL;
        int64_t more = size <= room - place ? n_rows(base + place, size) : -1;
        if (more < 0)
            return wrong_lengths();
        n += (uint64_t)more;
        place += size;
    }
    Rows *rows = new_rows(args[0], (size_t)n);
    if (rows == NULL)
        return NULL;
    uint32_t first = 0;
    place = 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(args[1]); i++) {
        size_t size = PyLong_AsSize_t(PyList_GET_ITEM(args[1], i));
        if (add_block(rows, first, place, size) < 0) {
            Py_DECREF(rows);
            return wrong_lengths();
        }
        first += (uint32_t)n_rows(base + place, size);
        place += size;
    }
    return (PyObject *)rows;
}

/* Find the values of up to WINDOW keys, borrowed; all are on their way from memory together. Return 0, or -1. */
static int find_window(PyObject *maps, long first, PyObject *keys, Py_ssize_t start, PyObject **values)
{
    Key wanted[WINDOW];
    HotMap *in[WINDOW];
    Py_ssize_t left = PyList_GET_SIZE(keys) - start;
    int size = left < WINDOW ? (int)left : WINDOW, n = 0;
    for (; n < size; n++) {
        if (key_from_object(PyList_GET_ITEM(keys, start + n), &wanted[n]) < 0)
            break;
        long at = (long)key_slot(&wanted[n]) - first;
        PyObject *map = at < 0 || at >= PyList_GET_SIZE(maps) ? NULL : PyList_GET_ITEM(maps, at);
        in[n] = map != NULL && PyObject_TypeCheck(map, &HotMap_Type) ? (HotMap *)map : NULL;
        if (in[n] != NULL)
            __builtin_prefetch(hot_map_bucket(in[n], wanted[n].hash));
    }
    for (int i = 0; i < n; i++)
        if (in[i] != NULL)
            hot_map_prefetch(in[i], wanted[i].hash, 2);
    for (int i = 0; i < n; i++) {
        uint64_t *word = in[i] == NULL ? NULL : hot_map_find(in[i], &wanted[i]);
        values[i] = word == NULL ? NULL : hot_map_value(*word);
        if (word == NULL && !PyErr_Occurred())
            PyErr_SetString(PyExc_KeyError, "of_keys: a key is in none of the maps");
        key_clear(&wanted[i]);
    }
    return PyErr_Occurred() ? -1 : 0;
}

/* One sorted list while several are merged. */
typedef struct {
    PyObject **at, **end;
} Sorted;

/* Return whether one key is before another; those of a table have one type. */
static inline int is_before(PyObject *a, PyObject *b)
{
    if (PyUnicode_CheckExact(a)) {
        if (PyUnicode_IS_COMPACT_ASCII(a) && PyUnicode_IS_COMPACT_ASCII(b)) {
            Py_ssize_t size_a = PyUnicode_GET_LENGTH(a), size_b = PyUnicode_GET_LENGTH(b);
            int order = memcmp(PyUnicode_1BYTE_DATA(a), PyUnicode_1BYTE_DATA(b), (size_t)Py_MIN(size_a, size_b));
            return order ? order < 0 : size_a < size_b;
        }
        return PyUnicode_Compare(a, b) < 0;
    }
    if (PyBytes_CheckExact(a)) {
        Py_ssize_t size_a = PyBytes_GET_SIZE(a), size_b = PyBytes_GET_SIZE(b);
        int order = memcmp(PyBytes_AS_STRING(a), PyBytes_AS_STRING(b), (size_t)Py_MIN(size_a, size_b));
        return order ? order < 0 : size_a < size_b;
    }
    return PyLong_AsLongLong(a) < PyLong_AsLongLong(b);
}

/* Let the list at `i` sink to its place: the one whose next key comes first is on top. */
static void sink(Sorted *heap, Py_ssize_t n, Py_ssize_t i)
{
    Sorted moved = heap[i];
    for (Py_ssize_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && is_before(*heap[child + 1].at, *heap[child].at))
            child++;
        if (!is_before(*heap[child].at, *moved.at))
            break;
        heap[i] = heap[child];
    }
    heap[i] = moved;
}

PyObject *rows_first_keys(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    Py_ssize_t limit = n_args == 4 ? PyLong_AsSsize_t(args[3]) : -1;
    Py_ssize_t n = n_args == 4 && PyList_CheckExact(args[0]) ? PyList_GET_SIZE(args[0]) : -1, n_heap = 0;
    if (limit < 0 || n < 0 || !PyList_CheckExact(args[1]) || !PyList_CheckExact(args[2]) ||
        PyList_GET_SIZE(args[1]) != n || PyList_GET_SIZE(args[2]) != n) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "first_keys takes lists, their starts, their stops and a limit");
        return NULL;
    }
    Sorted *heap = PyMem_Calloc((size_t)n + 1, sizeof *heap);
    PyObject *found = heap == NULL ? PyErr_NoMemory() : PyList_New(0);
    PyTypeObject *kind = NULL;
    for (Py_ssize_t i = 0; found != NULL && i < n; i++) {
        PyObject *keys = PyList_GET_ITEM(args[0], i);
        Py_ssize_t start = PyLong_AsSsize_t(PyList_GET_ITEM(args[1], i));
        Py_ssize_t stop = PyLong_AsSsize_t(PyList_GET_ITEM(args[2], i));
        if (PyErr_Occurred() || !PyList_CheckExact(keys) || start < 0 || stop > PyList_GET_SIZE(keys)) {
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_ValueError, "first_keys: a range is not in its list");
            Py_CLEAR(found);
        } else if (start < stop) {
            stop = Py_MIN(stop, start + limit);
            PyObject **items = ((PyListObject *)keys)->ob_item;
            for (Py_ssize_t k = start; k < stop && k < start + AHEAD; k++)
                __builtin_prefetch(items[k]);
            heap[n_heap++] = (Sorted){items + start, items + stop};
            kind = kind == NULL ? Py_TYPE(items[start]) : kind;
        }
    }
    for (Py_ssize_t i = n_heap / 2; found != NULL && i-- > 0;)
        sink(heap, n_heap, i);
    for (; found != NULL && n_heap && PyList_GET_SIZE(found) < limit;) {
        PyObject *key = *heap[0].at++;
        if (heap[0].end - heap[0].at >= AHEAD)
            __builtin_prefetch(heap[0].at[AHEAD - 1]);
        if (Py_TYPE(key) != kind || PyList_Append(found, key) < 0)
            Py_CLEAR(found);
        if (heap[0].at == heap[0].end)
            heap[0] = heap[--n_heap];
        sink(heap, n_heap, 0);
    }
    PyMem_Free(heap);
    if (found == NULL && !PyErr_Occurred())
        PyErr_SetString(PyExc_TypeError, "first_keys: keys of several types");
    return found;
}

static PyObject *of_keys(PyObject *Py_UNUSED(type), PyObject *const *args, Py_ssize_t n_args)
{
    long first = -1;
    Py_ssize_t most = PY_SSIZE_T_MAX;
    int reverse = 0;
    if ((n_args != 3 && n_args != 5) || !PyList_CheckExact(args[0]) || !PyList_CheckExact(args[2]) ||
        ((first = PyLong_AsLong(args[1])) == -1 && PyErr_Occurred()) ||
        (n_args == 5 && ((most = PyLong_AsSsize_t(args[3])) == -1 || (reverse = PyObject_IsTrue(args[4])) < 0))) {
        PyErr_SetString(PyExc_TypeError,
                        "of_keys takes a list of HotMap, their first slot, a list of keys, bytes and a direction");
        return NULL;
    }
    Py_ssize_t n = PyList_GET_SIZE(args[2]), room = 512 * n, used = 0, n_done = 0;
    Rows *rows = new_rows(NULL, (size_t)n);
    if (rows == NULL)
        return NULL;
    rows->data = PyBytes_FromStringAndSize(NULL, room);
    PyObject *values[WINDOW];
    Py_ssize_t window = -1; /* where the values that are at hand begin */
    for (; rows->data != NULL && n_done < n && (n_done == 0 || used < most); n_done++) {
        Py_ssize_t i = reverse ? n - 1 - n_done : n_done;
        if (i - i % WINDOW != window) {
            window = i - i % WINDOW;
            if (find_window(args[0], first, args[2], window, values) < 0)
                break;
        }
        PyObject *value = values[i - window];
        Py_ssize_t size = PyBytes_GET_SIZE(value);
        if (used + size > room) {
            room = 2 * (used + size);
            if (_PyBytes_Resize(&rows->data, room) < 0)
                break;
        }
        memcpy(PyBytes_AS_STRING(rows->data) + used, PyBytes_AS_STRING(value), (size_t)size);
        used += size;
        if (used > UINT32_MAX) {
            PyErr_SetString(PyExc_OverflowError, "of_keys: the values are larger than 4 GiB");
            break;
        }
        rows->starts[i] = (uint32_t)(used - size);
        rows->ends[i] = (uint32_t)used;
    }
    if (PyErr_Occurred()) {
        Py_DECREF(rows);
        return NULL;
    }
    rows->start = reverse ? (uint32_t)(n - n_done) : 0;
    rows->stop = reverse ? (uint32_t)n : (uint32_t)n_done;
    rows->base = (const uint8_t *)PyBytes_AS_STRING(rows->data);
    return (PyObject *)rows;
}

static Py_ssize_t length(PyObject *self)
{
    return ((Rows *)self)->stop - ((Rows *)self)->start;
}

void rows_at(PyObject *self, Py_ssize_t i, const uint8_t **at, const uint8_t **end)
{
    Rows *rows = (Rows *)self;
    *at = rows->base + rows->starts[rows->start + i];
    *end = rows->base + rows->ends[rows->start + i];
}

static PyObject *payload(PyObject *self, Py_ssize_t i)
{
    Rows *rows = (Rows *)self;
    if (i < 0 || i >= length(self)) {
        PyErr_SetString(PyExc_IndexError, "there is no such row");
        return NULL;
    }
    i += rows->start;
    return PyBytes_FromStringAndSize((const char *)rows->base + rows->starts[i], rows->ends[i] - rows->starts[i]);
}

/* Fill in the rank of a bound, which may be longer or larger than a key. `owner` keeps its bytes. Return 0; 1 or -1 if it
 * is above or below every key; or -2 with an error. */
static int rank_bound(PyObject *bound, Rank *rank, PyObject **owner)
{
    int beyond = 0;
    *owner = NULL;
    *rank = (Rank){0};
    if (PyLong_CheckExact(bound)) {
        rank->number = PyLong_AsLongLongAndOverflow(bound, &beyond);
        return beyond;
    }
    if (PyUnicode_CheckExact(bound)) {
        *owner = PyUnicode_AsEncodedString(bound, "utf-8", "surrogatepass");
    } else if (PyBytes_CheckExact(bound)) {
        *owner = Py_NewRef(bound);
    } else {
        PyErr_SetString(PyExc_TypeError, "a bound is str, bytes or int");
    }
    if (*owner == NULL)
        return -2;
    rank->data = (const uint8_t *)PyBytes_AS_STRING(*owner);
    rank->size = (uint32_t)PyBytes_GET_SIZE(*owner);
    return 0;
}

/* Find the first row that is not before a bound. Return 0, or -1 with an error. */
static int first_not_before(const Rows *rows, PyObject *bound, uint32_t *found)
{
    Rank rank, row = {0};
    PyObject *owner;
    int beyond = rank_bound(bound, &rank, &owner), failed = beyond == -2;
    uint32_t low = beyond == 1 ? rows->stop : rows->start, high = beyond == -1 ? rows->start : rows->stop;
    while (!failed && low < high) {
        uint32_t middle = low + (high - low) / 2;
        failed = rank_row(rows, middle, &row) < 0;
        if (compare(&row, &rank) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    Py_XDECREF(owner);
    *found = low;
    return failed ? -1 : 0;
}

static PyObject *between(Rows *rows, PyObject *const *args, Py_ssize_t n_args)
{
    if (n_args != 2) {
        PyErr_SetString(PyExc_TypeError, "between takes two keys");
        return NULL;
    }
    uint32_t start = rows->start, stop = rows->stop;
    if ((args[0] != Py_None && first_not_before(rows, args[0], &start) < 0) ||
        (args[1] != Py_None && first_not_before(rows, args[1], &stop) < 0))
        return NULL;
    rows->start = start < stop ? start : stop;
    rows->stop = stop;
    Py_RETURN_NONE;
}

static PyObject *array(Rows *rows, PyObject *Py_UNUSED(ignored))
{
    if (!rows->is_merged || rows->start != 0 || rows->stop != rows->n_merged) {
        PyErr_SetString(PyExc_ValueError, "these are not all the rows of a merge");
        return NULL;
    }
    return Py_NewRef(rows->data);
}

/* Return the tag of the array at `at`, or -1 if there is none. */
static int64_t tag_at(const uint8_t *at, const uint8_t *end)
{
    size_t head = at >= end ? 0 : *at == 0xdd ? 5 : *at == 0xdc ? 3 : 1;
    if ((size_t)(end - at) <= head)
        return -1;
    at += head;
    if (*at < 0x80)
        return *at;
    size_t n = *at >= 0xcc && *at <= 0xcf ? (size_t)1 << (*at & 3) : 0;
    if (n == 0 || (size_t)(end - at) <= n)
        return -1;
    uint64_t bits = 0;
    memcpy((uint8_t *)&bits + 8 - n, at + 1, n);
    return (int64_t)__builtin_bswap64(bits);
}

static PyObject *has_split(Rows *rows, PyObject *passed)
{
    int64_t tag = PyLong_AsLongLong(passed);
    if (PyErr_Occurred())
        return NULL;
    for (uint32_t i = rows->start; i < rows->stop; i++) {
        const uint8_t *at = rows->base + rows->starts[i], *end = rows->base + rows->ends[i];
        if (end - at > DEADLINE_BYTES && *at == DEADLINE_BYTE)
            at += DEADLINE_BYTES;
        if (end - at < 2 || *at != SPLIT_BYTE)
            continue;
        size_t n_note = 2 + (size_t)at[1];
        if (tag < 0 || n_note >= (size_t)(end - at) || tag_at(at + n_note, end) != tag)
            Py_RETURN_TRUE;
    }
    Py_RETURN_FALSE;
}

/* One run while it is merged. */
typedef struct {
    Rows *rows;
    Rank rank;
} Head;

static inline uint32_t next_row(const Rows *rows, int reverse)
{
    return reverse ? rows->stop - 1 : rows->start;
}

/* Pass over a run's next row. Return 1 if there is another one, 0 if not; -1 with ValueError. */
static int advance(Head *head, int reverse)
{
    Rows *rows = head->rows;
    if (reverse)
        rows->stop--;
    else
        rows->start++;
    if (rows->start == rows->stop)
        return 0;
    return rank_row(rows, next_row(rows, reverse), &head->rank) < 0 ? -1 : 1;
}

typedef struct {
    PyObject *data;
    Py_ssize_t used, room;
} Output;

static int output_row(Output *output, const Rows *rows, uint32_t i)
{
    Py_ssize_t size = rows->ends[i] - rows->starts[i];
    if (output->used + size > output->room) {
        output->room = 2 * (output->used + size);
        if (_PyBytes_Resize(&output->data, output->room) < 0)
            return -1;
    }
    memcpy(PyBytes_AS_STRING(output->data) + output->used, rows->base + rows->starts[i], (size_t)size);
    output->used += size;
    return 0;
}

/* Move rows from the heads to the output until `limit` are out, or 8 MiB, or a run that may go on has no more. */
static int merge_heads(Head *heads, Py_ssize_t n_heads, Output *output, Rows *merged, uint32_t limit, int reverse)
{
    int going_on = 1;
    uint32_t n = 0;
    merged->is_ordinary = 1;
    while (going_on && n < limit && n_heads && output->used < MERGE_BYTES_MAX) {
        Py_ssize_t first = 0;
        for (Py_ssize_t i = 1; i < n_heads; i++) {
            int order = compare(&heads[i].rank, &heads[first].rank);
            if (reverse ? order > 0 : order < 0)
                first = i;
        }
        Rank rank = heads[first].rank;
        const Rows *rows = heads[first].rows;
        uint32_t row = next_row(rows, reverse);
        uint8_t opening = rows->base[rows->starts[row]];
        if (opening != TOMBSTONE_BYTE) {
            if (output_row(output, rows, row) < 0)
                return -1;
            merged->ends[n] = (uint32_t)(output->used - ARRAY_HEAD);
            merged->starts[n] = n ? merged->ends[n - 1] : 0;
            n++;
            if (opening == DEADLINE_BYTE || opening == SPLIT_BYTE)
                merged->is_ordinary = 0;
        }
        /* Only runs behind this one can have the key as well. */
        for (Py_ssize_t i = first; i < n_heads;) {
            int left = i == first || compare(&heads[i].rank, &rank) == 0 ? advance(&heads[i], reverse) : 1;
            if (left < 0)
                return -1;
            if (left) {
                i++;
                continue;
            }
            going_on = going_on && heads[i].rows->is_last;
            memmove(&heads[i], &heads[i + 1], (size_t)(n_heads - i - 1) * sizeof *heads);
            n_heads--;
            if (i == first)
                first = -1; /* what stands there now is another run */
        }
    }
    merged->stop = n;
    merged->is_last = going_on && n_heads == 0;
    return output->used - ARRAY_HEAD > UINT32_MAX ? (PyErr_SetString(PyExc_OverflowError, "merge: over 4 GiB"), -1) : 0;
}

PyObject *rows_merge(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    Py_ssize_t limit;
    int reverse;
    if (n_args != 3 || !PyList_CheckExact(args[0]) || PyList_GET_SIZE(args[0]) > RUNS_MAX ||
        (limit = PyLong_AsSsize_t(args[1])) < 0 || limit > LIMIT_MAX || (reverse = PyObject_IsTrue(args[2])) < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "merge takes a list of Rows, a limit and a direction");
        return NULL;
    }
    Py_ssize_t n_runs = PyList_GET_SIZE(args[0]), n_heads = 0;
    Head *heads = PyMem_Calloc((size_t)n_runs + 1, sizeof *heads);
    Rows *merged = new_rows(NULL, (size_t)limit);
    Output output = {NULL, ARRAY_HEAD, ARRAY_HEAD + 512 * (limit < ROOM_ROWS_MAX ? limit : ROOM_ROWS_MAX)};
    output.data = PyBytes_FromStringAndSize(NULL, output.room);
    int failed = heads == NULL || merged == NULL || output.data == NULL;
    for (Py_ssize_t i = 0; !failed && i < n_runs; i++) {
        PyObject *run = PyList_GET_ITEM(args[0], i);
        for (Py_ssize_t k = 0; k < i; k++)
            failed = failed || PyList_GET_ITEM(args[0], k) == run;
        if (failed || !PyObject_TypeCheck(run, &Rows_Type)) {
            PyErr_SetString(PyExc_TypeError, "merge: a run is no Rows, or is there twice");
            failed = 1;
        } else if (length(run)) {
            heads[n_heads].rows = (Rows *)run;
            failed = rank_row((Rows *)run, next_row((Rows *)run, reverse), &heads[n_heads].rank) < 0;
            n_heads++;
        } else if (!((Rows *)run)->is_last) {
            limit = 0; /* nothing can be said before its next rows are there */
        }
    }
    failed = failed || merge_heads(heads, n_heads, &output, merged, (uint32_t)limit, reverse) < 0 ||
             _PyBytes_Resize(&output.data, output.used) < 0;
    PyMem_Free(heads);
    if (failed) {
        Py_XDECREF(output.data);
        Py_XDECREF(merged);
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    uint8_t *head = (uint8_t *)PyBytes_AS_STRING(output.data);
    uint32_t count = __builtin_bswap32(merged->stop);
    head[0] = 0xdd;
    memcpy(head + 1, &count, sizeof count);
    merged->data = output.data;
    merged->base = head + ARRAY_HEAD;
    merged->is_merged = 1;
    merged->n_merged = merged->stop;
    return (PyObject *)merged;
}

static PyMethodDef methods[] = {
    {"of_blocks", (PyCFunction)(void (*)(void))of_blocks, METH_FASTCALL | METH_STATIC, NULL},
    {"of_keys", (PyCFunction)(void (*)(void))of_keys, METH_FASTCALL | METH_STATIC, NULL},
    {"between", (PyCFunction)(void (*)(void))between, METH_FASTCALL, NULL},
    {"array", (PyCFunction)array, METH_NOARGS, NULL},
    {"has_split", (PyCFunction)has_split, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"is_last", T_BOOL, offsetof(Rows, is_last), 0, NULL},
    {"is_ordinary", T_BOOL, offsetof(Rows, is_ordinary), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PySequenceMethods as_sequence = {.sq_length = length, .sq_item = payload};

PyTypeObject Rows_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "warpstore._native.Rows",
    .tp_doc = "Some values of a table in key order.",
    .tp_basicsize = sizeof(Rows),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)dealloc,
    .tp_methods = methods,
    .tp_members = members,
    .tp_as_sequence = &as_sequence,
};

int rows_ready(void)
{
    return PyType_Ready(&Rows_Type);
}
