/*
 * NEON (AArch64, where it is always present): vqtbl1q looks up 16 nibbles at once.
 */
#include "variants.h"

#ifdef RAIN_HAVE_NEON
#include <arm_neon.h>

#define INLINE static inline __attribute__((always_inline))

enum { MOST_ROWS = 4, STEP_BYTES = 32 };

/* `rows` is a constant wherever this is inlined, so that the sums become registers. */
INLINE void multiply_rows(const struct rain_column *columns, size_t cols, uint8_t *const *out,
                          const size_t rows, size_t skip, size_t from, size_t to)
{
    const uint8x16_t nibble = vdupq_n_u8(15);
    for (size_t b = from; b < to; b += STEP_BYTES) {
        uint8x16_t sum0[MOST_ROWS], sum1[MOST_ROWS];
#pragma GCC unroll 4
        for (size_t r = 0; r < rows; r++)
            sum0[r] = sum1[r] = vdupq_n_u8(0);
        for (size_t c = 0; c < cols; c++) {
            const uint8_t *tables = columns[c].tables + skip;
            uint8x16_t x0 = vld1q_u8(columns[c].in + b);
            uint8x16_t x1 = vld1q_u8(columns[c].in + b + 16);
            uint8x16_t low0 = vandq_u8(x0, nibble);
            uint8x16_t low1 = vandq_u8(x1, nibble);
            uint8x16_t high0 = vshrq_n_u8(x0, 4);
            uint8x16_t high1 = vshrq_n_u8(x1, 4);
#pragma GCC unroll 4
            for (size_t r = 0; r < rows; r++) {
                uint8x16_t of_low = vld1q_u8(tables + r * RAIN_NIBBLE_BYTES);
                uint8x16_t of_high = vld1q_u8(tables + r * RAIN_NIBBLE_BYTES + 16);
                sum0[r] = veorq_u8(sum0[r], vqtbl1q_u8(of_low, low0));
                sum1[r] = veorq_u8(sum1[r], vqtbl1q_u8(of_low, low1));
                sum0[r] = veorq_u8(sum0[r], vqtbl1q_u8(of_high, high0));
                sum1[r] = veorq_u8(sum1[r], vqtbl1q_u8(of_high, high1));
            }
        }
#pragma GCC unroll 4
        for (size_t r = 0; r < rows; r++) {
            vst1q_u8(out[r] + b, sum0[r]);
            vst1q_u8(out[r] + b + 16, sum1[r]);
        }
    }
}

static void multiply_pass(const struct rain_column *columns, size_t cols, uint8_t *const *out,
                          size_t rows, size_t skip, size_t from, size_t to)
{
    switch (rows) {
    case 1:
        multiply_rows(columns, cols, out, 1, skip, from, to);
        break;
    case 2:
        multiply_rows(columns, cols, out, 2, skip, from, to);
        break;
    case 3:
        multiply_rows(columns, cols, out, 3, skip, from, to);
        break;
    default:
        multiply_rows(columns, cols, out, 4, skip, from, to);
        break;
    }
}

static void multiply(const struct rain_column *columns, size_t cols, uint8_t *const *out,
                     size_t rows, size_t from, size_t to)
{
    const size_t whole = from + (to - from) / STEP_BYTES * STEP_BYTES;
    const size_t pass = rain_rows_a_pass(rows, MOST_ROWS);
    const size_t strip = rows <= pass ? whole - from : rain_strip_bytes(cols);
    for (size_t start = from; start < whole; start += strip) {
        size_t stop = whole - start < strip ? whole : start + strip;
        for (size_t r = 0; r < rows; r += pass)
            multiply_pass(columns, cols, out + r, rows - r < pass ? rows - r : pass,
                          r * RAIN_NIBBLE_BYTES, start, stop);
    }
    if (whole < to)
        rain_scalar_multiply(columns, cols, out, rows, whole, to);
}

static void sum(const struct rain_column *columns, size_t cols, uint8_t *out, size_t from,
                size_t to)
{
    size_t b = from;
    for (; b + STEP_BYTES <= to; b += STEP_BYTES) {
        uint8x16_t sum0 = vld1q_u8(columns[0].in + b);
        uint8x16_t sum1 = vld1q_u8(columns[0].in + b + 16);
        for (size_t c = 1; c < cols; c++) {
            sum0 = veorq_u8(sum0, vld1q_u8(columns[c].in + b));
            sum1 = veorq_u8(sum1, vld1q_u8(columns[c].in + b + 16));
        }
        vst1q_u8(out + b, sum0);
        vst1q_u8(out + b + 16, sum1);
    }
    rain_scalar_xor(columns, cols, out, b, to);
}

static int runs(void)
{
    return 1;
}

const struct rain_variant rain_neon = {
    .name = "neon",
    .coefficient_bytes = RAIN_NIBBLE_BYTES,
    .runs = runs,
    .prepare = rain_prepare_nibbles,
    .multiply = multiply,
    .xor = sum,
};
#else
const struct rain_variant rain_neon = {
    .name = "neon",
    .coefficient_bytes = RAIN_NIBBLE_BYTES,
    .prepare = rain_prepare_nibbles,
};
#endif
