/* The monitor: parent of one container's first process, or of one process that was added to a container (exec).
 *
 * It outlives the engine: it alone holds the process's streams, writes its log, and learns how it ended. It knows nothing of OCI:
 * it runs a COMMAND (runc run or exec, with --detach) that leaves a process behind and that process's id in DIR/pid.
 *
 *   tartan-monitor NAME DIR FLAGS FORMAT LOG MAX_BYTES MAX_FILES COMMAND..
 *
 * NAME is for ps(1). FLAGS: t terminal, i standard input, o close standard input when the first client that feeds it ends, - none.
 * FORMAT: json-file, cri or none. MAX_BYTES 0: no rotation. Standard input is the first control connection. It daemonises, opens
 * DIR/attach.sock, says `waiting` and waits; without a control connection and not told to start, it ends.
 *
 * A connection's first byte says what it is:
 *   0..7  a client: 1 stdin + 2 stdout + 4 stderr. Answered with one `+`; then output comes, in Docker's frames (stream, 3 zeros,
 *         length in 4 bytes, big-endian) or bare with a terminal. What it sends goes to stdin, until its shutdown(SHUT_WR).
 *         A client that takes nothing holds the container up. It gets an EOF when the container has ended and all is said.
 *   C     a control connection: lines. Answered with the state (`waiting`, `starting`, `running PID`); then one answer to each
 *         command in their order, `ok` or `error ERRNO`, and, between answers and once each, `running PID`, or `failed LENGTH` and
 *         so many bytes of why, and `exit CODE NANOSECONDS`.
 * Commands: `start`, `signal N`, `resize HEIGHT WIDTH` (before the start too), `reopen` (the log), `close` (stdin).
 *
 * At the end, whoever sees the exit finds everything done: the rest of the output is read (until EOF; what strays keep open, until
 * nothing came for 0.2 s, and for 2 s at most), the log is written, then DIR/exit appears ("CODE NANOSECONDS"), DIR/attach.sock
 * goes, and control connections are told. Clients then get what is queued for them at their pace, and the monitor ends.
 *
 * One thread, one poll(2), no memory beyond what is declared here; pages that are not touched do not count. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "init.h"
#include "log.h"

enum {
    CONNECTIONS = 128,  /* at once; more wait until one is gone */
    HEAD = 8,           /* bytes of a frame before its payload */
    TAIL = 3 << 20,     /* bytes kept for clients after the end: both pipes' most (1 MiB), and EARLY */
    REASON = 4096,      /* bytes of a failure's text, the last */
    EARLY = 1 << 20,    /* bytes taken of stderr before the start is over: runtimes repeat what they could not do, however long it is */
    UNKNOWN = 255,      /* exit code that nobody knows */
    DRAIN_MS = 2000,    /* for output that strays may still write, Docker's */
    QUIET_MS = 200,     /* without output, after which strays are not waited for */
    HANGUP_MS = 100,    /* until a terminal that nobody has open is looked at again */
    CLOSING_MS = 2000,  /* for clients to close their connections, once all has been sent */
    STUCK_MS = 600000,  /* for clients to go on taking what is queued after the end */
};
enum state { WAITING, STARTING, RUNNING, DRAINING, LINGERING };
enum kind { FREE, NEW, CONTROL, CLIENT };

struct connection {
    int fd;
    enum kind kind;
    uint8_t wants;   /* a client: bits by stream */
    bool feeds;      /* what it sends goes to stdin */
    bool open;       /* it may still send */
    bool shut;       /* it has been told that no more comes */
    uint32_t frame;  /* in the queue: the first frame not sent completely */
    uint32_t sent;   /* bytes of that frame */
    uint32_t length; /* of the line */
    char line[64];   /* a command, as far as it has come */
};
struct output {
    int fd;
    int rest;        /* what is to be read when fd has ended; -1: nothing */
    struct line line;
};

static enum state state = WAITING;
static struct connection connections[CONNECTIONS];
static struct output outputs[2] = {{-1, -1, {.stream = 1}}, {-1, -1, {.stream = 2}}};
static char queue[TAIL];    /* frames that clients have not all got; while the container runs, one */
static uint32_t queue_end;
static char staged[PIECE];  /* on its way to stdin */
static uint32_t staged_at, staged_end;

