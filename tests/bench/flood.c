/* Sends datagrams to one place as fast as the machine can make them, many per system call: never the slowest part of a data path.
 *
 *   flood ADDRESS PORT BYTES SECONDS      prints how many it sent */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 64, LARGEST = 1472 };

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

int main(int count, char **arguments) {
    static char payload[LARGEST];
    struct mmsghdr messages[BATCH] = {0};
    struct iovec bytes = {.iov_base = payload};
    struct sockaddr_in there = {.sin_family = AF_INET};
    long sent = 0;
    if (count != 5 || inet_pton(AF_INET, arguments[1], &there.sin_addr) != 1) return 2;
    there.sin_port = htons(atoi(arguments[2]));
    bytes.iov_len = atoi(arguments[3]);
    if (bytes.iov_len > LARGEST) return 2;
    for (int i = 0; i < BATCH; i++) messages[i].msg_hdr = (struct msghdr){.msg_iov = &bytes, .msg_iovlen = 1};
    int udp = socket(AF_INET, SOCK_DGRAM, 0);
    if (udp < 0 || connect(udp, (struct sockaddr *)&there, sizeof there)) return perror("flood"), 1;
    for (double until = now() + atof(arguments[4]); now() < until;) {
        int taken = sendmmsg(udp, messages, BATCH, 0);
        if (taken > 0) sent += taken;
        /* Nobody listens (yet), or a queue is full: for one who floods no reason to stop. */
        else if (errno != ECONNREFUSED && errno != ENOBUFS && errno != EAGAIN) return perror("flood"), 1;
    }
    printf("%ld\n", sent);
    return 0;
}
