/* CRC-32, eight bytes at a time from a table of one entry for each value of each of their 16 half bytes. */
#include <string.h>

#include "cr.h"

/* of[i][v]: what the half byte v gives after i more half bytes. 1 KB, for small stacks. */
typedef struct {
    uint32_t of[16][16];
} cr_crc_table;

static cr_crc_table cr_make_crc_table(void)
{
    cr_crc_table table;
    for (uint32_t v = 0; v < 16; v++) {
        uint32_t c = v;
        for (int bit = 0; bit < 4; bit++) c = (c >> 1) ^ (c & 1 ? 0xedb88320u : 0);
        table.of[0][v] = c;
    }
    for (int i = 1; i < 16; i++)
        for (int v = 0; v < 16; v++) table.of[i][v] = table.of[i - 1][v] >> 4 ^ table.of[0][table.of[i - 1][v] & 15];
    return table;
}

uint32_t cr_crc32(uint32_t crc, const void *data, size_t bytes)
{
    const cr_crc_table table = cr_make_crc_table();
    const unsigned char *p = data;
    crc = ~crc;
    for (; bytes >= 8; bytes -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        word ^= crc;
        crc = 0;
        for (int i = 0; i < 16; i++) crc ^= table.of[15 - i][word >> 4 * i & 15];
    }
    for (; bytes; bytes--, p++) {
        crc = crc >> 4 ^ table.of[0][(crc ^ *p) & 15];
        crc = crc >> 4 ^ table.of[0][(crc ^ *p >> 4) & 15];
    }
    return ~crc;
}
