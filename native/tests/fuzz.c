/* A target for libFuzzer: any bytes are refused, or run without harm and in the memory that the file announces, with the
 * same outputs from every instruction set, in steps and in runs.
 *
 *     fuzz [options of libFuzzer] FOLDER... */
#include <sanitizer/allocator_interface.h>
#include <time.h>

#include "model.h"

#include "cr_kernels.h"

enum {
    STEPS = 3,
    MOST_BYTES = 1 << 20, /* a file may announce more; then it is opened, but not run */
    MOST_WORK = 1 << 20,
    MOST_SECONDS = 1,
    LITTLE_WORK = 1 << 14 /* up to here it runs in every way */
};

static _Thread_local int inside; /* of this thread, as libFuzzer has a thread of its own that allocates */

static void refuse_allocation(const volatile void *memory, size_t bytes)
{
    (void)memory;
    if (inside) {
        fprintf(stderr, "the core allocated %zu bytes\n", bytes);
        abort();
    }
}

static void ignore_free(const volatile void *memory)
{
    (void)memory;
}

int LLVMFuzzerInitialize(int *count, char ***arguments);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *count, char ***arguments)
{
    (void)count, (void)arguments;
    __sanitizer_install_malloc_and_free_hooks(refuse_allocation, ignore_free);
    return 0;
}

/* Ordinary numbers with some that are not. */
static void fill(const cr_port *port, void *rows, size_t count)
{
    static const float numbers[] = {0.5f, -1.25f, 3.0f, 1e-40f, -3e38f, 0.0f, 1.0f, -0.0f};
    uint64_t state = count;
    for (size_t i = 0; i < count; i++) {
        uint32_t any = next_number(&state);
        float x = any % 61 == 0 ? (float)(1e300 * 1e300) : any % 61 == 1 ? (float)(1e300 * 1e300 * 0.0) : numbers[any % 8];
        int32_t token = (int32_t)(any % (port->vocabulary ? port->vocabulary : 1));
        memcpy((char *)rows + 4 * i, port->vocabulary ? (const void *)&token : (const void *)&x, 4);
    }
}

/* Everything that a model needs for some steps, in pieces of the very size, so that no byte beyond is touched unseen. */
static void prepare(run *r, size_t steps)
{
    r->steps = steps;
    r->expanded = allocate(cr_expanded_size(&r->model));
    inside = 1;
    if (cr_expanded_size(&r->model)) cr_expand(&r->model, r->expanded);
    inside = 0;
    r->block = allocate(cr_block_size(&r->model));
    r->workspace = allocate(cr_workspace_size(&r->model, steps));
    for (uint32_t i = 0; i < r->model.header->input_count; i++) {
        size_t count = steps * cr_port_width(&r->model.inputs[i]);
        void *rows = allocate(4 * count);
        fill(&r->model.inputs[i], rows, count);
        r->inputs[i] = rows;
    }
    for (uint32_t i = 0; i < r->model.header->output_count; i++) {
        r->output_bytes[i] = 4 * steps * cr_port_width(&r->model.outputs[i]);
        r->outputs[i] = allocate(r->output_bytes[i]);
    }
}

/* Fills memory with something else every time, as what it holds before a reset must not matter. */
static void soil(void *memory, size_t bytes)
{
    static unsigned char with;
    memset(memory, with = (unsigned char)(with * 5 + 77), bytes);
}

static uint32_t outcome(run *r, int way)
{
    uint32_t crc = 0;
    soil(r->block, cr_block_size(&r->model));
    soil(r->workspace, cr_workspace_size(&r->model, r->steps));
    for (uint32_t i = 0; i < r->model.header->output_count; i++) memset(r->outputs[i], 0, r->output_bytes[i]);
    inside = 1;
    cr_reset(&r->model, r->block);
    if (way == 0) {
        WANT(cr_run_sequence(&r->model, r->block, r->workspace, r->inputs, r->outputs, r->steps) ==
             code_of_sequence(&r->model, r->steps));
    } else if (way == 1) {
        WANT(cr_run(&r->model, r->block, r->inputs, r->outputs, r->steps) == CR_OK);
    } else {
        run_steps(r);
    }
    inside = 0;
    for (uint32_t i = 0; i < r->model.header->output_count; i++)
        if (!way || !r->model.outputs[i].final) crc = cr_crc32(crc, r->outputs[i], r->output_bytes[i]);
    return crc;
}

static void want_same(run *r, int way, uint32_t wanted)
{
    static const char *const ways[] = {"in a sequence", "in a run", "in steps"};
    uint32_t crc = outcome(r, way);
    if (crc != wanted) {
        fprintf(stderr, "the same model, other outputs %s, %s\n", ways[way], r->model.kernels->name);
        abort();
    }
}

static uint64_t announced_bytes(const cr_model *model)
{
    uint64_t bytes = (uint64_t)cr_expanded_size(model) + cr_block_size(model) + cr_workspace_size(model, STEPS);
    for (uint32_t i = 0; i < model->header->input_count; i++) bytes += 4 * STEPS * cr_port_width(&model->inputs[i]);
    for (uint32_t i = 0; i < model->header->output_count; i++) bytes += 4 * STEPS * cr_port_width(&model->outputs[i]);
    return bytes;
}

static void use(run *r)
{
    const char *isa;
    int thorough = cr_step_work(&r->model) <= LITTLE_WORK;
    prepare(r, thorough ? STEPS : 1);
    uint32_t whole = outcome(r, 0), streamed = r->model.offline ? 0 : outcome(r, 1);
    if (thorough && !r->model.offline) want_same(r, 2, streamed);
    for (size_t number = 1; thorough && (isa = cr_isa_name(number)); number++) {
        run other = {.steps = 0}; /* opened for these kernels: what is expanded differs */
        WANT(cr_open(&other.model, r->model.file, r->model.header->file_bytes, isa) == CR_OK);
        prepare(&other, STEPS);
        want_same(&other, 0, whole);
        if (!other.model.offline) want_same(&other, 1 + number % 2, streamed);
        free_run(&other);
    }
    free_run(r);
}

/* Seconds of this processor's time, so that nothing else that runs matters. */
static double processor_time(void)
{
    struct timespec now;
    WANT(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now) == 0);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void try_file(const uint8_t *data, size_t size)
{
    run r = {.steps = 0};
    unsigned char *file = allocate(size);
    memcpy(file, data, size);
    inside = 1;
    int code = cr_open(&r.model, file, size, NULL);
    inside = 0;
    WANT(code >= 0 && code < CR_ERROR_COUNT && *cr_error(code));
    if (!code && cr_step_work(&r.model) <= MOST_WORK && announced_bytes(&r.model) <= MOST_BYTES) use(&r);
    free(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    double start = processor_time();
    try_file(data, size);
    if (processor_time() - start > MOST_SECONDS) {
        fprintf(stderr, "an input took %g seconds\n", processor_time() - start);
        abort();
    }
    return 0;
}
