/* The CNI executable: hands its environment, standard input and the pod's namespace to flanneld, and prints what comes back.
 *
 * The conversation is described in flanneld/cni_server.py. When flanneld is away, tartan-cni-fallback beside this file does the
 * same work in a process of its own; STATUS alone says then that the node is not ready. If flanneld went away when it had been
 * asked, CNI_TARTAN_UNANSWERED tells so. No JSON is understood, no memory freed. */
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
static const char large[] = "{\"cniVersion\": \"1.1.0\", \"code\": 6, \"msg\": \"more than 16 MiB on standard input\"}\n";

enum { MOST = 16 << 20 }; /* bytes of standard input, as flanneld takes them */

struct question { /* 12 bytes of head, the environment, standard input */
    char *bytes;
    uint32_t environment, input;
};

static int transfer(int fd, char *bytes, size_t count, int out) {
    for (ssize_t done; count; bytes += done, count -= done)
        if ((done = out ? write(fd, bytes, count) : read(fd, bytes, count)) <= 0) return -1;
    return 0;
}

/* The executable's name and the variables that plugins look at, each with its NUL; then standard input, if a plugin is called. */
static struct question compose(const char *name, int called) {
    size_t room = 12 + strlen(name) + 1, have;
    for (char **each = environ; *each; each++) room += strlen(*each) + 1;
    char *bytes = malloc(room += 1 << 14), *end = stpcpy(bytes + 12, name) + 1;
    for (char **each = environ; *each; each++)
        if (!strncmp(*each, "CNI_", 4)) end = stpcpy(end, *each) + 1;
    struct question question = {.environment = end - bytes - 12};
    have = end - bytes;
    for (ssize_t got; called && bytes && have <= MOST + (1 << 20) && (got = read(0, bytes + have, room - have)) > 0;)
        if ((have += got) == room) bytes = realloc(bytes, room *= 2);
    question.input = have - 12 - question.environment;
    if ((question.bytes = bytes)) memcpy(bytes, "CNI1", 4), memcpy(bytes + 4, &question.environment, 8);
    return question;
}

static int ask(const char *path, struct question question, int netns) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (server < 0 || strlen(path) >= sizeof address.sun_path || !question.bytes) return -1;
    strcpy(address.sun_path, path);
    if (connect(server, (struct sockaddr *)&address, sizeof address)) return -1;
    union { struct cmsghdr head; char room[CMSG_SPACE(sizeof netns)]; } control = {
        {.cmsg_len = CMSG_LEN(sizeof netns), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    memcpy(CMSG_DATA(&control.head), &netns, sizeof netns);
    size_t count = 12 + (size_t)question.environment + question.input;
    struct iovec part = {question.bytes, count};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control};
    message.msg_controllen = netns < 0 ? 0 : sizeof control;
    ssize_t sent = sendmsg(server, &message, MSG_NOSIGNAL);
    return sent < 0 || transfer(server, question.bytes + sent, count - sent, 1) ? -1 : server;
}

int main(int argc, char **argv) {
    const char *slash = strrchr(argc ? argv[0] : "", '/'), *name = slash ? slash + 1 : argc ? argv[0] : "";
    const char *path = getenv("TARTAN_CNI_SOCKET"), *netns = getenv("CNI_NETNS"), *command = getenv("CNI_COMMAND");
    uint32_t answer[3];
    signal(SIGPIPE, SIG_IGN); /* a server that dies is an answer too */
    int pod = netns && *netns ? open(netns, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    struct question question = compose(name, command != NULL);
    if (question.input > MOST) return transfer(1, (char *)large, sizeof large - 1, 1), 1;
    int server = ask(path ? path : "/run/flannel/cni.sock", question, pod);
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
    if (server >= 0) setenv("CNI_TARTAN_UNANSWERED", "1", 1);
    char program[4096];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 32);
    while (length > 0 && program[length - 1] != '/') length--;
    strcpy(program + (length < 0 ? 0 : length), "tartan-cni-fallback");
    int memory = memfd_create("stdin", 0);
    char *input = question.bytes + 12 + question.environment;
    if (memory >= 0 && question.bytes && !transfer(memory, input, question.input, 1) && !lseek(memory, 0, SEEK_SET) &&
        dup2(memory, 0) == 0)
        execl(program, program, name, (char *)NULL);
    printf("{\"cniVersion\": \"1.1.0\", \"code\": 11, \"msg\": \"flanneld is not running, and %s cannot be\"}\n", program);
    return 1;
}
