# Sources of Debian's packages, read by `. "$here/sources.sh"`.
# Needs: apt-get, and dpkg-dev and xz-utils to unpack the sources.

# sources PACKAGE VERSION DIR    leaves the upstream archive of a source package in DIR
#
# The list of source packages is read into DIR, so that the machine's own package lists stay as they
# are: a list of this host's own mirrors, with `deb-src` for `deb`.
sources() {
    mkdir -p "$3/lists/partial"
    if ls /etc/apt/sources.list.d/*.sources >/dev/null 2>&1; then
        list=$3/sources.sources
        for mirrors in /etc/apt/sources.list.d/*.sources; do
            sed 's/^Types:.*/Types: deb-src/' "$mirrors"
            echo
        done >"$list"
    else
        list=$3/sources.list
        sed -n 's/^deb /deb-src /p' /etc/apt/sources.list >"$list"
    fi
    (
        cd "$3"
        package=$1=$2
        set -- -qq -o "Dir::Etc::sourcelist=$list" -o Dir::Etc::sourceparts=/dev/null \
            -o "Dir::State::lists=$3/lists" -o Dir::Cache::srcpkgcache= \
            -o Dir::Cache::pkgcache= -o APT::Sandbox::User=root
        apt-get "$@" update
        apt-get "$@" source --download-only "$package"
    )
}
