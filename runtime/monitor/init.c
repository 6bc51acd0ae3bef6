/* Process 1 of a container with `--init`. See init.h. */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const int OWN[] = {SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP}; /* faults: never anybody else's */

static void become(char **command, const sigset_t *before) {
    setpgid(0, 0);
    tcsetpgrp(STDIN_FILENO, getpid()); /* where there is a terminal, its keys are the command's; SIGTTOU is blocked */
    sigprocmask(SIG_SETMASK, before, NULL);
    execvp(command[0], command);
    int why = errno;
    dprintf(STDERR_FILENO, "exec %s failed: %s\n", command[0], strerror(why));
    _exit(why == ENOENT ? 127 : 126);
}

/* The child's exit code once it has ended, -1 before. */
static int reap(pid_t child) {
    int status, code = -1;
    for (pid_t ended; (ended = waitpid(-1, &status, WNOHANG)) > 0;)
        if (ended == child) code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    return code;
}

int init_run(char **command) {
    sigset_t all, before;
    sigfillset(&all);
    for (unsigned i = 0; i < sizeof OWN / sizeof *OWN; i++) sigdelset(&all, OWN[i]);
    sigprocmask(SIG_SETMASK, &all, &before);
    pid_t child = fork();
    if (!child) become(command, &before);
    if (child < 0) return 126;
    for (;;) {
        int number = sigwaitinfo(&all, NULL), code;
        if (number == SIGCHLD && (code = reap(child)) >= 0) return code;
        if (number > 0 && number != SIGCHLD && number != SIGTTIN && number != SIGTTOU) kill(child, number);
    }
}

int init_pause(void) {
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    for (int number; (number = sigwaitinfo(&all, NULL)) != SIGTERM && number != SIGINT;)
        if (number == SIGCHLD) reap(0);
    return 0;
}
