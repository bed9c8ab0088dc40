/* net_memrx: a DPDK device that replays packets from memory, at the cost of a copy.
 *
 * The peer of `cargo xtask bench pipeline` gets its packets by this, as `sluice replay --bench` gets
 * ours: a fresh buffer from the pool, the packet copied into it, in bursts of the caller's size.
 * DPDK's own net_pcap with infinite_rx keeps one buffer per packet, so the pool bounds the number
 * of flows, and pays for two rings a packet: the peer would be slower by what is not its fault.
 *
 * The first pass is in file order, so that a consumer makes its entries in that order; later passes
 * are in stride order: the i-th packet is number i * S mod n, S the least number from 0.618 n on
 * that has no divisor in common with n. `control/src/replay/load.rs` does the same. Both orders lie
 * in memory in the order in which they are read: what differs is the order of flows, not the
 * locality of the packets' own bytes.
 *
 * Arguments: file=PATH   a pcap file, little-endian, Ethernet, every packet of one length
 *            loop=0|1    1 (default): without end; 0: one pass, then nothing comes
 *            delay=MS    nothing comes until then (default 300): the switch polls a new device
 *                        before its OpenFlow side knows the port
 *
 * Theory of the calls: DPDK Programmer's Guide, "Poll Mode Driver". Headers `*_driver.h` are DPDK's
 * own and come with its sources only; see build.sh.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <bus_vdev_driver.h>
#include <ethdev_driver.h>
#include <ethdev_vdev.h>
#include <rte_cycles.h>
#include <rte_ethdev.h>
#include <rte_kvargs.h>
#include <rte_mbuf.h>

#define CACHE_LINE 64u
#define HUGE_PAGE (2u << 20)
#define PCAP_US 0xa1b2c3d4u
#define PCAP_NS 0xa1b23c4du
#define PCAP_HEADER 24u
#define PCAP_RECORD 16u
/* Longer packets are nobody's benchmark; the pool's buffers hold 2 KiB. */
#define PACKET_MAX 1518u

struct replay {
    /* Read per burst. */
    uint8_t *first, *later;     /* n slots each, in file order and in stride order */
    uint64_t n, at;
    uint32_t slot, len;         /* bytes of a slot and of a packet */
    uint16_t port;
    bool loop, is_first_pass, has_begun;
    struct rte_mempool *pool;
    uint64_t packets, no_buffers;
    /* The rest. */
    uint64_t delay_ms, start_tsc;
    size_t map_len;
    struct rte_ether_addr mac;
};

static uint16_t
receive(void *queue, struct rte_mbuf **bufs, uint16_t wanted)
{
    struct replay *r = queue;
    const uint8_t *base = r->is_first_pass ? r->first : r->later;
    uint64_t left = r->n - r->at;
    uint16_t count = wanted < left ? wanted : (uint16_t)left;

    if (unlikely(!r->has_begun)) {
        if (rte_rdtsc() < r->start_tsc)
            return 0;
        r->has_begun = true;
    }
    if (count == 0)
        return 0;
    if (unlikely(rte_pktmbuf_alloc_bulk(r->pool, bufs, count) != 0)) {
        r->no_buffers += count;
        return 0;
    }
    for (uint16_t i = 0; i < count; i++) {
        struct rte_mbuf *buf = bufs[i];
        const uint8_t *from = base + (r->at + i) * r->slot;

        /* A copy of known length is a few vector moves. */
        if (r->slot == CACHE_LINE)
            memcpy(rte_pktmbuf_mtod(buf, void *), from, CACHE_LINE);
        else
            memcpy(rte_pktmbuf_mtod(buf, void *), from, r->len);
        buf->data_len = (uint16_t)r->len;
        buf->pkt_len = r->len;
        buf->port = r->port;
    }
    r->at += count;
    r->packets += count;
    if (r->at == r->n && r->loop) {
        r->at = 0;
        r->is_first_pass = false;
    }
    return count;
}

static uint16_t
discard(void *queue __rte_unused, struct rte_mbuf **bufs, uint16_t count)
{
    rte_pktmbuf_free_bulk(bufs, count);
    return count;
}

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

