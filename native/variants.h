/*
 * What one instruction set implements; private to the kernel.
 *
 * A variant multiplies ranges in which every listed column has bytes: the dispatcher splits a
 * request where a short column ends, so that no variant knows of zero-extension.
 */
#ifndef RAIN_VARIANTS_H
#define RAIN_VARIANTS_H

#include "rain_kernel.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define RAIN_HAVE_X86 1
#endif
#if defined(__aarch64__) && defined(__GNUC__) && defined(__AARCH64EL__)
#define RAIN_HAVE_NEON 1
#endif

/* Table bytes of one coefficient: products of both nibbles, or an 8 x 8 bit matrix. */
enum { RAIN_NIBBLE_BYTES = 32, RAIN_AFFINE_BYTES = 8 };

/* One column of the matrix: a shard, and its coefficients' tables, one row after another. */
struct rain_column {
    const uint8_t *in;
    const uint8_t *tables;
};

struct rain_variant {
    const char *name;
    size_t coefficient_bytes;
    int (*runs)(void);
    void (*prepare)(uint8_t coefficient, uint8_t *table);
    /* Bytes [from, to) of out[0 .. rows), from cols >= 1 columns. */
    void (*multiply)(const struct rain_column *columns, size_t cols, uint8_t *const *out,
                     size_t rows, size_t from, size_t to);
    /* Bytes [from, to) of out; tables are not looked at. */
    void (*xor)(const struct rain_column *columns, size_t cols, uint8_t *out, size_t from,
                size_t to);
};

/* NULL members where the build cannot compile the variant, except name and prepare. */
extern const struct rain_variant rain_scalar;
extern const struct rain_variant rain_avx2;
extern const struct rain_variant rain_avx512_gfni;
extern const struct rain_variant rain_neon;

/* The product in the field, bit by bit. */
uint8_t rain_gf_product(uint8_t a, uint8_t b);

/* table[x] = coefficient * x and table[16 + x] = coefficient * (x << 4), for x < 16. */
void rain_prepare_nibbles(uint8_t coefficient, uint8_t *table);

/* The scalar reference, which also finishes the last few bytes of wider variants. */
void rain_scalar_multiply(const struct rain_column *columns, size_t cols, uint8_t *const *out,
                          size_t rows, size_t from, size_t to);
void rain_scalar_xor(const struct rain_column *columns, size_t cols, uint8_t *out, size_t from,
                     size_t to);

/*
 * Rows that one pass should compute when at most `most` fit in registers: passes of equal size
 * read the columns no more often than necessary.
 */
static inline size_t rain_rows_a_pass(size_t rows, size_t most)
{
    size_t passes = (rows + most - 1) / most;
    return (rows + passes - 1) / passes;
}

/*
 * Bytes of every column that one round of several passes should cover, so that later passes find
 * the columns in the second-level cache: a multiple of 256.
 */
static inline size_t rain_strip_bytes(size_t cols)
{
    enum { CACHE_BYTES = 128 * 1024, LEAST_BYTES = 1024 };
    size_t strip = CACHE_BYTES / cols / 256 * 256;
    return strip < LEAST_BYTES ? LEAST_BYTES : strip;
}

#endif
