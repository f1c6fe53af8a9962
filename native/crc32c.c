/*
 * CRC-32C.  The processor's instruction takes 8 bytes in one cycle but answers three cycles later,
 * so three independent streams are kept in flight: three neighbouring pages, or three parts of one
 * buffer whose checksums are then joined by a carry-less multiplication.
 *
 * Source: RFC 3720 appendix B.4; Gopal et al., "Fast CRC Computation for iSCSI Polynomial Using
 * CRC32 Instruction" (Intel, 2011).
 */
#include <string.h>

#include "variants.h"

/* Checksums of one byte whose other nibble is 0; a byte's own is the sum of the two. */
static const uint32_t LOW_NIBBLE[16] = {
    0x00000000, 0xf26b8303, 0xe13b70f7, 0x1350f3f4, 0xc79a971f, 0x35f1141c, 0x26a1e7e8, 0xd4ca64eb,
    0x8ad958cf, 0x78b2dbcc, 0x6be22838, 0x9989ab3b, 0x4d43cfd0, 0xbf284cd3, 0xac78bf27, 0x5e133c24,
};
static const uint32_t HIGH_NIBBLE[16] = {
    0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
    0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
};

uint32_t rain_crc32c_software(uint32_t crc, const uint8_t *bytes, size_t length)
{
    crc = ~crc;
    for (size_t b = 0; b < length; b++) {
        uint8_t index = (uint8_t)(crc ^ bytes[b]);
        crc = crc >> 8 ^ LOW_NIBBLE[index & 15] ^ HIGH_NIBBLE[index >> 4];
    }
    return ~crc;
}

static inline uint64_t word_at(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

static void store_little_endian(uint8_t *bytes, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        bytes[i] = (uint8_t)(value >> 8 * i);
}

#if defined(RAIN_HAVE_X86)
#include <immintrin.h>

#define CRC __attribute__((target("sse4.2,pclmul")))
#define WORD(crc, word) _mm_crc32_u64(crc, word)
#define BYTE(crc, byte) _mm_crc32_u8((uint32_t)(crc), byte)

static int has_instruction(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
}

#elif defined(RAIN_HAVE_NEON)
#include <arm_acle.h>
#include <sys/auxv.h>

#define CRC __attribute__((target("+crc")))
#define WORD(crc, word) __crc32cd((uint32_t)(crc), word)
#define BYTE(crc, byte) __crc32cb((uint32_t)(crc), byte)

static int has_instruction(void)
{
    enum { HWCAP_CRC32_BIT = 1 << 7 };
    return (getauxval(AT_HWCAP) & HWCAP_CRC32_BIT) != 0;
}
#endif

#if defined(RAIN_HAVE_X86) || defined(RAIN_HAVE_NEON)

#if defined(RAIN_HAVE_X86)
/*
 * Parts of a buffer: long ones while there is room for three, then short ones.  The factor moves
 * a checksum past the bytes of one part: x^(8 * bytes - 33) modulo the polynomial, bit-reflected;
 * the 33 make up for the crc32 instruction that reduces the product.
 */
enum { LONG_BYTES = 1024, SHORT_BYTES = 128 };
static const uint32_t PAST_LONG = 0x170076fa;
static const uint32_t PAST_SHORT = 0x0d3b6092;

CRC static inline uint64_t move_past(uint64_t crc, uint32_t factor)
{
    __m128i product = _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)crc),
                                           _mm_cvtsi32_si128((int)factor), 0);
    return WORD(0, (uint64_t)_mm_cvtsi128_si64(product));
}

/* The state after three neighbouring parts of `part` bytes each. */
CRC static inline uint64_t three_parts(uint64_t crc0, const uint8_t *bytes, size_t part,
                                       uint32_t factor)
{
    uint64_t crc1 = 0, crc2 = 0;
    for (size_t b = 0; b < part; b += 8) {
        crc0 = WORD(crc0, word_at(bytes + b));
        crc1 = WORD(crc1, word_at(bytes + part + b));
        crc2 = WORD(crc2, word_at(bytes + 2 * part + b));
    }
    return move_past(move_past(crc0, factor) ^ crc1, factor) ^ crc2;
}
#endif

CRC static uint32_t checksum(uint32_t crc, const uint8_t *bytes, size_t length)
{
    uint64_t state = (uint32_t)~crc;
#if defined(RAIN_HAVE_X86)
    for (; length >= 3 * LONG_BYTES; length -= 3 * LONG_BYTES, bytes += 3 * LONG_BYTES)
        state = three_parts(state, bytes, LONG_BYTES, PAST_LONG);
    for (; length >= 3 * SHORT_BYTES; length -= 3 * SHORT_BYTES, bytes += 3 * SHORT_BYTES)
        state = three_parts(state, bytes, SHORT_BYTES, PAST_SHORT);
#endif
    for (; length >= 8; length -= 8, bytes += 8)
        state = WORD(state, word_at(bytes));
    for (; length; length--, bytes++)
        state = BYTE(state, *bytes);
    return ~(uint32_t)state;
}

/* Three neighbouring pages at once: no joining. */
CRC static void three_pages(const uint8_t *bytes, size_t page_bytes, uint8_t *crcs)
{
    const uint8_t *page1 = bytes + page_bytes, *page2 = page1 + page_bytes;
    uint64_t crc0 = UINT32_MAX, crc1 = UINT32_MAX, crc2 = UINT32_MAX;
    for (size_t b = 0; b < page_bytes; b += 8) {
        crc0 = WORD(crc0, word_at(bytes + b));
        crc1 = WORD(crc1, word_at(page1 + b));
        crc2 = WORD(crc2, word_at(page2 + b));
    }
    store_little_endian(crcs, ~(uint32_t)crc0);
    store_little_endian(crcs + 4, ~(uint32_t)crc1);
    store_little_endian(crcs + 8, ~(uint32_t)crc2);
}

#else

static int has_instruction(void)
{
    return 0;
}

static uint32_t checksum(uint32_t crc, const uint8_t *bytes, size_t length)
{
    return rain_crc32c_software(crc, bytes, length);
}

static void three_pages(const uint8_t *bytes, size_t page_bytes, uint8_t *crcs)
{
    for (int i = 0; i < 3; i++)
        store_little_endian(crcs + 4 * i,
                            rain_crc32c_software(0, bytes + i * page_bytes, page_bytes));
}

#endif

uint32_t rain_crc32c(uint32_t crc, const uint8_t *bytes, size_t length)
{
    return has_instruction() ? checksum(crc, bytes, length)
                             : rain_crc32c_software(crc, bytes, length);
}

int rain_crc32c_pages(const uint8_t *bytes, size_t length, size_t page_bytes, uint8_t *crcs)
{
    if (page_bytes == 0)
        return -1;
    /* That comparison keeps 3 * page_bytes from overflowing. */
    if (has_instruction() && page_bytes % 8 == 0 && page_bytes <= length / 3)
        for (; length >= 3 * page_bytes; length -= 3 * page_bytes) {
            three_pages(bytes, page_bytes, crcs);
            bytes += 3 * page_bytes;
            crcs += 12;
        }
    while (length) {
        size_t page = length < page_bytes ? length : page_bytes;
        store_little_endian(crcs, rain_crc32c(0, bytes, page));
        bytes += page;
        length -= page;
        crcs += 4;
    }
    return 0;
}
