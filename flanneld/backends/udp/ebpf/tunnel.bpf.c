// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * flannel's udp backend inside the kernel: one UDP datagram is one bare IPv4 packet. What is simple and frequent passes here,
 * everything else falls through to the TUN's and the socket's reader in user space, unchanged, as if this were not attached.
 *
 *     inner packet > TUN egress: from_tun ------------------------------------> next hop
 *                                   | cut, checksum                  ^
 *                                   '-> pair b > pair a: from_cutter-'
 *
 *     datagram > uplink ingress: from_uplink --------------------------------> TUN ingress: routing, netfilter
 *                                   | TCP                         ^   ^
 *                                   |-> pair a > pair b: from_merger  |
 *                                   | super-packets                   |
 *                                   '-> socket > vxlan: from_cleaner -'
 *
 * The devices lend the kernel's own machinery, for what programs cannot do: end b of the veth pair merges a TCP connection's packets
 * to super-packets (GRO), what leaves by it is cut and its checksums are finished (GSO); the vxlan device takes a tunnel's marks off.
 *
 * The file that is loaded is compiled by hand and committed beside this one (tests/unit/flanneld/test_bpf_object.py checks it):
 *
 *     clang-14 -O2 -g -target bpf -I/usr/include/$(gcc -print-multiarch) \
 *         -DSOURCE="\"$(sha256sum <tunnel.bpf.c | cut -c-64)\"" -c tunnel.bpf.c -o tunnel.bpf.o && llvm-strip-14 -g tunnel.bpf.o
 *
 * Helpers: linux/bpf.h. Nothing newer than Linux 5.10 is used.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define AF_INET 2
#define LOOPBACK 1 /* its index in every network namespace */
#define MOST_BYTES 65535 /* of an IPv4 packet */
#define ANY_FRAGMENT 0x3fff /* more fragments, or an offset */
#define DONT_FRAGMENT 0x4000
#define OUTER_TTL 64
#define PLAIN 0x45 /* version 4, five words of header */

#define FRESH_JIFFIES 5000 /* 5 to 50 s, by the CONFIG_HZ of the host */
#define GPE_SIZE 8
#define GPE_HAS_VNI 0x08
#define GPE_HAS_PROTOCOL 0x04
#define GPE_IPV4 1

#define FALL_THROUGH TC_ACT_UNSPEC /* to the next filter, which may be another's, and in the end to user space */

/* kernel_path.py fills it. */
struct settings {
	__be32 address; /* ours on the underlay */
	__be16 port;    /* both ends' */
	__u8 active;    /* 0: no peers are known yet, all falls through */
	__u8 strict;    /* a peer sends from its own subnet only */
	__u32 tun;
	__u32 a, b;          /* the veth pair */
	__be16 cleaner_port; /* the vxlan device's; 0: there is none */
	__u16 token;         /* what only from_uplink can have sent to the cleaner has this tc_index */
	__u32 vni;           /* and this VNI */
};

struct prefix {
	__u32 bits;
	__be32 address;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

struct { /* inner destination -> peer */
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 18);
	__type(key, struct prefix);
	__type(value, __be32);
} targets SEC(".maps");

/*
 * Who may send an inner source, and when a kernel there last has, in jiffies; 0: never, or a socket has since. Where hosts are joined
 * by veths, or share a machine's virtual switch, nobody finishes checksums or cuts super-packets on the way. A kernel at the other end
 * knows how to take them, a socket there would hand them to its reader as they are, unusable. A kernel's datagrams tell it: they have
 * no UDP checksum, sockets' have. Who has been silent may have changed since.
 */
struct sender {
	__be32 peer;
	__u32 padding;
	__u64 seen;
};

struct { /* inner source -> sender */
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 18);
	__type(key, struct prefix);
	__type(value, struct sender);
} sources SEC(".maps");

enum counter { SENT, RECEIVED, LEFT_TO_TUN, LEFT_TO_SOCKET, FORGED, SEND_FAILED, COUNTERS }; /* names: kernel_path.py */

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

