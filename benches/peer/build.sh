#!/bin/sh
# Builds the replay device of the peer against the DPDK that is installed.
#
#   build.sh OUTDIR      makes OUTDIR/librte_net_memrx.so; DPDK's sources stay in OUTDIR/dpdk
#
# DPDK's headers for drivers are not in Debian's libdpdk-dev. They come from the source package of
# the very same version (`apt-get source`, some 16 MB, once; `sources.sh`).
# For another DPDK: PKG_CONFIG_PATH names the folder of its libdpdk.pc, DPDK_SRC that of its sources.
# Needs: gcc, pkg-config, libdpdk-dev, and what `sources.sh` needs.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/sources.sh"
mkdir -p "${1:?usage: build.sh OUTDIR}"
out=$(cd "$1" && pwd)

# Prints a file of DPDK's sources below $1, if they are there.
header() {
    find "$1" -path '*/lib/ethdev/ethdev_driver.h' -print -quit 2>/dev/null
}

fetch() {
    sources dpdk "$(dpkg-query -W -f '${Version}' libdpdk-dev)" "$out/dpdk"
    (cd "$out/dpdk" && tar xf dpdk_*.orig.tar.*)
}

if [ -z "${DPDK_SRC:-}" ]; then
    [ -n "$(header "$out/dpdk")" ] || fetch
    DPDK_SRC=$(dirname "$(dirname "$(dirname "$(header "$out/dpdk")")")")
fi
# shellcheck disable=SC2046  # pkg-config prints words
gcc -O3 -march=native -fPIC -shared -Wall -Wextra \
    -DALLOW_EXPERIMENTAL_API -DALLOW_INTERNAL_API \
    $(pkg-config --cflags libdpdk) -isystem "$DPDK_SRC/lib/ethdev" \
    -isystem "$DPDK_SRC/lib/eal/include" -isystem "$DPDK_SRC/drivers/bus/vdev" \
    -o "$out/librte_net_memrx.so.new" "$here/memrx.c" "$here/packets.c" $(pkg-config --libs-only-L libdpdk) \
    -lrte_ethdev -lrte_eal -lrte_mempool -lrte_mbuf -lrte_kvargs -lrte_bus_vdev -lm
mv "$out/librte_net_memrx.so.new" "$out/librte_net_memrx.so"
echo "$out/librte_net_memrx.so"
