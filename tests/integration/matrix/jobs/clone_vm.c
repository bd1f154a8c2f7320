/* Two processes that share their memory without being threads: clone(CLONE_VM).     clone_vm DATA_FOLDER */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static volatile long counter;
static char stack[1 << 20];

static int count_up(void *nothing) {
    (void)nothing;
    for (;;) {
        counter++;
        usleep(10000);
    }
    return 0;
}

int main(int count, char **arguments) {
    char path[400];
    snprintf(path, sizeof path, "%s/finish", arguments[count - 1]);
    pid_t child = clone(count_up, stack + sizeof stack, CLONE_VM | SIGCHLD, NULL);
    if (child < 0) { perror("clone"); return 1; }
    printf("ready\n");
    fflush(stdout);
    while (access(path, F_OK)) {
        long before = counter;
        for (int waited = 0; counter == before; waited++) {
            if (waited > 2000) { printf("wrong: memory is not shared\n"); return 3; }
            usleep(10000);
        }
    }
    kill(child, SIGKILL);
    printf("end shared\n");
    return 0;
}
