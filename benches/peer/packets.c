/* Packets of a pcap file in memory, in the orders in which queues give them; see memrx.c. */
#include "packets.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE (2u << 20)
#define PCAP_US 0xa1b2c3d4u
#define PCAP_NS 0xa1b23c4du
#define PCAP_HEADER 24u
#define PCAP_RECORD 16u
/* Longer packets are nobody's benchmark; the pool's buffers hold 2 KiB. */
#define PACKET_MAX 1518u

static uint64_t
gcd(uint64_t a, uint64_t b)
{
    while (b != 0) {
        uint64_t rest = a % b;

        a = b;
        b = rest;
    }
    return a;
}

/* The least number from 0.618 n on that has no divisor in common with n. */
static uint64_t
stride_of(uint64_t n)
{
    for (uint64_t s = (uint64_t)ceil(0.6180339887 * (double)n); s < n; s++)
        if (gcd(s, n) == 1)
            return s;
    return 1;
}

static uint32_t
word(const uint8_t *at)
{
    uint32_t value;

    memcpy(&value, at, sizeof value);
    return value;
}

/* A whole file in memory; NULL with a message otherwise. */
static uint8_t *
slurp(const char *path, size_t *len)
{
    FILE *file = fopen(path, "rb");
    uint8_t *bytes = NULL;
    long end;

    if (file && fseek(file, 0, SEEK_END) == 0 && (end = ftell(file)) >= 0) {
        rewind(file);
        *len = (size_t)end;
        bytes = malloc(*len + 1);
        if (bytes && fread(bytes, 1, *len, file) != *len) {
            free(bytes);
            bytes = NULL;
        }
    }
    if (!bytes)
        fprintf(stderr, "memrx: %s: %s\n", path, strerror(errno));
    if (file)
        fclose(file);
    return bytes;
}

/* Counts the packets and checks that they have one length. */
static int
measure(struct replay *r, const uint8_t *file, size_t file_len)
{
    size_t at = PCAP_HEADER;

    if (file_len < PCAP_HEADER || (word(file) != PCAP_US && word(file) != PCAP_NS))
        return -EINVAL;
    while (at + PCAP_RECORD <= file_len) {
        uint32_t len = word(file + at + 8);

        if (r->n == 0)
            r->len = len;
        if (len != r->len || len == 0 || len > PACKET_MAX || at + PCAP_RECORD + len > file_len)
            return -EINVAL;
        at += PCAP_RECORD + len;
        r->n++;
    }
    return r->n > 0 && at == file_len ? 0 : -EINVAL;
}

/* Memory in huge pages if there are any; NULL if there is none at all. */
static uint8_t *
room(size_t len)
{
    void *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (at == MAP_FAILED)
        return NULL;
    /* Best effort: without huge pages it is only slower. */
    (void)madvise(at, len, MADV_HUGEPAGE);
    return at;
}

/* Where ports and checksum lie: in every packet of the file where they do in the first. */
static int
find_ports(struct replay *r, const char *path)
{
    const uint8_t *packet = r->all;
    uint32_t at = 14 + (packet[14] & 0xfu) * 4, sum = at + (packet[23] == 6 ? 16 : 6);
    bool has_ports = r->len >= 34 && packet[12] == 8 && packet[13] == 0 && packet[14] >> 4 == 4
                     && (packet[23] == 6 || packet[23] == 17) && sum + 2 <= r->len;

    r->udp_or_tcp = has_ports ? at : 0;
    r->sum = has_ports ? sum : 0;
    if (r->fresh && !has_ports) {
        fprintf(stderr, "memrx: %s: fresh=1 is for UDP and TCP over IPv4\n", path);
        return -EINVAL;
    }
    return 0;
}

/* The queue of a packet: the same for both directions of its flow. */
static uint32_t
share(const struct replay *r, const uint8_t *packet, uint16_t count)
{
    uint32_t hash = 0;

    if (count < 2 || r->udp_or_tcp == 0)
        return 0;
    hash = word(packet + 26) ^ word(packet + 30);
    hash ^= (uint32_t)(packet[r->udp_or_tcp] ^ packet[r->udp_or_tcp + 2]) << 8
            | (packet[r->udp_or_tcp + 1] ^ packet[r->udp_or_tcp + 3]);
    return (hash * 0x9e3779b1u >> 16) % count;
}

int
packets_load(struct replay *r, const char *path)
{
    size_t file_len = 0;
    uint8_t *file = slurp(path, &file_len);

    if (!file)
        return -ENOENT;
    if (measure(r, file, file_len) != 0) {
        fprintf(stderr, "memrx: %s: no little-endian pcap of packets of one length\n", path);
        free(file);
        return -EINVAL;
    }
    r->slot = RTE_ALIGN_CEIL(r->len, CACHE_LINE);
    r->map_len = RTE_ALIGN_CEIL(r->n * r->slot, (size_t)HUGE_PAGE);
    r->all = room(r->map_len);
    for (uint64_t i = 0; r->all && i < r->n; i++)
        memcpy(r->all + i * r->slot,
               file + PCAP_HEADER + i * (PCAP_RECORD + r->len) + PCAP_RECORD, r->len);
    free(file);
    return r->all ? find_ports(r, path) : -ENOMEM;
}

static void
clear(struct queue *q)
{
    if (q->first)
        munmap(q->first, q->map_len);
    memset(q, 0, sizeof *q);
}

int
packets_deal(struct replay *r, uint16_t count)
{
    for (uint16_t i = 0; i < QUEUES_MAX; i++)
        clear(&r->queues[i]);
    for (uint16_t i = 0; i < count; i++) {
        struct queue *q = &r->queues[i];
        uint64_t at = 0, stride;
        size_t half;

        for (uint64_t k = 0; k < r->n; k++)
            q->n += share(r, r->all + k * r->slot, count) == i;
        half = RTE_ALIGN_CEIL((q->n + 1) * r->slot, (size_t)HUGE_PAGE);
        q->map_len = 2 * half;
        q->first = room(q->map_len);
        if (!q->first)
            return -ENOMEM;
        q->later = q->first + half;
        for (uint64_t k = 0; k < r->n; k++)
            if (share(r, r->all + k * r->slot, count) == i)
                memcpy(q->first + at++ * r->slot, r->all + k * r->slot, r->len);
        stride = stride_of(q->n);
        for (uint64_t k = 0; k < q->n; k++)
            memcpy(q->later + k * r->slot, q->first + k * stride % q->n * r->slot, r->len);
        q->device = r;
        q->is_first_pass = true;
    }
    r->shared_by = count;
    return 0;
}

void
packets_free(struct replay *r)
{
    if (!r->all)
        return;
    for (uint16_t i = 0; i < QUEUES_MAX; i++)
        clear(&r->queues[i]);
    munmap(r->all, r->map_len);
    r->all = NULL;
    r->n = 0;
}