static int
load(struct replay *r, const char *path)
{
    size_t file_len = 0, half;
    uint8_t *file = slurp(path, &file_len);
    uint64_t stride;

    if (!file)
        return -ENOENT;
    if (measure(r, file, file_len) != 0) {
        fprintf(stderr, "memrx: %s: no little-endian pcap of packets of one length\n", path);
        free(file);
        return -EINVAL;
    }
    r->slot = RTE_ALIGN_CEIL(r->len, CACHE_LINE);
    half = RTE_ALIGN_CEIL(r->n * r->slot, (size_t)HUGE_PAGE);
    r->map_len = 2 * half;
    r->first = mmap(NULL, r->map_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (r->first == MAP_FAILED) {
        r->first = NULL;
        free(file);
        return -ENOMEM;
    }
    /* Best effort: without huge pages it is only slower. */
    (void)madvise(r->first, r->map_len, MADV_HUGEPAGE);
    r->later = r->first + half;
    stride = stride_of(r->n);
    for (uint64_t i = 0; i < r->n; i++)
        memcpy(r->first + i * r->slot,
               file + PCAP_HEADER + i * (PCAP_RECORD + r->len) + PCAP_RECORD, r->len);
    for (uint64_t i = 0; i < r->n; i++)
        memcpy(r->later + i * r->slot, r->first + i * stride % r->n * r->slot, r->len);
    free(file);
    r->is_first_pass = true;
    return 0;
}

static int
configure(struct rte_eth_dev *dev __rte_unused)
{
    return 0;
}

static int
start(struct rte_eth_dev *dev)
{
    struct replay *r = dev->data->dev_private;

    r->start_tsc = rte_rdtsc() + r->delay_ms * (rte_get_tsc_hz() / 1000);
    dev->data->dev_link.link_status = RTE_ETH_LINK_UP;
    return 0;
}

static int
stop(struct rte_eth_dev *dev)
{
    dev->data->dev_link.link_status = RTE_ETH_LINK_DOWN;
    return 0;
}

static int
close_device(struct rte_eth_dev *dev)
{
    struct replay *r = dev->data->dev_private;

    if (r && r->first) {
        munmap(r->first, r->map_len);
        r->first = r->later = NULL;
        r->n = r->at = 0;
    }
    /* It lies inside dev_private: DPDK must not free it. */
    dev->data->mac_addrs = NULL;
    return 0;
}

static int
rx_queue(struct rte_eth_dev *dev, uint16_t queue, uint16_t entries __rte_unused,
         unsigned int socket __rte_unused, const struct rte_eth_rxconf *conf __rte_unused,
         struct rte_mempool *pool)
{
    struct replay *r = dev->data->dev_private;

    r->pool = pool;
    r->port = dev->data->port_id;
    dev->data->rx_queues[queue] = r;
    return 0;
}

static int
tx_queue(struct rte_eth_dev *dev, uint16_t queue, uint16_t entries __rte_unused,
         unsigned int socket __rte_unused, const struct rte_eth_txconf *conf __rte_unused)
{
    dev->data->tx_queues[queue] = dev->data->dev_private;
    return 0;
}

static int
info(struct rte_eth_dev *dev __rte_unused, struct rte_eth_dev_info *info)
{
    info->max_mac_addrs = 1;
    info->max_rx_pktlen = 9728;
    info->max_mtu = 9700;
    info->max_rx_queues = 1;
    info->max_tx_queues = 4;
    return 0;
}

static int
stats(struct rte_eth_dev *dev, struct rte_eth_stats *stats)
{
    const struct replay *r = dev->data->dev_private;

    stats->ipackets = r->packets;
    stats->ibytes = r->packets * r->len;
    stats->rx_nombuf = r->no_buffers;
    return 0;
}

static int
reset_stats(struct rte_eth_dev *dev)
{
    struct replay *r = dev->data->dev_private;

    r->packets = r->no_buffers = 0;
    return 0;
}

static int
link_update(struct rte_eth_dev *dev __rte_unused, int wait __rte_unused)
{
    return 0;
}

static int
accept_mtu(struct rte_eth_dev *dev __rte_unused, uint16_t mtu __rte_unused)
{
    return 0;
}

static int
accept_mac(struct rte_eth_dev *dev __rte_unused, struct rte_ether_addr *mac __rte_unused)
{
    return 0;
}

static int
accept_mode(struct rte_eth_dev *dev __rte_unused)
{
    return 0;
}

static const struct eth_dev_ops calls = {
    .dev_configure = configure,
    .dev_start = start,
    .dev_stop = stop,
    .dev_close = close_device,
    .dev_infos_get = info,
    .rx_queue_setup = rx_queue,
    .tx_queue_setup = tx_queue,
    .link_update = link_update,
    .mtu_set = accept_mtu,
    .mac_addr_set = accept_mac,
    .promiscuous_enable = accept_mode,
    .promiscuous_disable = accept_mode,
    .allmulticast_enable = accept_mode,
    .allmulticast_disable = accept_mode,
    .stats_get = stats,
    .stats_reset = reset_stats,
};

static int
take_text(const char *key __rte_unused, const char *value, void *into)
{
    char **text = into;

    free(*text);
    *text = strdup(value);
    return *text ? 0 : -ENOMEM;
}

static int
take_number(const char *key, const char *value, void *into)
{
    char *end = NULL;
    unsigned long number = strtoul(value, &end, 10);

    if (end == value || *end != '\0') {
        fprintf(stderr, "memrx: %s=%s: a number is expected\n", key, value);
        return -EINVAL;
    }
    *(uint64_t *)into = number;
    return 0;
}

static int
parse(const char *text, char **file, uint64_t *loop, uint64_t *delay_ms)
{
    static const char *const keys[] = { "file", "loop", "delay", NULL };
    struct rte_kvargs *args = rte_kvargs_parse(text, keys);
    int error = -EINVAL;

    if (args) {
        error = rte_kvargs_process(args, "file", take_text, file);
        error = error ? error : rte_kvargs_process(args, "loop", take_number, loop);
        error = error ? error : rte_kvargs_process(args, "delay", take_number, delay_ms);
        rte_kvargs_free(args);
    }
    return error;
}

static void
introduce(struct rte_eth_dev *dev, struct replay *r)
{
    static uint8_t count;

    r->mac.addr_bytes[0] = 0x02;
    r->mac.addr_bytes[1] = 0x4d;
    r->mac.addr_bytes[5] = ++count;
    dev->data->nb_rx_queues = 1;
    dev->data->nb_tx_queues = 1;
    dev->data->dev_link = (struct rte_eth_link) {
        .link_speed = RTE_ETH_SPEED_NUM_100G,
        .link_duplex = RTE_ETH_LINK_FULL_DUPLEX,
        .link_status = RTE_ETH_LINK_DOWN,
        .link_autoneg = RTE_ETH_LINK_FIXED,
    };
    dev->data->mac_addrs = &r->mac;
    dev->data->promiscuous = 1;
    dev->data->all_multicast = 1;
    dev->dev_ops = &calls;
    dev->rx_pkt_burst = receive;
    dev->tx_pkt_burst = discard;
}

static int
probe(struct rte_vdev_device *vdev)
{
    char *file = NULL;
    uint64_t loop = 1, delay_ms = 300;
    struct rte_eth_dev *dev;
    struct replay *r;
    int error = parse(rte_vdev_device_args(vdev), &file, &loop, &delay_ms);

    if (error == 0 && !file) {
        fprintf(stderr, "memrx: file=PATH is missing\n");
        error = -EINVAL;
    }
    if (error != 0) {
        free(file);
        return error;
    }
    if (vdev->device.numa_node == SOCKET_ID_ANY)
        vdev->device.numa_node = (int)rte_socket_id();
    dev = rte_eth_vdev_allocate(vdev, sizeof *r);
    if (!dev) {
        free(file);
        return -ENOMEM;
    }
    r = dev->data->dev_private;
    memset(r, 0, sizeof *r);
    r->loop = loop != 0;
    r->delay_ms = delay_ms;
    error = load(r, file);
    free(file);
    if (error != 0) {
        rte_eth_dev_release_port(dev);
        return error;
    }
    introduce(dev, r);
    rte_eth_dev_probing_finish(dev);
    return 0;
}

static int
forget(struct rte_vdev_device *vdev)
{
    struct rte_eth_dev *dev = rte_eth_dev_allocated(rte_vdev_device_name(vdev));

    if (dev) {
        close_device(dev);
        rte_eth_dev_release_port(dev);
    }
    return 0;
}

static struct rte_vdev_driver driver = { .probe = probe, .remove = forget };

RTE_PMD_REGISTER_VDEV(net_memrx, driver);
RTE_PMD_REGISTER_PARAM_STRING(net_memrx, "file=<path> loop=<int> delay=<int>");
