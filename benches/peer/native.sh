#!/bin/sh
# Builds the peer from the source of Debian's package for this very processor, with all its AVX512.
#
#   native.sh OUTDIR     makes OUTDIR/ovs/vswitchd/ovs-vswitchd, linked with the DPDK that is installed
#
# It is the harder peer: `cargo xtask bench pipeline -- --peer native=OUTDIR/ovs/vswitchd/ovs-vswitchd`.
# The list of source packages is read into OUTDIR, so that the machine's own package lists stay as
# they are. Takes some minutes.
# For sources that are here already: OVS_SRC names their folder; they are copied.
# Needs: autoconf, automake, libtool, gcc, make, pkg-config, libdpdk-dev, and dpkg-dev and xz-utils to unpack the sources.
set -eu
mkdir -p "${1:?usage: native.sh OUTDIR}"
out=$(cd "$1" && pwd)

fetch() {
    mkdir -p "$out/lists/partial"
    version=$(dpkg-query -W -f '${source:Version}' openvswitch-switch-dpdk)
    sources=$out/sources
    if ls /etc/apt/sources.list.d/*.sources >/dev/null 2>&1; then
        sources=$sources.sources
        for list in /etc/apt/sources.list.d/*.sources; do
            sed 's/^Types:.*/Types: deb-src/' "$list"
            echo
        done >"$sources"
    else
        sources=$sources.list
        sed -n 's/^deb /deb-src /p' /etc/apt/sources.list >"$sources"
    fi
    (
        cd "$out"
        set -- -qq -o "Dir::Etc::sourcelist=$sources" -o Dir::Etc::sourceparts=/dev/null \
            -o "Dir::State::lists=$out/lists" -o Dir::Cache::srcpkgcache= \
            -o Dir::Cache::pkgcache= -o APT::Sandbox::User=root
        apt-get "$@" update
        apt-get "$@" source --download-only "openvswitch=$version"
        mkdir -p ovs
        tar xf openvswitch_*.orig.tar.* -C ovs --strip-components=1
    )
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
