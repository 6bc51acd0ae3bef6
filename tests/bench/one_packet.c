/* What Go flannel's udp backend does, as plainly as C can do it: the reference for every other udp data path.
 *
 *   one_packet DEVICE ADDRESS PORT SUBNET=PEER...      one_packet flannel0 192.168.0.1 8285 10.244.2.0=192.168.0.2
 *
 * Each packet costs one read of the TUN and one sendto, or one recv and one write; each datagram is one bare IPv4 packet. The TUN
 * is there already, with its address, MTU and route. Sockets keep the kernel's default buffers. As flannel's proxy does, this
 * searches subnets in order, takes a hop off the time to live on both sides, and calls `poll` only when neither side has more.
 * It sends no ICMP errors, which a bench never asks for. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LARGEST = 65536, HEADER = 20, MOST_PEERS = 64 };

struct peer {
    uint32_t subnet; /* of 24 bits, in network order */
    struct sockaddr_in address;
};

static struct peer peers[MOST_PEERS];
static int peer_count;
static unsigned char packet[LARGEST];

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static struct sockaddr_in endpoint(const char *address, const char *port) {
    struct sockaddr_in made = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    if (inet_pton(AF_INET, address, &made.sin_addr) != 1) {
        fprintf(stderr, "%s: expected an IPv4 address\n", address);
        exit(2);
    }
    return made;
}

static int open_tun(const char *name) {
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    int tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (tun < 0) fail("/dev/net/tun");
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (ioctl(tun, TUNSETIFF, &request)) fail(name);
    return tun;
}

static int open_udp(const struct sockaddr_in *address) {
    int udp = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (udp < 0 || bind(udp, (const struct sockaddr *)address, sizeof *address)) fail("udp");
    return udp;
}

static const struct sockaddr_in *way_to(const unsigned char *destination) {
    uint32_t address;
    memcpy(&address, destination, sizeof address);
    address &= htonl(0xffffff00);
    for (int i = 0; i < peer_count; i++)
        if (peers[i].subnet == address) return &peers[i].address;
    return NULL;
}

/* One hop off, and the header's checksum changed by as much (RFC 1141); 0: the packet must go no further. */
static int take_hop(void) {
    unsigned sum = (packet[10] << 8 | packet[11]) + 0x100;
    if (packet[8] <= 1) return 0;
    packet[8]--;
    sum += sum >= 0xffff;
    packet[10] = sum >> 8;
    packet[11] = sum;
    return 1;
}

/* One packet to its peer; 0: the TUN has none. */
static int send_one(int tun, int udp) {
    const struct sockaddr_in *peer;
    ssize_t size = read(tun, packet, sizeof packet);
    if (size < 0 && errno == EAGAIN) return 0;
    if (size < 0) fail("tun");
    if (size < HEADER || packet[0] >> 4 != 4 || !(peer = way_to(packet + 16)) || !take_hop()) return 1;
    sendto(udp, packet, size, 0, (const struct sockaddr *)peer, sizeof *peer); /* what cannot be sent is lost */
    return 1;
}

/* One packet from a peer; 0: the socket has none. */
static int receive_one(int tun, int udp) {
    ssize_t size = recv(udp, packet, sizeof packet, 0);
    if (size < 0) return errno != EAGAIN; /* else a peer that answers with ICMP errors would end us */
    if (size < HEADER || packet[0] >> 4 != 4 || !take_hop()) return 1;
    if (write(tun, packet, size) < 0 && errno == EBADFD) fail("tun");
    return 1;
}

int main(int count, char **arguments) {
    if (count < 5) return 2;
    struct sockaddr_in own = endpoint(arguments[2], arguments[3]);
    for (int i = 4; i < count && peer_count < MOST_PEERS; i++) {
        char *subnet = strtok(arguments[i], "="), *address = strtok(NULL, "=");
        if (!address) return 2;
        peers[peer_count++] = (struct peer){endpoint(subnet, "0").sin_addr.s_addr, endpoint(address, arguments[3])};
    }
    int tun = open_tun(arguments[1]), udp = open_udp(&own);
    struct pollfd both[] = {{.fd = tun, .events = POLLIN}, {.fd = udp, .events = POLLIN}};
    for (;;) {
        if (poll(both, 2, -1) < 0 && errno != EINTR) fail("poll");
        while (send_one(tun, udp) | receive_one(tun, udp)) continue;
    }
}
