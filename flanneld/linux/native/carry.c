/* Packets between a TUN or TAP and peers over UDP, as flanneld/tunnel does it in Python: the same rules, in the same order.
 *
 * Only what happens to every packet is here. Whatever needs thought (an ICMP error, a path that is too narrow, a socket's error) is
 * handed to the caller, which comes back when it has seen to it. Built to a shared library, called by ../carry.py through ctypes.
 *
 * TUN -> peers: a super-packet (linux/virtio_net.h) is cut into segments that are sent in one call (UDP_SEGMENT, udp(7)); plain
 * packets of one length to one peer go together. Peers -> TUN: datagrams come together (UDP_GRO); those that continue one TCP or UDP
 * flow, checked in every header and checksum, are written as one super-packet.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

enum { SOL_UDP_ = 17, UDP_SEGMENT_ = 103, UDP_GRO_ = 104 };
enum { TCP = 6, UDP = 17, FIN = 1, PSH = 8, ACK = 16, ECE = 64, CWR = 128 };
enum { PLAIN = 0, TCPV4 = 1, TCPV6 = 4, UDP_L4 = 5, ECN = 128, NEEDS_CSUM = 1, VNET = 10 };
enum { MOST_SEGMENTS = 64, MOST_BYTES = 65507, PACKET = 65536 + 64, ROOM = 1 << 18 };
enum { READ = 8, SLOT = 65536, MOST_HEADER = 160, TUN_BATCH = 64, MOST_RUN = 1000 /* IOV_MAX is 1024 */ };

/* Why a packet went no further: as the members of tunnel.switch.Drop, in their order. */
enum drop { NOT_IPV4, NO_PEER, EXPIRED, TOO_BIG, MALFORMED, SPOOFED, BUFFER_FULL, SEND_FAILED, TUN_REFUSED, DROPS };

/* Why carry_run has returned. */
enum event { WOKEN, TUN_LOST, COMPLAIN, FIT };

struct vnet { u8 flags, kind; u16 header, segment, start, offset; } __attribute__((packed));
struct endpoint { u32 ip; u16 port, unused; }; /* both in network byte order */
struct level { u32 mask, first, count, unused; };

/* What the caller is told with an event. `at`: `total` bytes of packets of `size` each, but for a shorter last. */
struct report { const u8 *at; u64 total; u32 size, count, why, error; struct endpoint peer; };

/* Hosts by the prefix of their pods' addresses (longest first, each level sorted), or by MAC. */
struct table { struct level *levels; u64 *keys; struct endpoint *hosts; u32 level_count, key_count; };

struct look { u32 v4, transport, header, mss; u8 protocol; };

struct carry {
    int tun, underlay, wake, strict, merge_udp;
    u32 mtu, front, link; /* mtu: of IP packets; bytes before the frame in a datagram, and before the IP header in a frame */
    u8 prefix[8];
    struct table peers, owners; /* where to send to; who may send from where */
    u64 sent, received, dropped[DROPS];
    struct report report, fit;
    int calm, has_failed; /* calm: the last time there was at most one packet from the TUN */
    /* What is being sent: `total` bytes of packets of `size`, from `pending` on, `together` in one call. */
    u32 size, total, pending, together, gathered;
    struct endpoint peer;
    /* The run that is being merged: its packets' payloads, after a place for the headers. */
    struct iovec run[MOST_RUN + 1];
    u32 run_count, run_bytes, run_seq, run_sender;
    u8 run_flags, *run_first;
    struct look run_look;
    u8 header[VNET + MOST_HEADER], packet[PACKET], out[ROOM], failed[MOST_BYTES], in[READ * SLOT];
};

static u16 r16(const u8 *p) { u16 v; memcpy(&v, p, 2); return v; }
static u32 r32(const u8 *p) { u32 v; memcpy(&v, p, 4); return v; }
static void w16(u8 *p, u16 v) { memcpy(p, &v, 2); }
static u16 b16(const u8 *p) { return ntohs(r16(p)); }
static u32 b32(const u8 *p) { return ntohl(r32(p)); }

