/* The CNI executable: hands its environment, standard input and the pod's namespace to flanneld, and prints what comes back.
 *
 * The conversation is described in flanneld/cni_server.py. When flanneld is away, tartan-cni-fallback beside this file does the same
 * work in a process of its own; STATUS alone says then that the node is not ready. No JSON is understood here, and no memory is given back. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

extern char **environ;

static const char unready[] = "{\"cniVersion\": \"1.1.0\", \"code\": 50, \"msg\": \"flanneld is not running\"}\n";

static int transfer(int fd, char *bytes, size_t count, int out) {
    for (ssize_t done; count; bytes += done, count -= done)
        if ((done = out ? write(fd, bytes, count) : read(fd, bytes, count)) <= 0) return -1;
    return 0;
}

static char *read_all(int fd, uint32_t *count) {
    size_t room = 1 << 16, have = 0;
    char *bytes = malloc(room);
    for (ssize_t got; bytes && (got = read(fd, bytes + have, room - have)) > 0;)
        if ((have += got) == room) bytes = realloc(bytes, room *= 2);
    *count = have;
    return bytes;
}

/* The executable's name and the variables that plugins look at, each with its NUL. */
static char *said(const char *name, uint32_t *count) {
    size_t size = strlen(name) + 1;
    for (char **each = environ; *each; each++) size += strlen(*each) + 1;
    char *block = malloc(size), *end = stpcpy(block, name) + 1;
    for (char **each = environ; *each; each++)
        if (!strncmp(*each, "CNI_", 4)) end = stpcpy(end, *each) + 1;
    *count = end - block;
    return block;
}

static int ask(const char *path, uint32_t head[3], char *block, char *input, int netns) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (server < 0 || strlen(path) >= sizeof address.sun_path) return -1;
    strcpy(address.sun_path, path);
    if (connect(server, (struct sockaddr *)&address, sizeof address)) return -1;
    union { struct cmsghdr head; char room[CMSG_SPACE(sizeof netns)]; } control = {
        {.cmsg_len = CMSG_LEN(sizeof netns), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    memcpy(CMSG_DATA(&control.head), &netns, sizeof netns);
    struct iovec part = {head, 12};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control};
    message.msg_controllen = netns < 0 ? 0 : sizeof control;
    if (sendmsg(server, &message, MSG_NOSIGNAL) != 12) return -1;
    return transfer(server, block, head[1], 1) || transfer(server, input, head[2], 1) ? -1 : server;
}

int main(int argc, char **argv) {
    const char *slash = strrchr(argc ? argv[0] : "", '/'), *name = slash ? slash + 1 : argc ? argv[0] : "";
    const char *path = getenv("TARTAN_CNI_SOCKET"), *netns = getenv("CNI_NETNS"), *command = getenv("CNI_COMMAND");
    uint32_t head[3], answer[3];
    signal(SIGPIPE, SIG_IGN); /* a server that dies is an answer too */
    memcpy(head, "CNI1", 4);
    char *block = said(name, &head[1]), *input = command ? read_all(0, &head[2]) : calloc(head[2] = 0, 1);
    int pod = netns && *netns ? open(netns, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    int server = ask(path ? path : "/run/flannel/cni.sock", head, block, input, pod);
    if (server >= 0 && !transfer(server, (char *)answer, 12, 0)) {
        char *text = malloc((size_t)answer[1] + answer[2] + 1);
        if (text && !transfer(server, text, (size_t)answer[1] + answer[2], 0) && !transfer(1, text, answer[1], 1)) {
            transfer(2, text + answer[1], answer[2], 1);
            transfer(server, "k", 1, 1);
            return (int)answer[0];
        }
        return 1;
    }
    if (command && !strcmp(command, "STATUS")) return transfer(1, (char *)unready, sizeof unready - 1, 1), 1;
    char program[4096];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 32);
    while (length > 0 && program[length - 1] != '/') length--;
    strcpy(program + (length < 0 ? 0 : length), "tartan-cni-fallback");
    int memory = memfd_create("stdin", 0);
    if (memory >= 0 && !transfer(memory, input, head[2], 1) && !lseek(memory, 0, SEEK_SET) && dup2(memory, 0) == 0)
        execl(program, program, name, (char *)NULL);
    printf("{\"cniVersion\": \"1.1.0\", \"code\": 11, \"msg\": \"flanneld is not running, and %s cannot be\"}\n", program);
    return 1;
}
