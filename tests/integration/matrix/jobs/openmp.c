/* OpenMP: the same sums again and again, by all threads, with every kind of schedule.     openmp DATA_FOLDER */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { SIZE = 1 << 20 };
static unsigned long *values;
static int own;
#pragma omp threadprivate(own)

static unsigned long step(unsigned long x) { return x * 6364136223846793005UL + 1442695040888963407UL; }

static unsigned long once(void) {
    unsigned long sum = 0, odd = 0, tasks = 0;
#pragma omp parallel for schedule(static) reduction(+ : sum)
    for (int i = 0; i < SIZE; i++) sum += step(values[i]);
#pragma omp parallel for schedule(dynamic, 4096) reduction(^ : odd)
    for (int i = 0; i < SIZE; i++) odd ^= step(values[i] ^ i);
#pragma omp parallel
#pragma omp single
    for (int part = 0; part < 32; part++)
#pragma omp task shared(tasks)
    {
        unsigned long mine = part;
        for (int i = 0; i < 2000; i++) mine = step(mine);
#pragma omp atomic
        tasks += mine;
    }
    return sum ^ odd ^ tasks;
}

int main(int count, char **arguments) {
    char path[400];
    snprintf(path, sizeof path, "%s/finish", arguments[count - 1]);
    omp_set_num_threads(4);
    values = malloc(SIZE * sizeof *values);
    for (int i = 0; i < SIZE; i++) values[i] = step(i);
#pragma omp parallel
    own = 100 + omp_get_thread_num();
    unsigned long first = once();
    puts("ready");
    fflush(stdout);
    for (int last = 0; !last;) {
        last = access(path, F_OK) == 0;
        int wrong = 0;
        if (once() != first) { puts("wrong: the sums differ"); return 3; }
#pragma omp parallel reduction(+ : wrong)
        wrong += own != 100 + omp_get_thread_num();
        if (wrong) { puts("wrong: state of the threads"); return 3; }
    }
    printf("end %lx\n", first);
    return 0;
}