/* Sums are of 16-bit words in host order: the one's complement sum is the same in any order (RFC 1071, 2(B)). */
static u64 sum(const u8 *p, u32 n) {
    u64 a = 0, b = 0;
    u32 i = 0;
    for (; i + 8 <= n; i += 8) { a += r32(p + i); b += r32(p + i + 4); }
    a += b;
    for (; i + 2 <= n; i += 2) a += r16(p + i);
    if (i < n) { u8 last[2] = {p[i], 0}; a += r16(last); }
    return a;
}

static u16 folded(u64 s) {
    while (s >> 16) s = (s & 0xffff) + (s >> 16);
    return s;
}

static void finish(u8 *field, u64 s) { u16 c = ~folded(s); w16(field, c ? c : 0xffff); }
static void finish_header(u8 *ip) { u32 n = (ip[0] & 15) * 4; w16(ip + 10, 0); w16(ip + 10, ~folded(sum(ip, n))); }
static u32 version(const u8 *ip) { return ip[0] >> 4; }

/* The pseudo header's sum (RFC 9293 3.1, RFC 8200 8.1). */
static u64 pseudo(const u8 *ip, u8 protocol, u32 length) {
    return (version(ip) == 4 ? sum(ip + 12, 8) : sum(ip + 8, 32)) + htons(protocol) + htons(length);
}

static void set_lengths(u8 *ip, u32 length, u32 transport, u8 protocol) {
    w16(ip + (version(ip) == 4 ? 2 : 4), htons(version(ip) == 4 ? length : length - 40));
    if (protocol == UDP) w16(ip + transport + 4, htons(length - transport));
}

/* ---- who gets what */

static const struct endpoint *find_key(const struct table *t, u64 key, u32 low, u32 end) {
    u32 high = end;
    while (low < high) {
        u32 middle = (low + high) / 2;
        if (t->keys[middle] < key) low = middle + 1;
        else high = middle;
    }
    return low < end && t->keys[low] == key ? t->hosts + low : NULL;
}

/* The host of an IPv4 address, or, where there are frames, of a MAC address. */
static const struct endpoint *find(const struct carry *c, const struct table *t, const u8 *address) {
    if (c->link) return find_key(t, (u64)b32(address) << 16 | b16(address + 4), 0, t->key_count);
    for (u32 i = 0; i < t->level_count; i++) {
        const struct level *l = t->levels + i;
        const struct endpoint *found = find_key(t, b32(address) & l->mask, l->first, l->first + l->count);
        if (found) return found;
    }
    return NULL;
}

/* The peer for a frame from the TUN, and one hop less; NULL with the reason. */
static const struct endpoint *route(const struct carry *c, u8 *frame, u32 n, enum drop *why) {
    if (c->link) {
        const struct endpoint *peer = n >= 14 ? find(c, &c->peers, frame) : NULL;
        *why = NO_PEER;
        return peer;
    }
    *why = NOT_IPV4;
    if (n < 20 || version(frame) != 4) return NULL;
    *why = NO_PEER;
    const struct endpoint *peer = find(c, &c->peers, frame + 16);
    if (!peer) return NULL;
    *why = EXPIRED;
    if (frame[8] <= 1) return NULL;
    frame[8]--;
    u32 checksum = b16(frame + 10) + 0x100; /* RFC 1624: the word of the time to live is one hop less */
    w16(frame + 10, htons((checksum & 0xffff) + (checksum >> 16)));
    return peer;
}

