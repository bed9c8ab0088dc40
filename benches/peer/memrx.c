/* net_memrx: a DPDK device that replays packets from memory, at the cost of a copy.
 *
 * The peer of `cargo xtask bench pipeline` and `bench conntrack` gets its packets by this, as
 * `sluice replay --bench` gets ours: a fresh buffer from the pool, the packet copied into it, in
 * bursts of the caller's size.
 * DPDK's own net_pcap with infinite_rx keeps one buffer per packet, so the pool bounds the number
 * of flows, and pays for two rings a packet: the peer would be slower by what is not its fault.
 *
 * The first pass is in file order, so that a consumer makes its entries in that order; later passes
 * are in stride order: the i-th packet is number i * S mod n, S the least number from 0.618 n on
 * that has no divisor in common with n. `control/src/replay/load.rs` does the same. Both orders lie
 * in memory in the order in which they are read: what differs is the order of flows, not the
 * locality of the packets' own bytes.
 *
 * With several receive queues each has the packets of its own flows, by a hash that is the same in
 * both directions of a flow, and an order of its own, as a device with a symmetric RSS key would
 * deal them. With fresh=1 each pass has another source port: the pass's number is added to it in
 * ones' complement and the checksum follows (RFC 1624); `control/src/replay/fresh.rs` does the same.
 *
 * Arguments: file=PATH   a pcap file, little-endian, Ethernet, every packet of one length
 *            loop=0|1    1 (default): without end; 0: one pass, then nothing comes
 *            fresh=0|1   1: every pass is of new connections (UDP or TCP over IPv4); default 0
 *            burst=N     at most N packets a call (default: what the caller wants): a port that has
 *                        fewer of them than the others
 *            delay=MS    nothing comes until then (default 300): the switch polls a new device
 *                        before its OpenFlow side knows the port
 *
 * Theory of the calls: DPDK Programmer's Guide, "Poll Mode Driver". Headers `*_driver.h` are DPDK's
 * own and come with its sources only; see build.sh.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <bus_vdev_driver.h>
#include <ethdev_driver.h>
#include <ethdev_vdev.h>
#include <rte_byteorder.h>
#include <rte_cycles.h>
#include <rte_ethdev.h>
#include <rte_kvargs.h>
#include <rte_mbuf.h>

#include "packets.h"

/* Between the beginnings of two queues. */
#define STAGGER_MS 20

/* The sum in ones' complement. */
static uint16_t
add(uint16_t a, uint16_t b)
{
    uint32_t sum = (uint32_t)a + b;

    return (uint16_t)((sum & 0xffff) + (sum >> 16));
}

static void
freshen(const struct replay *r, uint8_t *packet, uint16_t by)
{
    uint16_t word;

    memcpy(&word, packet + r->udp_or_tcp, sizeof word);
    word = rte_cpu_to_be_16(add(rte_be_to_cpu_16(word), by));
    memcpy(packet + r->udp_or_tcp, &word, sizeof word);
    memcpy(&word, packet + r->sum, sizeof word);
    word = (uint16_t)~add((uint16_t)~rte_be_to_cpu_16(word), by);
    word = word ? rte_cpu_to_be_16(word) : 0xffff;
    memcpy(packet + r->sum, &word, sizeof word);
}

static uint16_t
receive(void *queue, struct rte_mbuf **bufs, uint16_t wanted)
{
    struct queue *q = queue;
    const struct replay *r = q->device;
    const uint8_t *base = q->is_first_pass ? q->first : q->later;
    uint64_t left = q->n - q->at;
    uint16_t most = wanted < r->burst ? wanted : r->burst;
    uint16_t count = most < left ? most : (uint16_t)left;

    if (unlikely(!q->has_begun)) {
        if (rte_rdtsc() < q->start_tsc)
            return 0;
        q->has_begun = true;
    }
    if (count == 0)
        return 0;
    if (unlikely(rte_pktmbuf_alloc_bulk(q->pool, bufs, count) != 0)) {
        q->no_buffers += count;
        return 0;
    }
    for (uint16_t i = 0; i < count; i++) {
        struct rte_mbuf *buf = bufs[i];
        const uint8_t *from = base + (q->at + i) * r->slot;

        /* A copy of known length is a few vector moves. */
        if (r->slot == CACHE_LINE)
            memcpy(rte_pktmbuf_mtod(buf, void *), from, CACHE_LINE);
        else
            memcpy(rte_pktmbuf_mtod(buf, void *), from, r->len);
        if (r->fresh)
            freshen(r, rte_pktmbuf_mtod(buf, uint8_t *), q->step);
        buf->data_len = (uint16_t)r->len;
        buf->pkt_len = r->len;
        buf->port = r->port;
    }
    q->at += count;
    q->packets += count;
    if (q->at == q->n && r->loop) {
        q->at = 0;
        q->is_first_pass = false;
        q->step = add(q->step, 1);
    }
    return count;
}

