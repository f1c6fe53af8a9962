/*
 * A program that holds every variant this processor runs to the scalar reference, on exactly
 * sized buffers: for sanitizers, and for processors that only an emulator offers.
 *
 * In native/:
 *   cc -std=c11 -O2 -g -fsanitize=address,undefined -o /tmp/check *.c && /tmp/check
 *   aarch64-linux-gnu-gcc -std=c11 -O3 -static -o /tmp/check *.c && qemu-aarch64 /tmp/check
 *
 * (Bochs up to 2.7 computes GF2P8AFFINEQB with the parity inverted; its later versions do not.)
 *
 * usage: check [ROUNDS [SEED]]; prints the seed, and "ok" after the variants that it tried.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rain_kernel.h"

enum { MOST_ROWS = 20, MOST_COLS = 24, MOST_BYTES = 5000, GUARD = 0xee };

static uint32_t state;

static uint32_t random32(void)
{
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

static size_t below(size_t bound)
{
    return random32() % bound;
}

static void *allocated(size_t bytes)
{
    void *memory = malloc(bytes ? bytes : 1);
    if (!memory) {
        puts("out of memory");
        exit(2);
    }
    return memory;
}

static uint8_t *random_bytes(size_t bytes)
{
    uint8_t *memory = allocated(bytes);
    for (size_t i = 0; i < bytes; i++)
        memory[i] = (uint8_t)random32();
    return memory;
}

static void expect(int fine, const char *what, const char *who, size_t rows, size_t cols,
                   size_t bytes)
{
    if (fine)
        return;
    printf("FAILED %s by %s: %zu rows, %zu columns, %zu bytes\n", what, who, rows, cols, bytes);
    exit(1);
}

static uint8_t *tables_of(int variant, const uint8_t *matrix, size_t rows, size_t cols)
{
    uint8_t *tables = allocated(rain_gf_tables_bytes(variant, rows, cols));
    rain_gf_prepare(variant, matrix, rows, cols, tables);
    return tables;
}

static void check_products(int variant)
{
    const char *name = rain_variant_name(variant);
    const size_t rows = 1 + below(MOST_ROWS), cols = 1 + below(MOST_COLS);
    const size_t bytes = below(3) ? below(600) : below(MOST_BYTES);
    uint8_t *matrix = random_bytes(rows * cols);
    for (size_t i = 0; i < rows * cols; i++)
        if (below(4) == 0)
            matrix[i] = (uint8_t)below(2);

    /* Buffers end where their memory ends; they start `shift` bytes into it. */
    uint8_t *memory[MOST_COLS], *found[MOST_ROWS], *wanted[MOST_ROWS];
    const uint8_t *in[MOST_COLS];
    uint8_t *out[MOST_ROWS];
    size_t in_bytes[MOST_COLS], shift[MOST_ROWS];
    for (size_t c = 0; c < cols; c++) {
        const size_t start = below(64);
        in_bytes[c] = below(3) ? bytes : below(bytes + 1);
        memory[c] = random_bytes(start + in_bytes[c]);
        in[c] = memory[c] + start;
    }
    for (size_t r = 0; r < rows; r++) {
        shift[r] = below(64);
        found[r] = allocated(shift[r] + bytes);
        memset(found[r], GUARD, shift[r]);
        out[r] = found[r] + shift[r];
        wanted[r] = allocated(bytes);
    }

    uint8_t *tables = tables_of(variant, matrix, rows, cols);
    uint8_t *reference = tables_of(RAIN_SCALAR, matrix, rows, cols);
    expect(!rain_gf_multiply(variant, tables, rows, cols, in, in_bytes, out, bytes) &&
               !rain_gf_multiply(RAIN_SCALAR, reference, rows, cols, in, in_bytes, wanted, bytes),
           "product refused", name, rows, cols, bytes);
    for (size_t r = 0; r < rows; r++) {
        expect(!memcmp(out[r], wanted[r], bytes), "product", name, rows, cols, bytes);
        for (size_t i = 0; i < shift[r]; i++)
            expect(found[r][i] == GUARD, "bytes before", name, rows, cols, bytes);
    }
    expect(!rain_xor(variant, cols, in, in_bytes, out[0], bytes) &&
               !rain_xor(RAIN_SCALAR, cols, in, in_bytes, wanted[0], bytes),
           "sum refused", name, 1, cols, bytes);
    expect(!memcmp(out[0], wanted[0], bytes), "sum", name, 1, cols, bytes);

    for (size_t c = 0; c < cols; c++)
        free(memory[c]);
    for (size_t r = 0; r < rows; r++) {
        free(found[r]);
        free(wanted[r]);
    }
    free(tables);
    free(reference);
    free(matrix);
}

static void check_checksums(void)
{
    const size_t bytes = below(4 * MOST_BYTES), start = below(64);
    const size_t page = below(2) ? 8 * (1 + below(600)) : 1 + below(MOST_BYTES);
    uint8_t *memory = random_bytes(start + bytes);
    const uint8_t *content = memory + start;
    const uint32_t before = random32();
    expect(rain_crc32c(before, content, bytes) == rain_crc32c_software(before, content, bytes),
           "crc32c", "this processor", 1, 1, bytes);

    const size_t pages = (bytes + page - 1) / page;
    uint8_t *crcs = allocated(4 * pages);
    rain_crc32c_pages(content, bytes, page, crcs);
    for (size_t p = 0; p < pages; p++) {
        const size_t length = bytes - p * page < page ? bytes - p * page : page;
        const uint32_t crc = rain_crc32c_software(0, content + p * page, length);
        for (int i = 0; i < 4; i++)
            expect(crcs[4 * p + (size_t)i] == (uint8_t)(crc >> 8 * i), "crc32c of pages",
                   "this processor", pages, 1, bytes);
    }
    free(crcs);
    free(memory);
}

int main(int argc, char **argv)
{
    const unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000;
    state = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 2463534242u;
    if (state == 0)
        state = 1;
    printf("seed %lu\n", (unsigned long)state);
    for (int variant = 0; variant < RAIN_VARIANTS; variant++) {
        if (!rain_variant_runs(variant))
            continue;
        for (unsigned long round = 0; round < rounds; round++)
            check_products(variant);
        printf("%s\n", rain_variant_name(variant));
    }
    for (unsigned long round = 0; round < rounds; round++)
        check_checksums();
    puts("crc32c\nok");
    return 0;
}
