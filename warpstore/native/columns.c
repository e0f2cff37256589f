#include "columns.h"

#include "msgpack.h"

#define RAW_HEAD 5
#define TICKS 1000000 /* of a second, in a timestamp */

typedef struct {
    char code;      /* one of the layout's letters */
    char nullable;
    uint32_t count; /* items of a vector; 0 for a single value */
    uint32_t width; /* bytes of an item; 0 where it varies, or is a bit */
    uint32_t n_null;
    PyObject *validity, *data, *offsets; /* bytes; NULL where the column has none */
    Py_ssize_t used;                     /* of data that grows */
} Column;

enum { FITS, NO_VALUE, OUT_OF_RANGE, OTHER_FORM, NO_MEMORY };

static const struct {
    char code;
    uint8_t width;
} WIDTHS[] = {{'b', 1}, {'h', 2}, {'i', 4}, {'q', 8}, {'B', 1}, {'H', 2}, {'I', 4}, {'Q', 8}, {'e', 2},
              {'f', 4}, {'d', 8}, {'t', 8}, {'u', 16}, {'o', 0}, {'s', 0}, {'y', 0}, {'r', 0}, {'-', 0}};

static inline double as_real(const Number *number)
{
    return number->is_real ? number->real : number->is_negative ? (double)(int64_t)number->bits : (double)number->bits;
}

/* Write a number as one item of a column. */
static inline int put_number(char code, unsigned width, const Number *number, uint8_t *to)
{
    if (code == 'd' || code == 'f' || code == 'e') {
        double real = as_real(number);
        if (code == 'd') {
            memcpy(to, &real, sizeof real);
            return FITS;
        }
        if (code == 'f') {
            float narrow = (float)real;
            memcpy(to, &narrow, sizeof narrow);
            return __builtin_isinf(narrow) && !__builtin_isinf(real) ? OUT_OF_RANGE : FITS;
        }
        if (PyFloat_Pack2(real, (char *)to, 1) == 0)
            return FITS;
        PyErr_Clear();
        return OUT_OF_RANGE;
    }
    if (number->is_real)
        return NO_VALUE;
    unsigned n_bits = 8 * width;
    if (code >= 'a') { /* with a sign */
        int64_t whole = (int64_t)number->bits;
        if ((whole < 0) != number->is_negative || (n_bits < 64 && whole >> (n_bits - 1) != (number->is_negative ? -1 : 0)))
            return OUT_OF_RANGE;
    } else if (number->is_negative || (n_bits < 64 && number->bits >> n_bits != 0)) {
        return OUT_OF_RANGE;
    }
    memcpy(to, &number->bits, width); /* the low bytes come first */
    return FITS;
}

/* Take a moment with a time zone: an extension of type -1. Write microseconds since the epoch. */
static const uint8_t *take_moment(const uint8_t *at, const uint8_t *end, uint8_t *to, int *outcome)
{
    size_t left = (size_t)(end - at);
    int64_t seconds;
    uint32_t nanoseconds = 0;
    if (left >= 6 && at[0] == 0xd6 && at[1] == 0xff) {
        seconds = (int64_t)big_endian(at + 2, 4);
        at += 6;
    } else if (left >= 10 && at[0] == 0xd7 && at[1] == 0xff) {
        uint64_t bits = big_endian(at + 2, 8);
        nanoseconds = (uint32_t)(bits >> 34);
        seconds = (int64_t)(bits & (UINT64_C(0x3ffffffff)));
        at += 10;
    } else if (left >= 15 && at[0] == 0xc7 && at[1] == 12 && at[2] == 0xff) {
        nanoseconds = (uint32_t)big_endian(at + 3, 4);
        seconds = (int64_t)big_endian(at + 7, 8);
        at += 15;
    } else {
        *outcome = OTHER_FORM;
        return NULL;
    }
    int64_t ticks;
    if (__builtin_mul_overflow(seconds, (int64_t)TICKS, &ticks) ||
        __builtin_add_overflow(ticks, (int64_t)(nanoseconds / 1000), &ticks)) {
        *outcome = OUT_OF_RANGE;
        return NULL;
    }
    memcpy(to, &ticks, sizeof ticks);
    return at;
}