struct outer {
	struct iphdr ip;
	struct udphdr udp;
};

/* What is written at once in front of a packet's addresses. */
struct front {
	struct outer outer;
	__u8 inner[12]; /* up to the source address */
};

/* What is written at once into a datagram for the vxlan device. */
struct gpe_front {
	struct outer outer;
	__u8 flags, unused[2], protocol;
	__be32 vni; /* and a byte of zeros */
};

/* What is read at once of a datagram. */
struct datagram {
	struct outer outer;
	struct iphdr inner;
};

static __always_inline struct settings *our_settings(void)
{
	__u32 only = 0;
	return bpf_map_lookup_elem(&settings, &only);
}

static __always_inline int count_all(__u32 what, __u32 packets, int verdict)
{
	__u64 *so_far = bpf_map_lookup_elem(&counters, &what);
	if (so_far)
		*so_far += packets;
	return verdict;
}

static __always_inline int count(__u32 what, int verdict)
{
	return count_all(what, 1, verdict);
}

/* RFC 1071's sum of a header without options, folded: 0xffff if its checksum is right. */
static __always_inline __u16 sum(const struct iphdr *header)
{
	const __u32 *words = (const __u32 *)header;
	__u64 all = (__u64)words[0] + words[1] + words[2] + words[3] + words[4];

	all = (all & 0xffffffff) + (all >> 32);
	all = (all & 0xffff) + (all >> 16);
	all = (all & 0xffff) + (all >> 16);
	return (all & 0xffff) + (all >> 16);
}

/* Whether a kernel is at the peer's end, which owns that address: see struct sender. */
static __always_inline int takes_all(__be32 peer, __be32 inside)
{
	struct prefix inner = {.bits = 32, .address = inside};
	struct sender *sender = bpf_map_lookup_elem(&sources, &inner);

	return sender && sender->peer == peer && sender->seen && bpf_jiffies64() - sender->seen < FRESH_JIFFIES;
}

static __always_inline void learn(struct sender *sender, int from_kernel)
{
	__u64 now = from_kernel ? bpf_jiffies64() : 0;

	if (sender->seen != now)
		sender->seen = now;
}

/* Bytes of the largest packet that this one will be cut into; 0: that cannot be told, or it is longer than an outer header can say. */
static __always_inline __u32 largest_piece(struct __sk_buff *skb, __u32 l2, const struct iphdr *ip)
{
	__u32 total = bpf_ntohs(ip->tot_len), header = ip->ihl * 4;
	__u8 words;

	if (ip->version != 4 || ip->ihl < 5 || total != skb->len - l2 || total + sizeof(struct outer) > MOST_BYTES)
		return 0;
	if (!skb->gso_size)
		return total;
	if (ip->protocol == IPPROTO_UDP)
		return header + sizeof(struct udphdr) + skb->gso_size;
	/* The data offset of a TCP header stands at 12 (RFC 9293, section 3.1). */
	if (ip->protocol != IPPROTO_TCP || bpf_skb_load_bytes(skb, l2 + header + 12, &words, sizeof(words)))
		return 0;
	return header + (words >> 4) * 4 + skb->gso_size;
}

/* How many packets this one will be, once cut; `largest` is of `largest_piece`. */
static __always_inline __u32 pieces(struct __sk_buff *skb, const struct iphdr *ip, __u32 largest)
{
	__u32 payload = bpf_ntohs(ip->tot_len) + skb->gso_size - largest, size = skb->gso_size;
	return size ? (payload + size - 1) / size : 1;
}

/*
 * The interface that leads to the peer, and its next hop there; 0: none, or a path too narrow for so many bytes (which the kernel
 * knows of a locked route MTU or has learnt, RFC 1191). Looked up as for a packet of a local socket, whose input is the loopback.
 */