/* True if a datagram may go to the TUN, else the reason. */
static int admit(const struct carry *c, const u8 *d, u32 n, u32 sender, enum drop *why) {
    const u8 *frame = d + c->front;
    *why = MALFORMED;
    if (c->link) {
        if (n < c->front + 14 || d[0] != c->prefix[0] || memcmp(d + 4, c->prefix + 4, 3)) return 0;
        frame += 6;
    } else {
        u32 header = (d[0] & 15) * 4;
        if (n < 20 || version(d) != 4 || !d[8] || header < 20 || header > n || b16(d + 2) != n || folded(sum(d, header)) != 0xffff) return 0;
        frame += 12;
    }
    *why = SPOOFED;
    const struct endpoint *owner = c->strict ? find(c, &c->owners, frame) : NULL;
    return !c->strict || (owner && owner->ip == sender);
}

/* ---- TUN to peers */

/* Cut the super-packet in c->packet; false when it is malformed. */
static int cut(struct carry *c, u32 n, const struct vnet *v) {
    u8 *p = c->packet, *ip = p + c->front + c->link;
    u32 before = c->front + c->link, kind = v->kind & ~ECN, transport = v->start - c->link; /* from the IP header on */
    u8 protocol = kind == UDP_L4 ? UDP : TCP;
    if (n < before + 20) return 0;
    u32 v4 = version(ip) == 4, length = n - before, least = v4 ? (ip[0] & 15) * 4 : 40;
    if ((kind == TCPV4 && !v4) || (kind == TCPV6 && version(ip) != 6) || (kind != TCPV4 && kind != TCPV6 && kind != UDP_L4)) return 0;
    if ((!v4 && version(ip) != 6) || least < 20 || v->start < c->link + least || transport + (protocol == TCP ? 20 : 8) > length) return 0;
    u32 header = transport + (protocol == TCP ? (ip[transport + 12] >> 4) * 4 : 8), mss = v->segment;
    if (!mss || header < transport + 8 || header >= length || (length - header) / mss * (u64)(before + header + mss) > ROOM - PACKET) return 0;
    u32 left = length - header, seq = protocol == TCP ? b32(ip + transport + 4) : 0, field = transport + (protocol == TCP ? 16 : 6);
    u16 id = b16(ip + 4);
    u8 flags = ip[transport + 13], numbered = v4 && !(ip[6] & 0x40), *o = c->out, *from = ip + header;
    for (u32 k = 0; left; k++) {
        u32 m = left < mss ? left : mss;
        u8 *to = o + before;
        memcpy(o, p, before + header);
        memcpy(to + header, from, m);
        set_lengths(to, header + m, transport, protocol);
        if (protocol == TCP) {
            u32 number = htonl(seq);
            memcpy(to + transport + 4, &number, 4);
            to[transport + 13] = flags & ~(k ? CWR : 0) & ~(m == left ? 0 : FIN | PSH);
        }
        if (numbered) w16(to + 4, htons(id + k));
        if (v4) finish_header(to);
        w16(to + field, 0);
        finish(to + field, sum(to + transport, header - transport + m) + pseudo(to, protocol, header - transport + m));
        o += before + header + m;
        from += m, left -= m, seq += m;
    }
    c->total = o - c->out;
    c->size = before + header + mss < c->total ? before + header + mss : c->total;
    return 1;
}

static u32 count_of(u32 bytes, u32 size) { return (bytes + size - 1) / size; }

/* Packets that the socket did not take, for the caller to see to; a second such before it has is lost. */
static void keep_failed(struct carry *c, u32 bytes, u32 count) {
    if (c->has_failed) { c->dropped[SEND_FAILED] += count; return; }
    memcpy(c->failed, c->out + c->pending, bytes);
    c->fit = (struct report){c->failed, bytes, c->size, count, 0, errno, c->peer};
    c->has_failed = 1;
}

