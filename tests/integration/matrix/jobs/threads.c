/* Threads in C: thread-local state, a barrier, robust and recursive mutexes, condition variables, masks and names of
   their own; a process-shared mutex whose owner died.     threads DATA_FOLDER */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { COUNT = 6 };
static __thread unsigned long state;
static __thread char name[32];
static pthread_barrier_t start, stop;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static unsigned long total, results[COUNT];
static int turn;

static void expect(int truth, const char *what) {
    if (!truth) { printf("wrong: %s\n", what); fflush(stdout); _exit(3); }
}

static void *work(void *argument) {
    long number = (long)argument;
    state = number;
    snprintf(name, sizeof name, "worker-%ld", number);
    pthread_setname_np(pthread_self(), name);
    sigset_t mask, found;
    sigemptyset(&mask);
    sigaddset(&mask, SIGRTMIN + (int)number);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    for (unsigned long round = 1;; round++) {
        pthread_barrier_wait(&start);
        state = state * 6364136223846793005UL + 1442695040888963407UL;
        char now[32];
        pthread_getname_np(pthread_self(), now, sizeof now);
        expect(strcmp(now, name) == 0, "name of a thread");
        pthread_sigmask(SIG_SETMASK, NULL, &found);
        expect(sigismember(&found, SIGRTMIN + (int)number) == 1 && sigismember(&found, SIGRTMIN + 7) == 0, "mask");
        pthread_mutex_lock(&lock);
        while (turn != number) pthread_cond_wait(&changed, &lock);
        total = total * 31 + state;
        results[number] = state;
        turn = (turn + 1) % COUNT;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&lock);
        pthread_barrier_wait(&stop);
    }
    return NULL;
}

int main(int count, char **arguments) {
    char path[400];
    snprintf(path, sizeof path, "%s/finish", arguments[count - 1]);
    pthread_mutexattr_t robust;
    pthread_mutexattr_init(&robust);
    pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setpshared(&robust, PTHREAD_PROCESS_SHARED);
    pthread_mutex_t *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutex_init(shared, &robust);
    int told[2];
    expect(pipe(told) == 0, "pipe");
    pid_t owner = fork();
    if (owner == 0) {
        pthread_mutex_lock(shared);
        (void)!write(told[1], "x", 1);
        for (;;) pause();
    }
    char byte;
    expect(read(told[0], &byte, 1) == 1, "read");
    pthread_barrier_init(&start, NULL, COUNT + 1);
    pthread_barrier_init(&stop, NULL, COUNT + 1);
    for (long number = 0; number < COUNT; number++) {
        pthread_t thread;
        expect(pthread_create(&thread, NULL, work, (void *)number) == 0, "pthread_create");
    }
    unsigned long states[COUNT], wanted = 0;
    for (int number = 0; number < COUNT; number++) states[number] = number;
    for (unsigned long round = 1;; round++) {
        int last = access(path, F_OK) == 0;
        pthread_barrier_wait(&start);
        pthread_barrier_wait(&stop);
        for (int number = 0; number < COUNT; number++) {
            states[number] = states[number] * 6364136223846793005UL + 1442695040888963407UL;
            expect(results[number] == states[number], "state of a thread");
            wanted = wanted * 31 + states[number];
        }
        expect(total == wanted, "order of the threads");
        expect(pthread_mutex_trylock(shared) == EBUSY, "mutex of another process");
        if (round == 1) { puts("ready"); fflush(stdout); }
        if (last) break;
        usleep(2000);
    }
    kill(owner, SIGKILL);
    expect(pthread_mutex_lock(shared) == EOWNERDEAD, "robust mutex of a dead process");
    puts("end");
    fflush(stdout);
    _exit(0);
}
