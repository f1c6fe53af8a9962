/*
 * The reference: a product of bytes is two look-ups, one for each nibble, because multiplication
 * by a constant is linear over GF(2).
 *
 * Source: Plank, Greenan, Miller, "Screaming Fast Galois Field Arithmetic Using Intel SIMD
 * Instructions" (FAST 2013).
 */
#include <string.h>

#include "variants.h"

uint8_t rain_gf_product(uint8_t a, uint8_t b)
{
    unsigned product = 0;
    unsigned shifted = a;
    for (int bit = 0; bit < 8; bit++) {
        if (b >> bit & 1)
            product ^= shifted;
        shifted <<= 1;
        if (shifted & 0x100)
            shifted ^= 0x11d;
    }
    return (uint8_t)product;
}

void rain_prepare_nibbles(uint8_t coefficient, uint8_t *table)
{
    for (unsigned x = 0; x < 16; x++) {
        table[x] = rain_gf_product(coefficient, (uint8_t)x);
        table[16 + x] = rain_gf_product(coefficient, (uint8_t)(x << 4));
    }
}

void rain_scalar_multiply(const struct rain_column *columns, size_t cols, uint8_t *const *out,
                          size_t rows, size_t from, size_t to)
{
    for (size_t r = 0; r < rows; r++) {
        uint8_t *row = out[r];
        for (size_t c = 0; c < cols; c++) {
            const uint8_t *in = columns[c].in;
            const uint8_t *low = columns[c].tables + r * RAIN_NIBBLE_BYTES;
            const uint8_t *high = low + 16;
            if (c == 0)
                for (size_t b = from; b < to; b++)
                    row[b] = low[in[b] & 15] ^ high[in[b] >> 4];
            else
                for (size_t b = from; b < to; b++)
                    row[b] ^= low[in[b] & 15] ^ high[in[b] >> 4];
        }
    }
}

void rain_scalar_xor(const struct rain_column *columns, size_t cols, uint8_t *out, size_t from,
                     size_t to)
{
    size_t b = from;
    for (; b + 8 <= to; b += 8) {
        uint64_t sum, word;
        memcpy(&sum, columns[0].in + b, 8);
        for (size_t c = 1; c < cols; c++) {
            memcpy(&word, columns[c].in + b, 8);
            sum ^= word;
        }
        memcpy(out + b, &sum, 8);
    }
    for (; b < to; b++) {
        uint8_t sum = columns[0].in[b];
        for (size_t c = 1; c < cols; c++)
            sum ^= columns[c].in[b];
        out[b] = sum;
    }
}

static int runs_everywhere(void)
{
    return 1;
}

/* Products in strips, so that the columns are read from memory once and not once a row. */
static void multiply(const struct rain_column *columns, size_t cols, uint8_t *const *out,
                     size_t rows, size_t from, size_t to)
{
    const size_t strip = rain_strip_bytes(cols + rows);
    for (size_t start = from; start < to; start += strip) {
        size_t stop = to - start < strip ? to : start + strip;
        rain_scalar_multiply(columns, cols, out, rows, start, stop);
    }
}

const struct rain_variant rain_scalar = {
    .name = "scalar",
    .coefficient_bytes = RAIN_NIBBLE_BYTES,
    .runs = runs_everywhere,
    .prepare = rain_prepare_nibbles,
    .multiply = multiply,
    .xor = rain_scalar_xor,
};
