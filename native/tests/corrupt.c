/* Damage model files in every way and try to use them; run with address and undefined-behavior sanitizers.
 *
 *     corrupt FILE...
 *
 * Every byte of a file is set to other values (all 255 if the file is small, else each single bit flipped, 0x00 and
 * 0xff), and the file is cut at every length; once as it is, once with the checksums made to match again. Either it is
 * refused, or it runs: no third thing may happen. As it is, every damage must be refused. The environment's CORRUPT_EVERY
 * says which of them to try: each sixteenth unless it says otherwise, 1 for all. */
#include "model.h"

#include "cr_kernels.h"

enum { STEPS = 3, SMALL = 1400, TRIES = 40000 };

static unsigned long refused, accepted, runs, damages, every = 16;

/* Whether to try the next damage: one of every so many, at another place of each. */
static int is_due(void)
{
    damages++;
    return damages / every % every == damages % every;
}

static void fail(const char *what, const char *name, size_t at, int value)
{
    fprintf(stderr, "%s: %s at byte %zu, value %d\n", name, what, at, value);
    exit(1);
}

/* Run an accepted model, on ordinary and on hostile input. */
static void use(cr_model *model)
{
    void *expanded = expand(model);
    uint32_t inputs = model->header->input_count, outputs = model->header->output_count;
    const float values[4] = {0.5f, -1e38f, (float)(1e300 * 1e300), 0.0f};
    void *block = allocate(cr_block_size(model));
    void *workspace = allocate(cr_workspace_size(model, STEPS));
    const void *from[CR_MAX_PORTS];
    float *to[CR_MAX_PORTS];
    for (uint32_t i = 0; i < inputs; i++) {
        size_t width = cr_port_width(&model->inputs[i]);
        float *rows = allocate(4 * STEPS * width);
        for (size_t j = 0; j < STEPS * width; j++) {
            float x = values[j % 4];
            if (j % 7 == 6) x = values[2] - values[2];
            rows[j] = x;
        }
        if (model->inputs[i].vocabulary)
            for (uint32_t t = 0; t < STEPS; t++)
                ((int32_t *)(void *)rows)[t] = (int32_t)(t % model->inputs[i].vocabulary);
        from[i] = rows;
    }
    for (uint32_t i = 0; i < outputs; i++) {
        size_t rows = cr_is_offline(model) ? cr_output_rows(model, i, STEPS) : STEPS;
        to[i] = allocate(4 * rows * cr_port_width(&model->outputs[i]));
    }
    cr_reset(model, block);
    if (!cr_is_offline(model) && cr_run(model, block, from, to, STEPS)) abort();
    if (cr_run_sequence(model, block, workspace, from, to, STEPS) != code_of_sequence(model, STEPS)) abort();
    for (uint32_t i = 0; i < inputs; i++) free((void *)from[i]);
    for (uint32_t i = 0; i < outputs; i++) free(to[i]);
    free(workspace);
    free(block);
    free(expanded);
    runs++;
}

static void repair(unsigned char *file, size_t bytes)
{
    cr_header header;
    if (bytes < sizeof header) return;
    memcpy(&header, file, sizeof header);
    header.file_bytes = bytes;
    header.body_crc = cr_crc32(0, file + sizeof header, bytes - sizeof header);
    header.header_crc = 0;
    header.header_crc = cr_crc32(0, &header, sizeof header);
    memcpy(file, &header, sizeof header);
}

/* `file` has exactly `bytes` bytes of memory, so that the sanitizer sees every read beyond. */
static int try_file(const unsigned char *file, size_t bytes)
{
    cr_model model;
    const char *isa = cr_isa_name(accepted % 4); /* in turn; NULL, the best, where there are fewer */
    int code = cr_open(&model, file, bytes, isa);
    if (code < 0 || code >= CR_ERROR_COUNT || !*cr_error(code)) abort();
    if (code) {
        refused++;
        return 0;
    }
    accepted++;
    use(&model);
    return 1;
}

static void try_values(const char *name, const unsigned char *good, size_t bytes)
{
    unsigned char *file = allocate(bytes);
    memcpy(file, good, bytes);
    for (size_t at = 0; at < bytes; at++) {
        for (int change = 1; change < 256; change++) {
            int single_bit = (change & (change - 1)) == 0;
            if (bytes > SMALL && !single_bit && change != good[at] && change != (good[at] ^ 0xff)) continue;
            if (!is_due()) continue;
            file[at] = good[at] ^ (unsigned char)change;
            if (try_file(file, bytes)) fail("damage was not noticed", name, at, file[at]);
            repair(file, bytes);
            try_file(file, bytes);
            memcpy(file, good, sizeof(cr_header));
            file[at] = good[at];
        }
    }
    free(file);
}

static void try_lengths(const char *name, const unsigned char *good, size_t bytes)
{
    for (size_t length = 0; length < bytes; length++) {
        if (!is_due()) continue;
        unsigned char *file = allocate(length);
        memcpy(file, good, length);
        if (try_file(file, length)) fail("truncation was not noticed", name, length, 0);
        repair(file, length);
        if (try_file(file, length)) fail("truncation with good checksums was not noticed", name, length, 0);
        free(file);
    }
}

static uint32_t next_random(void)
{
    static uint64_t state = 1;
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(state >> 33);
}

static void try_words(const unsigned char *good, size_t bytes)
{
    static const uint32_t limits[] = {0xffffffffu, 0x80000000u, 0x7fffffffu, 0x10000u, 0x100000u, 0x1000000u, 64u, 0u};
    unsigned char *file = allocate(bytes);
    for (unsigned long i = 0; i < TRIES / every; i++) {
        memcpy(file, good, bytes);
        for (uint32_t words = 1 + next_random() % 4; words; words--) {
            size_t at = 4 * (next_random() % (bytes / 4));
            uint32_t value, kind = next_random() % 4;
            memcpy(&value, file + at, 4);
            if (kind == 0) value = limits[next_random() % 8];
            if (kind == 1) value = next_random() % 16;
            if (kind == 2) value += next_random() % 5 - 2;
            if (kind == 3) memcpy(&value, good + 4 * (next_random() % (bytes / 4)), 4);
            memcpy(file + at, &value, 4);
        }
        repair(file, bytes);
        try_file(file, bytes);
    }
    free(file);
}

int main(int count, char **names)
{
    const char *given = getenv("CORRUPT_EVERY");
    if (given) every = strtoul(given, NULL, 10);
    if (!every) every = 1;
    for (int i = 1; i < count; i++) {
        size_t bytes;
        unsigned char *buffer = read_file(names[i], &bytes);
        if (!try_file(buffer, bytes)) fail("a good file was refused", names[i], bytes, 0);
        try_values(names[i], buffer, bytes);
        try_lengths(names[i], buffer, bytes);
        try_words(buffer, bytes);
        free(buffer);
        printf("%s: %zu bytes\n", names[i], bytes);
    }
    printf("%lu refused, %lu accepted, %lu run safely\n", refused, accepted, runs);
    return count < 2;
}