/* Add bytes to data that grows. */
static int append(Column *column, const uint8_t *at, size_t size)
{
    Py_ssize_t room = PyBytes_GET_SIZE(column->data), needed = column->used + (Py_ssize_t)size;
    if (needed > INT32_MAX)
        return OUT_OF_RANGE;
    if (needed > room && _PyBytes_Resize(&column->data, 2 * needed) < 0)
        return NO_MEMORY;
    memcpy(PyBytes_AS_STRING(column->data) + column->used, at, size);
    column->used = needed;
    return FITS;
}

static inline void set_bit(PyObject *bitmap, uint32_t row)
{
    ((uint8_t *)PyBytes_AS_STRING(bitmap))[row >> 3] |= (uint8_t)(1u << (row & 7));
}

/* Put the value at `*at` into a column, as its row `row`, and pass over it. */
static int put_value(Column *column, uint32_t row, const uint8_t **at, const uint8_t *end)
{
    const uint8_t *from = *at;
    uint8_t *to = column->width
                      ? (uint8_t *)PyBytes_AS_STRING(column->data) +
                            (size_t)row * column->width * (column->count ? column->count : 1)
                      : NULL;
    int outcome = FITS;
    size_t size = 0;
    if (from >= end)
        return NO_VALUE;
    if (column->code == 'r') {
        *at = skip_value(from, end);
        return *at == NULL ? NO_VALUE : append(column, from, (size_t)(*at - from));
    }
    if (*from == 0xc0) {
        column->n_null++;
        (*at)++;
        return column->nullable ? FITS : NO_VALUE;
    }
    if (column->count) {
        uint64_t n;
        from = take_count(from, end, 0, &n);
        if (from == NULL || n != column->count)
            return NO_VALUE;
        for (uint64_t i = 0; i < n; i++, to += column->width) {
            Number number;
            from = from < end ? take_number(from, end, &number) : NULL;
            if (from == NULL)
                return NO_VALUE;
            outcome = put_number(column->code, column->width, &number, to);
            if (outcome != FITS)
                return outcome;
        }
        *at = from;
    } else if (column->code == 's' || column->code == 'y') {
        from = take_head(from, end, column->code == 's', &size);
        outcome = from == NULL ? NO_VALUE : append(column, from, size);
        *at = from + size;
    } else if (column->code == 'o') {
        if (*from != 0xc2 && *from != 0xc3)
            return NO_VALUE;
        if (*from == 0xc3)
            set_bit(column->data, row);
        (*at)++;
    } else if (column->code == 'u') {
        from = take_head(from, end, 0, &size);
        if (from == NULL || size != 16)
            return NO_VALUE;
        memcpy(to, from, 16);
        *at = from + 16;
    } else if (column->code == 't') {
        *at = take_moment(from, end, to, &outcome);
    } else {
        Number number;
        *at = take_number(from, end, &number);
        outcome = *at == NULL ? NO_VALUE : put_number(column->code, column->width, &number, to);
    }
    if (outcome == FITS && column->nullable)
        set_bit(column->validity, row);
    return outcome;
}

/* Take the head of a stored array: how many fields are behind its tag. Return where they begin, or NULL. */
static const uint8_t *take_tag(const uint8_t *at, const uint8_t *end, uint64_t *n_fields, uint64_t *tag)
{
    Number number = {0};
    if (at >= end)
        return NULL;
    uint64_t length;
    at = take_count(at, end, 0, &length);
    at = at != NULL && length && at < end ? take_number(at, end, &number) : NULL;
    if (at == NULL || number.is_real || number.is_negative)
        return NULL;
    *n_fields = length - 1;
    *tag = number.bits;
    return at;
}

/* Put a stored array into the columns. On an error set where it is: the column, or -1. */
static int put_row(Column *columns, Py_ssize_t n, uint32_t row, const uint8_t *at, const uint8_t *end, Py_ssize_t *where)
{
    uint64_t n_fields, tag;
    at = take_tag(at, end, &n_fields, &tag);
    *where = -1;
    if (at == NULL || n_fields < (uint64_t)n)
        return NO_VALUE;
    for (Py_ssize_t i = 0; i < n; i++) {
        Column *column = &columns[i];
        if (column->code == '-') {
            at = skip_value(at, end);
            if (at == NULL)
                return NO_VALUE;
            continue;
        }
        int outcome = put_value(column, row, &at, end);
        if (outcome != FITS) {
            *where = i;
            return outcome;
        }
        if (column->offsets != NULL)
            ((int32_t *)PyBytes_AS_STRING(column->offsets))[row + 1] = (int32_t)column->used;
    }
    return FITS;
}