/* Send what is in `out`, in as few calls as may be. */
static void flush(struct carry *c) {
    while (c->pending < c->total) {
        u32 left = c->total - c->pending, together = c->together * c->size, bytes = left < together ? left : together;
        u32 count = count_of(bytes, c->size);
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = c->peer.port, .sin_addr.s_addr = c->peer.ip};
        struct iovec data = {c->out + c->pending, bytes};
        union { char room[CMSG_SPACE(sizeof(u16))]; struct cmsghdr align; } control = {{0}};
        struct msghdr message = {.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &data, .msg_iovlen = 1};
        if (count > 1) {
            message.msg_control = control.room;
            message.msg_controllen = sizeof control.room;
            struct cmsghdr *said = CMSG_FIRSTHDR(&message);
            said->cmsg_level = SOL_UDP_;
            said->cmsg_type = UDP_SEGMENT_;
            said->cmsg_len = CMSG_LEN(sizeof(u16));
            u16 size = c->size;
            memcpy(CMSG_DATA(said), &size, sizeof size);
        }
        if (sendmsg(c->underlay, &message, MSG_DONTWAIT) >= 0) c->sent += count;
        else if (errno == EAGAIN) c->dropped[BUFFER_FULL] += count;
        else keep_failed(c, bytes, count);
        c->pending += bytes;
    }
    c->total = c->pending = c->gathered = 0;
}

static void send_cut(struct carry *c, const struct endpoint *peer) {
    u32 count = count_of(c->total, c->size), most = MOST_BYTES / c->size;
    if (most > MOST_SEGMENTS) most = MOST_SEGMENTS;
    c->together = most ? count_of(count, count_of(count, most)) : 1; /* as many in each call */
    c->peer = *peer;
    flush(c);
}

/* Add the packet to those that go in one call: all of one length, but for a shorter last. */
static void gather(struct carry *c, const u8 *packet, u32 n, const struct endpoint *peer) {
    int other = c->peer.ip != peer->ip || c->peer.port != peer->port;
    if (c->gathered && (other || n > c->size || c->total + n > MOST_BYTES || c->gathered == MOST_SEGMENTS)) flush(c);
    if (!c->gathered) c->size = n, c->peer = *peer, c->together = MOST_SEGMENTS;
    memcpy(c->out + c->total, packet, n);
    c->total += n;
    c->gathered++;
    if (c->calm || n < c->size) flush(c);
}

static int complain(struct carry *c, const u8 *frame, u32 n, u32 count, enum drop why) {
    c->dropped[why] += count;
    c->report = (struct report){frame, n, n, count, why, 0, {0, 0, 0}};
    return COMPLAIN;
}

enum { NONE = -1, NEXT = -2 };

/* One packet from the TUN: NEXT, NONE when there was none, or an event. */
static int from_tun(struct carry *c) {
    u8 *packet = c->packet, *frame = packet + c->front;
    struct vnet v;
    struct iovec into[2] = {{&v, VNET}, {frame, PACKET - c->front}};
    ssize_t got = readv(c->tun, into, 2);
    if (got < 0) return errno == EAGAIN || errno == EINTR ? NONE : TUN_LOST;
    if (got < VNET) return NEXT;
    u32 n = got - VNET + c->front;
    enum drop why;
    const struct endpoint *peer = route(c, frame, n - c->front, &why);
    if (v.kind != PLAIN) {
        flush(c);
        if (!cut(c, n, &v)) { c->total = 0; c->dropped[MALFORMED]++; return NEXT; }
        if (peer) { send_cut(c, peer); return NEXT; }
        u32 count = count_of(c->total, c->size);
        c->total = 0;
        return complain(c, c->out + c->front, c->size - c->front, count, why);
    }
    if (!peer) return complain(c, frame, n - c->front, 1, why);
    if (v.flags & NEEDS_CSUM) {
        u8 *start = frame + v.start;
        if (c->front + v.start + v.offset + 2u > n) { c->dropped[MALFORMED]++; return NEXT; }
        finish(start + v.offset, sum(start, n - c->front - v.start));
    }
    gather(c, packet, n, peer);
    return NEXT;
}

static int drain_tun(struct carry *c) {
    int event = NEXT, read = 0;
    while (event == NEXT && read < TUN_BATCH) {
        event = from_tun(c);
        read += event != NONE;
        if (read) c->calm = 0;
    }
    flush(c);
    if (event == NONE) c->calm = read <= 1; /* the next packet is not to wait for others */
    return event < 0 ? NEXT : event;
}

