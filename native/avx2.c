/*
 * AVX2: vpshufb looks up 32 nibbles at once.  Two vectors of every column are split into nibbles
 * once, then multiplied for up to four rows whose sums stay in registers.
 */
#include "variants.h"

#ifdef RAIN_HAVE_X86
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))
#define INLINE static inline __attribute__((always_inline))

enum { MOST_ROWS = 4, STEP_BYTES = 64 };

/* `rows` is a constant wherever this is inlined, so that the sums become registers. */
AVX2 INLINE void multiply_rows(const struct rain_column *columns, size_t cols,
                               uint8_t *const *out, const size_t rows, size_t skip,
                               size_t from, size_t to)
{
    const __m256i nibble = _mm256_set1_epi8(15);
    for (size_t b = from; b < to; b += STEP_BYTES) {
        __m256i sum0[MOST_ROWS], sum1[MOST_ROWS];
#pragma GCC unroll 4
        for (size_t r = 0; r < rows; r++)
            sum0[r] = sum1[r] = _mm256_setzero_si256();
        for (size_t c = 0; c < cols; c++) {
            const uint8_t *in = columns[c].in + b;
            const uint8_t *tables = columns[c].tables + skip;
            __m256i x0 = _mm256_loadu_si256((const __m256i *)in);
            __m256i x1 = _mm256_loadu_si256((const __m256i *)(in + 32));
            __m256i low0 = _mm256_and_si256(x0, nibble);
            __m256i low1 = _mm256_and_si256(x1, nibble);
            __m256i high0 = _mm256_and_si256(_mm256_srli_epi64(x0, 4), nibble);
            __m256i high1 = _mm256_and_si256(_mm256_srli_epi64(x1, 4), nibble);
#pragma GCC unroll 4
            for (size_t r = 0; r < rows; r++) {
                const __m128i *table = (const __m128i *)(tables + r * RAIN_NIBBLE_BYTES);
                __m256i of_low = _mm256_broadcastsi128_si256(_mm_loadu_si128(table));
                __m256i of_high = _mm256_broadcastsi128_si256(_mm_loadu_si128(table + 1));
                sum0[r] = _mm256_xor_si256(sum0[r], _mm256_shuffle_epi8(of_low, low0));
                sum1[r] = _mm256_xor_si256(sum1[r], _mm256_shuffle_epi8(of_low, low1));
                sum0[r] = _mm256_xor_si256(sum0[r], _mm256_shuffle_epi8(of_high, high0));
                sum1[r] = _mm256_xor_si256(sum1[r], _mm256_shuffle_epi8(of_high, high1));
            }
        }
#pragma GCC unroll 4
        for (size_t r = 0; r < rows; r++) {
            _mm256_storeu_si256((__m256i *)(out[r] + b), sum0[r]);
            _mm256_storeu_si256((__m256i *)(out[r] + b + 32), sum1[r]);
        }
    }
}

AVX2 static void multiply_pass(const struct rain_column *columns, size_t cols,
                               uint8_t *const *out, size_t rows, size_t skip, size_t from,
                               size_t to)
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

AVX2 static void sum(const struct rain_column *columns, size_t cols, uint8_t *out, size_t from,
                     size_t to)
{
    size_t b = from;
    for (; b + 128 <= to; b += 128) {
        const __m256i *in = (const __m256i *)(columns[0].in + b);
        __m256i sum0 = _mm256_loadu_si256(in);
        __m256i sum1 = _mm256_loadu_si256(in + 1);
        __m256i sum2 = _mm256_loadu_si256(in + 2);
        __m256i sum3 = _mm256_loadu_si256(in + 3);
        for (size_t c = 1; c < cols; c++) {
            in = (const __m256i *)(columns[c].in + b);
            sum0 = _mm256_xor_si256(sum0, _mm256_loadu_si256(in));
            sum1 = _mm256_xor_si256(sum1, _mm256_loadu_si256(in + 1));
            sum2 = _mm256_xor_si256(sum2, _mm256_loadu_si256(in + 2));
            sum3 = _mm256_xor_si256(sum3, _mm256_loadu_si256(in + 3));
        }
        __m256i *to_here = (__m256i *)(out + b);
        _mm256_storeu_si256(to_here, sum0);
        _mm256_storeu_si256(to_here + 1, sum1);
        _mm256_storeu_si256(to_here + 2, sum2);
        _mm256_storeu_si256(to_here + 3, sum3);
    }
    rain_scalar_xor(columns, cols, out, b, to);
}

static int runs(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") != 0;
}

const struct rain_variant rain_avx2 = {
    .name = "avx2",
    .coefficient_bytes = RAIN_NIBBLE_BYTES,
    .runs = runs,
    .prepare = rain_prepare_nibbles,
    .multiply = multiply,
    .xor = sum,
};
#else
const struct rain_variant rain_avx2 = {
    .name = "avx2",
    .coefficient_bytes = RAIN_NIBBLE_BYTES,
    .prepare = rain_prepare_nibbles,
};
#endif