static __always_inline __u32 way_to(struct __sk_buff *skb, const struct settings *our, __be32 peer, __u32 bytes, struct bpf_redir_neigh *next)
{
	struct bpf_fib_lookup fib = {
		.family = AF_INET,
		.l4_protocol = IPPROTO_UDP,
		.sport = our->port,
		.dport = our->port,
		.tot_len = bytes,
		.ifindex = LOOPBACK,
		.ipv4_src = our->address,
		.ipv4_dst = peer,
	};
	long found = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);

	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return 0;
	next->nh_family = fib.family; /* AF_INET6 for a next hop of RFC 8950 */
	__builtin_memcpy(next->ipv6_nh, fib.ipv6_dst, sizeof(next->ipv6_nh));
	return fib.ifindex == our->tun ? 0 : fib.ifindex; /* the peer behind its own tunnel would go round for ever */
}

/* Write the outer header into the room in front of the inner one, which becomes one hop older. */
static __always_inline long write_front(struct __sk_buff *skb, __u32 l2, const struct settings *our, __be32 peer, const struct iphdr *ip)
{
	__u32 bytes = bpf_ntohs(ip->tot_len), check;
	struct front front = {
		.outer.ip = {
			.version = 4,
			.ihl = 5,
			.tot_len = bpf_htons(bytes + sizeof(struct outer)),
			.frag_off = bpf_htons(DONT_FRAGMENT),
			.ttl = OUTER_TTL,
			.protocol = IPPROTO_UDP,
			.saddr = our->address,
			.daddr = peer,
		},
		.outer.udp = {
			.source = our->port,
			.dest = our->port,
			.len = bpf_htons(bytes + sizeof(struct udphdr)),
		},
	};
	struct iphdr older = *ip;

	front.outer.ip.check = ~sum(&front.outer.ip);
	/* RFC 1624: what time to live loses, the checksum gains; both are the upper byte of their word. */
	older.ttl--;
	check = older.check + bpf_htons(0x0100);
	older.check = check + (check >= 0xffff);
	__builtin_memcpy(front.inner, &older, sizeof(front.inner));
	return bpf_skb_store_bytes(skb, l2, &front, sizeof(front), 0);
}

/* What the stack sends to the TUN, which has no link layer. */
SEC("tc")
int from_tun(struct __sk_buff *skb)
{
	struct settings *our = our_settings();
	struct bpf_redir_neigh next = {};
	struct prefix inner = {.bits = 32};
	__be16 ethertype = bpf_htons(ETH_P_IP);
	struct iphdr ip;
	__u32 bytes, way, packets;
	__be32 *peer;

	if (!our || !our->active)
		return FALL_THROUGH;
	if (bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)))
		return count(LEFT_TO_TUN, FALL_THROUGH);
	inner.address = ip.daddr;
	peer = bpf_map_lookup_elem(&targets, &inner);
	bytes = largest_piece(skb, 0, &ip);
	if (!peer || !bytes || ip.ttl <= 1)
		return count(LEFT_TO_TUN, FALL_THROUGH);
	way = way_to(skb, our, *peer, bytes + sizeof(struct outer), &next);
	if (!way)
		return count(LEFT_TO_TUN, FALL_THROUGH);

	packets = pieces(skb, &ip, bytes);
	/* A super-packet of UDP datagrams could be decapsulated, but not cut after that: it would keep the tunnel's marks. */
	if (takes_all(*peer, ip.daddr) && (!skb->gso_size || ip.protocol == IPPROTO_TCP) &&
	    !bpf_skb_adjust_room(skb, sizeof(struct outer), BPF_ADJ_ROOM_MAC,
				 BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_FIXED_GSO)) {
		/* The marks were for the inner packet; a socket's would have none. */
		skb->mark = 0;
		if (write_front(skb, 0, our, *peer, &ip) || bpf_skb_change_head(skb, ETH_HLEN, 0))
			return count(SEND_FAILED, TC_ACT_SHOT);
		return count_all(SENT, packets, bpf_redirect_neigh(way, &next, sizeof(next), 0));
	}
	/* Packets of a tunnel within, whose marks leave no room for ours, come this way too. */
	if (!our->b || bpf_skb_change_head(skb, ETH_HLEN, 0))
		return count(LEFT_TO_TUN, FALL_THROUGH);
	bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_proto), &ethertype, sizeof(ethertype), 0);
	return bpf_redirect(our->b, 0);
}

