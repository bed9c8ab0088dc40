/* What the replay device has in memory: a file's packets, dealt to receive queues. */
#ifndef MEMRX_PACKETS_H
#define MEMRX_PACKETS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rte_common.h>
#include <rte_ether.h>
#include <rte_mempool.h>

#define CACHE_LINE 64u
#define QUEUES_MAX 16u

struct replay;

/* What one polling thread reads and writes, apart from the others' lines. */
struct queue {
    uint8_t *first, *later;     /* n slots each, in file order and in stride order */
    uint64_t n, at, start_tsc;
    struct rte_mempool *pool;
    uint64_t packets, no_buffers, sent;
    const struct replay *device;
    uint16_t step;              /* what this pass adds to source ports */
    bool is_first_pass, has_begun;
    size_t map_len;
} __rte_cache_aligned;

struct replay {
    struct queue queues[QUEUES_MAX], outs[QUEUES_MAX];
    uint8_t *all;               /* n slots: the file */
    uint64_t n;
    uint32_t slot, len;         /* bytes of a slot and of a packet */
    uint32_t udp_or_tcp, sum;   /* where ports and their checksum are */
    uint16_t port, burst;
    bool loop, fresh;
    uint16_t shared_by;         /* queues that the packets are dealt to */
    uint64_t delay_ms;
    size_t map_len;
    struct rte_ether_addr mac;
};

/* Reads a pcap file; a negative errno, with a message, if it is none of the kind. */
int packets_load(struct replay *r, const char *path);
/* Gives each of so many queues its packets; the first pass begins anew. */
int packets_deal(struct replay *r, uint16_t count);
/* Gives all memory back. */
void packets_free(struct replay *r);

#endif
