/* Makes the system calls that its arguments name, each in a child, and prints what came of it: 0, an errno, or the signal that killed. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static long i386(long number) {
    long result = number;
#ifdef __x86_64__
    __asm__ volatile("int $0x80" : "+a"(result) : "b"(0L), "c"(0L), "d"(0L) : "memory", "r8", "r9", "r10", "r11");
#endif
    if (result < 0) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

static long call(const char *name) {
    struct clone_args arguments = {.exit_signal = 17};
    if (!strcmp(name, "getpid")) return syscall(SYS_getpid);
    if (!strcmp(name, "keyctl")) return syscall(SYS_keyctl, 0, -3, 0);
    if (!strcmp(name, "bpf")) return syscall(SYS_bpf, 0, 0, 0);
    if (!strcmp(name, "mount")) return mount("none", "/tmp", "tmpfs", 0, 0);
    if (!strcmp(name, "newuser")) return unshare(CLONE_NEWUSER);
    if (!strcmp(name, "newuser-clone")) return syscall(SYS_clone, CLONE_NEWUSER | 17, 0, 0, 0, 0);
    if (!strcmp(name, "clone3")) return syscall(SYS_clone3, &arguments, sizeof arguments);
    if (!strcmp(name, "personality")) return personality(ADDR_NO_RANDOMIZE);
    if (!strcmp(name, "vsock")) return socket(40, SOCK_STREAM, 0);
    if (!strcmp(name, "i386-getpid")) return i386(20);
    if (!strcmp(name, "i386-keyctl")) return i386(288);
    if (!strcmp(name, "x32-getpid")) return syscall(0x40000000 | 39);
    errno = EINVAL;
    return -1;
}

int main(int count, char **names) {
    for (int i = 1; i < count; i++) {
        int status;
        fflush(stdout);
        pid_t child = fork();
        if (!child) {
            errno = 0;
            _exit(call(names[i]) < 0 ? errno : 0);
        }
        waitpid(child, &status, 0);
        if (WIFSIGNALED(status))
            printf("%s killed %d\n", names[i], WTERMSIG(status));
        else
            printf("%s %s\n", names[i], WEXITSTATUS(status) ? strerrorname_np(WEXITSTATUS(status)) : "done");
    }
    return 0;
}
