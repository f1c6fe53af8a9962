/*
 * The compute kernel of rainfs: products of a matrix over GF(2^8) with shards, and CRC-32C.
 *
 * This is the one public header.  C reads it as it is; cffi reads it without its preprocessor
 * lines, so it holds plain declarations only.
 *
 * Field: GF(2^8) with the polynomial 0x11d and the generator 2, as reedsolo, ISA-L and RAID-6 use.
 * Every function is pure in its arguments: no allocation, no input or output, no mutable globals.
 * Buffers may have any alignment and any length; outputs must not overlap inputs or each other.
 * Functions that return int return 0, or -1 for arguments that they refuse.
 */
#ifndef RAIN_KERNEL_H
#define RAIN_KERNEL_H

#include <stddef.h>
#include <stdint.h>

enum {
    RAIN_SCALAR = 0,
    RAIN_AVX2 = 1,
    RAIN_AVX512_GFNI = 2,
    RAIN_NEON = 3,
    RAIN_VARIANTS = 4,
    RAIN_MAX_SHARDS = 255
};

/* The name of a variant, or NULL. */
const char *rain_variant_name(int variant);

/* Whether this processor and this build can execute a variant: 1 or 0. */
int rain_variant_runs(int variant);

/* The fastest variant that runs. */
int rain_variant_best(void);

/* Bytes of prepared tables for a matrix of rows x cols, or 0 for arguments out of range. */
size_t rain_gf_tables_bytes(int variant, size_t rows, size_t cols);

/*
 * Expand a row-major matrix of rows x cols coefficients into the tables that a variant multiplies
 * with.  Runs everywhere, also for a variant that this processor cannot execute.
 */
int rain_gf_prepare(int variant, const uint8_t *matrix, size_t rows, size_t cols,
                    uint8_t *tables);

/*
 * out[r][b] = sum over c of matrix[r][c] * in[c][b], for every row r and every b < out_bytes.
 * in[c] has in_bytes[c] <= out_bytes bytes; beyond them it counts as zeros.
 */
int rain_gf_multiply(int variant, const uint8_t *tables, size_t rows, size_t cols,
                     const uint8_t *const *in, const size_t *in_bytes, uint8_t *const *out,
                     size_t out_bytes);

/* out[b] = in[0][b] ^ ... ^ in[cols - 1][b]: the one-row product whose coefficients are all 1. */
int rain_xor(int variant, size_t cols, const uint8_t *const *in, const size_t *in_bytes,
             uint8_t *out, size_t out_bytes);

/* Every out[r] becomes in_bytes <= out_bytes bytes of in, followed by zeros. */
int rain_copy(size_t rows, const uint8_t *in, size_t in_bytes, uint8_t *const *out,
              size_t out_bytes);

/* The CRC-32C of bytes, continuing from crc, the checksum of what came before (0 at the start). */
uint32_t rain_crc32c(uint32_t crc, const uint8_t *bytes, size_t length);

/*
 * The CRC-32C of every page of page_bytes, the last of which may be short, as little-endian
 * 32-bit values: 4 * ceil(length / page_bytes) bytes of crcs.
 */
int rain_crc32c_pages(const uint8_t *bytes, size_t length, size_t page_bytes, uint8_t *crcs);

/* The same without the processor's own instruction: what machines without it run. */
uint32_t rain_crc32c_software(uint32_t crc, const uint8_t *bytes, size_t length);

#endif
