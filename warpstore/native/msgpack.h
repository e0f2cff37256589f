/* MessagePack, as far as the values of single fields need it: numbers, heads, and what follows a value.
 *
 * A `take_` reads the byte at `at`: there must be one. `skip_value` looks.
 */

#ifndef WARPSTORE_MSGPACK_H
#define WARPSTORE_MSGPACK_H

#include <stdint.h>
#include <string.h>

/* A number of MessagePack: a whole one (negative, or 64 bits without a sign), or a float. */
typedef struct {
    uint64_t bits;
    double real;
    char is_real, is_negative;
} Number;

static inline uint64_t big_endian(const uint8_t *at, unsigned n_bytes)
{
    uint64_t bits = 0;
    memcpy((uint8_t *)&bits + 8 - n_bytes, at, n_bytes);
    return __builtin_bswap64(bits);
}

/* Take a number. Return what follows it, or NULL if there is none. */
static inline const uint8_t *take_number(const uint8_t *at, const uint8_t *end, Number *number)
{
    uint8_t format = *at++;
    *number = (Number){0};
    if (format < 0x80) {
        number->bits = format;
        return at;
    }
    if (format >= 0xe0) {
        number->bits = (uint64_t)(int64_t)(int8_t)format;
        number->is_negative = 1;
        return at;
    }
    if (format < 0xca || format > 0xd3)
        return NULL;
    unsigned n_bytes = format == 0xca ? 4 : format == 0xcb ? 8 : 1u << (format & 3);
    if ((size_t)(end - at) < n_bytes)
        return NULL;
    uint64_t bits = big_endian(at, n_bytes);
    if (format == 0xca) {
        uint32_t half = (uint32_t)bits;
        float real;
        memcpy(&real, &half, sizeof real);
        number->real = real;
        number->is_real = 1;
    } else if (format == 0xcb) {
        memcpy(&number->real, &bits, sizeof bits);
        number->is_real = 1;
    } else if (format >= 0xd0) {
        number->bits = (uint64_t)((int64_t)(bits << (64 - 8 * n_bytes)) >> (64 - 8 * n_bytes));
        number->is_negative = (int64_t)number->bits < 0;
    } else {
        number->bits = bits;
    }
    return at + n_bytes;
}

/* Take the head of a str or bytes. Return where its contents begin, or NULL. */
static inline const uint8_t *take_head(const uint8_t *at, const uint8_t *end, int is_text, size_t *size)
{
    uint8_t format = *at++;
    unsigned n_bytes;
    if (is_text && (format & 0xe0) == 0xa0) {
        *size = format & 0x1f;
        n_bytes = 0;
    } else if (is_text ? format >= 0xd9 && format <= 0xdb : format >= 0xc4 && format <= 0xc6) {
        n_bytes = 1u << (format - (is_text ? 0xd9 : 0xc4));
        if ((size_t)(end - at) < n_bytes)
            return NULL;
        *size = big_endian(at, n_bytes);
    } else {
        return NULL;
    }
    at += n_bytes;
    return (size_t)(end - at) < *size ? NULL : at;
}

/* Return what follows a value, or NULL if it is cut off or none. */
static inline const uint8_t *skip_value(const uint8_t *at, const uint8_t *end)
{
    for (uint64_t left = 1; left; left--) {
        if (at >= end || *at == 0xc1) /* no value begins with it */
            return NULL;
        uint8_t format = *at++;
        uint64_t body = 0;
        unsigned n_length = 0;
        if (format < 0x80 || format >= 0xe0) {
            continue;
        } else if (format < 0x90) {
            left += 2 * (uint64_t)(format & 0x0f);
        } else if (format < 0xa0) {
            left += format & 0x0f;
        } else if (format < 0xc0) {
            body = format & 0x1f;
        } else if (format >= 0xc4 && format <= 0xc9) { /* bytes, extensions */
            n_length = 1u << (format - (format < 0xc7 ? 0xc4 : 0xc7));
            body = format < 0xc7 ? 0 : 1;
        } else if (format >= 0xca && format <= 0xd3) {
            body = format == 0xca ? 4 : format == 0xcb ? 8 : 1u << (format & 3);
        } else if (format >= 0xd4 && format <= 0xd8) {
            body = 1 + (1u << (format - 0xd4));
        } else if (format >= 0xd9 && format <= 0xdb) {
            n_length = 1u << (format - 0xd9);
        } else if (format >= 0xdc) { /* arrays and maps of many */
            unsigned n = format & 1 ? 4 : 2;
            if ((uint64_t)(end - at) < n)
                return NULL;
            left += big_endian(at, n) << (format >= 0xde);
            at += n;
        }
        if (n_length) {
            if ((uint64_t)(end - at) < n_length)
                return NULL;
            body += big_endian(at, n_length);
            at += n_length;
        }
        if ((uint64_t)(end - at) < body)
            return NULL;
        at += body;
    }
    return at;
}

/* Take the head of an array or, if asked for, of a map. Return where its first item begins, or NULL. */
static inline const uint8_t *take_count(const uint8_t *at, const uint8_t *end, int is_map, uint64_t *count)
{
    uint8_t format = *at++;
    unsigned n_bytes = format & 1 ? 4 : 2;
    if ((format & 0xf0) == (is_map ? 0x80 : 0x90)) {
        *count = format & 0x0f;
        return at;
    }
    if ((format | 1) != (is_map ? 0xdf : 0xdd) || (size_t)(end - at) < n_bytes)
        return NULL;
    *count = big_endian(at, n_bytes);
    return at + n_bytes;
}

#endif
