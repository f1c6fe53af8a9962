/*
 * Entry points: check arguments, choose the variant, split requests where short columns end.
 */
#include <string.h>

#include "variants.h"

static const struct rain_variant *const VARIANTS[RAIN_VARIANTS] = {
    [RAIN_SCALAR] = &rain_scalar,
    [RAIN_AVX2] = &rain_avx2,
    [RAIN_AVX512_GFNI] = &rain_avx512_gfni,
    [RAIN_NEON] = &rain_neon,
};

static const struct rain_variant *known(int variant)
{
    return variant >= 0 && variant < RAIN_VARIANTS ? VARIANTS[variant] : NULL;
}

static const struct rain_variant *runnable(int variant)
{
    return rain_variant_runs(variant) ? VARIANTS[variant] : NULL;
}

const char *rain_variant_name(int variant)
{
    const struct rain_variant *chosen = known(variant);
    return chosen ? chosen->name : NULL;
}

int rain_variant_runs(int variant)
{
    const struct rain_variant *chosen = known(variant);
    return chosen && chosen->runs && chosen->runs();
}

int rain_variant_best(void)
{
    if (rain_variant_runs(RAIN_AVX512_GFNI))
        return RAIN_AVX512_GFNI;
    if (rain_variant_runs(RAIN_AVX2))
        return RAIN_AVX2;
    return rain_variant_runs(RAIN_NEON) ? RAIN_NEON : RAIN_SCALAR;
}

static int shaped(size_t rows, size_t cols)
{
    return rows >= 1 && rows <= RAIN_MAX_SHARDS && cols >= 1 && cols <= RAIN_MAX_SHARDS;
}

size_t rain_gf_tables_bytes(int variant, size_t rows, size_t cols)
{
    const struct rain_variant *chosen = known(variant);
    return chosen && shaped(rows, cols) ? rows * cols * chosen->coefficient_bytes : 0;
}

int rain_gf_prepare(int variant, const uint8_t *matrix, size_t rows, size_t cols, uint8_t *tables)
{
    const struct rain_variant *chosen = known(variant);
    if (!chosen || !shaped(rows, cols))
        return -1;
    /* Column by column, the order in which variants consume them. */
    for (size_t c = 0; c < cols; c++)
        for (size_t r = 0; r < rows; r++) {
            chosen->prepare(matrix[r * cols + c], tables);
            tables += chosen->coefficient_bytes;
        }
    return 0;
}

/*
 * List the columns that still have bytes at `from` and return where the first of them ends: up to
 * there they all have bytes.  Without any, the rest up to `end` is zeros.
 */
static size_t columns_at(size_t from, size_t end, size_t cols, const uint8_t *const *in,
                         const size_t *in_bytes, const uint8_t *tables, size_t table_bytes,
                         struct rain_column *columns, size_t *found)
{
    size_t to = end;
    *found = 0;
    for (size_t c = 0; c < cols; c++) {
        if (in_bytes[c] <= from)
            continue;
        columns[*found].in = in[c];
        columns[*found].tables = tables ? tables + c * table_bytes : NULL;
        *found += 1;
        if (in_bytes[c] < to)
            to = in_bytes[c];
    }
    return to;
}

static int fits(size_t cols, const size_t *in_bytes, size_t out_bytes)
{
    for (size_t c = 0; c < cols; c++)
        if (in_bytes[c] > out_bytes)
            return 0;
    return 1;
}

int rain_gf_multiply(int variant, const uint8_t *tables, size_t rows, size_t cols,
                     const uint8_t *const *in, const size_t *in_bytes, uint8_t *const *out,
                     size_t out_bytes)
{
    const struct rain_variant *chosen = runnable(variant);
    if (!chosen || !shaped(rows, cols) || !fits(cols, in_bytes, out_bytes))
        return -1;
    const size_t table_bytes = rows * chosen->coefficient_bytes;
    struct rain_column columns[RAIN_MAX_SHARDS];
    for (size_t from = 0, to; from < out_bytes; from = to) {
        size_t found;
        to = columns_at(from, out_bytes, cols, in, in_bytes, tables, table_bytes, columns, &found);
        if (found)
            chosen->multiply(columns, found, out, rows, from, to);
        else
            for (size_t r = 0; r < rows; r++)
                memset(out[r] + from, 0, to - from);
    }
    return 0;
}

int rain_xor(int variant, size_t cols, const uint8_t *const *in, const size_t *in_bytes,
             uint8_t *out, size_t out_bytes)
{
    const struct rain_variant *chosen = runnable(variant);
    if (!chosen || !shaped(1, cols) || !fits(cols, in_bytes, out_bytes))
        return -1;
    struct rain_column columns[RAIN_MAX_SHARDS];
    for (size_t from = 0, to; from < out_bytes; from = to) {
        size_t found;
        to = columns_at(from, out_bytes, cols, in, in_bytes, NULL, 0, columns, &found);
        if (found)
            chosen->xor(columns, found, out, from, to);
        else
            memset(out + from, 0, to - from);
    }
    return 0;
}

int rain_copy(size_t rows, const uint8_t *in, size_t in_bytes, uint8_t *const *out,
              size_t out_bytes)
{
    if (rows > RAIN_MAX_SHARDS || in_bytes > out_bytes)
        return -1;
    for (size_t r = 0; r < rows; r++) {
        memcpy(out[r], in, in_bytes);
        memset(out[r] + in_bytes, 0, out_bytes - in_bytes);
    }
    return 0;
}
