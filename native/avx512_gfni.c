/*
 * AVX-512 with GFNI: multiplication by a constant is an 8 x 8 bit matrix, which vgf2p8affineqb
 * applies to 64 bytes at once.  (Its sibling vgf2p8mulb is of no use: it is bound to the
 * polynomial 0x11b.)  The matrices come as broadcast memory operands and take no registers, so
 * that eight rows of two vectors stay in registers.
 */
#include "variants.h"

/*
 * The instruction takes the parity of (matrix byte 7 - i AND x) for bit i of its result; bit j of
 * that byte therefore says whether coefficient * 2^j has bit i.
 *
 * Source: Intel SDM, GF2P8AFFINEQB.
 */
static void prepare(uint8_t coefficient, uint8_t *table)
{
    for (int i = 0; i < 8; i++)
        table[7 - i] = 0;
    for (int j = 0; j < 8; j++) {
        uint8_t product = rain_gf_product(coefficient, (uint8_t)(1 << j));
        for (int i = 0; i < 8; i++)
            table[7 - i] |= (uint8_t)((product >> i & 1) << j);
    }
}

#ifdef RAIN_HAVE_X86
#include <immintrin.h>
#include <string.h>

#define AVX512 __attribute__((target("avx512f,avx512bw,gfni")))
#define INLINE static inline __attribute__((always_inline))

enum { MOST_ROWS = 8, STEP_BYTES = 128 };

AVX512 INLINE __m512i matrix_at(const uint8_t *table)
{
    long long matrix;
    memcpy(&matrix, table, sizeof matrix);
    return _mm512_set1_epi64(matrix);
}

/* `rows` is a constant wherever this is inlined, so that the sums become registers. */
AVX512 INLINE void multiply_rows(const struct rain_column *columns, size_t cols,
                                 uint8_t *const *out, const size_t rows, size_t skip,
                                 size_t from, size_t to)
{
    size_t b = from;
    for (; to - b >= STEP_BYTES; b += STEP_BYTES) {
        __m512i sum0[MOST_ROWS], sum1[MOST_ROWS];
#pragma GCC unroll 8
        for (size_t r = 0; r < rows; r++)
            sum0[r] = sum1[r] = _mm512_setzero_si512();
        for (size_t c = 0; c < cols; c++) {
            const uint8_t *tables = columns[c].tables + skip;
            __m512i x0 = _mm512_loadu_si512(columns[c].in + b);
            __m512i x1 = _mm512_loadu_si512(columns[c].in + b + 64);
#pragma GCC unroll 8
            for (size_t r = 0; r < rows; r++) {
                __m512i matrix = matrix_at(tables + r * RAIN_AFFINE_BYTES);
                sum0[r] = _mm512_xor_si512(sum0[r], _mm512_gf2p8affine_epi64_epi8(x0, matrix, 0));
                sum1[r] = _mm512_xor_si512(sum1[r], _mm512_gf2p8affine_epi64_epi8(x1, matrix, 0));
            }
        }
#pragma GCC unroll 8
        for (size_t r = 0; r < rows; r++) {
            _mm512_storeu_si512(out[r] + b, sum0[r]);
            _mm512_storeu_si512(out[r] + b + 64, sum1[r]);
        }
    }
    /* What is left: at most two steps of one masked vector. */
    for (; b < to; b += 64) {
        const size_t left = to - b;
        const __mmask64 mask = left >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << left) - 1;
        __m512i sum[MOST_ROWS];
#pragma GCC unroll 8
        for (size_t r = 0; r < rows; r++)
            sum[r] = _mm512_setzero_si512();
        for (size_t c = 0; c < cols; c++) {
            const uint8_t *tables = columns[c].tables + skip;
            __m512i x = _mm512_maskz_loadu_epi8(mask, columns[c].in + b);
#pragma GCC unroll 8
            for (size_t r = 0; r < rows; r++) {
                __m512i matrix = matrix_at(tables + r * RAIN_AFFINE_BYTES);
                sum[r] = _mm512_xor_si512(sum[r], _mm512_gf2p8affine_epi64_epi8(x, matrix, 0));
            }
        }
#pragma GCC unroll 8
        for (size_t r = 0; r < rows; r++)
            _mm512_mask_storeu_epi8(out[r] + b, mask, sum[r]);
    }
}

AVX512 static void multiply_pass(const struct rain_column *columns, size_t cols,
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
    case 4:
        multiply_rows(columns, cols, out, 4, skip, from, to);
        break;
    case 5:
        multiply_rows(columns, cols, out, 5, skip, from, to);
        break;
    case 6:
        multiply_rows(columns, cols, out, 6, skip, from, to);
        break;
    case 7:
        multiply_rows(columns, cols, out, 7, skip, from, to);
        break;
    default:
        multiply_rows(columns, cols, out, 8, skip, from, to);
        break;
    }
}

static void multiply(const struct rain_column *columns, size_t cols, uint8_t *const *out,
                     size_t rows, size_t from, size_t to)
{
    const size_t pass = rain_rows_a_pass(rows, MOST_ROWS);
    const size_t strip = rows <= pass ? to - from : rain_strip_bytes(cols);
    for (size_t start = from; start < to; start += strip) {
        size_t stop = to - start < strip ? to : start + strip;
        for (size_t r = 0; r < rows; r += pass)
            multiply_pass(columns, cols, out + r, rows - r < pass ? rows - r : pass,
                          r * RAIN_AFFINE_BYTES, start, stop);
    }
}

AVX512 static void sum(const struct rain_column *columns, size_t cols, uint8_t *out, size_t from,
                       size_t to)
{
    size_t b = from;
    for (; to - b >= STEP_BYTES; b += STEP_BYTES) {
        __m512i sum0 = _mm512_loadu_si512(columns[0].in + b);
        __m512i sum1 = _mm512_loadu_si512(columns[0].in + b + 64);
        for (size_t c = 1; c < cols; c++) {
            sum0 = _mm512_xor_si512(sum0, _mm512_loadu_si512(columns[c].in + b));
            sum1 = _mm512_xor_si512(sum1, _mm512_loadu_si512(columns[c].in + b + 64));
        }
        _mm512_storeu_si512(out + b, sum0);
        _mm512_storeu_si512(out + b + 64, sum1);
    }
    rain_scalar_xor(columns, cols, out, b, to);
}

static int runs(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("gfni");
}

const struct rain_variant rain_avx512_gfni = {
    .name = "avx512-gfni",
    .coefficient_bytes = RAIN_AFFINE_BYTES,
    .runs = runs,
    .prepare = prepare,
    .multiply = multiply,
    .xor = sum,
};
#else
const struct rain_variant rain_avx512_gfni = {
    .name = "avx512-gfni",
    .coefficient_bytes = RAIN_AFFINE_BYTES,
    .prepare = prepare,
};
#endif