static PyObject *zeros(Py_ssize_t size)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, size);
    if (bytes != NULL)
        memset(PyBytes_AS_STRING(bytes), 0, (size_t)size);
    return bytes;
}

/* Read the layout's next word into a column, with room for n rows. Return what follows it, or NULL with an error. */
static const char *next_column(const char *at, Py_ssize_t n, Column *column)
{
    unsigned long count = 0;
    for (; *at >= '0' && *at <= '9' && count < 1000; at++)
        count = 10 * count + (unsigned long)(*at - '0');
    size_t i = 0;
    while (i < sizeof WIDTHS / sizeof *WIDTHS && WIDTHS[i].code != *at)
        i++;
    column->nullable = *at && at[1] == '?';
    if (i == sizeof WIDTHS / sizeof *WIDTHS || (count && strchr("bhiqBHIQefd", *at) == NULL)) {
        PyErr_SetString(PyExc_ValueError, "columns: the layout has a word that is none");
        return NULL;
    }
    column->code = *at;
    column->count = (uint32_t)count;
    column->width = WIDTHS[i].width;
    at += 1 + column->nullable;
    if (column->code == '-')
        return at;
    size_t wide = (size_t)column->width * (count ? count : 1);
    column->data = zeros(column->code == 'o' ? (n + 7) / 8 : wide ? (Py_ssize_t)wide * n : 16 * n + 16);
    if (column->nullable && column->code != 'r')
        column->validity = zeros((n + 7) / 8);
    if (column->code == 's' || column->code == 'y')
        column->offsets = zeros(4 * (n + 1));
    if (column->code == 'r')
        column->used = RAW_HEAD;
    return PyErr_Occurred() ? NULL : at;
}

static int resize(PyObject **bytes, Py_ssize_t size)
{
    return *bytes == NULL || PyBytes_GET_SIZE(*bytes) == size ? 0 : _PyBytes_Resize(bytes, size);
}

/* Return (number of nils, validity, offsets, data) of a column with n rows. */
static PyObject *finished(Column *column, Py_ssize_t n)
{
    Py_ssize_t wide = (Py_ssize_t)column->width * (column->count ? column->count : 1);
    Py_ssize_t size = column->code == 'o' ? (n + 7) / 8 : wide ? wide * n : column->used;
    if (column->code == 'r') {
        uint32_t count = __builtin_bswap32((uint32_t)n);
        PyBytes_AS_STRING(column->data)[0] = (char)0xdd;
        memcpy(PyBytes_AS_STRING(column->data) + 1, &count, sizeof count);
    }
    if (column->n_null == 0)
        Py_CLEAR(column->validity);
    if (resize(&column->data, size) < 0 || resize(&column->validity, (n + 7) / 8) < 0 ||
        resize(&column->offsets, 4 * (n + 1)) < 0)
        return NULL;
    return Py_BuildValue("IOOO", column->n_null, column->validity ? column->validity : Py_None,
                         column->offsets ? column->offsets : Py_None, column->data);
}

static PyObject *failed_at(int outcome, Py_ssize_t column, Py_ssize_t row)
{
    static const char *const words[] = {[NO_VALUE] = "the row is no value of this layout",
                                        [OUT_OF_RANGE] = "a value is out of its column's range",
                                        [OTHER_FORM] = "a value has another form"};
    PyObject *kind = outcome == OUT_OF_RANGE ? PyExc_OverflowError
                     : outcome == OTHER_FORM ? PyExc_LookupError
                                             : PyExc_ValueError;
    if (outcome != NO_MEMORY) {
        PyObject *arguments = Py_BuildValue("(snn)", words[outcome], column, row);
        if (arguments != NULL)
            PyErr_SetObject(kind, arguments);
        Py_XDECREF(arguments);
    }
    return NULL;
}

/* Say where a row of Rows, or a value of a tuple, begins and ends. Return 0, or -1 with an error. */
static int value_at(PyObject *rows, Py_ssize_t i, const uint8_t **at, const uint8_t **end)
{
    if (!PyTuple_CheckExact(rows)) {
        rows_at(rows, i, at, end);
        return 0;
    }
    PyObject *value = PyTuple_GET_ITEM(rows, i);
    if (!PyBytes_CheckExact(value)) {
        PyErr_SetString(PyExc_TypeError, "columns: a value is no bytes");
        return -1;
    }
    *at = (const uint8_t *)PyBytes_AS_STRING(value);
    *end = *at + PyBytes_GET_SIZE(value);
    return 0;
}

