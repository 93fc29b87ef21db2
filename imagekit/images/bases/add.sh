#!/bin/sh
# usage: add.sh [PACKAGE]...
#
# Runs inside an image: installs packages from the archives that the image names, then the .deb files
# beside this script, and gives in ./out what that changed:
#
#   changed/    files, links and folders that are new or altered, with the folders above them
#   removed     absolute paths that are gone, or now of another type, each ended by a zero byte
#   installed   dpkg's packages: name, version, architecture
#   available   what apt knows of the archives' packages
#
# What apt fetches stands in here too, so that nothing of it is left in the image.
set -eu
umask 022
# The image's own environment is for its programs: libraries of a toolchain are not for apt.
unset LD_LIBRARY_PATH LD_PRELOAD
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
work=/tmp/imagekit

if [ ! -x /usr/bin/apt-get ]; then
    echo "E: the image has no apt-get, so no packages can be installed in it" >&2
    exit 1
fi

# Everything below /, a record per path: time of the last change, size, mode, owner, type, path.
# With the time of the last change nothing that was written to is missed.
list() {
    target=$1
    shift
    while IFS= read -r pattern; do
        set -- "$@" ! -path ".$pattern"
    done < "$work/skip"
    (cd / && find . -xdev -mindepth 1 "$@" -printf '%C@ %s %m %U %G %y %p\0') > "$target.found"
    sort -z "$target.found" > "$target"
    rm "$target.found"
}

# The types and paths of such a list.
kinds() {
    cut -z -d ' ' -f 6- "$1" > "$1.kinds"
    sort -z "$1.kinds"
}

mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/out/changed"
list "$work/before"

cat > "$work/apt.conf" << END
Dir::State::Lists "$work/lists";
Dir::Cache::Archives "$work/archives";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Acquire::Languages "none";
END
if [ -e "$work/ca.pem" ]; then
    # apt trusts one file of certificates
    system=/etc/ssl/certs/ca-certificates.crt
    if [ -e "$system" ]; then
        cat "$system" "$work/ca.pem" > "$work/all.pem"
    else
        cp "$work/ca.pem" "$work/all.pem"
    fi
    echo "Acquire::https::CAInfo \"$work/all.pem\";" >> "$work/apt.conf"
fi
export APT_CONFIG="$work/apt.conf"

apt-get update
apt-cache dumpavail > "$work/all"
grep -E '^(Package|Version|Architecture|SHA256): ' "$work/all" > "$work/out/available"
rm "$work/all"
debs=''
for deb in "$work"/*.deb; do
    if [ -e "$deb" ]; then
        debs="$debs $deb"
    fi
done
# shellcheck disable=SC2086 # the .deb files have numbers for names
apt-get --yes --no-install-recommends --download-only install "$@" $debs

IMAGEKIT_APT="$APT_CONFIG" /bin/sh "$work/install.sh" "$@"
mv "$work/installed" "$work/out/installed"

list "$work/after"
kinds "$work/before" > "$work/old"
kinds "$work/after" > "$work/new"
comm -z -23 "$work/old" "$work/new" > "$work/gone"
sed -z -e 's,^. \.,,' "$work/gone" > "$work/out/removed"
comm -z -13 "$work/before" "$work/after" > "$work/altered"
cut -z -d ' ' -f 7- "$work/altered" > "$work/changed"
cp "$work/changed" "$work/part"
while [ -s "$work/part" ]; do
    sed -z -e 's,/[^/]*$,,' -e '/^\.$/d' "$work/part" > "$work/above"
    sort -z -u "$work/above" > "$work/part"
    cat "$work/part" >> "$work/changed"
done
sort -z -u "$work/changed" > "$work/wanted"
tar --create --file "$work/changed.tar" --directory / --xattrs '--xattrs-include=security.capability' \
    --no-recursion --null --files-from "$work/wanted"
tar --extract --file "$work/changed.tar" --directory "$work/out/changed" \
    --xattrs '--xattrs-include=security.capability' --same-owner --preserve-permissions
chown --reference=/ "$work/out/changed"
chmod --reference=/ "$work/out/changed"