static const char *directory;
static char **command;
static int directory_fd = -1, listener = -1, console_listener = -1, input = -1, null_fd = -1, early = -1;
static bool terminal, with_input, input_once, input_ending, early_ended;
static struct winsize size;
static char oom_score[16];
static pid_t starter, child;
static int exit_code;
static int64_t exit_ns, deadline, quiet_deadline, hung_up_until;

static int64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void note_end(int code) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    exit_code = code, exit_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void end_output(struct output *from) {
    log_rest(&from->line);
    if (from->fd >= 0) close(from->fd);
    if (from->rest >= 0) close(from->rest);
    from->fd = from->rest = -1;
}

/* ---- connections */

static void drop(struct connection *connection) {
    close(connection->fd);
    *connection = (struct connection){.kind = FREE};
}

/* To a control connection; one that does not read is given up, as its buffer takes thousands of these. */
static void say(struct connection *to, const char *text, size_t length) {
    if (send(to->fd, text, length, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)length) to->shut = true, shutdown(to->fd, SHUT_RDWR);
}

static void tell_all(const char *text, size_t length) {
    for (struct connection *each = connections; each < connections + CONNECTIONS; each++)
        if (each->kind == CONTROL && !each->shut) say(each, text, length);
}

static bool behind(const struct connection *client) {
    return client->kind == CLIENT && client->frame < queue_end;
}

/* Send a client what it has not got, as much as it takes. */
static void push(struct connection *client) {
    while (behind(client)) {
        const char *frame = queue + client->frame;
        uint32_t length;
        memcpy(&length, frame + 4, 4);
        length = HEAD + __builtin_bswap32(length);
        if (client->wants & 1 << *frame) {
            if (terminal && client->sent < HEAD) client->sent = HEAD;
            ssize_t count = send(client->fd, frame + client->sent, length - client->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
            if (count < 0) client->wants = 0;
            else client->sent += (uint32_t)count;
            if (state == LINGERING) deadline = now_ms() + STUCK_MS;
            if (count >= 0 && client->sent < length) continue;
        }
        client->frame += length, client->sent = 0;
    }
}

/* Read once from the container, for the log and for clients. */
static void pump(struct output *from) {
    bool caught_up = true;
    for (struct connection *each = connections; each < connections + CONNECTIONS; each++) caught_up &= !behind(each);
    if (caught_up && queue_end) {
        for (struct connection *each = connections; each < connections + CONNECTIONS; each++) each->frame = 0;
        queue_end = 0;
    }
    if (queue_end + HEAD + PIECE > sizeof queue) return;
    char *frame = queue + queue_end;
    ssize_t count = read(from->fd, frame + HEAD, PIECE);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (count < 0 && terminal && state == RUNNING) { /* nobody has it open, which may change */
        hung_up_until = now_ms() + HANGUP_MS;
        return;
    }
    if (count == 0 && from->rest >= 0) {
        close(from->fd);
        from->fd = from->rest, from->rest = -1;
        return;
    }
    if (count <= 0) {
        end_output(from);
        return;
    }
    uint32_t length = __builtin_bswap32((uint32_t)count);
    memcpy(frame, (char[4]){(char)from->line.stream}, 4), memcpy(frame + 4, &length, 4);
    log_text(&from->line, frame + HEAD, (uint32_t)count);
    queue_end += HEAD + (uint32_t)count;
    quiet_deadline = now_ms() + QUIET_MS;
    for (struct connection *each = connections; each < connections + CONNECTIONS; each++) push(each);
}

static void end_input(void) {
    if (input >= 0 && !terminal) close(input);
    input = -1, staged_at = staged_end = 0;
}

static void push_input(void) {
    while (input >= 0 && staged_at < staged_end) {
        ssize_t count = write(input, staged + staged_at, staged_end - staged_at);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0 && errno == EAGAIN) return;
        if (count < 0 && !terminal) end_input(); /* the container has closed it */
        else staged_at = count < 0 ? staged_end : staged_at + (uint32_t)count;
    }
    if (input_ending && !terminal) end_input();
}

/* Whether a client's bytes can be read now: there is room on their way, or they go nowhere. */
static bool readable(const struct connection *client) {
    if (!client->feeds || state > RUNNING) return true;
    return state == RUNNING && (input < 0 || staged_at == staged_end);
}