/* Put every row that is live into the columns. Return how many, or -1 with an error. */
static Py_ssize_t put_rows(PyObject *rows, Column *columns, Py_ssize_t n, uint64_t tag, int64_t now_ms, PyObject *recode)
{
    Py_ssize_t n_rows = PyObject_Length(rows), row = 0, where = -1;
    for (Py_ssize_t i = 0; i < n_rows; i++) {
        const uint8_t *at, *end;
        uint64_t n_fields, found;
        if (value_at(rows, i, &at, &end) < 0)
            return -1;
        if (end - at >= DEADLINE_BYTES && *at == DEADLINE_BYTE) {
            if ((int64_t)big_endian(at + 1, 8) <= now_ms)
                continue;
            at += DEADLINE_BYTES;
        }
        if (end - at >= 2 && *at == SPLIT_BYTE) { /* its head, behind the note of where its parts are */
            size_t n_note = 2 + (size_t)at[1];
            at = n_note <= (size_t)(end - at) ? at + n_note : end;
        }
        int outcome;
        if (take_tag(at, end, &n_fields, &found) == NULL) {
            outcome = NO_VALUE;
        } else if (found == tag) {
            outcome = put_row(columns, n, (uint32_t)row, at, end, &where);
        } else {
            PyObject *value = PyObject_CallFunction(recode, "y#", (const char *)at, (Py_ssize_t)(end - at));
            if (value == NULL)
                return -1;
            at = PyBytes_CheckExact(value) ? (const uint8_t *)PyBytes_AS_STRING(value) : NULL;
            outcome = at == NULL ? NO_VALUE
                                 : put_row(columns, n, (uint32_t)row, at, at + PyBytes_GET_SIZE(value), &where);
            Py_DECREF(value);
        }
        if (outcome != FITS) {
            failed_at(outcome, where, i);
            return -1;
        }
        row++;
    }
    return row;
}

PyObject *rows_columns(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    const char *layout = n_args == 5 && PyUnicode_Check(args[1]) ? PyUnicode_AsUTF8(args[1]) : NULL;
    if (layout == NULL || !(PyObject_TypeCheck(args[0], &Rows_Type) || PyTuple_CheckExact(args[0]))) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "columns takes Rows or a tuple, a layout, a tag, a time and a function");
        return NULL;
    }
    uint64_t tag = PyLong_AsUnsignedLongLong(args[2]);
    int64_t now_ms = PyErr_Occurred() ? 0 : PyLong_AsLongLong(args[3]);
    if (PyErr_Occurred())
        return NULL;
    Py_ssize_t room = PyObject_Length(args[0]), n = 0, n_rows;
    size_t n_words = 1;
    for (const char *at = layout; *at; at++)
        n_words += *at == ' ';
    Column *columns = PyMem_Calloc(n_words, sizeof *columns);
    PyObject *result = NULL, *list = NULL;
    if (columns == NULL)
        return PyErr_NoMemory();
    for (const char *at = layout; *at; n++) {
        at = next_column(at, room, &columns[n]);
        if (at == NULL) {
            n++;
            goto done;
        }
        if (*at != ' ' && *at) {
            PyErr_SetString(PyExc_ValueError, "columns: the layout's words are not apart");
            n++;
            goto done;
        }
        at += *at == ' ';
    }
    n_rows = put_rows(args[0], columns, n, tag, now_ms, args[4]);
    list = n_rows < 0 ? NULL : PyList_New(0);
    for (Py_ssize_t i = 0; list != NULL && i < n; i++) {
        if (columns[i].code == '-')
            continue;
        PyObject *column = finished(&columns[i], n_rows);
        if (column == NULL || PyList_Append(list, column) < 0)
            Py_CLEAR(list);
        Py_XDECREF(column);
    }
    result = list == NULL ? NULL : Py_BuildValue("nO", n_rows, list);
done:
    for (Py_ssize_t i = 0; i < n; i++) {
        Py_XDECREF(columns[i].data);
        Py_XDECREF(columns[i].validity);
        Py_XDECREF(columns[i].offsets);
    }
    PyMem_Free(columns);
    Py_XDECREF(list);
    return result;
}