/* ---- peers to TUN */

/* How a packet looks that may be merged; false for any other. */
static int look_at(const struct carry *c, const u8 *ip, u32 n, struct look *l) {
    if (n < 40) return 0;
    l->v4 = version(ip) == 4;
    if (!l->v4 && version(ip) != 6) return 0;
    l->protocol = l->v4 ? ip[9] : ip[6];
    l->transport = l->v4 ? (ip[0] & 15) * 4 : 40;
    if (l->v4 ? l->transport < 20 || (b16(ip + 6) & 0x3fff) || b16(ip + 2) != n : b16(ip + 4) + 40u != n) return 0;
    if (l->protocol == TCP) {
        if (l->transport + 20 > n || (ip[l->transport + 13] & ~(PSH | ECE)) != ACK) return 0;
        l->header = l->transport + (ip[l->transport + 12] >> 4) * 4;
        if (l->header < l->transport + 20) return 0;
    } else {
        if (l->protocol != UDP || !c->merge_udp || l->transport + 8 > n || b16(ip + l->transport + 4) != n - l->transport) return 0;
        l->header = l->transport + 8;
    }
    l->mss = n - l->header;
    return l->header < n && c->link + l->header <= MOST_HEADER;
}

static int checksums_hold(const u8 *ip, u32 n, const struct look *l) {
    if (l->v4 && folded(sum(ip, l->transport)) != 0xffff) return 0;
    return folded(sum(ip + l->transport, n - l->transport) + pseudo(ip, l->protocol, n - l->transport)) == 0xffff;
}

/* True if a packet is the next of the flow that `a` began: alike in all but what a sender's segmentation makes different. */
static int continues(const struct carry *c, const u8 *a, const struct look *la, const u8 *b, const struct look *lb) {
    u32 t = la->transport;
    if (la->v4 != lb->v4 || la->protocol != lb->protocol || t != lb->transport || la->header != lb->header || lb->mss > la->mss) return 0;
    if (la->v4) {
        if (r16(a) != r16(b) || r32(a + 6) != r32(b + 6) || memcmp(a + 12, b + 12, t - 12)) return 0;
        if (!(a[6] & 0x40) && b16(b + 4) != (u16)(b16(a + 4) + c->run_count)) return 0; /* a receiver may need it (RFC 6864) */
    } else if (r32(a) != r32(b) || memcmp(a + 6, b + 6, 34)) {
        return 0;
    }
    if (r32(a + t) != r32(b + t)) return 0;
    if (la->protocol == UDP) return 1;
    return b32(b + t + 4) == c->run_seq && !memcmp(a + t + 8, b + t + 8, 5) && !((a[t + 13] ^ b[t + 13]) & ~PSH) &&
           r16(a + t + 14) == r16(b + t + 14) && !memcmp(a + t + 18, b + t + 18, la->header - t - 18);
}

static void write_tun(struct carry *c, const struct iovec *parts, int n, u32 count) {
    if (writev(c->tun, parts, n) >= 0) c->received += count;
    else c->dropped[TUN_REFUSED] += count;
}

/* A checksum that is still the pseudo header's sum is left to be finished, and with it what is longer than a packet to be cut: between
 * namespaces of one host a kernel's tunnel may hand over such. */
