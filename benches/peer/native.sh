#!/bin/sh
# Builds the peer from the source of Debian's package for this very processor, with all its AVX512.
#
#   native.sh OUTDIR     makes OUTDIR/ovs/vswitchd/ovs-vswitchd, linked with the DPDK that is installed
#
# It is the harder peer: `cargo xtask bench pipeline -- --peer native=OUTDIR/ovs/vswitchd/ovs-vswitchd`.
# The list of source packages is read into OUTDIR (`sources.sh`). Takes some minutes.
# For sources that are here already: OVS_SRC names their folder; they are copied.
# Needs: autoconf, automake, libtool, gcc, make, pkg-config, libdpdk-dev, and what `sources.sh` needs.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/sources.sh"
mkdir -p "${1:?usage: native.sh OUTDIR}"
out=$(cd "$1" && pwd)

fetch() {
    sources openvswitch "$(dpkg-query -W -f '${source:Version}' openvswitch-switch-dpdk)" "$out"
    mkdir -p "$out/ovs"
    tar xf "$out"/openvswitch_*.orig.tar.* -C "$out/ovs" --strip-components=1
}

if [ ! -d "$out/ovs" ] && [ -n "${OVS_SRC:-}" ]; then
    cp -a "$OVS_SRC" "$out/ovs"
fi
[ -d "$out/ovs" ] || fetch
cd "$out/ovs"
[ -x configure ] || ./boot.sh
[ -f Makefile ] || ./configure --quiet --with-dpdk=shared --disable-libcapng \
    CFLAGS='-O3 -march=native'
make -s -j"${JOBS:-$(nproc)}"
echo "$out/ovs/vswitchd/ovs-vswitchd"