/* What from_tun has sent round: cut by now, and its checksums finished. */
SEC("tc")
int from_cutter(struct __sk_buff *skb)
{
	struct settings *our = our_settings();
	struct bpf_redir_neigh next = {};
	struct prefix inner = {.bits = 32};
	struct iphdr ip;
	__u32 bytes, way;
	__be32 *peer;

	if (!our || bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return count(SEND_FAILED, TC_ACT_SHOT);
	inner.address = ip.daddr;
	peer = bpf_map_lookup_elem(&targets, &inner);
	bytes = largest_piece(skb, ETH_HLEN, &ip);
	if (!peer || !bytes || ip.ttl <= 1)
		return count(SEND_FAILED, TC_ACT_SHOT);
	way = way_to(skb, our, *peer, bytes + sizeof(struct outer), &next);
	if (!way || bpf_skb_adjust_room(skb, sizeof(struct outer), BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO) ||
	    write_front(skb, ETH_HLEN, our, *peer, &ip))
		return count(SEND_FAILED, TC_ACT_SHOT);
	skb->mark = 0;
	return count(SENT, bpf_redirect_neigh(way, &next, sizeof(next), 0));
}

/*
 * A super-packet that has come through no hardware still has the marks of the tunnel that it was to be cut for (skb->encapsulation,
 * gso_type). Without the tunnel they lie: a bridge cuts it in software, hardware would look for headers that are gone. The kernel
 * takes them off where a tunnel of its own ends. So a VXLAN-GPE header (draft-ietf-nvo3-vxlan-gpe, 3.1) makes the super-packet one for
 * the vxlan device, to whose port it goes up the stack: a firewall of this host has to let that in. (To name the socket instead, by
 * bpf_sk_assign, is no way: conntrack takes a socket without a peer from every packet, see nf_nat_ipv4_local_in.)
 *
 * Returns FALL_THROUGH for a packet that is as it was.
 */
static __always_inline int clean(struct __sk_buff *skb, const struct settings *our, const struct outer *outer)
{
	struct gpe_front front = {.outer = *outer, .flags = GPE_HAS_VNI | GPE_HAS_PROTOCOL, .protocol = GPE_IPV4};

	if (bpf_skb_adjust_room(skb, GPE_SIZE, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return FALL_THROUGH;
	front.outer.ip.tot_len = bpf_htons(bpf_ntohs(outer->ip.tot_len) + GPE_SIZE);
	front.outer.ip.check = 0;
	front.outer.ip.check = ~sum(&front.outer.ip);
	front.outer.udp.len = bpf_htons(bpf_ntohs(outer->udp.len) + GPE_SIZE);
	front.outer.udp.check = 0;
	front.outer.udp.dest = our->cleaner_port;
	front.vni = bpf_htonl(our->vni << 8);
	skb->tc_classid = our->token; /* whose lower half becomes the tc_index, when the verdict is TC_ACT_OK */
	return bpf_skb_store_bytes(skb, ETH_HLEN, &front, sizeof(front), 0) ? TC_ACT_SHOT : TC_ACT_OK;
}

/* True if the datagram is exactly one sound IPv4 packet without options; the rest is for the socket's reader to judge. */
static __always_inline int is_sound(struct __sk_buff *skb, struct datagram *it)
{
	__u32 total = bpf_ntohs(it->outer.ip.tot_len);

	if (*(__u8 *)&it->inner != PLAIN || !it->inner.ttl || total < sizeof(*it) || skb->len < ETH_HLEN + total)
		return 0;
	if (bpf_ntohs(it->outer.udp.len) != total - sizeof(struct iphdr) || bpf_ntohs(it->inner.tot_len) != total - sizeof(struct outer))
		return 0;
	/* Several packets in one (UDP GSO) were found out by their length. Inside one, it is TCP's super-packets only: see from_tun. */
	if (skb->gso_size && it->inner.protocol != IPPROTO_TCP)
		return 0;
	return sum(&it->outer.ip) == 0xffff && sum(&it->inner) == 0xffff;
}

/* What arrives on the underlay. */
SEC("tc")
int from_uplink(struct __sk_buff *skb)
{
	struct settings *our = our_settings();
	struct prefix inner = {.bits = 32};
	struct datagram it;
	__u32 packets;
	struct sender *sender;
	int verdict;

	if (!our || !our->active || skb->pkt_type != PACKET_HOST || bpf_skb_load_bytes(skb, ETH_HLEN, &it.outer, sizeof(it.outer)))
		return FALL_THROUGH;
	if (*(__u8 *)&it.outer.ip != PLAIN || it.outer.ip.protocol != IPPROTO_UDP || it.outer.ip.daddr != our->address ||
	    it.outer.ip.frag_off & bpf_htons(ANY_FRAGMENT) || it.outer.udp.dest != our->port)
		return FALL_THROUGH;
	if (bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(it.outer), &it.inner, sizeof(it.inner)) || !is_sound(skb, &it))
		return count(LEFT_TO_SOCKET, FALL_THROUGH);
	inner.address = it.inner.saddr;
	sender = bpf_map_lookup_elem(&sources, &inner);
	if (sender && sender->peer != it.outer.ip.saddr)
		sender = 0;
	if (!sender && our->strict)
		return count(FORGED, TC_ACT_SHOT);
	packets = skb->gso_size ? pieces(skb, &it.inner, largest_piece(skb, ETH_HLEN + sizeof(it.outer), &it.inner)) : 1;
	if (sender)
		learn(sender, !it.outer.udp.check);
	if (skb->gso_size && our->cleaner_port && bpf_ntohs(it.outer.ip.tot_len) + GPE_SIZE <= MOST_BYTES) {
		verdict = clean(skb, our, &it.outer);
		if (verdict != FALL_THROUGH)
			return count_all(RECEIVED, packets, verdict);
	}
	if (bpf_skb_adjust_room(skb, -(__s32)sizeof(struct outer), BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return count(LEFT_TO_SOCKET, FALL_THROUGH);
	/* What is merged already, and what nothing merges, has no business in the pair. */
	if (our->a && it.inner.protocol == IPPROTO_TCP && !skb->gso_size)
		return count(RECEIVED, bpf_redirect(our->a, 0));
	return count_all(RECEIVED, packets, bpf_redirect(our->tun, BPF_F_INGRESS));
}

/* What from_uplink has sent round: merged by now, and addressed to the uplink's MAC, not to this end's. */
SEC("tc")
int from_merger(struct __sk_buff *skb)
{
	struct settings *our = our_settings();

	if (!our || bpf_skb_change_type(skb, PACKET_HOST))
		return TC_ACT_SHOT;
	return bpf_redirect(our->tun, BPF_F_INGRESS); /* which takes the link layer off */
}

/* What the vxlan device has received: from from_uplink if it has both secrets, else from anybody. */
SEC("tc")
int from_cleaner(struct __sk_buff *skb)
{
	struct settings *our = our_settings();
	struct bpf_tunnel_key key;

	if (!our || skb->tc_index != our->token || bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0) || key.tunnel_id != our->vni)
		return count(FORGED, TC_ACT_SHOT);
	skb->tc_index = 0;
	return bpf_redirect(our->tun, BPF_F_INGRESS);
}

const char compiled_from[] SEC("source") = SOURCE;
char licence[] SEC("license") = "Dual BSD/GPL"; /* bpf_fib_lookup asks for a licence compatible with the GPL */