static struct vnet unfinished(const struct carry *c, const u8 *frame, u32 n) {
    const struct vnet nothing = {0};
    const u8 *ip = frame + c->link;
    if (n < c->link + 20) return nothing;
    u32 size = n - c->link, v4 = version(ip) == 4, transport = v4 ? (ip[0] & 15) * 4 : 40;
    u8 protocol = v4 ? ip[9] : size > 40 ? ip[6] : 0, field = protocol == TCP ? 16 : 6;
    if ((!v4 && version(ip) != 6) || (protocol != TCP && protocol != UDP) || transport + (protocol == TCP ? 20 : 8) > size) return nothing;
    u16 stored = r16(ip + transport + field);
    if (!stored || (v4 && (b16(ip + 6) & 0x3fff)) || stored % 0xffff != folded(pseudo(ip, protocol, size - transport)) % 0xffff) return nothing;
    struct vnet v = {NEEDS_CSUM, PLAIN, 0, 0, c->link + transport, field};
    if (size > c->mtu) {
        v.kind = protocol == UDP ? UDP_L4 : v4 ? TCPV4 : TCPV6;
        v.header = c->link + transport + (protocol == TCP ? (ip[transport + 12] >> 4) * 4 : 8);
        v.segment = c->mtu - (v.header - c->link);
    }
    return v;
}

static void write_plain(struct carry *c, const u8 *frame, u32 n) {
    struct vnet v = unfinished(c, frame, n);
    struct iovec parts[2] = {{&v, VNET}, {(void *)frame, n}};
    write_tun(c, parts, 2, 1);
}

/* Hand the run that is open to the TUN, if there is one. */
static void end_run(struct carry *c) {
    const struct look *l = &c->run_look;
    const u8 *frame = c->run_first;
    if (!c->run_count) return;
    if (c->run_count == 1) {
        write_plain(c, frame, c->link + l->header + l->mss);
    } else {
        u8 *ip = c->header + VNET + c->link, field = l->protocol == TCP ? 16 : 6;
        struct vnet v = {NEEDS_CSUM, l->protocol == UDP ? UDP_L4 : l->v4 ? TCPV4 : TCPV6, c->link + l->header, l->mss, c->link + l->transport, field};
        memcpy(c->header, &v, VNET);
        memcpy(c->header + VNET, frame, c->link + l->header);
        set_lengths(ip, c->run_bytes, l->transport, l->protocol);
        if (l->v4) finish_header(ip);
        if (l->protocol == TCP) ip[l->transport + 13] |= c->run_flags & PSH;
        w16(ip + l->transport + field, folded(pseudo(ip, l->protocol, c->run_bytes - l->transport)));
        c->run[0] = (struct iovec){c->header, VNET + c->link + l->header};
        write_tun(c, c->run, c->run_count + 1, c->run_count);
    }
    c->run_count = 0;
}

static void take(struct carry *c, u8 *ip, u32 n, const struct look *l) {
    c->run[++c->run_count] = (struct iovec){ip + l->header, l->mss};
    c->run_bytes = c->run_count == 1 ? n : c->run_bytes + l->mss;
    if (l->protocol == TCP) c->run_seq = b32(ip + l->transport + 4) + l->mss, c->run_flags = ip[l->transport + 13];
}

/* One datagram: to the run that is open, to a new one, or to the TUN. */
static void from_peer(struct carry *c, u8 *d, u32 n, u32 sender) {
    u8 *frame = d + c->front, *ip = frame + c->link;
    u32 before = c->front + c->link;
    struct look l;
    int alike = n > before && look_at(c, ip, n - before, &l);
    if (c->run_count && alike && sender == c->run_sender && c->run_count < MOST_RUN && c->run_bytes + l.mss <= 65535 &&
        !memcmp(frame, c->run_first, c->link) && continues(c, c->run_first + c->link, &c->run_look, ip, &l) &&
        checksums_hold(ip, n - before, &l) &&
        (c->run_count > 1 || checksums_hold(c->run_first + c->link, c->run_bytes, &c->run_look))) {
        take(c, ip, n - before, &l);
        if (l.mss < c->run_look.mss || (l.protocol == TCP && c->run_flags & PSH)) end_run(c);
        return;
    }
    end_run(c);
    enum drop why;
    if (!admit(c, d, n, sender, &why)) { c->dropped[why]++; return; }
    if (!alike || (l.protocol == TCP && ip[l.transport + 13] & PSH)) { write_plain(c, frame, n - c->front); return; }
    c->run_first = frame, c->run_look = l, c->run_sender = sender;
    take(c, ip, n - before, &l);
}

