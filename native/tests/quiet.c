/* No surprises in a step: no allocation, no system call; the caller's floating-point mode does not matter and is given
 * back; subnormal numbers cost and change nothing; what is not a number does no harm beyond the next reset; a state is
 * plain memory.
 *
 *     quiet FILE... */
#include <fenv.h>
#include <math.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

#include "model.h"

#include "cr_kernels.h"

#if defined(__linux__)
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

enum { STEPS = 20 };

/* Every allocation goes through here; none may while a step runs. */
static int forbidden;
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static void count_allocation(void)
{
    if (forbidden) {
        static const char text[] = "a step allocated memory\n";
        (void)!write(2, text, sizeof text - 1);
        _exit(1);
    }
}

void *malloc(size_t bytes)
{
    count_allocation();
    return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    count_allocation();
    return __libc_calloc(count, bytes);
}

void *realloc(void *memory, size_t bytes)
{
    count_allocation();
    return __libc_realloc(memory, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    count_allocation();
    return __libc_memalign(alignment, bytes);
}

int posix_memalign(void **memory, size_t alignment, size_t bytes)
{
    count_allocation();
    *memory = __libc_memalign(alignment, bytes);
    return *memory ? 0 : 1;
}

static void everything(run *r)
{
    if (!r->model.offline) {
        run_steps(r);
        WANT(cr_run(&r->model, r->block, r->inputs, r->outputs, r->steps) == CR_OK);
    }
    WANT(cr_run_sequence(&r->model, r->block, r->workspace, r->inputs, r->outputs, r->steps) == CR_OK);
    cr_reset(&r->model, r->block);
}

static void test_no_allocation(run *r)
{
    forbidden = 1;
    everything(r);
    forbidden = 0;
}

/* A process that the kernel kills at any system call but read, write and exit. */
static void test_no_system_call(run *r)
{
#if defined(__linux__)
    pid_t child = fork();
    int status;
    WANT(child >= 0);
    if (child == 0) {
        if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT)) _exit(2);
        everything(r);
        syscall(SYS_exit, 0);
    }
    WANT(waitpid(child, &status, 0) == child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 2)
        puts("  (no seccomp here: system calls not tested)");
    else
        WANT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
#else
    (void)r;
#endif
}

static uint32_t outcome(run *r)
{
    cr_reset(&r->model, r->block);
    if (r->model.offline)
        WANT(cr_run_sequence(&r->model, r->block, r->workspace, r->inputs, r->outputs, r->steps) == CR_OK);
    else
        run_steps(r);
    return checksum(r);
}

static void test_any_rounding_mode(run *r)
{
    static const int modes[] = {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO, FE_TONEAREST};
    uint32_t wanted = outcome(r);
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        WANT(fesetround(modes[i]) == 0);
        WANT(outcome(r) == wanted);
        WANT(fegetround() == modes[i]);
    }
#if defined(__SSE2__)
    unsigned before = _mm_getcsr();
    for (unsigned mode = 0; mode < 2; mode++) {
        unsigned set = mode ? before | 0x8040u : before & ~0x8040u; /* subnormals flushed, or not */
        _mm_setcsr(set);
        WANT(outcome(r) == wanted);
        WANT((_mm_getcsr() & 0xffc0u) == (set & 0xffc0u));
        _mm_setcsr(before);
    }
#endif
}

/* Fill the inputs that are no tokens with `x`, and give them back. */
static void with_inputs(run *r, float x, void (*test)(run *, uint32_t), uint32_t wanted)
{
    void *kept[CR_MAX_PORTS];
    for (uint32_t i = 0; i < r->model.header->input_count; i++) {
        size_t count = r->steps * cr_port_width(&r->model.inputs[i]);
        kept[i] = allocate(4 * count);
        memcpy(kept[i], r->inputs[i], 4 * count);
        float *rows = (float *)r->inputs[i];
        for (size_t j = 0; j < count && !r->model.inputs[i].vocabulary; j++) rows[j] = x;
    }
    test(r, wanted);
    for (uint32_t i = 0; i < r->model.header->input_count; i++) {
        free((void *)r->inputs[i]);
        r->inputs[i] = kept[i];
    }
}

static void want_outcome(run *r, uint32_t wanted)
{
    WANT(outcome(r) == wanted);
}

static void run_anything(run *r, uint32_t wanted)
{
    uint32_t once = outcome(r);
    (void)wanted;
    WANT(outcome(r) == once); /* whatever it is, it is the same each time */
}

static uint32_t of_zeros;

static void keep_outcome(run *r, uint32_t wanted)
{
    (void)wanted;
    of_zeros = outcome(r);
}

static void test_strange_inputs(run *r)
{
    static const float strange[] = {NAN, INFINITY, -INFINITY, 3.4e38f, -3.4e38f, 1e-45f};
    uint32_t wanted = outcome(r);
    for (size_t i = 0; i < sizeof strange / sizeof *strange; i++) {
        with_inputs(r, strange[i], run_anything, 0);
        WANT(outcome(r) == wanted); /* a reset recovers */
    }
    with_inputs(r, 0.0f, keep_outcome, 0);
    with_inputs(r, 1e-39f, want_outcome, of_zeros); /* subnormals are zeros */
}

static void test_state_is_memory(run *r)
{
    if (r->model.offline) return;
    size_t bytes = cr_state_size(&r->model);
    unsigned char *kept = allocate(bytes);
    cr_reset(&r->model, r->block);
    run_steps(r);
    memcpy(kept, r->block, bytes);
    run_steps(r);
    uint32_t wanted = checksum(r);
    unsigned char *other = allocate(cr_block_size(&r->model)), *block = r->block;
    cr_reset(&r->model, other);
    memcpy(other, kept, bytes); /* another stream, from the snapshot */
    r->block = other;
    run_steps(r);
    WANT(checksum(r) == wanted);
    r->block = block;
    free(other);
    free(kept);
}

int main(int count, char **names)
{
    for (int i = 1; i < count; i++) {
        size_t bytes;
        unsigned char *file = read_file(names[i], &bytes);
        const char *isa;
        for (size_t number = 0; (isa = cr_isa_name(number)); number++) {
            run r = make_run(file, bytes, isa, STEPS);
            test_no_allocation(&r);
            test_no_system_call(&r);
            test_any_rounding_mode(&r);
            test_strange_inputs(&r);
            test_state_is_memory(&r);
            free_run(&r);
        }
        free(file);
    }
    printf("%d models: no allocation, no system call, modes restored, strange inputs survived\n", count - 1);
    return count < 2;
}