static void take_input(struct connection *client) {
    char ignored[PIECE];
    bool used = client->feeds && state == RUNNING && input >= 0;
    ssize_t count = recv(client->fd, used ? staged : ignored, PIECE, MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (count <= 0) {
        client->open = false;
        input_ending |= used && input_once;
    }
    if (used) staged_at = 0, staged_end = count > 0 ? (uint32_t)count : 0, push_input();
}

/* ---- the container's life */

static void write_exit(void) {
    int file = openat(directory_fd, "exit.part", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0) return;
    dprintf(file, "%d %lld\n", exit_code, (long long)exit_ns);
    close(file);
    renameat(directory_fd, "exit.part", directory_fd, "exit");
}

static void remove_sockets(void) {
    unlinkat(directory_fd, "attach.sock", 0);
    if (terminal) unlinkat(directory_fd, "console.sock", 0);
}

/* The very last: nothing is read any more, the log is whole; clients get what is queued. */
static void linger(void) {
    state = LINGERING;
    end_input();
    for (int i = 0; i < 2; i++) end_output(outputs + i);
    log_close();
    write_exit();
    remove_sockets();
    close(listener);
    listener = -1;
    bool waited_for = false;
    for (struct connection *each = connections; each < connections + CONNECTIONS; each++) waited_for |= behind(each);
    deadline = now_ms() + (waited_for ? STUCK_MS : CLOSING_MS);
}

static void run_command(const int from[2], const int to[2], const int errors[2]) {
    char *environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", NULL}, console[64], own[4200];
    snprintf(console, sizeof console, "/proc/%d/fd/%d/console.sock", getppid(), directory_fd);
    snprintf(own, sizeof own, "%s/console.sock", directory);
    for (char **each = command; *each; each++)
        if (terminal && !strcmp(*each, own)) *each = console; /* a socket's path has to be short */
    dup2(with_input && !terminal ? from[0] : null_fd, 0), dup2(terminal ? null_fd : to[1], 1), dup2(errors[1], 2);
    int score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (score >= 0 && write(score, oom_score, strlen(oom_score)) < 0) close(score);
    sigset_t none;
    sigemptyset(&none);
    for (int number = 1; number < 65; number++) signal(number, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    umask(022);
    execve(command[0], command, environment);
    dprintf(2, "%s: %s", command[0], strerror(errno));
    _exit(127);
}

static int start(void) {
    int from[2] = {-1, -1}, to[2] = {-1, -1}, errors[2] = {-1, -1}, failure = 0;
    if (state != WAITING) return EALREADY;
    if (pipe2(from, O_CLOEXEC) || pipe2(to, O_CLOEXEC) || pipe2(errors, O_CLOEXEC) || (starter = fork()) < 0) failure = errno;
    else if (!starter) run_command(from, to, errors);
    close(from[0]), close(to[1]), close(errors[1]);
    if (failure) {
        close(from[1]), close(to[0]), close(errors[0]);
        return failure;
    }
    input = from[1], outputs[0].fd = to[0], outputs[1].fd = errors[0];
    for (int i = 0; i < 2; i++) fcntl(outputs[i].fd, F_SETFL, O_NONBLOCK);
    fcntl(input, F_SETFL, O_NONBLOCK);
    if (terminal || !with_input) close(input), input = -1;
    state = STARTING;
    return 0;
}

/* The terminal's other end, as runc sends it. */
static void take_console(void) {
    char name[256];
    union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } control;
    struct iovec part = {name, sizeof name};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    int from = accept4(console_listener, NULL, NULL, SOCK_CLOEXEC), master;
    if (from < 0) return;
    struct timeval patience = {.tv_sec = 5};
    setsockopt(from, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    ssize_t count = recvmsg(from, &message, MSG_CMSG_CLOEXEC);
    close(from);
    if (count < 0 || !CMSG_FIRSTHDR(&message) || CMSG_FIRSTHDR(&message)->cmsg_type != SCM_RIGHTS) return;
    memcpy(&master, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof master);
    fcntl(master, F_SETFL, O_NONBLOCK);
    if (size.ws_row || size.ws_col) ioctl(master, TIOCSWINSZ, &size);
    close(outputs[0].fd), close(console_listener);
    outputs[0].fd = master, console_listener = -1;
    if (with_input) input = master;
}

static pid_t read_pid(void) {
    char text[16] = "";
    int file = openat(directory_fd, "pid", O_RDONLY | O_CLOEXEC);
    if (file < 0 || read(file, text, sizeof text - 1) < 0) text[0] = 0;
    if (file >= 0) close(file);
    return atoi(text);
}

/* Read once from stderr before it is known whose it is, the runtime's or already the container's: a runtime with more to say than a
 * pipe takes would wait for us for ever. Returns whether there may be more. */
static bool take_early(void) {
    char piece[PIECE];
    if (early < 0) early = memfd_create("stderr", MFD_CLOEXEC);
    early_ended = early < 0 || lseek(early, 0, SEEK_END) >= EARLY;
    if (early_ended) return false;
    ssize_t count = read(outputs[1].fd, piece, sizeof piece);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    early_ended = count <= 0 || write(early, piece, (size_t)count) != count;
    return !early_ended;
}

/* What came early goes before the rest. */
static void replay_early(void) {
    if (early < 0) return;
    lseek(early, 0, SEEK_SET);
    outputs[1].rest = outputs[1].fd, outputs[1].fd = early, early = -1;
}

static void fail(int status) {
    char text[REASON + 64];
    while (take_early()) continue;
    off_t size_early = early < 0 ? 0 : lseek(early, 0, SEEK_END);
    ssize_t length = size_early <= 0 ? 0 : pread(early, text, REASON, size_early > REASON ? size_early - REASON : 0);
    if (early >= 0) close(early), early = -1;
    if (length <= 0 && WIFSIGNALED(status)) length = sprintf(text, "%s was killed by signal %d", command[0], WTERMSIG(status));
    else if (length <= 0) length = sprintf(text, "%s ended with status %d and no process to show", command[0], WEXITSTATUS(status));
    for (int i = 0; i < 2; i++) close(outputs[i].fd), outputs[i].fd = -1; /* nothing of this is the container's output */
    note_end(128);
    linger();
    char line[32];
    tell_all(line, (size_t)sprintf(line, "failed %zd\n", length));
    tell_all(text, (size_t)length);
}

static void end(int status) {
    note_end(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
    state = DRAINING;
    end_input();
    deadline = now_ms() + DRAIN_MS, quiet_deadline = now_ms() + QUIET_MS;
}

static void started(int status) {
    char line[32];
    if (console_listener >= 0) take_console();
    if (status || (child = read_pid()) <= 0 || console_listener >= 0) {
        fail(status);
        return;
    }
    replay_early();
    if (terminal) end_output(outputs + 1); /* there it is the runtime's alone */
    state = RUNNING;
    tell_all(line, (size_t)sprintf(line, "running %d\n", child));
    if (input_ending) push_input();
    if (kill(child, 0)) end(UNKNOWN << 8); /* the command itself has waited for it */
}

/* Until the command has been waited for, nobody else is: what it left behind may have ended before it. */
static void reap(void) {
    int status;
    pid_t pid;
    while (state != WAITING && (pid = waitpid(state == STARTING ? starter : -1, &status, WNOHANG)) > 0) {
        if (state == STARTING) {
            started(status);
        } else if (state == RUNNING && pid == child) {
            end(status);
        }
    }
}

/* ---- commands */

static int resize(char *text) {
    size.ws_row = (unsigned short)strtoul(text, &text, 10), size.ws_col = (unsigned short)strtoul(text, NULL, 10);
    if (!terminal) return ENOTTY;
    if (state > RUNNING) return ESRCH;
    return console_listener < 0 && ioctl(outputs[0].fd, TIOCSWINSZ, &size) ? errno : 0;
}

static int obey(char *line) {
    if (!strcmp(line, "start")) return start();
    if (!strncmp(line, "signal ", 7)) return state != RUNNING ? ESRCH : kill(child, atoi(line + 7)) ? errno : 0;
    if (!strncmp(line, "resize ", 7)) return resize(line + 7);
    if (!strcmp(line, "reopen")) return log_reopen() ? errno : 0;
    if (!strcmp(line, "close")) return input_ending = true, state == RUNNING ? push_input() : (void)0, 0;
    return EINVAL;
}

static void take_commands(struct connection *from) {
    ssize_t count = recv(from->fd, from->line + from->length, sizeof from->line - from->length, MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (count <= 0 || state == LINGERING) {
        from->open = count > 0;
        return;
    }
    from->length += (uint32_t)count;
    for (char *end; (end = memchr(from->line, '\n', from->length));) {
        char answer[32];
        *end++ = 0;
        int failure = obey(from->line);
        say(from, answer, (size_t)(failure ? sprintf(answer, "error %d\n", failure) : sprintf(answer, "ok\n")));
        from->length -= (uint32_t)(end - from->line);
        memmove(from->line, end, from->length);
    }
    if (from->length == sizeof from->line) from->open = false;
}

static void greet(struct connection *new) {
    char first, line[32];
    if (recv(new->fd, &first, 1, MSG_DONTWAIT) != 1 || (first != 'C' && (first < '0' || first > '7'))) {
        new->open = false;
    } else if (first == 'C') {
        new->kind = CONTROL;
        if (state >= RUNNING) say(new, line, (size_t)sprintf(line, "running %d\n", child));
        else say(new, state == WAITING ? "waiting\n" : "starting\n", state == WAITING ? 8 : 9);
    } else {
        new->kind = CLIENT, new->wants = (uint8_t)(first - '0') & 6, new->feeds = (first & 1) && with_input, new->frame = queue_end;
        if (send(new->fd, "+", 1, MSG_DONTWAIT | MSG_NOSIGNAL) != 1) new->open = false;
    }
}

static struct connection *place(int fd, enum kind kind) {
    for (struct connection *each = connections; each < connections + CONNECTIONS; each++)
        if (each->kind == FREE) return *each = (struct connection){.fd = fd, .kind = kind, .open = true}, each;
    return NULL;
}

/* ---- the loop */

static struct pollfd polls[CONNECTIONS + 5];

static short wanted(const struct connection *of) {
    short events = of->kind != CLIENT || (of->open && readable(of)) ? POLLIN : 0;
    return events | (behind(of) ? POLLOUT : 0);
}

static void watch(void) {
    bool room = false, clear = true, look = state == DRAINING || (state == RUNNING && now_ms() >= hung_up_until);
    for (int i = 0; i < CONNECTIONS; i++) {
        struct connection *each = connections + i;
        short events = wanted(each);
        room |= each->kind == FREE;
        clear &= !behind(each);
        /* one with an end that cannot be read yet would be reported again and again */
        bool stuck = each->kind == CLIENT && each->open && !events;
        polls[i] = (struct pollfd){.fd = each->kind == FREE || stuck ? -1 : each->fd, .events = events};
    }
    struct pollfd *other = polls + CONNECTIONS;
    look &= state == RUNNING ? clear : queue_end + HEAD + PIECE <= sizeof queue || clear;
    for (int i = 0; i < 2; i++) {
        bool starts = i == 1 && state == STARTING && !early_ended;
        *other++ = (struct pollfd){.fd = look || starts ? outputs[i].fd : -1, .events = POLLIN};
    }
    *other++ = (struct pollfd){.fd = state == RUNNING && staged_at < staged_end ? input : -1, .events = POLLOUT};
    *other++ = (struct pollfd){.fd = room ? listener : -1, .events = POLLIN};
    *other++ = (struct pollfd){.fd = state == STARTING ? console_listener : -1, .events = POLLIN};
}

static void wait_for_something(void) {
    int64_t until = 0, left = 0;
    if (state == DRAINING) until = quiet_deadline < deadline ? quiet_deadline : deadline;
    if (state == LINGERING) until = deadline;
    if (state == RUNNING && hung_up_until > now_ms()) until = hung_up_until;
    if (until && (left = until - now_ms()) < 0) left = 0;
    struct timespec timeout = {.tv_sec = left / 1000, .tv_nsec = left % 1000 * 1000000};
    sigset_t none; /* SIGCHLD comes here and nowhere else */
    sigemptyset(&none);
    if (ppoll(polls, sizeof polls / sizeof *polls, until ? &timeout : NULL, &none) < 0) memset(polls, 0, sizeof polls);
}

static void serve(struct connection *each, short events) {
    if (each->kind == CLIENT && events & (POLLOUT | POLLHUP)) push(each);
    if (each->kind == CLIENT && each->open && readable(each) && events & (POLLIN | POLLHUP)) take_input(each);
    else if (each->kind == CLIENT && !each->open && events & (POLLHUP | POLLERR)) drop(each);
    else if (each->kind == CONTROL && events) take_commands(each);
    else if (each->kind == NEW && events) greet(each);
    if (each->kind != FREE && each->kind != CLIENT && !each->open) drop(each);
}

/* Whether the monitor has nothing left to do. */
static bool finished(void) {
    bool waiting = false, controlled = false, any = false;
    for (struct connection *each = connections; each < connections + CONNECTIONS; each++) {
        bool served = state == LINGERING && each->kind != FREE && !behind(each);
        if (served && !each->shut) each->shut = true, shutdown(each->fd, SHUT_WR);
        if (each->shut && !each->open) drop(each);
        any |= each->kind != FREE;
        waiting |= behind(each);
        controlled |= each->kind == CONTROL;
    }
    if (state == LINGERING && !waiting && deadline > now_ms() + CLOSING_MS) deadline = now_ms() + CLOSING_MS;
    return state == WAITING ? !controlled : state == LINGERING && (!any || now_ms() >= deadline);
}

static void end_if_drained(void) {
    bool more = outputs[0].fd >= 0 || outputs[1].fd >= 0;
    if (state != DRAINING || (more && now_ms() < deadline && now_ms() < quiet_deadline)) return;
    char line[64];
    linger();
    tell_all(line, (size_t)sprintf(line, "exit %d %lld\n", exit_code, (long long)exit_ns));
}

static void loop(void) {
    while (!finished()) {
        watch();
        wait_for_something();
        for (int i = 0; i < CONNECTIONS; i++)
            if (polls[i].revents) serve(connections + i, polls[i].revents);
        struct pollfd *other = polls + CONNECTIONS;
        for (int i = 0; i < 2; i++)
            if (other[i].revents && outputs[i].fd >= 0) state == STARTING ? (void)take_early() : pump(outputs + i);
        if (other[2].revents) push_input();
        int fd = other[3].revents ? accept4(listener, NULL, NULL, SOCK_CLOEXEC) : -1;
        if (fd >= 0 && !place(fd, NEW)) close(fd);
        if (other[4].revents) take_console();
        reap();
        end_if_drained();
    }
    if (state == WAITING) remove_sockets();
}

/* ---- setting up */

static _Noreturn void refuse(const char *what) {
    dprintf(0, "refused %s: %s\n", what, strerror(errno));
    _exit(1);
}

static int listen_at(const char *name) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, name); /* in the working directory, as a socket's path has to be short */
    int made = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    unlink(name);
    if (made < 0 || bind(made, (struct sockaddr *)&address, sizeof address) || listen(made, 4096)) refuse(name);
    return made;
}

static void protect_from_oom(void) {
    int file = open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC);
    if (file < 0) return;
    if (read(file, oom_score, sizeof oom_score - 1) < 0) oom_score[0] = 0;
    for (const char *const *wish = (const char *[]){"-999", "0", NULL}; *wish && pwrite(file, *wish, strlen(*wish), 0) < 0;) wish++;
    close(file);
}

static void on_child(int number) {
    (void)number;
}

static void daemonise(void) {
    pid_t pid = fork();
    if (pid < 0) refuse("fork");
    if (pid) _exit(0);
    setsid();
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    signal(SIGHUP, SIG_IGN), signal(SIGPIPE, SIG_IGN), signal(SIGCHLD, on_child);
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGCHLD);
    sigprocmask(SIG_SETMASK, &blocked, NULL);
    protect_from_oom();
    struct connection *first = place(fcntl(0, F_DUPFD_CLOEXEC, 3), CONTROL);
    for (int fd = 0; fd < 3; fd++) dup2(null_fd, fd);
    say(first, "waiting\n", 8);
}

int main(int argc, char **argv) {
    if (argc > 2 && getpid() == 1 && !strcmp(argv[1], "--")) return init_run(argv + 2);
    if (argc == 2 && !strcmp(argv[1], "pause")) return init_pause();
    syscall(SYS_close_range, 3, ~0U, 0);
    errno = EINVAL;
    if (argc < 9) refuse("arguments");
    directory = argv[2], command = argv + 8;
    terminal = strchr(argv[3], 't'), with_input = strchr(argv[3], 'i'), input_once = strchr(argv[3], 'o');
    umask(0);
    null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    directory_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (null_fd < 0 || directory_fd < 0 || chdir(directory)) refuse(directory);
    if (log_open(argv[4], argv[5], atoll(argv[6]), atol(argv[7]))) refuse(argv[5]);
    umask(0177);
    listener = listen_at("attach.sock");
    if (terminal) console_listener = listen_at("console.sock");
    if (chdir("/")) refuse("/");
    daemonise();
    loop();
    return 0;
}
