#!/bin/sh
# usage: fetch.sh ROOT [PACKAGE | DEB]...
#
# A hook of mmdebstrap, outside of the new root: writes down what the archives have and downloads the
# packages, with all they depend on, into the root's apt cache. So install.sh needs no network, no
# proxy and no certificates.
set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
root=$1
shift
mkdir -p "$root/tmp/imagekit"
apt-cache dumpavail > "$root/tmp/imagekit/all"
grep -E '^(Package|Version|Architecture|SHA256): ' "$root/tmp/imagekit/all" > "$root/tmp/imagekit/available"
rm "$root/tmp/imagekit/all"
if [ "$#" -gt 0 ]; then
    apt-get --yes --no-install-recommends --download-only install "$@"
fi