static uint16_t
discard(void *queue, struct rte_mbuf **bufs, uint16_t count)
{
    struct queue *q = queue;

    q->sent += count;
    rte_pktmbuf_free_bulk(bufs, count);
    return count;
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
    uint64_t ms = rte_get_tsc_hz() / 1000;
    uint64_t begin = rte_rdtsc() + r->delay_ms * ms;

    if (r->shared_by != dev->data->nb_rx_queues)
        return -EINVAL;
    /* One queue after the other: of two threads whose first packets miss at once, the switch lets
     * only one into its slow path and drops the batch of the other. */
    for (uint16_t i = 0; i < QUEUES_MAX; i++)
        r->queues[i].start_tsc = begin + i * STAGGER_MS * ms;
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

    if (r)
        packets_free(r);
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

    r->port = dev->data->port_id;
    if (r->shared_by != dev->data->nb_rx_queues && packets_deal(r, dev->data->nb_rx_queues) != 0)
        return -ENOMEM;
    r->queues[queue].pool = pool;
    dev->data->rx_queues[queue] = &r->queues[queue];
    return 0;
}

static int
tx_queue(struct rte_eth_dev *dev, uint16_t queue, uint16_t entries __rte_unused,
         unsigned int socket __rte_unused, const struct rte_eth_txconf *conf __rte_unused)
{
    struct replay *r = dev->data->dev_private;

    dev->data->tx_queues[queue] = &r->outs[queue];
    return 0;
}

static int
info(struct rte_eth_dev *dev __rte_unused, struct rte_eth_dev_info *info)
{
    info->max_mac_addrs = 1;
    info->max_rx_pktlen = 9728;
    info->max_mtu = 9700;
    info->max_rx_queues = QUEUES_MAX;
    info->max_tx_queues = QUEUES_MAX;
    return 0;
}

static int
stats(struct rte_eth_dev *dev, struct rte_eth_stats *stats)
{
    const struct replay *r = dev->data->dev_private;

    for (uint16_t i = 0; i < QUEUES_MAX; i++) {
        stats->ipackets += r->queues[i].packets;
        stats->rx_nombuf += r->queues[i].no_buffers;
        stats->opackets += r->outs[i].sent;
    }
    stats->ibytes = stats->ipackets * r->len;
    return 0;
}

static int
reset_stats(struct rte_eth_dev *dev)
{
    struct replay *r = dev->data->dev_private;

    for (uint16_t i = 0; i < QUEUES_MAX; i++)
        r->queues[i].packets = r->queues[i].no_buffers = r->outs[i].sent = 0;
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

struct numbers {
    uint64_t loop, fresh, burst, delay_ms;
};

static int
parse(const char *text, char **file, struct numbers *numbers)
{
    static const char *const keys[] = { "file", "loop", "fresh", "burst", "delay", NULL };
    struct rte_kvargs *args = rte_kvargs_parse(text, keys);
    int error = -EINVAL;

    if (args) {
        error = rte_kvargs_process(args, "file", take_text, file);
        error = error ? error : rte_kvargs_process(args, "loop", take_number, &numbers->loop);
        error = error ? error : rte_kvargs_process(args, "fresh", take_number, &numbers->fresh);
        error = error ? error : rte_kvargs_process(args, "burst", take_number, &numbers->burst);
        error = error ? error : rte_kvargs_process(args, "delay", take_number, &numbers->delay_ms);
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
    struct numbers numbers = { .loop = 1, .burst = UINT16_MAX, .delay_ms = 300 };
    struct rte_eth_dev *dev;
    struct replay *r;
    int error = parse(rte_vdev_device_args(vdev), &file, &numbers);

    if (error == 0 && (numbers.burst == 0 || numbers.burst > UINT16_MAX)) {
        fprintf(stderr, "memrx: burst=N: from 1 to 65535\n");
        error = -EINVAL;
    }
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
    r->loop = numbers.loop != 0;
    r->fresh = numbers.fresh != 0;
    r->burst = (uint16_t)numbers.burst;
    r->delay_ms = numbers.delay_ms;
    error = packets_load(r, file);
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
RTE_PMD_REGISTER_PARAM_STRING(net_memrx,
                              "file=<path> loop=<int> fresh=<int> burst=<int> delay=<int>");
