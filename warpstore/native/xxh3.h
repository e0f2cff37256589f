/* XXH3-64 with seed 0, for inputs of at most 128 bytes: the hash of a key, which must never change.
 *
 * Source: the XXH3 section of the xxHash specification (github.com/Cyan4973/xxHash, doc/xxhash_spec.md). Longer inputs
 * go to the xxhash package; a test compares every length with it.
 */

#ifndef WARPSTORE_XXH3_H
#define WARPSTORE_XXH3_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "warpstore reads and writes words in place, which needs a little-endian machine"
#endif

#define XXH3_BYTES_MAX 128

static const uint8_t xxh3_secret[128] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
};

static inline uint64_t xxh3_u64(const void *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

static inline uint32_t xxh3_u32(const void *at)
{
    uint32_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

static inline uint64_t xxh3_rotated(uint64_t word, int bits)
{
    return word << bits | word >> (64 - bits);
}

__extension__ typedef unsigned __int128 xxh3_u128;

static inline uint64_t xxh3_folded_product(uint64_t a, uint64_t b)
{
    xxh3_u128 product = (xxh3_u128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t xxh3_avalanche(uint64_t word)
{
    word = (word ^ word >> 37) * UINT64_C(0x165667919E3779F9);
    return word ^ word >> 32;
}

static inline uint64_t xxh64_avalanche(uint64_t word)
{
    word = (word ^ word >> 33) * UINT64_C(0xC2B2AE3D27D4EB4F);
    word = (word ^ word >> 29) * UINT64_C(0x165667B19E3779F9);
    return word ^ word >> 32;
}

static inline uint64_t xxh3_mixed(const uint8_t *input, size_t secret)
{
    return xxh3_folded_product(xxh3_u64(input) ^ xxh3_u64(xxh3_secret + secret),
                               xxh3_u64(input + 8) ^ xxh3_u64(xxh3_secret + secret + 8));
}

/* Return the XXH3-64 of `size` bytes; size <= XXH3_BYTES_MAX. */
static inline uint64_t xxh3_64(const void *data, size_t size)
{
    const uint8_t *input = data;
    if (size > 16) {
        uint64_t sum = size * UINT64_C(0x9E3779B185EBCA87);
        for (size_t pair = (size - 1) / 32; pair > 0; pair--) {
            sum += xxh3_mixed(input + 16 * pair, 32 * pair);
            sum += xxh3_mixed(input + size - 16 * (pair + 1), 32 * pair + 16);
        }
        sum += xxh3_mixed(input, 0);
        sum += xxh3_mixed(input + size - 16, 16);
        return xxh3_avalanche(sum);
    }
    if (size > 8) {
        uint64_t low = xxh3_u64(input) ^ (xxh3_u64(xxh3_secret + 24) ^ xxh3_u64(xxh3_secret + 32));
        uint64_t high = xxh3_u64(input + size - 8) ^ (xxh3_u64(xxh3_secret + 40) ^ xxh3_u64(xxh3_secret + 48));
        return xxh3_avalanche(size + __builtin_bswap64(low) + high + xxh3_folded_product(low, high));
    }
    if (size > 3) {
        uint64_t word = xxh3_u32(input + size - 4) + ((uint64_t)xxh3_u32(input) << 32);
        word ^= xxh3_u64(xxh3_secret + 8) ^ xxh3_u64(xxh3_secret + 16);
        word ^= xxh3_rotated(word, 49) ^ xxh3_rotated(word, 24);
        word *= UINT64_C(0x9FB21C651E98DF25);
        word ^= (word >> 35) + size;
        word *= UINT64_C(0x9FB21C651E98DF25);
        return word ^ word >> 28;
    }
    if (size > 0) {
        uint32_t word = (uint32_t)input[0] << 16 | (uint32_t)input[size >> 1] << 24 | input[size - 1] |
                        (uint32_t)size << 8;
        return xxh64_avalanche(word ^ (uint64_t)(xxh3_u32(xxh3_secret) ^ xxh3_u32(xxh3_secret + 4)));
    }
    return xxh64_avalanche(xxh3_u64(xxh3_secret + 56) ^ xxh3_u64(xxh3_secret + 64));
}

#endif