static void drain_underlay(struct carry *c) {
    struct mmsghdr messages[READ];
    struct iovec into[READ];
    struct sockaddr_in senders[READ];
    union { char room[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control[READ];
    for (int i = 0; i < READ; i++) {
        into[i] = (struct iovec){c->in + i * SLOT, SLOT};
        messages[i].msg_hdr = (struct msghdr){.msg_name = senders + i, .msg_namelen = sizeof *senders, .msg_iov = into + i, .msg_iovlen = 1,
                                              .msg_control = control[i].room, .msg_controllen = sizeof control[i].room};
    }
    int got = recvmmsg(c->underlay, messages, READ, MSG_DONTWAIT, NULL);
    for (int i = 0; i < got; i++) {
        u32 total = messages[i].msg_len, size = total;
        struct cmsghdr *said = CMSG_FIRSTHDR(&messages[i].msg_hdr);
        if (said && said->cmsg_level == SOL_UDP_ && said->cmsg_type == UDP_GRO_) { int s; memcpy(&s, CMSG_DATA(said), sizeof s); size = s; }
        if (size <= c->front) { end_run(c); c->dropped[MALFORMED]++; continue; }
        for (u32 at = 0; at < total; at += size)
            from_peer(c, c->in + i * SLOT + at, total - at < size ? total - at : size, senders[i].sin_addr.s_addr);
    }
    end_run(c);
}

/* ---- what ../carry.py calls */

struct carry *carry_new(int tun, int underlay, int wake, u32 front, u32 link, const u8 *prefix, int strict, int merge_udp, u32 mtu) {
    struct carry *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    c->tun = tun, c->underlay = underlay, c->wake = wake, c->front = front, c->link = link, c->strict = strict, c->merge_udp = merge_udp, c->mtu = mtu, c->calm = 1;
    memcpy(c->prefix, prefix, front);
    memcpy(c->packet, prefix, front);
    return c;
}

static void free_table(struct table *t) { free(t->levels), free(t->keys), free(t->hosts); }

void carry_free(struct carry *c) {
    free_table(&c->peers), free_table(&c->owners), free(c);
}

/* Exchange a table, 0 for the peers and 1 for the owners; false when there is no memory for it. */
int carry_peers(struct carry *c, int which, const struct level *levels, u32 level_count, const u64 *keys, const struct endpoint *hosts, u32 count) {
    struct table *t = which ? &c->owners : &c->peers;
    struct table made = {malloc((level_count + 1) * sizeof *levels), malloc((count + 1) * sizeof *keys), malloc((count + 1) * sizeof *hosts), level_count, count};
    if (!made.levels || !made.keys || !made.hosts) { free_table(&made); return 0; }
    memcpy(made.levels, levels, level_count * sizeof *levels);
    memcpy(made.keys, keys, count * sizeof *keys);
    memcpy(made.hosts, hosts, count * sizeof *hosts);
    free_table(t);
    *t = made;
    return 1;
}

/* sent, received, then the dropped by reason. */
void carry_counters(const struct carry *c, u64 *counters) {
    counters[0] = c->sent, counters[1] = c->received;
    memcpy(counters + 2, c->dropped, sizeof c->dropped);
}

/* Carry packets until there is something for the caller to do; `report` says what. */
int carry_run(struct carry *c, struct report *report) {
    struct pollfd fds[3] = {{c->wake, POLLIN, 0}, {c->underlay, POLLIN, 0}, {c->tun, POLLIN, 0}};
    for (;;) {
        if (c->has_failed) { c->has_failed = 0; *report = c->fit; return FIT; }
        if (poll(fds, 3, -1) < 0) continue;
        if (fds[0].revents) return WOKEN;
        if (fds[1].revents) drain_underlay(c);
        int event = fds[2].revents ? drain_tun(c) : NEXT;
        if (event != NEXT) { *report = c->report; return event; }
    }
}
