/* One model, many threads, a block each; to be run with the thread sanitizer.
 *
 *     threads FILE... */
#include <pthread.h>

#include "model.h"

enum { THREADS = 4, STEPS = 20, ROUNDS = 5 };

static void *work(void *argument)
{
    run *r = argument;
    for (int round = 0; round < ROUNDS; round++) {
        cr_reset(&r->model, r->block);
        if (r->model.offline)
            WANT(cr_run_sequence(&r->model, r->block, r->workspace, r->inputs, r->outputs, r->steps) == CR_OK);
        else
            run_steps(r);
    }
    return NULL;
}

int main(int count, char **names)
{
    for (int i = 1; i < count; i++) {
        size_t bytes;
        unsigned char *file = read_file(names[i], &bytes);
        pthread_t threads[THREADS];
        run runs[THREADS];
        for (int k = 0; k < THREADS; k++) runs[k] = make_run(file, bytes, NULL, STEPS);
        for (int k = 1; k < THREADS; k++) runs[k].model = runs[0].model; /* the same file and the same tables */
        for (int k = 0; k < THREADS; k++) WANT(pthread_create(&threads[k], NULL, work, &runs[k]) == 0);
        for (int k = 0; k < THREADS; k++) WANT(pthread_join(threads[k], NULL) == 0);
        for (int k = 1; k < THREADS; k++) WANT(checksum(&runs[k]) == checksum(&runs[0]));
        for (int k = 0; k < THREADS; k++) free_run(&runs[k]);
        free(file);
    }
    printf("%d models: %d threads each\n", count - 1, THREADS);
    return count < 2;
}
